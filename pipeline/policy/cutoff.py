"""The time of day after which nothing is sent (`--until`). The clocks' readings are passed in.

A request that leaves at the last moment is answered minutes later, and a night that should be over
by six is over when its last answer is there. So sending ends earlier, by as long as answers take.
"""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections import deque

from pipeline.core.model import StopCode, Stopped
from pipeline.core.wording import lasting

SEEN = 200
"""Answers that the time of the next one is taken from: enough for a quantile, few enough to follow
an API that becomes slower within the night."""
SHARE = 0.95


class Cutoff:
    """When the sending ends. `at` is in seconds since 1970.

    `deadline_s` is the most that one answer can take, and what is counted with while none is known.
    """

    def __init__(self, at: float, *, wall: float, monotonic: float, deadline_s: float) -> None:
        self.at = at
        # Where it is on the clock that nobody sets. The earlier of both holds: a wall clock that is
        # set back must not make the night longer, and the other one stands still in a suspended
        # machine.
        self._ends_at = monotonic + (at - wall)
        self._deadline_s = deadline_s
        self._answered_in: deque[float] = deque()
        self._ordered: list[float] = []

    def answered(self, latency_s: float) -> None:
        """A request that was worked on took this long. Refusals are quick and say nothing."""
        self._answered_in.append(latency_s)
        insort(self._ordered, latency_s)
        if len(self._ordered) > SEEN:
            del self._ordered[bisect_left(self._ordered, self._answered_in.popleft())]

    @property
    def known(self) -> bool:
        """Whether an answer was seen at all."""
        return bool(self._ordered)

    @property
    def answer_s(self) -> float:
        """How long the next answer takes, in 19 of 20 cases."""
        if not self._ordered:
            return self._deadline_s
        nth = math.ceil(SHARE * len(self._ordered)) - 1
        return min(self._ordered[nth], self._deadline_s)

    def left_s(self, *, wall: float, monotonic: float) -> float:
        """Seconds until the time itself; negative once it is over."""
        return min(self.at - wall, self._ends_at - monotonic)

    def seconds_left_to_send(self, *, wall: float, monotonic: float) -> float:
        """Seconds in which a request may still be sent; zero or less: none may."""
        return self.left_s(wall=wall, monotonic=monotonic) - self.answer_s

    def stopped(self) -> Stopped:
        """How a run ends that has no time left to send in."""
        return Stopped(
            StopCode.UNTIL,
            "The run stops before the time of --until, because an answer "
            f"{'takes' if self.known else 'may take'} {lasting(self.answer_s)}. "
            "The remaining rows stay pending.",
        )
