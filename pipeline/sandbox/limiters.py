"""Rate limiters, as pure state: the caller passes in the time of each request.

All of them count whole milliseconds and whole requests, as the servers of this family do. So an
independent simulation can agree with them request by request. Denied requests use no quota.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol


class Quota(NamedTuple):
    """The rate-limit headers of an admitted request: the limit, and how many requests remain in
    this window after it."""

    limit: int
    remaining: int


# While its store is down, the limiter admits every request and knows no counts: 0 of 0.
NO_INFORMATION = Quota(0, 0)


class Limiter(Protocol):
    """The limit of one key. `limit` may be changed at any time; requests that were counted stay
    counted."""

    limit: int

    def take(self, now_ms: int) -> int | None:
        """Returns how many requests remain after this one, or None if it is denied.

        `now_ms` is in milliseconds since the epoch, because windows are aligned to it. It never
        goes back.
        """
        ...


@dataclass(slots=True)
class SlidingWindow:
    """Two fixed windows, of which the previous one fades out. The hosted API uses this kind.

    A request is admitted if ``floor(previous * (1 - elapsed part of the window)) + current <
    limit``. With `remembers`, one denial denies the rest of its window. A server process behaves
    like that if it remembers denials to spare the store.
    """

    limit: int
    window_ms: int
    remembers: bool = False
    _index: int = -1
    _current: int = 0
    _previous: int = 0
    _denied_index: int = -1

    def take(self, now_ms: int) -> int | None:
        index, gone_ms = divmod(now_ms, self.window_ms)
        self._turn_to(index)
        if self._denied_index == index:
            return None
        fading = self._previous * (self.window_ms - gone_ms) // self.window_ms
        if fading + self._current >= self.limit:
            self._denied_index = index if self.remembers else -1
            return None
        self._current += 1
        return self.limit - fading - self._current

    def _turn_to(self, index: int) -> None:
        if index == self._index:
            return
        self._previous = self._current if index == self._index + 1 else 0
        self._current = 0
        self._index = index


@dataclass(slots=True)
class FixedWindow:
    """At most `limit` requests in each window of the clock."""

    limit: int
    window_ms: int
    _index: int = -1
    _used: int = 0

    def take(self, now_ms: int) -> int | None:
        index = now_ms // self.window_ms
        if index != self._index:
            self._index, self._used = index, 0
        if self._used >= self.limit:
            return None
        self._used += 1
        return self.limit - self._used


@dataclass(slots=True)
class SlidingLog:
    """At most `limit` requests in the last `window_ms`. It stores the time of each."""

    limit: int
    window_ms: int
    _admitted_ms: deque[int] = field(default_factory=deque)

    def take(self, now_ms: int) -> int | None:
        while self._admitted_ms and self._admitted_ms[0] <= now_ms - self.window_ms:
            self._admitted_ms.popleft()
        if len(self._admitted_ms) >= self.limit:
            return None
        self._admitted_ms.append(now_ms)
        return self.limit - len(self._admitted_ms)


@dataclass(slots=True)
class TokenBucket:
    """A bucket of `limit` tokens, full at first. An empty one is full again after one window.

    It fills every `step_ms`: with 1 smoothly, with `window_ms` in one clump per window.
    """

    limit: int
    window_ms: int
    step_ms: int = 1
    # The unit is one token divided by `window_ms`: every millisecond then adds exactly `limit`.
    _level: int | None = None
    _filled_ms: int = 0

    def take(self, now_ms: int) -> int | None:
        level = self._fill(now_ms)
        if level < self.window_ms:
            return None
        self._level = level - self.window_ms
        return self._level // self.window_ms

    def _fill(self, now_ms: int) -> int:
        full = self.limit * self.window_ms
        step = now_ms - now_ms % self.step_ms
        level = full if self._level is None else self._level
        self._level = min(full, level + max(0, step - self._filled_ms) * self.limit)
        self._filled_ms = step
        return self._level


KINDS: dict[str, Callable[[int, int], Limiter]] = {
    "sliding-window": SlidingWindow,
    "sliding-window-remembering": lambda limit, ms: SlidingWindow(limit, ms, remembers=True),
    "fixed-window": FixedWindow,
    "sliding-log": SlidingLog,
    "token-bucket": TokenBucket,
    "clumped-bucket": lambda limit, ms: TokenBucket(limit, ms, step_ms=ms),
}


class RateLimits:
    """The limits of all keys: each key may send `limit` requests per `window_ms`.

    `store_down` simulates an outage of the limiter's store: every request is admitted, 0 of 0.

    Raises:
        ValueError: for a kind that is not in `KINDS`, a negative limit or a window below 1 ms.
    """

    def __init__(self, kind: str, limit: int, window_ms: int) -> None:
        self.store_down = False
        self.set(kind, limit, window_ms)

    def set(self, kind: str, limit: int, window_ms: int) -> None:
        """Sets kind, limit and window, and forgets all counted requests."""
        if kind not in KINDS:
            raise ValueError(f"{kind!r} is not a limiter. Write one of {', '.join(KINDS)}.")
        if window_ms < 1:
            raise ValueError("The window of the limit must be at least 1 ms long.")
        self.kind, self.window_ms = kind, window_ms
        self._by_key: dict[str, Limiter] = {}
        self.set_limit(limit)

    def set_limit(self, limit: int) -> None:
        """Sets the limit from the next request on. Requests that were counted stay counted."""
        if limit < 0:
            raise ValueError("The limit must be a whole number of requests, 0 or more.")
        self.limit = limit
        for limiter in self._by_key.values():
            limiter.limit = limit

    def take(self, key: str, now_ms: int) -> Quota | None:
        """Returns the quota for a request that arrives now, or None if it is denied."""
        if self.store_down:
            return NO_INFORMATION
        limiter = self._by_key.get(key)
        if limiter is None:
            limiter = self._by_key[key] = KINDS[self.kind](self.limit, self.window_ms)
        remaining = limiter.take(now_ms)
        return None if remaining is None else Quota(self.limit, remaining)
