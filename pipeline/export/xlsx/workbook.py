"""An Excel workbook of an export: typed texts, never formulas, row by row.

Memory does not grow with the rows: openpyxl writes each as it comes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from openpyxl import Workbook
from openpyxl.cell import WriteOnlyCell
from openpyxl.cell.cell import Cell
from openpyxl.styles import Alignment, Font, PatternFill
from openpyxl.utils import get_column_letter
from openpyxl.worksheet._write_only import WriteOnlyWorksheet
from openpyxl.worksheet.worksheet import Worksheet

from pipeline.core.errors import NothingWritten
from pipeline.core.model import ROW_COUNTS
from pipeline.core.money import paid_word
from pipeline.export.files import cell_text, replacing, rows_of
from pipeline.export.xlsx.cells import MAX_COLUMNS, MAX_ROWS, escaped, fits
from pipeline.export.xlsx.long_texts import TextsAside
from pipeline.inputs.xlsx.workbook import SUMMARY_SHEET, SUMMARY_TITLE
from pipeline.job.job import Job
from pipeline.ledger import queries
from pipeline.ledger.reader import Read
from pipeline.results.answered_sheet import Exported
from pipeline.status.summary import summarize

WIDTHS = {"result": 70, "citations": 50, "status": 12, "error_code": 18, "error_message": 40}
_OWN_WIDTH = (10, 40)
_HEADER_FILL = "FFE7EEF7"
# Rows grow with wrapped text. With more lines than this, one answer would fill the screen.
_SHOWN_LINES = 12
_LINE_POINTS = 15
# From here on, most characters (Chinese, Japanese, Korean, emoji) are two wide.
_WIDE = "\u2e80"

SummaryRows = list[tuple[str, str | int]]


def write_workbook(exported: Exported, target: Path, sheet: str, summary: SummaryRows) -> int:
    """Writes a new workbook: the table on a worksheet named `sheet`, and `summary`, unless it is
    empty, on a second one. Returns the number of texts that went into separate files.

    Raises:
        Refused: for more rows or columns than Excel has.
    """
    refuse_too_large(target, exported.rows + 1, len(exported.schema))
    with TextsAside(target) as aside, replacing(target) as file:
        book = Workbook(write_only=True)
        page = book.create_sheet(sheet[:31])
        _set_up(page, exported)
        page.append([_header_cell(page, name) for name in exported.schema.names])
        cells = _RowOfCells(page, exported)
        kinds = [exported.kinds.get(name, "") for name in exported.schema.names]
        for number, row in enumerate(_rows(exported), start=2):
            filled = cells.filled(row, number, aside)
            height = shown_height(filled, kinds)
            if height is not None:
                page.row_dimensions[number].height = height
            page.append(filled)
            page.row_dimensions.pop(number, None)
        if summary:
            add_summary(book.create_sheet(SUMMARY_SHEET), summary)
        book.save(file)
        aside.publish()
    return aside.count


def refuse_too_large(target: Path, rows: int, columns: int) -> None:
    """Refuses a table that is larger than a worksheet.

    Raises:
        Refused: with the formats to use instead.
    """
    if rows > MAX_ROWS or columns > MAX_COLUMNS:
        what = f"{rows:,} rows" if rows > MAX_ROWS else f"{columns:,} columns"
        raise NothingWritten(
            f"{target}: {what} do not fit. A worksheet of Excel has at most {MAX_ROWS:,} rows and "
            f"{MAX_COLUMNS:,} columns. Export to .csv or .parquet instead."
        )


def put_text(cell: Cell, text: str, row: int, column: str, aside: TextsAside) -> None:
    """Makes `text` the value of a cell, always as text. A text that is too long goes to a file,
    which the cell then names. An empty text leaves the cell empty."""
    value = escaped(text)
    if not fits(value):
        value = aside.put(row, column, text)
    cell.value = value or None
    if value:
        cell.data_type = "s"  # else a text that begins with = is a formula, and #N/A an error


def as_added(cell: Cell) -> None:
    """Formats a cell of an added column: wrapped, aligned to the top. `quotePrefix` keeps a text
    a text when somebody edits it."""
    cell.alignment = Alignment(wrap_text=True, vertical="top")
    cell.quotePrefix = True


def shown_height(cells: Sequence[Cell | None], kinds: Sequence[str]) -> float | None:
    """The height in points that shows the wrapped texts of a row, up to `_SHOWN_LINES` lines; None
    for one line. The file states it because not every program grows rows by itself."""
    lines = 1
    for cell, kind in zip(cells, kinds, strict=True):
        if cell is not None and isinstance(cell.value, str) and cell.alignment.wrap_text:
            lines = max(lines, _lines(cell.value, width_of(kind)))
    return float(min(lines, _SHOWN_LINES) * _LINE_POINTS) if lines > 1 else None


def _lines(text: str, width: int) -> int:
    """About how many lines a text takes in a column of `width` characters."""
    beginning = text[: _SHOWN_LINES * width].split("\n")
    return sum(1 + (len(line) + sum(map(_WIDE.__lt__, line))) // width for line in beginning)


def add_summary(page: Worksheet, summary: SummaryRows) -> None:
    """Fills an empty worksheet with the summary of the job."""
    page.column_dimensions["A"].width = 24
    page.column_dimensions["B"].width = 60
    for number, (name, value) in enumerate([(SUMMARY_TITLE, ""), *summary]):
        first, second = WriteOnlyCell(page, escaped(name)), WriteOnlyCell(page)
        second.value = escaped(value) if isinstance(value, str) else value
        first.data_type = "s"
        if isinstance(value, str):
            second.data_type = "s"
        second.alignment = Alignment(horizontal="left", vertical="top", wrap_text=True)
        first.font = Font(bold=number == 0)
        page.append([first, second if value != "" else None])


def summary_rows(job: Job, read: Read, in_use: bool) -> SummaryRows:
    """The rows of the summary worksheet: (name, value)."""
    summary = summarize(job, read(queries.counts), in_use=in_use)
    last = read(queries.last_run)
    assert last is not None
    began = datetime.fromtimestamp(last.started_at, UTC)
    rows: SummaryRows = [
        ("job", job.name),
        ("last run", summary.run_id),
        ("began", f"{began:%Y-%m-%d %H:%M:%S} UTC"),
        ("rows", summary.rows),
        *((state, getattr(summary, state)) for state in ROW_COUNTS),
        (f"requests {paid_word(job.sandbox)}, at least", summary.paid_min),
        (f"requests {paid_word(job.sandbox)}, at most", summary.paid_max),
    ]
    return rows + [(f"rows with {code}", count) for code, count in summary.by_code.items()]


def _set_up(page: WriteOnlyWorksheet, exported: Exported) -> None:
    """Sets column widths and the frozen header, which openpyxl needs before the first row."""
    page.freeze_panes = "A2"
    low, high = _OWN_WIDTH
    widths = page.column_dimensions  # type: ignore[attr-defined]
    for place, name in enumerate(exported.schema.names):
        kind = exported.kinds.get(name)
        width = width_of(kind) if kind else min(max(len(name) + 2, low), high)
        widths[get_column_letter(place + 1)].width = width


def width_of(kind: str) -> int:
    """The width, in characters, of an added column of this kind."""
    return WIDTHS.get(kind, 20)


def _header_cell(page: WriteOnlyWorksheet, name: str) -> Cell:
    cell = WriteOnlyCell(page, escaped(name))
    cell.data_type = "s"
    cell.font = Font(bold=True)
    cell.fill = PatternFill("solid", fgColor=_HEADER_FILL)
    cell.alignment = Alignment(vertical="top", wrap_text=True)
    return cell


class _RowOfCells:
    """One cell per column, reused for each row, because making cells takes most of the time."""

    def __init__(self, page: WriteOnlyWorksheet, exported: Exported) -> None:
        self._names = exported.schema.names
        self._cells = [WriteOnlyCell(page) for _ in self._names]
        for name, cell in zip(self._names, self._cells, strict=True):
            as_added(cell)
            if name not in exported.kinds:
                cell.alignment = Alignment(vertical="top")

    def filled(self, row: tuple[Any, ...], number: int, aside: TextsAside) -> list[Cell | None]:
        for cell, name, value in zip(self._cells, self._names, row, strict=True):
            if isinstance(value, int):
                cell.value = value
            else:
                put_text(cell, cell_text(value), number, name, aside)
        return [cell if cell.value is not None else None for cell in self._cells]


def _rows(exported: Exported) -> Iterator[tuple[Any, ...]]:
    for batch in exported.batches():
        yield from rows_of(batch)
