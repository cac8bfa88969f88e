"""A new workbook for the answers to a sheet that is not a workbook itself.

Its rows are written as they come, so memory does not grow with them. The runner writes the XML
itself, because it does so in the copy of a workbook anyway.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import IO, Any
from zipfile import ZIP_DEFLATED, ZipFile

import pyarrow as pa

from pipeline.core.errors import NothingWritten
from pipeline.export.files import replacing, rows_of
from pipeline.export.xlsx.cells import MAX_COLUMNS, MAX_ROWS, CellXml, escaped, fits
from pipeline.export.xlsx.long_texts import TextsAside
from pipeline.export.xlsx.markup import escape, quoteattr
from pipeline.export.xlsx.package import BOOK_TYPE, CONTENT_TYPES, SHEET_TYPE
from pipeline.export.xlsx.styles import HEAD, MAIN, Styles
from pipeline.export.xlsx.summary import SummaryRows, summary_part
from pipeline.export.xlsx.typed import Convert
from pipeline.inputs.table import address
from pipeline.inputs.xlsx.workbook import SUMMARY_SHEET
from pipeline.results.answered_sheet import Exported
from pipeline.results.cells import cell_text

_WIDTHS = {"result": 70, "citations": 50, "status": 12, "error_code": 18, "error_message": 40}
_OTHER_WIDTH = 20
_OWN_WIDTHS = (8, 40)
# Rows grow with wrapped text. With more lines than this, one answer would fill the screen.
_SHOWN_LINES = 12
_LINE_POINTS = 15
# From here on, most characters (Chinese, Japanese, Korean, emoji) are two wide.
_WIDE = "\u2e80"
_FORBIDDEN_IN_NAMES = str.maketrans(dict.fromkeys("[]:*?/\\", "_"))
_LINKS = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
_PACKAGE = "http://schemas.openxmlformats.org/package/2006"
_STYLES_TYPE = "application/vnd.openxmlformats-officedocument.spreadsheetml.styles+xml"
_XML_TYPE = "application/xml"
_LINKS_TYPE = "application/vnd.openxmlformats-package.relationships+xml"


def write_workbook(
    exported: Exported,
    target: Path,
    sheet: str,
    summary: SummaryRows,
    converts: Mapping[str, Convert] | None = None,
) -> int:
    """Writes a new workbook: the table on a worksheet named `sheet`, and `summary`, unless it is
    empty, on a second one. Returns the number of texts that went into separate files.

    `converts` has what makes numbers and dates of the texts of a column.

    Raises:
        Refused: for more rows or columns than Excel has.
    """
    refuse_too_large(target, exported.rows + 1, len(exported.schema))
    styles = Styles()
    title = sheet.translate(_FORBIDDEN_IN_NAMES)[:31]
    with TextsAside(target) as aside, replacing(target) as file:
        with ZipFile(file, "w", ZIP_DEFLATED) as archive:
            with archive.open("xl/worksheets/sheet1.xml", "w", force_zip64=True) as part:
                _write_sheet(part, exported, converts or {}, styles, aside)
            titles = [title]
            if summary:
                titles.append(SUMMARY_SHEET)
                content = summary_part(summary, MAIN, styles.ANSWER)
                archive.writestr("xl/worksheets/sheet2.xml", content)
            last = address(len(exported.schema), exported.rows + 1)
            for name, content in _parts(titles, last, styles).items():
                archive.writestr(name, content)
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


class AnswerCells:
    """Makes cells from texts and lists. A text is never a formula. One that is too long goes to a
    file, which the cell then names.

    `converts` has what makes numbers, dates and truth values of the texts of a column, and
    `style_of` returns the style for a number format ("" for the general one).
    """

    def __init__(
        self,
        xml: CellXml,
        style: int | None,
        aside: TextsAside,
        converts: Mapping[str, Convert],
        style_of: Callable[[str], int | None],
    ) -> None:
        self._xml = xml
        self.style = style
        self._aside = aside
        self._converts = converts
        self._style_of = style_of

    def made(self, place: int, row: int, column: str, value: Any) -> str | None:
        """Returns the XML of a cell in column `place`, or None if it has no value."""
        ref = address(place, row)
        if isinstance(value, int):
            return self._xml.number(ref, self.style, str(value))
        convert = self._converts.get(column)
        typed = convert(value) if convert is not None and value else None
        if typed is not None:
            style = self._style_of(typed.format)
            if typed.is_boolean:
                return self._xml.boolean(ref, style, typed.digits == "1")
            return self._xml.number(ref, style, typed.digits)
        text = escaped(cell_text(value))
        if not fits(text):
            text = self._aside.put(row, column, cell_text(value))
        return self._xml.text(ref, self.style, text) if text else None


def width_of(kind: str) -> int:
    """The width, in characters, of a column of the runner's own."""
    return _WIDTHS.get(kind, _OTHER_WIDTH)


def shown_height(values: Sequence[Any], widths: Sequence[int]) -> float | None:
    """The height in points that shows the wrapped texts of a row, up to `_SHOWN_LINES` lines; None
    for one line. The file states it because not every program grows rows by itself."""
    texts = zip(map(cell_text, values), widths, strict=True)
    lines = max((_lines(text, width) for text, width in texts), default=1)
    return float(min(lines, _SHOWN_LINES) * _LINE_POINTS) if lines > 1 else None


def _lines(text: str, width: int) -> int:
    """About how many lines a text takes in a column of `width` characters."""
    beginning = text[: _SHOWN_LINES * width].split("\n")
    return sum(1 + _width(line) // width for line in beginning)


def _width(line: str) -> int:
    return len(line) + (0 if line.isascii() else sum(map(_WIDE.__lt__, line)))


def _write_sheet(
    part: IO[bytes],
    exported: Exported,
    converts: Mapping[str, Convert],
    styles: Styles,
    aside: TextsAside,
) -> None:
    names = exported.schema.names
    batches = exported.batches()
    first = next(batches, None)
    widths = [
        width_of(exported.kinds[name])
        if name in exported.kinds
        else _width_of_own(name, None if first is None else first.column(place))
        for place, name in enumerate(names)
    ]
    cols = "".join(
        f'<col min="{place}" max="{place}" width="{width}" customWidth="1"/>'
        for place, width in enumerate(widths, start=1)
    )
    xml = CellXml()
    header = "".join(
        xml.text(address(place, 1), styles.HEADER, escaped(name))
        for place, name in enumerate(names, start=1)
    )
    part.write(
        f'{HEAD}<worksheet xmlns="{MAIN}"><sheetViews><sheetView tabSelected="1" '
        'workbookViewId="0"><pane ySplit="1" topLeftCell="A2" activePane="bottomLeft" '
        f'state="frozen"/></sheetView></sheetViews><cols>{cols}</cols><sheetData>'
        f'<row r="1">{header}</row>'.encode()
    )
    cells = _Cells(exported, converts, styles, aside)
    added = [place for place, name in enumerate(names) if name in exported.kinds]
    rows = chain.from_iterable(map(rows_of, chain([] if first is None else [first], batches)))
    number = 1
    for number, row in enumerate(rows, start=2):
        content = cells.row(number, row)
        height = shown_height([row[p] for p in added], [widths[p] for p in added])
        high = "" if height is None else f' ht="{height}" customHeight="1"'
        part.write(f'<row r="{number}"{high}>{content}</row>'.encode())
    last = address(len(names), number)
    part.write(f'</sheetData><autoFilter ref="A1:{last}"/></worksheet>'.encode())


class _Cells:
    """Makes the cells of a row of a new workbook."""

    def __init__(
        self,
        exported: Exported,
        converts: Mapping[str, Convert],
        styles: Styles,
        aside: TextsAside,
    ) -> None:
        xml = CellXml()
        answers, texts = (
            AnswerCells(xml, style, aside, converts, styles.number)
            for style in (styles.ANSWER, styles.OWN)
        )
        names = exported.schema.names
        self._columns = [(n, answers if n in exported.kinds else texts) for n in names]

    def row(self, number: int, values: Sequence[Any]) -> str:
        made = (
            cells.made(place, number, name, value)
            for place, ((name, cells), value) in enumerate(
                zip(self._columns, values, strict=True), 1
            )
        )
        return "".join(filter(None, made))


def _width_of_own(name: str, values: pa.Array | None) -> int:
    """The width of a column of the sheet, from its name and its first values."""
    least, most = _OWN_WIDTHS
    texts = [name, *(str(v) for v in (values.to_pylist() if values is not None else []))]
    longest = max(max(map(_width, text[: 2 * most].split("\n"))) for text in texts)
    return min(max(longest + 2, least), most)


def _parts(titles: Sequence[str], last: str, styles: Styles) -> dict[str, str]:
    """The other parts of a workbook with these worksheets. `last` is the last cell of the first, up
    to which its filter reaches."""
    numbers = range(1, len(titles) + 1)
    sheets = "".join(
        f'<sheet name={quoteattr(title)} sheetId="{n}" r:id="rId{n}"/>'
        for n, title in zip(numbers, titles, strict=True)
    )
    # Excel itself keeps a filter under this name, and some programs look for it there.
    title = escape(titles[0].replace("'", "''"))
    filtered = f"'{title}'!$A$1:" + re.sub("([A-Z]+)", r"$\1$", last)
    links = [(f"rId{n}", "worksheet", f"worksheets/sheet{n}.xml") for n in numbers]
    links.append(("rId9001", "styles", "styles.xml"))
    types = [(f"/xl/worksheets/sheet{n}.xml", SHEET_TYPE) for n in numbers]
    types += [("/xl/workbook.xml", BOOK_TYPE), ("/xl/styles.xml", _STYLES_TYPE)]
    overrides = "".join(
        f'<Override PartName="{name}" ContentType="{kind}"/>' for name, kind in types
    )
    return {
        CONTENT_TYPES: f'{HEAD}<Types xmlns="{_PACKAGE}/content-types">'
        f'<Default Extension="xml" ContentType="{_XML_TYPE}"/>'
        f'<Default Extension="rels" ContentType="{_LINKS_TYPE}"/>{overrides}</Types>',
        "_rels/.rels": _listed([("rId1", "officeDocument", "xl/workbook.xml")]),
        "xl/workbook.xml": f'{HEAD}<workbook xmlns="{MAIN}" xmlns:r="{_LINKS}">'
        f"<sheets>{sheets}</sheets><definedNames>"
        '<definedName name="_xlnm._FilterDatabase" localSheetId="0" hidden="1">'
        f"{filtered}</definedName></definedNames></workbook>",
        "xl/_rels/workbook.xml.rels": _listed(links),
        "xl/styles.xml": styles.xml(),
    }


def _listed(links: Sequence[tuple[str, str, str]]) -> str:
    entries = "".join(
        f'<Relationship Id="{id_}" Type="{_LINKS}/{kind}" Target="{target}"/>'
        for id_, kind, target in links
    )
    return f'{HEAD}<Relationships xmlns="{_PACKAGE}/relationships">{entries}</Relationships>'
