"""Parquet sheets: every value as the text that a person would write for it."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from datetime import date, datetime, time
from decimal import Decimal
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pyarrow.types as kinds

from pipeline.errors import Refused
from pipeline.inputs.table import BATCH_ROWS, Batch, Table
from pipeline.inputs.values import boolean_text, number_text
from pipeline.plan import bind
from pipeline.spec import JobSpec

# What pyarrow raises for files that are no Parquet, are damaged, or hold values that Python has
# no object for: years beyond 9999, unknown time zones.
_UNREADABLE = (pa.ArrowException, OSError, ValueError, OverflowError, MemoryError, KeyError)

_NANOSECONDS = pa.time64("ns")  # more digits than Python's own time has


def open_parquet(spec: JobSpec) -> Table:
    """A Parquet file: nulls are empty, integers have no `.0`, times are ISO 8601."""
    path = spec.input
    try:
        file = pq.ParquetFile(path, page_checksum_verification=True)
        schema = file.schema_arrow
    except _UNREADABLE as error:
        raise Refused(
            f"{path}: not readable as Parquet ({_first_line(error)}). Copy it again from where it "
            "came from. Nothing was sent."
        ) from None
    names = tuple(schema.names)
    sent = {names[position] for position in bind(spec, names).mapped} | {spec.id}
    texts = [_text_of(spec, field, field.name in sent) for field in schema]

    def batches() -> Iterator[Batch]:
        first = 1
        stream = file.iter_batches(batch_size=BATCH_ROWS)
        while True:
            where = f"{path} rows {first} to {min(first + BATCH_ROWS - 1, file.metadata.num_rows)}"
            try:
                batch = next(stream, None)
                if batch is None:
                    return
                columns = []
                for name, text, column in zip(names, texts, batch.columns, strict=True):
                    where = f'{path} rows {first} to {first + len(batch) - 1}, column "{name}"'
                    column.validate(full=True)
                    if column.type == _NANOSECONDS:
                        column = column.cast(pa.string())
                    columns.append(["" if v is None else text(v) for v in column.to_pylist()])
            except _UNREADABLE as error:
                raise Refused(
                    f"{where}: damaged, or no text that can be sent ({_first_line(error)}). "
                    "Nothing was sent."
                ) from None
            yield Batch(columns, list(range(first, first + len(batch))))
            first += len(batch)

    return Table(path, names, "row", batches)


def _text_of(spec: JobSpec, field: pa.Field, sent: bool) -> Callable[[Any], str]:
    """What makes a text of a value; of lists and structs JSON, as long as they are not sent."""
    kind = field.type
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
    if kinds.is_nested(kind) and not sent:
        return partial(json.dumps, ensure_ascii=False, default=str)
    raise Refused(
        f'{spec.input}: column "{field.name}" holds {field.type}, not text, numbers or dates. '
        "Remove it or turn it into text. Nothing was sent."
    )


def _number(value: float) -> str:
    """NaN is how some programs write nothing; there is no text for infinity."""
    if math.isinf(value):
        raise ValueError("an infinite number")
    return "" if math.isnan(value) else number_text(value)


def _single(value: float) -> str:
    """The digits that mean this number among those of 32 bits: 0.1, not 0.10000000149011612."""
    return _number(float(str(np.float32(value))))


def _half(value: float) -> str:
    return _number(float(str(np.float16(value))))


def _decimal(value: Decimal) -> str:
    return format(value, "f")


def _iso(value: datetime | date | time | str) -> str:
    return value if isinstance(value, str) else value.isoformat()


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
