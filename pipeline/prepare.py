"""From the sheet to the plan: what a run would send, before anything is changed or sent.

`run` goes on from here; `check` only looks.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pipeline import placing, records
from pipeline.errors import Refused
from pipeline.folder import RunFolder
from pipeline.inputs.snapshot import Snapshot, take_snapshot
from pipeline.inputs.table import Table, open_table
from pipeline.model import State
from pipeline.pins import Pins, read_pins
from pipeline.plan import Plan, Selection, Variables, add_batch, bind, empty_plan
from pipeline.records import Read
from pipeline.spec import JobSpec

_LOOK_UP_ROWS = 2000


@dataclass(frozen=True, slots=True)
class Sheet:
    """The spec's sheet, opened: its header is known to fit, its rows are not read yet."""

    table: Table
    variables: Variables


@dataclass(frozen=True, slots=True)
class Prepared:
    """A sheet that was read and laid over the ledger.

    `repaid` counts the rows that a changed spec would send although they are or may be paid.
    """

    snapshot: Snapshot
    variables: Variables
    plan: Plan
    pins: Pins
    repaid: int


def open_sheet(spec: JobSpec, folder: RunFolder) -> Sheet:
    """Opens the sheet of `spec`.

    Raises:
        Refused: when it cannot be read, does not have the mapped columns, or is of this folder.
    """
    if spec.input.resolve().parent == folder.path.resolve():
        raise Refused(
            f"{spec.input}: a file of this job's own run folder is not a sheet for it. To send "
            "failed rows again use `pipeline resume`; as the sheet of another job, give it "
            "another `output:`. Nothing was sent."
        )
    table = open_table(spec)
    return Sheet(table, bind(spec, table.columns))


def prepare(
    spec: JobSpec, sheet: Sheet, host: str, selection: Selection, read: Read, path: Path
) -> Prepared:
    """Reads the sheet into a snapshot at `path` and compares it with what is held.

    Raises:
        Refused: for a sheet that cannot be sent as it is, for rows that it does not have, and for
            another host.
        StorageFailed: when the snapshot cannot be written, or the ledger is damaged.
    """
    pins = read_pins(read, spec, sheet.variables, host)
    skip_ambiguous = State.AMBIGUOUS not in selection.states
    snapshot = take_snapshot(
        spec, sheet.table, sheet.variables, path, skip_ambiguous=skip_ambiguous
    )
    if selection.rows is not None and selection.rows.last > snapshot.rows:
        raise Refused(
            f"There is no row {selection.rows.last}: {spec.input.name} has {snapshot.rows} data "
            "rows. Nothing was sent."
        )
    read(placing.begin)
    plan = empty_plan(snapshot.rows)
    for numbers, wanted in _batches(snapshot):
        add_batch(plan, numbers, read(placing.look_up(wanted)), selection)
    read(placing.check_absent)
    if plan.to_send:
        read(records.check_paid)
    repaid = min(read(placing.leaving), plan.new)
    return Prepared(snapshot, sheet.variables, plan, pins, repaid)


def _batches(snapshot: Snapshot) -> Iterator[tuple[list[int], list[tuple[int, bytes, int]]]]:
    for first in range(0, len(snapshot.numbers), _LOOK_UP_ROWS):
        span = range(first, min(first + _LOOK_UP_ROWS, len(snapshot.numbers)))
        numbers = [int(snapshot.numbers[i]) for i in span]
        yield (
            numbers,
            [
                (number, snapshot.identity_at(i), int(snapshot.occurrences[i]))
                for number, i in zip(numbers, span, strict=True)
            ],
        )
