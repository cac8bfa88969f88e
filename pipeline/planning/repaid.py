"""Rows of the sheet that a changed spec would pay for again.

A row is known by its workflow and texts, so a changed constant makes every row new. The folder
keeps every set of pins under which something was paid. What a row would have been called under each
of them is worked out from the sheet, and looked up: where and when the row was last seen does not
matter. If the sheet has lost a column of such a set, the texts cannot be worked out. The rows of
that set are then counted as if they were in the sheet.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
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
from pipeline.ledger import matching
from pipeline.ledger.reader import Read
from pipeline.planning.pinned_settings import Pins, differences, rules_of
from pipeline.planning.plan import Plan

_LOOK_UP_ROWS = 10_000

Columns = list[list[str]]


@dataclass(frozen=True, slots=True)
class Repaid:
    """What a run would pay for again because the spec changed.

    `requests` rows of the sheet would be sent although they were or may have been paid under other
    pins. `row_ids` are the ledger's rows of those answers. `changed` says in words what differs.
    `exact` is False where `requests` is the most that it can be.
    """

    requests: int = 0
    row_ids: tuple[int, ...] = ()
    changed: tuple[str, ...] = ()
    exact: bool = True


def find_repaid(
    spec: JobSpec, snapshot: Snapshot, variables: Variables, pins: Pins, plan: Plan, read: Read
) -> Repaid:
    """Looks the rows that `plan` sends, and that were not paid under the present pins, up under all
    other pins of the folder.

    The sheet must have been looked up by `matching`. What the user accepted under the present pins
    before is left out.
    """
    rows = int(plan.sent_unpaid.sum())
    if not pins.others or not rows:
        return Repaid()
    look_up = _LookUp(spec, snapshot, variables, plan, pins.text, read)
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

    A sheet that changed is another matter: its new rows are new.

    Raises:
        Refused: with the number of bills that would follow, and with what changed.
    """
    if not repaid.requests:
        return
    changed = " and ".join(repaid.changed) or "the settings of the job changed"
    rows = counted(repaid.requests, "finished row")
    most = "" if repaid.exact else "at most "
    raise Refused(
        f"{spec.source}: {changed}, so {most}{rows} would be sent and {paid_word(rehearsal)} "
        f"again. To keep the answers, undo the change. To send {most}{rows} again, add "
        "--accept-changes. To keep the old answers apart from the new ones, set another "
        "`output:`, which sends every row."
    )


@dataclass(frozen=True, slots=True)
class _LookUp:
    """Finds the rows that are sent and not paid yet, under pins that the folder had before."""

    spec: JobSpec
    snapshot: Snapshot
    variables: Variables
    plan: Plan
    now: str
    read: Read

    def paid_under(self, before: JsonObject) -> dict[int, int] | None:
        """The ledger's row that was or may have been paid for each of these rows of the sheet.
        None where their texts under these pins are not known."""
        try:
            read_before = self._as_before(before)
            texts = self._read_again(read_before) if read_before else self._as_now()
            bound = self._bound(before, read_before)
            if bound is None:
                return None
            return self._found(self._names(texts, *bound))
        except Refused:  # the sheet can no longer be read in that way
            return None

    def _as_before(self, before: JsonObject) -> JobSpec | None:
        """The spec that reads the sheet as it was read under `before`; None if as now."""
        encoding, rules = before["encoding"], rules_of(before)
        if (encoding, rules) == (self.spec.encoding, self.spec.text_rules):
            return None
        return replace(self.spec, encoding=encoding, text_rules=rules)

    def _as_now(self) -> Iterator[tuple[int, Columns]]:
        for first, columns, keys, _ in stored_batches(self.snapshot.path):
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
        """The variables of `before` and the place of its id, tied to the columns of the sheet.

        A column that was renamed is the one that its variable has now.
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
        """(sheet row, what the ledger called it under these variables) of each row in question."""
        for first, columns in texts:
            offsets = np.flatnonzero(self.plan.sent_unpaid[first - 1 : first - 1 + len(columns[0])])
            if not len(offsets):
                continue
            cells = [[column[offset] for offset in offsets] for column in columns]
            ids = [None] * len(offsets) if row_id is None else cells[row_id]
            keys = variables.keys(cells)
            for offset, key, one in zip(offsets.tolist(), keys, ids, strict=True):
                name = key if self.spec.dedupe else identity(key, one)
                if name != self._name_now(first + offset):
                    yield first + offset, name

    def _name_now(self, number: int) -> bytes:
        """What the row is called under the present pins. It is not paid, so no answer has that name
        that is not taken by an equal row."""
        position = int(np.searchsorted(self.snapshot.numbers, number))
        snapshot = self.snapshot
        return (snapshot.row_key_at if self.spec.dedupe else snapshot.identity_at)(position)

    def _found(self, names: Iterator[tuple[int, bytes]]) -> dict[int, int]:
        """Each row of the ledger answers one row of the sheet: equal rows were paid one by one."""
        numbers: defaultdict[bytes, list[int]] = defaultdict(list)
        for number, name in names:
            numbers[name].append(number)
        known = list(numbers)
        found: dict[int, int] = {}
        for start in range(0, len(known), _LOOK_UP_ROWS):
            wanted = known[start : start + _LOOK_UP_ROWS]
            operation = matching.paid_before(wanted, self.now, deduped=self.spec.dedupe)
            for name, row_ids in self.read(operation).items():
                found |= dict(zip(numbers[name], row_ids, strict=False))
        return found
