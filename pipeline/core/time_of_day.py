"""Reads times of day and finds when the clock of this machine next shows them."""

from __future__ import annotations

import re
from datetime import datetime, time, timedelta

from pipeline.core.errors import Refused

_TIME = re.compile(r"([01]?\d|2[0-3]):([0-5]\d)(?::([0-5]\d))?")
_STEP_S = 60


def find_until(text: str, now: float) -> float:
    """Returns when the clock of this machine next shows the time in `text`, in seconds since 1970.

    If the clock skips that time because summer time begins, this is the moment of the skip. If the
    clock shows it twice, this is the next one of the two.

    Raises:
        Refused: if `text` is not HH:MM or HH:MM:SS.
    """
    wanted = parse_time(text, "--until")
    # Time zones differ by whole minutes, so each step shows the wanted second.
    instant = now - (now - wanted.second) % _STEP_S
    before = datetime.fromtimestamp(instant)
    for _ in range(3 * 24 * 60):
        instant += _STEP_S
        shown = datetime.fromtimestamp(instant)
        if _passes(before, shown, wanted):
            return instant
        before = shown
    raise AssertionError(f"the clock of this machine never shows {text}")


def parse_time(text: str, option: str) -> time:
    """Reads the time of day that the user gave to `option`.

    Raises:
        Refused: if `text` is not HH:MM or HH:MM:SS.
    """
    found = _TIME.fullmatch(text.strip())
    if not found or not text.isascii():
        raise Refused(f"{option} {text}: this is not a time of day. Write it like 06:00.")
    return time(int(found[1]), int(found[2]), int(found[3] or 0))


def _passes(before: datetime, shown: datetime, wanted: time) -> bool:
    days = (before.date(), before.date() + timedelta(days=1))
    return any(before < datetime.combine(day, wanted) <= shown for day in days)
