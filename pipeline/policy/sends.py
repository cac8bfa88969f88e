"""The times at which a run's admitted requests left, as the limiter counts them. Pure."""

from __future__ import annotations

import math
from array import array
from bisect import bisect_left, bisect_right, insort

# Requests overtake each other on their way, so the limiter may count a few more or fewer.
COUNTED_OFF = 1.05
# Sends whose answers may still come: at 2,000 in flight, ten times as many.
_BEYOND_LIMIT = 20_000


class Sends:
    """The times of this run's admitted sends: as many of the newest as the limit needs."""

    def __init__(self) -> None:
        self._times: array[float] = array("d")
        self._cut = False
        self.latest = -math.inf

    def __len__(self) -> int:
        return len(self._times)

    def add(self, now: float, limit: int) -> None:
        """Notes a send at `now`, never earlier than the one before."""
        self.latest = max(now, self.latest)
        self._times.append(self.latest)
        most = 2 * limit + _BEYOND_LIMIT
        if len(self._times) > most + most // 4:
            del self._times[: len(self._times) - most]
            self._cut = True

    def put(self, sent_at: float) -> None:
        """Notes a send at `sent_at` after others that were later."""
        insort(self._times, sent_at)
        self.latest = max(sent_at, self.latest)

    def forget(self, sent_at: float) -> bool:
        """Removes the send at `sent_at`. Returns False if it is not, or no longer, in the list."""
        position = bisect_left(self._times, sent_at)
        if position == len(self._times) or self._times[position] != sent_at:
            return False
        del self._times[position]
        return True

    def age(self, at: float, nth: int) -> float | None:
        """How old our nth most recent send was at `at`; None if there were not so many."""
        position = bisect_right(self._times, at) - nth
        return at - self._times[position] if 0 <= position < len(self._times) else None

    def are_all(self, at: float, number: int) -> bool:
        """Whether `number` sends may be all until `at`: a few overtake each other on their way."""
        return not self._cut and bisect_right(self._times, at) <= COUNTED_OFF * number + 1

    def span_s(self, at: float) -> float:
        """How old the first send was at `at`, of those that are kept."""
        return at - self._times[0] if self._times else 0.0

    def count(self, start: float, end: float) -> int:
        """Sends in (start, end]."""
        return bisect_right(self._times, end) - bisect_right(self._times, start)
