"""A bar on one line of a terminal. Its text fits the width at every moment.

tqdm cuts a line that is too long, so a user of a narrow terminal did not see the counts. This bar
leaves out whole words instead, in a fixed order, and never a part of a number.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TextIO

from tqdm import tqdm

from pipeline.commands.options import OutputOptions
from pipeline.core.wording import lasting

if TYPE_CHECKING:
    _Tqdm = tqdm[Any]
else:
    _Tqdm = tqdm

_WIDTH = 80
_LEAST_BAR = 4
_LONG_S = 1.0


class Word(NamedTuple):
    """Words after the count. Those with the highest `rank` are left out first."""

    text: str
    rank: int


Words = Callable[[str | None], list[Word]]
"""Gives the words. Its argument is the time that is left, None if that is not known."""


class Bar(Protocol):
    """A bar that `ProgressBar` draws."""

    def update(self, n: float | None = 1) -> Any: ...

    def refresh(self) -> Any: ...

    def write(self, s: str, file: TextIO | None = None) -> Any: ...

    def took(self) -> str: ...

    def close(self) -> None: ...


MakeBar = Callable[..., Bar]
"""Makes a bar of the words after the count, `total`, `initial`, and the stream `file`."""


class FittingBar(_Tqdm):
    """A bar of `total` steps: the share, the bar, the count, and the words that fit."""

    def __init__(self, words: Words, **options: Any) -> None:
        self._words = words  # first, because tqdm draws the bar when it is made
        super().__init__(dynamic_ncols=True, smoothing=0.1, **options)

    def __str__(self) -> str:
        facts = dict(self.format_dict)
        width = (facts["ncols"] or _WIDTH) - 1
        done, total = facts["n"], facts["total"]
        # Rounded down: 100% stands for nothing but all.
        begin, count = f"{100 * done // max(total, 1):3}%|", f"| {done}/{total}"
        room = width - len(begin) - len(count) - _LEAST_BAR
        after = count + fitting(self._words(_left(facts)), room)
        line = f"{begin}{{bar}}{after}" if room >= 0 else begin + after[1:]
        facts |= {"ncols": width, "bar_format": line}
        # The terminal shows ^C where the cursor is. At the end of the line that would begin another
        # line, and a bar with old counts would stay on the screen.
        return f"{self.format_meter(**facts):{width}}\r"

    def took(self) -> str:
        """Says how long the bar has been there."""
        return f"took {lasting(self.format_dict['elapsed'])}"


@contextmanager
def rows_shown(said: OutputOptions) -> Iterator[Callable[[int, int], None] | None]:
    """Yields a function that shows the rows written so far, of all rows, as a bar. The bar appears
    after a second and is gone at the end, because the command then says what it wrote. None without
    a terminal, and with `--quiet` and `--json`."""
    if said.quiet or said.as_json or sys.stderr is None or not sys.stderr.isatty():
        yield None
        return
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


def fitting(words: list[Word], room: int) -> str:
    """Returns the words in their order, each after a comma, without those that do not fit."""
    shown = list(words)
    while shown and len(joined(shown)) > room:
        shown.remove(max(shown, key=lambda word: word.rank))
    return joined(shown)


def joined(words: list[Word]) -> str:
    """Returns the words, each after a comma."""
    return "".join(f", {word.text}" for word in words)


def _left(facts: dict[str, Any]) -> str | None:
    """How long the rest takes at the rate of the last steps."""
    rest, rate = facts["total"] - facts["n"], facts["rate"]
    if rate is None and facts["elapsed"]:
        rate = (facts["n"] - facts["initial"]) / facts["elapsed"]
    return f"{lasting(rest / rate)} left" if rate and rest > 0 else None
