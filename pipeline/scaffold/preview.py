"""A sheet as the runner reads it, before there is a job file."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path

import numpy as np

from pipeline.core.errors import NothingWritten
from pipeline.core.wording import counted
from pipeline.inputs.delimited import other_separator
from pipeline.inputs.formats import TEXTS, open_table
from pipeline.inputs.table import Batch, Table
from pipeline.inputs.unseen import USUAL_DELIMITERS, SheetFacts, Unseen
from pipeline.job.key_types import separator_of
from pipeline.job.spec import JobSpec
from pipeline.scaffold.columns import Column, Gaps, read_columns

_TYPE_ROWS = 2000
MOST_PROBLEMS = 50
_NUMBER = re.compile(r"-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?")
_DATE = re.compile(r"\d{4}-\d\d-\d\d(?:[T ]\d\d:\d\d.*)?")


@dataclass(frozen=True, slots=True)
class Problem:
    """A cell or a column that cannot be sent. `row` is as in `row_numbers`, None if it is the whole
    column. `where` names the cell as the user finds it."""

    row: int | None
    column: str
    where: str
    what: str


@dataclass(frozen=True, slots=True)
class Preview:
    """A sheet as the runner reads it. Every text is as it would be sent.

    * `columns`: their names. `types`: for each column text, number, date, yes/no, mixed or empty,
      by its first 2,000 rows.
    * `rows`: the first rows, one text for each column. `row_numbers` and `hidden_rows` say for each
      of them where it is, and whether the workbook hides it. `place_word` says what the numbers
      count: line or row.
    * `row_count`: all rows, without totals rows.
    * `sheet`: what the user may not see, such as hidden rows and columns.
    * `problems`: the first 50 cells and columns that cannot be sent, in the order of the sheet.
    * `refusal`: why `init_job` writes no job file for this sheet, None if it does.
    * `draft`: how the sheet was read. `found` and `gaps`: each column, and its empty cells.
    """

    columns: tuple[str, ...]
    types: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    place_word: str
    row_numbers: tuple[int, ...]
    hidden_rows: tuple[bool, ...]
    row_count: int
    sheet: SheetFacts
    problems: tuple[Problem, ...]
    refusal: str | None
    draft: JobSpec = field(repr=False)
    found: tuple[Column, ...] = field(repr=False)
    gaps: Gaps = field(repr=False)


def preview_sheet(
    sheet: Path,
    *,
    rows: int = 5,
    encoding: str | None = None,
    separator: str | None = None,
    worksheet: str | None = None,
    header_row: int | None = None,
) -> Preview:
    """Reads all of a sheet, and keeps its first `rows` rows. Sends nothing.

    Raises:
        Refused: if the runner cannot read the sheet.
    """
    job_file = sheet.with_suffix(".yaml")
    draft = JobSpec(
        job_file.absolute(),
        "preview",
        "preview",
        sheet,
        job_file,
        variables=(),  # no column is used, so that none is refused
        encoding=encoding,
        separator=_separator(separator),
        sheet=worksheet,
        header_row=header_row,
    )
    draft, table = _opened(draft)
    unseen = Unseen(table, range(len(table.columns)))
    first = _First(len(table.columns), rows)
    columns, count, gaps = read_columns(replace(table, batches=lambda: first.seen(table)), unseen)
    return Preview(
        tuple(table.columns),
        tuple(map(_type, first.kinds)),
        tuple(first.rows),
        table.place_word.rsplit(" ", 1)[-1],
        tuple(first.places),
        tuple(table.found.hidden_at(np.array(first.places, np.int64)).tolist()),
        count,
        unseen.facts(draft.separator),
        tuple(islice(_problems(table), MOST_PROBLEMS)),
        _refusal(draft, table, columns),
        draft,
        tuple(columns),
        gaps,
    )


class _First:
    """Keeps the first rows of a table, and the kinds of texts in each column."""

    def __init__(self, width: int, most: int) -> None:
        self.rows: list[tuple[str, ...]] = []
        self.places: list[int] = []
        self.kinds: list[set[str]] = [set() for _ in range(width)]
        self._most, self._looked = most, 0

    def seen(self, table: Table) -> Iterator[Batch]:
        for batch in table.batches():
            if self._looked < _TYPE_ROWS:
                left = self._most - len(self.rows)
                self.rows += islice(zip(*batch.columns, strict=True), left)
                self.places += batch.places[:left]
                for kinds, texts in zip(self.kinds, batch.columns, strict=True):
                    kinds.update(_kind(text) for text in texts[:_TYPE_ROWS] if text)
                self._looked += len(batch)
            yield batch


def _kind(text: str) -> str:
    if _NUMBER.fullmatch(text):
        return "number"
    if _DATE.fullmatch(text):
        return "date"
    return "yes/no" if text.lower() in ("true", "false") else "text"


def _type(kinds: set[str]) -> str:
    return next(iter(kinds)) if len(kinds) == 1 else "mixed" if kinds else "empty"


def _problems(table: Table) -> Iterator[Problem]:
    """The cells first, then the columns of which no single cell is known."""
    cells, seen = table.found.cells, set()
    for position, place, what in sorted(cells, key=lambda cell: (cell[1], cell[0])):
        seen.add(position)
        where = table.cell_at(position, place)
        yield Problem(place, table.columns[position], where, what)
    for position, what in sorted(table.found.flaws.items()):
        if position not in seen:
            yield Problem(None, table.columns[position], "the whole column", what)


def _separator(text: str | None) -> str | None:
    try:
        return None if text is None else separator_of(text)
    except ValueError as error:
        raise NothingWritten(f"{error}.") from None


def _opened(draft: JobSpec) -> tuple[JobSpec, Table]:
    """Opens the sheet. The draft then names the separator of a text file if it is not the usual
    one, so that a later run does not have to guess it again."""
    table = open_table(draft)
    if draft.file.suffix.lower() not in TEXTS or draft.separator is not None:
        return draft, table
    usual = USUAL_DELIMITERS.get(draft.file.suffix.lower(), ",")
    found = table.delimiter if table.delimiter != usual else None
    if len(table.columns) == 1 and found is None:
        found = other_separator(draft)
    if found is None:
        return draft, table
    draft = replace(draft, separator=found)
    return draft, open_table(draft)


def _refusal(draft: JobSpec, table: Table, columns: Sequence[Column]) -> str | None:
    """Why the sheet gets no job file. A header with names for less than half of the columns is a
    title, and the message names the key for another row."""
    named = [name for name in table.headers or table.columns if name.strip()]
    beside = len(table.found.stray_columns)
    width = beside + sum(1 for column in columns if column.example or column.name in named)
    if draft.header_row is None and len(named) * 2 <= width and width > 1:
        return (
            f"{draft.file}: only {counted(len(named), 'column')} of {width} has a name in "
            f"{table.place_word} {table.header_row}. If that is a title, set `header_row:` to the "
            "row of the column names. If it is not, set it to this row."
        )
    if all(column.flaw for column in columns):
        return (
            f"{draft.file}: no column can be sent. Of the first, the reason is: {columns[0].flaw}."
        )
    return None
