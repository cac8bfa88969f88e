"""The styles of exported cells: all styles of a new workbook, and one for the user's own."""

from __future__ import annotations

from pipeline.export.xlsx.editor import edited
from pipeline.export.xlsx.markup import quoteattr
from pipeline.inputs.xlsx.workbook import Workbook
from pipeline.inputs.xlsx.xml_stream import Foreign, Malformed, stream

MAIN = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
HEAD = '<?xml version="1.0" encoding="UTF-8" standalone="yes"?>\n'
_OWN_FORMATS = 164
"""ECMA-376 part 1, 18.8.30: the number formats below are built in."""
_HEADER_FILL = "FFE7EEF7"

_ANSWER = (
    '<{p}xf numFmtId="0" fontId="0" fillId="0" borderId="0"{parent} quotePrefix="1" '
    'applyAlignment="1"><{p}alignment vertical="top" wrapText="1"/></{p}xf>'
)
"""Wrapped, and at the top. `quotePrefix` keeps a text a text when somebody edits it."""


class _StylesTarget:
    """Counts the styles of cells."""

    def __init__(self) -> None:
        self.cells = self.parents = 0
        self._inside = ""
        self._foreign = Foreign()

    def start(self, name: str, attributes: dict[str, str]) -> None:
        self._foreign.add(0)
        name = name.rpartition(":")[2]
        if name in ("cellXfs", "cellStyleXfs"):
            self._inside = name
        elif name == "xf":
            self.cells += self._inside == "cellXfs"
            self.parents += self._inside == "cellStyleXfs"

    def end(self, name: str) -> None:
        if name.rpartition(":")[2] == self._inside:
            self._inside = ""

    def text(self, text: str) -> None:
        pass


def with_answer_style(workbook: Workbook, part: str) -> tuple[bytes, int]:
    """Returns the styles of a workbook with the style of an answer at the end, and its number.

    Raises:
        Malformed: if the part has no list of styles for cells.
    """
    target = _StylesTarget()
    with workbook.open_part(part) as source:
        for _ in stream(source, target):
            pass
    if not target.cells:
        raise Malformed(f"{part} has no cellXfs")
    parent = ' xfId="0"' if target.parents else ""
    with workbook.open_part(part) as source:
        content = edited(
            source.read(),
            {"cellXfs": lambda p: _ANSWER.format(p=p, parent=parent)},
            {"cellXfs": {"count": str(target.cells + 1)}},
        )
    return content, target.cells


class Styles:
    """The numbers of the styles of a new workbook, which `xml` returns."""

    HEADER, OWN, ANSWER, PLAIN = 1, 2, 3, 4

    def __init__(self) -> None:
        self._formats: dict[str, int] = {}

    def number(self, code: str) -> int:
        """Returns the style with the number format `code`."""
        return self._formats.setdefault(code, self.PLAIN + 1 + len(self._formats))

    def xml(self) -> str:
        """Returns the part. Call this after all numbers are known."""
        formats = "".join(
            f'<numFmt numFmtId="{_OWN_FORMATS + n}" formatCode={quoteattr(code)}/>'
            for n, code in enumerate(self._formats)
        )
        plain = 'fontId="0" fillId="0" borderId="0" xfId="0"'
        top = 'applyAlignment="1"><alignment vertical="top"/></xf>'
        cells = [
            f'<xf numFmtId="0" {plain}/>',
            '<xf numFmtId="0" fontId="1" fillId="2" borderId="0" xfId="0" applyFont="1" '
            'applyFill="1" applyAlignment="1"><alignment vertical="top" wrapText="1"/></xf>',
            f'<xf numFmtId="0" {plain} quotePrefix="1" {top}',
            _ANSWER.format(p="", parent=' xfId="0"'),
            f'<xf numFmtId="0" {plain} {top}',
        ]
        cells += [
            f'<xf numFmtId="{_OWN_FORMATS + n}" {plain} applyNumberFormat="1" {top}'
            for n in range(len(self._formats))
        ]
        listed = f'<numFmts count="{len(self._formats)}">{formats}</numFmts>' if formats else ""
        return (
            f'{HEAD}<styleSheet xmlns="{MAIN}">{listed}'
            '<fonts count="2"><font><sz val="11"/><name val="Calibri"/><family val="2"/></font>'
            '<font><b/><sz val="11"/><name val="Calibri"/><family val="2"/></font></fonts>'
            '<fills count="3"><fill><patternFill patternType="none"/></fill>'
            '<fill><patternFill patternType="gray125"/></fill><fill>'
            f'<patternFill patternType="solid"><fgColor rgb="{_HEADER_FILL}"/></patternFill>'
            "</fill></fills>"
            '<borders count="1"><border><left/><right/><top/><bottom/><diagonal/></border>'
            "</borders>"
            '<cellStyleXfs count="1"><xf numFmtId="0" fontId="0" fillId="0" borderId="0"/>'
            f'</cellStyleXfs><cellXfs count="{len(cells)}">{"".join(cells)}</cellXfs>'
            '<cellStyles count="1"><cellStyle name="Normal" xfId="0" builtinId="0"/></cellStyles>'
            "</styleSheet>"
        )
