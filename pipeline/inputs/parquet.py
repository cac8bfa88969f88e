"""Parquet sheets: every value as the text that a person would write for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import date, datetime, time
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pyarrow.types as kinds

from pipeline.errors import Refused
from pipeline.inputs.table import BATCH_ROWS, Batch, Table
from pipeline.spec import JobSpec


def open_parquet(spec: JobSpec) -> Table:
    """A Parquet file: nulls are empty, integers have no `.0`, times are ISO 8601."""
    path = spec.input
    try:
        file = pq.ParquetFile(path)
        schema = file.schema_arrow
    except (pa.ArrowException, OSError) as error:
        raise Refused(
            f"{path}: not readable as Parquet ({_first_line(error)}). Nothing was sent."
        ) from None
    texts = [_text_of(spec, field) for field in schema]

    def batches() -> Iterator[Batch]:
        first = 1
        stream = file.iter_batches(batch_size=BATCH_ROWS)
        while True:
            try:
                batch = next(stream, None)
                if batch is None:
                    return
                batch.validate(full=True)
                columns = [
                    ["" if value is None else text(value) for value in column.to_pylist()]
                    for text, column in zip(texts, batch.columns, strict=True)
                ]
            except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
                raise Refused(
                    f"{path} rows {first} to {first + BATCH_ROWS - 1}: damaged or not text "
                    f"({_first_line(error)}). Nothing was sent."
                ) from None
            yield Batch(columns, list(range(first, first + batch.num_rows)))
            first += batch.num_rows

    return Table(path, tuple(schema.names), "row", batches)


def _text_of(spec: JobSpec, field: pa.Field) -> Callable[[Any], str]:
    kind = field.type
    if isinstance(kind, pa.DictionaryType):
        kind = kind.value_type
    known: list[tuple[Callable[[Any], bool], Callable[[Any], str]]] = [
        (kinds.is_string, str),
        (kinds.is_large_string, str),
        (kinds.is_string_view, str),
        (kinds.is_null, str),
        (kinds.is_boolean, _boolean),
        (kinds.is_integer, str),
        (kinds.is_floating, _number),
        (kinds.is_decimal, _decimal),
        (kinds.is_date, _iso),
        (kinds.is_timestamp, _iso),
        (kinds.is_time, _iso),
    ]
    for is_kind, text in known:
        if is_kind(kind):
            return text
    raise Refused(
        f'{spec.input}: column "{field.name}" holds {field.type}, not text, numbers or dates. '
        "Remove it or turn it into text. Nothing was sent."
    )


def _boolean(value: bool) -> str:
    return "TRUE" if value else "FALSE"


def _number(value: float) -> str:
    """Whole numbers without `.0`: pandas makes floats of integers beside a blank."""
    return str(int(value)) if value.is_integer() and abs(value) < 2**53 else repr(value)


def _decimal(value: Decimal) -> str:
    return format(value, "f")


def _iso(value: datetime | date | time) -> str:
    return value.isoformat()


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
