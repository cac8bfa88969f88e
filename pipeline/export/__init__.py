"""Exports: the user's sheet with every answer next to its row, in a new file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pipeline.core.errors import NothingWritten, StorageFailed
from pipeline.core.wording import nearest
from pipeline.export.citations import citations_table
from pipeline.export.files import write_csv, write_jsonl, write_parquet
from pipeline.export.target import check_target
from pipeline.inputs.formats import named_ending, open_table
from pipeline.job.job import Job
from pipeline.results.answered_sheet import (
    ADDED,
    FLAGS,
    AnsweredSheet,
    Exported,
    opened,
    sheet_table,
)

_WORKBOOKS = (".xlsx", ".xlsm")
KINDS = (".csv", ".xlsx", ".parquet", ".jsonl")


@dataclass(frozen=True, slots=True)
class Export:
    """The file that was written. `guarded` cells got a ' in front, so that no spreadsheet runs them
    as formulas. `renamed` are the added columns that could not have their usual name. `aside` texts
    were too long for a cell and are files next to the workbook. `lost` names what the copy of a
    workbook could not keep."""

    path: Path
    rows: int
    guarded: int = 0
    renamed: tuple[str, ...] = ()
    aside: int = 0
    lost: tuple[str, ...] = ()


def export_job(
    job: Job,
    target: Path,
    *,
    excel_guard: bool = True,
    flags: bool = False,
    force: bool = False,
) -> Export:
    """Writes the sheet as it is now with every answer next to its row. The ending of `target`
    chooses the format: .csv, .xlsx, .parquet or .jsonl. The file is written completely or not at
    all.

    To .xlsx, a workbook that the rows came from is copied, with the answers in new columns; from
    any other sheet a new workbook is made. `excel_guard` keeps spreadsheets from running cells of
    the added columns as formulas (in CSV; in a workbook they are text anyway). `flags` adds
    `_flags`, the flags of each answer. `force` replaces a file that is not an earlier export.

    Raises:
        Refused: before the first run; for a target that is the sheet, another file or in the run
            folder; for another ending; for more than Excel holds; and if the workbook was changed
            since the last run.
        StorageFailed: when an answer is missing, or the file cannot be written.
    """
    _check(job, target, force)
    with opened(job, target.absolute().parent, flags=flags) as source:
        exported = sheet_table(source)
        if target.suffix.lower() == ".xlsx":
            return _with_workbook(job, source, exported, target)
        return _written(exported, target, excel_guard, (*ADDED, FLAGS))


def export_citations(
    job: Job, target: Path, *, excel_guard: bool = True, force: bool = False
) -> Export:
    """Writes the citations of all answers, one row per citation: `row` of the sheet, `id` if the
    job has one, `position`, `url`, `title`, `domain`.

    Raises:
        Refused: as `export_job` does.
        StorageFailed: as `export_job` does.
    """
    _check(job, target, force)
    with opened(job, target.absolute().parent) as source:
        return _written(citations_table(source), target, excel_guard, ())


def _check(job: Job, target: Path, force: bool) -> None:
    if target.suffix.lower() not in KINDS:
        raise NothingWritten(
            f"{target}: the runner cannot write a file with {named_ending(target)}."
            f"{nearest(target.suffix, KINDS)} Use {', '.join(KINDS)}."
        )
    check_target(job, target, force=force)


def _written(exported: Exported, target: Path, guard: bool, usual: tuple[str, ...]) -> Export:
    kind = target.suffix.lower()
    guarded = aside = 0
    try:
        if kind == ".csv":
            guarded = write_csv(exported, target, guard)
        elif kind == ".jsonl":
            write_jsonl(exported, target)
        elif kind == ".parquet":
            write_parquet(exported, target)
        else:
            from pipeline.export.xlsx.workbook import write_workbook

            aside = write_workbook(exported, target, "citations", [])
    except OSError as error:
        raise _unwritable(target, error) from None
    renamed = tuple(n for n in exported.added if usual and n not in usual)
    return Export(target, exported.rows, guarded, renamed, aside)


def _with_workbook(job: Job, source: AnsweredSheet, exported: Exported, target: Path) -> Export:
    from pipeline.export.copying import write_copy
    from pipeline.export.xlsx.workbook import summary_rows, write_workbook

    summary = summary_rows(job, source.read, source.in_use)
    lost: tuple[str, ...] = ()
    try:
        if job.spec is not None and job.spec.input.suffix.lower() in _WORKBOOKS:
            table = open_table(job.spec)
            copied = write_copy(job.spec, table, source.snapshot, exported, target, summary)
            aside, lost = copied.aside, copied.lost
        else:
            aside = write_workbook(exported, target, job.name, summary)
    except OSError as error:
        raise _unwritable(target, error) from None
    renamed = tuple(n for n in exported.added if n not in (*ADDED, FLAGS))
    return Export(target, exported.rows, 0, renamed, aside, lost)


def _unwritable(target: Path, error: OSError) -> StorageFailed:
    return StorageFailed(
        f"{target}: the runner cannot write this file ({error.strerror or error}). The results "
        "are safe in the run folder. Make room there, or choose another place."
    )
