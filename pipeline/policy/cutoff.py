"""The time at which a run must be over (`--until`). The caller passes in the clocks' readings.

A request that is sent at the last moment is answered minutes later, and a night ends with its last
answer. So the runner stops sending earlier, by the time that an answer takes.
"""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections import deque

from pipeline.core.model import StopCode, Stopped
from pipeline.core.wording import lasting

SEEN = 200
"""How many of the latest answers predict the time of the next one: enough for a quantile, few
enough to follow an API that becomes slower during the night."""
SHARE = 0.95


class Cutoff:
    """Decides until when requests may be sent. `at` is in seconds since 1970.

    `deadline_s` is the longest time that an answer can take. It also counts as the time of an
    answer until the first one has arrived.
    """

    def __init__(self, at: float, *, wall: float, monotonic: float, deadline_s: float) -> None:
        self.at = at
        # The same time on the monotonic clock, which no one can set. The earlier of both counts: a
        # wall clock that is set back must not make the night longer, and the monotonic clock stops
        # while the machine is suspended.
        self._ends_at = monotonic + (at - wall)
        self._deadline_s = deadline_s
        self._answered_in: deque[float] = deque()
        self._ordered: list[float] = []

    def answered(self, latency_s: float) -> None:
        """Notes how long a request took on which the API worked. Refusals are fast and do not
        count."""
        self._answered_in.append(latency_s)
        insort(self._ordered, latency_s)
        if len(self._ordered) > SEEN:
            del self._ordered[bisect_left(self._ordered, self._answered_in.popleft())]

    @property
    def known(self) -> bool:
        """Whether the time of at least one answer is known."""
        return bool(self._ordered)

    @property
    def answer_s(self) -> float:
        """Seconds within which the next answer arrives in 19 of 20 cases."""
        if not self._ordered:
            return self._deadline_s
        nth = math.ceil(SHARE * len(self._ordered)) - 1
        return min(self._ordered[nth], self._deadline_s)

    def left_s(self, *, wall: float, monotonic: float) -> float:
        """Returns the seconds until `at`; negative after it."""
        return min(self.at - wall, self._ends_at - monotonic)

    def seconds_left_to_send(self, *, wall: float, monotonic: float) -> float:
        """Returns the seconds during which requests may still be sent; none may at zero or less."""
        return self.left_s(wall=wall, monotonic=monotonic) - self.answer_s

    def stopped(self) -> Stopped:
        """Returns the reason for the end of a run that has no time left to send."""
        return Stopped(
            StopCode.UNTIL,
            "The run stops before the time of --until, because an answer "
            f"{'takes' if self.known else 'may take'} {lasting(self.answer_s)}. "
            "The remaining rows stay pending.",
        )
