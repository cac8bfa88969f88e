"""Finds the rows of the sheet that a changed spec would pay for again.

A row is identified by its workflow and texts, so a changed constant makes every row new. The folder
keeps every set of pins under which a row was paid. For each set, this module computes from the
sheet how the row would have been identified, and looks that up in the ledger. Where and when the
row was last in a sheet does not matter. If the sheet has lost a column of a set, the texts cannot
be computed. The rows of that set then count as if they were in the sheet.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from pipeline.core.errors import Refused
from pipeline.core.model import JsonObject
from pipeline.core.money import paid_word
from pipeline.core.wording import counted
from pipeline.inputs.formats import open_table
from pipeline.inputs.identity import identity
from pipeline.inputs.mapping import Variables, VariableSource
from pipeline.inputs.snapshot import Snapshot
from pipeline.inputs.stored import stored_batches
from pipeline.job.spec import JobSpec
from pipeline.job.stage import Stage
from pipeline.ledger import matching
from pipeline.ledger.pins import rules_of
from pipeline.ledger.reader import Read
from pipeline.planning.pinned_settings import (
    Pins,
    differences,
    layout_of,
    same_input,
    shown_of,
)
from pipeline.planning.plan import Plan

_LOOK_UP_ROWS = 10_000
_DECIDE_DISPLAY = ("shown", "locale", "variables", "id")

Columns = Sequence[Sequence[str]]


@dataclass(frozen=True, slots=True)
class Repaid:
    """The rows that a run would pay for again because the spec changed.

    `requests` is the number of rows that would be sent although they were or may have been paid
    under other pins. `row_ids` are the ledger's rows of those answers. `changed` says in words
    which settings differ. If `exact` is False, `requests` is an upper bound.
    """

    requests: int = 0
    row_ids: tuple[int, ...] = ()
    changed: tuple[str, ...] = ()
    exact: bool = True


def find_repaid(
    spec: JobSpec, snapshot: Snapshot, variables: Variables, pins: Pins, plan: Plan, read: Read
) -> Repaid:
    """Looks up the rows that `plan` sends under all other pins of the folder.

    Rows that were paid under the present pins are left out, and so are rows that the user already
    accepted to pay again under the present pins. The sheet must have been looked up by `matching`.
    """
    rows = int(plan.sent_unpaid.sum())
    if not pins.others or not rows:
        return Repaid()
    look_up = _LookUp(spec, snapshot, variables, plan, pins, read)
    by_pins = {number: look_up.paid_under(before) for number, before in pins.others.items()}
    lost = [number for number, found in by_pins.items() if found is None]
    found = {number: rows for number, rows in by_pins.items() if rows}
    numbers = {number for rows in found.values() for number in rows}
    row_ids = {row_id for rows in found.values() for row_id in rows.values()}
    unplaced = read(matching.paid_and_absent(lost, pins.text, unknown=1 in pins.others))
    more = min(len(set(unplaced) - row_ids), rows - len(numbers))
    if more:
        row_ids |= set(unplaced)
    if not numbers and not more:
        return Repaid()
    most = max(found, key=lambda number: len(found[number]), default=(lost or list(by_pins))[0])
    changed = differences(pins.others[most], pins.now)
    return Repaid(len(numbers) + more, tuple(sorted(row_ids)), tuple(changed), not more)


def refuse_repaying(spec: JobSpec, repaid: Repaid, *, rehearsal: bool) -> None:
    """Raises if a changed spec would pay for rows again.

    A changed sheet is no reason to raise: its new rows are really new.

    Raises:
        Refused: with the number of rows that would be billed again, and the settings that changed.
    """
    if not repaid.requests:
        return
    changed = " and ".join(repaid.changed) or "the settings of the job changed"
    rows = counted(repaid.requests, "finished row")
    most = "" if repaid.exact else "at most "
    raise Refused(
        f"{spec.source or 'run_frame'}: {changed}, so {most}{rows} would be sent and "
        f"{paid_word(rehearsal)} again. To keep the answers, undo the change. To send "
        f"{most}{rows} again, add --accept-changes. To keep the old answers apart from the new "
        "ones, set another `output:`, which sends every row."
    )


@dataclass(frozen=True, slots=True)
class _LookUp:
    """Looks up rows that the plan sends, and that are not paid yet, under earlier pins."""

    spec: JobSpec
    snapshot: Snapshot
    variables: Variables
    plan: Plan
    pins: Pins
    read: Read

    def paid_under(self, before: JsonObject) -> dict[int, int] | None:
        """Returns, for each of these rows of the sheet, the ledger's row that was or may have been
        paid for it. None if their texts under these pins cannot be computed."""
        if not same_input(before, self.pins.now, self.spec):
            return None
        try:
            read_before = self._as_before(before)
            texts = self._read_again(read_before) if read_before else self._as_now()
            bound = self._bound(before, read_before)
            if bound is None:
                return None
            return self._found(self._names(texts, *bound))
        except Refused:  # the sheet can no longer be read with the encoding or rules of `before`
            return None

    def _as_before(self, before: JsonObject) -> JobSpec | None:
        """Returns a spec that reads the sheet as a run under `before` read it. None if that is the
        present way."""
        if isinstance(self.spec.input, Stage):
            return None  # its texts are those of the other job
        columns, locale = shown_of(before)
        read_before = replace(
            self.spec,
            encoding=before["encoding"],
            text_rules=rules_of(before),
            shown=tuple(self._renamed(before, column) for column in columns),
            locale=locale,
            **layout_of(before, self.spec),
        )
        if replace(read_before, shown=self.spec.shown, locale=self.spec.locale) != self.spec:
            return read_before
        # A column that is only in `before` may be displayed now, although it is not pinned now.
        same = all(before.get(key) == self.pins.now.get(key) for key in _DECIDE_DISPLAY)
        return None if same or not (columns or self.spec.shown) else read_before

    def _renamed(self, before: JsonObject, column: str) -> str:
        """Returns the name that a column of `before` has now. If the sheet has no column of that
        name, this is the column that its variable or the id has now."""
        if column in self.snapshot.columns:
            return column
        now = {s.name: s.column_name for s in self.variables.sources}
        names = [now.get(name) for name, was in before["variables"] if was == column]
        if before["id"] == column:
            names.append(self.spec.id)
        return next(filter(None, names), column)

    def _as_now(self) -> Iterator[tuple[int, Columns]]:
        for first, columns, keys, *_ in stored_batches(self.snapshot.path):
            if self.plan.sent_unpaid[first - 1 : first - 1 + len(keys)].any():
                yield first, [column.to_pylist() for column in columns]

    def _read_again(self, spec: JobSpec) -> Iterator[tuple[int, Columns]]:
        first = 1
        for batch in open_table(spec).batches():
            yield first, batch.columns
            first += len(batch)

    def _bound(
        self, before: JsonObject, read_before: JobSpec | None
    ) -> tuple[Variables, int | None] | None:
        """Returns the variables of `before`, tied to the columns of the sheet, and the position of
        its id column. None if the sheet lacks one of these columns.

        If a column of `before` is missing, it may have been renamed: the column that its variable
        has now takes its place.
        """
        columns = self.snapshot.columns if read_before is None else open_table(read_before).columns
        place = {name: position for position, name in enumerate(columns)}
        renamed = {s.name: s.column_name for s in self.variables.sources}
        sources = []
        for name, column in before["variables"]:
            if column is None:
                sources.append(VariableSource(name, None, before["constants"][name]))
                continue
            column = column if column in place else renamed.get(name)
            if column is None or column not in place:
                return None
            sources.append(VariableSource(name, place[column], column_name=column))
        row_id = before["id"]
        if row_id is not None and row_id not in place:
            row_id = self.spec.id
        if before["id"] is not None and row_id not in place:
            return None
        bound = Variables(before["workflow"], tuple(sorted(sources, key=lambda s: s.name)))
        return bound, None if row_id is None else place[row_id]

    def _names(
        self, texts: Iterator[tuple[int, Columns]], variables: Variables, row_id: int | None
    ) -> Iterator[tuple[int, bytes]]:
        """Yields (sheet row, its name in the ledger under these variables) for each row in
        question."""
        for first, columns in texts:
            offsets = np.flatnonzero(self.plan.sent_unpaid[first - 1 : first - 1 + len(columns[0])])
            if not len(offsets):
                continue
            cells = [[column[offset] for offset in offsets.tolist()] for column in columns]
            ids = [None] * len(offsets) if row_id is None else cells[row_id]
            keys = variables.keys(cells)
            for offset, key, one in zip(offsets.tolist(), keys, ids, strict=True):
                name = key if self.spec.dedupe else identity(key, one)
                if name != self._name_now(first + offset):
                    yield first + offset, name

    def _name_now(self, number: int) -> bytes:
        """Returns the row's name under the present pins. The row is not paid, so each answer with
        that name belongs to an equal row."""
        position = int(np.searchsorted(self.snapshot.numbers, number))
        snapshot = self.snapshot
        return (snapshot.row_key_at if self.spec.dedupe else snapshot.identity_at)(position)

    def _found(self, names: Iterator[tuple[int, bytes]]) -> dict[int, int]:
        """Matches names with paid rows of the ledger. Each of these answers only one row of the
        sheet, because equal rows were paid one by one."""
        numbers: defaultdict[bytes, list[int]] = defaultdict(list)
        for number, name in names:
            numbers[name].append(number)
        known = list(numbers)
        found: dict[int, int] = {}
        for start in range(0, len(known), _LOOK_UP_ROWS):
            wanted = known[start : start + _LOOK_UP_ROWS]
            operation = matching.paid_before(wanted, self.pins.text, deduped=self.spec.dedupe)
            for name, row_ids in self.read(operation).items():
                found |= dict(zip(numbers[name], row_ids, strict=False))
        return found
