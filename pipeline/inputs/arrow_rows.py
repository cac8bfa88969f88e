"""Turns Arrow rows into text: each value becomes the text that a person would write for it.

Parquet files and frames share these rules, so a job that reads one of them and then the other pays
for no row again.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from datetime import date, datetime, time
from decimal import Decimal
from functools import partial
from typing import Any, NamedTuple
from uuid import UUID

import numpy as np
import pyarrow as pa
import pyarrow.types as kinds

from pipeline.core.errors import Refused
from pipeline.inputs.arrow import call
from pipeline.inputs.mapping import used_columns
from pipeline.inputs.pages import BATCH_BYTES, is_binary, is_text
from pipeline.inputs.table import Batch, Findings, Table, distinct_names
from pipeline.inputs.values import boolean_text, number_text
from pipeline.job.spec import JobSpec
from pipeline.job.stage import Input

# pyarrow raises these for files that are not Parquet, are damaged, or contain values that Python
# cannot represent: years beyond 9999, unknown time zones.
UNREADABLE = (pa.ArrowException, OSError, ValueError, OverflowError, MemoryError, KeyError)
_NO_VALUE = (*UNREADABLE, TypeError, AttributeError, NotImplementedError, RecursionError)

_NANOSECONDS = pa.time64("ns")  # it has more digits than Python's own time
# A float keeps every whole number below these exactly. A larger one may have been another number
# before a program made it a float, and two of them may have become one. From 1e21 on, the text has
# an exponent and does not look exact.
_INEXACT_FROM = {pa.float16(): 2.0**11, pa.float32(): 2.0**24, pa.float64(): 2.0**53}
_INEXACT_TO = 1e21
_REFUSING_INEXACT = 4

Piece = tuple[pa.RecordBatch, Batch]
"""Consecutive rows, with their own types and as texts."""


class Source(NamedTuple):
    """Arrow rows to open: of which file or frame, their schema, their number, and themselves.

    `batch_rows` is the most rows of a batch. `unpacked` is called with the bytes that texts have
    taken so far which the source had stored once for many rows. `fix` says how to repair a value.
    """

    input: Input
    schema: pa.Schema
    rows: int
    batches: Callable[[], Iterator[pa.RecordBatch]]
    batch_rows: int
    unpacked: Callable[[int], None]
    fix: str


class OpenRows(NamedTuple):
    """Open rows: the names of their columns as the source has them, their schema with names that
    are all different, what was noted about the columns, and the rows."""

    headers: tuple[str, ...]
    schema: pa.Schema
    found: Findings
    pieces: Callable[[], Iterator[Piece]]

    def as_table(self, source: Input) -> Table:
        """Returns the rows as texts. `source` is the file or the frame that has them."""
        return Table(
            source,
            tuple(self.schema.names),
            "row",
            lambda: (texts for _, texts in self.pieces()),
            headers=self.headers,
            found=self.found,
        )


def open_rows(
    spec: JobSpec,
    source: Source,
    *,
    flaws: Mapping[int, str] = {},
    uuids: frozenset[str] = frozenset(),
) -> OpenRows:
    """Opens Arrow rows. Nulls become empty, integers have no `.0`, and times are ISO 8601.

    `flaws` are known reasons why a column cannot be sent. `uuids` are the names of the columns
    whose bytes are UUIDs.

    Raises:
        Refused: if a column that the spec uses cannot become text. `pieces` raises it for a value.
    """
    schema, where_from = source.schema, source.input
    names = distinct_names(schema.names)
    named = pa.schema(
        [field.with_name(name) for field, name in zip(schema, names, strict=True)], schema.metadata
    )
    used, found = used_columns(spec, names), Findings(flaws=dict(flaws))
    for position, flaw in flaws.items():
        if position in used:
            raise _not_text(where_from, names[position], flaw.removeprefix("it "))
    texts = [
        _uuid
        if field.name in uuids or _is_uuid(field.type)
        else _text_of(where_from, position, field, position in used, found)
        for position, field in enumerate(schema)
    ]
    exact = used if spec.text_rules >= _REFUSING_INEXACT else frozenset[int]()

    def pieces() -> Iterator[Piece]:
        first, unpacked = 1, 0
        stream = source.batches()
        kind = None
        while True:
            where = (
                f"{where_from} rows {first} to {min(first + source.batch_rows - 1, source.rows)}"
            )
            try:
                batch = next(stream, None)
                if batch is None:
                    return
                step = _step(batch)
                for start in range(0, len(batch), step):
                    columns, own = [], []
                    piece = batch.slice(start, step)
                    for position, (field, text, column) in enumerate(
                        zip(schema, texts, piece.columns, strict=True)
                    ):
                        name = field.name
                        last = first + len(piece) - 1
                        where = f'{where_from} rows {first} to {last}, column "{name}"'
                        # Without lengths, a wrong value cannot lead to a wrong place in memory.
                        column.validate(
                            full=position in used or not kinds.is_primitive(column.type)
                        )
                        typed, kind = column, column.type
                        if isinstance(column, pa.ExtensionArray):
                            column = column.storage
                        if isinstance(column, pa.DictionaryArray):
                            column = _readable(column).dictionary_decode()
                            if is_text(column.type):
                                unpacked += column.nbytes
                                source.unpacked(unpacked)
                        own.append(typed if typed.type == field.type else column)
                        if column.type == _NANOSECONDS:
                            column = column.cast(pa.string())
                        if position in exact:
                            _refuse_inexact(where_from, name, column, first)
                        texts_of = _texts if position in used else _readable_texts
                        columns.append(texts_of(column, text))
                    places = list(range(first, first + len(piece)))
                    yield pa.record_batch(own, schema=named), Batch(columns, places)
                    first += len(piece)
            except UNREADABLE as error:
                raise Refused(
                    f"{where}: a value is damaged or cannot become text ({_why(error, kind)}). "
                    f"{source.fix}"
                ) from None

    return OpenRows(tuple(schema.names), named, found, pieces)


def _texts(column: pa.Array, text: Callable[[Any], str]) -> list[str]:
    return ["" if value is None else text(value) for value in column.to_pylist()]


def _readable_texts(column: pa.Array, text: Callable[[Any], str]) -> list[str]:
    """Does the same for a column that is not used, so its texts are only read by people: a value
    that has no text, such as an infinite number, gets one."""
    try:
        return _texts(column, text)
    except _NO_VALUE:
        return [_text_or_str(value, text) for value in python_values(column)]


def _text_or_str(value: Any, text: Callable[[Any], str]) -> str:
    try:
        return "" if value is None else text(value)
    except _NO_VALUE:
        return str(value)


def python_values(column: pa.Array) -> list[Any]:
    """Returns the values as Python's objects. If Python cannot represent one, such as a day after
    the year 9999, it is Arrow's text."""
    try:
        values: list[Any] = column.to_pylist()
    except _NO_VALUE:
        values = [_python_value(column.slice(place, 1)) for place in range(len(column))]
    return values


def _python_value(one: pa.Array) -> Any:
    try:
        return one[0].as_py()
    except _NO_VALUE:
        pass
    if isinstance(one, pa.DictionaryArray):
        return _python_value(one.dictionary_decode())
    try:
        if getattr(one.type, "tz", None):  # Arrow may not know the zone either
            return f"{one.view(pa.timestamp(one.type.unit)).cast(pa.string())[0]}Z"
        return one.cast(pa.string())[0].as_py()
    except _NO_VALUE:
        text: str = one.to_string(skip_new_lines=True)  # of a list with this value
        return text.removeprefix("[").removesuffix("]")


def _why(error: Exception, kind: pa.DataType | None) -> str:
    zone = getattr(kind, "tz", None)
    if zone and "zoneinfo" in str(error):  # pyarrow calls every unknown zone a missing module
        return f"the time zone {zone} is unknown"
    return first_line(error)


def _readable(column: pa.DictionaryArray) -> pa.DictionaryArray:
    """Returns the same values in a form that Arrow's functions accept. They do not accept views,
    which polars uses."""
    if not kinds.is_string_view(column.dictionary.type):
        return column
    return pa.DictionaryArray.from_arrays(column.indices, column.dictionary.cast(pa.string()))


def _refuse_inexact(where: Input, name: str, column: pa.Array, first: int) -> None:
    """Refuses a whole number that a float cannot keep. `first` is the number of the first row."""
    kind = column.type
    if kind not in _INEXACT_FROM:
        return
    least = _INEXACT_FROM[kind]
    bounds = call("min_max", column.cast(pa.float64())).as_py()
    if not any(bound is not None and abs(bound) >= least for bound in bounds.values()):
        return
    for row, value in enumerate(column.to_pylist(), start=first):
        if value is not None and least <= abs(value) < _INEXACT_TO:
            raise Refused(
                f'{where} row {row}, column "{name}": the number {number_text(value)} is too long '
                f"for the type {kind}, so some of its digits may be wrong. Store the column as "
                "whole numbers or as text, before it becomes this type."
            )


def _is_uuid(kind: pa.DataType) -> bool:
    return getattr(kind, "extension_name", None) == "arrow.uuid"


def _step(batch: pa.RecordBatch) -> int:
    """Returns how many rows of a batch to turn into texts at once. A long value may be in all of
    them."""
    longest = 1
    for column in batch.columns:
        if isinstance(column, pa.DictionaryArray):
            texts = _readable(column).dictionary
            if is_text(texts.type):
                longest = max(longest, call("max", call("binary_length", texts)).as_py() or 0)
    return max(1, min(len(batch), BATCH_BYTES // longest))


def _text_of(
    where: Input, position: int, field: pa.Field, used: bool, found: Findings
) -> Callable[[Any], str]:
    """Returns the function that turns a value of this column into text. Lists and structs become
    JSON, and are refused if the column is used."""
    kind = field.type
    if isinstance(kind, pa.BaseExtensionType):
        kind = kind.storage_type
    if isinstance(kind, pa.DictionaryType):
        kind = kind.value_type
    known: list[tuple[Callable[[Any], bool], Callable[[Any], str]]] = [
        (kinds.is_string, str),
        (kinds.is_large_string, str),
        (kinds.is_string_view, str),
        (kinds.is_null, str),
        (kinds.is_boolean, boolean_text),
        (kinds.is_integer, str),
        (kinds.is_float16, _half),
        (kinds.is_float32, _single),
        (kinds.is_float64, _number),
        (kinds.is_decimal, _decimal),
        (kinds.is_date, _iso),
        (kinds.is_timestamp, _iso),
        (kinds.is_time, _iso),
    ]
    for is_kind, text in known:
        if is_kind(kind):
            return text
    if is_binary(kind):
        return bytes.decode if used else partial(_decoded, position, found)
    what = f"has the type {field.type}, which is not text, numbers or dates"
    if used:
        raise _not_text(where, field.name, what)
    found.flaws.setdefault(position, f"it {what}")
    nested = kinds.is_nested(kind)
    return partial(json.dumps, ensure_ascii=False, default=str) if nested else str


def _not_text(where: Input, name: str, what: str) -> Refused:
    return Refused(f'{where}: column "{name}" {what}. Remove the column or convert it to text.')


def _uuid(value: bytes) -> str:
    return str(UUID(bytes=value))


def _decoded(position: int, found: Findings, value: bytes) -> str:
    """Returns bytes of a column that is not used: as text, or else as hexadecimal digits."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        found.flaws[position] = "it has bytes that are not UTF-8 text"
        return value.hex()


def _number(value: float) -> str:
    """Returns the text of a float. NaN becomes empty, because some programs write it for an empty
    cell. Infinity raises ValueError, because it has no text."""
    if math.isinf(value):
        raise ValueError("an infinite number")
    return "" if math.isnan(value) else number_text(value)


def _single(value: float) -> str:
    """Returns the shortest digits that mean this 32-bit float: 0.1, not 0.10000000149011612."""
    return _number(float(str(np.float32(value))))


def _half(value: float) -> str:
    return _number(float(str(np.float16(value))))


def _decimal(value: Decimal) -> str:
    return format(value, "f")


def _iso(value: datetime | date | time | str) -> str:
    return value if isinstance(value, str) else value.isoformat()


def first_line(error: Exception) -> str:
    """Returns the first line of an error's message, or its kind."""
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
