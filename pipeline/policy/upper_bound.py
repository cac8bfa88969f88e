"""The longest that the limiter's window can be, from answers alone. Pure.

With `used` of the limit used when a request arrived, our (used + 1)-th most recent send no longer
counted. So its age is more than the window where the window slides. Where the window starts again
at a time of the clock, the age is less at first and more at the window's end. So the most of the
ages is a bound, once the answers span enough time to have seen such an end.

Others on the same key only make `used` larger and the age higher: the bound holds with them too.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

# Fewer answers may all have arrived at the start of a window.
_ANSWERS = 5
# Three windows of the bound's length hold at least two whole ones, with an end each.
_SPANS = 3.0
# Steps of a 32nd of the believed window: 1.5 windows of them prove a window of half that length.
_STEPS_PER_WINDOW, _STEPS_KEPT = 32, 64


@dataclass(slots=True)
class UpperBound:
    """Collects answers, and says how long the window is at most as soon as the latest ones do."""

    _steps: deque[tuple[float, float, int]] = field(
        default_factory=lambda: deque(maxlen=_STEPS_KEPT)
    )  # its first send, the highest age and the number of the answers of one step

    def see(self, sent_at: float, age_s: float, believed_s: float) -> float | None:
        """Takes in an answer whose (used + 1)-th send was `age_s` old.

        Returns a bound below half of the window that is `believed_s`, or None.
        """
        if self._steps:
            begun, most_s, answers = self._steps[-1]
            if sent_at < begun + believed_s / _STEPS_PER_WINDOW:
                self._steps[-1] = (begun, max(most_s, age_s), answers + 1)
                return None
        bound_s = self._bound_s(sent_at, believed_s)
        self._steps.append((sent_at, age_s, 1))
        return bound_s

    def start_over(self) -> None:
        self._steps.clear()

    def _bound_s(self, now: float, believed_s: float) -> float | None:
        seen, most_s = 0, 0.0
        for begun, age_s, answers in reversed(self._steps):
            seen, most_s = seen + answers, max(most_s, age_s)
            if 2 * most_s >= believed_s:
                return None
            if seen >= _ANSWERS and now - begun >= _SPANS * most_s:
                return most_s
        return None
