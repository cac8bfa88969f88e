"""Excel workbooks: what a cell holds as text, and a refusal by cell for what holds no value.

Dates are ISO 8601. Numbers have no format except the zeros before them (`00000`) and the texts next
to these zeros. A formula is what Excel last calculated. An error such as #DIV/0! is refused where
it would be sent, and is text elsewhere. Hidden rows and columns are rows and columns. Merged cells
are refused where they would leave a cell empty that is sent, as only the first of them holds the
value.
"""

from __future__ import annotations

import contextlib
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice

from pipeline.core.errors import Refused
from pipeline.core.wording import nearest
from pipeline.inputs.mapping import bind
from pipeline.inputs.table import Batch, Table, address, batched, refuse_too_wide
from pipeline.inputs.xlsx.cells import Displayed, Flaw, Merged, NotShown, SheetRow, sheet_rows
from pipeline.inputs.xlsx.workbook import (
    SUMMARY_SHEET,
    SUMMARY_TITLE,
    SheetEntry,
    Workbook,
    open_workbook,
)
from pipeline.job.spec import JobSpec
from pipeline.job.spec_keys import DEFAULT_LOCALE

# A sheet of this many places, hardly any of them filled, is an accident or an attack.
_MANY_CELLS = 500_000
_BLANK_BESIDE_FILLED = 100
_NAMES_SHOWN = 20
_EXAMPLE_ROWS = 2000
_EXAMPLE_CELLS = 20_000


def open_xlsx(spec: JobSpec) -> Table:
    """One worksheet: the one that `sheet:` names, or the only one that is shown.

    The header is row `header_row:`, or the first that holds anything; columns begin with its first
    cell.
    """
    with _reading(spec) as sheet:
        header = sheet.header()
    return Table(
        spec.input,
        header.columns,
        f"{header.sheet} row",
        lambda: _batches(spec, header),
        header_row=header.row,
        first_column=header.left,
        sheet=header.sheet,
    )


def _batches(spec: JobSpec, header: _Header) -> Iterator[Batch]:
    with _reading(spec, _displayed(spec, header)) as sheet:
        if sheet.header() != header:
            raise Refused(
                f"{spec.input}: the file was saved while the runner read it. Run the command again."
            )
        yield from batched(_SheetBody(spec, header).texts(sheet), len(header.columns))


@dataclass(frozen=True, slots=True)
class _Header:
    """Where a table stands in its sheet, and what its columns are called."""

    sheet: str
    row: int
    left: int
    columns: tuple[str, ...]

    def at(self, column: int, row: int) -> str:
        return f"{self.sheet}!{address(column, row)}"


class _Worksheet:
    """The open sheet of a spec: first its header, then the rows below. `merged` fills up with
    the last of them, as merged ranges stand behind the cells."""

    def __init__(
        self, spec: JobSpec, name: str, rows: Iterator[SheetRow], merged: list[Merged]
    ) -> None:
        self.rows = rows
        self.merged = merged
        self._spec = spec
        self._name = name

    def header(self) -> _Header:
        wanted = self._spec.header_row
        row = next((row for row in self.rows if wanted is None or row.number >= wanted), None)
        if row is None or wanted not in (None, row.number):
            which = "the worksheet is empty" if wanted is None else f"row {wanted} is empty"
            raise _refusal(self._spec, self._name, f"{which}. Where are the column names?")
        for column, flaw in row.flaws:
            where = f"{self._name}!{address(column, row.number)}"
            raise _refusal(
                self._spec, where, f"the header has {flaw.value} here. Type the column's name"
            )
        named = dict(row.cells)
        left, right = min(named), max(named)
        columns = tuple(named.get(column, "") for column in range(left, right + 1))
        refuse_too_wide(self._spec.input, columns)
        return _Header(self._name, row.number, left, columns)


def displayed_differently(spec: JobSpec) -> dict[str, tuple[str, str]]:
    """Returns, for each column with a cell that the sheet displays in another way than the runner
    would send it, the first such cell as (text that is sent, text that is displayed).

    Looks at the first 2,000 rows and 20,000 cells. Leaves out columns with a cell whose display is
    not known.
    """
    with _reading(spec) as sheet:
        header = sheet.header()
    whole = replace(spec, shown=header.columns)
    found: dict[int, tuple[str, str]] = {}
    unknown: set[int] = set()
    with _reading(spec) as sheet, _reading(whole, _displayed(whole, header)) as displayed:
        below = islice(displayed.rows, _EXAMPLE_ROWS)
        shown = next(below, None)
        cells = 0
        for row in islice(sheet.rows, _EXAMPLE_ROWS):
            cells += len(row.cells)
            if cells > _EXAMPLE_CELLS:
                break
            while shown is not None and shown.number < row.number:
                shown = next(below, None)
            if shown is None:
                break
            if shown.number == row.number > header.row:
                unknown |= {column for column, flaw in shown.flaws if isinstance(flaw, NotShown)}
                sent = dict(row.cells)
                for column, text in shown.cells:
                    if sent.get(column, text) != text:
                        found.setdefault(column, (sent[column], text))
    names = dict(enumerate(header.columns, header.left))
    return {names[c]: found[c] for c in sorted(found) if c in names and c not in unknown}


def _displayed(spec: JobSpec, header: _Header) -> Displayed | None:
    """Returns the columns of `shown:`. If it is true, these are the columns that the job uses."""
    names = set(header.columns)
    if spec.shown is True and spec.variables is not None:
        names = {column for _, column in spec.variables} | {one.column for one in spec.where}
        names |= {spec.id or ""}
    columns = [
        position
        for position, name in enumerate(header.columns, header.left)
        if name in names and spec.shows(name)
    ]
    locale = spec.locale or DEFAULT_LOCALE
    return Displayed(frozenset(columns), header.row, locale) if columns else None


@contextlib.contextmanager
def _reading(spec: JobSpec, displayed: Displayed | None = None) -> Iterator[_Worksheet]:
    with contextlib.ExitStack() as stack:
        workbook = stack.enter_context(open_workbook(spec.input))
        entry = _chosen(spec, workbook)
        source = stack.enter_context(workbook.open_sheet(entry))
        texts = stack.enter_context(workbook.shared_texts())
        merged: list[Merged] = []
        rows = sheet_rows(source, workbook, texts, merged.append, spec.text_rules, displayed)
        yield _Worksheet(spec, entry.name, rows, merged)


def _chosen(spec: JobSpec, workbook: Workbook) -> SheetEntry:
    names = [sheet.name for sheet in workbook.sheets]
    if spec.sheet is not None:
        for sheet in workbook.sheets:
            if sheet.name == spec.sheet:
                return sheet
        raise Refused(
            f'{spec.at("sheet")}: {spec.input.name} has no worksheet "{spec.sheet}".'
            f"{nearest(spec.sheet, names)} It has: {_listed(names)}."
        )
    shown = [sheet for sheet in workbook.sheets if sheet.visible]
    if len(shown) > 1:
        shown = [sheet for sheet in shown if not _is_summary(workbook, sheet)]
    if len(shown) == 1:
        return shown[0]
    if not names:
        raise Refused(f"{spec.input}: the workbook has no worksheet with cells.")
    raise Refused(
        f"{spec.input}: which worksheet has the rows? It has: {_listed(names)}. Set `sheet:` in "
        "the job file to one of these names."
    )


def _is_summary(workbook: Workbook, entry: SheetEntry) -> bool:
    """Whether an export added this sheet: it says so in A1."""
    if not entry.name.startswith(SUMMARY_SHEET):
        return False
    with workbook.open_sheet(entry) as source, workbook.shared_texts() as texts:
        first = next(sheet_rows(source, workbook, texts, lambda _: None), None)
    return first is not None and first.cells[:1] == [(1, SUMMARY_TITLE)]


def _listed(names: list[str]) -> str:
    more = len(names) - _NAMES_SHOWN
    return ", ".join(names[:_NAMES_SHOWN]) + (f" and {more} more" if more > 0 else "")


class _SheetBody:
    """The rows below the header, as texts, each cell judged by whether it is sent."""

    def __init__(self, spec: JobSpec, header: _Header) -> None:
        self._spec = spec
        self._header = header
        self._sent: list[int] | None = None
        self._places = self._filled = 0

    def texts(self, sheet: _Worksheet) -> Iterator[tuple[int, list[str]]]:
        """(row number, one text a column) of each row; the blank ones between are rows too."""
        left, width = self._header.left, len(self._header.columns)
        last = self._header.row
        for row in sheet.rows:
            if row.flaws:
                self._check(row)
            texts = [""] * width
            for column, text in row.cells:
                if not left <= column < left + width:
                    raise self._nameless(column, row.number)
                texts[column - left] = text
            self._measure(row, (row.number - last) * width)
            for number in range(last + 1, row.number):
                yield number, [""] * width
            yield row.number, texts
            last = row.number
        for merged in sheet.merged:
            self._check_merged(merged, last)

    def _check(self, row: SheetRow) -> None:
        for column, flaw in row.flaws:
            where = self._header.at(column, row.number)
            if isinstance(flaw, NotShown):
                raise _refusal(
                    self._spec,
                    where,
                    f"the runner cannot show this cell as the sheet does ({flaw.value}). Change "
                    "the number format of the cell, or take its column out of `shown:`",
                )
            if flaw is Flaw.NOT_CALCULATED:
                raise _refusal(
                    self._spec,
                    where,
                    "this cell has a formula that was never calculated. Open the workbook in Excel "
                    "or LibreOffice and save it",
                )
            if flaw is Flaw.OUTDATED:
                raise _refusal(
                    self._spec,
                    where,
                    "this cell has a formula whose value may be old or missing: the workbook asks "
                    "to be calculated when it is opened (fullCalcOnLoad). Open it in Excel or "
                    "LibreOffice and save it",
                )
            if flaw is Flaw.NO_TEXT:
                raise _refusal(
                    self._spec,
                    where,
                    "this cell contains half a character, which is not text. Type it again",
                )
            if self._is_sent(column):
                shown = dict(row.cells).get(column, "")
                raise _refusal(
                    self._spec, where, f"{shown} would be sent as text. Fix or clear the cell"
                )

    def _check_merged(self, merged: Merged, last_row: int) -> None:
        top, bottom = max(merged.top, self._header.row + 1), min(merged.bottom, last_row)
        below = max(top, merged.top + 1) <= bottom and self._is_sent(merged.left)
        if below or (top <= bottom and self._are_sent(merged.left + 1, merged.right)):
            raise _refusal(
                self._spec,
                f"{self._header.sheet}!{merged.ref}",
                "these merged cells have only one value, in the first cell. Unmerge them and fill "
                "the others",
            )

    def _is_sent(self, column: int) -> bool:
        return self._are_sent(column, column)

    def _are_sent(self, first: int, last: int) -> bool:
        """Whether any of these columns is sent. A sheet may merge cells 300,000 times."""
        if self._sent is None:
            columns, left = self._header.columns, self._header.left
            sent = {left + position for position in bind(self._spec, columns).mapped}
            if self._spec.id is not None:
                sent.add(left + columns.index(self._spec.id))
            self._sent = sorted(sent)
        return bisect_left(self._sent, first) < bisect_right(self._sent, last)

    def _nameless(self, column: int, row: int) -> Refused:
        header = self._header
        return _refusal(
            self._spec,
            header.at(column, row),
            "this cell has a value, but its column has no name in "
            f"{header.at(column, header.row)}. Name the column or clear the cell. If another row "
            "is the header, set `header_row:` in the job file",
        )

    def _measure(self, row: SheetRow, places: int) -> None:
        self._places += places
        self._filled += len(row.cells)
        if self._places > max(_MANY_CELLS, _BLANK_BESIDE_FILLED * self._filled):
            where = self._header.at(row.cells[0][0] if row.cells else 1, row.number)
            raise _refusal(
                self._spec,
                where,
                "nearly all cells before this one are empty. Clear the cells that are far from "
                "the table",
            )


def _refusal(spec: JobSpec, where: str, what: str) -> Refused:
    end = "" if what.endswith("?") else "."
    return Refused(f"{spec.input} {where}: {what}{end}")
