"""Reads Parquet and JSON Lines sheets again with the types of their values.

The copy of a sheet in the run folder has only texts. An export to a file with types takes the
values from the sheet itself, row by row, and compares their texts with that copy.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.types as kinds

from pipeline.core.errors import Refused
from pipeline.inputs.arrow import array_of
from pipeline.inputs.arrow_rows import Piece, python_values
from pipeline.inputs.frame import open_frame_rows
from pipeline.inputs.jsonl import (
    SAVED_MEANWHILE,
    AsWritten,
    encoded,
    json_text,
    names_in,
    objects_in,
)
from pipeline.inputs.parquet import open_pieces
from pipeline.inputs.table import batched
from pipeline.inputs.values import boolean_text, number_text
from pipeline.job.frame import Frame
from pipeline.job.spec import JobSpec
from pipeline.job.stage import Input

JSON_TEXT = b"pipeline.json"
"""Marks a field whose texts are JSON. Null means that the line does not have this name."""
TYPED = (".parquet", ".jsonl")
"""The endings of sheets with types."""
_INT64 = 1 << 63


@dataclass(frozen=True, slots=True)
class TypedTable:
    """An open sheet with its own types. `pieces` yields consecutive rows, also as texts, and each
    call reads the file from its beginning. `place_word` says what a place counts."""

    input: Input
    place_word: str
    schema: pa.Schema
    pieces: Callable[[], Iterator[Piece]]


def open_typed(spec: JobSpec, *, as_json: bool = False) -> TypedTable:
    """Opens the sheet of `spec` with its own types, or with the JSON text of each value. It is a
    frame, or its kind is one of `TYPED`.

    Raises:
        Refused: as `open_table`.
    """
    if isinstance(spec.input, Frame) or spec.file.suffix.lower() == ".parquet":
        is_frame = isinstance(spec.input, Frame)
        _, schema, _, pieces = open_frame_rows(spec) if is_frame else open_pieces(spec)
        if not as_json:
            return TypedTable(spec.input, "row", schema, pieces)
        return TypedTable(spec.input, "row", _of_json(schema.names), lambda: _as_json(pieces()))
    names = names_in(spec)
    if as_json:
        schema = _of_json(names)
        return TypedTable(spec.file, "line", schema, lambda: _fragments(spec, names, schema))
    schema = _inferred(spec, names)
    return TypedTable(spec.file, "line", schema, lambda: _typed(spec, names, schema))


def _of_json(names: Sequence[str]) -> pa.Schema:
    return pa.schema([pa.field(n, pa.large_string(), metadata={JSON_TEXT: b""}) for n in names])


def _as_json(pieces: Iterator[Piece]) -> Iterator[Piece]:
    for batch, texts in pieces:
        columns = [
            _written(write, column, cells)
            for write, column, cells in zip(
                map(_writer, batch.schema),
                map(_readable, batch.columns),
                texts.columns,
                strict=True,
            )
        ]
        yield _json_batch(columns, _of_json(batch.schema.names)), texts


def _written(
    write: Callable[[Any, str], str], column: pa.Array, cells: Sequence[str]
) -> list[str | None]:
    values = zip(python_values(column), cells, strict=True)
    return ["null" if value is None else write(value, text) for value, text in values]


def _readable(column: pa.Array) -> pa.Array:
    """A column whose values Python can represent. It has no times in nanoseconds."""
    return column.cast(pa.string()) if column.type == pa.time64("ns") else column


def _json_batch(columns: list[list[str | None]], schema: pa.Schema) -> pa.RecordBatch:
    arrays = [array_of(column, pa.large_string()) for column in columns]
    return pa.record_batch(arrays, schema=schema)


def _writer(field: pa.Field) -> Callable[[Any, str], str]:
    """The function that writes a value as JSON. It gets the value and its text."""
    kind = field.type
    if isinstance(kind, pa.DictionaryType):
        kind = kind.value_type
    if kinds.is_boolean(kind):
        return lambda value, _: "true" if value else "false"
    if kinds.is_integer(kind) or kinds.is_floating(kind) or kinds.is_decimal(kind):
        return lambda value, text: text if text and math.isfinite(value) else "null"
    if kinds.is_nested(kind):
        return lambda value, _: json.dumps(_finite(value), ensure_ascii=False, default=str)
    return lambda _, text: encoded(text)


def _finite(value: Any) -> Any:
    """The value without numbers that JSON does not have."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {name: _finite(inner) for name, inner in value.items()}
    return [_finite(inner) for inner in value] if isinstance(value, list | tuple) else value


def _lines(
    spec: JobSpec, names: tuple[str, ...], made: Callable[[list[dict[str, Any]]], pa.RecordBatch]
) -> Iterator[Piece]:
    """The rows of a file of JSON objects, with the batch that `made` makes of their objects."""
    held: list[dict[str, Any]] = []

    def rows() -> Iterator[tuple[int, list[str]]]:
        for place, texts, line in objects_in(spec, names):
            held.append(line)
            yield place, texts

    for batch in batched(rows(), len(names)):
        yield made(held), batch
        held.clear()


def _fragments(spec: JobSpec, names: tuple[str, ...], schema: pa.Schema) -> Iterator[Piece]:
    def made(lines: list[dict[str, Any]]) -> pa.RecordBatch:
        columns = [
            [json_text(line[name]) if name in line else None for line in lines] for name in names
        ]
        return _json_batch(columns, schema)

    return _lines(spec, names, made)


def _typed(spec: JobSpec, names: tuple[str, ...], schema: pa.Schema) -> Iterator[Piece]:
    def made(lines: list[dict[str, Any]]) -> pa.RecordBatch:
        arrays = [
            array_of([_value(spec.file, line.get(f.name), f.type) for line in lines], f.type)
            for f in schema
        ]
        return pa.record_batch(arrays, schema=schema)

    return _lines(spec, names, made)


def _value(path: Path, value: Any, kind: pa.DataType) -> Any:
    """A value of a line as one of the column's type."""
    if value is None:
        return None
    if kind in _KEEPS:
        if not _KEEPS[kind](value):
            raise Refused(f"{path}: {SAVED_MEANWHILE}")
        return {pa.int64(): int, pa.float64(): float, pa.bool_(): bool}[kind](value)
    if isinstance(value, bool):
        return boolean_text(value)
    return str(value) if isinstance(value, str) else json_text(value)


def _inferred(spec: JobSpec, names: tuple[str, ...]) -> pa.Schema:
    """The narrowest type of each column that keeps the text of all its values."""
    possible = {name: [pa.int64(), pa.float64(), pa.bool_()] for name in names}
    seen: set[str] = set()
    for _, _, line in objects_in(spec, names):
        for name, value in line.items():
            if value is None:
                continue
            seen.add(name)
            if possible[name]:
                possible[name] = [kind for kind in possible[name] if _KEEPS[kind](value)]
    return pa.schema(
        [pa.field(n, possible[n][0] if n in seen and possible[n] else pa.string()) for n in names]
    )


def _is_int64(value: Any) -> bool:
    return (
        isinstance(value, AsWritten)
        and len(value) <= 20
        and value.removeprefix("-").isdecimal()
        and -_INT64 <= int(value) < _INT64
        and str(int(value)) == value
    )


def _is_double(value: Any) -> bool:
    if not isinstance(value, AsWritten) or len(value) > 40:
        return False
    number = float(value)
    return math.isfinite(number) and number_text(number) == value


_KEEPS: dict[pa.DataType, Callable[[Any], bool]] = {
    pa.int64(): _is_int64,
    pa.float64(): _is_double,
    pa.bool_(): lambda value: isinstance(value, bool),
}
