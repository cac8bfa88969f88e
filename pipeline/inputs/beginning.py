"""Takes the beginning of a text file from the copy of the last run, if it has the same text now.

A long sheet mostly grows at its end. To separate the cells of a row and to hash it takes ten times
as long as to hash its text. So the reader of a text file makes a mark about every million
characters, between two rows, and the copy of the sheet keeps the marks. The next run reads the text
as well, but before the last mark where the text is the same it takes the rows from the copy.

A run folder may come from somebody else, who could have put other rows into the copy. So the user's
cache folder has a file without content for each copy that this user made. Its name is the hash of
the copy, the release, and all settings that the rows and their keys depend on.
"""

from __future__ import annotations

import hashlib
import json
import sys
from array import array
from collections.abc import Iterator, Sequence
from itertools import chain, islice
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from pipeline.core.version import __version__
from pipeline.inputs.mapping import Variables
from pipeline.system.cache import cache_folder, knows, remember
from pipeline.system.opening import HeldFile

if TYPE_CHECKING:
    import pyarrow as pa

_MARKS = b"marks"
_FOLDER = "sheets"
_PIECES = 16
"""The least pieces of text between two marks."""


class Mark(NamedTuple):
    """A place between two rows of a text file, after so many pieces of its text. The next row
    begins on `line`. `sha256` is the hash of the text before it."""

    pieces: int
    line: int
    sha256: str


class Beginning:
    """The marks that the reader of a text file makes, and those of the last run. `settings` decide
    how it reads the text."""

    def __init__(self) -> None:
        self.marks: list[Mark] = []
        self.settings: tuple[object, ...] = ()
        self._pieces, self._digest = 0, hashlib.sha256()
        self._copy: HeldFile | None = None
        self._known: list[Mark] = []

    def remember(self, sha256: str, variables: Variables) -> None:
        """Allows later runs to take rows from the copy with this checksum, which has the marks."""
        folder = cache_folder()
        if self.marks and folder is not None:
            remember(folder / _FOLDER, self._name(sha256, variables))

    def recall(self, copy: HeldFile, variables: Variables) -> None:
        """Uses the copy of the last run if this user made it, with these variables."""
        # Imported here, because `init` reads no copies.
        import pyarrow.parquet as pq

        from pipeline.inputs.stored import sha256_of_copy

        folder = cache_folder()
        if folder and knows(folder / _FOLDER, self._name(sha256_of_copy(copy), variables)):
            with copy.open() as file:
                found = json.loads(pq.read_metadata(file).metadata[_MARKS])
            self._copy, self._known = copy, [Mark(*one) for one in found]

    def _name(self, sha256: str, variables: Variables) -> str:
        about = (sha256, variables, self.settings, __version__, sys.version)
        return hashlib.sha256(repr(about).encode(errors="surrogatepass")).hexdigest()

    def marks_before(self, line: int) -> dict[bytes, bytes]:
        """Returns the metadata of a copy whose last row begins on `line`. Rows after it that are
        blank or only look blank are not in the copy, but would be if another row followed them."""
        self.marks = [mark for mark in self.marks if mark.line <= line]
        return {_MARKS: json.dumps(self.marks).encode()}

    def add(self, text: str, line: int | None) -> None:
        """Adds a piece of the text. A row begins with it on `line`, or none does."""
        last = self.marks[-1].pieces if self.marks else 0
        if line is not None and self._pieces >= last + _PIECES:
            self.marks.append(Mark(self._pieces, line, self._digest.hexdigest()))
        self._digest.update(_bytes(text))
        self._pieces += 1

    def skip(self, pieces: Iterator[str]) -> tuple[int | None, Iterator[str]]:
        """Reads the pieces before the last mark of the last run that has the same text before it.
        Returns the line of that mark, None if there is none, and the pieces after it."""
        line, read, digest = None, 0, hashlib.sha256()
        for mark in self._known:
            ahead = list(islice(pieces, mark.pieces - read))
            before = digest.copy()
            for text in ahead:
                before.update(_bytes(text))
            if before.hexdigest() != mark.sha256:
                return line, chain(ahead, pieces)
            line, read, digest = mark.line, mark.pieces, before
            self.marks, self._pieces, self._digest = [*self.marks, mark], read, digest.copy()
        return line, pieces

    def rows(self, line: int) -> Iterator[tuple[list[Sequence[str]], Sequence[int], pa.Array]]:
        """Yields (columns, lines, keys in hex) of the rows of the copy that begin before `line`."""
        from pipeline.inputs.arrow import Texts, as_numpy
        from pipeline.inputs.stored import stored_batches

        assert self._copy is not None, "`skip` found the line in the marks of the copy"
        for _, columns, keys, *_, places in stored_batches(self._copy):
            lines = as_numpy(places)
            size = int(np.searchsorted(lines, line))
            if size:
                texts: list[Sequence[str]] = [Texts(column[:size]) for column in columns]
                yield texts, array("q", lines[:size].tobytes()), keys[:size]
            if size < len(lines):
                return


def _bytes(text: str) -> bytes:
    return text.encode(errors="surrogatepass")
