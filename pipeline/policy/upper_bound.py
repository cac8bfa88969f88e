"""The longest that the limiter's window can be, from answers alone. Pure.

With `used` of the limit used when a request arrived, our (used + 1)-th most recent send no longer
counted. So its age is more than the window where the window slides. Where the window starts again
at a time of the clock, the age is less at first and more at the window's end. So the most of the
ages is a bound, once the answers span enough time to have seen such an end.

Others on the same key only make `used` larger and the age higher: the bound holds with them too.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

# Fewer answers may all have arrived at the start of a window.
_ANSWERS = 8
# Three windows of the bound's length hold at least two whole ones, with an end each.
_SPANS = 3.0


@dataclass(slots=True)
class UpperBound:
    """Collects answers until they say how long the window is at most, then starts again."""

    _answers: int = 0
    _most_s: float = 0.0
    _first: float = math.inf
    _last: float = -math.inf

    def see(self, sent_at: float, age_s: float) -> float | None:
        """Takes in an answer whose (used + 1)-th send was `age_s` old. Returns a bound, or None."""
        self._answers += 1
        self._most_s = max(self._most_s, age_s)
        self._first, self._last = min(self._first, sent_at), max(self._last, sent_at)
        if self._answers < _ANSWERS or self._last - self._first < _SPANS * self._most_s:
            return None
        bound_s = self._most_s
        self.start_over()
        return bound_s

    def start_over(self) -> None:
        self._answers, self._most_s = 0, 0.0
        self._first, self._last = math.inf, -math.inf
