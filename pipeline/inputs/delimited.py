"""CSV and TSV, by the standard library's reader in its strict mode.

It is slower than pyarrow's, which drops blank lines of one-column files, swallows the rest of the
file after an unterminated quote, and cannot tell the line of an error.
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterator
from itertools import chain
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
    lines = _lines(path, encoding, "\t" if path.suffix.lower() == ".tsv" else None)
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

    return Table(path, tuple(header), "line", batches)


def _batch(rows: list[list[str]], places: list[int]) -> Batch:
    return Batch([list(column) for column in zip(*rows, strict=True)], places)


def _lines(path: Path, encoding: str, delimiter: str | None) -> Iterator[_Line]:
    """(line on which it begins, cells) of every record, the header first."""
    csv.field_size_limit(sys.maxsize)
    with _open(path, encoding) as file:
        try:
            first = file.readline()
            begins = 1
            if first.lower().startswith("sep=") and len(first.rstrip("\r\n")) == 5:
                delimiter = first[4]
                first = file.readline()
                begins = 2
            reader = csv.reader(
                chain([first] if first else [], file),
                delimiter=delimiter or _delimiter_of(first),
                strict=True,
            )
            start = begins
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
        except UnicodeError:
            raise Refused(
                f"{path} line {_undecodable_line(path, encoding)}: not {encoding} text. "
                "Save the file as UTF-8, or name its `encoding:` in the spec (cp1252 for "
                "western Excel, gbk, …). Nothing was sent."
            ) from None


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
