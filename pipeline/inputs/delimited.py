"""Reads CSV and TSV with the standard library's reader in its strict mode.

It is slower than pyarrow's reader. But pyarrow drops blank lines of one-column files, reads the
rest of the file as one cell after an unterminated quote, and cannot tell the line of an error.
"""

from __future__ import annotations

import codecs
import contextlib
import csv
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from pipeline.core.errors import Refused
from pipeline.core.wording import counted
from pipeline.inputs.table import MAX_CELL_CHARACTERS, BlankRows, Table, batched, refuse_too_wide
from pipeline.job.spec import JobSpec

# Without this limit, a quote that is never closed would turn the rest of the file into one cell.
_MAX_RECORD_CHARACTERS = 2 * MAX_CELL_CHARACTERS
_DELIMITERS = ",;\t"
_DELIMITER_NAMES = {",": "comma", ";": "semicolon", "\t": "tab"}
_BLANK_LINES = frozenset(("\n", "\r\n", "\r"))
_ROWS_TRIED = 100
_MISSING = "Is a separator or a quote missing?"
_TITLE = "If the first line is a title, remove it. Otherwise, is a separator or a quote missing?"
_BOMS = (
    (b"\xff\xfe\x00\x00", "utf-32"),
    (b"\x00\x00\xfe\xff", "utf-32"),
    (b"\xef\xbb\xbf", "utf-8-sig"),
    (b"\xff\xfe", "utf-16"),
    (b"\xfe\xff", "utf-16"),
)

_Line = tuple[int, list[str]]
# Consecutive blank lines are one record without cells.
_Record = tuple[int, int, list[str]]


def open_delimited(spec: JobSpec) -> Table:
    """Opens a text table. It is UTF-8 unless a byte order mark or `encoding:` says otherwise."""
    path = spec.input
    encoding = _encoding(spec)
    dialect = _dialect(path, encoding)
    lines = _lines(path, encoding, dialect)
    *_, header = next(lines, (0, 0, None))
    if header is None:
        raise Refused(f"{path}: the file is empty. Write the column names and the rows into it.")
    if not header:
        raise Refused(
            f"{path} line {1 + dialect.before_header}: this line is blank, but the column names "
            "belong here. Remove the blank line."
        )
    refuse_too_wide(path, header)
    width = len(header)

    def rows() -> Iterator[_Line]:
        blank = BlankRows(path, "line")
        for line, stop, row in lines:
            if not any(row):  # blank lines, or a line with only separators
                blank.hold(line, stop)
                continue
            for before in blank.before(1, line):
                yield before, [""] * width
            if len(row) != width:
                raise Refused(
                    f"{path} line {line}: this row has {counted(len(row), 'cell')}, but the header "
                    f"has {width}. {_MISSING if width > 1 else _TITLE}"
                )
            yield line, row

    return Table(path, tuple(header), "line", lambda: batched(rows(), width), dialect.delimiter)


@dataclass(frozen=True, slots=True)
class _Dialect:
    """The delimiter of the cells, and how many lines come before the header."""

    delimiter: str
    before_header: int = 0


def _dialect(path: Path, encoding: str) -> _Dialect:
    with _open(path, encoding) as file, _refusing_undecodable(path, encoding):
        first = file.readline(MAX_CELL_CHARACTERS)
    if first.lower().startswith("sep=") and len(first.rstrip("\r\n")) == 5:
        return _Dialect(first[4], before_header=1)
    if path.suffix.lower() == ".tsv":
        return _Dialect("\t")
    return _Dialect(_delimiter_of(path, encoding, [mark for mark in _DELIMITERS if mark in first]))


def _delimiter_of(path: Path, encoding: str, present: list[str]) -> str:
    """Returns the only delimiter in `present`. Of several, it is the only one that splits the first
    rows into the same number of columns."""
    if len(present) < 2:
        return present[0] if present else ","
    widths = {mark: _widths(path, encoding, mark) for mark in present}
    fitting = [mark for mark in present if len(widths[mark]) == 1 and max(widths[mark]) > 1]
    if len(fitting) == 1:
        return fitting[0]
    if not fitting:  # the wrong row is refused with its line when the rows are read
        return max(present, key=lambda mark: max(widths[mark], default=0))
    names = " and ".join(_DELIMITER_NAMES[mark] for mark in fitting)
    raise Refused(
        f"{path} line 1: {names} both split the first rows into columns. To choose one, add a "
        "line such as sep=; above the header, or put names that contain the other one in quotes."
    )


def _widths(path: Path, encoding: str, delimiter: str) -> set[int]:
    """Returns the different numbers of cells in the first rows. Empty if they are not readable with
    this delimiter."""
    widths = set()
    try:
        for *_, row in itertools.islice(_lines(path, encoding, _Dialect(delimiter)), _ROWS_TRIED):
            if any(row):
                widths.add(len(row))
    except Refused:
        return set()
    return widths


def _lines(path: Path, encoding: str, dialect: _Dialect) -> Iterator[_Record]:
    """Yields (first line, first line after it, cells) of each record, the header first. The second
    number counts a record of several lines as one line; for blank lines it is exact."""
    csv.field_size_limit(MAX_CELL_CHARACTERS)
    with _open(path, encoding) as file, _refusing_undecodable(path, encoding):
        for _ in range(dialect.before_header):
            file.readline()
        start = 1 + dialect.before_header
        source = _Bounded(file, start)
        try:
            reader = csv.reader(source, delimiter=dialect.delimiter, strict=True)
            for row in reader:
                if source.has_nul and any("\0" in cell for cell in row):
                    raise Refused(
                        f"{path} line {start + source.blank}: this row contains a NUL byte. Remove "
                        "it. If the file is UTF-16, add `encoding: utf-16-le` to the job file."
                    )
                if source.blank:
                    yield start, start + source.blank, []
                    start += source.blank
                yield start, start + 1, row
                start = source.begin_record()
            if source.blank:
                yield start, start + source.blank, []
        except csv.Error as error:
            raise Refused(
                f"{path} line {start + source.blank}: the row that begins here is not valid CSV "
                f"({error}). Check its quotes: one is missing, or one is too many."
            ) from None


class _Bounded:
    """The lines of `file` from number `line` on, for a reader of records. It raises csv.Error for a
    record that does not end, and only counts the blank lines before a record."""

    def __init__(self, file: TextIO, line: int) -> None:
        self._readline = file.readline
        self._line = line
        self._characters = 0
        self.blank = 0
        self.has_nul = False

    def __iter__(self) -> _Bounded:
        return self

    def __next__(self) -> str:
        line = self._readline(_MAX_RECORD_CHARACTERS)
        if not self._characters:
            blank = 0
            while line in _BLANK_LINES:
                blank += 1
                line = self._readline(_MAX_RECORD_CHARACTERS)
            self.blank = blank
            self._line += blank
        if not line:
            raise StopIteration
        self._line += 1
        self._characters += len(line)
        if self._characters >= _MAX_RECORD_CHARACTERS:
            raise csv.Error("the row has over 64 million characters")
        if "\0" in line:
            self.has_nul = True
        return line

    def begin_record(self) -> int:
        """Begins the next record. Returns the line on which it begins."""
        self._characters = self.blank = 0
        self.has_nul = False
        return self._line


@contextlib.contextmanager
def _refusing_undecodable(path: Path, encoding: str) -> Iterator[None]:
    try:
        yield
    except UnicodeError:
        raise Refused(
            f"{path} line {_undecodable_line(path, encoding)}: this line is not {encoding} text. "
            "Save the file as UTF-8, or set its `encoding:` in the job file (cp1252 for "
            "Western Excel, gbk for Chinese Excel, …)."
        ) from None


def _refuse_utf8_called_otherwise(spec: JobSpec) -> None:
    """Refuses UTF-8 text for which the spec names another encoding.

    If the user saved the sheet again as UTF-8, the old `encoding:` would turn it into gibberish
    that is sent and paid for. Text of another encoding with letters beyond ASCII is practically
    never valid UTF-8.
    """
    assert spec.encoding is not None
    if _codec(spec.encoding).startswith(("utf", "ascii")) or not _codec(spec.encoding):
        return
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
            f"{spec.at('encoding')}: the job says `encoding: {spec.encoding}`, but "
            f"{spec.input.name} is UTF-8 text. Leave `encoding:` out."
        )


def _open(path: Path, encoding: str) -> TextIO:
    try:
        return path.open(encoding=encoding, newline="")
    except (LookupError, ValueError):
        raise Refused(
            f"{path}: there is no encoding `{encoding}`. Set `encoding:` in the job file to one "
            "that exists, such as utf-8, utf-16, cp1252 or gbk."
        ) from None


def _encoding(spec: JobSpec) -> str:
    """Returns the encoding that the byte order mark names, or else the spec's, or else UTF-8. A
    mark is not part of the text."""
    with spec.input.open("rb") as file:
        head = file.read(4)
    marked = next((name for mark, name in _BOMS if head.startswith(mark)), None)
    if spec.encoding is None or marked == "utf-8-sig":
        if spec.encoding:
            _refuse_utf8_called_otherwise(spec)
        return marked or "utf-8"
    if marked and _codec(spec.encoding).startswith("utf"):
        return marked
    if marked:
        raise Refused(
            f"{spec.at('encoding')}: the job says `encoding: {spec.encoding}`, but "
            f"{spec.input.name} begins with the byte order mark of {marked.upper()}. Leave "
            "`encoding:` out."
        )
    _refuse_utf8_called_otherwise(spec)
    return spec.encoding


def _codec(encoding: str) -> str:
    try:
        return codecs.lookup(encoding).name
    except (LookupError, ValueError):
        return ""  # the encoding is refused with a hint when the file is opened


def _undecodable_line(path: Path, encoding: str) -> int:
    """Returns the line of the first bytes that are not text. Reads the file again to find it."""
    line = 1
    with (
        contextlib.suppress(UnicodeError),  # some codecs have no character to replace an error
        path.open(encoding=encoding, errors="replace", newline="") as file,
    ):
        for line, text in enumerate(file, start=1):
            if "\N{REPLACEMENT CHARACTER}" in text:
                break
    return line
