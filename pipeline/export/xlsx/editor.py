"""Changes a few places of an XML part and copies every other byte as it is.

A library that reads a workbook and writes it again loses what it does not know: pictures, macros,
sparklines, the exact digits of a number. Here a part is parsed only to find places in its bytes.
"""

from __future__ import annotations

import codecs
import io
import re
from collections.abc import Callable, Mapping
from typing import IO, Protocol
from xml.parsers.expat import XMLParserType

from pipeline.export.xlsx.markup import quoteattr
from pipeline.inputs.xlsx.xml_stream import Foreign, Readable, prefix_of, stream

_ATTRIBUTES = rb"""(?:\s+[^\s=]+\s*=\s*(?:"[^"]*"|'[^']*'))*"""
_START_TAG = re.compile(rb"<[^\s/>]+" + _ATTRIBUTES + rb"\s*/?>")
_DECLARED = re.compile(r"(<\?xml[^>]*?)\s+encoding\s*=\s*(?:\"[^\"]*\"|'[^']*')")
_UTF_16 = {
    b"\xff\xfe": "utf-16",
    b"\xfe\xff": "utf-16",
    b"<\0": "utf-16-le",
    b"\0<": "utf-16-be",
}


class Target(Protocol):
    """Sees the tags of one part, names without their prefix, and asks the editor for changes."""

    def start(self, name: str, attributes: dict[str, str], /) -> None: ...

    def end(self, name: str, /) -> None: ...


class Editor:
    """One part on its way from `source` to `out`. `target` decides about changes while it sees the
    tags go by.

    `prefix` is the namespace prefix of the root element (`x:` of `x:worksheet`), and `namespace`
    its namespace. Bytes from `hold` on stay in memory, for a change that is not known yet.
    """

    def __init__(self, source: IO[bytes], out: IO[bytes]) -> None:
        self.prefix = ""
        self.namespace = ""
        self.hold: int | None = None
        self._source: Readable = _as_utf_8(source)
        self._out = out
        self._kept = bytearray()
        self._base = 0
        self._changes: list[tuple[int, int, bytes]] = []
        self._encoding = "utf-8"
        self._parser: XMLParserType | None = None
        self._target: Target | None = None

    def run(self, target: Target) -> None:
        """Copies the whole part.

        Raises:
            Malformed: if the part is not XML, or `target` says so.
        """
        self._target = target
        for _ in stream(self, self, self._begin):
            self._flush()
        self._flush(self._base + len(self._kept))

    @property
    def place(self) -> int:
        """Where the tag begins that the target sees now. An empty tag ends where it also says."""
        assert self._parser is not None
        return self._parser.CurrentByteIndex

    def tag_at(self, place: int) -> bytes:
        """Returns the start tag that begins at `place`."""
        found = _START_TAG.match(self._kept, place - self._base)
        assert found is not None
        return found[0]

    def end_of_tag(self, place: int, closed: bool) -> int:
        """Returns where an element ends whose end the target sees at `place`. `closed`: it has only
        one tag."""
        return place if closed else self._base + self._kept.index(b">", place - self._base) + 1

    def replace(self, begin: int, end: int, content: bytes) -> None:
        """Writes `content` in place of the bytes from `begin` to before `end`. Changes must come in
        the order of their places."""
        self._changes.append((begin, end, content))

    def insert(self, place: int, content: bytes) -> None:
        """Writes `content` before `place`."""
        self.replace(place, place, content)

    def encoded(self, markup: str) -> bytes:
        """Returns `markup` in the encoding of the part."""
        return markup.encode(self._encoding, "xmlcharrefreplace")

    def read(self, size: int) -> bytes:
        chunk = self._source.read(size)
        self._kept += chunk
        return chunk

    def start(self, name: str, attributes: dict[str, str]) -> None:
        assert self._target is not None
        if not self.namespace:
            self.prefix = prefix_of(name)
            colon = f":{self.prefix[:-1]}" if self.prefix else ""
            self.namespace = attributes.get(f"xmlns{colon}", "-")
            if not self.prefix and self._parser is not None:  # a sheet has millions of cells
                self._parser.StartElementHandler = self._target.start
                self._parser.EndElementHandler = self._target.end
        self._target.start(name.removeprefix(self.prefix), attributes)

    def end(self, name: str) -> None:
        assert self._target is not None
        self._target.end(name.removeprefix(self.prefix))

    def text(self, text: str) -> None:
        pass

    def _begin(self, parser: XMLParserType) -> None:
        def declared(version: str, encoding: str | None, standalone: int) -> None:
            if encoding and codecs.lookup(encoding).name != "utf-8":
                self._encoding = "ascii"  # valid in each 8-bit encoding that a part may have

        parser.XmlDeclHandler = declared
        parser.CharacterDataHandler = None
        self._parser = parser

    def _flush(self, until: int | None = None) -> None:
        if until is None:
            until = self.place if self.hold is None else min(self.hold, self.place)
        begin = self._base
        for first, last, content in self._changes:
            self._out.write(self._kept[begin - self._base : first - self._base])
            self._out.write(content)
            begin = last
        self._changes.clear()
        until = max(until, begin)
        self._out.write(self._kept[begin - self._base : until - self._base])
        del self._kept[: until - self._base]
        self._base = until


Markup = Callable[[str], str]
"""Returns XML for a part whose elements have the given namespace prefix."""


def edited(
    content: bytes,
    children: Mapping[str, Markup] | None = None,
    attributes: Mapping[str, Mapping[str, str]] | None = None,
    without: Callable[[dict[str, str]], bool] = lambda _: False,
) -> bytes:
    """Returns a small part with markup added to the end of the elements that `children` names, with
    other values of `attributes`, by element, and without the elements for whose attributes
    `without` is true. These must not have children.

    Raises:
        Malformed: if `content` is not XML.
    """
    out = io.BytesIO()
    editor = Editor(io.BytesIO(content), out)
    editor.run(_Changes(editor, children or {}, attributes or {}, without))
    return out.getvalue()


class _Changes:
    """The changes of `edited`."""

    def __init__(
        self,
        editor: Editor,
        children: Mapping[str, Markup],
        attributes: Mapping[str, Mapping[str, str]],
        without: Callable[[dict[str, str]], bool],
    ) -> None:
        self._editor = editor
        self._children = children
        self._attributes = attributes
        self._without = without
        self._removed: int | None = None
        self._closed = False
        self._foreign = Foreign()

    def start(self, name: str, attributes: dict[str, str]) -> None:
        self._foreign.add(0)
        if self._without(attributes):
            self._removed = self._editor.hold = self._editor.place
            self._closed = self._editor.tag_at(self._removed).endswith(b"/>")
            return
        if name not in self._children and name not in self._attributes:
            return
        place = self._editor.place
        before = after = self._editor.tag_at(place)
        for attribute, value in self._attributes.get(name, {}).items():
            after = with_attribute(after, attribute, value)
        self._closed = before.endswith(b"/>")
        if self._closed and name in self._children:
            after = after[:-2].rstrip() + b">" + self._content(name) + end_tag(before)
        if after != before:
            self._editor.replace(place, place + len(before), after)

    def end(self, name: str) -> None:
        if self._removed is not None:
            end = self._editor.end_of_tag(self._editor.place, self._closed)
            self._editor.replace(self._removed, end, b"")
            self._editor.hold = self._removed = None
        elif name in self._children and not self._closed:
            self._editor.insert(self._editor.place, self._content(name))
        self._closed = False

    def _content(self, name: str) -> bytes:
        return self._editor.encoded(self._children[name](self._editor.prefix))


def with_attribute(tag: bytes, name: str, value: str | None) -> bytes:
    """Returns a start tag with another value of an attribute, or without it if `value` is None."""
    found = re.search(rb"\s+%s\s*=\s*(?:\"[^\"]*\"|'[^']*')" % name.encode(), tag)
    said = b"" if value is None else b" %s=%s" % (name.encode(), quoteattr(value).encode())
    if found is not None:
        return tag[: found.start()] + said + tag[found.end() :]
    end = -2 if tag.endswith(b"/>") else -1
    return tag[:end].rstrip() + said + tag[end:]


def end_tag(start_tag: bytes) -> bytes:
    """Returns the end tag that belongs to a start tag."""
    name = re.match(rb"<([^\s/>]+)", start_tag)
    assert name is not None
    return b"</" + name[1] + b">"


def _as_utf_8(source: IO[bytes]) -> Readable:
    """Returns `source`, in UTF-8 if it is UTF-16: places are found in the bytes of tags."""
    head = source.read(4)
    encoding = next((name for mark, name in _UTF_16.items() if head.startswith(mark)), None)
    whole = _Behind(head, source)
    return whole if encoding is None else _Recoded(whole, encoding)


class _Behind:
    """`head`, then the rest of `source`."""

    def __init__(self, head: bytes, source: IO[bytes]) -> None:
        self._head = head
        self._source = source

    def read(self, size: int) -> bytes:
        head, self._head = self._head, b""
        return head + self._source.read(size)


class _Recoded:
    """The text of a UTF-16 part in UTF-8."""

    def __init__(self, source: Readable, encoding: str) -> None:
        self._source = source
        self._decoder = codecs.getincrementaldecoder(encoding)()
        self._first = True

    def read(self, size: int) -> bytes:
        text = ""
        while not text:
            chunk = self._source.read(size)
            text = self._decoder.decode(chunk, final=not chunk)
            if not chunk:
                break
        if self._first and text:
            text = _DECLARED.sub(r"\1", text.removeprefix("\ufeff"), count=1)
            self._first = False
        return text.encode()
