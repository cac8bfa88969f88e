"""The real clock of the machine."""

from __future__ import annotations

import time


class SystemClock:
    """A `model.Clock` that reads the time of the machine."""

    monotonic = staticmethod(time.monotonic)
    wall = staticmethod(time.time)
