"""The answers going home: the sheet with its results beside it, in a file of the user's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import Refused, StorageFailed
from pipeline.export import files
from pipeline.export.table import Exported, export_table
from pipeline.job import Job
from pipeline.spec import nearest

_WRITERS: dict[str, Callable[[Exported, Path, bool], int]] = {
    ".csv": files.write_csv,
    ".parquet": files.write_parquet,
    ".jsonl": files.write_jsonl,
}


@dataclass(frozen=True, slots=True)
class Export:
    """What was written. `guarded` cells got a ' in front, so that no spreadsheet runs them;
    `renamed` are the added columns that could not have their usual name."""

    path: Path
    rows: int
    guarded: int
    renamed: tuple[str, ...]


def export_job(job: Job, target: Path, *, excel_guard: bool = True) -> Export:
    """Writes the sheet as it is now with every answer beside its row, as the ending of `target`
    says: .csv, .parquet or .jsonl. The file is there whole or not at all.

    `excel_guard` keeps spreadsheets from running cells of the added columns as formulas (CSV).

    Raises:
        Refused: before the first run, over the input, into the run folder, for another ending.
        StorageFailed: when an answer is missing, or the file cannot be written.
    """
    write = _WRITERS.get(target.suffix.lower())
    if write is None:
        raise Refused(
            f"{target}: cannot write a file with the ending {target.suffix!r}."
            f"{nearest(target.suffix, _WRITERS)} Use {', '.join(_WRITERS)}."
        )
    _check_target(job, target)
    exported = export_table(job)
    try:
        guarded = write(exported, target, excel_guard)
    except OSError as error:
        raise StorageFailed(
            f"{target}: cannot be written ({error.strerror or error}). The results are safe in "
            "the run folder."
        ) from None
    renamed = tuple(n for n in exported.added if n not in files.USUAL_NAMES)
    return Export(target, len(exported.table), guarded, renamed)


def _check_target(job: Job, target: Path) -> None:
    where = target.resolve()
    if job.spec is not None and where == job.spec.input.resolve():
        raise Refused(f"{target}: that is the job's input. Choose another file.")
    if where.is_relative_to(job.folder.path.resolve()):
        raise Refused(f"{target}: the run folder is the runner's own. Choose another place.")
    if not where.parent.is_dir():
        raise Refused(f"{target}: there is no folder {where.parent}. Make it first.")
