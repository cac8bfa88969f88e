"""The longest that the limiter's window can be, from answers alone. Pure.

With `used` of the limit used when a request arrived, our (used + 1)-th most recent send no longer
counted. So its age is more than the window where the window slides. Where the window starts again
at a time of the clock, the age is less at first and more at the window's end. So the most of the
ages is a bound, once the answers span enough time to have seen such an end.

Others on the same key only make `used` larger and the age higher: the bound holds with them too.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field

# Fewer answers may all have arrived at the start of a window.
_ANSWERS = 5
# Three windows of the bound's length hold at least two whole ones, with an end each. A time as long
# as the believed window holds an end too, and a tenth covers jitter.
_SPANS, _BELIEVED_SPANS = 3.0, 1.1
# Jitter explains a bound that is a quarter shorter, and two requests that are counted late.
_SHORTER, _REQUESTS_OFF = 1.25, 2.0
# Steps of a 32nd of the believed window: more than the 1.1 windows that the proof takes are kept.
_STEPS_PER_WINDOW, _STEPS_KEPT = 32, 64
# One look for each step is enough, unless the answers come more seldom than that.
_SELDOM_S = 1.0
# A shorter window that was wrong meets a 429 within this time. The next try then waits as long,
# and twice as long each time: a bucket that fills continuously looks nearly full for ever.
_SHORTEN_TRIED_S = 30.0


@dataclass(slots=True)
class UpperBound:
    """Collects answers, and says how long the window is at most as soon as the latest ones do."""

    _steps: deque[tuple[float, float, int]] = field(
        default_factory=lambda: deque(maxlen=_STEPS_KEPT)
    )  # its first send, the highest age and the number of the answers of one step
    _tried_at: float = -math.inf
    _next_from: float = -math.inf
    _wait_s: float = _SHORTEN_TRIED_S

    def see(self, sent_at: float, age_s: float, believed_s: float, limit: int) -> float | None:
        """Takes in an answer whose (used + 1)-th send was `age_s` old.

        Returns a bound that is shorter than the window that is `believed_s`, by more than jitter
        explains with this `limit`, or None.
        """
        highest_s = believed_s / (_SHORTER + _REQUESTS_OFF / limit)
        bound_s = self._bound_s(sent_at, age_s, highest_s, _BELIEVED_SPANS * believed_s)
        if not self._steps or sent_at >= self._steps[-1][0] + believed_s / _STEPS_PER_WINDOW:
            self._steps.append((sent_at, age_s, 1))
            return bound_s
        begun, most_s, answers = self._steps[-1]
        self._steps[-1] = (begun, max(most_s, age_s), answers + 1)
        return bound_s if sent_at - begun >= answers * _SELDOM_S else None

    def tries(self, now: float) -> bool:
        """Whether a bound may be tried at `now`. If so, that is a try."""
        if now < self._next_from:
            return False
        self._tried_at = now
        return True

    def denied(self, now: float) -> None:
        """A request was denied. Soon after a try, the next one waits longer."""
        if now - self._tried_at <= _SHORTEN_TRIED_S:
            self._next_from = now + self._wait_s
            self._wait_s *= 2
            self._tried_at = -math.inf

    def start_over(self) -> None:
        self._steps.clear()

    def _bound_s(
        self, now: float, most_s: float, highest_s: float, enough_s: float
    ) -> float | None:
        """The newest answer's age `most_s` counts too: after a pause the steps before it lie
        close together, and no answer saw what came in between."""
        seen = 0
        for begun, age_s, answers in reversed(self._steps):
            seen, most_s = seen + answers, max(most_s, age_s)
            if most_s >= highest_s:
                return None
            if seen >= _ANSWERS and now - begun >= min(_SPANS * most_s, enough_s):
                return most_s
        return None
