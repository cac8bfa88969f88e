"""How fast to send while the window is not known, from what is left of the limit. Pure.

Before the first answer it is a slow start. Then, as long as every request of this run still counts,
the window is longer than the run so far. So the rate is what is left of the limit, divided by that
time. Each doubling of the time uses half of what is left, whatever the window is: the run does not
meet the limit, and the window shows when the first requests no longer count.

That needs answers which are young compared with that time. Until then the slow start continues: a
window that is shorter than the answers take shows by a 429, which comes at once. It also needs a
run that is alone on its key. What others send would take the rest, and the rate would fall to
nothing. So next to others only the shortest possible window limits the slow start. They meet the
limit together, and from then on no window is much shorter than that denial was: the rate is what is
left, divided by a quarter of that time.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from pipeline.policy.sends import COUNTED_OFF

SLOW_START_PER_S = 5.0
SLOW_START_GROWTH = 3.0
SLOW_START_MOST_PER_S = 100.0
_LATE = 2.0  # an answer is young if its request is at most so many times as old as the window
# With nothing left, the run asks again after as long as the requests have counted.
_LEAST_LEFT = 1.0
# Once requests stop counting, the window is hardly longer than they counted. What returns is used.
_RETURNING = 5.0
_SHORTEST_S = 0.5  # half a second for the first burst: jitter of the network is much less
# A run next to others gets four fifths of what they leave by that, until it knows the window.
_SPREAD = 4.0


def slow_start(since_s: float, limit: int | None) -> float:
    """Returns requests per second, `since_s` after the first one."""
    grown = SLOW_START_PER_S * math.pow(SLOW_START_GROWTH, min(since_s, 10.0))
    return min(grown, max(SLOW_START_MOST_PER_S, limit or 0.0))


@dataclass(slots=True)
class Ramp:
    """What the newest answer says about the requests so far.

    `turned_s` is how old the first request was when the answers first showed that not all requests
    count, infinite until then. `others` is whether the limiter ever counted more than this run had
    sent.
    """

    turned_s: float = math.inf
    others: bool = False
    _alone: bool = True
    _all_count: bool = True
    _counted_s: float = 0.0  # how long all requests of the run have counted
    _denied_s: float = 0.0  # how long the last denial took

    def see(self, sent: int, used: int, since_s: float) -> None:
        """Takes in an answer: when its request left, `since_s` after the first one, the run had
        sent `sent` requests, and the limiter counted `used`."""
        self._alone = used <= COUNTED_OFF * sent + 1
        self.others = self.others or not self._alone
        self._all_count = sent <= COUNTED_OFF * (used + 1)
        if not self._all_count:
            self.turned_s = min(self.turned_s, since_s)
        if self._alone and self._all_count:
            self._counted_s = since_s

    def denied(self, lasted_s: float) -> None:
        """A denial is over that lasted for `lasted_s`."""
        self._denied_s = lasted_s

    @property
    def spreads(self) -> bool:
        """Whether the rate is `spread_per_s`: next to others, and after a denial of some time."""
        return self.others and self._denied_s > 0

    def spread_per_s(self, since_s: float, limit: int | None, free: float) -> float:
        """Returns requests per second, `since_s` after the first one, while `free` is left.

        It falls with what is left. So this run and others like it get the same, and hardly meet the
        limit again in the same window.
        """
        spread = _SPREAD * max(free, _LEAST_LEFT) / self._denied_s
        return min(slow_start(since_s, limit), spread)

    def new_limit(self) -> None:
        """Earlier answers say nothing about this one."""
        self._counted_s = 0.0

    def per_s(self, since_s: float, limit: int, free: float, late_s: float) -> float:
        """Returns requests per second, `since_s` after the first one.

        `free` of the `limit` is left, according to an answer whose request left `late_s` ago.
        """
        if late_s > _LATE * self._counted_s:
            return slow_start(since_s, limit)
        counted_s = max(self._counted_s, _SHORTEST_S)
        if not self._alone:
            return min(slow_start(since_s, limit), limit / counted_s)
        spread = max(free, _LEAST_LEFT) / counted_s
        return spread if self._all_count else min(_RETURNING * spread, limit / counted_s)
