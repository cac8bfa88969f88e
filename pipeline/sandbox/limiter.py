"""The rate limit: a sliding window made of two fixed ones, as the hosted API's family has it."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(slots=True)
class SlidingWindow:
    """`limit` requests per `window_s` and key. Denied requests use no quota.

    Windows are aligned to the server's clock. The request is let through if
    ``floor(previous * (1 - fraction of the window gone)) + current < limit``.
    """

    limit: int
    window_s: float
    _index: int = -1
    _current: int = 0
    _previous: int = 0

    def take(self, now: float) -> int | None:
        """How many requests remain after this one, or None where it is denied."""
        index = math.floor(now / self.window_s)
        if index != self._index:
            self._previous = self._current if index == self._index + 1 else 0
            self._current = 0
            self._index = index
        gone = now / self.window_s - index
        used = math.floor(self._previous * (1 - gone)) + self._current
        if used >= self.limit:
            return None
        self._current += 1
        return self.limit - used - 1
