"""Time as the machine has it."""

from __future__ import annotations

import time


class SystemClock:
    """The machine's own time; a `model.Clock`."""

    def monotonic(self) -> float:
        return time.monotonic()

    def wall(self) -> float:
        return time.time()
