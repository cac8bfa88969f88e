"""Writes workbooks part by part, because libraries only write correct ones."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from xml.sax.saxutils import escape, quoteattr

_MAIN = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
_LINKS = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
_PACKAGE = "http://schemas.openxmlformats.org/package/2006/relationships"
HEAD = '<?xml version="1.0" encoding="UTF-8" standalone="yes"?>\n'

_TYPE = "application/vnd.openxmlformats-officedocument.spreadsheetml"
CONTENT_TYPES = (
    f'{HEAD}<Types xmlns="http://schemas.openxmlformats.org/package/2006/content-types">'
    '<Default Extension="xml" ContentType="application/xml"/><Default Extension="rels" '
    'ContentType="application/vnd.openxmlformats-package.relationships+xml"/>'
    f'<Override PartName="/xl/workbook.xml" ContentType="{_TYPE}.sheet.main+xml"/>'
    f'<Override PartName="/xl/worksheets/sheet1.xml" ContentType="{_TYPE}.worksheet+xml"/>'
    f'<Override PartName="/xl/styles.xml" ContentType="{_TYPE}.styles+xml"/></Types>'
)
"""The part `[Content_Types].xml` of a workbook with one worksheet. LibreOffice needs it."""


def cell(ref: str, value: object = None, kind: str | None = None, **more: object) -> str:
    """Returns one `<c>`: a text as an inline string, or `value` unchanged if `kind` is given.

    `style` and `formula` set the style and the formula of the cell. `raw` replaces its content.
    """
    if kind is None and isinstance(value, str):
        kind, raw = "inlineStr", f"<is><t>{escape(value)}</t></is>"
    else:
        raw = "" if value is None else f"<v>{escape(str(value))}</v>"
    if "formula" in more:
        raw = f"<f>{escape(str(more['formula']))}</f>{raw}"
    raw = str(more.get("raw", raw))
    kind_ = f' t="{kind}"' if kind else ""
    style = f' s="{more["style"]}"' if "style" in more else ""
    return f'<c r="{ref}"{style}{kind_}>{raw}</c>'


def rows(*cells: Iterable[str], first: int = 1) -> str:
    """Returns the `<row>`s of a worksheet, from row `first` on."""
    return "".join(
        f'<row r="{number}">{"".join(row)}</row>' for number, row in enumerate(cells, first)
    )


def table(texts: Iterable[Iterable[object]]) -> str:
    """Returns the `<row>`s of a plain table. None leaves a cell out."""
    return rows(
        *(
            [cell(f"{_letters(c)}{r}", v) for c, v in enumerate(line, 1) if v is not None]
            for r, line in enumerate(texts, 1)
        )
    )


def worksheet(data: str, behind: str = "", before: str = "") -> str:
    """Returns a whole worksheet part around its `<row>`s."""
    body = f"{before}<sheetData>{data}</sheetData>{behind}"
    return f'{HEAD}<worksheet xmlns="{_MAIN}">{body}</worksheet>'


def stored(text: str) -> str:
    """Returns `text` as Excel writes it in XML, with `_xHHHH_` for impossible characters."""
    text = re.sub("_(?=x[0-9A-Fa-f]{4}_)", "_x005F_", text)
    text = re.sub("[\0-\b\x0b-\x1f\ufffe\uffff]", lambda c: f"_x{ord(c[0]):04X}_", text)
    return escape(text)


def shared(texts: Iterable[str]) -> str:
    """Returns a part with shared strings, each as a plain `<t>`."""
    items = "".join(f'<si><t xml:space="preserve">{stored(text)}</t></si>' for text in texts)
    return f'{HEAD}<sst xmlns="{_MAIN}">{items}</sst>'


def styles(*formats: int | str) -> str:
    """Returns a part with styles: style i has the number format `formats[i]`, an id or a code."""
    codes = {code: 164 + i for i, code in enumerate(formats) if isinstance(code, str)}
    made = "".join(
        f'<numFmt numFmtId="{id_}" formatCode={quoteattr(code)}/>' for code, id_ in codes.items()
    )
    used = "".join(f'<xf numFmtId="{codes[f] if isinstance(f, str) else f}"/>' for f in formats)
    return (
        f'{HEAD}<styleSheet xmlns="{_MAIN}"><numFmts>{made}</numFmts>'
        f'<cellStyleXfs><xf numFmtId="14"/></cellStyleXfs><cellXfs>{used}</cellXfs></styleSheet>'
    )


def parts_of(
    sheets: Mapping[str, str], settings: str = "", states: Mapping[str, str] | None = None
) -> dict[str, str]:
    """Returns the parts of a minimal workbook. `sheets` are whole worksheet parts by name.

    `settings` goes into workbook.xml after the worksheets. `states` are `hidden` or `veryHidden`.
    """
    entries = links = ""
    parts = {}
    for number, (name, content) in enumerate(sheets.items(), 1):
        state = f' state="{states[name]}"' if states and name in states else ""
        entries += f'<sheet name={quoteattr(name)} sheetId="{number}"{state} r:id="rId{number}"/>'
        links += _link(f"rId{number}", "worksheet", f"worksheets/sheet{number}.xml")
        parts[f"xl/worksheets/sheet{number}.xml"] = content
    links += _link("rId9001", "sharedStrings", "sharedStrings.xml")
    links += _link("rId9002", "styles", "styles.xml")
    main = f'<workbook xmlns="{_MAIN}" xmlns:r="{_LINKS}">'
    return {
        "_rels/.rels": _links(_link("rId1", "officeDocument", "xl/workbook.xml")),
        "xl/workbook.xml": f"{HEAD}{main}<sheets>{entries}</sheets>{settings}</workbook>",
        "xl/_rels/workbook.xml.rels": _links(links),
        "xl/styles.xml": styles(0),
        **parts,
    }


def write_workbook(
    path: Path, sheets: str | Mapping[str, str], *, parts: Mapping[str, str] | None = None, **more
) -> Path:
    """Writes a workbook to `path`. A single worksheet part is called Sheet1. `parts` are added to
    those of `parts_of`, or replace them."""
    if isinstance(sheets, str):
        sheets = {"Sheet1": sheets}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in (parts_of(sheets, **more) | dict(parts or {})).items():
            archive.writestr(name, content)
    return path


def write_repeated(path: Path, lines: int = 1000) -> None:
    """Writes an .ods of 1 KB with one text in `lines` rows of 16,384 columns."""
    spaces = " ".join(
        f'xmlns:{name}="urn:oasis:names:tc:opendocument:xmlns:{name}:1.0"'
        for name in ("office", "table", "text")
    )
    content = (
        f"<office:document-content {spaces}><office:body><office:spreadsheet>"
        f'<table:table table:name="a"><table:table-row table:number-rows-repeated="{lines}">'
        '<table:table-cell table:number-columns-repeated="16384" office:value-type="string">'
        "<text:p>x</text:p></table:table-cell></table:table-row></table:table>"
        "</office:spreadsheet></office:body></office:document-content>"
    )
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("mimetype", "application/vnd.oasis.opendocument.spreadsheet")
        archive.writestr("META-INF/manifest.xml", "<manifest/>")
        archive.writestr("content.xml", content)


def _letters(column: int) -> str:
    letters = ""
    while column:
        column, rest = divmod(column - 1, 26)
        letters = chr(65 + rest) + letters
    return letters


def _link(name: str, kind: str, target: str) -> str:
    return f'<Relationship Id="{name}" Type="{_LINKS}/{kind}" Target="{target}"/>'


def _links(entries: str) -> str:
    return f'{HEAD}<Relationships xmlns="{_PACKAGE}">{entries}</Relationships>'
