"""Finds rows among a million, for a program that asks more than once.

`show_job` checks the whole ledger and looks at every answer. A `Finder` keeps the states of the
rows in memory, reads what changed since, and searches the texts in `results/answer_index`.
The rows that it returns are read from the ledger, the results and the sheet's copy themselves, in
one view, and their records are checked.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from threading import Lock, Thread

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline.core.added_columns import ANSWER, FLAGS, KINDS, REVIEW, STATUS, part_of
from pipeline.core.errors import Locked, PipelineError
from pipeline.inputs.arrow import taken
from pipeline.inputs.row_names import RowNames, row_names
from pipeline.inputs.stored import (
    stored_batches,
    stored_cells_at,
    stored_columns,
    stored_skipped,
    whole_snapshot,
)
from pipeline.job.answer_columns import AnswerColumns
from pipeline.job.job import Job
from pipeline.ledger import queries, wal
from pipeline.ledger.queries import Part
from pipeline.ledger.reader import Read, reading, refuse_before_first_run
from pipeline.ledger.reviews import Reviews, read_reviews
from pipeline.ledger.row_states import Mark, answers_of, refuse_altered, run_ids, unfinished_of
from pipeline.ledger.schema import altered
from pipeline.planning.consent import refuse_unknown_codes
from pipeline.planning.selection import Selection
from pipeline.results.answer_index import (
    INDEX_COLUMNS,
    IndexFolder,
    Segment,
    section_name,
    segment_of,
    sheet_segment,
)
from pipeline.results.answered_sheet import (
    AnsweredSheet,
    SkippedUnknown,
    added_names,
    answered_pieces,
    no_copy,
    skipped_unknown,
)
from pipeline.results.edits import Edits
from pipeline.results.flags import REPEATED, known_flags
from pipeline.results.lookup import (
    RUN_SHIFT,
    Load,
    answers_at,
    keys_of,
    read_part,
    repeated_rows,
    unsealed_loads,
)
from pipeline.results.row_states import WORDS, RowStates
from pipeline.results.row_states import Shown as States
from pipeline.results.typed_rows import Piece
from pipeline.show.choice import (
    Choice,
    refuse_unknown,
    searched_columns,
    searched_places,
    with_ids,
)
from pipeline.show.rows import ShownRow, showing
from pipeline.system.opening import HeldFile

_TRIES = 8
_AT_ONCE = 20
"""So many parts are indexed while the reader waits. More are indexed in the background."""
_STRETCH_ROWS = 2000
_PATIENCE_S = 1.0
_SEARCHES = 16

Mask = npt.NDArray[np.bool_]
Numbers = npt.NDArray[np.int64]
Hits = Callable[["_Held", str | None, Segment | None], Numbers]


@dataclass(frozen=True, slots=True)
class FoundRow:
    """A row in a list. The fields are those of `ShownRow`, and `cells` are those of the sheet."""

    row: int
    name: str
    status: str
    error_code: str | None
    answer: str | None
    columns: Mapping[str, str | None]
    flags: tuple[str, ...]
    review: str | None
    cells: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Found:
    """Some of the `total` rows that fit. `names` are the columns of the sheet, and `searched` those
    where a text can be looked for."""

    total: int
    rows: tuple[FoundRow, ...]
    names: tuple[str, ...]
    searched: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Indexing:
    """The index is being made: `done` of `parts` are there."""

    done: int
    parts: int


@dataclass(frozen=True, slots=True)
class _Held:
    """What stays in memory of a segment."""

    keys: Numbers
    texts: Numbers
    variables: Numbers
    flags: npt.NDArray[np.uint8]

    def with_flag(self, number: int) -> Numbers:
        """The keys of the answers with a flag."""
        has = np.unpackbits(self.flags[number], count=len(self.keys)).astype(bool)
        found: Numbers = self.keys[has]
        return found


@dataclass(frozen=True, slots=True)
class _Source:
    """A part, or answers that the ledger still holds, which have no name in the index."""

    load: Load
    held: _Held
    name: str | None
    segment: Segment | None = None


@dataclass(frozen=True, slots=True)
class _Edited:
    """The edited answers, and their keys."""

    keys: Numbers
    segments: Sequence[tuple[_Held, Segment]]


@dataclass(frozen=True, slots=True)
class _View:
    """What one view of the ledger shows. `stamp` differs if anything does."""

    source: AnsweredSheet
    states: States
    sources: Sequence[_Source]
    edits: Edits
    edited: _Edited
    stamp: object

    def having(self, hits: Hits) -> Mask:
        """The rows whose answers `hits` finds. It gets each part, its name in the index, and the
        segment if that is in memory."""
        keys = [hits(one.held, one.name, one.segment) for one in self.sources]
        found = np.concatenate([np.empty(0, np.int64), *keys])
        found = found[~np.isin(found, self.edited.keys)]
        again = [hits(held, None, segment) for held, segment in self.edited.segments]
        return np.isin(self.states.key, np.concatenate([found, *again]))

    def hashes(self) -> tuple[Numbers, Numbers, Numbers]:
        """The keys of all answers, and the hashes of their texts and variables."""
        held = [one.held for one in self.sources]
        paid = [_joined(held, name) for name in ("keys", "texts", "variables")]
        kept = ~np.isin(paid[0], self.edited.keys)
        again = [held for held, _ in self.edited.segments]
        edited = [_joined(again, name) for name in ("keys", "texts", "variables")]
        keys, texts, variables = (
            np.concatenate([one[kept], other]) for one, other in zip(paid, edited, strict=True)
        )
        return keys, texts, variables

    def places_of(self, rows: Numbers) -> tuple[list[Load], list[tuple[Numbers, Numbers]]]:
        """What loads the answers of some rows, and for each the positions and the rows."""
        keys = self.states.key[rows - 1]
        loads, places = [], []
        for one in self.sources:
            at = np.flatnonzero(np.isin(one.held.keys, keys[keys >= 0]))
            if len(at):
                pairs = [(n, row) for n in at for row in rows[keys == one.held.keys[n]]]
                loads.append(one.load)
                positions, of_sheet = np.array(pairs, np.int64).T
                places.append((positions, of_sheet))
        return loads, places


def _joined(held: Sequence[_Held], name: str) -> Numbers:
    return np.concatenate([np.empty(0, np.int64), *(getattr(one, name) for one in held)])


@dataclass(frozen=True, slots=True)
class _Copy:
    """The checked copy of the sheet, and its file's facts when it was checked."""

    named: tuple[str | None, str | None]
    file: HeldFile
    facts: tuple[int, ...]
    skipped: Mask


@dataclass(frozen=True, slots=True)
class _Stretch:
    """Rows of the sheet with a file in the index."""

    first: int
    rows: int
    source: str

    @property
    def name(self) -> str:
        return f"sheet-{self.first:09}"


class Finder:
    """The rows of one job. Any thread may call it; one call runs at a time."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._columns = AnswerColumns(job.spec.columns if job.spec else ())
        self._columns_digest = hashlib.sha256(repr(self._columns.columns).encode()).hexdigest()
        self._states = RowStates()
        self._run_numbers: Mapping[str, int] = {}
        self._index = IndexFolder(job.folder.index)
        self._held: dict[str, _Held] = {}
        self._copy: _Copy | None = None
        self._stretches: dict[int, _Stretch] = {}
        self._hits: OrderedDict[tuple[str, str | None], dict[str, Numbers]] = OrderedDict()
        self._lock = Lock()
        self._worker: Thread | None = None
        self._failed: PipelineError | None = None
        # Each with a stamp that says what it was made of.
        self._reviews: tuple[int, Reviews] | None = None
        self._unsealed: dict[tuple[int, int], Segment] = {}
        self._edits: tuple[object, _Edited] | None = None
        self._shown: tuple[object, States, SkippedUnknown | None] | None = None
        self._skipped: tuple[object, dict[int, int]] | None = None
        self._twice: tuple[object, Mask] | None = None

    def find(self, choice: Choice, first: int = 0, count: int = 50) -> Found | Indexing:
        """Returns `count` of the rows that fit, from place `first` on, or how far the index is. The
        `sample` and the `limit` of the choice do not count.

        Raises:
            Refused: before the first run, and as `show_job` does.
            StorageFailed: when something is not as the runner wrote it.
            Locked: when runs begin one after the other.
        """
        with self._lock:
            for _ in range(_TRIES):
                parts = self._read_sources()
                if parts is None or self._copy is None:
                    continue
                names = added_names(self._job, self._copy.file, _KINDS)
                if not names.are_new:
                    return _slowly(self._job, choice, first, count)
                waiting = self._make_index(parts)
                if waiting is not None:
                    return waiting
                self._search(choice, names.kinds(), parts)
                found = self._found(choice, names.kinds(), first, count)
                if found is not None:
                    return found
            raise Locked(f"{self._job.folder.path}: the run folder changes too often. Try again.")

    # -- before the view ------------------------------------------------------------------

    def _read_sources(self) -> list[Part] | None:
        """Reads the states, unless it has them, and checks the sheet's copy. Returns the sealed
        parts; None if a run has begun meanwhile."""
        folder = self._job.folder
        if wal.is_damaged(folder.ledger):
            raise altered("the log of its last writes (ledger.sqlite-wal)")
        with reading(folder.ledger) as read:
            refuse_before_first_run(self._job, read)
            self._run_numbers = read(run_ids)
            named, parts = read(queries.snapshot), read(queries.sealed_parts)
            fresh = self._states.catch_up(read)
        if not fresh:
            self._states.load(folder.ledger)
        return parts if self._has_copy(named) else None

    def _has_copy(self, named: tuple[str | None, str | None]) -> bool:
        known = self._copy
        if known and known.named == named and known.facts == known.file.facts():
            return True
        self._copy = None
        try:
            file = whole_snapshot(self._job.folder.snapshots, *named)
            problem: PipelineError | None = None
        except PipelineError as error:
            file, problem = None, error
        if file is None:
            with reading(self._job.folder.ledger) as read:
                if read(queries.snapshot) != named:
                    return False
            raise problem or no_copy(self._job.folder)
        self._copy = _Copy(named, file, file.facts(), stored_skipped(file))
        self._stretches = {}
        return True

    def _make_index(self, parts: Sequence[Part]) -> Indexing | None:
        """Makes what is missing of the index: a little at once, more in the background."""
        if self._failed is not None:
            failed, self._failed = self._failed, None
            raise failed
        copy = self._copy
        assert copy is not None
        sources = {self._source(part): part for part in parts}
        missing = [part for source, part in sources.items() if source not in self._held]
        rows = 0 if self._stretches else len(copy.skipped)
        if self._worker is None and len(missing) + rows // _STRETCH_ROWS > _AT_ONCE:
            self._worker = Thread(target=self._work, args=(missing, copy), daemon=True)
            self._worker.start()
        if self._worker is None:
            self._add(missing, copy)
        elif self._worker.is_alive():
            self._worker.join(_PATIENCE_S)
        if self._worker is not None and not self._worker.is_alive():
            self._worker = None
            return self._make_index(parts)
        if self._worker is not None:
            return Indexing(len(sources) - len(missing), len(sources))
        self._held = {source: self._held[source] for source in sources}
        self._index.sweep(
            {_name(part) for part in parts} | {one.name for one in self._stretches.values()}
        )
        return None

    def _work(self, missing: Sequence[Part], copy: _Copy) -> None:
        try:
            self._add(missing, copy)
        except PipelineError as error:
            self._failed = error

    def _add(self, missing: Sequence[Part], copy: _Copy) -> None:
        for part in missing:
            self._hold(part, self._segment(part))
        if not self._stretches:
            stretches = {}
            for batch in stored_batches(copy.file, np.arange(1, len(copy.skipped) + 1)):
                rows = len(batch.keys)
                one = _Stretch(batch.first, rows, f"{copy.named[1]} {batch.first} {rows}")
                stretches[batch.first] = one
                if self._read(one.name, one.source, rows) is None:
                    self._write_stretch(copy, one, batch.columns)
            self._stretches = stretches

    def _read(self, name: str, source: str, rows: int, answers: int = 0) -> Segment | None:
        """A segment of the index with the columns that it has to have."""
        found = self._index.read(name, source)
        flags = (len(known_flags(self._columns.columns)), (answers + 7) // 8) if answers else (0, 0)
        if found is None or len(found.keys) != answers or found.flags.shape != flags:
            return None
        if any(len(section.ends) != rows for section in found.sections.values()):
            return None
        return found if found.sections.keys() >= self._sections(answers) else None

    def _sections(self, answers: int) -> set[str]:
        if answers:
            return {section_name(), *(section_name(one.name) for one in self._columns.columns)}
        assert self._copy is not None
        return set(stored_columns(self._copy.file))

    def _write_stretch(self, copy: _Copy, one: _Stretch, columns: Sequence[pa.Array]) -> Segment:
        texts = (column.to_pylist() for column in columns)
        segment = sheet_segment(dict(zip(stored_columns(copy.file), texts, strict=True)))
        self._index.write(one.name, one.source, segment)
        return segment

    def _segment(self, part: Part) -> Segment:
        """The index of a part, which is made if it is missing."""
        source = self._source(part)
        found = self._read(_name(part), source, part.rows, part.rows)
        if found is None:
            table = read_part(self._job.folder, part, INDEX_COLUMNS)
            found = segment_of(table, self._columns)
            self._index.write(_name(part), source, found)
        return found

    def _source(self, part: Part) -> str:
        return f"{part.sha256} {self._columns_digest}"

    def _hold(self, part: Part, segment: Segment) -> None:
        self._held[self._source(part)] = self._in_memory(segment)

    def _in_memory(self, segment: Segment) -> _Held:
        numbers = np.array([self._run_numbers.get(run, -1) for run in segment.runs], np.int64)
        runs, rows = segment.keys >> RUN_SHIFT, segment.keys & ((1 << RUN_SHIFT) - 1)
        known = (runs >= 0) & (runs < len(numbers))
        keys = np.full(len(runs), -1, np.int64)
        keys[known] = keys_of(numbers[runs[known]], rows[known])
        return _Held(keys, segment.texts, segment.variables, segment.flags)

    # -- the search -----------------------------------------------------------------------

    def _search(self, choice: Choice, kinds: Mapping[str, str], parts: Sequence[Part]) -> None:
        """Looks for the text of a choice in the index, as far as it has not done so."""
        assert self._copy is not None
        if not choice.find or not self._has_column(choice, kinds):
            return
        hits = self._hits_of(choice)
        folded = choice.find.casefold().encode()
        places, of_answers = searched_places(self._copy.file, kinds, choice.find_in)
        for part in parts if of_answers else ():
            source = self._source(part)
            if source not in hits:
                keys = self._held[source].keys
                sections = self._segment(part).sections
                hits[source] = keys[
                    sections[section_name(part_of(of_answers[0]))].containing(folded)
                ]
        names = [stored_columns(self._copy.file)[place] for place in places]
        for one in self._stretches.values() if names else ():
            if one.source not in hits:
                sections = self._stretch(one).sections
                found = [sections[name].containing(folded) for name in names]
                hits[one.source] = np.unique(np.concatenate(found)) + one.first

    def _has_column(self, choice: Choice, kinds: Mapping[str, str]) -> bool:
        assert self._copy is not None
        return choice.find_in is None or choice.find_in in searched_columns(self._copy.file, kinds)

    def _hits_of(self, choice: Choice) -> dict[str, Numbers]:
        """The hits of a search by source: keys of answers, and rows of the sheet."""
        hits = self._hits.setdefault((choice.find or "", choice.find_in), {})
        self._hits.move_to_end((choice.find or "", choice.find_in))
        while len(self._hits) > _SEARCHES:
            self._hits.popitem(last=False)
        return hits

    def _stretch(self, one: _Stretch) -> Segment:
        copy = self._copy
        assert copy is not None
        found = self._read(one.name, one.source, one.rows)
        if found is None:
            [batch] = stored_batches(copy.file, np.arange(one.first, one.first + one.rows))
            found = self._write_stretch(copy, one, batch.columns)
        return found

    # -- in one view of the ledger --------------------------------------------------------

    def _found(
        self, choice: Choice, kinds: Mapping[str, str], first: int, count: int
    ) -> Found | None:
        """The rows, in one view; None if the ledger has other parts or another sheet by now."""
        copy, folder = self._copy, self._job.folder
        assert copy is not None
        in_use = folder.in_use  # before the view, or a run that ends now looks cut off
        with reading(folder.ledger) as read:
            if read(queries.snapshot) != copy.named or not self._states.catch_up(read):
                return None
            sealed = {self._source(part): part for part in read(queries.sealed_parts)}
            if not sealed.keys() <= self._held.keys():
                return None
            view = self._view(read, in_use, kinds, sealed)
            mask = self._mask(view, choice)
            places = np.flatnonzero(mask)
            rows = tuple(self._rows(view, places[first : first + count] + 1))
            searched = searched_columns(copy.file, kinds)
            return Found(len(places), rows, stored_columns(copy.file), searched)

    def _view(
        self, read: Read, in_use: bool, kinds: Mapping[str, str], sealed: Mapping[str, Part]
    ) -> _View:
        copy, folder = self._copy, self._job.folder
        assert copy is not None
        moment = self._states.moment
        reviews = self._read_reviews(read)
        loads = unsealed_loads(read)
        old, self._unsealed = self._unsealed, {}
        for numbers, load in loads.items():
            self._unsealed[numbers] = old.get(numbers) or segment_of(
                load(INDEX_COLUMNS), self._columns
            )
        sources: list[_Source] = [
            _Source(partial(read_part, folder, part), self._held[source], source)
            for source, part in sealed.items()
        ]
        sources += [
            _Source(load, self._in_memory(self._unsealed[numbers]), None, self._unsealed[numbers])
            for numbers, load in loads.items()
        ]
        edits = Edits(reviews, read)
        edited = self._edited(read, reviews, edits, sources)
        stamp = (moment, in_use, reviews.last, tuple(sealed))
        if self._shown is None or self._shown[0] != stamp:
            unknown = skipped_unknown(self._job, copy.file, read)
            absent = self._absent(copy, unknown, moment)
            known = (
                {} if unknown is None else {one.row_id: one.code for one in unknown.known.values()}
            )
            states = self._states.shown(
                copy.skipped,
                in_use,
                {row: known[row_id] for row, row_id in absent.items() if row_id in known},
                self._protected(read, reviews),
            )
            self._shown = stamp, states, unknown
        _, states, unknown = self._shown
        source = AnsweredSheet(
            read,
            copy.file,
            answers_at([], [], states.answered, np.zeros(len(copy.skipped), bool), ()),
            len(copy.skipped),
            kinds,
            self._columns,
            Path(tempfile.gettempdir()),
            in_use,
            unknown,
            reviews,
            np.concatenate([[0], states.attempt]),
            read(queries.kept_rows),
        )
        return _View(source, states, sources, edits, edited, stamp)

    def _read_reviews(self, read: Read) -> Reviews:
        run = self._states.moment.run if self._states.moment else 0
        if self._reviews is None or self._reviews[0] != run:
            self._reviews = run, read_reviews(self._job.folder, read)
        else:
            self._reviews = run, self._reviews[1].newer()
        return self._reviews[1]

    def _absent(
        self, copy: _Copy, unknown: SkippedUnknown | None, moment: Mark | None
    ) -> dict[int, int]:
        """The row ids of the skipped rows that may be paid, by the row of the sheet."""
        if unknown is None or not unknown.known:
            return {}
        stamp = (moment.run if moment else 0, frozenset(unknown.known))
        if self._skipped is None or self._skipped[0] != stamp:
            self._skipped = stamp, unknown.rows(copy.file)
        return self._skipped[1]

    def _protected(self, read: Read, reviews: Reviews) -> dict[int, tuple[int, int]]:
        if not reviews.protected:
            return {}
        return {
            row_id: (attempt, (run << RUN_SHIFT) + row)
            for row_id, attempt, run, row in read(answers_of(reviews.protected))
        }

    def _edited(
        self, read: Read, reviews: Reviews, edits: Edits, sources: Sequence[_Source]
    ) -> _Edited:
        """The edited answers. They are read again when there is another review."""
        wanted = {n for n, one in reviews.standing.items() if one.edits}
        stamp = (reviews.last, len(sources) if wanted else 0)
        if self._edits is None or self._edits[0] != stamp:
            places = read(queries.places_of(wanted)) if wanted else []
            keys = np.array(
                [(self._run_numbers.get(run, -1) << RUN_SHIFT) + row for _, run, row in places],
                np.int64,
            )
            found = []
            for source in sources if len(keys) else ():
                at = np.flatnonzero(np.isin(source.held.keys, keys))
                if len(at):
                    table = edits.around(source.load)((*INDEX_COLUMNS, *edits.fields))
                    segment = segment_of(taken(table, at).combine_chunks(), self._columns)
                    found.append((self._in_memory(segment), segment))
            self._edits = stamp, _Edited(keys, found)
        return self._edits[1]

    def _mask(self, view: _View, choice: Choice) -> Mask:
        source, states = view.source, view.states
        refuse_unknown(source, replace(choice, codes=()))
        mask = Selection(rows=choice.rows).named(source.rows)
        if choice.ids:
            mask &= with_ids(source, self._id_column(), choice.ids)
        if choice.statuses:
            words = [WORDS.index(status) for status in choice.statuses]
            mask &= np.isin(states.status, words) | np.isin(states.newer, words)
        if choice.codes:
            codes = [n for n, code in enumerate(states.codes) if code in choice.codes]
            coded = np.isin(states.code, codes)
            if not coded.any():
                refuse_unknown_codes(choice.codes, set(), source.read)
            mask &= coded
        if choice.reviews:
            standing = source.reviews.standing
            decided = [n for n, one in standing.items() if one.decision in choice.reviews]
            mask &= np.isin(states.attempt, np.array(decided, np.int64))
        if choice.flags:
            mask &= self._flagged(view, choice.flags)
        if choice.find:
            mask &= self._containing(view, choice)
        return mask

    def _id_column(self) -> str | None:
        assert self._copy is not None
        column = row_names(self._copy.file, ()).id_column
        spec = self._job.spec
        if column is None and spec is not None and spec.id in stored_columns(self._copy.file):
            return spec.id  # a snapshot of an earlier release
        return column

    def _flagged(self, view: _View, flags: Collection[str]) -> Mask:
        known = known_flags(self._columns.columns)
        mask = np.zeros(view.source.rows, bool)
        for flag in flags:
            if flag == REPEATED:
                mask |= self._repeated(view)
            else:
                mask |= view.having(partial(_with_flag, known.index(flag)))
        return mask

    def _containing(self, view: _View, choice: Choice) -> Mask:
        folded = (choice.find or "").casefold().encode()
        places, of_answers = searched_places(
            view.source.snapshot, view.source.kinds, choice.find_in
        )
        mask, hits = np.zeros(view.source.rows, bool), self._hits_of(choice)
        for one in self._stretches.values() if places else ():
            mask[hits[one.source] - 1] = True
        if of_answers:
            name = section_name(part_of(of_answers[0]))

            def found(held: _Held, source: str | None, segment: Segment | None) -> Numbers:
                if source is None or source not in hits:
                    assert segment is not None
                    return held.keys[segment.sections[name].containing(folded)]
                return hits[source]

            mask |= view.having(found)
        return mask

    def _repeated(self, view: _View) -> Mask:
        if self._twice is None or self._twice[0] != view.stamp:
            keys, texts, variables = view.hashes()
            rows = np.flatnonzero(view.states.answered)
            order = np.argsort(keys, kind="stable")
            at = np.searchsorted(keys, view.states.key[rows], sorter=order)
            at = order[np.minimum(at, max(len(order) - 1, 0))] if len(order) else at[:0]
            fits = keys[at] == view.states.key[rows[: len(at)]]
            rows, at = rows[: len(at)][fits], at[fits]
            hashes, of_variables = (one[at].view(np.uint64) for one in (texts, variables))
            found = repeated_rows(rows + 1, hashes, of_variables, view.source.rows)
            self._twice = view.stamp, found
        return self._twice[1]

    def _rows(self, view: _View, numbers: Numbers) -> Iterator[FoundRow]:
        """Reads some rows of the sheet, whose numbers ascend."""
        if not len(numbers):
            return
        states, read = view.states, view.source.read
        by_owner: dict[int, list[int]] = {}
        for row, owner in zip(numbers.tolist(), states.owner[numbers - 1].tolist(), strict=True):
            if owner:
                by_owner.setdefault(owner, []).append(row)
        read(refuse_altered(by_owner))
        loads, places = view.places_of(numbers)
        answers = answers_at(
            [view.edits.around(load) for load in loads],
            places,
            states.answered,
            self._repeated(view),
            view.edits.fields,
        )
        if sum(len(rows) for _, rows in places) != int(states.answered[numbers - 1].sum()):
            raise altered("the record of where an answer is")
        source = replace(
            view.source, answers=answers, only=numbers, unfinished=unfinished_of(by_owner)
        )
        names = row_names(source.snapshot, numbers.tolist())
        wanted = set(numbers.tolist())
        for piece, cells, added in answered_pieces(source):
            for place in range(len(piece.skipped)):
                if piece.first + place in wanted:
                    yield _found_row(names, piece, cells, added, place)


_KINDS = KINDS


def _with_flag(number: int, held: _Held, name: str | None, segment: Segment | None) -> Numbers:
    return held.with_flag(number)


def _name(part: Part) -> str:
    return f"part-{part.number:05}"


def _found_row(
    names: RowNames,
    piece: Piece,
    cells: Sequence[pa.Array],
    added: Mapping[str, pa.Array],
    place: int,
) -> FoundRow:
    cell = {kind: column[place].as_py() for kind, column in added.items()}
    return FoundRow(
        row=piece.first + place,
        name=names.row(piece.first + place),
        status=cell[STATUS],
        error_code=cell["error_code"],
        answer=cell[ANSWER],
        columns={part: text for kind, text in cell.items() if (part := part_of(kind))},
        flags=tuple(cell[FLAGS] or ()),
        review=cell[REVIEW],
        cells=tuple(column[place].as_py() for column in cells),
    )


def _slowly(job: Job, choice: Choice, first: int, count: int) -> Found:
    """Does the same for a sheet that has columns of an earlier export, which count too."""
    with showing(job, replace(choice, sample=None, limit=None)) as shown:
        total, copy = shown.count, shown.source.snapshot
        numbers = np.flatnonzero(shown.mask)[first : first + count] + 1
        mask = np.zeros_like(shown.mask)
        mask[numbers - 1] = True
        cells = dict(stored_cells_at(copy, frozenset(numbers.tolist())))
        rows = replace(shown, mask=mask).rows()
        found = tuple(_of_shown(row, cells[row.row]) for row in rows)
        searched = searched_columns(copy, shown.source.kinds)
        return Found(total, found, stored_columns(copy), searched)


def _of_shown(row: ShownRow, cells: tuple[str, ...]) -> FoundRow:
    return FoundRow(
        row.row,
        row.name,
        row.status,
        row.error_code,
        row.answer,
        row.columns,
        row.flags,
        row.review,
        cells,
    )
