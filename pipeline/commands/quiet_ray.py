"""What a library for clusters says on its own account is kept from a user's terminal."""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Iterator

from pipeline.job.spec import JobSpec


@contextlib.contextmanager
def own_words_only(spec: JobSpec | None) -> Iterator[None]:
    """Silences Ray, which prints on stdout what happens to its workers: the engine tells the same
    in words about rows, and stdout is for `--json`.
    """
    if spec is None or spec.engine != "ray":
        yield
        return
    # Not "ray" itself: its level is set when Ray is imported, later than this.
    logging.getLogger("ray._private").setLevel(logging.CRITICAL)
    with contextlib.redirect_stdout(io.StringIO()):
        yield
