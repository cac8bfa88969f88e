"""XML of unknown origin, read as a stream: no part of it is ever in memory as a whole.

Office documents have no DTD, so one is refused before its entities can grow. expat hands text over
in pieces but holds a tag until it ends, so the length of a tag is bounded as well.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol
from xml.parsers import expat

CHUNK_BYTES = 1 << 20
MAX_TAG_BYTES = 8 << 20
MAX_FOREIGN = 300_000
_FOREIGN_BESIDE_KNOWN = 20


class Malformed(Exception):
    """The part is not what its kind of document may hold; the message says why."""


class XmlTarget(Protocol):
    """What sees the tags and texts of one part, names as they are written."""

    def start(self, name: str, attributes: dict[str, str], /) -> None: ...

    def end(self, name: str, /) -> None: ...

    def text(self, text: str, /) -> None: ...


class Foreign:
    """Counts the elements that a target does not know: a flood of them is an attack.

    It bounds the depth too: a target refuses known elements within themselves.
    """

    def __init__(self) -> None:
        self.seen = 0

    def add(self, known: int) -> None:
        """Counts one more; `known` is the number of elements that mean something."""
        self.seen += 1
        if self.seen > MAX_FOREIGN + _FOREIGN_BESIDE_KNOWN * known:
            raise Malformed("it is full of elements that mean nothing in a sheet")


class Readable(Protocol):
    """Bytes that can be read piece by piece."""

    def read(self, size: int, /) -> bytes: ...


def stream(
    source: Readable,
    target: XmlTarget,
    on_parser: Callable[[expat.XMLParserType], None] | None = None,
) -> Iterator[None]:
    """Feeds `source` to `target`, and comes back after each megabyte.

    `on_parser` gets the parser before the first byte, for a target that needs the place of a tag in
    the bytes, or fewer events.

    Raises:
        Malformed: when it is no XML, has a DTD or a tag of over 8 MB, or the target says so.
    """
    parser = expat.ParserCreate()
    parser.buffer_text = True
    parser.buffer_size = 1 << 16
    parser.StartElementHandler = target.start
    parser.EndElementHandler = target.end
    parser.CharacterDataHandler = target.text
    parser.StartDoctypeDeclHandler = _refuse_doctype
    if on_parser is not None:
        on_parser(parser)
    fed = 0
    try:
        while chunk := source.read(CHUNK_BYTES):
            parser.Parse(chunk, False)
            fed += len(chunk)
            if fed - parser.CurrentByteIndex > MAX_TAG_BYTES:
                raise Malformed("one tag is over 8 MB long")
            yield
        parser.Parse(b"", True)
    except expat.ExpatError as error:
        raise Malformed(f"it is not well-formed XML: {error}") from None
    yield


def prefix_of(root: str) -> str:
    """The namespace prefix of a document, from its first element: `x:` of `x:worksheet`."""
    before, colon, _ = root.rpartition(":")
    return before + colon


def _refuse_doctype(*_: object) -> None:
    raise Malformed("it has a DTD, which no workbook has")
