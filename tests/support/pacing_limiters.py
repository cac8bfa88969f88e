"""Rate limiters written from their descriptions alone, and a client that knows them.

They share nothing with the runner or its sandbox: a shared mistake would agree with itself. Times
are seconds of any clock. `take` returns what remains after an admitted request, None for a denied
one; denied requests use no quota.
"""

from __future__ import annotations

import math
from collections import deque
from typing import Protocol


class Limiter(Protocol):
    """`limit` may change at any time."""

    limit: int

    def take(self, now: float) -> int | None: ...


class Sliding:
    """Two aligned fixed windows, the older one weighted by the part of it that still counts."""

    def __init__(self, limit: int, window_s: float, phase: float = 0.0) -> None:
        self.limit = limit
        self.window_s = window_s
        self.phase_s = phase * window_s
        self.counts: dict[int, int] = {}

    def take(self, now: float) -> int | None:
        turns = (now + self.phase_s) / self.window_s
        index = math.floor(turns)
        weighted = math.floor(self.counts.get(index - 1, 0) * (1 - (turns - index)))
        used = weighted + self.counts.get(index, 0)
        if used >= self.limit:
            return None
        self.counts[index] = self.counts.get(index, 0) + 1
        self.counts.pop(index - 2, None)
        return self.limit - used - 1


class Fixed:
    """A counter that starts anew with each aligned window."""

    def __init__(self, limit: int, window_s: float, phase: float = 0.0) -> None:
        self.limit = limit
        self.window_s = window_s
        self.phase_s = phase * window_s
        self.index = -1
        self.used = 0

    def take(self, now: float) -> int | None:
        index = math.floor((now + self.phase_s) / self.window_s)
        if index != self.index:
            self.index, self.used = index, 0
        if self.used >= self.limit:
            return None
        self.used += 1
        return self.limit - self.used


class Log:
    """Remembers the time of every request of the last window."""

    def __init__(self, limit: int, window_s: float, phase: float = 0.0) -> None:
        self.limit = limit
        self.window_s = window_s
        self.times: deque[float] = deque()

    def take(self, now: float) -> int | None:
        while self.times and self.times[0] <= now - self.window_s:
            self.times.popleft()
        if len(self.times) >= self.limit:
            return None
        self.times.append(now)
        return self.limit - len(self.times)


class Clumped:
    """A bucket that is filled to the brim once a window, counted from its first request."""

    def __init__(self, limit: int, window_s: float, phase: float = 0.0) -> None:
        self.limit = limit
        self.window_s = window_s
        self.tokens = limit
        self.filled_at: float | None = None

    def take(self, now: float) -> int | None:
        if self.filled_at is None:
            self.filled_at = now
        turns = math.floor((now - self.filled_at) / self.window_s)
        if turns:
            self.filled_at += turns * self.window_s
            self.tokens = self.limit
        if self.tokens <= 0:
            return None
        self.tokens = min(self.tokens, self.limit) - 1
        return self.tokens


class Smooth:
    """A bucket that is filled drop by drop."""

    def __init__(self, limit: int, window_s: float, phase: float = 0.0) -> None:
        self.limit = limit
        self.window_s = window_s
        self.tokens = float(limit)
        self.at: float | None = None

    def take(self, now: float) -> int | None:
        gone = 0.0 if self.at is None else now - self.at
        self.at = now
        self.tokens = min(self.tokens + gone * self.limit / self.window_s, self.limit)
        if self.tokens < 1:
            return None
        self.tokens -= 1
        return math.floor(self.tokens)


KINDS: dict[str, type[Sliding | Fixed | Log | Clumped | Smooth]] = {
    "sliding": Sliding,
    "fixed": Fixed,
    "log": Log,
    "clumped": Clumped,
    "smooth": Smooth,
}
