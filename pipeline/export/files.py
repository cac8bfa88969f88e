"""Text and Parquet files of an export. Each is written next to its target and moved there."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.inputs.typed import JSON_TEXT
from pipeline.job.answer_columns import DATE, TEXT
from pipeline.results.answered_sheet import Exported
from pipeline.results.cells import cell_text
from pipeline.results.formulas import unformulaic
from pipeline.system import files

_ROW_GROUP_BYTES = 6 * 1024 * 1024
_ROW_GROUP_ROWS = 25_000
_encoded = json.JSONEncoder(ensure_ascii=False).encode  # `dumps` makes an encoder for each value
# JSON allows these unescaped, but readers that split lines by Unicode's rules would cut there.
_NOT_LINE_ENDS = {0x85: "\\u0085", 0x2028: "\\u2028", 0x2029: "\\u2029"}


def write_csv(exported: Exported, target: Path, excel_guard: bool) -> int:
    """Writes UTF-8 with a byte order mark, so that Excel reads it. A .tsv has tabs. A .csv has the
    separator of the sheet, because an Excel that wrote semicolons reads nothing else, but never
    tabs. Returns the number of cells that got a ' in front.
    """
    delimiter = "," if exported.delimiter == "\t" else exported.delimiter
    if target.suffix.lower() == ".tsv":
        delimiter = "\t"
    names = exported.schema.names
    added = [place for place, name in enumerate(names) if name in exported.kinds]
    guarded = 0
    with replacing(target) as raw:
        file = io.TextIOWrapper(raw, encoding="utf-8-sig", newline="")
        writer = csv.writer(file, delimiter=delimiter)
        writer.writerow(exported.headers or names)
        for batch in exported.batches():
            for row in rows_of(batch):
                cells = [cell_text(value) for value in row]
                if excel_guard:
                    for place in added:
                        cell = unformulaic(cells[place], delimiter)
                        guarded += cell != cells[place]
                        cells[place] = cell
                writer.writerow(cells)
        file.flush()
        file.detach()
    return guarded


def write_jsonl(exported: Exported, target: Path) -> None:
    """Writes one JSON object per line. Citations are lists of {title, url}. Columns of `columns:`
    have values of their types, with the digits of the answer."""
    columns = [
        (
            _encoded(field.name),
            may_lack := JSON_TEXT in (field.metadata or {}),
            may_lack or exported.types.get(field.name, TEXT) not in (TEXT, DATE),
        )
        for field in exported.schema
    ]
    with replacing(target) as file:
        for batch in exported.batches():
            for row in rows_of(batch):
                pairs = (
                    f"{key}: {value if is_json and value is not None else _encoded(value)}"
                    for (key, may_lack, is_json), value in zip(columns, row, strict=True)
                    if value is not None or not may_lack
                )
                line = f"{{{', '.join(pairs)}}}"
                file.write(line.translate(_NOT_LINE_ENDS).encode() + b"\n")


def write_parquet(exported: Exported, target: Path) -> None:
    """Writes Parquet with exact values, and citations as a list of structs."""
    with (
        replacing(target) as file,
        pq.ParquetWriter(file, exported.schema, compression="zstd") as writer,
    ):
        for table in _row_groups(exported):
            writer.write_table(table)


def _row_groups(exported: Exported) -> Iterator[pa.Table]:
    """The batches joined into larger row groups. One per two thousand rows is slow to read."""
    held: list[pa.RecordBatch] = []
    size = rows = 0
    for batch in exported.batches():
        held.append(batch)
        size += batch.nbytes
        rows += batch.num_rows
        if size >= _ROW_GROUP_BYTES or rows >= _ROW_GROUP_ROWS:
            yield pa.Table.from_batches(held, exported.schema)
            held, size, rows = [], 0, 0
    if held:
        yield pa.Table.from_batches(held, exported.schema)


def rows_of(batch: pa.RecordBatch) -> Iterator[tuple[Any, ...]]:
    """The rows of a batch as Python values."""
    return zip(*(column.to_pylist() for column in batch.columns), strict=True)


def replacing(target: Path) -> AbstractContextManager[BinaryIO]:
    """Opens the file of an export, which appears complete or not at all, with ordinary rights."""
    return files.replacing(target, 0o666)
