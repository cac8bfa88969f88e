"""Finds changes of a sheet that the user may not intend.

A row is identified by its text, so a row with a changed text is new and is paid for. Two changes
are worth a question: a row number that means another row than at the last run, and another text in
most of the finished rows, for example because a formula or an editor rewrote a whole column.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest

import numpy as np
import numpy.typing as npt

from pipeline.core.wording import one_line
from pipeline.inputs.arrow import as_numpy
from pipeline.inputs.snapshot import Snapshot
from pipeline.inputs.stored import (
    Copy,
    stored_batches,
    stored_cells,
    stored_cells_at,
    stored_columns,
    stored_mapped,
    stored_source,
)
from pipeline.job.spec import JobSpec
from pipeline.ledger import matching
from pipeline.ledger.reader import Read
from pipeline.planning.plan import Plan
from pipeline.planning.selection import RowNumbers

# A person may edit fewer rows than this by hand on one evening.
MASS_ROWS = 20
# The number of pairs of rows to compare, and the share of words that two versions of a row have in
# common.
_COMPARED = 200
_ALIKE = 0.5
_TEXT_CHARACTERS = 40


@dataclass(frozen=True, slots=True)
class MovedRow:
    """A row number that means another row than at the last run. `before` and `now` name the rows
    by their id or by the beginning of their text."""

    number: int
    before: str
    now: str


@dataclass(frozen=True, slots=True)
class MassChange:
    """`changed` of `finished` rows have another text under the same id (`by_id`), or at the same
    place."""

    changed: int
    finished: int
    by_id: bool


def find_moved(
    spec: JobSpec, last: Copy | None, snapshot: Snapshot, rows: RowNumbers | None
) -> tuple[MovedRow, ...]:
    """Returns the numbers in `rows` that mean another row than in the sheet `last`."""
    if rows is None or last is None:
        return ()
    wanted = frozenset(_numbers(rows, snapshot.rows))
    columns = _telling_apart(last, spec.id)
    before, now = (_texts(path, columns, wanted) for path in (last, snapshot.path))
    numbers = sorted(n for n in wanted if before.get(n) != now.get(n))
    was, are = (_names(path, columns[0], numbers) for path in (last, snapshot.path))
    return tuple(MovedRow(n, was.get(n, "no row"), are.get(n, "no row")) for n in numbers)


def find_mass_change(
    spec: JobSpec, last: Copy | None, snapshot: Snapshot, plan: Plan, read: Read
) -> MassChange | None:
    """Returns the change if most of the finished rows of the sheet `last` have another text now.

    The sheet must have been looked up by `matching`. A sheet of entirely different rows is not a
    changed sheet: rows without ids must share half of their words with the old row at the same
    place.
    """
    if last is None or int(plan.sent_unpaid.sum()) < MASS_ROWS:
        return None
    finished, gone = read(matching.finished_before)
    if len(gone) < MASS_ROWS:
        return None
    if spec.id is not None:
        new = set(_column(snapshot.path, spec.id, plan.sent_unpaid))
        changed = sum(row_id in new for _, row_id in gone)
    else:
        numbers = [n for n, _ in gone if n <= snapshot.rows and plan.sent_unpaid[n - 1]]
        changed = len(numbers) if _alike(last, snapshot.path, numbers) else 0
    if changed < MASS_ROWS or 2 * changed <= finished:
        return None
    return MassChange(changed, finished, spec.id is not None)


def count_other_rows(last: Copy | None, snapshot: Copy, rows: int) -> int:
    """Counts the rows of a snapshot that stand somewhere else or have another text in any column
    than in the sheet `last`, also those that are new or gone."""
    if last is None or stored_columns(last) != stored_columns(snapshot):
        return rows
    there, here = (_cells(path) for path in (last, snapshot))
    return sum(one != other for one, other in zip_longest(there, here))


def _cells(path: Copy) -> Iterator[tuple[str, ...]]:
    return (cells for _, cells in stored_cells(path))


def find_stale(spec: JobSpec, snapshot: Snapshot, plan: Plan, read: Read) -> int:
    """Counts the rows to send whose answer is stale: it was made from another text of the same row
    of the job that they come from.

    It is the same row if that job has only another answer for it, and if it has the same id or,
    without ids, the same place. The sheet must have been looked up by `matching`.
    """
    folder = stored_source(snapshot.path)
    if folder is None or not plan.sent_unpaid.any():
        return 0
    _, gone = read(matching.finished_before)
    ids = {row_id for _, row_id in gone if row_id is not None}
    stale = np.zeros(snapshot.rows, dtype=np.bool_)
    if spec.id is None:
        numbers = np.array([number for number, _ in gone if number <= snapshot.rows], np.int64)
        stale[numbers - 1] = True
    sources = np.array(sorted(read(matching.sources_of_absent(folder))), np.int64)
    place = None if spec.id is None else snapshot.columns.index(spec.id)
    for first, columns, keys, _, origins, _ in stored_batches(snapshot.path) if gone else ():
        assert origins is not None, "the snapshot names a source"
        here = stale[first - 1 : first - 1 + len(keys)]
        here |= np.isin(as_numpy(origins.field("row")), sources)
        if place is not None:
            here |= np.array([row_id in ids for row_id in columns[place].to_pylist()], np.bool_)
    return int((stale & plan.sent_unpaid).sum())


def _telling_apart(path: Copy, id_column: str | None) -> tuple[str, ...]:
    """Returns the columns that say which row it is: the id, or else the texts that are sent."""
    return (id_column,) if id_column in stored_columns(path) else stored_mapped(path)


def _texts(path: Copy, names: Sequence[str], numbers: frozenset[int]) -> dict[int, int]:
    """Returns a hash of some columns of each row. A column that the sheet lacks has no text."""
    columns = stored_columns(path)
    places = [columns.index(name) if name in columns else None for name in names]
    return {
        number: hash(tuple(None if place is None else cells[place] for place in places))
        for number, cells in stored_cells_at(path, numbers)
    }


def _numbers(rows: RowNumbers, last: int) -> Iterator[int]:
    for first, end in rows.spans:
        yield from range(first, min(end, last) + 1)


def _names(path: Copy, column: str, numbers: list[int]) -> dict[int, str]:
    """Returns names for rows of a snapshot: the beginnings of their texts in a column."""
    if column not in stored_columns(path):
        return dict.fromkeys(numbers, "without this column")
    place = stored_columns(path).index(column)
    return {
        number: f'"{one_line(cells[place][: 4 * _TEXT_CHARACTERS], _TEXT_CHARACTERS)}"'
        for number, cells in stored_cells_at(path, frozenset(numbers))
    }


def _column(path: Copy, name: str, wanted: npt.NDArray[np.bool_]) -> Iterator[str]:
    place = stored_columns(path).index(name)
    for first, columns, *_ in stored_batches(path):
        flags = wanted[first - 1 : first - 1 + len(columns[place])]
        for offset in np.flatnonzero(flags).tolist():
            yield columns[place][offset].as_py()


def _alike(last: Copy, now: Copy, numbers: list[int]) -> bool:
    """Whether the rows at `numbers` are new versions of the old rows there, and not other rows."""
    step = max(len(numbers) // _COMPARED, 1)
    sample = frozenset(numbers[::step])
    words = [
        {number: set(" ".join(cells).split()) for number, cells in stored_cells_at(path, sample)}
        for path in (last, now)
    ]
    alike = 0
    for number in sample:
        before, after = words[0].get(number, set()), words[1].get(number, set())
        shared, either = len(before & after), len(before | after)
        alike += either > 0 and shared >= _ALIKE * either
    return 2 * alike > len(sample)
