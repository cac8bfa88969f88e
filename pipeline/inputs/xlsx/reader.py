"""Excel workbooks: what a cell holds as text, and a refusal by cell for what holds no value.

Dates are ISO 8601. Numbers have no format except the zeros before them (`00000`) and the texts next
to these zeros. A formula is what Excel last calculated. An error such as #DIV/0! is refused where
it would be sent, and is text elsewhere. Hidden rows and columns are noted. Merged cells are refused
where they would leave a cell empty that is sent, as only the first of them holds the value. All of
this concerns only columns that are used; of the others, the table notes why they cannot be sent.
"""

from __future__ import annotations

import contextlib
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from itertools import islice

from pipeline.core.errors import Refused
from pipeline.core.wording import nearest
from pipeline.inputs.mapping import used_columns
from pipeline.inputs.table import (
    Batch,
    Findings,
    Table,
    address,
    batched,
    distinct_names,
    refuse_too_wide,
)
from pipeline.inputs.xlsx.areas import Area
from pipeline.inputs.xlsx.cells import (
    Displayed,
    Flaw,
    NotShown,
    SheetRow,
    View,
    sheet_rows,
)
from pipeline.inputs.xlsx.tables import totals_rows
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
_MERGED = "these merged cells have only one value, in the first cell"
_FLAWS = {
    Flaw.NOT_CALCULATED: (
        "this cell has a formula that was never calculated",
        "Open the workbook in Excel or LibreOffice and save it",
    ),
    Flaw.OUTDATED: (
        "this cell has a formula whose value may be old or missing: the workbook asks to be "
        "calculated when it is opened (fullCalcOnLoad)",
        "Open it in Excel or LibreOffice and save it",
    ),
    Flaw.NO_TEXT: ("this cell contains half a character, which is not text", "Type it again"),
    Flaw.ERROR: ("{} would be sent as text", "Fix or clear the cell"),
}


def open_xlsx(spec: JobSpec) -> Table:
    """One worksheet: the one that `sheet:` names, or the only one that is shown.

    The header is row `header_row:`, or the first that holds anything; columns begin with its first
    cell.
    """
    return open_worksheet(spec, _reading)


def open_worksheet(spec: JobSpec, reading: Reading) -> Table:
    """Opens the worksheet that `reading` gives, for any kind of workbook."""
    with reading(spec, None) as sheet:
        header = sheet.header()
    found = Findings(dict(header.flaws))
    return Table(
        spec.file,
        header.columns,
        f"{header.sheet} row",
        lambda: _batches(spec, reading, header, found),
        header_row=header.row,
        first_column=header.left,
        sheet=header.sheet,
        headers=header.texts,
        found=found,
    )


def _batches(spec: JobSpec, reading: Reading, header: _Header, found: Findings) -> Iterator[Batch]:
    with reading(spec, _displayed(spec, header)) as sheet:
        if sheet.header() != header:
            raise Refused(
                f"{spec.file}: the file was saved while the runner read it. Run the command again."
            )
        yield from batched(_SheetBody(spec, header, found).texts(sheet), len(header.columns))


@dataclass(frozen=True, slots=True)
class _Header:
    """Where a table stands in its sheet, and what its columns are called."""

    sheet: str
    row: int
    left: int
    texts: tuple[str, ...]
    flaws: tuple[tuple[int, str], ...] = ()

    @property
    def columns(self) -> tuple[str, ...]:
        return distinct_names(self.texts, self.left)

    def at(self, column: int, row: int) -> str:
        return f"{self.sheet}!{address(column, row)}"


class Worksheet:
    """The open sheet of a spec: first its header, then the rows below. `merged` fills up with
    the last of them, as merged ranges stand behind the cells."""

    def __init__(
        self,
        spec: JobSpec,
        name: str,
        rows: Iterator[SheetRow],
        merged: list[Area],
        view: View | None = None,
        totals: Sequence[Area] = (),
    ) -> None:
        self.rows = rows
        self.merged = merged
        self.view = view or View()
        self.totals = totals
        self._spec = spec
        self._name = name

    def header(self) -> _Header:
        wanted = self._spec.header_row
        row = next((row for row in self.rows if wanted is None or row.number >= wanted), None)
        if row is None or wanted not in (None, row.number):
            which = "the worksheet is empty" if wanted is None else f"row {wanted} is empty"
            raise _refusal(self._spec, self._name, f"{which}. Where are the column names?")
        flawed = {column for column, _ in row.flaws}
        named = dict.fromkeys(flawed, "")  # a cell without a value names no column
        named |= {column: text for column, text in row.cells if column not in flawed}
        left, right = min(named), max(named)
        texts = tuple(named.get(column, "") for column in range(left, right + 1))
        refuse_too_wide(self._spec.input, texts)
        flaws = tuple(
            (
                column - left,
                f"{self._name}!{address(column, row.number)}: the header has {flaw.value}",
            )
            for column, flaw in row.flaws
        )
        return _Header(self._name, row.number, left, texts, flaws)


Reading = Callable[[JobSpec, Displayed | None], AbstractContextManager[Worksheet]]
"""Opens the worksheet of a spec, as long as the context lasts, with some columns as they are
displayed."""


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
def _reading(spec: JobSpec, displayed: Displayed | None = None) -> Iterator[Worksheet]:
    with contextlib.ExitStack() as stack:
        workbook = stack.enter_context(open_workbook(spec.file))
        entry = _entry(spec, workbook)
        source = stack.enter_context(workbook.open_sheet(entry))
        texts = stack.enter_context(workbook.shared_texts())
        merged: list[Area] = []
        view = View()
        rows = sheet_rows(source, workbook, texts, merged.append, spec.text_rules, displayed, view)
        totals = list(totals_rows(workbook, entry))
        yield Worksheet(spec, entry.name, rows, merged, view, totals)


def _entry(spec: JobSpec, workbook: Workbook) -> SheetEntry:
    shown = [sheet for sheet in workbook.sheets if sheet.visible]
    if spec.sheet is None and len(shown) > 1:
        shown = [sheet for sheet in shown if not _is_summary(workbook, sheet)]
    names = [sheet.name for sheet in workbook.sheets]
    chosen = choose_sheet(spec, names, [sheet.name for sheet in shown])
    return workbook.sheets[names.index(chosen)]


def choose_sheet(spec: JobSpec, names: list[str], shown: list[str]) -> str:
    """Returns the worksheet that `sheet:` names, or the only one of those that are shown.

    Raises:
        Refused: with the names to choose from.
    """
    if spec.sheet is not None:
        if spec.sheet in names:
            return spec.sheet
        raise Refused(
            f'{spec.at("sheet")}: {spec.file.name} has no worksheet "{spec.sheet}".'
            f"{nearest(spec.sheet, names)} It has: {_listed(names)}."
        )
    if len(shown) == 1:
        return shown[0]
    if not names:
        raise Refused(f"{spec.file}: the workbook has no worksheet with cells.")
    raise Refused(
        f"{spec.file}: which worksheet has the rows? It has: {_listed(names)}. Set `sheet:` in "
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
    """The rows below the header, as texts, each cell judged by whether its column is used."""

    def __init__(self, spec: JobSpec, header: _Header, found: Findings) -> None:
        self._spec = spec
        self._header = header
        self._found = found
        left = header.left
        self._used = sorted(left + position for position in used_columns(spec, header.columns))
        self._unflawed = list(range(left, left + len(header.texts)))
        self._places = self._filled = 0

    def texts(self, sheet: Worksheet) -> Iterator[tuple[int, list[str]]]:
        """(row number, one text a column) of each row; the blank ones between are rows too."""
        left, width = self._header.left, len(self._header.texts)
        last = self._header.row
        self._found.hidden = sheet.view.rows
        self._found.totals = [
            (totals.top, totals.bottom)
            for totals in sheet.totals
            if totals.left < left + width and totals.right >= left
        ]
        for row in sheet.rows:
            if row.flaws and not self._is_left_out(row.number, sheet.view):
                self._check(row)
            texts = [""] * width
            for column, text in row.cells:
                if left <= column < left + width:
                    texts[column - left] = text
                else:
                    self._note_stray(column, row.number)
            self._measure(row, (row.number - last) * width)
            for number in range(last + 1, row.number):
                yield number, [""] * width
            yield row.number, texts
            last = row.number
        for merged in sheet.merged:
            self._check_merged(merged, last)
        self._note_view(sheet.view)

    def _is_left_out(self, number: int, view: View) -> bool:
        """Whether a row is never sent, so that its cells do not matter."""
        hidden = self._spec.hidden == "skip" and number < len(view.rows) and view.rows[number]
        return bool(hidden) or any(top <= number <= end for top, end in self._found.totals)

    def _note_view(self, view: View) -> None:
        left, width = self._header.left, len(self._header.texts)
        self._found.filtered = view.filtered
        for first, end in view.columns:
            shown = range(max(first, left) - left, min(end + 1, left + width) - left)
            self._found.hidden_columns.update(shown)

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
            what, fix = _FLAWS[flaw]
            if flaw is Flaw.ERROR:
                what = what.format(dict(row.cells).get(column, ""))
            if self._is_used(column, column):
                raise _refusal(self._spec, where, f"{what}. {fix}")
            self._note_cell(column, row.number, what)
            self._note_flaw(column, column, f"{where}: {what}")

    def _check_merged(self, merged: Area, last_row: int) -> None:
        top, bottom = max(merged.top, self._header.row + 1), min(merged.bottom, last_row)
        if top > bottom:
            return
        # The first cell of the range has the value: its column only lacks one further down.
        below = max(top, merged.top + 1) <= bottom
        first = merged.left + (not below)
        where = f"{self._header.sheet}!{merged.ref}"
        if self._is_used(first, merged.right):
            raise _refusal(self._spec, where, f"{_MERGED}. Unmerge them and fill the others")
        self._note_cell(first, top, f"{merged.ref}: {_MERGED}")
        self._note_flaw(first, merged.right, f"{where}: {_MERGED}")

    def _note_cell(self, column: int, row: int, what: str) -> None:
        position = column - self._header.left
        if 0 <= position < len(self._header.texts):
            self._found.note_cell(position, row, what)

    def _is_used(self, first: int, last: int) -> bool:
        """Whether any of these columns is used. A sheet may merge cells 300,000 times."""
        return bisect_left(self._used, first) < bisect_right(self._used, last)

    def _note_flaw(self, first: int, last: int, reason: str) -> None:
        """Notes why these columns cannot be sent, unless an earlier reason is known."""
        span = slice(bisect_left(self._unflawed, first), bisect_right(self._unflawed, last))
        for column in self._unflawed[span]:
            self._found.flaws.setdefault(column - self._header.left, reason)
        del self._unflawed[span]

    def _note_stray(self, column: int, row: int) -> None:
        """Notes a cell in a column without a name. It is refused if every column is sent."""
        header = self._header
        if self._spec.variables is None:
            raise _refusal(
                self._spec,
                header.at(column, row),
                "this cell has a value, but its column has no name in "
                f"{header.at(column, header.row)}. Name the column or clear the cell. If another "
                "row is the header, set `header_row:` in the job file",
            )
        self._found.strays.add(lambda: header.at(column, row))
        self._found.stray_columns.add(column)

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
    return Refused(f"{spec.file} {where}: {what}{end}")
