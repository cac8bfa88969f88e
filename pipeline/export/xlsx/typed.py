"""Which cells of a new workbook are numbers, dates and truth values, so that it can be calculated
with.

A new workbook can be the next sheet of the same job. So a text that was sent becomes a number or a
date only if the reader of workbooks makes the same text of it again: `12` does, but `007`, `1.10`
and 17 digits do not. A column of texts is a column of numbers only if all its cells are numbers.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any

import pyarrow as pa

from pipeline.inputs.values import Shown, literal_text, number_text, serial_text

DIGITS = 15
"""Excel keeps this many digits of a number."""
_SHOWN_DIGITS = 11
"""Excel shows more digits of a whole number with an exponent: those are names, such as an EAN."""
_FIXED = re.compile(r"-?(?:0|[1-9]\d{0,8})\.(\d{1,6})")
_DATE = re.compile(r"\d{4}-\d\d-\d\d")
_MOMENT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d")
_DAY, _SECOND, _CLOCK = "yyyy-mm-dd", "yyyy-mm-dd hh:mm:ss", "hh:mm:ss"
# The first day from which Excel counts as the calendar does: it has a 29 February 1900.
_FIRST_DAY = date(1900, 3, 1)
_DAY_ZERO = datetime(1899, 12, 30)


@dataclass(frozen=True, slots=True)
class Typed:
    """The content of a cell that is not a text: its digits, and the code of its number format (""
    for the general one). A truth value is 0 or 1."""

    digits: str
    format: str = ""
    is_boolean: bool = False


Convert = Callable[[Any], Typed | None]
"""Returns the typed content of a value, or None if the cell must be a text."""


def of_value(value: Any, exact: bool) -> Typed | None:
    """Returns the typed content of a value from a file with types. `exact`: the reader must make
    the same text of it again."""
    if isinstance(value, bool):
        return Typed(str(int(value)), is_boolean=True)
    if isinstance(value, int):
        return Typed(str(value)) if abs(value) < 10**DIGITS else None
    if isinstance(value, float):
        return _of_float(value, exact)
    if isinstance(value, Decimal):
        text = format(value, "f")
        same = literal_text(text, DIGITS) == text if exact else value.is_finite()
        return Typed(text) if same and len(value.as_tuple().digits) <= DIGITS else None
    if isinstance(value, datetime):
        return None if value.tzinfo else _of_moment(value, _SECOND, exact)
    if isinstance(value, date):
        return _of_moment(datetime.combine(value, time()), _DAY, exact)
    if isinstance(value, time):
        return None if value.tzinfo else _of_time(value, exact)
    return None


def _of_float(value: float, exact: bool) -> Typed | None:
    if not math.isfinite(value) or (
        exact and literal_text(repr(value), DIGITS) != number_text(value)
    ):
        return None
    return Typed(repr(value))


def _of_moment(value: datetime, code: str, exact: bool) -> Typed | None:
    if value.date() < _FIRST_DAY:
        return None
    serial = (value - _DAY_ZERO) / timedelta(days=1)
    text = value.date().isoformat() if code == _DAY else value.isoformat()
    if exact and serial_text(serial, Shown.DATE, False) != text:
        return None
    return Typed(number_text(serial), code)


def _of_time(value: time, exact: bool) -> Typed | None:
    serial = (datetime.combine(_DAY_ZERO, value) - _DAY_ZERO) / timedelta(days=1)
    if exact and serial_text(serial, Shown.TIME, False) != value.isoformat():
        return None
    return Typed(repr(serial), _CLOCK)


def _number(text: str) -> Typed | None:
    whole = text.lstrip("-").partition(".")[0]
    digits = len(text) - text.count("-") - text.count(".")
    if len(whole) > _SHOWN_DIGITS or digits > DIGITS or literal_text(text, DIGITS) != text:
        return None
    return Typed(text)


def _fixed(text: str) -> Typed | None:
    found = _FIXED.fullmatch(text)
    return Typed(text, f"0.{'0' * len(found[1])}") if found else None


def _boolean(text: str) -> Typed | None:
    return Typed(str(int(text == "TRUE")), is_boolean=True) if text in ("TRUE", "FALSE") else None


def _moment(text: str) -> Typed | None:
    shape = _DATE if len(text) == 10 else _MOMENT
    if not (shape.fullmatch(text) and text.isascii()):
        return None
    try:
        value = datetime.fromisoformat(text)
    except ValueError:
        return None
    return _of_moment(value, _DAY if shape is _DATE else _SECOND, exact=True)


def kinds_of_texts(
    batches: Iterable[Mapping[str, pa.Array]], sent: Collection[str]
) -> dict[str, Convert]:
    """Returns for each column of texts whose cells are all of one kind what converts them. Empty
    cells are of every kind. `sent` are the columns whose texts a later run must find again."""
    left: dict[str, list[Convert]] = {}
    filled: set[str] = set()
    for batch in batches:
        for name, texts in batch.items():
            kinds = left.setdefault(name, [*_KINDS, *([] if name in sent else [_fixed])])
            for text in filter(None, texts.to_pylist() if kinds else ()):
                filled.add(name)
                kinds[:] = [kind for kind in kinds if kind(text) is not None]
                if not kinds:
                    break
    return {name: kinds[0] for name, kinds in left.items() if kinds and name in filled}


_KINDS: tuple[Convert, ...] = (_number, _boolean, _moment)
