"""The texts of a workbook that its cells refer to by number, in little memory.

They go to a temporary file as they are read: a workbook may hold a gigabyte of them.
"""

from __future__ import annotations

import os
import re
from array import array
from typing import IO

from pipeline.inputs.xlsx.xml_stream import Foreign, Malformed, prefix_of, stream

_CACHED_CHARACTERS = 8 << 20
_ESCAPED = re.compile("_x([0-9A-Fa-f]{4})_")


def unescaped(text: str) -> str:
    """`text` without the `_xHHHH_` that stand for what XML cannot hold (ECMA-376 22.9.2.19).

    Half a surrogate pair stays one, and cannot be sent.
    """
    if "_x" not in text:
        return text
    text = _ESCAPED.sub(lambda found: chr(int(found[1], 16)), text)
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")


class SharedTexts:
    """Shared texts by number: read from `source` as far as they are asked for, kept in `file`.

    Numbers are taken as they are written, because most cells ask for what was asked for before.
    """

    def __init__(self, source: IO[bytes] | None, file: IO[bytes]) -> None:
        self._progress = stream(source, _TextsTarget(self)) if source else iter(())
        self._file = file
        self._ends = array("Q", [0])
        self._flushed = 0
        self._cached: dict[str, str] = {}
        self._cached_characters = 0

    def __getitem__(self, written: str) -> str:
        """Raises IndexError where there is no such text."""
        text = self._cached.get(written)
        return self._looked_up(written) if text is None else text

    def append(self, text: str) -> None:
        stored = text.encode("utf-8", "surrogatepass")
        self._file.write(stored)
        self._ends.append(self._ends[-1] + len(stored))
        self._cache(str(len(self._ends) - 2), text)

    def _looked_up(self, written: str) -> str:
        if not (written.isascii() and written.isdigit() and len(written) < 10):
            raise IndexError(written)
        number = int(written)
        while number >= len(self._ends) - 1:
            if next(self._progress, self) is self:
                raise IndexError(written)
        begin, end = self._ends[number], self._ends[number + 1]
        if end > self._flushed:
            self._file.flush()
            self._flushed = self._ends[-1]
        stored = os.pread(self._file.fileno(), end - begin, begin)
        text = stored.decode("utf-8", "surrogatepass")
        self._cache(written, text)
        return text

    def _cache(self, written: str, text: str) -> None:
        self._cached_characters += len(text) + 100  # the size of an object without its text
        if self._cached_characters > _CACHED_CHARACTERS:
            self._cached.clear()
            self._cached_characters = len(text)
        self._cached[written] = text


class _TextsTarget:
    """Joins rich text. Leaves out the phonetic readings that Japanese Excel adds."""

    def __init__(self, texts: SharedTexts) -> None:
        self._texts = texts
        self._foreign = Foreign()
        self._prefix: str | None = None
        self._known = 0
        self._pieces: list[str] | None = None
        self._in_text = self._in_reading = False

    def start(self, name: str, attributes: dict[str, str]) -> None:
        if self._prefix is None:
            self._prefix = prefix_of(name)
        name = name.removeprefix(self._prefix)
        if name == "si":
            if self._pieces is not None:
                raise Malformed("a shared text within another")
            self._pieces = []
            self._known += 1
        elif name == "t" and self._pieces is not None and not self._in_text:
            self._in_text = not self._in_reading
            self._known += 1
        else:
            self._in_reading |= name == "rPh"
            self._foreign.add(self._known)

    def end(self, name: str) -> None:
        name = name.removeprefix(self._prefix or "")
        if name == "t":
            self._in_text = False
        elif name == "rPh":
            self._in_reading = False
        elif name == "si" and self._pieces is not None:
            self._texts.append(unescaped("".join(self._pieces)))
            self._pieces = None

    def text(self, text: str) -> None:
        if self._in_text and self._pieces is not None:
            self._pieces.append(text)
