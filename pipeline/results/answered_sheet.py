"""Reads the sheet as it is now, batch by batch, each row with its answer.

The ledger decides which answer belongs to a row, never the row's place: the user may have sorted
the sheet since. No column of a million rows is in memory as a whole.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.core.errors import Refused
from pipeline.core.model import State
from pipeline.inputs.checks import SKIP_NAMES, SKIP_REASONS, Skip
from pipeline.inputs.stored import (
    stored_batches,
    stored_columns,
    stored_delimiter,
    stored_mapped,
    whole_snapshot,
)
from pipeline.job.job import Job
from pipeline.ledger import queries, reader, wal
from pipeline.ledger.integrity import check_ledger
from pipeline.ledger.queries import Unfinished
from pipeline.ledger.reader import Read, refuse_before_first_run
from pipeline.ledger.schema import altered
from pipeline.ledger.shown import shown_row
from pipeline.results.flags import REPEATED
from pipeline.results.lookup import Answers, Stretch, find_answers
from pipeline.results.schema import RESULTS_SCHEMA

ADDED = ("result", "citations", "_status", "_error_code", "_error_message")
FLAGS = "_flags"
_SKIPPED = "skipped"
_STATUS = "_status"
_CHUNK_ROWS = 2000


@dataclass(frozen=True, slots=True)
class Exported:
    """A table that goes home, in batches that can be asked for more than once.

    `added` are the names of the runner's own columns, which stand last. `delimiter` is what the
    sheet separates its cells by.
    """

    schema: pa.Schema
    rows: int
    added: tuple[str, ...]
    batches: Callable[[], Iterator[pa.RecordBatch]]
    delimiter: str = ","


@dataclass(frozen=True, slots=True)
class AnsweredSheet:
    """The sources of an export: one view of the ledger, the sheet's copy, the answers.

    `scratch` is a folder for temporary files without a name. `in_use`: a run is active, so its rows
    in flight are pending. If no run is active, no process waits for those answers, and the rows are
    ambiguous.
    """

    read: Read
    snapshot: Path
    answers: Answers
    rows: int
    scratch: Path
    in_use: bool = False


@contextmanager
def opened(job: Job, scratch: Path, *, flags: bool = False) -> Iterator[AnsweredSheet]:
    """Opens the sources of an export as they are at this moment, also while a run is active.

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
    with reader.reading(folder.ledger) as read:
        refuse_before_first_run(job, read)
        snapshot = whole_snapshot(folder.snapshots, *read(queries.snapshot))
        if snapshot is None:
            raise Refused(
                f"{folder.snapshot}: the copy of the sheet is missing, or it is not the copy that "
                "the ledger refers to. Run `pipeline run` again: it makes a new copy, and sends "
                "nothing if the sheet has no new rows.",
                closing="",
            )
        rows = sum(len(batch.keys) for batch in stored_batches(snapshot))
        answers = find_answers(folder, read, rows, flags=flags)
        yield AnsweredSheet(read, snapshot, answers, rows, scratch, in_use)


def sheet_table(source: AnsweredSheet) -> Exported:
    """The sheet's rows and columns in their order, then `ADDED`, and `FLAGS` if they were asked
    for.

    A row whose newer version is not finished shows its last finished answer, with the code and
    message of the newer one.
    """
    columns, mapped = stored_columns(source.snapshot), stored_mapped(source.snapshot)
    with_flags = source.answers.repeated is not None
    kept, names = _names(columns, mapped, (*ADDED, FLAGS) if with_flags else ADDED)
    place_of = {name: place for place, name in enumerate(columns)}
    places = [place_of[name] for name in kept]
    schema = pa.schema(
        [
            *(pa.field(name, pa.large_string(), nullable=False) for name in kept),
            *(pa.field(n, kind) for n, kind in zip(names, _kinds(with_flags), strict=True)),
        ]
    )
    why, earlier = _Skipped(columns, mapped), _Earlier(columns, mapped)

    def batches() -> Iterator[pa.RecordBatch]:
        unfinished = _UnfinishedInOrder(source.read)
        for piece in _pieces(source):
            rest = unfinished.before(piece.first + len(piece.skipped))
            states = _states(piece, why, rest, source.in_use)
            added = [*earlier.beside(piece), *states]
            if with_flags:
                added.append(_flags(piece, source.answers))
            sheet = [piece.columns[place] for place in places]
            yield pa.record_batch([*sheet, *added], schema=schema)

    return Exported(schema, source.rows, names, batches, stored_delimiter(source.snapshot))


def _kinds(with_flags: bool) -> list[pa.DataType]:
    citations = RESULTS_SCHEMA.field("citations").type
    kinds = [pa.string(), citations, pa.string(), pa.string(), pa.string()]
    return [*kinds, RESULTS_SCHEMA.field("flags").type] if with_flags else kinds


@dataclass(frozen=True, slots=True)
class _Piece:
    """Consecutive rows of the sheet: their cells by column, why they are skipped, and the answer
    of each, null where there is none."""

    first: int
    columns: list[pa.Array]
    skipped: pa.Array
    answered: npt.NDArray[np.bool_]
    answers: pa.RecordBatch


def _pieces(source: AnsweredSheet) -> Iterator[_Piece]:
    """The whole sheet, cut where its batches end and where the answers' stretches do."""
    stretches = source.answers.stretches(source.scratch)
    stretch = next(stretches, None)
    for first, columns, keys, skipped in stored_batches(source.snapshot):
        begin, end = first, first + len(keys)
        while begin < end:
            while stretch is not None and stretch.last < begin:
                stretch = next(stretches)
            assert stretch is not None
            size = min(end, stretch.last + 1) - begin
            answered, answers = _beside(stretch, begin, size)
            cells = [column.slice(begin - first, size) for column in columns]
            yield _Piece(begin, cells, skipped.slice(begin - first, size), answered, answers)
            begin += size


def _beside(
    stretch: Stretch, begin: int, size: int
) -> tuple[npt.NDArray[np.bool_], pa.RecordBatch]:
    low, high = np.searchsorted(stretch.rows, [begin, begin + size])
    places = np.full(size, -1)
    places[stretch.rows[low:high] - begin] = np.arange(high - low)
    take = pa.array(places, mask=places < 0)
    found = stretch.answers.slice(low, high - low).combine_chunks()
    arrays = [pa.concat_arrays(column.chunks or [_none(column)]) for column in found.columns]
    return places >= 0, pa.record_batch(
        [array.take(take) for array in arrays], names=found.column_names
    )


def _none(column: pa.ChunkedArray) -> pa.Array:
    return pa.array([], column.type)


class _UnfinishedInOrder:
    """The rows that are not ok, a few at a time: there may be a million of them."""

    def __init__(self, read: Read) -> None:
        self._read = read
        self._rows = read(partial(queries.unfinished, verified_elsewhere=True))
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
    piece: _Piece, why: _Skipped, unfinished: list[Unfinished], in_use: bool
) -> tuple[pa.Array, pa.Array, pa.Array]:
    """(status, error code, error message) of each row."""
    skipped = pc.is_valid(piece.skipped).to_numpy(zero_copy_only=False)
    unanswered = np.where(skipped, _SKIPPED, State.PENDING)
    status = np.where(piece.answered, State.OK, unanswered).astype(object)
    codes = np.full(len(status), None, dtype=object)
    messages = codes.copy()
    for place in np.flatnonzero(skipped).tolist():
        cells = [column[place].as_py() for column in piece.columns]
        messages[place] = why.words(piece.skipped[place].as_py(), cells)
    for row in unfinished:
        place = row.sheet_row - piece.first
        shown = shown_row(row, in_use)
        if shown is None:
            continue
        codes[place], messages[place] = shown.code, shown.message or None
        if not row.answered:
            status[place] = shown.state
    texts = [
        pa.array([None if v is None else str(v) for v in values], pa.string())
        for values in (status, codes, messages)
    ]
    return texts[0], texts[1], texts[2]


@dataclass(frozen=True, slots=True)
class _Skipped:
    """Why a row was not sent, in words; of an empty cell with its column."""

    columns: tuple[str, ...]
    mapped: tuple[str, ...]

    def words(self, reason: str, cells: list[str]) -> str:
        if reason != SKIP_NAMES[Skip.EMPTY]:
            return SKIP_REASONS[reason]
        named = dict(zip(self.columns, cells, strict=True))
        empty = [f'"{name}"' for name in self.mapped if not named[name]]
        return f"empty cell in column {', '.join(empty)}"


@dataclass(frozen=True, slots=True)
class _Earlier:
    """The answers that the sheet itself brought, where it is an earlier export: a row that is
    skipped because it has its answer keeps it, if the run folder has none for it."""

    columns: tuple[str, ...]
    mapped: tuple[str, ...]

    def beside(self, piece: _Piece) -> tuple[pa.Array, pa.Array]:
        """(results, citations): what was found, else of skipped rows the sheet's own."""
        found = piece.answers["result"], piece.answers["citations"]
        own = set(self.columns) - set(kept_columns(self.columns, self.mapped))
        if not {"result", "citations"} <= own or piece.skipped.null_count == len(piece.skipped):
            return found
        texts = piece.columns[self.columns.index("result")].cast(pa.string())
        brought = pc.and_(pc.is_valid(piece.skipped), pc.not_equal(texts, ""))
        brought = pc.and_not(brought, pa.array(piece.answered))
        cited = piece.columns[self.columns.index("citations")].to_pylist()
        citations = [
            _read_citations(text) if own else held
            for own, text, held in zip(
                brought.to_pylist(), cited, found[1].to_pylist(), strict=True
            )
        ]
        return pc.if_else(brought, texts, found[0]), pa.array(citations, found[1].type)


def _read_citations(text: str) -> list[dict[str, str]]:
    """The citations of a cell as an export wrote it: JSON, or one a line as title and address."""
    if not text:
        return []
    if text.startswith("["):
        with contextlib.suppress(ValueError, TypeError, KeyError):
            return [{"title": one["title"], "url": one["url"]} for one in json.loads(text)]
    lines = (line.rpartition(" ") for line in text.split("\n"))
    return [
        {"title": title, "url": url} if "://" in url else {"title": f"{title}{gap}{url}", "url": ""}
        for title, gap, url in lines
    ]


def _flags(piece: _Piece, answers: Answers) -> pa.Array:
    assert answers.repeated is not None
    repeated = answers.repeated[piece.first - 1 :]
    return pa.array(
        [
            None if flags is None else flags + [REPEATED] * bool(again)
            for flags, again in zip(piece.answers["flags"].to_pylist(), repeated, strict=False)
        ],
        RESULTS_SCHEMA.field("flags").type,
    )


def _names(
    columns: tuple[str, ...], mapped: tuple[str, ...], added: tuple[str, ...]
) -> tuple[list[str], tuple[str, ...]]:
    """(columns of the sheet that stay, names of the added ones).

    A sheet that is an earlier export gives up the columns that the runner added then. A column of
    the user's own of such a name stays, and the added one gets a `_` in front.
    """
    kept = kept_columns(columns, mapped)
    names = []
    for name in added:
        while name in kept:
            name = f"_{name}"
        names.append(name)
    return kept, tuple(names)


def kept_columns(columns: tuple[str, ...], mapped: tuple[str, ...]) -> list[str]:
    """The columns of a sheet that are the user's own."""
    given_up = {*ADDED, FLAGS}.difference(mapped) if _STATUS in columns else set()
    return [name for name in columns if name not in given_up]
