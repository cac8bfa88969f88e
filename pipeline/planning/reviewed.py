"""Finds the rows that a review keeps from being sent, and the words about them.

A row is identified by its text, so a changed text is a new row, for which a run would pay. But a
person has approved or edited the answer to the old text, and a new answer would replace that work.
So the changed row keeps the reviewed answer until the person resets the review.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from pipeline.core.errors import Refused
from pipeline.core.wording import counted, few_words, one_line
from pipeline.inputs.row_names import RowNames
from pipeline.inputs.snapshot import Snapshot
from pipeline.inputs.stored import Copy, stored_column_at
from pipeline.job.job import Job
from pipeline.job.spec import JobSpec
from pipeline.ledger import matching
from pipeline.ledger.matching import Protected
from pipeline.ledger.reader import Read
from pipeline.planning.plan import Plan
from pipeline.planning.prepared import Links, Prepared

# The most row numbers in a command to paste.
_PASTED = 10
_NAMED, _ID_CHARACTERS = 5, 40


def find_kept(
    spec: JobSpec,
    last: Copy | None,
    snapshot: Snapshot,
    plan: Plan,
    protected: list[Protected],
    links: Links,
) -> dict[int, int]:
    """Returns the ledger's row of the reviewed answer for each new row that has the text of an
    earlier run's kept row, or the id or the place of the row that was reviewed.

    The place counts only if no row of the sheet has the reviewed row's text: otherwise somebody
    inserted a row there. `last` is the sheet of the last run.
    """
    finding = _Finding(spec, last, snapshot, plan, protected)
    finding.add(finding.with_links(links))
    finding.add(finding.with_ids() if spec.id is not None else finding.in_places())
    return finding.found


@dataclass(slots=True)
class _Finding:
    spec: JobSpec
    last: Copy | None
    snapshot: Snapshot
    plan: Plan
    protected: list[Protected]
    found: dict[int, int] = field(default_factory=dict)
    left: dict[int, int] = field(default_factory=dict)
    """How many rows of the last sheet had each answer, without those that still have its text."""

    def __post_init__(self) -> None:
        for one in self.protected:
            now = 0 if one.place is None else int(self.plan.weights[one.place - 1])
            self.left[one.row_id] = max(len(one.places), 1) - now

    def add(self, pairs: Iterator[tuple[int, int]]) -> None:
        for number, row_id in pairs:
            if number not in self.found and self.plan.new_rows[number - 1]:
                self.found[number] = row_id
                self.left[row_id] -= 1

    def with_links(self, links: Links) -> Iterator[tuple[int, int]]:
        for number in self._new_numbers() if links else ():
            for row_id in links.get(name_of(self.spec, self.snapshot, number).hex(), ()):
                # Under `dedupe: true`, any number of changed rows may keep one answer.
                if row_id in self.left and (self.spec.dedupe or self.left[row_id] > 0):
                    yield number, row_id
                    break

    def with_ids(self) -> Iterator[tuple[int, int]]:
        assert self.spec.id is not None
        by_id = {one.id: one.row_id for one in self.protected}
        if self.last is not None:  # rows that shared the answer, also if `dedupe:` is off now
            by_id |= self._ids_of_places(self.spec.id, self.last)
        new = self._new_numbers() if by_id else []
        for number, name in stored_column_at(self.snapshot.path, self.spec.id, new):
            if name in by_id and (self.spec.dedupe or self.left[by_id[name]] > 0):
                yield number, by_id[name]

    def _ids_of_places(self, column: str, last: Copy) -> dict[str | None, int]:
        row_ids = {place: one.row_id for one in self.protected for place in one.places}
        return {
            name: row_ids[number]
            for number, name in stored_column_at(last, column, sorted(row_ids))
        }

    def in_places(self) -> Iterator[tuple[int, int]]:
        for one in self.protected:
            for place in one.places:
                if place <= self.snapshot.rows and self.left[one.row_id] > 0:
                    yield place, one.row_id

    def _new_numbers(self) -> list[int]:
        numbers: list[int] = (np.flatnonzero(self.plan.new_rows) + 1).tolist()
        return numbers


def name_of(spec: JobSpec, snapshot: Snapshot, number: int) -> bytes:
    """Returns the name by which a row of the sheet is looked up in the ledger."""
    position = int(np.searchsorted(snapshot.numbers, number))
    return (snapshot.row_key_at if spec.dedupe else snapshot.identity_at)(position)


def linked(
    spec: JobSpec,
    snapshot: Snapshot,
    found: Mapping[int, int],
    links: Links,
    protected: set[int],
) -> dict[str, list[int]]:
    """Returns `links` with those of `found`, and without rows that are not `protected` now."""
    now = {name: [one for one in ids if one in protected] for name, ids in links.items()}
    for number, row_id in found.items():
        ids = now.setdefault(name_of(spec, snapshot, number).hex(), [])
        if row_id not in ids:
            ids.append(row_id)
    return {name: ids for name, ids in now.items() if ids}


def refuse_reviewed(job: Job, rows: list[int], names: RowNames, why: str) -> None:
    """Refuses to send rows that the user named and whose answers are approved or edited.

    Raises:
        Refused: if there are any in `rows`.
    """
    if not rows:
        return
    are = "is" if len(rows) == 1 else "are"
    raise Refused(
        f"{names.rows(rows)} {are} approved or edited, so {why} does not pay for "
        f"{'it' if len(rows) == 1 else 'them'} again. Nothing was sent. To undo the review first: "
        f"{reset_command(job, rows)}"
    )


def refuse_paying_reviewed(job: Job, prepared: Prepared, read: Read, *, accepting: bool) -> None:
    """Refuses a plan that pays again for reviewed answers because the spec changed. `accepting`:
    refuses --accept-changes also while changed rows are kept by review.

    Raises:
        Refused: with the rows.
    """
    if accepting:
        rows = sorted(prepared.by_review.rows)
        refuse_reviewed(job, rows, prepared.names, "--accept-changes")
    again = set(prepared.repaid.row_ids) if prepared.reviews.protected else set()
    found = [one for one in read(matching.protected_rows) if one.row_id in again] if again else []
    if not found:
        return
    places = sorted(place for one in found for place in one.places[:1])
    named = [
        one.id or f"row {one.places[0] if one.places else '(no longer there)'}" for one in found
    ]
    undo = f" To undo the reviews first: {reset_command(job, places)}" if places else ""
    raise Refused(
        f"{counted(len(found), 'approved or edited row')} would be paid again because settings "
        f"changed: {few_words((one_line(name, _ID_CHARACTERS) for name in named), _NAMED)}. "
        f"Nothing was sent.{undo}"
    )


def reset_command(job: Job, rows: list[int]) -> str:
    """Returns the command that undoes the reviews of the first of these rows."""
    first = ",".join(map(str, rows[:_PASTED]))
    more = "" if len(rows) <= _PASTED else " and so on"
    return f"{job.command('review', '--rows', first, '--reset')}{more}"


def kept_line(job: Job, rows: list[int], names: RowNames) -> str:
    """Returns which changed rows are not sent because of a review."""
    answer = "a reviewed answer" if len(rows) == 1 else "reviewed answers"
    return (
        f"{counted(len(rows), 'row')} changed, kept by review: {names.rows(rows)}. Nothing is sent "
        f"for {'it' if len(rows) == 1 else 'them'}, and exports keep {answer}. To send the changed "
        f"text, undo the review: {reset_command(job, rows)}"
    )


def left_line(rows: list[int], names: RowNames) -> str:
    """Returns which chosen rows are left out because their answers are approved or edited."""
    return f"{counted(len(rows), 'reviewed row')} left out: {names.rows(rows)}."
