"""A copy of the workbook that the rows came from, with every answer next to its row.

openpyxl reads the workbook and writes it again, so values, formats, formulas, other worksheets,
merged cells and widths stay. `losses` names what it is known to drop.
"""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Iterator
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt
from openpyxl import Workbook, load_workbook
from openpyxl.cell.cell import Cell
from openpyxl.utils import get_column_letter
from openpyxl.workbook.properties import CalcProperties
from openpyxl.worksheet.worksheet import Worksheet

from pipeline.core.errors import NothingWritten, Refused
from pipeline.core.wording import counted
from pipeline.export.calculated import Values, put_values, stored_values
from pipeline.export.files import cell_text, replacing, rows_of
from pipeline.export.losses import losses
from pipeline.export.xlsx.long_texts import TextsAside
from pipeline.export.xlsx.weight import refuse_heavy
from pipeline.export.xlsx.workbook import (
    SummaryRows,
    add_summary,
    as_added,
    put_text,
    refuse_too_large,
    shown_height,
    width_of,
)
from pipeline.inputs.stored import stored_batches, stored_columns, stored_mapped
from pipeline.inputs.table import Table
from pipeline.inputs.xlsx.workbook import SUMMARY_SHEET, SUMMARY_TITLE
from pipeline.job.spec import JobSpec
from pipeline.results.answered_sheet import Exported
from pipeline.system.files import sha256_of

_OLD_EXCEL = 124519


@dataclass(frozen=True, slots=True)
class Copied:
    """`aside` texts went into separate files. `lost` is in the workbook but not in the copy."""

    aside: int
    lost: tuple[str, ...]


def write_copy(
    spec: JobSpec,
    table: Table,
    snapshot: Path,
    exported: Exported,
    target: Path,
    summary: SummaryRows,
) -> Copied:
    """Writes the copy. `table` is the job's worksheet, opened. `snapshot` is the sheet as the last
    run read it.

    The added columns follow the last used column. In a workbook that is itself an earlier export,
    those that this run folder wrote are renewed.

    Raises:
        Refused: if the workbook no longer has the texts that were sent, naming the row and column.
    """
    before = _sha256(spec)
    places = _places(spec, table, snapshot)
    refuse_too_large(target, int(places.max(initial=0)), 1)
    refuse_heavy(spec.input)
    book = _loaded(spec)
    lost = losses(spec.input)
    values = stored_values(spec.input)
    if _sha256(spec) != before:
        raise _changed(spec, "the workbook was saved while the runner read it")
    page = _page(spec, book)
    header_row = int(places[0]) - 1
    _refuse_taken(spec, table, exported)
    columns = _columns(page, header_row, exported)
    refuse_too_large(target, 1, max(columns))
    _set_up(page, header_row, columns, exported)
    with TextsAside(target) as aside, replacing(target) as file:
        _fill(page, places, columns, exported, aside)
        _replace_summary(book, summary)
        _save(book, values, file, target.parent)
        aside.publish()
    return Copied(aside.count, lost)


def _sha256(spec: JobSpec) -> str:
    try:
        return sha256_of(spec.input, follow=True)
    except OSError as error:
        raise _changed(spec, f"the runner cannot read the workbook ({error.strerror})") from None


def _changed(spec: JobSpec, how: str) -> Refused:
    return NothingWritten(
        f"{spec.input}: {how}. An export to .xlsx copies this workbook, so it must be as the last "
        "run read it. Run again, which sends only new and changed rows, or export to .csv, which "
        "shows the sheet as it was sent."
    )


def _places(spec: JobSpec, table: Table, snapshot: Path) -> npt.NDArray[np.int64]:
    """The Excel row of each row of the sheet. Checks that the texts sent are still there."""
    columns = stored_columns(snapshot)
    sent = [*stored_mapped(snapshot), *([spec.id] if spec.id in columns else [])]
    gone = [name for name in sent if name not in table.columns]
    if gone:
        raise _changed(spec, f'column "{gone[0]}" was removed')
    at_first, at_now = ([of.index(name) for name in sent] for of in (columns, table.columns))
    was = _rows(
        [batch.columns[p].to_pylist() for p in at_first] for batch in stored_batches(snapshot)
    )
    found: list[int] = []
    changed, first, added = 0, "", None
    for batch in table.batches():
        now = zip(*(batch.columns[p] for p in at_now), strict=True)
        for place, cells in zip(batch.places, now, strict=True):
            before = next(was, None)
            if before is None:
                added = added or place
                continue
            for name, a, b in zip(sent, before, cells, strict=True):
                if a != b:
                    changed += 1
                    first = first or f'{table.place_word} {place}, column "{name}"'
            found.append(place)
    if changed:
        more = changed - 1
        others = f", and {counted(more, 'more cell')} {'was' if more == 1 else 'were'} changed too"
        raise _changed(spec, f"{first} was changed{others if more else ''}")
    if added is not None:
        raise _changed(spec, f"{table.place_word} {added} was added")
    if next(was, None) is not None:
        raise _changed(spec, "rows were removed")
    return np.array(found, np.int64)


def _rows(batches: Iterator[list[list[str]]]) -> Iterator[tuple[str, ...]]:
    for columns in batches:
        yield from zip(*columns, strict=True)


def _loaded(spec: JobSpec) -> Workbook:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # `losses` reports what openpyxl cannot keep
        try:
            return load_workbook(spec.input, rich_text=True)
        except Exception as error:  # openpyxl raises whatever its parsers do
            raise NothingWritten(
                f"{spec.input}: the workbook cannot be copied ({error}). Export to .csv instead."
            ) from None


def _page(spec: JobSpec, book: Workbook) -> Worksheet:
    if spec.sheet is not None:
        return book[spec.sheet]
    shown = [page for page in book.worksheets if page.sheet_state == "visible"]
    return (shown or book.worksheets)[0]


def _refuse_taken(spec: JobSpec, table: Table, exported: Exported) -> None:
    """Refuses a workbook that has columns of the added names which the snapshot did not have."""
    for name in exported.added:
        if name in table.columns and name not in exported.renewed:
            raise _changed(spec, f'column "{name}" was added')


def _columns(page: Worksheet, header_row: int, exported: Exported) -> list[int]:
    """The place of each added column, counted from 1."""
    merged = {c for area in page.merged_cells.ranges for c in range(area.min_col, area.max_col + 1)}
    at = {
        str(cell.value): cell.column
        for cell in page[header_row]
        if cell.value in exported.renewed and cell.column not in merged
    }
    free = 1 + max(
        max((c for (_, c), cell in page._cells.items() if cell.value is not None), default=0),
        max(merged, default=0),
    )
    places = []
    for name in exported.added:
        place = at.get(name, free)
        free += place == free
        places.append(place)
    return places


def _set_up(page: Worksheet, header_row: int, columns: list[int], exported: Exported) -> None:
    """Writes the header of the added columns in the style of the sheet's own header."""
    like = page.cell(header_row, max(1, min(columns) - 1))
    for place, (name, kind) in zip(columns, exported.kinds.items(), strict=True):
        cell = page.cell(header_row, place)
        if cell.value is None:
            for look in ("font", "fill", "border", "alignment"):
                setattr(cell, look, copy(getattr(like, look)))
            page.column_dimensions[get_column_letter(place)].width = width_of(kind)
        cell.value = name
    if page.freeze_panes is None:
        page.freeze_panes = f"A{header_row + 1}"


def _fill(
    page: Worksheet,
    places: npt.NDArray[np.int64],
    columns: list[int],
    exported: Exported,
    aside: TextsAside,
) -> None:
    numbers = iter(places.tolist())
    # Programs save the height of one line for every row. openpyxl would fix it, and wrapped text
    # would be hidden.
    one_line = 1.5 * (page.sheet_format.defaultRowHeight or 15)
    for batch in exported.batches():
        added = batch.select(list(exported.added))
        for row in rows_of(added):
            number = next(numbers)
            cells: list[Cell | None] = []
            for place, name, value in zip(columns, exported.added, row, strict=True):
                cell = page.cell(number, place)
                assert isinstance(cell, Cell)
                as_added(cell)
                put_text(cell, cell_text(value), number, name, aside)
                cells.append(cell)
            size = page.row_dimensions[number]
            if size.height is None or size.height <= one_line:
                size.height = shown_height(cells, tuple(exported.kinds.values()))


def _save(book: Workbook, values: Values, file: BinaryIO, scratch: Path) -> None:
    formulas = sum(c.data_type == "f" for page in book.worksheets for c in page._cells.values())
    known = sum(map(len, values.of_sheet.values()))
    if book.calculation is None:  # the workbook has no such settings
        book.calculation = CalcProperties()
    book.calculation.fullCalcOnLoad = values.outdated or known < formulas
    # The id of an old release makes Excel calculate again: a formula may refer to added columns.
    book.calculation.calcId = _OLD_EXCEL
    with tempfile.TemporaryFile(dir=scratch) as copied:
        book.save(copied)
        copied.seek(0)
        put_values(copied, values, file)


def _replace_summary(book: Workbook, summary: SummaryRows) -> None:
    for page in list(book.worksheets):
        if page["A1"].value == SUMMARY_TITLE:
            book.remove(page)
    add_summary(book.create_sheet(SUMMARY_SHEET), summary)  # openpyxl numbers a name in use
