"""Shows how far a long export is."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from pipeline.commands.bar_words import Word
from pipeline.commands.console import is_terminal
from pipeline.commands.options import OutputOptions

_LONG_S = 1.0


@contextmanager
def rows_shown(said: OutputOptions) -> Iterator[Callable[[int, int], None] | None]:
    """Yields a function that shows the rows written so far, of all rows, as a bar. The bar appears
    after a second and is gone at the end, because the command then says what it wrote. None without
    a terminal, and with `--quiet` and `--json`."""
    if said.quiet or said.as_json or not is_terminal(sys.stderr):
        yield None
        return
    from pipeline.commands.bar import FittingBar  # tqdm takes 0.05 s, and only a terminal needs it

    bar = FittingBar(
        lambda left: [Word(left, 0)] if left else [], total=0, leave=False, delay=_LONG_S
    )

    def on_rows(rows: int, all_rows: int) -> None:
        bar.total = all_rows
        with contextlib.suppress(OSError, ValueError):
            bar.update(rows - bar.n)

    try:
        yield on_rows
    finally:
        with contextlib.suppress(OSError, ValueError):
            bar.close()
