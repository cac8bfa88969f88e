"""Checks where an export may be written: only over an earlier export."""

from __future__ import annotations

import csv
import io
import os
import sys
from collections.abc import Callable
from itertools import takewhile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.core.errors import NothingWritten, Refused
from pipeline.inputs.xlsx.cells import sheet_rows
from pipeline.inputs.xlsx.workbook import open_workbook
from pipeline.job.job import Job
from pipeline.results.answered_sheet import ADDED
from pipeline.system.opening import as_object, open_file
from pipeline.system.paths import resolved

_HEADER_WITHIN_ROWS = 50
# No header that the runner writes is longer. The first line of a .jsonl has an answer in it.
_HEADER_BYTES = 4 << 20
_LINE_BYTES = 16 << 20
CITATION_COLUMNS = ("row", "position", "url", "title", "domain")


def check_target(job: Job, target: Path, *, force: bool) -> None:
    """Checks that an export may be written to `target`. It may replace an earlier export of any
    job, as a nightly run does, and any other file only with `force`.

    Raises:
        Refused: for the job's sheet, a place in the run folder, a folder that does not exist, and a
            file that is not an earlier export.
    """
    where = resolved(target)
    if job.spec is not None and where == resolved(job.spec.input):
        raise NothingWritten(f"{target}: this is the sheet of the job. Choose another file.")
    if where.is_relative_to(resolved(job.folder.path)):
        raise NothingWritten(f"{target}: this is inside the run folder. Choose another folder.")
    if not where.parent.is_dir():
        raise NothingWritten(f"{target}: the folder {where.parent} does not exist. Make it first.")
    if where.is_dir():
        raise NothingWritten(f"{target}: this is a folder. Name a file in it.")
    if where.exists() and not where.is_file():
        raise NothingWritten(f"{target}: this is not a file. Choose another place.")
    if not force and where.exists() and where.stat().st_size and not _is_export(where):
        raise NothingWritten(
            f"{target}: this file exists and is not an earlier export. Choose another file, or "
            "add --force to replace it."
        )


def _is_export(path: Path) -> bool:
    """Whether a file has the columns that an export adds. A file with anything odd in it is not an
    export: somebody else may have put it there."""
    try:
        names = _COLUMNS_OF[path.suffix.lower()](path)
    except (OSError, ValueError, KeyError, RecursionError, csv.Error, pa.ArrowException, Refused):
        return False
    # If the sheet had a column of that name, the added one has one more _ in front.
    plain = {name.lstrip("_") for name in names}
    return any(plain.issuperset(n.lstrip("_") for n in own) for own in (ADDED, CITATION_COLUMNS))


def _csv_columns(path: Path) -> list[str]:
    csv.field_size_limit(sys.maxsize)
    with open_file(path, follow=True) as file:
        text = file.read(_HEADER_BYTES).decode("utf-8-sig", "replace")
    headers = (next(csv.reader(io.StringIO(text, newline=""), delimiter=one), []) for one in ",;\t")
    return max(headers, key=len)


def _jsonl_columns(path: Path) -> list[str]:
    with open_file(path, follow=True) as file:
        line = file.readline(_LINE_BYTES)
    return list(as_object(line))


def _parquet_columns(path: Path) -> list[str]:
    with open_file(path, follow=True) as file:
        file.seek(-8, os.SEEK_END)
        if int.from_bytes(file.read(4), "little") > _HEADER_BYTES:
            return []
    return list(pq.read_schema(path).names)


def _xlsx_columns(path: Path) -> list[str]:
    """The first row, in any worksheet, that looks like the header of an export."""
    with open_workbook(path) as workbook:
        for entry in workbook.sheets:
            with workbook.open_sheet(entry) as source, workbook.shared_texts() as texts:
                rows = sheet_rows(source, workbook, texts, lambda _: None)
                for row in takewhile(lambda row: row.number <= _HEADER_WITHIN_ROWS, rows):
                    names = [text for _, text in row.cells]
                    if {"_error_code", "domain"}.intersection(names):
                        return names
    return []


_COLUMNS_OF: dict[str, Callable[[Path], list[str]]] = {
    ".csv": _csv_columns,
    ".jsonl": _jsonl_columns,
    ".parquet": _parquet_columns,
    ".xlsx": _xlsx_columns,
}
