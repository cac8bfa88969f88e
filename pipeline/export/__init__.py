"""Exports: the user's sheet with every answer next to its row, in a new file."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Container, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.core.added_columns import (
    ALL_KINDS,
    ANSWER,
    FLAGS,
    KINDS,
    PARTS,
    REVIEWED,
    STATUS,
    USUAL,
    column_names,
    is_exported,
)
from pipeline.core.errors import NothingWritten, StorageFailed
from pipeline.core.wording import counted, nearest
from pipeline.export.citations import citations_table
from pipeline.export.files import write_csv, write_jsonl, write_parquet
from pipeline.export.versions import versions_table
from pipeline.inputs.formats import named_ending, open_table
from pipeline.inputs.stored import (
    Copy,
    find_snapshot,
    stored_batches,
    stored_columns,
    stored_kinds,
    stored_mapped,
)
from pipeline.inputs.typed import TYPED
from pipeline.job.chain import chain_of
from pipeline.job.exports import note_export
from pipeline.job.frame import Frame
from pipeline.job.job import Job
from pipeline.job.spec import JobSpec
from pipeline.job.stage import Stage
from pipeline.ledger import queries
from pipeline.ledger.reader import reading
from pipeline.results.answered_sheet import AnsweredSheet, Exported, opened, sheet_table
from pipeline.results.export_target import check_target
from pipeline.results.typed_rows import TypedRows, as_last_run, typed_rows
from pipeline.status.summary import summarize
from pipeline.system.paths import resolved

_TO_REVIEW = (ANSWER, PARTS, STATUS, FLAGS, *REVIEWED)
_MACROS = ".xlsm"
WORKBOOKS = (".xlsx", _MACROS)
_TEXTS = (".csv", ".tsv")
ENDINGS = (*_TEXTS, ".xlsx", ".parquet", ".jsonl")


@dataclass(frozen=True, slots=True)
class Export:
    """The file that was written. `guarded` cells got a ' in front, so that no spreadsheet runs them
    as formulas. `renamed` are the added columns that could not have their usual name. `aside` texts
    were too long for a cell and are files next to the workbook. `without_macros`: the workbook has
    macros, which an .xlsx cannot have."""

    path: Path
    rows: int
    guarded: int = 0
    renamed: tuple[str, ...] = ()
    aside: int = 0
    without_macros: bool = False


def export_job(
    job: Job,
    target: Path,
    *,
    excel_guard: bool = True,
    add: Collection[str] | None = None,
    flags: bool = False,
    force: bool = False,
    on_rows: Callable[[int, int], None] | None = None,
) -> Export:
    """Writes the sheet as it is now with every answer next to its row. The ending of `target`
    chooses the format: .csv, .tsv, .xlsx, .parquet or .jsonl. The file is written completely or not
    at all.

    To .parquet and .jsonl, the columns of a Parquet or JSON Lines sheet keep their types and
    values, and those of other sheets are texts.

    To .xlsx, a workbook that the rows came from is copied, with the answers in new columns and
    everything else as it was; from any other sheet a new workbook is made. A workbook with macros
    keeps them in an .xlsm. `excel_guard` keeps spreadsheets from running cells of
    the added columns as formulas (in CSV; in a workbook they are text anyway). `add` are the
    columns to add: "result", "columns", "citations", "status", "error_code", "error_message",
    "flags" and "review". The default is `add:` of the job file, or else all but the last two.
    `flags` adds the flags too.
    `force` replaces a file that is not an earlier export. `on_rows` is called after each few
    thousand rows, with the rows written so far and all rows.

    A column of the sheet is replaced only if an earlier export of this run folder added it.

    Raises:
        Refused: before the first run; for a target that is the sheet, another file or in the run
            folder; for another ending; for more than Excel holds; if the workbook was changed since
            the last run; for an unknown word in `add`; and if `add` leaves out the status while
            rows are ambiguous.
        StorageFailed: when an answer is missing, or the file cannot be written.
    """
    return _export(job, target, _kinds(job, add, flags), excel_guard, force, on_rows)


def export_review(
    job: Job,
    target: Path,
    *,
    excel_guard: bool = True,
    force: bool = False,
    on_rows: Callable[[int, int], None] | None = None,
) -> Export:
    """Writes a review sheet: the sheet with the answers, and for each a column to decide in.

    `review_from` reads the decisions in `_review` ("approved", "edited", "rejected" or "reset") and
    the texts in `_edit`. `_answer` names the answer that they are about, so the lines can be sorted
    or removed. The other columns are only to read.

    Raises:
        Refused: as `export_job` does.
        StorageFailed: as `export_job` does.
    """
    return _export(job, target, _TO_REVIEW, excel_guard, force, on_rows)


def _export(
    job: Job,
    target: Path,
    kinds: Collection[str],
    excel_guard: bool,
    force: bool,
    on_rows: Callable[[int, int], None] | None,
) -> Export:
    _check(job, target, force)
    with opened(job, target.absolute().parent, kinds) as source:
        _refuse_unguarded(job, source, target)
        spec = as_last_run(job, source.read)
        with_types = target.suffix.lower() == ".parquet"
        exported = sheet_table(source, _typed(spec, source, target), with_types=with_types)
        if on_rows is not None:
            exported = _watched(exported, on_rows)
        if target.suffix.lower() in WORKBOOKS:
            done = _with_workbook(job, spec, source, exported, target)
        else:
            done = _written(exported, target, excel_guard)
        of_sources = tuple(stored_kinds(source.snapshot))
    columns = exported.schema.names
    recognised = is_exported(columns)
    note_export(job.folder, exported.added, resolved(target), None if recognised else columns)
    if of_sources:  # the file may be the next sheet of the first job, which has to know its columns
        for earlier in chain_of(job)[:-1]:
            note_export(earlier.folder, (*of_sources, *exported.added))
    return replace(done, renamed=_renamed(job, exported))


def _typed(spec: JobSpec | None, source: AnsweredSheet, target: Path) -> TypedRows | None:
    """The rows of the sheet with their own types, for a file with types."""
    kind = target.suffix.lower()
    if spec is None or kind not in TYPED:
        return None
    return typed_rows(spec, source.snapshot, f"An export to {kind}", as_json=kind == ".jsonl")


def _kinds(job: Job, add: Collection[str] | None, flags: bool) -> tuple[str, ...]:
    """The kinds of columns to add: those of the call, else of the job file, else the usual ones."""
    given = job.spec.add if job.spec is not None and add is None else add
    chosen = USUAL if given is None else tuple(given)
    for word in chosen:
        if word not in KINDS:
            raise NothingWritten(
                f'An export cannot add "{word}".{nearest(word, KINDS)} It can add '
                f"{', '.join(KINDS)}."
            )
    if not chosen:
        raise NothingWritten(f"Name the columns to add: {', '.join(KINDS)}.")
    return (*chosen, FLAGS) if flags else chosen


def _refuse_unguarded(job: Job, source: AnsweredSheet, target: Path) -> None:
    """Refuses an export without a status while rows are ambiguous. Used as the sheet of another
    job, it would have them sent again."""
    if STATUS in source.kinds.values():
        return
    ambiguous = summarize(job, source.read(queries.counts), in_use=source.in_use).ambiguous
    ambiguous += len(source.unknown.rows(source.snapshot)) if source.unknown else 0
    if ambiguous:
        one = ambiguous == 1
        raise NothingWritten(
            f"{target}: {counted(ambiguous, 'row')} {'is' if one else 'are'} ambiguous and may be "
            f"paid. A run that uses a file without a status as its sheet would send "
            f"{'it' if one else 'them'} again. Nothing was written. Add `status` to the columns, "
            f"or decide about the {'row' if one else 'rows'} first. The report shows how: "
            f"{job.command('report')}"
        )


def _renamed(job: Job, exported: Exported) -> tuple[str, ...]:
    """The added columns, if they could not have their usual names."""
    usual = (job.spec.column_names if job.spec else column_names)(ALL_KINDS)
    return () if exported.kinds.keys() <= usual.keys() else exported.added


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
        return _written(citations_table(source), target, excel_guard)


def export_versions(
    job: Job, target: Path, *, excel_guard: bool = True, force: bool = False
) -> Export:
    """Writes every paid answer, one row per answer: `row` of the sheet, `id` if the job has one,
    `version`, `sent_at`, the answer as it was paid, its citations, and `review`: the decision of a
    person about it. A row that was asked for again has several.

    Raises:
        Refused: as `export_job` does.
        StorageFailed: as `export_job` does.
    """
    _check(job, target, force)
    with opened(job, target.absolute().parent) as source:
        return _written(versions_table(job, source), target, excel_guard)


def _check(job: Job, target: Path, force: bool) -> None:
    ending = target.suffix.lower()
    is_copy = ending == _MACROS and job.sheet is not None and job.sheet.suffix.lower() == _MACROS
    if ending not in ENDINGS and not is_copy:
        raise NothingWritten(
            f"{target}: the runner cannot write a file with {named_ending(target)}."
            f"{nearest(target.suffix, ENDINGS)} Use {', '.join(ENDINGS)}."
        )
    check_target(job, target, force=force)


def _written(exported: Exported, target: Path, guard: bool) -> Export:
    kind = target.suffix.lower()
    guarded = aside = 0
    try:
        if kind in _TEXTS:
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
    return Export(target, exported.rows, guarded, aside=aside)


def _watched(exported: Exported, on_rows: Callable[[int, int], None]) -> Exported:
    """The same table. Calls `on_rows` when a batch is written and the next one is asked for."""

    def batches() -> Iterator[pa.RecordBatch]:
        rows = 0
        for batch in exported.batches():
            yield batch
            rows += batch.num_rows
            on_rows(rows, exported.rows)

    return replace(exported, batches=batches)


def _with_workbook(
    job: Job, spec: JobSpec | None, source: AnsweredSheet, exported: Exported, target: Path
) -> Export:
    from pipeline.export.xlsx.summary import summary_rows
    from pipeline.export.xlsx.typed import kinds_of_schema, kinds_of_texts, kinds_of_types
    from pipeline.export.xlsx.workbook import write_workbook

    summary, without_macros = summary_rows(job, source.read, source.in_use), False
    try:
        home = _home(job, spec, source.snapshot)
        if home is not None and home.spec.file.suffix.lower() in WORKBOOKS:
            from pipeline.export.xlsx.copying import write_copy

            added = {**stored_kinds(source.snapshot), **exported.kinds}
            renewed = frozenset(name for name in added if name in home.columns)
            copied = write_copy(
                home.spec,
                open_table(home.spec),
                source.snapshot,
                replace(exported, kinds=added, renewed=renewed),
                kinds_of_types(exported.types),
                target,
                summary,
                home.sent,
                job.name,
            )
            aside, without_macros = copied.aside, copied.without_macros
        else:
            sent = _sent(job, source.snapshot)
            kinds = kinds_of_schema(_schema(spec), sent)
            texts = _own_texts(source.snapshot, exported, kinds)
            kinds |= kinds_of_texts(texts, sent) | kinds_of_types(exported.types)
            aside = write_workbook(exported, target, job.name, summary, kinds)
    except OSError as error:
        raise _unwritable(target, error) from None
    return Export(target, exported.rows, aside=aside, without_macros=without_macros)


@dataclass(frozen=True, slots=True)
class _Home:
    """The file that the rows come from. `columns` are those that it had at the last run of the job
    that names it, and `sent` those whose texts decided what was sent then."""

    spec: JobSpec
    columns: tuple[str, ...]
    sent: tuple[str, ...]


def _home(job: Job, spec: JobSpec | None, snapshot: Copy) -> _Home | None:
    """Where the rows come from, None without a file. The rows of a stage come from the file of the
    first job of the chain."""
    if spec is None or isinstance(spec.input, Frame):
        return None
    if isinstance(spec.input, Stage):
        first = chain_of(job)[0]
        with reading(first.folder.ledger) as read:
            found = find_snapshot(first.folder.snapshots, read(queries.meta(queries.SNAPSHOT)))
            spec = as_last_run(first, read)
        if found is None or spec is None or isinstance(spec.input, Frame):
            return None
        snapshot = found
    columns = stored_columns(snapshot)
    sent = (*stored_mapped(snapshot), *([spec.id] if spec.id in columns else []))
    return _Home(spec, columns, sent)


def _sent(job: Job, snapshot: Copy) -> frozenset[str]:
    """The columns whose texts decide what a run sends."""
    wanted = {*stored_mapped(snapshot)}
    if job.spec is not None:
        wanted |= {job.spec.id or "", *(condition.column for condition in job.spec.where)}
    return frozenset(wanted)


def _schema(spec: JobSpec | None) -> pa.Schema:
    """The types of the columns of the sheet, if it has types and is still there."""
    sheet = spec.input if spec is not None else None
    if isinstance(sheet, Path) and sheet.suffix.lower() == ".parquet":
        with contextlib.suppress(OSError, pa.ArrowException):
            return pq.read_schema(sheet)
    return pa.schema([])


def _own_texts(
    snapshot: Copy, exported: Exported, known: Container[str]
) -> Iterator[dict[str, pa.Array]]:
    """The columns of the sheet whose kind is not `known`, batch by batch."""
    columns = stored_columns(snapshot)
    wanted = [n for n in columns if n not in exported.kinds and n not in known]
    for batch in stored_batches(snapshot):
        there = dict(zip(columns, batch.columns, strict=True))
        yield {name: there[name] for name in wanted}


def _unwritable(target: Path, error: OSError) -> StorageFailed:
    return StorageFailed(
        f"{target}: the runner cannot write this file ({error.strerror or error}). The results "
        "are safe in the run folder. Make room there, or choose another place."
    )
