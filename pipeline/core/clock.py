"""The real clock of the machine."""

from __future__ import annotations

import time


class SystemClock:
    """A `model.Clock` that reads the time of the machine."""

    def monotonic(self) -> float:
        return time.monotonic()

    def wall(self) -> float:
        return time.time()
