"""Reads the sheet as it is now, batch by batch, each row with its answer.

The ledger decides which answer belongs to a row, never the row's place: the user may have sorted
the sheet since. No column of a million rows is in memory as a whole.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice, repeat
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline.core.added_columns import (
    ALL_KINDS,
    ANSWER,
    ANSWER_ID,
    EDIT,
    FLAGS,
    PARTS,
    REVIEW,
    STATUS,
    USUAL,
    column_names,
    is_chosen,
    part_of,
)
from pipeline.core.errors import Refused
from pipeline.core.model import State
from pipeline.core.review import Standing
from pipeline.inputs.arrow import array_of, as_numpy, at, call, filled, taken, text_scalar, texts
from pipeline.inputs.checks import SKIP_NAMES, SKIP_REASONS, Skip
from pipeline.inputs.identity import identity
from pipeline.inputs.mapping import Variables, bind
from pipeline.inputs.stored import (
    Copy,
    stored_batches,
    stored_columns,
    stored_delimiter,
    stored_headers,
    stored_mapped,
    stored_skip_if_empty,
    stored_types,
)
from pipeline.job.answer_columns import (
    BOOLEAN,
    DATE,
    INTEGER,
    NUMBER,
    AnswerColumns,
    Parts,
)
from pipeline.job.exports import read_exports
from pipeline.job.job import Job
from pipeline.job.run_folder import RunFolder
from pipeline.job.spec import JobSpec
from pipeline.ledger import queries, wal
from pipeline.ledger.integrity import check_ledger
from pipeline.ledger.queries import Absent, Answered, Unfinished
from pipeline.ledger.reader import Operation, Read, refuse_before_first_run
from pipeline.ledger.reviews import NO_REVIEWS, AnswerId, Reviews, digest_of, read_reviews
from pipeline.ledger.schema import altered
from pipeline.ledger.shown import shown_row
from pipeline.results.cells import read_value
from pipeline.results.edits import Edits, column_edits_of
from pipeline.results.flags import all_flags
from pipeline.results.lookup import Answers, Stretch, find_answers
from pipeline.results.schema import RESULTS_SCHEMA
from pipeline.results.sheet_copy import reading_with_copy
from pipeline.results.typed_rows import Piece, TypedRows

_SKIPPED = "skipped"
_ALIKE = 0.9  # as many cells of a column of this folder are unchanged, at least
_CHUNK_ROWS = 2000
_TYPES: dict[str, pa.DataType] = {
    kind: RESULTS_SCHEMA.field(kind).type if kind in ("citations", FLAGS) else pa.string()
    for kind in ALL_KINDS
}
_UNFINISHED = partial(queries.unfinished, verified_elsewhere=True)
_KEPT = "changed, kept by review"
_TYPES_OF_PARTS = {
    NUMBER: pa.float64(),
    INTEGER: pa.int64(),
    BOOLEAN: pa.bool_(),
    DATE: pa.date32(),
}


@dataclass(frozen=True, slots=True)
class Exported:
    """A table that goes home, in batches that can be asked for more than once.

    `kinds` has the kind of each of the runner's own columns by its name, and `types` the type of
    those that `columns:` names, whose values are canonical texts. `renewed` are those that
    the sheet already has. They stand where the sheet has them, and the others at the end.
    `delimiter` is what the sheet separates its cells by. `headers` are the names for a text file,
    where two columns may have the same name, if they differ from those of `schema`.
    """

    schema: pa.Schema
    rows: int
    kinds: Mapping[str, str]
    batches: Callable[[], Iterator[pa.RecordBatch]]
    delimiter: str = ","
    renewed: frozenset[str] = frozenset()
    headers: tuple[str, ...] = ()
    types: Mapping[str, str] = field(default_factory=dict)

    @property
    def added(self) -> tuple[str, ...]:
        """The names of the runner's own columns, in the order of their kinds."""
        return tuple(self.kinds)


@dataclass(frozen=True, slots=True)
class AnsweredSheet:
    """The sources of an export: one view of the ledger, the sheet's copy, the answers.

    `kinds` are the columns to add, by name. `columns` reads those of `columns:` from the answers.
    `scratch` is a folder for temporary files without a name. `in_use`: a run is active, so its rows
    in flight are pending. If no run is active, no process waits for those answers, and the rows are
    ambiguous. `attempts` has the attempt that brought the answer of each row (0 without one), if
    there are reviews or the answers are named. `kept` are the rows that are not sent now and keep
    an earlier answer. `unfinished` yields the rows that are not ok. With `only`, just the pieces
    with these rows are read; they ascend.
    """

    read: Read
    snapshot: Copy
    answers: Answers
    rows: int
    kinds: Mapping[str, str]
    columns: AnswerColumns
    scratch: Path
    in_use: bool = False
    unknown: SkippedUnknown | None = None
    reviews: Reviews = NO_REVIEWS
    attempts: npt.NDArray[np.int64] | None = None
    kept: frozenset[int] = frozenset()
    unfinished: Operation[Iterator[Unfinished]] = _UNFINISHED
    only: npt.NDArray[np.int64] | None = None

    def standing_of(self, row: int) -> Standing | None:
        """Returns the decisions about the answer of a row of the sheet, None without any."""
        if self.attempts is None:
            return None
        return self.reviews.standing.get(int(self.attempts[row]))


@dataclass(frozen=True, slots=True)
class SkippedUnknown:
    """The skipped rows that may be paid, because the row was sent before it was left out.

    They are ambiguous in an export, although they count as skipped. Otherwise the file, as the
    sheet of another job, would have them sent again. `known` has them by the name of a row.
    """

    known: Mapping[bytes, Absent]
    variables: Variables
    id_place: int | None

    @property
    def codes(self) -> set[str]:
        """Their error codes."""
        return {absent.code for absent in self.known.values() if absent.code}

    def among(self, piece: Piece) -> dict[int, Absent]:
        """Each of them in `piece`, by its place."""
        skipped = filled(piece.skipped) & ~piece.answered
        return self._found(piece.columns, np.flatnonzero(skipped))

    def rows(self, snapshot: Copy) -> dict[int, int]:
        """The row ids of all of them, by the number of the row in the sheet."""
        if not self.known:
            return {}
        return {
            batch.first + place: absent.row_id
            for batch in stored_batches(snapshot)
            for place, absent in self._found(
                batch.columns, np.flatnonzero(filled(batch.skipped))
            ).items()
        }

    def _found(self, columns: list[pa.Array], places: npt.NDArray[np.int64]) -> dict[int, Absent]:
        if not self.known or not len(places):
            return {}
        texts = [at(column, places.tolist()) for column in columns]
        ids = repeat(None) if self.id_place is None else texts[self.id_place]
        keys = self.variables.keys(texts)
        names = [identity(key, row_id) for key, row_id in zip(keys, ids, strict=False)]
        found = zip(places.tolist(), names, strict=True)
        return {place: self.known[name] for place, name in found if name in self.known}


def skipped_unknown(job: Job, snapshot: Copy, read: Read) -> SkippedUnknown | None:
    """Returns the skipped rows that may be paid; None without a job file that fits the sheet."""
    if job.spec is None:
        return None
    known = read(queries.ambiguous_and_absent(deduped=job.spec.dedupe))
    columns = stored_columns(snapshot)
    try:
        variables = bind(job.spec, columns)
    except Refused:  # the spec is for another sheet by now
        return None
    named = job.spec.id is not None and not job.spec.dedupe
    return SkippedUnknown(known, variables, columns.index(job.spec.id) if named else None)


def no_copy(folder: RunFolder) -> Refused:
    """Returns the exception for a run folder without its copy of the sheet."""
    return Refused(
        f"{folder.snapshot}: the copy of the sheet is missing, or it is not the copy that the "
        "ledger refers to. Run `pipeline run` again: it makes a new copy, and sends nothing if the "
        "sheet has no new rows.",
        closing="",
    )


@contextmanager
def opened(
    job: Job,
    scratch: Path,
    add: Collection[str] = USUAL,
    more: tuple[str, ...] = (),
    *,
    paid: bool = False,
) -> Iterator[AnsweredSheet]:
    """Opens the sources of an export as they are at this moment, also while a run is active.

    `add` are the kinds of columns to add to the sheet. `more` are further columns of the results
    that the answers have. The texts are those that people wrote where they edited answers, and
    with `paid` those that were paid.

    Raises:
        Refused: before the first run.
        StorageFailed: when an answer that the ledger counts is not in the results, or anything
            that would be exported is not what was written.
    """
    folder = job.folder
    if wal.is_damaged(folder.ledger):
        raise altered("the log of its last writes (ledger.sqlite-wal)")
    in_use = folder.in_use  # before the view of the ledger, or a run that ends now looked cut off
    check_ledger(folder.ledger)
    with reading_with_copy(folder) as (read, snapshot):
        refuse_before_first_run(job, read)
        if snapshot is None:
            raise no_copy(folder)
        names = added_names(job, snapshot, add)
        kinds = names.kinds()
        rows = sum(len(batch.keys) for batch in stored_batches(snapshot))
        columns = AnswerColumns(job.spec.columns if job.spec else ())
        flags = FLAGS in kinds.values()
        reviews = read_reviews(folder, read)  # after the view of the ledger has begun
        edits = None if paid else Edits(reviews, read)
        which = queries.answered_after_review(reviews.protected)
        answers = find_answers(
            folder, read, rows, flags=flags, columns=columns, more=more, which=which, edits=edits
        )
        named = bool(reviews.standing) or ANSWER_ID in kinds.values()
        source = AnsweredSheet(
            read,
            snapshot,
            answers,
            rows,
            kinds,
            columns,
            scratch,
            in_use,
            skipped_unknown(job, snapshot, read),
            reviews,
            read(partial(_attempts, which=which, rows=rows)) if named else None,
            read(queries.kept_rows),
        )
        while not names.accept(source):
            source = replace(source, kinds=names.kinds())
        yield source


def _attempts(db: Any, which: Operation[Iterator[Answered]], rows: int) -> npt.NDArray[np.int64]:
    found = np.zeros(rows + 1, np.int64)
    for one in which(db):
        found[one.sheet_row] = one.attempt_id
    return found


def added_names(job: Job, snapshot: Copy, add: Collection[str]) -> AddedNames:
    """Returns the names of the columns to add, of the kinds `add`."""
    used = {*stored_mapped(snapshot), job.spec.id if job.spec else None}
    noted = frozenset(read_exports(job.folder).columns).difference(used)
    return AddedNames(frozenset(stored_columns(snapshot)), noted, add, job.spec)


@dataclass(slots=True)
class AddedNames:
    """Finds the names of the columns to add, which `add` chooses. `columns` are those of the sheet,
    and `noted` those that this folder wrote."""

    columns: frozenset[str]
    noted: frozenset[str]
    add: Collection[str]
    spec: JobSpec | None

    @property
    def are_new(self) -> bool:
        """Whether the sheet has no column that this folder wrote."""
        return self.columns.isdisjoint(self.noted)

    def kinds(self) -> dict[str, str]:
        """The kind of each column by its name. They get the first number that none of them has to
        share with a column of the sheet, except those that this folder wrote: they are among the
        noted ones, and their status is there if this folder wrote one. A `result` alone is the
        user's own. Letters in another case are the same name to Excel and to SQL.

        Columns of this folder that the sheet has are renewed, also those that `add` leaves out: a
        new answer never stands next to an old status.
        """
        columns, noted, spec = self.columns, self.noted, self.spec
        taken = {own: _folded(columns - own) for own in (frozenset(), columns & noted)}
        found: list[dict[str, str]] = []
        for number in range(1, len(columns) + 2):
            named = spec.column_names if spec else column_names
            group = named(ALL_KINDS, number=number)
            status = next(name for name, kind in group.items() if kind == STATUS)
            lacks_status = status in noted and status not in columns
            own = frozenset() if lacks_status else columns & noted
            kinds = {n: kind for n, kind in group.items() if is_chosen(kind, self.add) or n in own}
            if _folded(kinds.keys() - own).isdisjoint(taken[own]):
                if not kinds.keys().isdisjoint(own):
                    return kinds
                found.append(kinds)
        return found[0]

    def accept(self, source: AnsweredSheet) -> bool:
        """Whether the columns of `source.kinds` that the sheet has are those of this folder.

        With a status they are. Without one, the user may have a column of that name. Then the texts
        decide: those of this folder still are the answers, except where a row was edited.
        """
        brought = {name: kind for name, kind in source.kinds.items() if name in self.columns}
        if not brought or STATUS in brought.values():
            return True
        theirs = frozenset(name for name, ours in _alike(source, brought) if not ours)
        self.noted -= theirs
        return not theirs


def _folded(names: Iterable[str]) -> frozenset[str]:
    return frozenset(map(str.casefold, names))


def _alike(source: AnsweredSheet, brought: Mapping[str, str]) -> Iterator[tuple[str, bool]]:
    """Yields for each column of the sheet whether most of its cells are what would be written."""
    place_of = {name: place for place, name in enumerate(stored_columns(source.snapshot))}
    types = _types_of(source.columns)
    filled_cells, same = Counter[str](), Counter[str]()
    for piece, _, added in answered_pieces(source):
        for name, kind in brought.items():
            texts = piece.columns[place_of[name]].to_pylist()
            for text, value in zip(texts, added[kind].to_pylist(), strict=True):
                if text:
                    filled_cells[name] += 1
                    unguarded = text.removeprefix("'")  # what a .csv has in front of a formula
                    read = (read_value(kind, types, one) for one in (text, unguarded))
                    same[name] += value in read
    for name in brought:
        yield name, same[name] >= _ALIKE * filled_cells[name]


def sheet_table(
    source: AnsweredSheet, typed: TypedRows | None = None, *, with_types: bool = False
) -> Exported:
    """The sheet's rows and columns in their order, with the answers in the columns `source.kinds`.
    The sheet's own columns are texts, or with `typed` they have their own types. The columns of
    `columns:`, also of the jobs that the sheet comes from, are canonical texts, or `with_types`
    values of their types.

    A row whose newer version is not finished shows its last finished answer, with the code and
    message of the newer one.
    """
    columns = stored_columns(source.snapshot)
    place_of = {name: place for place, name in enumerate(columns)}
    kinds = source.kinds
    own = typed.schema if typed else _texts(columns)
    fields = {name: own.field(name) for name in columns}
    of_sources = stored_types(source.snapshot)
    kind_of = _of_kinds(source.columns, with_types)
    fields |= {
        name: pa.field(name, _TYPES_OF_PARTS.get(kind, pa.string()) if with_types else pa.string())
        for name, kind in of_sources.items()
    }
    fields |= {name: pa.field(name, kind_of[kind]) for name, kind in kinds.items()}
    schema = pa.schema(fields.values(), own.metadata)

    def batches() -> Iterator[pa.RecordBatch]:
        for _, cells, added in answered_pieces(source, typed):
            found = dict(zip(columns, cells, strict=True))
            found |= {name: _filled_texts(found[name]) for name in of_sources}
            found |= {name: added[kind] for name, kind in kinds.items()}
            yield pa.record_batch(
                [_as(found[name], field.type) for name, field in fields.items()], schema=schema
            )

    delimiter, renewed = stored_delimiter(source.snapshot), kinds.keys() & place_of.keys()
    header_of = stored_headers(source.snapshot)
    headers = tuple(header_of.get(name, name) for name in fields)
    type_of = _types_of(source.columns)
    types = {name: type_of[kind] for name, kind in kinds.items() if part_of(kind)}
    types = of_sources | types
    return Exported(
        schema, source.rows, kinds, batches, delimiter, frozenset(renewed), headers, types
    )


def _filled_texts(cells: pa.Array) -> pa.Array:
    """The texts of a column, null where a cell is empty."""
    return texts([text or None for text in cells.to_pylist()])


def answered_pieces(
    source: AnsweredSheet, typed: TypedRows | None = None
) -> Iterator[tuple[Piece, list[pa.Array], dict[str, pa.Array]]]:
    """Yields the whole sheet in its order: each piece, its cells (with `typed`, they have the types
    of the sheet), and the runner's own columns by kind."""
    columns = stored_columns(source.snapshot)
    place_of = {name: place for place, name in enumerate(columns)}
    why = _Skipped(columns, stored_skip_if_empty(source.snapshot))
    brought = _Brought(
        {kind: place_of[name] for name, kind in source.kinds.items() if name in place_of},
        _types_of(source.columns),
    )
    unfinished = _UnfinishedInOrder(source.read, source.unfinished)
    pieces = ((piece, piece.columns) for piece in _pieces(source))
    for piece, cells in typed.along(_pieces(source)) if typed else pieces:
        rest = unfinished.before(piece.first + len(piece.skipped))
        may_be_paid = source.unknown.among(piece) if source.unknown else {}
        states = _states(piece, why, rest, may_be_paid, source)
        added = _answers(piece, source) | states
        yield piece, cells, brought.kept(piece, added)


def _types_of(columns: AnswerColumns) -> dict[str, str]:
    return {f"{PARTS}.{column.name}": column.type for column in columns.columns}


def _of_kinds(columns: AnswerColumns, with_types: bool) -> dict[str, pa.DataType]:
    types = _TYPES_OF_PARTS if with_types else {}
    parts = {f"{PARTS}.{one.name}": types.get(one.type, pa.string()) for one in columns.columns}
    return _TYPES | parts


def _texts(columns: tuple[str, ...]) -> pa.Schema:
    return pa.schema([pa.field(name, pa.large_string(), nullable=False) for name in columns])


def _pieces(source: AnsweredSheet) -> Iterator[Piece]:
    """The whole sheet, cut where its batches end and where the answers' stretches do."""
    stretches = source.answers.stretches(source.scratch)
    stretch = next(stretches, None)
    for first, columns, keys, skipped, *_ in stored_batches(source.snapshot, source.only):
        begin, end = first, first + len(keys)
        while begin < end:
            while stretch is not None and stretch.last < begin:
                stretch = next(stretches)
            assert stretch is not None
            size = min(end, stretch.last + 1) - begin
            answered = source.answers.has[begin - 1 : begin - 1 + size]
            answers = _beside(stretch, begin, size)
            cells = [column.slice(begin - first, size) for column in columns]
            yield Piece(begin, cells, skipped.slice(begin - first, size), answered, answers)
            begin += size


def _beside(stretch: Stretch, begin: int, size: int) -> pa.RecordBatch:
    low, high = np.searchsorted(stretch.rows, [begin, begin + size])
    places = np.full(size, -1)
    places[stretch.rows[low:high] - begin] = np.arange(high - low)
    found = stretch.answers.slice(low, high - low).combine_chunks()
    arrays = [pa.concat_arrays(column.chunks or [_none(column)]) for column in found.columns]
    return pa.record_batch([taken(array, places) for array in arrays], names=found.column_names)


def _as(array: pa.Array, kind: pa.DataType) -> pa.Array:
    return array if array.type == kind else array.cast(kind)


def _none(column: pa.ChunkedArray) -> pa.Array:
    return pa.nulls(0, column.type)


class _UnfinishedInOrder:
    """The rows that are not ok, a few at a time: there may be a million of them."""

    def __init__(self, read: Read, rows: Operation[Iterator[Unfinished]]) -> None:
        self._read = read
        self._rows = read(rows)
        self._held: list[Unfinished] = []

    def before(self, number: int) -> list[Unfinished]:
        """Those that stand before row `number` and were not given yet."""
        while not self._held or self._held[-1].sheet_row < number:
            more = self._read(lambda _: list(islice(self._rows, _CHUNK_ROWS)))
            if not more:
                break
            self._held += more
        cut = sum(row.sheet_row < number for row in self._held)
        given, self._held = self._held[:cut], self._held[cut:]
        return given


def _states(
    piece: Piece,
    why: _Skipped,
    unfinished: list[Unfinished],
    may_be_paid: Mapping[int, Absent],
    source: AnsweredSheet,
) -> dict[str, pa.Array]:
    """The status, the error code and the error message of each row."""
    skipped = filled(piece.skipped)
    unanswered = np.where(skipped, _SKIPPED, State.PENDING)
    status = np.where(piece.answered, State.OK, unanswered).astype(object)
    codes = np.full(len(status), None, dtype=object)
    messages = codes.copy()
    for place in np.flatnonzero(skipped).tolist():
        cells = [column[place].as_py() for column in piece.columns]
        messages[place] = why.words(piece.skipped[place].as_py(), cells)
    for row_number in range(piece.first, piece.first + len(status)) if source.kept else ():
        if row_number in source.kept and not skipped[row_number - piece.first]:
            messages[row_number - piece.first] = _KEPT
    for place, absent in may_be_paid.items():
        status[place], codes[place] = State.AMBIGUOUS, absent.code
    for row in unfinished:
        place = row.sheet_row - piece.first
        shown = shown_row(row, source.in_use)
        if shown is None:
            continue
        codes[place], messages[place] = shown.code, shown.message or None
        if not row.answered:
            status[place] = shown.state
    return {
        kind: texts([None if v is None else str(v) for v in values])
        for kind, values in ((STATUS, status), ("error_code", codes), ("error_message", messages))
    }


@dataclass(frozen=True, slots=True)
class _Skipped:
    """Why a row was not sent, in words; of an empty cell with its column."""

    columns: tuple[str, ...]
    skip_if_empty: tuple[str, ...]

    def words(self, reason: str, cells: list[str]) -> str:
        name, _, waits = reason.partition(": ")
        if waits:  # the other job says why
            return waits
        if name != SKIP_NAMES[Skip.EMPTY]:
            return SKIP_REASONS[name]
        named = dict(zip(self.columns, cells, strict=True))
        empty = [f'"{name}"' for name in self.skip_if_empty if not named[name]]
        return f"empty cell in column {', '.join(empty)}"


@dataclass(frozen=True, slots=True)
class _Brought:
    """The texts that the sheet brought in columns of an earlier export, by kind and position.

    A row that is skipped and has no answer in the run folder keeps all of them if the sheet has its
    answer or calls it ambiguous. Otherwise the next sheet would no longer guard it.
    """

    places: Mapping[str, int]
    types: Mapping[str, str]

    def kept(self, piece: Piece, found: dict[str, pa.Array]) -> dict[str, pa.Array]:
        """`found`, with these texts in such rows."""
        if not self.places or piece.skipped.null_count == len(piece.skipped):
            return found
        texts = {
            kind: _as(piece.columns[place], pa.string()) for kind, place in self.places.items()
        }
        keep = np.zeros(len(piece.skipped), dtype=bool)
        if ANSWER in texts:
            keep |= as_numpy(call("not_equal", texts[ANSWER], text_scalar("")))
        if STATUS in texts:
            keep |= as_numpy(call("equal", texts[STATUS], text_scalar(State.AMBIGUOUS)))
        keep &= filled(piece.skipped) & ~piece.answered
        if not keep.any():
            return found
        read = {kind: self._read(kind, column, keep) for kind, column in texts.items()}
        return found | {
            kind: array_of(
                [
                    own if kept else held
                    for kept, own, held in zip(keep, brought, there, strict=True)
                ],
                found[kind].type,
            )
            for kind, brought in read.items()
            for there in [found[kind].to_pylist()]
        }

    def _read(self, kind: str, column: pa.Array, keep: npt.NDArray[np.bool_]) -> list[Any]:
        """The values of an earlier export's column from their texts, where they are kept."""
        return [
            read_value(kind, self.types, text) if kept else None
            for text, kept in zip(column.to_pylist(), keep, strict=True)
        ]


def _reviewed(piece: Piece, source: AnsweredSheet) -> dict[str, pa.Array]:
    """The decision about each answer, its name and its edited text, if they are asked for."""
    chosen = set(source.kinds.values())
    numbers = range(piece.first, piece.first + len(piece.skipped))
    standing = [source.standing_of(number) for number in numbers]
    found: dict[str, list[str | None]] = {}
    if REVIEW in chosen:
        found[REVIEW] = [one.decision and str(one.decision) if one else None for one in standing]
    if EDIT in chosen:
        edits = [one.edits.get(None) if one else None for one in standing]
        written = source.reviews.texts(n for n in edits if n is not None)
        found[EDIT] = [None if n is None else written[n] for n in edits]
    if ANSWER_ID in chosen and source.attempts is not None:
        answers = piece.answers[ANSWER].to_pylist()
        found[ANSWER_ID] = [
            str(
                AnswerId(
                    source.reviews.folder_id,
                    int(source.attempts[number]),
                    one.digest if one else digest_of(answer),
                    one.last if one else 0,
                )
            )
            if answer is not None
            else None
            for number, one, answer in zip(numbers, standing, answers, strict=True)
        ]
    return {kind: texts(values) for kind, values in found.items()}


def _answers(piece: Piece, source: AnsweredSheet) -> dict[str, pa.Array]:
    """The answer of each row, its citations, its columns, and its flags if they are asked for."""
    found = {kind: piece.answers[kind] for kind in (ANSWER, "citations")}
    chosen = source.kinds.values()
    found |= _reviewed(piece, source)
    parts: list[Parts] = []
    if source.columns.columns and (FLAGS in chosen or any(map(part_of, chosen))):
        edited = column_edits_of(piece.answers)
        answers = zip(piece.answers[ANSWER].to_pylist(), edited, strict=True)
        parts = [source.columns.read(answer, edits) for answer, edits in answers]
        for place, column in enumerate(source.columns.columns):
            found[f"{PARTS}.{column.name}"] = texts([one.texts[place] for one in parts])
    repeated = source.answers.repeated
    if repeated is None:
        return found
    stored = piece.answers[FLAGS].to_pylist()
    again = repeated[piece.first - 1 : piece.first - 1 + len(stored)]
    read = [one.flags for one in parts] or repeat(())
    flags = [
        None if held is None else all_flags(held, computed, bool(twice))
        for held, computed, twice in zip(stored, read, again, strict=False)
    ]
    return found | {FLAGS: array_of(flags, _TYPES[FLAGS])}
