"""Rows in a list, and how a list is read for which the index has no place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa

from pipeline.core.added_columns import ALL_KINDS, ANSWER, FLAGS, REVIEW, STATUS, part_of
from pipeline.inputs.row_names import RowNames
from pipeline.inputs.stored import stored_cells_at, stored_columns
from pipeline.job.job import Job
from pipeline.planning.selection import RowNumbers
from pipeline.results.typed_rows import Piece
from pipeline.show.choice import Choice, searched_columns
from pipeline.show.rows import Shown, ShownRow, showing


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


def found_row(
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


def find_slowly(job: Job, choice: Choice, first: int, count: int) -> Found:
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


@dataclass(frozen=True, slots=True)
class WholeRow:
    """A row with its requests and versions, and its cells by column of the sheet."""

    row: ShownRow
    cells: Mapping[str, str]


def read_slowly(job: Job, number: int) -> WholeRow:
    """Reads one row of the sheet as `show_job` does.

    Raises:
        Refused: if the sheet has no such row.
    """
    rows = RowNumbers(((number, number),))
    with showing(job, Choice(rows=rows), versions=True, kinds=ALL_KINDS) as shown:
        return whole_row(shown)


def whole_row(shown: Shown) -> WholeRow:
    """Reads the only row that is chosen."""
    [row] = shown.rows()
    copy = shown.source.snapshot
    [(_, cells)] = stored_cells_at(copy, frozenset({row.row}))
    return WholeRow(row, dict(zip(stored_columns(copy), cells, strict=True)))


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
