"""Reads CSV and TSV with the standard library's reader in its strict mode.

It is slower than pyarrow's reader. But pyarrow drops blank lines of one-column files, reads the
rest of the file as one cell after an unterminated quote, and cannot tell the line of an error.
"""

from __future__ import annotations

import csv
import io
import itertools
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from pipeline.core.errors import Refused
from pipeline.core.wording import counted
from pipeline.inputs.beginning import Beginning
from pipeline.inputs.disguise import refuse_disguised
from pipeline.inputs.encodings import encoding_of, open_text, refusing_undecodable
from pipeline.inputs.table import (
    BATCH_CHARACTERS,
    MAX_CELL_CHARACTERS,
    Batch,
    BlankRows,
    Table,
    batched,
    distinct_names,
    most_rows,
    refuse_too_wide,
    transposed,
)
from pipeline.inputs.unseen import DELIMITER_NAMES
from pipeline.job.spec import JobSpec

# Without this limit, a quote that is never closed would turn the rest of the file into one cell.
_MAX_RECORD_CHARACTERS = 2 * MAX_CELL_CHARACTERS
_PIECE_CHARACTERS = 1 << 16
_DELIMITERS = ",;\t"
_UNUSUAL_DELIMITERS = "|^~:"
_ROWS_TRIED = 100
_MISSING = "Is a separator or a quote missing?"
_TITLE = (
    "If there is a title above the column names, set `header_row:` to the line of the names. "
    "Otherwise, is a separator or a quote missing?"
)
_NULS = (
    "this row has a cell of NUL bytes, as a power cut leaves them in a file. Copy the file again "
    "from its source, or remove the cell."
)
# A record begins on a line. A blank line has no cells.
_Line = tuple[int, list[str]]
_Block = tuple[list[int], list[list[str]]]


def open_delimited(spec: JobSpec) -> Table:
    """Opens a text table. It is UTF-8 unless a byte order mark or `encoding:` says otherwise."""
    path = spec.file
    refuse_disguised(path)
    encoding = encoding_of(spec)
    dialect = _dialect(spec, encoding)
    beginning, whole = Beginning(), _pieces(path, encoding, dialect)
    blocks = _blocks(path, whole, dialect, beginning)
    _, [header] = next(blocks, ([], [None]))
    if header is None and spec.header_row is not None:
        raise Refused(f"{spec.at('header_row')}: {path.name} has no line {spec.header_row}.")
    if header is None:
        raise Refused(f"{path}: the file is empty. Write the column names and the rows into it.")
    if not header:
        raise Refused(
            f"{path} line {1 + dialect.before_header}: this line is blank, but the column names "
            "belong here. Remove the blank line."
        )
    refuse_too_wide(path, header)
    beginning.settings = (dialect, tuple(header))

    def batches() -> Iterator[Batch]:
        width, blank, rest = len(header), BlankRows(path, "line"), blocks
        line, pieces = beginning.skip(_pieces(path, encoding, dialect))
        if line is not None:
            whole.close()
            for columns, lines, keys in beginning.rows(line):
                blank.pass_filled(len(lines))
                yield Batch(columns, lines, keys=keys)
            rest = _blocks(path, pieces, dialect, beginning, line, width)
        yield from _batches(path, width, blank, rest)

    return Table(
        path,
        distinct_names(header),
        "line",
        batches,
        dialect.delimiter,
        headers=tuple(header),
        beginning=beginning,
    )


def _batches(path: Path, width: int, blank: BlankRows, blocks: Iterator[_Block]) -> Iterator[Batch]:
    """Yields the rows below the header. A block of usual rows is a batch, without any work for each
    row."""
    blank_row = [""] * width
    for lines, rows in blocks:
        if blank or set(map(len, rows)) != {width} or blank_row in rows:
            yield from batched(
                _whole_rows(path, width, blank, zip(lines, rows, strict=True)), width
            )
        else:
            blank.pass_filled(len(rows))
            yield transposed(rows, lines)


def _whole_rows(path: Path, width: int, blank: BlankRows, rows: Iterable[_Line]) -> Iterator[_Line]:
    """Yields the filled rows, and the blank rows before one. The last blank rows stay in `blank`.

    Raises:
        Refused: for a row with another number of cells than the header.
    """
    for line, row in rows:
        if not any(row):  # a blank line, or a line with only separators
            blank.hold(line, line + 1)
            continue
        for before in blank.before(1, line):
            yield before, [""] * width
        if len(row) != width:
            raise Refused(
                f"{path} line {line}: this row has {counted(len(row), 'cell')}, but the header "
                f"has {width}. {_MISSING if width > 1 else _TITLE}"
            )
        yield line, row


def other_separator(spec: JobSpec) -> str | None:
    """Returns the only unusual character that splits the first rows of a text file into the same
    number of cells. A run does not guess: the user sees the result in the job file."""
    encoding, before = encoding_of(spec), _skipped_lines(spec, "")
    widths = {
        mark: _widths(spec.file, encoding, _Dialect(mark, before)) for mark in _UNUSUAL_DELIMITERS
    }
    fitting = [mark for mark, found in widths.items() if len(found) == 1 and max(found) > 1]
    return fitting[0] if len(fitting) == 1 else None


@dataclass(frozen=True, slots=True)
class _Dialect:
    """The delimiter of the cells, and how many lines come before the header."""

    delimiter: str
    before_header: int = 0


def _dialect(spec: JobSpec, encoding: str) -> _Dialect:
    path = spec.file
    with open_text(path, encoding) as file, refusing_undecodable(path, encoding):
        first = file.readline(MAX_CELL_CHARACTERS).lstrip("\ufeff")
        before = _skipped_lines(spec, first)
        named = first[4] if _names_delimiter(first) else None
        for _ in range(before):
            first = file.readline(MAX_CELL_CHARACTERS)
    if spec.separator or named:
        return _Dialect(spec.separator or named or "", before)
    if path.suffix.lower() == ".tsv":
        return _Dialect("\t", before)
    present = [mark for mark in _DELIMITERS if mark in first]
    return _Dialect(_delimiter_of(path, encoding, before, present), before)


def _skipped_lines(spec: JobSpec, first: str) -> int:
    """Returns how many lines come before the header, in a file with this `first` line."""
    return max((spec.header_row or 1) - 1, int(_names_delimiter(first)))


def _names_delimiter(line: str) -> bool:
    """Whether this is a line such as ``sep=;``, which Excel reads and does not show."""
    return line.lower().startswith("sep=") and len(line.rstrip("\r\n")) == 5


def _delimiter_of(path: Path, encoding: str, before: int, present: list[str]) -> str:
    """Returns the only delimiter in `present`. Of several, it is the only one that splits the first
    rows into the same number of columns."""
    if len(present) < 2:
        return present[0] if present else ","
    widths = {mark: _widths(path, encoding, _Dialect(mark, before)) for mark in present}
    fitting = [mark for mark in present if len(widths[mark]) == 1 and max(widths[mark]) > 1]
    if len(fitting) == 1:
        return fitting[0]
    if not fitting:  # the wrong row is refused with its line when the rows are read
        return max(present, key=lambda mark: max(widths[mark], default=0))
    names = " and ".join(DELIMITER_NAMES[mark] for mark in fitting)
    raise Refused(
        f"{path} line {1 + before}: {names} both split the first rows into columns. Set "
        "`separator:` in the job file to one of them."
    )


def _widths(path: Path, encoding: str, dialect: _Dialect) -> set[int]:
    """Returns the different numbers of cells in the first rows. Empty if they are not readable with
    this delimiter."""
    try:
        blocks = _blocks(path, _pieces(path, encoding, dialect), dialect)
        rows = itertools.chain.from_iterable(rows for _, rows in blocks)
        return {len(row) for row in itertools.islice(rows, _ROWS_TRIED) if any(row)}
    except Refused:
        return set()


def _pieces(path: Path, encoding: str, dialect: _Dialect) -> Generator[str, None, None]:
    """Yields pieces of whole lines, from the header on. To ask for each line takes longer than to
    read it."""
    with open_text(path, encoding) as file, refusing_undecodable(path, encoding):
        for _ in range(dialect.before_header):
            file.readline()
        while text := file.read(_PIECE_CHARACTERS):
            yield text + file.readline(_MAX_RECORD_CHARACTERS)


def _blocks(
    path: Path,
    pieces: Iterator[str],
    dialect: _Dialect,
    beginning: Beginning | None = None,
    begin: int | None = None,
    width: int | None = None,
) -> Iterator[_Block]:
    """Yields the records of a text table in blocks of bounded size, the header alone first. Or else
    the records from the line `begin` on, which have `width` cells."""
    csv.field_size_limit(MAX_CELL_CHARACTERS)
    begin = begin or 1 + dialect.before_header
    line, most, characters, has_nul = begin, most_rows(width) if width else 1, 0, False
    lines: list[int] = []
    rows: list[list[str]] = []

    def texts() -> Iterator[TextIO]:
        nonlocal characters, has_nul
        of_record, record = 0, line
        for text in pieces:
            if beginning is not None:
                beginning.add(text, line if line == begin + reader.line_num else None)
            if begin == 1 and not of_record:
                text = text.lstrip("\ufeff")  # a second byte order mark, which no program shows
            has_nul = has_nul or "\0" in text
            characters += len(text)
            of_record = len(text) + (of_record if record == line else 0)
            record = line
            if of_record >= _MAX_RECORD_CHARACTERS:
                raise csv.Error("the row has over 64 million characters")
            yield io.StringIO(text, newline="")

    source, failed = itertools.chain.from_iterable(texts()), None
    reader = csv.reader(source, delimiter=dialect.delimiter, strict=True)
    try:
        for row in reader:
            if has_nul and any(cell and not cell.strip("\0") for cell in row):
                failed = _NULS
                break
            lines.append(line)
            rows.append(row)
            line = begin + reader.line_num
            if len(rows) == most or characters > BATCH_CHARACTERS:
                yield lines, rows
                lines, rows, characters = [], [], 0
                most = most if most > 1 else most_rows(len(row))
    except csv.Error as error:
        failed = (
            f"the row that begins here is not valid CSV ({error}). Check its quotes: one is "
            "missing, or one is too many."
        )
    if rows:
        yield lines, rows
    if failed:
        raise Refused(f"{path} line {line}: {failed}")
