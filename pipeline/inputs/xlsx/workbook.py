"""An .xlsx file as the zip of XML parts that it is: which sheets, styles and shared texts it has.

The file may be anything, so sizes are judged by the zip's directory before a byte is unpacked;
zipfile never gives more bytes of a part than the directory says.
"""

from __future__ import annotations

import contextlib
import posixpath
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, NamedTuple

from pipeline.core.errors import Refused
from pipeline.inputs.disguise import refuse_disguised
from pipeline.inputs.xlsx.shared_strings import SharedTexts
from pipeline.inputs.xlsx.xml_stream import Foreign, Malformed, XmlTarget, stream

# Sheets unpack to 5 to 20 times their size, to 80 times where one long text fills a column.
_BOMB_RATIO = 200
_BOMB_BYTES = 20 << 20
_MAX_DIRECTORY_BYTES = 4 << 20
_MAX_SMALL_PART_BYTES = 32 << 20

SUMMARY_SHEET = "Summary"
SUMMARY_TITLE = "Run summary"
"""In A1 of the sheet that an export adds: it is how it is known again, and never the input."""


@dataclass(frozen=True, slots=True)
class SheetEntry:
    """One worksheet of a workbook: its name, where it is in the zip, and whether it is shown."""

    name: str
    part: str
    visible: bool


@dataclass(frozen=True, slots=True)
class Style:
    """The number format of a cell's style. A built-in format has a `format_id` and no `code`."""

    code: str = ""
    format_id: int | None = None


class Link(NamedTuple):
    """A relationship of a part: its kind (the end of `type`), the part that it leads to (None if
    the file has no such part), its id and its whole type."""

    kind: str
    part: str | None
    id: str
    type: str


@dataclass(slots=True)
class Workbook:
    """An open workbook, whose list of worksheets is in `main`.

    `recalculates`: a spreadsheet must calculate the formulas when it opens the workbook, because
    the program that wrote it did not know their values.
    """

    archive: zipfile.ZipFile
    main: str
    sheets: list[SheetEntry] = field(default_factory=list)
    styles: list[Style] = field(default_factory=list)
    from_1904: bool = False
    recalculates: bool = False
    texts_part: str | None = None

    def open_sheet(self, sheet: SheetEntry) -> IO[bytes]:
        """The XML of one worksheet."""
        return _open_part(self.archive, sheet.part)

    def open_part(self, part: str) -> IO[bytes]:
        """Opens a part that is never large.

        Raises:
            Malformed: when it is over 32 MB, or packed in a way that no spreadsheet uses.
        """
        _refuse_large(self.archive, part)
        return _open_part(self.archive, part)

    def links(self, part: str) -> list[Link]:
        """Returns the relationships of a part, in order."""
        return list(_links(self.archive, _names(self.archive), part))

    @contextlib.contextmanager
    def shared_texts(self) -> Iterator[SharedTexts]:
        """The texts that cells refer to by number."""
        with contextlib.ExitStack() as stack:
            file = stack.enter_context(tempfile.TemporaryFile())
            source = None
            if self.texts_part:
                source = stack.enter_context(_open_part(self.archive, self.texts_part))
            yield SharedTexts(source, file)


@contextlib.contextmanager
def open_workbook(path: Path) -> Iterator[Workbook]:
    """The workbook at `path`; what is damaged in it is refused as long as it is open.

    Raises:
        Refused: when it is no workbook, has a password, is damaged or made to exhaust the machine.
    """
    refuse_disguised(path)
    try:
        if _directory_bytes(path) > _MAX_DIRECTORY_BYTES:
            raise Malformed("it lists more parts than any workbook has")
        with zipfile.ZipFile(path) as archive:
            _refuse_bomb(archive)
            yield _read_workbook(archive)
    except Malformed as error:
        raise _damaged(path, str(error)) from None
    except (
        zipfile.BadZipFile,
        zlib.error,
        struct.error,
        EOFError,
        LookupError,
        ValueError,
        OverflowError,
        NotImplementedError,  # of zipfile, about compression that it cannot undo
        RuntimeError,  # of zipfile, about passwords
    ) as error:
        raise _damaged(path, str(error) or type(error).__name__) from None


def _refuse_bomb(archive: zipfile.ZipFile) -> None:
    """Each part may be below its bound, and all of them together beyond every measure."""
    entries = archive.infolist()
    unpacked = sum(entry.file_size for entry in entries)
    packed = sum(entry.compress_size for entry in entries)
    if unpacked > max(2 * _BOMB_BYTES, _BOMB_RATIO * packed):
        raise Malformed(
            f"it would unpack to {unpacked >> 20} MB, over {_BOMB_RATIO} times its size"
        )


def _damaged(path: Path, what: str) -> Refused:
    return Refused(
        f"{path}: the file is not readable as a workbook ({what.splitlines()[0].rstrip('.')}). "
        "Open it in Excel or LibreOffice and save it again, or copy it again from its source."
    )


def _directory_bytes(path: Path) -> int:
    """How long the zip's directory is, which zipfile would read whole."""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - (1 << 16) - 22))
        tail = file.read()
        end = tail.rfind(b"PK\5\6")
        (size,) = struct.unpack_from("<L", tail.ljust(end + 22), end + 12) if end >= 0 else (0,)
        locator = tail[end - 20 : end] if end >= 20 else b""
        if locator.startswith(b"PK\6\7"):
            file.seek(min(struct.unpack_from("<Q", locator, 8)[0], path.stat().st_size))
            (size,) = struct.unpack_from("<Q", file.read(56).ljust(56), 40)
    return int(size)


def _read_workbook(archive: zipfile.ZipFile) -> Workbook:
    names = _names(archive)
    if len(names) != len(archive.infolist()):
        raise Malformed("one of its parts is there twice")
    main = names.get("xl/workbook.xml")
    for link in _links(archive, names, ""):
        main = link.part if link.kind == "officeDocument" else main
    if main is None:
        raise Malformed("it has no xl/workbook.xml. If it is of another kind, save it as .xlsx")
    related = {link.id: link for link in _links(archive, names, main)}
    listed = _WorkbookTarget()
    _read_part(archive, main, listed)
    workbook = Workbook(archive, main, from_1904=listed.from_1904, recalculates=listed.recalculates)
    for name, id_, visible in listed.sheets:
        link = related.get(id_, Link("", None, "", ""))
        if link.kind == "worksheet" and link.part is not None:
            workbook.sheets.append(SheetEntry(name, link.part, visible))
    parts = {link.kind: link.part for link in related.values()}
    workbook.texts_part = parts.get("sharedStrings")
    if "styles" in parts:
        found = parts["styles"]
        if found is None:  # dates would be numbers
            raise Malformed("its styles are missing")
        styles = _StylesTarget()
        _read_part(archive, found, styles)
        workbook.styles = styles.found()
    return workbook


def _names(archive: zipfile.ZipFile) -> dict[str, str]:
    """The name of each part by its name in small letters: case does not count (OPC, 6.2.2.3)."""
    return {entry.filename.lower(): entry.filename for entry in archive.infolist()}


def _links(archive: zipfile.ZipFile, names: dict[str, str], part: str) -> Iterator[Link]:
    """The relationships of a part. The part "" is the file itself."""
    folder, base = posixpath.split(part)
    listing = names.get(posixpath.join(folder, "_rels", f"{base}.rels").lower())
    if listing is None:
        return
    target = _RelationsTarget()
    _read_part(archive, listing, target)
    for kind, link, id_ in target.found:
        joined = posixpath.normpath(posixpath.join("/", folder, link.replace("\\", "/")))
        found = names.get(joined.lstrip("/").lower())
        yield Link(kind.rpartition("/")[2], found, id_, kind)


def _read_part(archive: zipfile.ZipFile, part: str, target: XmlTarget) -> None:
    _refuse_large(archive, part)
    with _open_part(archive, part) as source:
        for _ in stream(source, target):
            pass


def _refuse_large(archive: zipfile.ZipFile, part: str) -> None:
    if archive.getinfo(part).file_size > _MAX_SMALL_PART_BYTES:
        raise Malformed(f"{part} is over 32 MB")


def _open_part(archive: zipfile.ZipFile, part: str) -> IO[bytes]:
    entry = archive.getinfo(part)
    if entry.file_size > max(_BOMB_BYTES, _BOMB_RATIO * entry.compress_size):
        raise Malformed(
            f"{part} would unpack to {entry.file_size >> 20} MB, over {_BOMB_RATIO} times its size"
        )
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise Malformed(f"{part} is compressed in a way that no spreadsheet uses")
    return archive.open(entry)


class _RelationsTarget:
    def __init__(self) -> None:
        self.found: list[tuple[str, str, str]] = []
        self._foreign = Foreign()

    def start(self, name: str, attributes: dict[str, str]) -> None:
        self._foreign.add(0)
        if name.rpartition(":")[2] == "Relationship":
            kind, link = attributes.get("Type", ""), attributes.get("Target", "")
            self.found.append((kind, link, attributes.get("Id", "")))

    def end(self, name: str) -> None:
        pass

    def text(self, text: str) -> None:
        pass


class _WorkbookTarget:
    def __init__(self) -> None:
        self.sheets: list[tuple[str, str, bool]] = []
        self.from_1904 = self.recalculates = False
        self._foreign = Foreign()

    def start(self, name: str, attributes: dict[str, str]) -> None:
        self._foreign.add(0)
        name = name.rpartition(":")[2]
        if name == "sheet":
            links = [value for key, value in attributes.items() if key.endswith(":id")]
            visible = attributes.get("state", "visible") == "visible"
            self.sheets.append((attributes.get("name", ""), (links or [""])[0], visible))
        elif name == "workbookPr":
            self.from_1904 |= attributes.get("date1904") in ("1", "true")
        elif name == "calcPr":
            self.recalculates |= attributes.get("fullCalcOnLoad") in ("1", "true")

    def end(self, name: str) -> None:
        pass

    def text(self, text: str) -> None:
        pass


class _StylesTarget:
    def __init__(self) -> None:
        self._formats: dict[str, str] = {}
        self._cells: list[str] = []
        self._in_cells = False
        self._foreign = Foreign()

    def start(self, name: str, attributes: dict[str, str]) -> None:
        self._foreign.add(0)
        name = name.rpartition(":")[2]
        if name == "numFmt":
            self._formats[attributes.get("numFmtId", "")] = attributes.get("formatCode", "")
        elif name == "cellXfs":
            self._in_cells = True
        elif name == "xf" and self._in_cells:
            self._cells.append(attributes.get("numFmtId", "0"))

    def end(self, name: str) -> None:
        if name.rpartition(":")[2] == "cellXfs":
            self._in_cells = False

    def text(self, text: str) -> None:
        pass

    def found(self) -> list[Style]:
        """One style for each number that a cell may name."""
        known = {id_: self._style(id_) for id_ in set(self._cells)}
        return [known[id_] for id_ in self._cells]

    def _style(self, format_id: str) -> Style:
        code = self._formats.get(format_id)
        if code is None:
            return Style("", int(format_id) if format_id.isdecimal() else None)
        return Style(code)
