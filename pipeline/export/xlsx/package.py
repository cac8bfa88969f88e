"""The file of a workbook, which is a zip of parts: writes it again with a few parts changed."""

from __future__ import annotations

import posixpath
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from typing import IO, BinaryIO
from zipfile import ZIP_DEFLATED, ZipFile, ZipInfo

from pipeline.export.xlsx.editor import edited
from pipeline.export.xlsx.markup import quoteattr
from pipeline.export.xlsx.styles import MAIN
from pipeline.inputs.xlsx.workbook import Workbook
from pipeline.inputs.xlsx.xml_stream import Foreign, Malformed, prefix_of, stream

CONTENT_TYPES = "[Content_Types].xml"
SHEET_TYPE = "application/vnd.openxmlformats-officedocument.spreadsheetml.worksheet+xml"
BOOK_TYPE = "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet.main+xml"
_MACROS = "vbaProject"
# Excel calculates a workbook again that an older release calculated last.
_OLD_EXCEL = "124519"


@dataclass(slots=True)
class Parts:
    """What a new file has in place of the parts of `workbook`. `streamed` parts are written by a
    function from the old content to the new one. `added` parts stand at the end."""

    workbook: Workbook
    changed: dict[str, bytes] = field(default_factory=dict)
    streamed: dict[str, Callable[[IO[bytes], IO[bytes]], None]] = field(default_factory=dict)
    added: dict[str, bytes] = field(default_factory=dict)
    dropped: set[str] = field(default_factory=set)

    def content(self, part: str) -> bytes:
        """Returns a small part as it is so far.

        Raises:
            Malformed: if the workbook has no such part, or it is over 32 MB.
        """
        if part in self.changed:
            return self.changed[part]
        try:
            with self.workbook.open_part(part) as source:
                return source.read()
        except KeyError:
            raise Malformed(f"it has no {part}") from None

    def put_sheet(self, part: str | None, name: str, make: Callable[[str], str]) -> None:
        """Writes the worksheet in `part`, or adds one at the end. `make` returns its XML for the
        namespace of the workbook. A new one gets a number after `name` if there is such a sheet."""
        book = self.workbook
        listed = _SheetList()
        with book.open_part(book.main) as source:
            for _ in stream(source, listed):
                pass
        content = make(listed.namespace).encode()
        if part is not None:
            self.changed[part] = content
            return
        links = book.links(book.main)
        link_id = _free("rId", {link.id for link in links})
        kind = next(link.type for link in links if link.kind == "worksheet")
        folder = posixpath.dirname(book.main)
        beginning = posixpath.join(folder, "worksheets", "sheet")
        part = _free(beginning, set(book.archive.namelist()), ".xml")
        title = name if name.lower() not in listed.names else _free(f"{name} ", listed.names)
        self.added[part] = content
        self._edit(
            book.main,
            "sheets",
            lambda p: (
                f"<{p}sheet xmlns:r={quoteattr(posixpath.dirname(kind))} "
                f'name={quoteattr(title)} sheetId="{listed.last_id + 1}" r:id="{link_id}"/>'
            ),
        )
        self._edit(
            _links_part(book, book.main),
            "Relationships",
            lambda p: (
                f'<{p}Relationship Id="{link_id}" Type={quoteattr(kind)} '
                f"Target={quoteattr(posixpath.relpath(part, folder or '.'))}/>"
            ),
        )
        types = _part_of(book, CONTENT_TYPES)
        if types in book.archive.namelist():
            said = f'PartName={quoteattr("/" + part)} ContentType="{SHEET_TYPE}"'
            self._edit(types, "Types", lambda p: f"<{p}Override {said}/>")

    def calculate_again(self) -> None:
        """Makes Excel calculate the formulas when it opens the file."""
        main = self.workbook.main
        calculation = {"calcPr": {"calcId": _OLD_EXCEL}}
        self.changed[main] = edited(self.content(main), attributes=calculation)

    def drop_macros(self) -> bool:
        """Leaves the macros out. Returns whether there were any. The kind of the file changes too:
        Excel opens an .xlsx only if it says that it has none."""
        book = self.workbook
        gone = {link.part for link in book.links(book.main) if link.kind == _MACROS}
        gone |= {link.part for part in gone if part for link in book.links(part)}
        self.dropped |= {part for part in gone if part}
        self.dropped |= {_links_part(book, part) for part in gone if part}
        links = _links_part(book, book.main)
        self.changed[links] = edited(
            self.content(links),
            without=lambda said: said.get("Type", "").endswith(f"/{_MACROS}"),
        )
        names = {f"/{part}".lower() for part in gone}
        listing = _part_of(book, CONTENT_TYPES)
        types = edited(
            self.content(listing),
            without=lambda said: (
                said.get("PartName", "").lower() in {*names, f"/{book.main}".lower()}
            ),
        )
        said = f'PartName={quoteattr("/" + book.main)} ContentType="{BOOK_TYPE}"'
        self.changed[listing] = edited(types, {"Types": lambda p: f"<{p}Override {said}/>"})
        return bool(gone)

    def write(self, file: BinaryIO) -> None:
        """Writes the new file. The other parts have the same content as before."""
        archive = self.workbook.archive
        with ZipFile(file, "w", ZIP_DEFLATED) as out:
            for entry in archive.infolist():
                if entry.filename in self.dropped:
                    continue
                new = ZipInfo(entry.filename, entry.date_time)
                new.compress_type, new.external_attr = entry.compress_type, entry.external_attr
                new.file_size = entry.file_size  # from 4 GB on, an entry has another form
                if entry.filename in self.changed:
                    out.writestr(new, self.changed[entry.filename])
                    continue
                copy = self.streamed.get(entry.filename, shutil.copyfileobj)
                large = entry.filename in self.streamed
                with archive.open(entry) as source, out.open(new, "w", force_zip64=large) as part:
                    copy(source, part)
            for name, content in self.added.items():
                out.writestr(name, content)

    def _edit(self, part: str, element: str, markup: Callable[[str], str]) -> None:
        self.changed[part] = edited(self.content(part), {element: markup})


class _SheetList:
    """The sheets of a workbook, of every kind, and its namespace."""

    def __init__(self) -> None:
        self.names: set[str] = set()
        self.last_id = 0
        self.namespace = MAIN
        self._foreign = Foreign()
        self._first = True

    def start(self, name: str, attributes: dict[str, str]) -> None:
        self._foreign.add(0)
        if self._first:
            prefix = prefix_of(name)
            declared = f"xmlns:{prefix[:-1]}" if prefix else "xmlns"
            self.namespace, self._first = attributes.get(declared, MAIN), False
        if name.rpartition(":")[2] == "sheet":
            self.names.add(attributes.get("name", "").lower())
            id_ = attributes.get("sheetId", "0")
            self.last_id = max(self.last_id, int(id_))

    def end(self, name: str) -> None:
        pass

    def text(self, text: str) -> None:
        pass


def _links_part(workbook: Workbook, part: str) -> str:
    """Returns the name of the part that lists the relationships of `part`."""
    folder, base = posixpath.split(part)
    return _part_of(workbook, posixpath.join(folder, "_rels", f"{base}.rels"))


def _part_of(workbook: Workbook, name: str) -> str:
    """Returns the name of a part as the file writes it: case does not count (OPC, 6.2.2.3)."""
    names = (one for one in workbook.archive.namelist() if one.lower() == name.lower())
    return next(names, name)


def _free(beginning: str, taken: set[str], end: str = "") -> str:
    """Returns `beginning` with the first number that makes a name that is not in `taken`."""
    used = {name.lower() for name in taken}
    numbered = (f"{beginning}{number}{end}" for number in count(1))
    return next(name for name in numbered if name.lower() not in used)
