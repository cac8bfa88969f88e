"""Keeps the messages of the Ray library out of the user's terminal."""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Iterator

from pipeline.job.spec import JobSpec


@contextlib.contextmanager
def own_words_only(spec: JobSpec | None) -> Iterator[None]:
    """Silences Ray while a run uses it.

    Ray prints on stdout what happens to its workers. The engine reports the same in terms of rows,
    and stdout is for `--json`.
    """
    if spec is None or spec.engine != "ray":
        yield
        return
    # Not "ray" itself: Ray sets the level of that logger when it is imported, which is later.
    logging.getLogger("ray._private").setLevel(logging.CRITICAL)
    with contextlib.redirect_stdout(io.StringIO()):
        yield
