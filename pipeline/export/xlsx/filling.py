"""Writes new cells into the XML of a worksheet. Every other cell stays as it is, byte for byte."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import IO

from pipeline.core.errors import NothingWritten
from pipeline.export.xlsx.editor import Editor, end_tag, with_attribute
from pipeline.inputs.table import address
from pipeline.inputs.xlsx.areas import area_of, column_number
from pipeline.inputs.xlsx.xml_stream import Malformed

# Programs save the height of one line for every row. A row that is higher was made so by a person.
_ONE_LINE = 1.5


@dataclass(frozen=True, slots=True)
class NewRow:
    """The new cells of one row of the worksheet: XML by column (from 1, ascending). They replace
    existing cells. `height` in points shows the wrapped texts, None for one line."""

    number: int
    cells: dict[int, str]
    height: float | None = None


@dataclass(frozen=True, slots=True)
class Column:
    """A new column: its place from 1 and its width in characters."""

    place: int
    width: float


def fill_sheet(
    source: IO[bytes],
    out: IO[bytes],
    rows: Callable[[str], Iterator[NewRow]],
    columns: Sequence[Column],
    row_height: float,
) -> None:
    """Copies the worksheet in `source` to `out` with the cells of `rows`, which gets the namespace
    prefix of the worksheet. They must be in order.

    `columns` are the columns that the worksheet did not have. `row_height` is the height of its
    rows of one line, in points.

    Raises:
        Malformed: if `source` is not a worksheet.
        Refused: for a formula in a cell that would be replaced.
    """
    editor = Editor(source, out)
    editor.run(_SheetTarget(editor, rows, columns, row_height * _ONE_LINE))


@dataclass(slots=True)
class _Cell:
    column: int
    begin: int
    tag: bytes
    end: int = 0


@dataclass(slots=True)
class _Row:
    number: int
    begin: int
    tag: bytes
    attributes: dict[str, str]
    new: NewRow
    first_new: int
    cells: list[_Cell] = field(default_factory=list)


class _SheetTarget:
    def __init__(
        self,
        editor: Editor,
        make_rows: Callable[[str], Iterator[NewRow]],
        columns: Sequence[Column],
        one_line: float,
    ) -> None:
        self._editor = editor
        self._make_rows = make_rows
        self._rows: Iterator[NewRow] = iter(())
        self._next: NewRow | None = None
        self._columns = columns
        self._one_line = one_line
        self._letters: dict[str, int] = {}
        self._number = self._column = 0
        self._row: _Row | None = None
        self._cell: _Cell | None = None
        self._cols: tuple[int, bytes] | None = None
        self._widths: list[tuple[int, int, bytes]] = []
        self._has_cols = False
        self._ended = False

    def start(self, name: str, attributes: dict[str, str]) -> None:
        if name == "c":
            if self._row is not None:
                self._begin_cell(self._row, attributes)
        elif name == "row":
            self._begin_row(attributes)
        elif name == "f" and self._row is not None and self._cell is not None:
            self._refuse_formula(self._row, self._cell)
        elif name == "dimension":
            self._widen(attributes)
        elif name == "cols":
            place = self._editor.place
            self._cols, self._has_cols = (place, self._editor.tag_at(place)), True
            self._editor.hold = place
        elif name == "col" and self._cols is not None:
            first, last = int(attributes["min"]), int(attributes["max"])
            tag = self._editor.tag_at(self._editor.place)
            self._widths.append((first, last, tag.removesuffix(b"/>").removesuffix(b">") + b"/>"))
        elif name == "sheetData" and not self._ended:
            if self._columns and not self._has_cols:
                self._editor.insert(self._editor.place, self._all_widths())
            self._rows = self._make_rows(self._editor.prefix)
            self._advance()

    def end(self, name: str) -> None:
        if name == "c":
            if self._cell is not None:
                closed = self._cell.tag.endswith(b"/>")
                self._cell.end = self._editor.end_of_tag(self._editor.place, closed)
                self._cell = None
        elif name == "row":
            if self._row is not None:
                self._end_row(self._row)
        elif name == "cols" and self._cols is not None:
            self._end_cols(*self._cols)
        elif name == "sheetData" and not self._ended:
            self._ended = True
            self._add_rows(None)

    def _begin_row(self, attributes: dict[str, str]) -> None:
        stated = attributes.get("r")
        self._number = self._number + 1 if stated is None else int(stated)
        self._column = 0
        self._add_rows(self._number)
        new = self._next
        if new is None or new.number != self._number:
            return
        place = self._editor.place
        tag = self._editor.tag_at(place)
        self._row = _Row(self._number, place, tag, attributes, new, min(new.cells))
        self._editor.hold = place
        self._advance()

    def _add_rows(self, before: int | None) -> None:
        """Inserts the new rows before row `before`: the sheet has nothing there, not even a row."""
        while self._next is not None and (before is None or self._next.number < before):
            p, new = self._editor.prefix, self._next
            height = "" if new.height is None else f' ht="{new.height}" customHeight="1"'
            cells = "".join(new.cells.values())
            markup = f'<{p}row r="{new.number}"{height}>{cells}</{p}row>'
            self._editor.insert(self._editor.place, self._editor.encoded(markup))
            self._advance()

    def _advance(self) -> None:
        self._next = next((row for row in self._rows if row.cells), None)

    def _begin_cell(self, row: _Row, attributes: dict[str, str]) -> None:
        ref = attributes.get("r")
        if ref is None:
            self._column += 1
        else:
            letters = ref.rstrip("0123456789")
            column = self._letters.get(letters)
            if column is None:
                column = self._letters[letters] = column_number(letters)
            self._column = column
        if self._column >= row.first_new:
            place = self._editor.place
            self._cell = _Cell(self._column, place, self._editor.tag_at(place))
            row.cells.append(self._cell)

    def _refuse_formula(self, row: _Row, cell: _Cell) -> None:
        # The list of formulas in the file (calcChain) would name a cell without one, and Excel
        # calls that a damaged file.
        if cell.column in row.new.cells:
            raise NothingWritten(
                f"Cell {address(cell.column, row.number)} has a formula, but an earlier export "
                "wrote this column, and this export renews it. Move your formula to another column."
            )

    def _end_row(self, row: _Row) -> None:
        self._row = None
        editor = self._editor
        editor.hold = None
        end = editor.place
        tag = self._row_tag(row)
        if row.tag.endswith(b"/>"):
            cells = editor.encoded("".join(row.new.cells.values()))
            content = tag[:-2].rstrip() + b">" + cells + end_tag(tag)
            editor.replace(row.begin, row.begin + len(row.tag), content)
            return
        editor.replace(row.begin, row.begin + len(row.tag), tag)
        old = iter(row.cells)
        cell = next(old, None)
        for column, markup in row.new.cells.items():
            while cell is not None and cell.column < column:
                cell = next(old, None)
            if cell is not None and cell.column == column:
                editor.replace(cell.begin, cell.end, editor.encoded(markup))
            else:
                editor.insert(cell.begin if cell else end, editor.encoded(markup))

    def _row_tag(self, row: _Row) -> bytes:
        """The tag of a row without the `spans` that are no longer true, and with its new height."""
        tag = with_attribute(row.tag, "spans", None) if "spans" in row.attributes else row.tag
        height = float(row.attributes.get("ht", 0))
        if row.new.height is None or height > self._one_line:
            return tag
        tag = with_attribute(tag, "ht", str(row.new.height))
        return with_attribute(tag, "customHeight", "1")

    def _widen(self, attributes: dict[str, str]) -> None:
        """Writes how far the sheet reaches now. Programs that trust this would read no further."""
        try:
            area = area_of(attributes.get("ref", ""))
        except Malformed:
            return
        right = max([area.right, *(column.place for column in self._columns)])
        tag = self._editor.tag_at(place := self._editor.place)
        ref = replace(area, right=right).ref
        self._editor.replace(place, place + len(tag), with_attribute(tag, "ref", ref))

    def _end_cols(self, begin: int, tag: bytes) -> None:
        editor = self._editor
        end = editor.end_of_tag(editor.place, tag.endswith(b"/>"))
        editor.hold = self._cols = None
        if self._columns:
            editor.replace(begin, end, self._all_widths())

    def _all_widths(self) -> bytes:
        """The widths of all columns. Often one width is for all columns up to the last one of
        Excel: it is split where the new columns stand."""
        p = self._editor.prefix.encode()
        new = {column.place: column.width for column in self._columns}
        made = [
            (
                place,
                b'<%scol min="%d" max="%d" width="%d" customWidth="1"/>' % (p, place, place, width),
            )
            for place, width in new.items()
        ]
        for first, last, tag in self._widths:
            for begin, end in _without(first, last, sorted(new)):
                piece = with_attribute(with_attribute(tag, "min", str(begin)), "max", str(end))
                made.append((begin, piece))
        content = b"".join(piece for _, piece in sorted(made))
        return b"<%scols>" % p + content + b"</%scols>" % p


def _without(first: int, last: int, places: Sequence[int]) -> Iterator[tuple[int, int]]:
    """The parts of the range `first` to `last` that have none of `places`."""
    for place in places:
        if first <= place <= last:
            if first < place:
                yield first, place - 1
            first = place + 1
    if first <= last:
        yield first, last
