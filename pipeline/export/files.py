"""The kinds of file that an export can be. Each is written beside its place and moved there."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow.parquet as pq

from pipeline.export.table import ADDED, Exported

USUAL_NAMES = ADDED
_FORMULA = ("=", "+", "-", "@", "\t", "\r")
_BATCH_ROWS = 2000
# JSON may hold these as they are, but readers that split lines by Unicode's rules would cut there.
_NOT_LINE_ENDS = {0x85: "\\u0085", 0x2028: "\\u2028", 0x2029: "\\u2029"}


def write_csv(exported: Exported, target: Path, excel_guard: bool) -> int:
    """UTF-8 with a byte order mark, so that Excel reads it. How many cells were guarded."""
    own = len(exported.table.column_names) - len(exported.added)
    guarded = 0
    with _replacing(target) as raw:
        file = io.TextIOWrapper(raw, encoding="utf-8-sig", newline="")
        writer = csv.writer(file)
        writer.writerow(exported.table.column_names)
        for row in _rows(exported):
            cells = [_cell(value) for value in row]
            if excel_guard:
                for place in range(own, len(cells)):
                    if cells[place].startswith(_FORMULA):
                        cells[place] = "'" + cells[place]
                        guarded += 1
            writer.writerow(cells)
        file.flush()
        file.detach()
    return guarded


def write_jsonl(exported: Exported, target: Path, excel_guard: bool) -> int:
    """One JSON object a line; citations are lists of {title, url}."""
    names = exported.table.column_names
    with _replacing(target) as file:
        for row in _rows(exported):
            line = json.dumps(dict(zip(names, row, strict=True)), ensure_ascii=False)
            file.write(line.translate(_NOT_LINE_ENDS).encode() + b"\n")
    return 0


def write_parquet(exported: Exported, target: Path, excel_guard: bool) -> int:
    """Exact, with citations as a list of structs."""
    with _replacing(target) as file:
        pq.write_table(exported.table, file, compression="zstd")
    return 0


def _rows(exported: Exported) -> Iterator[tuple[Any, ...]]:
    for batch in exported.table.to_batches(max_chunksize=_BATCH_ROWS):
        yield from zip(*(column.to_pylist() for column in batch.columns), strict=True)


def _cell(value: Any) -> str:
    """Text as it is; citations one a line, as a title and an address."""
    if value is None:
        return ""
    if isinstance(value, list):
        return "\n".join(f"{c['title']} {c['url']}".strip() for c in value)
    return str(value)


@contextmanager
def _replacing(target: Path) -> Iterator[BinaryIO]:
    draft = target.with_name(f".{target.name}.draft")
    try:
        with draft.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        draft.replace(target)
    finally:
        draft.unlink(missing_ok=True)
