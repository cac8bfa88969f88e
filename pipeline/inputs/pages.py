"""Checks how much memory a Parquet file would need, before a page is unpacked.

The header of a page says how large the page becomes, and pyarrow allocates that much. A few hundred
bytes can be a page of a gigabyte, a million rows with the same long text, or a row with a list of a
billion zeros. The footer may lie about all of this, so this module reads the headers of the pages,
as pyarrow does.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
import pyarrow.types as kinds

from pipeline.core.errors import Refused
from pipeline.inputs.table import BATCH_ROWS

BATCH_BYTES = 16 << 20
"""About how much of each column is in memory at once."""
# Some programs write one page for all rows. Such pages are large because they contain much data.
_PAGE_BYTES = 64 << 20
_PAGE_RATIO = 20
# Rows that are all equal take no room in the file, but each costs 6 microseconds.
_MANY_ROWS = 500_000
_ROWS_PER_BYTE = 20
_MANY_CELLS = 5_000_000
_CELLS_PER_BYTE = 100
_MANY_VALUES = 2_000_000
_MANY_BYTES = 128 << 20
_UNPACKED_RATIO = 200
_HEADER_BYTES = (1 << 12, 1 << 18, 1 << 24)


class _Page(NamedTuple):
    """One page: its kind, its size in bytes in the file and in memory, and its number of values."""

    is_dictionary: bool
    stored: int
    unpacked: int
    values: int


def is_binary(kind: pa.DataType) -> bool:
    """Whether the values are bytes."""
    return bool(
        kinds.is_binary(kind)
        or kinds.is_large_binary(kind)
        or kinds.is_binary_view(kind)
        or kinds.is_fixed_size_binary(kind)
    )


def is_text(kind: pa.DataType) -> bool:
    """Whether the values have no fixed length, so that one of them may be long."""
    return bool(kinds.is_string(kind) or kinds.is_binary(kind))


def look_through(path: Path, metadata: pq.FileMetaData, schema: pa.Schema) -> tuple[int, list[str]]:
    """Returns how many rows to read at once, and the columns to read as dictionaries because one of
    their texts may be long and in many rows.

    Raises:
        Refused: if the file would become much larger in memory than it is on disk.
        ValueError: if the file is damaged.
    """
    size = path.stat().st_size
    cells = metadata.num_rows * len(schema)
    if metadata.num_rows > max(_MANY_ROWS, _ROWS_PER_BYTE * size):
        raise _refusal(path, f"{metadata.num_rows:,} rows")
    if cells > max(_MANY_CELLS, _CELLS_PER_BYTE * size):
        raise _refusal(path, f"{cells:,} cells")
    flat = {field.name for field in schema if not kinds.is_nested(field.type)}
    texts = {f.name for f in schema if is_text(f.type)}
    batch_rows, total = BATCH_ROWS, 0
    long_texts: set[str] = set()
    with path.open("rb") as file:
        for group in range(metadata.num_row_groups):
            for place in range(metadata.num_columns):
                column = metadata.row_group(group).column(place)
                name = column.path_in_schema
                values = 0
                for page in _pages(file, column):
                    values += 0 if page.is_dictionary else page.values
                    total += page.unpacked
                    if page.unpacked > max(_PAGE_BYTES, _PAGE_RATIO * page.stored):
                        raise _refusal(path, f'{page.unpacked >> 20} MB in column "{name}"')
                    if page.is_dictionary:
                        if page.unpacked > BATCH_BYTES // BATCH_ROWS and name in texts:
                            long_texts.add(name)
                    else:
                        average = max(1, page.unpacked // max(page.values, 1))
                        batch_rows = min(batch_rows, max(1, BATCH_BYTES // average))
                if name not in flat and values > _MANY_VALUES + _ROWS_PER_BYTE * size:
                    raise _refusal(path, f'{values:,} values in column "{name}"')
    refuse_too_much(path, total)
    return batch_rows, sorted(long_texts)


def refuse_too_much(path: Path, unpacked: int) -> None:
    """Raises if `unpacked` bytes of values are out of proportion to the size of the file.

    Raises:
        Refused: with the size of the values.
    """
    if unpacked > max(_MANY_BYTES, _UNPACKED_RATIO * path.stat().st_size):
        raise _refusal(path, f"over {unpacked >> 20} MB")


def _refusal(path: Path, what: str) -> Refused:
    return Refused(
        f"{path}: its {path.stat().st_size:,} bytes would become {what}, far more than in a real "
        "sheet. Write the file again with only the rows that you need."
    )


def _pages(file: IO[bytes], column: pq.ColumnChunkMetaData) -> Iterator[_Page]:
    starts = [column.data_page_offset]
    if column.has_dictionary_page and column.dictionary_page_offset:
        starts.append(column.dictionary_page_offset)
    at = min(starts)
    end, left = at + column.total_compressed_size, column.num_values
    while at < end and left > 0:
        page, header = _page_at(file, at)
        yield page
        at += header + page.stored
        left -= 0 if page.is_dictionary else page.values


def _page_at(file: IO[bytes], at: int) -> tuple[_Page, int]:
    """Returns the page whose header begins at `at`, and the length of its header."""
    for size in _HEADER_BYTES:
        file.seek(at)
        reader = _Compact(file.read(size))
        try:
            fields = reader.struct()
        except IndexError:
            continue
        kind, unpacked, stored = (fields.get(number, 0) for number in (1, 2, 3))
        about: Any = next((fields[n] for n in (5, 7, 8) if isinstance(fields.get(n), dict)), {})
        values = about.get(1, 0)
        if not all(type(number) is int and number >= 0 for number in (unpacked, stored, values)):
            break
        return _Page(kind == _DICTIONARY, stored, unpacked, values), reader.at
    raise ValueError("a page of it is damaged")


_DICTIONARY = 2
_MAX_DEPTH = 8


class _Compact:
    """A reader of Thrift's compact protocol, as far as the header of a page needs it."""

    def __init__(self, raw: bytes) -> None:
        self._raw = raw
        self.at = 0

    def struct(self, depth: int = 0) -> dict[int, Any]:
        """Reads a struct. Returns the numbers and structs among its fields, by their ids."""
        if depth > _MAX_DEPTH:
            raise ValueError("a page of it is damaged")
        fields: dict[int, Any] = {}
        number = 0
        while head := self._byte():
            number = number + (head >> 4) if head >> 4 else self._number()
            fields[number] = self._value(head & 15, depth)
        return fields

    def _value(self, kind: int, depth: int) -> Any:
        if kind in (1, 2):
            return kind == 1
        if kind == 3:
            return self._byte()
        if kind in (4, 5, 6):
            return self._number()
        if kind == 7:
            return self._skip(8)
        if kind == 8:
            return self._skip(self._varint())
        if kind in (9, 10):
            head = self._byte()
            for _ in range(head >> 4 if head >> 4 != 15 else self._varint()):
                self._value(head & 15, depth + 1)
            return None
        if kind == 12:
            return self.struct(depth + 1)
        raise ValueError("a page of it is damaged")

    def _byte(self) -> int:
        byte = self._raw[self.at]
        self.at += 1
        return byte

    def _skip(self, size: int) -> None:
        self.at += size
        if self.at > len(self._raw):
            raise IndexError(size)

    def _varint(self) -> int:
        number = shift = 0
        while True:
            byte = self._byte()
            number |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return number
            if shift > 63:
                raise ValueError("a page of it is damaged")

    def _number(self) -> int:
        number = self._varint()
        return (number >> 1) ^ -(number & 1)
