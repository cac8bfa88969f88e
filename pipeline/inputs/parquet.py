"""Reads Parquet sheets. Every value becomes the text that a person would write for it."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from datetime import date, datetime, time
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple
from uuid import UUID

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pyarrow.types as kinds

from pipeline.core.errors import Refused
from pipeline.inputs.mapping import used_columns
from pipeline.inputs.pages import (
    BATCH_BYTES,
    is_binary,
    is_text,
    look_through,
    refuse_too_much,
)
from pipeline.inputs.table import Batch, Findings, Table, distinct_names, refuse_too_wide
from pipeline.inputs.values import boolean_text, number_text
from pipeline.job.spec import JobSpec

# pyarrow raises these for files that are not Parquet, are damaged, or contain values that Python
# cannot represent: years beyond 9999, unknown time zones.
_UNREADABLE = (pa.ArrowException, OSError, ValueError, OverflowError, MemoryError, KeyError)

_NANOSECONDS = pa.time64("ns")  # it has more digits than Python's own time

Piece = tuple[pa.RecordBatch, Batch]
"""Consecutive rows, with their own types and as texts."""


def open_parquet(spec: JobSpec) -> Table:
    """Opens a Parquet file. Nulls become empty, integers have no `.0`, and times are ISO 8601."""
    opened = open_pieces(spec)
    return Table(
        spec.input,
        tuple(opened.schema.names),
        "row",
        lambda: (texts for _, texts in opened.pieces()),
        headers=opened.headers,
        found=opened.found,
    )


class OpenFile(NamedTuple):
    """An open Parquet file: its names as they are in the file, its schema with names that are all
    different, what was noted about its columns, and its rows."""

    headers: tuple[str, ...]
    schema: pa.Schema
    found: Findings
    pieces: Callable[[], Iterator[Piece]]


def open_pieces(spec: JobSpec) -> OpenFile:
    """Opens a Parquet file, for its rows with their own types and as texts."""
    path = spec.input
    try:
        file = pq.ParquetFile(path, page_checksum_verification=True)
        schema = file.schema_arrow
        refuse_too_wide(path, schema.names)
        batch_rows, long_texts = look_through(path, file.metadata, schema)
        if long_texts:
            file = pq.ParquetFile(path, page_checksum_verification=True, read_dictionary=long_texts)
    except _UNREADABLE as error:
        raise Refused(
            f"{path}: the file is not readable as Parquet ({_first_line(error)}). Copy it again "
            "from its source."
        ) from None
    names = distinct_names(schema.names)
    named = pa.schema(
        [field.with_name(name) for field, name in zip(schema, names, strict=True)], schema.metadata
    )
    used, found = used_columns(spec, names), Findings()
    uuids = {leaf.path for leaf in _leaves(file) if str(leaf.logical_type) == "UUID"}
    texts = [
        _uuid if field.name in uuids else _text_of(path, position, field, position in used, found)
        for position, field in enumerate(schema)
    ]

    def pieces() -> Iterator[Piece]:
        first, unpacked = 1, 0
        stream = file.iter_batches(batch_size=batch_rows)
        while True:
            where = f"{path} rows {first} to {min(first + batch_rows - 1, file.metadata.num_rows)}"
            try:
                batch = next(stream, None)
                if batch is None:
                    return
                step = _step(batch)
                for start in range(0, len(batch), step):
                    columns, own = [], []
                    piece = batch.slice(start, step)
                    for field, text, column in zip(schema, texts, piece.columns, strict=True):
                        name = field.name
                        where = f'{path} rows {first} to {first + len(piece) - 1}, column "{name}"'
                        column.validate(full=True)
                        typed = column
                        if isinstance(column, pa.ExtensionArray):
                            column = column.storage
                        if isinstance(column, pa.DictionaryArray):
                            column = column.dictionary_decode()
                            if is_text(column.type):
                                unpacked += column.nbytes
                                refuse_too_much(path, unpacked)
                        own.append(typed if typed.type == field.type else column)
                        if column.type == _NANOSECONDS:
                            column = column.cast(pa.string())
                        columns.append(["" if v is None else text(v) for v in column.to_pylist()])
                    places = list(range(first, first + len(piece)))
                    yield pa.record_batch(own, schema=named), Batch(columns, places)
                    first += len(piece)
            except _UNREADABLE as error:
                raise Refused(
                    f"{where}: a value is damaged or cannot become text ({_first_line(error)}). "
                    "Write the file again without it."
                ) from None

    return OpenFile(tuple(schema.names), named, found, pieces)


def _leaves(file: pq.ParquetFile) -> list[pq.ColumnSchema]:
    return [file.schema.column(place) for place in range(len(file.schema.names))]


def _step(batch: pa.RecordBatch) -> int:
    """Returns how many rows of a batch to turn into texts at once. A long value may be in all of
    them."""
    longest = 1
    for column in batch.columns:
        if isinstance(column, pa.DictionaryArray) and is_text(column.dictionary.type):
            longest = max(longest, pc.max(pc.binary_length(column.dictionary)).as_py() or 0)
    return max(1, min(len(batch), BATCH_BYTES // longest))


def _text_of(
    path: Path, position: int, field: pa.Field, used: bool, found: Findings
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
        raise Refused(
            f'{path}: column "{field.name}" {what}. Remove the column or convert it to text.'
        )
    found.flaws[position] = f"it {what}"
    nested = kinds.is_nested(kind)
    return partial(json.dumps, ensure_ascii=False, default=str) if nested else str


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


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
