"""What stands on the worksheet that gets new columns: how far it reaches, and what lies on it."""

from __future__ import annotations

from dataclasses import dataclass, field
from xml.parsers.expat import XMLParserType

from pipeline.inputs.xlsx.areas import Area, area_of, column_number
from pipeline.inputs.xlsx.tables import SheetTable, tables_of
from pipeline.inputs.xlsx.workbook import SheetEntry, Workbook
from pipeline.inputs.xlsx.xml_stream import Foreign, prefix_of, stream

_CONTENT = frozenset(("v", "f", "t"))
_EMU_PER_COLUMN = 609_600  # 64 pixels, the default width: a picture may end in a wider column
_EMU_PER_ROW = 190_500


@dataclass(slots=True)
class Survey:
    """A worksheet.

    `last_column` is the last one with a value, a formula, or a merged cell next to the rows of the
    job. `tables` and `pictures` are those next to these rows. `header_style` is the style of the
    last cell in the header row, as the file writes it. `row_height` is in points.
    """

    last_column: int = 0
    header_style: str | None = None
    row_height: float = 15.0
    tables: list[SheetTable] = field(default_factory=list)
    pictures: list[Area] = field(default_factory=list)


def survey(workbook: Workbook, entry: SheetEntry, header_row: int, last_row: int) -> Survey:
    """Reads the worksheet once. The rows of the job are those from `header_row` to `last_row`.

    Raises:
        Malformed: if it, a table or a drawing is damaged.
    """
    found = Survey()
    target = _SheetTarget(found, header_row, last_row)
    with workbook.open_sheet(entry) as source:
        for _ in stream(source, target, target.begin):
            pass
    for link in workbook.links(entry.part):
        if link.part is not None and link.kind == "drawing":
            found.pictures += _pictures(workbook, link.part)
    tables = tables_of(workbook, entry)
    found.tables = [t for t in tables if t.area.overlaps_rows(header_row, last_row)]
    found.pictures = [p for p in found.pictures if p.overlaps_rows(header_row, last_row)]
    return found


class _SheetTarget:
    """The reader of the job has accepted the worksheet, so its rows and cells are in order."""

    def __init__(self, found: Survey, header_row: int, last_row: int) -> None:
        self._found = found
        self._header_row = header_row
        self._last_row = last_row
        self._prefix: str | None = None
        self._columns: dict[str, int] = {}
        self._row = self._column = 0
        self._style: str | None = None
        self._parser: XMLParserType | None = None
        self._in_sparkline = False
        self._ref = ""

    def begin(self, parser: XMLParserType) -> None:
        """Leaves out the texts and ends of tags, which take most of the time."""
        parser.CharacterDataHandler = parser.EndElementHandler = None
        self._parser = parser

    def start(self, name: str, attributes: dict[str, str]) -> None:
        if self._prefix is None:
            self._prefix = prefix_of(name)
        name = name.removeprefix(self._prefix)
        if name == "c":
            ref = attributes.get("r")
            self._column = self._column + 1 if ref is None else self._column_of(ref)
            self._style = attributes.get("s")
        elif name in _CONTENT:
            self._found.last_column = max(self._found.last_column, self._column)
            if self._row == self._header_row:
                self._found.header_style = self._style
        elif name == "row":
            self._row = int(attributes.get("r", self._row + 1))
            self._column = 0
        elif name == "mergeCell":
            area = area_of(attributes.get("ref", ""))
            if area.overlaps_rows(self._header_row, self._last_row):
                self._found.last_column = max(self._found.last_column, area.right)
        elif name.endswith(":sparkline"):
            self._in_sparkline = True
        elif name.endswith(":sqref") and self._in_sparkline and self._parser is not None:
            self._ref = ""
            self._parser.CharacterDataHandler = self.text
            self._parser.EndElementHandler = self.end
        elif name == "sheetFormatPr":
            self._found.row_height = _number(attributes.get("defaultRowHeight"), 15.0)

    def end(self, name: str) -> None:
        """Only called for the place of a sparkline, which is drawn in a cell without a value."""
        if self._parser is not None:
            self.begin(self._parser)
        self._in_sparkline = False
        for ref in self._ref.split():
            self._found.last_column = max(self._found.last_column, area_of(ref).right)

    def text(self, text: str) -> None:
        self._ref += text[:100]

    def _column_of(self, ref: str) -> int:
        letters = ref.rstrip("0123456789")
        column = self._columns.get(letters)
        if column is None:
            column = self._columns[letters] = column_number(letters)
        return column


class _DrawingTarget:
    """The places of pictures, charts and shapes: ECMA-376 part 1, 20.5.2. Each is anchored at two
    cells, at one cell with a size, or at a point."""

    def __init__(self) -> None:
        self.found: list[Area] = []
        self._corner = ""
        self._number = ""
        self._at: dict[str, int] = {}
        self._foreign = Foreign()

    def start(self, name: str, attributes: dict[str, str]) -> None:
        self._foreign.add(0)
        name = name.rpartition(":")[2]
        if name.endswith("CellAnchor") or name == "absoluteAnchor":
            self._at = {}
        elif name in ("from", "to"):
            self._corner = name
        elif name in ("col", "row") and self._corner:
            self._number = ""
        elif name in ("ext", "pos") and "to.col" not in self._at:
            for axis in ("x", "y", "cx", "cy"):
                if axis in attributes:
                    self._at.setdefault(axis, int(_number(attributes[axis], 0)))

    def end(self, name: str) -> None:
        name = name.rpartition(":")[2]
        if name in ("col", "row") and self._corner:
            self._at[f"{self._corner}.{name}"] = int(_number(self._number, 0))
        elif name in ("from", "to"):
            self._corner = ""
        elif name.endswith("CellAnchor") or name == "absoluteAnchor":
            self.found.append(self._area())

    def text(self, text: str) -> None:
        if self._corner:
            self._number += text[:20]

    def _area(self) -> Area:
        at = self._at
        left = at.get("from.col", at.get("x", 0) // _EMU_PER_COLUMN)
        top = at.get("from.row", at.get("y", 0) // _EMU_PER_ROW)
        right = at.get("to.col", left + at.get("cx", 0) // _EMU_PER_COLUMN)
        bottom = at.get("to.row", top + at.get("cy", 0) // _EMU_PER_ROW)
        return Area(top + 1, left + 1, bottom + 1, right + 1)


def _pictures(workbook: Workbook, part: str) -> list[Area]:
    target = _DrawingTarget()
    with workbook.open_part(part) as source:
        for _ in stream(source, target):
            pass
    return target.found


def _number(text: str | None, otherwise: float) -> float:
    try:
        return float(text or otherwise)
    except ValueError:
        return otherwise
