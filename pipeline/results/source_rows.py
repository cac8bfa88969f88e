"""The rows of one job, each with its answer, as the sheet of another job.

The other job reads what an export shows: of each row the last finished answer, also while a newer
version of it is on its way. Such a row waits, and so does a row without an answer.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from itertools import islice
from pathlib import Path

import numpy as np

from pipeline.core.added_columns import KINDS, STATUS, part_of
from pipeline.core.errors import Refused
from pipeline.core.model import State
from pipeline.core.review import REJECTED, Decision, Standing
from pipeline.inputs.stored import stored_definitions, stored_kinds
from pipeline.inputs.table import Batch, Origin, SourceJob, Table
from pipeline.job.job import Job
from pipeline.job.stage import Stage
from pipeline.ledger import queries
from pipeline.ledger.pins import read_pinned
from pipeline.ledger.reader import Read
from pipeline.ledger.schema import altered
from pipeline.results.answered_sheet import (
    AnsweredSheet,
    opened,
    sheet_table,
)
from pipeline.results.cells import cell_text

_PLACE_WORD = "row"
_CHUNK_ROWS = 2000


def open_source(job: Job) -> Table:
    """Opens the rows of `job` with its answers. Each call of `batches` reads them as they are then,
    in one view, also while a run of `job` is active.

    Raises:
        Refused: before the first run of `job`.
        StorageFailed: when something in its run folder is not as the runner wrote it. `batches`
            raises it too.
    """
    with _opened(job) as rows:
        exported = sheet_table(rows)
        columns = tuple(exported.schema.names)
        kinds = {**stored_kinds(rows.snapshot), **exported.kinds}
        definitions = stored_definitions(rows.snapshot) | _definitions(job, exported.kinds)
        source = _source_job(job, rows.read, definitions, exported.types, kinds)
    stage = Stage(job.to_run().job_file)
    return Table(stage, columns, _PLACE_WORD, lambda: _batches(job, columns, kinds), source=source)


def _opened(job: Job) -> AbstractContextManager[AnsweredSheet]:
    return opened(job, Path(tempfile.gettempdir()), KINDS)


_End = tuple[str, str | None, str | None]
"""The status, the error code and the error message of a row."""


class _Origins:
    """Where each row of the sheet of the job `name` comes from. 17 bytes for each row."""

    def __init__(self, name: str, source: AnsweredSheet) -> None:
        self._name = name
        self._source = source
        self._rows = np.zeros(source.rows, np.int64)
        self._attempts = np.zeros(source.rows, np.int64)
        self._open = np.zeros(source.rows, np.bool_)
        found = source.read(queries.answer_origins)
        while some := source.read(lambda _: list(islice(found, _CHUNK_ROWS))):
            for sheet_row, row_id, attempt_id, is_open in some:
                self._rows[sheet_row - 1] = row_id
                self._attempts[sheet_row - 1] = attempt_id or 0
                self._open[sheet_row - 1] = is_open

    def of(self, first: int, ends: Iterable[_End]) -> list[Origin]:
        """The origins of the rows from `first` on, which ended like `ends`."""
        return [self._origin(number, *end) for number, end in enumerate(ends, first)]

    def _origin(self, number: int, status: str, code: str | None, message: str | None) -> Origin:
        place, attempts = number - 1, self._source.attempts
        attempt = self._attempts[place] if attempts is None else attempts[number]
        standing = self._source.standing_of(number) or Standing("")
        return Origin(
            int(self._rows[place]),
            int(attempt),
            standing.edit_id,
            self._waits(place, standing, status, code, message),
        )

    def _waits(
        self, place: int, standing: Standing, status: str, code: str | None, message: str | None
    ) -> str | None:
        if status == State.OK:
            if standing.decision is Decision.REJECTED:
                return f"{self._name}: {REJECTED}"
            is_open = self._open[place] and not standing.protected
            return f"{self._name}: being asked again" if is_open else None
        how = "not sent yet" if status == State.PENDING else status
        why = f" ({code})" if code else f", {message}" if message else ""
        return f"{self._name}: {how}{why}"


def _definitions(job: Job, kinds: Mapping[str, str]) -> dict[str, str]:
    """What each column that an export adds has, by its name there: a column of that name in the
    sheet is another one."""
    parts = {one.name: f"{one.path} {one.type} {one.join}" for one in job.to_run().columns}
    return {name: parts.get(part_of(kind) or "", kind) for name, kind in kinds.items()}


def _source_job(
    job: Job,
    read: Read,
    columns: Mapping[str, str],
    types: Mapping[str, str],
    kinds: Mapping[str, str],
) -> SourceJob:
    pinned, folder_id = read_pinned(read), read(queries.meta(queries.FOLDER_ID))
    if pinned is None:
        raise altered("the record of the pinned settings")
    if folder_id is None:
        raise Refused(
            f"{job.folder.path}: an earlier release made this run folder, and it has no id yet. "
            f"Run that job once with this release: {job.command('run')}"
        )
    return SourceJob(job.name, folder_id, str(pinned["host"]), columns, types, kinds)


def _batches(job: Job, columns: tuple[str, ...], kinds: Mapping[str, str]) -> Iterator[Batch]:
    with _opened(job) as source:
        table = sheet_table(source)
        now = {**stored_kinds(source.snapshot), **table.kinds}
        if (tuple(table.schema.names), now) != (columns, kinds):
            raise Refused(
                f"{job.folder.path}: a run gave this job other columns while they were read. "
                "Nothing was sent. Try again."
            )
        origins = _Origins(job.name, source)
        names = {kind: name for name, kind in source.kinds.items()}
        ended = [names[kind] for kind in (STATUS, "error_code", "error_message")]
        first = 1
        for batch in table.batches():
            texts = [[cell_text(value) for value in column.to_pylist()] for column in batch.columns]
            places = list(range(first, first + batch.num_rows))
            ends = zip(*(batch[name].to_pylist() for name in ended), strict=True)
            yield Batch(texts, places, origins.of(first, ends))
            first += batch.num_rows
