"""Rate limiters that are written from their descriptions alone.

They share no code with the runner or its sandbox, because tests would not notice a shared mistake.
Times are seconds of any clock. `take` returns the remaining quota after an admitted request, and
None for a denied one. Denied requests use no quota.
"""

from __future__ import annotations

import math
import random
from collections import deque
from typing import Protocol


class Limiter(Protocol):
    """A rate limiter. Its `limit` may change at any time."""

    limit: int

    def take(self, now: float) -> int | None: ...


class Sliding:
    """Two aligned fixed windows. The older one counts by its share of the last window length."""

    def __init__(self, limit: int, window_s: float, phase: float = 0.0) -> None:
        self.limit = limit
        self.window_s = window_s
        self.phase_s = phase * window_s
        self.counts: dict[int, int] = {}

    def ends_in_s(self, now: float) -> float:
        """How long the aligned window of `now` still lasts. Servers write it as Retry-After."""
        turns = (now + self.phase_s) / self.window_s
        return (math.floor(turns) + 1 - turns) * self.window_s

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


class Remembering(Sliding):
    """A sliding window behind server processes. Each one remembers a denial, without asking again,
    until the aligned window ends. A request reaches any of the processes."""

    def __init__(self, limit: int, window_s: float, phase: float = 0.0, processes: int = 1) -> None:
        super().__init__(limit, window_s, phase)
        self.denied_until = [-math.inf] * processes
        self.random = random.Random(processes)

    def take(self, now: float) -> int | None:
        process = self.random.randrange(len(self.denied_until))
        if now < self.denied_until[process]:
            return None
        remaining = super().take(now)
        if remaining is None:
            self.denied_until[process] = now + self.ends_in_s(now)
        return remaining


class Fixed(Sliding):
    """A counter that starts again with each aligned window."""

    def __init__(self, limit: int, window_s: float, phase: float = 0.0) -> None:
        super().__init__(limit, window_s, phase)
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
    """A list of the times of all requests in the last window."""

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
    """A bucket of tokens that is filled completely once per window, from its first request on."""

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
    """A bucket of tokens that is filled continuously."""

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
