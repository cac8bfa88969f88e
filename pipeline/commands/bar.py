"""A bar on one line of a terminal. Its text fits the width at every moment.

tqdm cuts a line that is too long, so a user of a narrow terminal did not see the counts. This bar
leaves out whole words instead, in a fixed order, and never a part of a number.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol, TextIO

from tqdm import tqdm

from pipeline.commands.bar_words import Words, fitting
from pipeline.core.wording import lasting

if TYPE_CHECKING:
    _Tqdm = tqdm[Any]
else:
    _Tqdm = tqdm

_WIDTH = 80
_LEAST_BAR = 4


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


def _left(facts: dict[str, Any]) -> str | None:
    """How long the rest takes at the rate of the last steps."""
    rest, rate = facts["total"] - facts["n"], facts["rate"]
    if rate is None and facts["elapsed"]:
        rate = (facts["n"] - facts["initial"]) / facts["elapsed"]
    return f"{lasting(rest / rate)} left" if rate and rest > 0 else None
