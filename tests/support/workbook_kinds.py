"""Workbooks as different programs write them: each has the columns No, Story and When in its first
worksheet, stories in rows 5 to 9 below the header in row 4, and something that a copy may lose.
"""

from __future__ import annotations

import base64
import datetime
import zipfile
from collections.abc import Callable
from pathlib import Path

from openpyxl import Workbook
from openpyxl.chart import BarChart, Reference
from openpyxl.comments import Comment
from openpyxl.styles import Font, PatternFill

from tests.support.workbooks import HEAD, cell, parts_of, rows, shared, styles, worksheet

HEADER_ROW, FIRST, LAST = 4, 5, 9
STORIES = {
    5: "a plain story",
    6: "=a formula",
    7: "the <third> & \u2028 last",
    8: "blocked",
    9: "x",
}
STRICT = "http://purl.oclc.org/ooxml"
_MAIN = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
_LINKS = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
_PACKAGE = "http://schemas.openxmlformats.org/package/2006"
_DRAWING = "http://schemas.openxmlformats.org/drawingml/2006"
_SHEET = "xl/worksheets/sheet1.xml"
PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8BQDwAEhQGAhKmMIQAAAABJRU5ErkJggg=="
)


def story_rows(more: dict[str, str] | None = None) -> str:
    """The rows of the table, in columns B to D; `more` replaces cells by their name."""
    made = [[cell("B1", "Stories of the week")]]
    made += [[], [], [cell("B4", "No"), cell("C4", "Story"), cell("D4", "When")]]
    for row, story in STORIES.items():
        made.append([cell(f"B{row}", row), cell(f"C{row}", story), cell(f"D{row}", 45_000 + row)])
    text = rows(*made)
    for name, xml in (more or {}).items():
        start = text.index(f'<c r="{name}"')
        end = text.index("</c>", start) + len("</c>")
        text = text[:start] + xml + text[end:]
    return text


def content_types(parts: dict[str, str | bytes]) -> str:
    """The list of kinds that every workbook has, for the parts that the tests make."""
    kinds = {
        "xl/workbook.xml": "sheet.main",
        "xl/styles.xml": "styles",
        "xl/sharedStrings.xml": "sharedStrings",
    }
    overrides = "".join(
        f'<Override PartName="/{name}" ContentType="application/vnd.openxmlformats-officedocument.'
        f'spreadsheetml.{_kind_of(name, kinds)}+xml"/>'
        for name in parts
        if _kind_of(name, kinds)
    )
    return (
        f'{HEAD}<Types xmlns="{_PACKAGE}/content-types"><Default Extension="png" '
        'ContentType="image/png"/><Default Extension="bin" ContentType="application/octet-stream"/>'
        '<Default Extension="rels" ContentType="application/vnd.openxmlformats-package.'
        'relationships+xml"/><Default Extension="xml" ContentType="application/xml"/>'
        f'<Override PartName="/xl/drawings/drawing1.xml" ContentType="application/vnd.'
        f'openxmlformats-officedocument.drawing+xml"/>{overrides}</Types>'
    )


def _kind_of(name: str, kinds: dict[str, str]) -> str:
    if name.startswith("xl/worksheets/sheet"):
        return "worksheet"
    return "table" if name.startswith("xl/tables/") else kinds.get(name, "")


def links(*entries: tuple[str, str, str]) -> str:
    """A list of relationships: (id, kind, target)."""
    made = "".join(
        f'<Relationship Id="{i}" Type="{_LINKS}/{k}" Target="{t}"/>' for i, k, t in entries
    )
    return f'{HEAD}<Relationships xmlns="{_PACKAGE}/relationships">{made}</Relationships>'


def by_hand(
    path: Path,
    data: str | None = None,
    *,
    behind: str = "",
    before: str = "",
    parts: dict[str, str | bytes] | None = None,
    edit: Callable[[str, str], str | bytes] = lambda name, content: content,
) -> None:
    """Writes a workbook with one sheet of stories. `edit` changes a part at the end."""
    sheet = worksheet(story_rows() if data is None else data, behind, before)
    sheet = sheet.replace("<worksheet ", f'<worksheet xmlns:r="{_LINKS}" ', 1)
    made: dict[str, str | bytes] = {
        **parts_of({"Stories": sheet}),
        "xl/sharedStrings.xml": shared([]),
    }
    made["xl/styles.xml"] = styles(0, 14)
    made.update(parts or {})
    made["[Content_Types].xml"] = content_types(made)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in made.items():
            archive.writestr(name, edit(name, content) if isinstance(content, str) else content)


def exact_values(path: Path) -> None:
    """Digits, escapes and line ends that a library changes when it writes them again."""
    more = {
        "B5": cell("B5", "3.3000000000000003", "n"),
        "B6": cell("B6", "12345678901234567890", "n"),
        "B7": cell("B7", 0, "s"),
        "B8": cell("B8", "2024-02-29T00:00:00", "d", style=1),
        "D9": cell("D9", "1", "b", formula="1=1"),
    }
    texts = shared(["_x000D_ and \r\n"])
    by_hand(path, story_rows(more), parts={"xl/sharedStrings.xml": texts})


def strict(path: Path) -> None:
    """Strict Open XML, as Excel writes it on request: other namespaces everywhere."""

    def edit(name: str, content: str) -> str:
        return content.replace(_MAIN, f"{STRICT}/spreadsheetml/main").replace(
            _LINKS, f"{STRICT}/officeDocument/relationships"
        )

    by_hand(path, edit=edit)


def backslashes(path: Path) -> None:
    """Targets with a backslash, as some .NET programs write them."""
    by_hand(
        path, edit=lambda _, content: content.replace("worksheets/sheet1", "worksheets\\sheet1")
    )


def prefixed(path: Path) -> None:
    """Every element has a namespace prefix, as the Open XML SDK writes it."""

    def edit(name: str, content: str) -> str:
        if name not in (_SHEET, "xl/workbook.xml", "xl/styles.xml"):
            return content
        head, body = content.split("\n", 1)
        body = body.replace("<", "<x:").replace("<x:/", "</x:")
        return f"{head}\n{body.replace('xmlns=', 'xmlns:x=', 1)}"

    by_hand(path, edit=edit)


def without_places(path: Path) -> None:
    """No row and no cell says where it is: they count from A1."""

    def edit(name: str, content: str) -> str:
        if name != _SHEET:
            return content
        for number in range(1, 10):
            content = content.replace(f'<row r="{number}"', "<row")
            content = content.replace(f'<c r="B{number}"', "<c/><c")
            content = content.replace(f'<c r="C{number}"', "<c").replace(f'<c r="D{number}"', "<c")
        return content

    by_hand(path, edit=edit)


def utf_16(path: Path) -> None:
    """The worksheet is UTF-16."""

    def edit(name: str, content: str) -> str | bytes:
        if name != _SHEET:
            return content
        return content.replace('encoding="UTF-8"', 'encoding="UTF-16"').encode("utf-16")

    by_hand(path, edit=edit)


def namespace_on_the_sheet(path: Path) -> None:
    """The prefix of links is declared where it is used, as the Open XML SDK may do."""

    def edit(name: str, content: str) -> str:
        if name != "xl/workbook.xml":
            return content
        content = content.replace(f' xmlns:r="{_LINKS}"', "")
        return content.replace("r:id=", f'xmlns:r="{_LINKS}" r:id=')

    by_hand(path, edit=edit)


def at_the_root(path: Path) -> None:
    """The parts of the workbook are in no folder."""
    draft = path.with_suffix(".draft")
    by_hand(draft)
    with zipfile.ZipFile(draft) as old, zipfile.ZipFile(path, "w") as new:
        for name in old.namelist():
            content = old.read(name).decode().replace('"/xl/', '"/').replace('"xl/', '"')
            new.writestr(name.removeprefix("xl/"), content)
    draft.unlink()


def without_styles(path: Path) -> None:
    """No styles at all, as small programs write them."""
    path.with_suffix(".draft").unlink(missing_ok=True)
    by_hand(path.with_suffix(".draft"))
    with zipfile.ZipFile(path.with_suffix(".draft")) as old, zipfile.ZipFile(path, "w") as new:
        for name in old.namelist():
            content = old.read(name).decode()
            if name == "xl/_rels/workbook.xml.rels":
                start = content.index('<Relationship Id="rId9002"')
                content = content[:start] + content[content.index("/>", start) + 2 :]
            if name != "xl/styles.xml":
                new.writestr(name, content.replace('s="1" ', ""))
    path.with_suffix(".draft").unlink()


def anchored(row: int, column: int, last_row: int, last_column: int) -> str:
    """A drawing with one picture, at cells counted from 0."""
    corners = "".join(
        f"<xdr:{name}><xdr:col>{c}</xdr:col><xdr:colOff>0</xdr:colOff><xdr:row>{r}</xdr:row>"
        f"<xdr:rowOff>0</xdr:rowOff></xdr:{name}>"
        for name, r, c in (("from", row, column), ("to", last_row, last_column))
    )
    return (
        f'{HEAD}<xdr:wsDr xmlns:xdr="{_DRAWING}/spreadsheetDrawing" xmlns:a="{_DRAWING}/main" '
        f'xmlns:r="{_LINKS}"><xdr:twoCellAnchor>{corners}<xdr:pic><xdr:nvPicPr><xdr:cNvPr id="2" '
        'name="Logo"/><xdr:cNvPicPr/></xdr:nvPicPr><xdr:blipFill><a:blip r:embed="rId1"/>'
        "<a:stretch><a:fillRect/></a:stretch></xdr:blipFill><xdr:spPr><a:xfrm><a:off x='0' y='0'/>"
        "<a:ext cx='9999999' cy='9999999'/></a:xfrm><a:prstGeom prst='rect'><a:avLst/></a:prstGeom>"
        "</xdr:spPr></xdr:pic><xdr:clientData/></xdr:twoCellAnchor></xdr:wsDr>"
    )


def with_picture(path: Path, drawing: str) -> None:
    """A picture on the worksheet."""
    parts: dict[str, str | bytes] = {
        "xl/worksheets/_rels/sheet1.xml.rels": links(
            ("rId7", "drawing", "../drawings/drawing1.xml")
        ),
        "xl/drawings/drawing1.xml": drawing,
        "xl/drawings/_rels/drawing1.xml.rels": links(("rId1", "image", "../media/image1.png")),
        "xl/media/image1.png": PNG,
    }
    by_hand(path, behind='<drawing r:id="rId7"/>', parts=parts)


def picture_next_to(path: Path) -> None:
    """A picture next to the rows, in columns F to H."""
    with_picture(path, anchored(4, 5, 9, 7))


def picture_above(path: Path) -> None:
    """A picture above the table, in columns F to H: the new columns may stand below it."""
    with_picture(path, anchored(0, 5, 2, 7))


def listed_table(ref: str, kind: str = "", totals: int = 0, names: tuple[str, ...] = ()) -> str:
    """A table of the worksheet (an Excel "table")."""
    named = names or ("No", "Story", "When")
    made = "".join(f'<tableColumn id="{n}" name="{name}"/>' for n, name in enumerate(named, 1))
    filtered = f"{ref[:-1]}{int(ref[-1]) - totals}"
    return (
        f'{HEAD}<table xmlns="{_MAIN}" id="1" name="Stories" displayName="Stories" ref="{ref}"'
        f'{kind} totalsRowShown="0"><autoFilter ref="{filtered}"/>'
        f'<tableColumns count="{len(named)}">{made}</tableColumns></table>'
    )


def with_table(path: Path, table: str | None = None) -> None:
    """The rows are an Excel table."""
    parts: dict[str, str | bytes] = {
        "xl/worksheets/_rels/sheet1.xml.rels": links(("rId8", "table", "../tables/table1.xml")),
        "xl/tables/table1.xml": listed_table("B4:D9") if table is None else table,
    }
    by_hand(path, behind='<tableParts count="1"><tablePart r:id="rId8"/></tableParts>', parts=parts)


def unknown_parts(path: Path) -> None:
    """Sparklines, a slicer, a query and a signature: nothing here is known to the runner."""
    sparklines = (
        '<extLst><ext uri="{05C60535-1F16-4fd2-B633-F4F36F0B64E0}" xmlns:x14="http://schemas.'
        'microsoft.com/office/spreadsheetml/2009/9/main"><x14:sparklineGroups xmlns:xm="http://'
        'schemas.microsoft.com/office/excel/2006/main"><x14:sparklineGroup><x14:sparklines>'
        "<x14:sparkline><xm:f>Stories!B5:B9</xm:f><xm:sqref>E4</xm:sqref></x14:sparkline>"
        "</x14:sparklines></x14:sparklineGroup></x14:sparklineGroups></ext></extLst>"
    )
    parts: dict[str, str | bytes] = {
        "xl/slicers/slicer1.xml": f"{HEAD}<slicers/>",
        "xl/model/item.data": bytes(range(256)) * 40,
        "_xmlsignatures/sig1.xml": f"{HEAD}<Signature/>",
        "customXml/item1.xml": f"{HEAD}<any/>",
    }
    by_hand(path, behind=sparklines, parts=parts)


def wide_formats(path: Path) -> None:
    """One width up to the last column of Excel, `spans`, and formatted cells without a value to the
    right of the table."""
    before = (
        '<dimension ref="B1:K9"/><sheetFormatPr defaultRowHeight="15"/>'
        '<cols><col min="1" max="2" width="5"/><col min="3" max="16384" width="30" style="1"/>'
        "</cols>"
    )
    data = story_rows()
    for row in STORIES:
        blank = "".join(f'<c r="{column}{row}" s="1"/>' for column in "EFGK")
        data = data.replace(f'<row r="{row}"', f'<row spans="2:11" ht="15" r="{row}"')
        end = data.index("</row>", data.index(f' r="{row}"'))
        data = data[:end] + blank + data[end:]
    by_hand(path, data, before=before)


def by_openpyxl(path: Path) -> None:
    """Formats, a comment, a merged cell, a chart, heights, another sheet, a formula not read."""
    book = Workbook()
    page = book.worksheets[0]
    page.title = "Stories"
    for column, name in enumerate(["No", "Story", "When"], start=2):
        made = page.cell(HEADER_ROW, column, name)
        made.font, made.fill = Font(bold=True), PatternFill("solid", fgColor="FFFFCC00")
    for row, story in STORIES.items():
        page.cell(row, 2, row).number_format = "00000"
        page.cell(row, 3).value = story
        page.cell(row, 3).data_type = "s"
        page.cell(row, 4, datetime.datetime(2024, 1, row, 12, 30)).number_format = "dd.mm.yyyy"
    page.merge_cells("B1:E2")
    page["B1"] = "a title"
    page.column_dimensions["C"].width = 33
    page.row_dimensions[6].height = 44
    page["C5"].comment = Comment("why not", "me")
    notes = book.create_sheet("Notes")
    notes["A1"], notes["A2"] = 3, "=A1*2"
    chart = BarChart()
    chart.add_data(Reference(notes, min_col=1, min_row=1, max_row=2))
    notes.add_chart(chart, "F1")
    book.save(path)


KINDS: dict[str, Callable[[Path], None]] = {
    "written by hand": by_hand,
    "exact values": exact_values,
    "strict": strict,
    "backslashes": backslashes,
    "prefixed": prefixed,
    "without places": without_places,
    "UTF-16": utf_16,
    "a namespace on the sheet": namespace_on_the_sheet,
    "at the root": at_the_root,
    "without styles": without_styles,
    "a picture next to the rows": picture_next_to,
    "a picture above the rows": picture_above,
    "a table": with_table,
    "unknown parts": unknown_parts,
    "wide formats": wide_formats,
    "openpyxl": by_openpyxl,
}


def write_messy(path: Path) -> Path:
    """Writes a workbook as people keep them. The worksheet Ideas has its column names in row 3 and
    six rows below it: with dates, numbers as text, a hidden row, an error in E6, a formula without
    a value in E7, merged cells in G8:G9, an empty column, and two columns that are called Tag."""
    book = Workbook()
    book.active.title = "Notes"
    book.active["A1"] = "Read me first"
    sheet = book.create_sheet("Ideas")
    sheet["A1"] = "Spring campaign"
    sheet.merge_cells("A1:C1")
    for column, name in enumerate(
        ("SKU", "Story", "Tag", "When", "Price", "Later", "Note", "Tag"), start=1
    ):
        sheet.cell(3, column, name)
    for number in range(6):
        row = 4 + number
        sheet.cell(row, 1, f"00{number}")
        sheet.cell(row, 2, f"story {number} " + "x" * (300 if number == 2 else 3))
        sheet.cell(row, 3, "the same")
        sheet.cell(row, 4, datetime.date(2026, 3, 1 + number)).number_format = "yyyy-mm-dd"
        sheet.cell(row, 5, 1.5 * number)
        sheet.cell(row, 7, "note")
        sheet.cell(row, 8, "other")
    sheet["E6"] = "#DIV/0!"
    sheet["E7"] = "=E4*2"
    sheet.merge_cells("G8:G9")
    sheet.row_dimensions[5].hidden = True
    book.save(path)
    return path
