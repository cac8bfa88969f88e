"""A copy of the workbook that the rows came from, with every answer next to its row.

Only the worksheet, the lists that name it, the styles and a table that grows are written again, and
of those only a few places. All other parts have the same bytes. So nothing of the user's is lost,
and the copy can be the next sheet of the same job without a request.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pipeline.core.errors import NothingWritten, Refused
from pipeline.core.wording import counted
from pipeline.export.files import replacing, rows_of
from pipeline.export.xlsx.cells import MAX_COLUMNS, CellXml, escaped
from pipeline.export.xlsx.editor import edited
from pipeline.export.xlsx.filling import Column, NewRow, fill_sheet
from pipeline.export.xlsx.long_texts import TextsAside
from pipeline.export.xlsx.markup import quoteattr
from pipeline.export.xlsx.package import Parts
from pipeline.export.xlsx.styles import AddedStyles, with_answer_styles
from pipeline.export.xlsx.summary import SummaryRows, summary_part
from pipeline.export.xlsx.survey import Survey, survey
from pipeline.export.xlsx.typed import FORMATS, Convert
from pipeline.export.xlsx.workbook import AnswerCells, refuse_too_large, shown_height, width_of
from pipeline.inputs.stored import Copy, stored_batches, stored_columns
from pipeline.inputs.table import Table, address
from pipeline.inputs.xlsx.cells import sheet_rows
from pipeline.inputs.xlsx.tables import SheetTable
from pipeline.inputs.xlsx.workbook import (
    SUMMARY_SHEET,
    SUMMARY_TITLE,
    SheetEntry,
    Workbook,
    open_workbook,
)
from pipeline.job.spec import JobSpec
from pipeline.results.answered_sheet import Exported
from pipeline.system.files import sha256_of


@dataclass(frozen=True, slots=True)
class Copied:
    """`aside` texts went into separate files. `without_macros`: the workbook has macros, and the
    copy has none, because it is an .xlsx."""

    aside: int
    without_macros: bool = False


def write_copy(
    spec: JobSpec,
    table: Table,
    snapshot: Copy,
    exported: Exported,
    converts: Mapping[str, Convert],
    target: Path,
    summary: SummaryRows,
    sent: Sequence[str],
    name: str,
) -> Copied:
    """Writes the copy. `spec` names the workbook, and `table` is its worksheet, opened. `snapshot`
    is the sheet as the last run read it, and `sent` are the columns of the workbook whose texts
    decide what is sent. `name` is the job's. `converts` has what makes numbers and dates of the
    texts of a column.

    New columns stand behind everything on the sheet: its used columns, its tables, and the pictures
    next to the rows. Columns that an earlier export of this folder wrote are written again where
    they are. Takes a few megabytes of memory, however large the workbook is, and 8 bytes a row.

    Raises:
        Refused: if the workbook no longer has the texts that were sent, naming the row and column.
    """
    before = _sha256(spec)
    places = _places(spec, table, snapshot, sent)
    _refuse_taken(spec, table, exported)
    with open_workbook(spec.file) as workbook:
        entry = next(sheet for sheet in workbook.sheets if sheet.name == table.sheet)
        last_row = int(places.max(initial=table.header_row))
        found = survey(workbook, entry, table.header_row, last_row)
        at = _columns(found, table, exported)
        refuse_too_large(target, last_row, max(at.values()))
        new = [Column(at[n], width_of(exported.kinds[n])) for n in at if n not in exported.renewed]
        parts = Parts(workbook)
        styles = _add_styles(workbook, parts, converts)
        _extend_tables(parts, found, table, new, at)
        if exported.renewed:  # a formula may refer to their cells
            parts.calculate_again()
        _put_summary(parts, name, summary, styles.text if styles else None)
        macros = spec.file.suffix.lower() == ".xlsm" and target.suffix.lower() == ".xlsx"
        without_macros = macros and parts.drop_macros()
        with TextsAside(target) as aside, replacing(target) as file:
            make = _cells_of(converts, styles, aside)
            rows = partial(_new_rows, table, places, exported, at, found, make)
            parts.streamed[entry.part] = lambda source, out: fill_sheet(
                source, out, rows, new, found.row_height
            )
            parts.write(file)
            if _sha256(spec) != before:
                raise _changed(spec, "the workbook was saved while the runner read it")
            aside.publish()
    return Copied(aside.count, without_macros)


def _sha256(spec: JobSpec) -> str:
    try:
        return sha256_of(spec.file, follow=True)
    except OSError as error:
        raise _changed(spec, f"the runner cannot read the workbook ({error.strerror})") from None


def _changed(spec: JobSpec, how: str) -> Refused:
    return NothingWritten(
        f"{spec.file}: {how}. An export to .xlsx copies this workbook, so it must be as the last "
        "run read it. Run again, which sends only new and changed rows, or export to .csv, which "
        "shows the sheet as it was sent."
    )


def _places(
    spec: JobSpec, table: Table, snapshot: Copy, sent: Sequence[str]
) -> npt.NDArray[np.int64]:
    """The Excel row of each row of the sheet. Checks that the texts sent are still there."""
    columns = stored_columns(snapshot)
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


def _refuse_taken(spec: JobSpec, table: Table, exported: Exported) -> None:
    """Refuses a workbook that has columns of the added names which the snapshot did not have."""
    for name in exported.added:
        if name in table.columns and name not in exported.renewed:
            raise _changed(spec, f'column "{name}" was added')


def _columns(found: Survey, table: Table, exported: Exported) -> dict[str, int]:
    """The place of each of the runner's columns, counted from 1."""
    used = [found.last_column, *(one.area.right for one in found.tables)]
    shown = [area.right for area in found.pictures]
    new = [name for name in exported.added if name not in exported.renewed]
    free = 1 + max([*used, *shown])
    if free + len(new) > MAX_COLUMNS:  # a line across the whole sheet is a picture too
        free = 1 + max(used)
    at = {name: free + number for number, name in enumerate(new)}
    own = {name: table.first_column + table.columns.index(name) for name in exported.renewed}
    return {name: (own | at)[name] for name in exported.added}


def _add_styles(
    workbook: Workbook, parts: Parts, converts: Mapping[str, Convert]
) -> AddedStyles | None:
    """Adds the styles of answers to the workbook. None if it has no styles."""
    part = next((p for kind, p, *_ in workbook.links(workbook.main) if kind == "styles"), None)
    if part is None:
        return None
    added = with_answer_styles(workbook, part, FORMATS if converts else ())
    parts.changed[part] = added.content
    return added


def _cells_of(
    converts: Mapping[str, Convert], styles: AddedStyles | None, aside: TextsAside
) -> Callable[[CellXml], AnswerCells]:
    """Returns what makes the cells of answers. Without styles, a number of days would not look like
    a date, so those cells are texts."""
    if styles is None:
        return lambda xml: AnswerCells(xml, None, aside, {}, lambda _: None)
    return lambda xml: AnswerCells(xml, styles.text, aside, converts, styles.numbers.get)


def _extend_tables(
    parts: Parts, found: Survey, table: Table, new: list[Column], at: dict[str, int]
) -> None:
    """Makes the table that the rows belong to as wide as the new columns, if they stand next to
    it. Its columns must have different names, in capital letters or small ones."""
    names = [name for name, place in at.items() if place in {column.place for column in new}]
    for one in found.tables:
        taken = {name.lower() for name in one.columns}
        if (
            new
            and not one.fixed
            and one.area.top == table.header_row
            and one.area.right + 1 == new[0].place
            and taken.isdisjoint(name.lower() for name in names)
        ):
            parts.changed[one.part] = _extended(parts.content(one.part), one, names)


def _extended(content: bytes, one: SheetTable, names: list[str]) -> bytes:
    right = one.area.right + len(names)
    attributes = {
        "table": {"ref": replace(one.area, right=right).ref},
        "tableColumns": {"count": str(len(one.columns) + len(names))},
    }
    if one.filter is not None:
        attributes["autoFilter"] = {"ref": replace(one.filter, right=right).ref}

    def columns(p: str) -> str:
        return "".join(
            f'<{p}tableColumn id="{one.last_id + number}" name={quoteattr(name)}/>'
            for number, name in enumerate(names, start=1)
        )

    return edited(content, {"tableColumns": columns}, attributes)


def _new_rows(
    table: Table,
    places: npt.NDArray[np.int64],
    exported: Exported,
    at: dict[str, int],
    found: Survey,
    make: Callable[[CellXml], AnswerCells],
    prefix: str,
) -> Iterator[NewRow]:
    """The cells of each row, the header first."""
    xml = CellXml(prefix)
    look = None if found.header_style is None else int(found.header_style)
    header = {
        place: xml.text(address(place, table.header_row), look, escaped(name))
        for name, place in at.items()
        if name not in exported.renewed
    }
    yield NewRow(table.header_row, header)
    cells = make(xml)
    numbers = iter(places.tolist())
    in_order = sorted(at.items(), key=lambda one: one[1])
    widths = [width_of(exported.kinds[name]) for name, _ in in_order]
    for batch in exported.batches():
        for values in rows_of(batch.select([name for name, _ in in_order])):
            number = next(numbers)
            made = {}
            for (name, place), value in zip(in_order, values, strict=True):
                cell = cells.made(place, number, name, value)
                if cell is not None:
                    made[place] = cell
                elif name in exported.renewed:
                    made[place] = xml.empty(address(place, number), cells.style)
            yield NewRow(number, made, shown_height(values, widths))


def _put_summary(parts: Parts, name: str, summary: SummaryRows, style: int | None) -> None:
    """Adds the summary, or replaces the one that an earlier export of this job added."""
    book = parts.workbook
    sheets = [sheet for sheet in book.sheets if sheet.name.startswith(SUMMARY_SHEET)]
    part = next((sheet.part for sheet in sheets if _is_of(book, sheet, name)), None)
    parts.put_sheet(part, SUMMARY_SHEET, lambda namespace: summary_part(summary, namespace, style))


def _is_of(book: Workbook, entry: SheetEntry, job: str) -> bool:
    with book.open_sheet(entry) as source, book.shared_texts() as texts:
        rows = sheet_rows(source, book, texts, lambda _: None)
        first, second = next(rows, None), next(rows, None)
        return (
            first is not None
            and second is not None
            and first.cells == [(1, SUMMARY_TITLE)]
            and second.cells == [(1, "job"), (2, job)]
        )
