"""The waiting: pacing's verdict, kept with aiolimiter.

aiolimiter's rate is fixed when it is made, and a limiter of n requests lets a burst of n through.
So its unit of capacity here is one second, in grains of 50 ms, and a request costs ``1 / rate`` of
them: another rate is another price. Only one dispatcher waits, so no crowd of waiters is woken.
"""

from __future__ import annotations

import asyncio

from aiolimiter import AsyncLimiter

from pipeline.model import Clock, Outcome, Reply, Verdict
from pipeline.pacing import Pace

_GRAIN_S = 0.05
_LOOK_AGAIN_S = 0.25
_NOTHING = 1e-9  # of a request: what is left of 1 after paying it in grains
_LIMIT_HEADER = "x-ratelimit-limit"
_REMAINING_HEADER = "x-ratelimit-remaining"


class PacedThrottle:
    """Lets one request after another through at the rate that its `Pace` says."""

    def __init__(self, pace: Pace, clock: Clock) -> None:
        self.pace = pace
        self._clock = clock
        self._seconds = AsyncLimiter(_GRAIN_S, _GRAIN_S)

    async def slot(self) -> None:
        """Returns when the next request may go; a pause that begins meanwhile counts too."""
        owed = 0.0 if self.pace.take_refund() else 1.0
        while True:
            now = self._clock.monotonic()
            wait_s = self.pace.next_at(now) - now
            if wait_s > 0:
                await asyncio.sleep(min(wait_s, _LOOK_AGAIN_S))
            elif owed > _NOTHING:
                rate = self.pace.rate(now)
                paid_s = min(owed / rate, _GRAIN_S)
                await self._seconds.acquire(paid_s)
                owed -= paid_s * rate
            else:
                self.pace.granted(now)
                return

    def sent(self) -> float:
        """Stamps a request that leaves now; the stamp is its ticket for `landed`."""
        now = self._clock.monotonic()
        self.pace.sent(now)
        return now

    def landed(self, ticket: float, reply: Reply, outcome: Outcome) -> None:
        """Takes in what came of the request with this ticket."""
        now = self._clock.monotonic()
        if reply.status is None:
            if outcome.verdict is Verdict.REFUSED:
                self.pace.not_counted(ticket)
        elif reply.status == 429:
            self.pace.denied(ticket, now)
        else:
            limit = reply.headers.get(_LIMIT_HEADER)
            remaining = reply.headers.get(_REMAINING_HEADER)
            self.pace.answered(ticket, limit, remaining, now)
