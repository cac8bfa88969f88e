"""The last calculated values of the formulas of a workbook.

openpyxl writes formulas without their values. Excel calculates them again, but programs that only
read, such as pandas, a preview or the runner itself, would find the cells empty. So this takes the
values from the workbook's XML and puts them into that of its copy.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, BinaryIO
from xml.etree import ElementTree
from xml.sax.saxutils import escape
from zipfile import ZIP_DEFLATED, ZipFile

_CHUNK_BYTES = 1 << 20
_ROW_ENDS = b"</row>"
# A formula as openpyxl writes it. No text of a cell matches, because its < is escaped.
_FORMULA = re.compile(
    rb'<c r="([A-Z]+[0-9]+)"([^>]*)>(<f(?:[^>]*/>|[^>]*>[^<]*</f>))<v\s*(?:/>|></v>)</c>'
)


@dataclass(frozen=True, slots=True)
class Values:
    """The last values of formulas. `of_sheet` has, by worksheet and coordinate, (kind, text) as in
    the XML. `outdated`: the workbook itself says that it has to be calculated."""

    of_sheet: dict[str, dict[str, tuple[str, str]]]
    outdated: bool


def stored_values(path: Path) -> Values:
    """Reads the values of all formulas in the workbook that have one."""
    with ZipFile(path) as archive:
        found = {name: dict(_values(archive, part)) for name, part in _sheets(archive)}
        book = ElementTree.fromstring(archive.read(_book(archive)))
    calculations = (e for e in book.iter() if e.tag.endswith("}calcPr"))
    outdated = any(e.attrib.get("fullCalcOnLoad") in ("1", "true") for e in calculations)
    return Values(found, outdated)


def put_values(copy: BinaryIO, values: Values, out: BinaryIO) -> None:
    """Writes the workbook in `copy`, which openpyxl made, to `out` with `values` in it."""
    with ZipFile(copy) as archive, ZipFile(out, "w", ZIP_DEFLATED) as filled:
        of_part = {part: values.of_sheet.get(name) for name, part in _sheets(archive)}
        for part in archive.namelist():
            known = of_part.get(part)
            with archive.open(part) as source, filled.open(part, "w", force_zip64=True) as target:
                for chunk in _chunks(source, bool(known)):
                    target.write(_filled(chunk, known) if known else chunk)


def _book(archive: ZipFile) -> str:
    """The part that lists the worksheets."""
    [book] = (part for kind, part in _related(archive, "").values() if kind == "officeDocument")
    return book


def _sheets(archive: ZipFile) -> Iterator[tuple[str, str]]:
    """(name, part) of every worksheet with cells."""
    book = _book(archive)
    parts = _related(archive, book)
    for element in ElementTree.fromstring(archive.read(book)).iter():
        if element.tag.endswith("}sheet"):
            [link] = (text for name, text in element.attrib.items() if name.endswith("}id"))
            kind, part = parts[link]
            if kind == "worksheet":
                yield element.attrib["name"], part


def _related(archive: ZipFile, part: str) -> dict[str, tuple[str, str]]:
    """The (kind, part) that a part of the file refers to, by id. "" is the file itself."""
    folder, name = posixpath.split(part)
    links = ElementTree.fromstring(archive.read(posixpath.join(folder, "_rels", f"{name}.rels")))
    return {
        link.attrib["Id"]: (
            posixpath.basename(link.attrib["Type"]),
            posixpath.normpath(posixpath.join("/", folder, link.attrib["Target"]))[1:],
        )
        for link in links
    }


def _values(archive: ZipFile, part: str) -> Iterator[tuple[str, tuple[str, str]]]:
    with archive.open(part) as file:
        for _, element in ElementTree.iterparse(file):
            kind = element.tag.rpartition("}")[2]
            if kind == "c":
                inner = {child.tag.rpartition("}")[2]: child for child in element}
                value = inner.get("v")
                if "f" in inner and value is not None and value.text is not None:
                    yield element.attrib["r"], (element.attrib.get("t", "n"), value.text)
            elif kind == "row":
                element.clear()


def _chunks(source: IO[bytes], by_rows: bool) -> Iterator[bytes]:
    """The bytes of a part in chunks. With `by_rows` each chunk ends where a row ends."""
    held = b""
    while block := source.read(_CHUNK_BYTES):
        held += block
        cut = held.rfind(_ROW_ENDS) if by_rows else len(held)
        if cut >= 0:
            yield held[:cut]
            held = held[cut:]
    yield held


def _filled(chunk: bytes, values: dict[str, tuple[str, str]]) -> bytes:
    def with_value(found: re.Match[bytes]) -> bytes:
        place, attributes, formula = found.groups()
        if place.decode() not in values:
            return found[0]
        kind, text = values[place.decode()]
        kind_attribute = b"" if kind == "n" else f' t="{kind}"'.encode()
        value = escape(text).encode()
        return b'<c r="%s"%s%s>%s<v>%s</v></c>' % (
            place,
            attributes,
            kind_attribute,
            formula,
            value,
        )

    return _FORMULA.sub(with_value, chunk)
