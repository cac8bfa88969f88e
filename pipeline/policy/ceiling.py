"""The highest rate to try while the window is unknown, learned from admitted requests. Pure.

After a denial the ceiling starts a little below the rate that was denied, nears it soon, stays
there for a while and then looks for more, ever faster: the curve of TCP CUBIC, over the number of
sends instead of time, so that the share of denied requests is much the same at any rate.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

# A twentieth of the way to the next denial is lost by starting lower: 0.25 ** 3 is 1.6 %.
_DIP = 0.25
_LOSS, _LOSS_SOON, _LOSS_DENIED = 0.99, 0.95, 0.85
_STEPS_MOST = 4.0
# The first denials come from the requests of the slow start's last second.
_SAME_BURST_S = 1.0
_PLENTY = 10  # such answers are worth a whole step
# A ceiling that is far too low must not wait for hundreds of sends at that rate.
_TRIED_S = 30.0
# Where a denial costs the rest of a window, the next one should be rare: after ten times as long.
_COSTS = 10.0


@dataclass(slots=True)
class Ceiling:
    """Requests per second; infinite until the first denial."""

    lowest: float
    _top: float = math.inf
    _dip: float = _DIP
    _sent: int = 0
    _since: float = -math.inf
    _first: float = -math.inf
    _sent_at: float = -math.inf
    _cost_s: float = 0.0

    @property
    def known(self) -> bool:
        return math.isfinite(self._top)

    def per_s(self, now: float) -> float:
        if not self.known:
            return math.inf
        gone_s, costs_s = now - self._since, _COSTS * self._cost_s
        steps = max(self._sent / self._sends_tried(), gone_s / _TRIED_S) - self._dip
        if steps > 0 and costs_s:  # the way back to the top takes no longer than usual
            tried = max(self._sent / (costs_s * self._top), gone_s / costs_s)
            steps = max(min(steps, tried - self._dip), 0.0)
        return max(self._top * (1 + min(steps, _STEPS_MOST) ** 3), self.lowest)

    def lately(self) -> bool:
        """Whether it was set so lately that another denial says that it is too high."""
        return self.known and self._sent < self._sends_tried() / 4

    def sent(self, now: float, tried: bool) -> None:
        """A request left at `now`. `tried` is whether the ceiling was what held it back.

        If not, neither it nor the time before it says anything about the ceiling.
        """
        if tried:
            self._sent += 1
        else:
            self._since += now - max(self._sent_at, self._since)
        self._sent_at = now

    def plenty(self, sent_at: float) -> None:
        """A request that was sent since then found most of the limit free: look for more at once.

        A burst that the window still holds makes the limiter let through much less than it will.
        """
        if self.known and sent_at > self._since:
            self._sent += int(self._sends_tried() / _PLENTY) + 1

    def costs(self, cost_s: float) -> None:
        """The last denial took `cost_s`."""
        self._cost_s = cost_s

    def lift(self) -> None:
        """Something better is known."""
        self._top = math.inf

    def scale(self, factor: float) -> None:
        self._top *= factor

    def strike(self, now: float) -> None:
        """One denied request."""
        first = self._first
        self.set(self.per_s(now) * self._loss(now), now)
        self._first = first

    def denied_again(self, through: float, now: float) -> None:
        """Several denied requests, hardly after the last ones; `through` got through meanwhile."""
        first, top = self._first, self._loss(now) * self._top
        start = min(through, _LOSS_DENIED * self.per_s(now))
        self.set(top, now, dip=(1 - min(start / top, 1.0)) ** (1 / 3))
        self._first = first

    def _loss(self, now: float) -> float:
        """Less is lost to denials that the burst before the first one still causes."""
        return _LOSS_SOON if self.lately() and now - self._first > _SAME_BURST_S else _LOSS

    def set(self, top: float, now: float, dip: float = _DIP) -> None:
        """From ``top * (1 - dip ** 3)`` soon to near `top`, and beyond it later."""
        self._top = max(top, self.lowest)
        self._dip = max(dip, _DIP)
        self._sent = 0
        self._since = self._first = now

    def _sends_tried(self) -> float:
        """Sends after which the ceiling has grown clearly: one denial for so many.

        600 at 50/s cost 0.4 % of denials; slow keys get fewer, or they would need minutes.
        """
        return min(max(60 * self._top, 20.0), 300.0) + min(6 * self._top, 400.0)
