"""Where an export may be written: never over what is not one."""

from __future__ import annotations

import csv
import json
import sys
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.core.errors import NothingWritten
from pipeline.job.job import Job
from pipeline.results.answered_sheet import ADDED

_HEADER_WITHIN_ROWS = 50
CITATION_COLUMNS = ("row", "position", "url", "title", "domain")


def check_target(job: Job, target: Path, *, force: bool) -> None:
    """Raises where an export must not go. A file that is an earlier export, of any job, is
    replaced, as every night's is; any other only with `force`.

    Raises:
        Refused: over the input, into the run folder, without a folder, over a file of another kind.
    """
    where = target.resolve()
    if job.spec is not None and where == job.spec.input.resolve():
        raise NothingWritten(f"{target}: that is the job's input. Choose another file.")
    if where.is_relative_to(job.folder.path.resolve()):
        raise NothingWritten(f"{target}: the run folder is the runner's own. Choose another place.")
    if not where.parent.is_dir():
        raise NothingWritten(f"{target}: there is no folder {where.parent}. Make it first.")
    if where.is_dir():
        raise NothingWritten(f"{target}: is a folder. Name a file in it.")
    if where.exists() and not where.is_file():
        raise NothingWritten(f"{target}: is not a file. Name another place.")
    if not force and where.exists() and where.stat().st_size and not _is_export(where):
        raise NothingWritten(
            f"{target}: is there already and is not an earlier export. Choose another file, or "
            "say --force to replace it."
        )


def _is_export(path: Path) -> bool:
    """Whether a file has the columns that an export adds."""
    try:
        names = _COLUMNS_OF[path.suffix.lower()](path)
    except (OSError, ValueError, KeyError, csv.Error, pa.ArrowException, zipfile.BadZipFile):
        return False
    # Where the sheet had such a column itself, the added one has one more _ in front.
    plain = {name.lstrip("_") for name in names}
    return any(plain.issuperset(n.lstrip("_") for n in own) for own in (ADDED, CITATION_COLUMNS))


def _csv_columns(path: Path) -> list[str]:
    csv.field_size_limit(sys.maxsize)
    headers = []
    for delimiter in (",", ";", "\t"):
        with path.open(encoding="utf-8-sig", newline="") as file:
            headers.append(next(csv.reader(file, delimiter=delimiter), []))
    return max(headers, key=len)


def _jsonl_columns(path: Path) -> list[str]:
    with path.open(encoding="utf-8") as file:
        return list(json.loads(file.readline()))


def _parquet_columns(path: Path) -> list[str]:
    return list(pq.read_schema(path).names)


def _xlsx_columns(path: Path) -> list[str]:
    """Of the first row of any sheet that looks like a header of an export."""
    from openpyxl import load_workbook
    from openpyxl.utils.exceptions import InvalidFileException

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            book = load_workbook(path, read_only=True)
        except (InvalidFileException, TypeError) as error:
            raise ValueError(str(error)) from None
        try:
            for page in book.worksheets:
                for row in page.iter_rows(max_row=_HEADER_WITHIN_ROWS, values_only=True):
                    names = [str(value) for value in row]
                    if {"_error_code", "domain"}.intersection(names):
                        return names
        finally:
            book.close()
    return []


_COLUMNS_OF: dict[str, Callable[[Path], list[str]]] = {
    ".csv": _csv_columns,
    ".jsonl": _jsonl_columns,
    ".parquet": _parquet_columns,
    ".xlsx": _xlsx_columns,
}
