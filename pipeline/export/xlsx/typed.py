"""Which cells of a new workbook are numbers, dates and truth values, so that it can be calculated
with.

A new workbook can be the next sheet of the same job. So a text that was sent becomes a number or a
date only if the reader of workbooks makes the same text of it again: `12` does, but `007`, `1.10`
and 17 digits do not. A column of texts is a column of numbers only if all its cells are numbers.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from functools import partial

import pyarrow as pa
import pyarrow.types as types

from pipeline.inputs.values import Shown, literal_text, number_text, serial_text
from pipeline.job.answer_columns import BOOLEAN, DATE, INTEGER, NUMBER

DIGITS = 15
"""Excel keeps this many digits of a number."""
_SHOWN_DIGITS = 11
"""Excel shows more digits of a whole number with an exponent: those are names, such as an EAN."""
_FIXED = re.compile(r"-?(?:0|[1-9]\d{0,8})\.(\d{1,6})")
_DATE = re.compile(r"\d{4}-\d\d-\d\d")
_MOMENT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d")
FORMATS = ("", "0", "yyyy-mm-dd")
"""The number formats that the canonical texts of `columns:` can need."""
_DAY, _SECOND = "yyyy-mm-dd", "yyyy-mm-dd hh:mm:ss"
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


Convert = Callable[[str], Typed | None]
"""Returns the typed content of a text, or None if the cell must be a text."""


def kinds_of_schema(schema: pa.Schema, sent: Collection[str]) -> dict[str, Convert]:
    """Returns what converts the texts of each column of a sheet with types. A number of more than
    15 digits stays a text. `sent` are the columns whose texts a later run must find again."""
    found: dict[str, Convert] = {}
    for field in schema:
        kind = field.type
        if types.is_boolean(kind):
            found[field.name] = _boolean
        elif types.is_integer(kind) or types.is_floating(kind) or types.is_decimal(kind):
            found[field.name] = partial(_digits, exact=field.name in sent)
        elif types.is_date(kind) or types.is_timestamp(kind):
            found[field.name] = _moment
        else:
            found[field.name] = _text
    return found


def kinds_of_types(types: Mapping[str, str]) -> dict[str, Convert]:
    """Returns what converts the canonical texts of columns of `columns:`, by their types."""
    return {name: _OF_TYPE[kind] for name, kind in types.items() if kind in _OF_TYPE}


def _truth(text: str) -> Typed | None:
    return _boolean(text.upper())


def _text(text: str) -> Typed | None:
    return None


def _digits(text: str, exact: bool) -> Typed | None:
    """A number of a sheet that has types."""
    literal = literal_text(text, DIGITS)
    if literal is None or (exact and literal != text):
        return None
    whole = text.lstrip("-")
    if not whole.isdigit():
        return Typed(text)
    return Typed(text, "0" if len(whole) > _SHOWN_DIGITS else "") if len(whole) <= DIGITS else None


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
    serial = (value - _DAY_ZERO) / timedelta(days=1)
    if value.date() < _FIRST_DAY or serial_text(serial, Shown.DATE, False) != text:
        return None
    return Typed(number_text(serial), _DAY if shape is _DATE else _SECOND)


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
_OF_TYPE: dict[str, Convert] = {
    NUMBER: Typed,
    INTEGER: partial(_digits, exact=False),
    BOOLEAN: _truth,
    DATE: _moment,
}
