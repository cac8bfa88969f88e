"""Finds rows among a million, for a program that asks more than once.

`show_job` checks the whole ledger and looks at every answer. A `Finder` keeps the states of the
rows in memory, reads what changed since, and searches the texts in `results/answer_index`.
The rows that it returns are read from the ledger, the results and the sheet's copy themselves, in
one view, and their records are checked.
"""

from __future__ import annotations

import tempfile
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from threading import Lock
from typing import TypeVar

import numpy as np

from pipeline.core.added_columns import ALL_KINDS, KINDS, part_of
from pipeline.core.errors import Locked, PipelineError
from pipeline.inputs.arrow import taken
from pipeline.inputs.row_names import row_names
from pipeline.inputs.stored import (
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
from pipeline.ledger.row_states import (
    Mark,
    answers_of,
    paid_answers_of,
    refuse_altered,
    run_ids,
    unfinished_of,
)
from pipeline.ledger.schema import altered
from pipeline.planning.consent import refuse_unknown_codes
from pipeline.planning.selection import Selection, parse_rows
from pipeline.results.answer_index import (
    INDEX_COLUMNS,
    Segment,
    section_name,
    segment_of,
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
    answers_at,
    read_part,
    repeated_rows,
    unsealed_loads,
)
from pipeline.results.row_states import WORDS, RowStates
from pipeline.results.row_states import Shown as States
from pipeline.show.answer_view import Edited, Held, Mask, Numbers, Source, View
from pipeline.show.choice import (
    Choice,
    refuse_unknown,
    searched_columns,
    searched_places,
    with_ids,
)
from pipeline.show.found import (
    Found,
    FoundRow,
    WholeRow,
    find_slowly,
    found_row,
    read_slowly,
    whole_row,
)
from pipeline.show.indexing import Index, Indexing, SheetCopy
from pipeline.show.rows import AS_SENT, Shown

_TRIES = 8
_AT_ONCE = 20
"""So many parts are indexed while the reader waits. More are indexed in the background."""
_STRETCH_ROWS = 2000
_PATIENCE_S = 1.0
_SEARCHES = 16

T = TypeVar("T")


def _no_search(kinds: Mapping[str, str], parts: Sequence[Part]) -> None:
    pass


class Finder:
    """The rows of one job. Any thread may call it; one call runs at a time."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._columns = AnswerColumns(job.spec.columns if job.spec else ())
        self._states = RowStates()
        self._index = Index(job.folder, self._columns)
        self._copy: SheetCopy | None = None
        self._hits: OrderedDict[tuple[str, str | None], dict[str, Numbers]] = OrderedDict()
        self._lock = Lock()
        # Each with a stamp that says what it was made of.
        self._reviews: tuple[int, Reviews] | None = None
        self._unsealed: dict[tuple[int, int], Segment] = {}
        self._edits: tuple[object, Edited] | None = None
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

        def found(view: View) -> Found:
            places = np.flatnonzero(self._mask(view, choice))
            rows = tuple(self._rows(view, places[first : first + count] + 1))
            copy = view.source.snapshot
            searched = searched_columns(copy, view.source.kinds)
            return Found(len(places), rows, stored_columns(copy), searched)

        return self._look(
            KINDS,
            lambda: find_slowly(self._job, choice, first, count),
            found,
            before=partial(self._search, choice),
        )

    def row(self, number: int) -> WholeRow | Indexing:
        """Returns one row of the sheet with its requests, and with its versions if there are
        several. Or returns how far the index is.

        Raises:
            Refused: before the first run, and if the sheet has no such row.
            StorageFailed: when something is not as the runner wrote it.
            Locked: when runs begin one after the other.
        """
        return self._look(
            ALL_KINDS, lambda: read_slowly(self._job, number), partial(self._whole, number)
        )

    def _look(
        self,
        added: Collection[str],
        slowly: Callable[[], T],
        found: Callable[[View], T],
        before: Callable[[Mapping[str, str], Sequence[Part]], None] = _no_search,
    ) -> T | Indexing:
        """Returns what `found` reads in one view of the ledger. `before` runs before the view, and
        `slowly` replaces both where the index has no place for the sheet's columns."""
        with self._lock:
            for _ in range(_TRIES):
                parts = self._read_sources()
                if parts is None or self._copy is None:
                    continue
                names = added_names(self._job, self._copy.file, added)
                if not names.are_new:
                    return slowly()
                waiting = self._index.make(parts, self._copy)
                if waiting is not None:
                    return waiting
                before(names.kinds(), parts)
                with self._viewing(names.kinds()) as view:
                    if view is not None:
                        return found(view)
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
            self._index.run_numbers = read(run_ids)
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
        self._copy = SheetCopy(named, file, file.facts(), stored_skipped(file))
        return True

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
            source = self._index.source(part)
            if source not in hits:
                keys = self._index.held[source].keys
                sections = self._index.segment(part).sections
                hits[source] = keys[
                    sections[section_name(part_of(of_answers[0]))].containing(folded)
                ]
        copy, names = self._copy, [stored_columns(self._copy.file)[place] for place in places]
        for one in copy.stretches.values() if names else ():
            if one.source not in hits:
                sections = self._index.stretch(copy, one).sections
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

    # -- in one view of the ledger --------------------------------------------------------

    @contextmanager
    def _viewing(self, kinds: Mapping[str, str]) -> Iterator[View | None]:
        """One view; None if the ledger has other parts or another sheet by now."""
        copy, folder = self._copy, self._job.folder
        assert copy is not None
        in_use = folder.in_use  # before the view, or a run that ends now looks cut off
        with reading(folder.ledger) as read:
            sealed = {self._index.source(part): part for part in read(queries.sealed_parts)}
            same = read(queries.snapshot) == copy.named and self._states.catch_up(read)
            known = sealed.keys() <= self._index.held.keys()
            yield self._view(read, in_use, kinds, sealed) if same and known else None

    def _view(
        self, read: Read, in_use: bool, kinds: Mapping[str, str], sealed: Mapping[str, Part]
    ) -> View:
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
        sources: list[Source] = [
            Source(partial(read_part, folder, part), self._index.held[source], source)
            for source, part in sealed.items()
        ]
        sources += [
            Source(
                load, self._index.in_memory(self._unsealed[numbers]), None, self._unsealed[numbers]
            )
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
        return View(source, states, sources, edits, edited, stamp)

    def _read_reviews(self, read: Read) -> Reviews:
        run = self._states.moment.run if self._states.moment else 0
        if self._reviews is None or self._reviews[0] != run:
            self._reviews = run, read_reviews(self._job.folder, read)
        else:
            self._reviews = run, self._reviews[1].newer()
        return self._reviews[1]

    def _absent(
        self, copy: SheetCopy, unknown: SkippedUnknown | None, moment: Mark | None
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
        self, read: Read, reviews: Reviews, edits: Edits, sources: Sequence[Source]
    ) -> Edited:
        """The edited answers. They are read again when there is another review."""
        wanted = {n for n, one in reviews.standing.items() if one.edits}
        stamp = (reviews.last, len(sources) if wanted else 0)
        if self._edits is None or self._edits[0] != stamp:
            places = read(queries.places_of(wanted)) if wanted else []
            keys = np.array(
                [
                    (self._index.run_numbers.get(run, -1) << RUN_SHIFT) + row
                    for _, run, row in places
                ],
                np.int64,
            )
            found = []
            for source in sources if len(keys) else ():
                at = np.flatnonzero(np.isin(source.held.keys, keys))
                if len(at):
                    table = edits.around(source.load)((*INDEX_COLUMNS, *edits.fields))
                    segment = segment_of(taken(table, at).combine_chunks(), self._columns)
                    found.append((self._index.in_memory(segment), segment))
            self._edits = stamp, Edited(keys, found)
        return self._edits[1]

    def _mask(self, view: View, choice: Choice) -> Mask:
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

    def _flagged(self, view: View, flags: Collection[str]) -> Mask:
        known = known_flags(self._columns.columns)
        mask = np.zeros(view.source.rows, bool)
        for flag in flags:
            if flag == REPEATED:
                mask |= self._repeated(view)
            else:
                mask |= view.having(partial(_with_flag, known.index(flag)))
        return mask

    def _containing(self, view: View, choice: Choice) -> Mask:
        folded = (choice.find or "").casefold().encode()
        places, of_answers = searched_places(
            view.source.snapshot, view.source.kinds, choice.find_in
        )
        copy, hits = self._copy, self._hits_of(choice)
        assert copy is not None
        mask = np.zeros(view.source.rows, bool)
        for one in copy.stretches.values() if places else ():
            mask[hits[one.source] - 1] = True
        if of_answers:
            name = section_name(part_of(of_answers[0]))

            def found(held: Held, source: str | None, segment: Segment | None) -> Numbers:
                if source is None or source not in hits:
                    assert segment is not None
                    return held.keys[segment.sections[name].containing(folded)]
                return hits[source]

            mask |= view.having(found)
        return mask

    def _repeated(self, view: View) -> Mask:
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

    def _rows(self, view: View, numbers: Numbers) -> Iterator[FoundRow]:
        """Reads some rows of the sheet, whose numbers ascend."""
        if not len(numbers):
            return
        source = self._narrowed(view, numbers)
        names = row_names(source.snapshot, numbers.tolist())
        wanted = set(numbers.tolist())
        for piece, cells, added in answered_pieces(source):
            for place in range(len(piece.skipped)):
                if piece.first + place in wanted:
                    yield found_row(names, piece, cells, added, place)

    def _whole(self, number: int, view: View) -> WholeRow:
        copy = view.source.snapshot
        assert self._copy is not None
        choice = Choice(rows=parse_rows(str(number)))
        refuse_unknown(view.source, choice)
        source = self._narrowed(view, np.array([number], np.int64), (AS_SENT,))
        names = replace(row_names(copy, ()), id_column=self._id_column())
        mask = Selection(rows=choice.rows).named(source.rows)
        absent = self._absent(self._copy, source.unknown, self._states.moment)
        owner = absent.get(number) or int(view.states.owner[number - 1])
        # To find all versions, every part is read. Most rows have no other one.
        several = source.read(paid_answers_of(owner)) > 1
        return whole_row(Shown(self._job, source, names, mask, versions=several))

    def _narrowed(self, view: View, numbers: Numbers, more: tuple[str, ...] = ()) -> AnsweredSheet:
        """The sheet of a view for some rows, whose records it checks. `more` are further columns of
        the results."""
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
            (*view.edits.fields, *more),
        )
        if sum(len(rows) for _, rows in places) != int(states.answered[numbers - 1].sum()):
            raise altered("the record of where an answer is")
        return replace(
            view.source, answers=answers, only=numbers, unfinished=unfinished_of(by_owner)
        )


def _with_flag(number: int, held: Held, name: str | None, segment: Segment | None) -> Numbers:
    return held.with_flag(number)
