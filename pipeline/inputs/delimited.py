"""CSV and TSV, by the standard library's reader in its strict mode.

It is slower than pyarrow's, which drops blank lines of one-column files, swallows the rest of the
file after an unterminated quote, and cannot tell the line of an error.
"""

from __future__ import annotations

import codecs
import contextlib
import csv
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from pipeline.errors import Refused
from pipeline.inputs.table import BATCH_ROWS, Batch, Table
from pipeline.spec import JobSpec

_BOMS = (
    (b"\xef\xbb\xbf", "utf-8-sig"),
    (b"\xff\xfe", "utf-16"),
    (b"\xfe\xff", "utf-16"),
)

_Line = tuple[int, list[str]]


def open_delimited(spec: JobSpec) -> Table:
    """A text table: UTF-8 unless a byte order mark or `encoding:` says otherwise."""
    path = spec.input
    encoding = spec.encoding or _encoding_by_mark(path)
    if spec.encoding:
        _refuse_utf8_called_otherwise(spec)
    dialect = _dialect(path, encoding)
    lines = _lines(path, encoding, dialect)
    _, header = next(lines, (1, []))
    if not header:
        raise Refused(f"{path}: the file is empty. Nothing was sent.")
    width = len(header)

    def batches() -> Iterator[Batch]:
        rows: list[list[str]] = []
        places: list[int] = []
        for line, row in lines:
            if not any(row):
                row = [""] * width  # a blank line, or one of separators alone
            if len(row) != width:
                raise Refused(
                    f"{path} line {line}: {len(row)} cells where the header has {width}. "
                    "Is a separator or a quote missing? Nothing was sent."
                )
            rows.append(row)
            places.append(line)
            if len(rows) == BATCH_ROWS:
                yield _batch(rows, places)
                rows, places = [], []
        if rows:
            yield _batch(rows, places)

    return Table(path, tuple(header), "line", batches, dialect.delimiter)


def _batch(rows: list[list[str]], places: list[int]) -> Batch:
    return Batch([list(column) for column in zip(*rows, strict=True)], places)


@dataclass(frozen=True, slots=True)
class _Dialect:
    """What separates cells, and how many lines stand before the header."""

    delimiter: str
    before_header: int = 0


def _dialect(path: Path, encoding: str) -> _Dialect:
    with _open(path, encoding) as file, _refusing_undecodable(path, encoding):
        first = file.readline()
    if first.lower().startswith("sep=") and len(first.rstrip("\r\n")) == 5:
        return _Dialect(first[4], before_header=1)
    return _Dialect("\t" if path.suffix.lower() == ".tsv" else _delimiter_of(first))


def _lines(path: Path, encoding: str, dialect: _Dialect) -> Iterator[_Line]:
    """(line on which it begins, cells) of every record, the header first."""
    csv.field_size_limit(sys.maxsize)
    with _open(path, encoding) as file, _refusing_undecodable(path, encoding):
        for _ in range(dialect.before_header):
            file.readline()
        begins = start = 1 + dialect.before_header
        try:
            reader = csv.reader(file, delimiter=dialect.delimiter, strict=True)
            for row in reader:
                if any("\0" in cell for cell in row):
                    raise Refused(
                        f"{path} line {start}: a NUL byte. If the file is UTF-16, say "
                        "`encoding: utf-16-le` in the spec. Nothing was sent."
                    )
                yield start, row
                start = begins + reader.line_num
        except csv.Error as error:
            raise Refused(
                f"{path} line {start}: not readable as CSV ({error}). "
                "The quotes of the row that begins there do not match. Nothing was sent."
            ) from None


@contextlib.contextmanager
def _refusing_undecodable(path: Path, encoding: str) -> Iterator[None]:
    try:
        yield
    except UnicodeError:
        raise Refused(
            f"{path} line {_undecodable_line(path, encoding)}: not {encoding} text. "
            "Save the file as UTF-8, or name its `encoding:` in the spec (cp1252 for "
            "western Excel, gbk, …). Nothing was sent."
        ) from None


def _refuse_utf8_called_otherwise(spec: JobSpec) -> None:
    """A sheet that was saved anew as UTF-8 would be sent, and paid for, as gibberish.

    Text of another encoding that has letters beyond ASCII is practically never valid UTF-8.
    """
    assert spec.encoding is not None
    try:
        if codecs.lookup(spec.encoding).name.startswith(("utf", "ascii")):
            return
    except LookupError:
        return  # refused with a hint when the file is opened
    decoder = codecs.getincrementaldecoder("utf-8")()
    beyond_ascii = False
    with spec.input.open("rb") as file:
        try:
            while block := file.read(1 << 20):
                beyond_ascii |= not block.isascii()
                decoder.decode(block)
            decoder.decode(b"", final=True)
        except UnicodeDecodeError:
            return
    if beyond_ascii:
        raise Refused(
            f"{spec.at('encoding')}: `encoding: {spec.encoding}`, but {spec.input.name} is UTF-8 "
            "text. Remove the line. Nothing was sent."
        )


def _delimiter_of(header: str) -> str:
    """A comma, unless the header has none and has the `;` or tab of other spreadsheets."""
    if "," in header:
        return ","
    return next((mark for mark in ";\t" if mark in header), ",")


def _open(path: Path, encoding: str) -> TextIO:
    try:
        return path.open(encoding=encoding, newline="")
    except LookupError:
        raise Refused(
            f"{path}: `encoding: {encoding}` is not known. Try utf-8, utf-16, cp1252 or gbk. "
            "Nothing was sent."
        ) from None


def _encoding_by_mark(path: Path) -> str:
    with path.open("rb") as file:
        head = file.read(4)
    return next((name for mark, name in _BOMS if head.startswith(mark)), "utf-8")


def _undecodable_line(path: Path, encoding: str) -> int:
    """The line of the first bytes that are not text, read again to find it."""
    line = 1
    with path.open(encoding=encoding, errors="replace", newline="") as file:
        for line, text in enumerate(file, start=1):
            if "\N{REPLACEMENT CHARACTER}" in text:
                break
    return line
