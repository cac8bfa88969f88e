"""Turns numbers and times into the text that a person would write, the same for every kind of
sheet.
"""

from __future__ import annotations

import math
import re
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum

_DAY_MS = 86_400_000
_LAST_DAY = date(9999, 12, 31)
# Excel has these days because Lotus 1-2-3 had them.
_DAYS_OF_LOTUS = {0: (1900, 1, 0), 60: (1900, 2, 29)}
_LITERAL = re.compile(r"[-+]?(\d+(\.\d*)?|\.\d+)([eE][-+]?\d+)?")
# Pieces of a number format that Excel shows literally or not: quoted and escaped text, padding,
# colours. Excel accepts at most 255 characters in a format, so no bracket is further from its end.
_SHOWN_AS_IT_STANDS = re.compile(
    r'"[^"]*"|\\.|_.|\*.|\[(?!(?:h+|m+|s+)\])[^\]]{0,255}\]', re.IGNORECASE
)
_ELAPSED = re.compile(r"\[(h+|m+|s+)\]", re.IGNORECASE)
_ZEROS = re.compile("0{2,}")
# ECMA-376 part 1, 18.8.30: 14 to 22 and 45 to 47 everywhere; 27 to 36 and 50 to 58 are dates
# and times in the Chinese, Japanese and Korean Excel.
_DATE_IDS = {14, 15, 16, 17, 22, *range(27, 32), 36, *range(50, 59)}
_TIME_IDS = {18, 19, 20, 21, 32, 33, 34, 35, 45, 47}
_ELAPSED_ID = 46


class Shown(Enum):
    """The kind of text that a number format makes of a number. Formats that change only the style
    are NUMBER."""

    NUMBER = "number"
    DATE = "date"
    TIME = "time"
    ELAPSED = "elapsed"


def boolean_text(value: bool) -> str:
    return "TRUE" if value else "FALSE"


def number_text(value: float) -> str:
    """Returns the shortest digits that mean this number: 15, 0.1, 1234567890123450000. From 1e21
    on, and for tiny numbers, it has an exponent: `1e+21`.

    Whole numbers have no `.0`, because pandas and Excel store integers as floats.
    """
    if value == 0:
        return "0"
    digits = repr(value)
    if "e" in digits and 1e-9 <= abs(value) < 1e21:
        digits = format(Decimal(digits), "f")
    return digits.removesuffix(".0")


def literal_text(literal: str, significant: int | None = None) -> str | None:
    """Does the same for a number as a file writes it. None if `literal` is not a number.

    Whole numbers keep every digit, also digits that do not fit into a float. Other numbers are
    rounded to `significant` digits: Excel calculates with 17 and shows 15, so it shows 0.1 + 0.2 as
    0.3. A number with an exponent or a decimal point is rounded even if it is a whole number:
    `without_zero_fraction` keeps the digits of those that a program wrote in full.
    """
    if literal.isascii() and literal.isdigit():
        return literal.lstrip("0") or "0"
    literal = literal.strip()
    if not _LITERAL.fullmatch(literal):
        return None
    if literal[0] == "-" and literal[1:].isdigit():
        digits = literal[1:].lstrip("0")
        return f"-{digits}" if digits else "0"
    value = float(literal)
    if significant is not None:
        value = float(f"{value:.{significant}g}")
    return number_text(value) if math.isfinite(value) else None


def without_zero_fraction(literal: str) -> str:
    """Returns `1234567890123456` for `1234567890123456.0`, as programs write whole numbers that
    they store as floats."""
    whole, point, fraction = literal.partition(".")
    return whole if point and whole[-1:].isdigit() and not fraction.strip("0") else literal


def shown_by(number_format: str, format_id: int | None = None) -> Shown:
    """Returns the kind of text that Excel's `number_format` shows by text rules 1 and 2. A built-in
    format has only a `format_id`."""
    if format_id in _DATE_IDS:
        return Shown.DATE
    if format_id in _TIME_IDS:
        return Shown.TIME
    code = _SHOWN_AS_IT_STANDS.sub("", number_format).split(";")[0].lower()
    if format_id == _ELAPSED_ID or _ELAPSED.search(code):
        return Shown.ELAPSED
    if any(letter in code for letter in "dy") or ("m" in code and not set(code) & set("hs")):
        return Shown.DATE
    return Shown.TIME if any(letter in code for letter in "hs") else Shown.NUMBER


def padded_width(number_format: str) -> int:
    """Returns how many digits a format such as `00000` shows at least by text rules 1 and 2, for
    zip codes and article numbers. 0 for other formats."""
    return len(number_format) if _ZEROS.fullmatch(number_format) else 0


def serial_text(serial: float, shown: Shown, from_1904: bool) -> str | None:
    """Returns Excel's day count as ISO 8601, to the millisecond. None if Excel shows `########`.

    Without a time of day, the text is only a date. Without a day, it is only a time. Elapsed time
    is hours:minutes:seconds.
    """
    if not 0 <= serial < 3_000_000:
        return None
    days, milliseconds = divmod(round(serial * _DAY_MS), _DAY_MS)
    if shown is Shown.ELAPSED:
        return _elapsed(days, milliseconds)
    clock = (datetime.min + timedelta(milliseconds=milliseconds)).time()
    if days == 0 and (shown is Shown.TIME or not from_1904):
        return _clock_text(clock)
    parts = calendar_day(days, from_1904)
    if parts is None:
        return None
    day = "{:04}-{:02}-{:02}".format(*parts)
    return f"{day}T{_clock_text(clock)}" if milliseconds else day


def calendar_day(days: int, from_1904: bool) -> tuple[int, int, int] | None:
    """Returns Excel's day as (year, month, day). None for a day after the year 9999."""
    if not from_1904 and days in _DAYS_OF_LOTUS:
        return _DAYS_OF_LOTUS[days]
    if from_1904:
        start = date(1904, 1, 1)
    else:
        start = date(1899, 12, 30) if days > 60 else date(1899, 12, 31)
    if days > (_LAST_DAY - start).days:
        return None
    day = start + timedelta(days=days)
    return day.year, day.month, day.day


def _elapsed(days: int, milliseconds: int) -> str:
    seconds, rest = divmod(milliseconds, 1000)
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    text = f"{days * 24 + hours}:{minutes:02}:{seconds:02}"
    return f"{text}.{rest:03}" if rest else text


def iso_text(value: datetime | date | time) -> str:
    """Returns a date or time as `serial_text` writes it."""
    if isinstance(value, datetime):
        day, clock = value.date().isoformat(), value.time()
        return f"{day}T{_clock_text(clock)}" if clock != time.min else day
    return _clock_text(value) if isinstance(value, time) else value.isoformat()


def elapsed_text(value: timedelta) -> str:
    """Returns a duration as `serial_text` writes it."""
    return _elapsed(value.days, round(value.microseconds / 1000) + value.seconds * 1000)


def _clock_text(clock: time) -> str:
    return clock.isoformat(timespec="milliseconds" if clock.microsecond else "seconds")
