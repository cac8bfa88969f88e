"""Checks where an export may be written: only over an earlier export."""

from __future__ import annotations

import csv
import io
import os
import sys
from collections.abc import Callable, Iterator
from itertools import takewhile
from pathlib import Path

from pipeline.core.added_columns import USUAL, column_names, is_exported
from pipeline.core.errors import NothingWritten, Refused
from pipeline.job.exports import WrittenFile, read_exports
from pipeline.job.job import Job
from pipeline.system.opening import as_object, open_file
from pipeline.system.paths import resolved

_HEADER_WITHIN_ROWS = 50
# No header that the runner writes is longer. The first line of a .jsonl has an answer in it.
_HEADER_BYTES = 4 << 20
_LINE_BYTES = 16 << 20
CITATION_COLUMNS = ("row", "position", "url", "title", "domain")


def check_target(job: Job, target: Path, *, force: bool) -> None:
    """Checks that an export may be written to `target`. It may replace an earlier export, as a
    nightly run does, and any other file only with `force`.

    A file with all usual columns is an export of some job. One with fewer columns is an export only
    if this run folder noted that it wrote a file with those columns there.

    Raises:
        Refused: for the job's sheet, a place in the run folder, a folder that does not exist, and a
            file that is not an earlier export.
    """
    where = resolved(target)
    sheet = job.spec.input if job.spec is not None else None
    if isinstance(sheet, Path) and where == resolved(sheet):
        raise NothingWritten(f"{target}: this is the sheet of the job. Choose another file.")
    if where.is_relative_to(resolved(job.folder.path)):
        raise NothingWritten(f"{target}: this is inside the run folder. Choose another folder.")
    if not where.parent.is_dir():
        raise NothingWritten(f"{target}: the folder {where.parent} does not exist. Make it first.")
    if where.is_dir():
        raise NothingWritten(f"{target}: this is a folder. Name a file in it.")
    if where.exists() and not where.is_file():
        raise NothingWritten(f"{target}: this is not a file. Choose another place.")
    noted = read_exports(job.folder).files.get(str(where))
    if not force and where.exists() and where.stat().st_size and not _is_export(where, noted):
        raise NothingWritten(
            f"{target}: this file exists and is not an earlier export. Choose another file, or "
            "add --force to replace it."
        )


def _is_export(path: Path, noted: WrittenFile | None) -> bool:
    """Whether a file has the columns that an export adds. A file with anything odd in it is not an
    export: somebody else may have put it there."""
    try:
        headers = _HEADERS_OF[path.suffix.lower()](path)
        return any(_is_header(names) or (noted and noted.has(names)) for names in headers)
    except (OSError, ValueError, KeyError, RecursionError, csv.Error, Refused):
        return False


def _is_header(names: list[str]) -> bool:
    # Release 0.1 put one more _ in front where the sheet had a column of that name.
    plain = {name.lstrip("_") for name in names}
    usual = [name.lstrip("_") for name in column_names(USUAL)]
    return is_exported(names) or any(map(plain.issuperset, (usual, CITATION_COLUMNS)))


def _csv_headers(path: Path) -> Iterator[list[str]]:
    csv.field_size_limit(sys.maxsize)
    with open_file(path, follow=True) as file:
        text = file.read(_HEADER_BYTES).decode("utf-8-sig", "replace")
    for delimiter in ",;\t|":
        yield next(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter), [])


def _jsonl_headers(path: Path) -> Iterator[list[str]]:
    with open_file(path, follow=True) as file:
        line = file.readline(_LINE_BYTES)
    yield list(as_object(line))


# After each run and with each `status`, the runner proposes an export. It loads the readers of
# Parquet and workbooks only if a file of that kind is in the way.
def _parquet_headers(path: Path) -> Iterator[list[str]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    with open_file(path, follow=True) as file:
        file.seek(-8, os.SEEK_END)
        if int.from_bytes(file.read(4), "little") > _HEADER_BYTES:
            return
    try:
        names = pq.read_schema(path).names
    except pa.ArrowException as error:
        raise ValueError(f"not Parquet: {error}") from None
    yield list(names)


def _xlsx_headers(path: Path) -> Iterator[list[str]]:
    """The first rows of each worksheet."""
    from pipeline.inputs.xlsx.cells import sheet_rows
    from pipeline.inputs.xlsx.workbook import open_workbook

    with open_workbook(path) as workbook:
        for entry in workbook.sheets:
            with workbook.open_sheet(entry) as source, workbook.shared_texts() as texts:
                rows = sheet_rows(source, workbook, texts, lambda _: None)
                for row in takewhile(lambda row: row.number <= _HEADER_WITHIN_ROWS, rows):
                    yield [text for _, text in row.cells]


_HEADERS_OF: dict[str, Callable[[Path], Iterator[list[str]]]] = {
    ".csv": _csv_headers,
    ".tsv": _csv_headers,
    ".jsonl": _jsonl_headers,
    ".parquet": _parquet_headers,
    ".xlsx": _xlsx_headers,
    ".xlsm": _xlsx_headers,
}
