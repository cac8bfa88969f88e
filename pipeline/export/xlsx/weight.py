"""Estimates the memory and time that a copy of a workbook would take, before making it.

openpyxl makes an object of half a kilobyte for each cell, blank ones too, and for each cell of a
range that is merged, linked or a table. A megabyte of zip can contain a billion of them. So this
counts the parts first, as a stream.
"""

from __future__ import annotations

import re
from pathlib import Path
from zipfile import ZipFile

from pipeline.core.errors import NothingWritten
from pipeline.inputs.xlsx.xml_stream import Malformed, stream

# Up to this number a workbook is always copied. They take 200 MB.
_MANY_OBJECTS = 300_000
# A larger file may have more: a cell with its own value takes about this many bytes in the file.
_BYTES_OF_AN_OBJECT = 4
# Characters of shared formulas, which openpyxl parses again for each cell that shares them.
_MANY_CHARACTERS = 3_000_000
_CHARACTERS_PER_BYTE = 20
# The longest format, header or footer, and the longest formula, that Excel accepts.
_MAX_FORMAT = 255
_MAX_TEXT = 8192
_STYLE_WEIGHT = 5

_IN_CELLS = frozenset(("v", "f", "is", "t"))
_ALL_OF_A_RANGE = frozenset(("mergeCell", "hyperlink", "comment", "table"))
_CORNER = re.compile(r"\$?([A-Za-z]{1,3})\$?([0-9]{1,7})")


def refuse_heavy(path: Path) -> None:
    """Refuses a workbook whose copy would take memory or time out of proportion to its size.

    Raises:
        Refused: with what to do.
    """
    size = path.stat().st_size
    weight = _Weight(
        max(_MANY_OBJECTS, size // _BYTES_OF_AN_OBJECT),
        max(_MANY_CHARACTERS, size * _CHARACTERS_PER_BYTE),
    )
    try:
        with ZipFile(path) as archive:
            for part in archive.namelist():
                weight.begin(styles="styles" in part.lower())
                try:
                    with archive.open(part) as source:
                        for _ in stream(source, weight):
                            pass
                except Malformed as error:
                    if "not well-formed" not in str(error):  # a picture is not XML
                        raise
    except Malformed as error:
        raise NothingWritten(
            f"{path}: the workbook is too large to copy ({error}). Clear the cells that are empty "
            "but formatted or merged, or export to .csv."
        ) from None


class _Weight:
    """Counts the objects and the characters of formulas, part by part."""

    def __init__(self, most_objects: int, most_characters: int) -> None:
        self._most_objects = most_objects
        self._most_characters = most_characters
        self._objects = self._characters = 0
        self._styles = False
        self._shared: dict[str, int] = {}
        self._names: list[str] = []
        self._sharing: str | None = None
        self._text = 0

    def begin(self, *, styles: bool) -> None:
        """Starts the next part of the file."""
        self._styles = styles
        self._shared = {}
        self._names = []

    def start(self, name: str, attributes: dict[str, str]) -> None:
        name = name.rpartition(":")[2]
        self._names.append(name)
        self._text = 0
        if name in _IN_CELLS:
            if name == "f":
                self._sharing = attributes.get("si")
                if self._sharing is not None:
                    self._characters += self._shared.get(self._sharing, 0)
        else:
            objects = _STYLE_WEIGHT if self._styles else 1
            if name != "c":
                for key, value in attributes.items():
                    if key in ("ref", "sqref"):
                        objects += value.count(" ")
                        if name in _ALL_OF_A_RANGE:
                            objects += _area(value)
                    elif len(value) > _MAX_FORMAT:
                        self._refuse_long(len(value), _MAX_FORMAT if key == "formatCode" else None)
                        objects += len(value) // 4
            self._objects += objects
        if self._objects > self._most_objects:
            raise Malformed(f"over {self._most_objects:,} cells and other parts")
        if self._characters > self._most_characters:
            raise Malformed(f"over {self._most_characters:,} characters of shared formulas")

    def end(self, name: str) -> None:
        name = self._names.pop()
        if name == "f" and self._sharing is not None:
            if self._text:
                self._shared[self._sharing] = self._text
            self._sharing = None
        self._text = 0

    def text(self, text: str) -> None:
        self._text += len(text)
        if self._text > _MAX_FORMAT and self._names and self._names[-1] not in ("v", "t"):
            footer = self._names[-1].endswith(("Header", "Footer"))
            self._refuse_long(self._text, _MAX_FORMAT if footer else None)
            self._objects += len(text) // 4

    def _refuse_long(self, length: int, most: int | None) -> None:
        if length > (most or _MAX_TEXT):
            raise Malformed(f"a format, formula or name of over {most or _MAX_TEXT:,} characters")


def _area(ref: str) -> int:
    """The number of cells in a range; 1 for a text that is not a range."""
    corners = [_CORNER.fullmatch(corner) for corner in ref.split(":")]
    ends = [(_number(corner[1]), int(corner[2])) for corner in corners if corner]
    if len(ends) != 2:
        return 1
    (left, top), (right, bottom) = ends
    return (abs(right - left) + 1) * (abs(bottom - top) + 1)


def _number(letters: str) -> int:
    number = 0
    for letter in letters.upper():
        number = number * 26 + ord(letter) - 64
    return number
