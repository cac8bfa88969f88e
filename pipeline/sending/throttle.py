"""The wait between requests: `Pace` says how long, aiolimiter waits.

aiolimiter's rate is fixed when the limiter is made, and a limiter of n requests lets a burst of n
through. So the unit of its capacity here is one second. The limiter holds 50 ms of it, and a
request costs ``1 / rate`` seconds: another rate is another price. The throttle pays the price in
bites of 25 ms. Otherwise it would lose the time by which each wake-up is late, which is 2 % at 10
requests per second. Only one dispatcher waits, so no crowd of waiters is woken.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from datetime import UTC
from email.utils import parsedate_to_datetime

from aiolimiter import AsyncLimiter

from pipeline.core.events import Event, Waiting
from pipeline.core.model import Clock, Outcome, Reply, Verdict
from pipeline.core.wording import lasting
from pipeline.policy.pace import Pace

_HELD_S, _BITE_S = 0.05, 0.025
_LOOK_AGAIN_S = 0.25
_LATE_S = 0.01  # a shorter delay is the machine's jitter
_NOTHING_S = 1e-9  # the rounding error that is left of a price after the last bite
_TOLD_DENIED_S, _TOLD_SLOW_S = 2.0, 30.0
_LONGEST_DATE = 64
_LIMIT_HEADER = "x-ratelimit-limit"
_REMAINING_HEADER = "x-ratelimit-remaining"


class PacedThrottle:
    """The gate that lets one request after another through, at the rate of its `Pace`.

    `tell` gets one `Waiting` for each wait that a person would notice. `due_at` is when the next
    request may leave, on the monotonic clock, and None while no request waits.
    """

    def __init__(
        self, pace: Pace, clock: Clock, tell: Callable[[Event], None] | None = None
    ) -> None:
        self.pace = pace
        self.due_at: float | None = None
        self._clock = clock
        self._tell = tell
        self._told_of: tuple[float, bool] | None = None
        self._told_s = 0.0
        self._owed = 1.0 if pace.begun or pace.start is None else 0.0
        self._seconds = AsyncLimiter(_HELD_S, _HELD_S)

    async def slot(self) -> None:
        """Returns when the next request may leave. A pause that begins meanwhile counts too.

        The first one at a pace that an earlier run kept leaves at once: there is none before it.
        """
        owed, self._owed = self._owed, 1.0
        asked_at = self._clock.monotonic()
        while True:
            now = self._clock.monotonic()
            wait_s = self.pace.next_at(now) - now
            price_s = owed * self.pace.price_s(now)
            self._note(asked_at, now, max(wait_s, price_s))
            if wait_s > 0:
                await asyncio.sleep(min(wait_s, _LOOK_AGAIN_S))
            elif price_s > _NOTHING_S:
                paid_s = min(price_s, _BITE_S)
                await self._seconds.acquire(paid_s)
                owed -= owed * paid_s / price_s
            else:
                break
        self.due_at = None
        self.pace.granted(self._clock.monotonic())

    def sent(self, lead_s: float = 0.0) -> float:
        """Stamps a request that leaves in `lead_s` seconds. Returns its ticket for `landed`."""
        leaves_at = self._clock.monotonic() + lead_s
        self.pace.sent(leaves_at)
        return leaves_at

    def landed(self, ticket: float, reply: Reply, outcome: Outcome) -> None:
        """Learns from the reply to the request with this ticket."""
        now = self._clock.monotonic()
        if reply.sent_at - ticket > _LATE_S:
            self.pace.sent_late(ticket, reply.sent_at)
            ticket = reply.sent_at
        if reply.status is None:
            if outcome.verdict is Verdict.REFUSED:
                self.pace.not_counted(ticket)
        elif reply.status == 429:
            asked_s = _retry_after_s(reply.headers, self._clock.wall())
            self.pace.denied(ticket, now, asked_s)
        else:
            limit = reply.headers.get(_LIMIT_HEADER)
            remaining = reply.headers.get(_REMAINING_HEADER)
            self.pace.answered(ticket, limit, remaining, now)

    def _note(self, asked_at: float, now: float, wait_s: float) -> None:
        """Reports once per wait the reason for it: a denial that lasts, or a slow limit."""
        self.due_at = now + wait_s
        since, asked_s = self.pace.denied_since, self.pace.asked_s
        if since is None:
            if wait_s >= _TOLD_SLOW_S:
                self._say(asked_at, "the rate limit delays the next request")
        elif asked_s >= _TOLD_DENIED_S:
            asked = f"the API answered 429 (rate limit) and asks to wait {lasting(asked_s)}"
            self._say(since, f"{asked} (Retry-After)", asked=True)
        elif now - since >= _TOLD_DENIED_S:
            self._say(since, f"the API has answered 429 (rate limit) for {now - since:.0f} s")

    def _say(self, wait: float, reason: str, *, asked: bool = False) -> None:
        """Reports a wait once, a second time if the server then asks for it, and again if that
        wait is obeyed for much longer than the one that was reported."""
        assert self.due_at is not None
        wait_s = self.due_at - self._clock.monotonic()
        longer = asked and wait_s >= self._told_s + _TOLD_SLOW_S
        if self._tell is None or (self._told_of in ((wait, asked), (wait, True)) and not longer):
            return
        self._told_of, self._told_s = (wait, asked), wait_s
        self._tell(Waiting(reason, self.due_at))


def _retry_after_s(headers: Mapping[str, str], wall_s: float) -> float | None:
    """Returns Retry-After in seconds from now, None if it is absent or nonsense. `Pace` clamps it.

    A date is compared with the response's own Date, because the clocks of two machines differ.
    Without a Date it is compared with `wall_s`, this machine's time in seconds since 1970.
    """
    text = headers.get("retry-after", "").strip()
    if text.isascii() and text.isdigit():
        return float(text) if len(text) <= 9 else None
    at_s, answered_s = _date_s(text), _date_s(headers.get("date", ""))
    if at_s is None:
        return None
    return max(at_s - (wall_s if answered_s is None else answered_s), 0.0)


def _date_s(text: str) -> float | None:
    """Returns an HTTP date in seconds since 1970, None for any other text. No zone means UTC."""
    if len(text) > _LONGEST_DATE:
        return None
    try:
        date = parsedate_to_datetime(text)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    return (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp()
