"""The rows of a job for reading, one at a time."""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.core.added_columns import ANSWER, ANSWER_ID, FLAGS, KINDS, REVIEW, STATUS, part_of
from pipeline.core.errors import Refused
from pipeline.core.model import Citation, ErrorCode, Verdict
from pipeline.core.wording import NAMED
from pipeline.inputs.arrow import as_numpy
from pipeline.inputs.mapping import Variables, bind
from pipeline.inputs.row_names import RowNames, row_names
from pipeline.inputs.stored import stored_columns, stored_kinds, stored_places
from pipeline.job.job import Job
from pipeline.ledger import attempts
from pipeline.ledger.attempts import AttemptRecord
from pipeline.ledger.schema import altered
from pipeline.planning.selection import RowNumbers
from pipeline.results.answered_sheet import AnsweredSheet, answered_pieces, opened
from pipeline.results.lookup import find_answers
from pipeline.results.typed_rows import Piece
from pipeline.show import SEED
from pipeline.show.choice import Choice, Mask, chosen_rows
from pipeline.system.opening import as_object

PAID, MAYBE_PAID, NOT_PAID = "paid", "maybe paid", "not paid"
IN_FLIGHT = "in flight"
AS_SENT = "variables"
_KINDS = (*KINDS, ANSWER_ID)
_OF_VERSIONS = ("version", "sent_at")


@dataclass(frozen=True, slots=True)
class ShownAttempt:
    """One request for a row. `outcome` is "ok", "failed", "refused" (the server turned it away),
    "ambiguous" or "in flight". `paid` is "paid", "maybe paid" or "not paid". `duration_s` is None
    if no response came."""

    version: int
    sent_at: datetime
    duration_s: float | None
    http_status: int | None
    outcome: str
    code: str | None
    message: str
    paid: str


@dataclass(frozen=True, slots=True)
class ShownVersion:
    """One of several paid answers to a row."""

    version: int
    sent_at: datetime
    answer: str
    citations: tuple[Citation, ...]


@dataclass(frozen=True, slots=True)
class ShownRow:
    """One row of the sheet as the last run read it.

    `row` is its number, and `name` names it as messages do. `status`, `error_code` and
    `error_message` are those of an export. `skipped`: the last run left the row out; it keeps a
    paid answer. `variables` are those of the request. `sent` is false if there was no request yet:
    then they are those that a run would send. `columns` has a canonical text for each column of
    `columns:`, None where the answer does not fit. `attempts` are the requests, the oldest first.
    `versions` are all paid answers, the oldest first, if the caller asks for them. `review` is the
    decision of a person about the answer: "approved", "edited" or "rejected". Where a person
    edited the answer, `answer` and `columns` have the edited text. `earlier` has the filled columns
    that earlier stages added to the sheet. `answer_id` names the paid answer: `run --again` and
    `review_job` take it, so that they mean this answer and not what stands in its row later.
    """

    row: int
    name: str
    id: str | None
    status: str
    error_code: str | None
    error_message: str | None
    skipped: bool
    flags: tuple[str, ...]
    sent: bool
    variables: Mapping[str, str]
    answer: str | None
    columns: Mapping[str, str | None]
    citations: tuple[Citation, ...]
    attempts: tuple[ShownAttempt, ...]
    versions: tuple[ShownVersion, ...] = ()
    review: str | None = None
    earlier: Mapping[str, str] = field(default_factory=dict)
    answer_id: str | None = None


def show_job(
    job: Job,
    *,
    rows: RowNumbers | None = None,
    ids: Collection[str] = (),
    statuses: Collection[str] = (),
    codes: Collection[str] = (),
    flags: Collection[str] = (),
    reviews: Collection[str] = (),
    find: str | None = None,
    find_in: str | None = None,
    sample: int | None = None,
    seed: int = SEED,
    limit: int | None = None,
    versions: bool = False,
) -> Iterator[ShownRow]:
    """Yields rows of the last run's sheet, in its order, each with its answer and its requests.

    A row must fit each option that is given: `rows` (see `parse_rows`), `ids`, `statuses` ("ok",
    "failed", "ambiguous", "pending", "skipped"), error `codes`, `flags` and `reviews` ("approved",
    "edited", "rejected"). `find` has to be in the answer or in a cell of the sheet, or in the
    column `find_in` of an export, in capital or small letters. Of the rows that fit, `sample`
    chooses so many at random, the same ones for the same `seed`, and `limit` the first ones. With
    `versions` each row has all its paid answers. Works while a run is active. Sends nothing. One
    row at a time is in memory.

    Raises:
        Refused: before the first run, and for a row, an id or a word that the job does not have.
        StorageFailed: when an answer is missing, or something is not as the runner wrote it.
    """
    choice = Choice(
        rows=rows,
        ids=ids,
        statuses=statuses,
        codes=codes,
        flags=flags,
        reviews=reviews,
        find=find,
        find_in=find_in,
        sample=sample,
        seed=seed,
        limit=limit,
    )
    with showing(job, choice, versions=versions) as shown:
        yield from shown.rows()


@contextmanager
def showing(
    job: Job, choice: Choice, *, versions: bool = False, kinds: Collection[str] = _KINDS
) -> Iterator[Shown]:
    """Opens the sources of the rows and chooses among them. `kinds` are the runner's own columns
    that the rows have.

    Raises:
        Refused: as `show_job` does.
        StorageFailed: as `show_job` does.
    """
    if min(choice.sample or 0, choice.limit or 0) < 0:
        raise Refused("`sample` and `limit` must not be negative.")
    with opened(job, Path(tempfile.gettempdir()), kinds, more=(AS_SENT,)) as source:
        names = row_names(source.snapshot, ())
        if names.id_column is None and job.spec is not None:  # a snapshot of an earlier release
            known = job.spec.id in stored_columns(source.snapshot)
            names = replace(names, id_column=job.spec.id if known else None)
        mask = chosen_rows(source, names.id_column, choice)
        yield Shown(job, source, names, mask, versions)


@dataclass(frozen=True, slots=True)
class Shown:
    """The chosen rows of a job, in one view of its run folder. `mask` flags them."""

    job: Job
    source: AnsweredSheet
    names: RowNames
    mask: Mask
    versions: bool

    @property
    def count(self) -> int:
        """How many rows are shown."""
        return int(self.mask.sum())

    def rows(self) -> Iterator[ShownRow]:
        """Yields the rows, and reads the sheet no further than to the last of them."""
        left = self.count
        if not left:
            return
        source, last = self.source, int(np.flatnonzero(self.mask)[-1]) + 1
        absent = source.unknown.rows(source.snapshot) if source.unknown else {}
        absent = {row: row_id for row, row_id in absent.items() if self.mask[row - 1]}
        wanted = (np.flatnonzero(self.mask) + 1).tolist()
        source.read(attempts.choose(wanted, absent))
        reader = _Reader(self, _bound(self.job, source), self._versions())
        only = replace(source, answers=source.answers.only(self.mask))
        for piece, _, added in answered_pieces(only):
            here = self.mask[piece.first - 1 : piece.first - 1 + len(piece.skipped)]
            for place in np.flatnonzero(here).tolist():
                yield reader.row(piece, added, place)
            if piece.first + len(piece.skipped) > last:
                return

    def names_of(self, rows: Sequence[int]) -> str:
        """Returns the first of some rows as messages name them."""
        return row_names(self.source.snapshot, rows[:NAMED]).rows(rows)

    def _versions(self) -> Iterator[ShownVersion]:
        """All paid answers of the chosen rows, in the order of the sheet."""
        read = self.source.read
        number = read(attempts.count_versions) if self.versions else 0
        if not number:
            return
        answers = find_answers(
            self.job.folder, read, number, more=_OF_VERSIONS, which=attempts.paid_versions
        )
        for stretch in answers.stretches(self.source.scratch):
            for place in range(len(stretch.rows)):
                yield _version(stretch.answers.slice(place, 1))


def _version(one: pa.Table) -> ShownVersion:
    found = one.drop_columns("sent_at").to_pylist()[0]
    [sent_at] = as_numpy(one["sent_at"]).tolist()
    return ShownVersion(
        found["version"], _time(sent_at / 1e6), found[ANSWER], _citations(found["citations"])
    )


def _bound(job: Job, source: AnsweredSheet) -> Variables | None:
    """The variables that a run would send; None if the job file is missing or no longer fits."""
    try:
        return None if job.spec is None else bind(job.spec, stored_columns(source.snapshot))
    except Refused:
        return None


class _Reader:
    """Puts the parts of a row together."""

    def __init__(
        self, shown: Shown, variables: Variables | None, versions: Iterator[ShownVersion]
    ) -> None:
        self._read = shown.source.read
        self._kept = shown.source.kept
        self._in_use = shown.source.in_use
        self._names = shown.names
        self._with_versions = shown.versions
        self._variables = variables
        self._versions = versions
        columns = stored_columns(shown.source.snapshot)
        id_column = shown.names.id_column
        self._id_place = None if id_column is None else columns.index(id_column)
        self._places = stored_places(shown.source.snapshot)
        self._earlier = [columns.index(name) for name in stored_kinds(shown.source.snapshot)]
        self._columns = columns

    def row(self, piece: Piece, added: Mapping[str, pa.Array], place: int) -> ShownRow:
        """The row at `place` of a piece. `added` are its columns by kind."""
        number = piece.first + place
        row_id = None if self._id_place is None else piece.columns[self._id_place][place].as_py()
        made = self._read(attempts.attempts_of(number))
        paid = sum(attempt.verdict is Verdict.OK for attempt in made)
        sent = piece.answers[AS_SENT][place].as_py() or self._read(attempts.request_of(number))
        cell = {kind: column[place].as_py() for kind, column in added.items()}
        return ShownRow(
            row=number,
            name=self._name(number, row_id),
            id=row_id,
            status=cell[STATUS],
            error_code=cell["error_code"],
            error_message=cell["error_message"],
            skipped=piece.skipped[place].is_valid or number in self._kept,
            flags=tuple(cell[FLAGS] or ()),
            sent=bool(made),
            variables=self._to_send(piece, place) if sent is None else _as_sent(sent, number),
            answer=cell[ANSWER],
            columns={part: text for kind, text in cell.items() if (part := part_of(kind))},
            citations=_citations(cell["citations"]),
            attempts=tuple(_shown_attempt(one, self._in_use) for one in made),
            versions=tuple(islice(self._versions, paid)) if self._with_versions else (),
            review=cell[REVIEW],
            earlier={
                self._columns[one]: text
                for one in self._earlier
                if (text := piece.columns[one][place].as_py())
            },
            answer_id=cell.get(ANSWER_ID),
        )

    def _name(self, number: int, row_id: str | None) -> str:
        ids = {} if row_id is None else {number: row_id}
        named = replace(self._names, ids=ids)
        if self._places is not None:
            word, places = self._places
            named = replace(named, word=word, places={number: int(places[number - 1])})
        return named.row(number)

    def _to_send(self, piece: Piece, place: int) -> dict[str, str]:
        if self._variables is None:
            return {}
        return {
            source.name: source.constant
            if source.column is None
            else piece.columns[source.column][place].as_py()
            for source in self._variables.sources
        }


def _as_sent(request: str | bytes, row: int) -> dict[str, str]:
    try:
        return {name: str(text) for name, text in as_object(request).items()}
    except ValueError:
        raise altered("the stored request", row) from None


def _citations(found: list[dict[str, Any]] | None) -> tuple[Citation, ...]:
    return tuple(Citation(one["title"] or "", one["url"] or "") for one in found or ())


def _shown_attempt(attempt: AttemptRecord, in_use: bool) -> ShownAttempt:
    outcome, code = str(attempt.verdict), attempt.code
    if attempt.verdict is None:
        # No process waits for the response if no run is active.
        cut_off = Verdict.AMBIGUOUS, ErrorCode.INTERRUPTED
        outcome, code = (IN_FLIGHT, None) if in_use else map(str, cut_off)
    paid = MAYBE_PAID if attempt.maybe_paid else NOT_PAID
    return ShownAttempt(
        attempt.version,
        _time(attempt.sent_at),
        attempt.latency_s,
        attempt.http_status,
        outcome,
        code,
        attempt.message,
        PAID if attempt.verdict is Verdict.OK else paid,
    )


def _time(since_1970_s: float) -> datetime:
    try:
        return datetime.fromtimestamp(since_1970_s, UTC)
    except (ValueError, OverflowError, OSError):
        raise altered("the time of an answer") from None
