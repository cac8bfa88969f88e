"""The styles of exported cells: all styles of a new workbook, and one for the user's own."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

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


_NUMBER = (
    '<{p}xf numFmtId="{format}" fontId="0" fillId="0" borderId="0"{parent} applyNumberFormat="1" '
    'applyAlignment="1"><{p}alignment vertical="top"/></{p}xf>'
)
_BUILT_IN = {"": 0, "0": 1, "yyyy-mm-dd": 14}
"""ECMA-376 part 1, 18.8.30. The date is displayed as the user's language writes it."""


class _StylesTarget:
    """Lists the styles of cells: the attributes of each, and of its alignment."""

    def __init__(self) -> None:
        self.cells: list[tuple[dict[str, str], dict[str, str]]] = []
        self.parents = 0
        self._inside = ""
        self._foreign = Foreign()

    def start(self, name: str, attributes: dict[str, str]) -> None:
        self._foreign.add(0)
        name = name.rpartition(":")[2]
        if name in ("cellXfs", "cellStyleXfs"):
            self._inside = name
        elif name == "xf":
            if self._inside == "cellXfs":
                self.cells.append((attributes, {}))
            self.parents += self._inside == "cellStyleXfs"
        elif name == "alignment" and self._inside == "cellXfs" and self.cells:
            self.cells[-1][1].update(attributes)

    def end(self, name: str) -> None:
        if name.rpartition(":")[2] == self._inside:
            self._inside = ""

    def text(self, text: str) -> None:
        pass


@dataclass(frozen=True, slots=True)
class AddedStyles:
    """The styles of answers in a user's workbook: its part with them, and their numbers. `text` is
    the style of texts. `numbers` are those of number formats, by their codes."""

    content: bytes
    text: int
    numbers: Mapping[str, int]


def with_answer_styles(workbook: Workbook, part: str, codes: Iterable[str]) -> AddedStyles:
    """Returns the styles of a workbook with those of answers: one for texts, and one for each of
    the number formats `codes`. Styles that an earlier export added are used again.

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
    made = [_ANSWER, *(_NUMBER.replace("{format}", str(_BUILT_IN[code])) for code in codes)]
    new: list[str] = []
    numbers = []
    for markup in made:
        there = _index(target.cells, markup.format(p="", parent=parent))
        numbers.append(len(target.cells) + len(new) if there is None else there)
        new += [markup] if there is None else []
    with workbook.open_part(part) as source:
        content = source.read()
    if new:
        count = str(len(target.cells) + len(new))
        children = {"cellXfs": lambda p: "".join(m.format(p=p, parent=parent) for m in new)}
        content = edited(content, children, {"cellXfs": {"count": count}})
    return AddedStyles(content, numbers[0], dict(zip(codes, numbers[1:], strict=True)))


def _index(cells: list[tuple[dict[str, str], dict[str, str]]], markup: str) -> int | None:
    tags = re.findall(r"<(?!/)[^>]*", markup)
    look = tuple(dict(re.findall(r'(\w+)="([^"]*)"', tag)) for tag in tags)
    return cells.index(look) if look in cells else None


class Styles:
    """The numbers of the styles of a new workbook, which `xml` returns."""

    HEADER, OWN, ANSWER, PLAIN = 1, 2, 3, 4

    def __init__(self) -> None:
        self._formats: dict[str, int] = {}

    def number(self, code: str) -> int:
        """Returns the style with the number format `code`, "" for the general one."""
        if not code:
            return self.PLAIN
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
