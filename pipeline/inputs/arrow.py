"""Turns Python values into Arrow arrays and Arrow arrays into numpy's, and calls Arrow's functions.

pyarrow imports pandas whenever it makes an array or a scalar of Python values, to check whether one
of them is a pandas object, and for `to_numpy`. That takes 35 MB of memory and 0.3 s of CPU time,
half as much as a run of a thousand rows. Arrays made of buffers avoid both.

Without pandas, pyarrow would make other texts of times in nanoseconds, and so other rows. That is
why nothing keeps pyarrow from importing pandas where a sheet has such values.

`pyarrow.compute` makes a Python function with its documentation for each function of Arrow, when it
is imported. That takes 0.05 s, a tenth of a command on a small sheet. Methods such as `take`,
`cast` and `sort_by` import it too. The functions here call Arrow's own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any, overload

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.types as kinds

try:
    from pyarrow._compute import ListSliceOptions, MatchSubstringOptions, call_function
except ImportError:  # this release of pyarrow has them at their public place only
    from pyarrow.compute import ListSliceOptions, MatchSubstringOptions, call_function


def array_of(values: Sequence[Any], kind: pa.DataType) -> pa.Array:
    """Returns an array of texts, booleans, numbers, or lists or structs of these. None becomes
    null."""
    if kinds.is_string(kind) or kinds.is_large_string(kind):
        return texts(values, kind)
    if kinds.is_list(kind):
        held = [value or () for value in values]
        offsets = _offsets(list(map(len, held)), np.int32)
        inner = [array_of(list(chain.from_iterable(held)), kind.value_type)]
        buffers = [_validity(values), pa.py_buffer(offsets)]
        return pa.Array.from_buffers(kind, len(values), buffers, children=inner)
    if kinds.is_struct(kind):
        inner = [
            array_of([None if value is None else value[field.name] for value in values], field.type)
            for field in kind
        ]
        return pa.Array.from_buffers(kind, len(values), [_validity(values)], children=inner)
    content: list[Any] = [value or 0 for value in values]
    if kinds.is_boolean(kind):
        buffer = pa.py_buffer(np.packbits(np.array(content, dtype=bool), bitorder="little"))
    else:
        buffer = numbers(content, kind).buffers()[1]
    return pa.Array.from_buffers(kind, len(values), [_validity(values), buffer])


def texts(values: Sequence[str | None], kind: pa.DataType | None = None) -> pa.Array:
    """Returns an array of strings, or of the type `kind`. None becomes null."""
    kind = kind or pa.string()
    validity = _validity(values)
    there = values if validity is None else [value or "" for value in values]
    encoded = list(map(str.encode, there))  # type: ignore[arg-type]
    width = np.int64 if kind == pa.large_string() else np.int32
    offsets = _offsets(list(map(len, encoded)), width)
    buffers = [validity, pa.py_buffer(offsets), pa.py_buffer(b"".join(encoded))]
    return pa.Array.from_buffers(kind, len(values), buffers)


def large_texts(values: Sequence[str]) -> pa.Array:
    """Returns an array of large strings."""
    return values.array if isinstance(values, Texts) else texts(values, pa.large_string())


class Texts(Sequence[str]):
    """The texts of an array as Python texts, made only where somebody needs them."""

    def __init__(self, array: pa.Array) -> None:
        self.array = array

    def __len__(self) -> int:
        return len(self.array)

    @overload
    def __getitem__(self, place: int) -> str: ...

    @overload
    def __getitem__(self, place: slice) -> list[str]: ...

    def __getitem__(self, place: int | slice) -> Any:
        found = self.array[place]
        return found.to_pylist() if isinstance(place, slice) else found.as_py()

    def __iter__(self) -> Iterator[str]:
        return iter(self.array.to_pylist())


def hexes(content: bytes, size: int, there: npt.NDArray[np.bool_]) -> pa.Array:
    """Returns an array of strings: each `size` bytes of `content` in hex, for the places that are
    `there`. The others are null."""
    offsets = _offsets(there * (2 * size), np.int32)
    bits = None if there.all() else pa.py_buffer(np.packbits(there, bitorder="little"))
    buffers = [bits, pa.py_buffer(offsets), pa.py_buffer(content.hex().encode())]
    return pa.Array.from_buffers(pa.string(), len(there), buffers)


def unhexed(array: pa.Array) -> bytes:
    """Returns the bytes of an array of strings in hex, without nulls."""
    _, offsets, content = array.buffers()
    first, last = np.frombuffer(offsets, np.int32)[[array.offset, array.offset + len(array)]]
    if first == last:  # an array of nulls may have no content
        return b""
    return bytes.fromhex(content[int(first) : int(last)].to_pybytes().decode())


def numbers(values: Sequence[float] | npt.NDArray[Any], kind: pa.DataType) -> pa.Array:
    """Returns an array of integers, floats or times (in the unit of `kind`) without nulls."""
    content = np.asarray(values, dtype=_dtype(kind))
    return pa.Array.from_buffers(kind, len(content), [None, pa.py_buffer(content)])


def positions(chosen: npt.NDArray[np.integer[Any]]) -> pa.Array:
    """Returns positions for `take`. A negative one becomes null, and takes null."""
    content = chosen.astype(np.int64, copy=False)
    there = content >= 0
    bits = None if there.all() else pa.py_buffer(np.packbits(there, bitorder="little"))
    return pa.Array.from_buffers(pa.int64(), len(content), [bits, pa.py_buffer(content)])


def lists(lengths: Sequence[int], values: pa.Array) -> pa.Array:
    """Returns an array of lists. The first list has the first `lengths[0]` of `values`, and so
    on."""
    offsets = numbers(_offsets(lengths, np.int32), pa.int32())
    return pa.ListArray.from_arrays(offsets, values)


def call(function: str, *columns: Any) -> Any:
    """Returns what the function of `pyarrow.compute` with this name makes of Arrow's values."""
    return call_function(function, list(columns))


def matches(texts: pa.Array, pattern: str) -> pa.Array:
    """Returns for each text whether RE2 finds `pattern` in it."""
    return call_function("match_substring_regex", [texts], MatchSubstringOptions(pattern))


def shortened_lists(values: pa.ChunkedArray, most: int) -> pa.ChunkedArray:
    """Returns each list with its first `most` values."""
    return call_function("list_slice", [values], ListSliceOptions(0, most, 1, False))


def taken(data: Any, chosen: npt.NDArray[np.integer[Any]]) -> Any:
    """Returns the rows of a column or table at these positions. A negative one takes null."""
    return call("take", data, positions(chosen))


def text_scalar(text: str, kind: pa.DataType | None = None) -> pa.Scalar:
    """Returns a text to compare an array of the type `kind` with."""
    return texts([text], kind)[0]


def as_numpy(array: pa.Array | pa.ChunkedArray) -> npt.NDArray[Any]:
    """Returns numbers or booleans without nulls as an array of numpy."""
    if isinstance(array, pa.ChunkedArray):
        empty = np.empty(0, dtype=bool if kinds.is_boolean(array.type) else _dtype(array.type))
        return np.concatenate([empty, *map(as_numpy, array.chunks)])
    assert not array.null_count, "a null has no number"
    content = array.buffers()[1]
    if kinds.is_boolean(array.type):
        return _bits(content, array.offset, len(array))
    if content is None:
        return np.empty(0, dtype=_dtype(array.type))
    offset = array.offset * array.type.byte_width
    return np.frombuffer(content, _dtype(array.type), len(array), offset)


def at(column: pa.Array | pa.ChunkedArray, places: Sequence[int]) -> list[Any]:
    """Returns the values at `places`."""
    if len(places) < len(column) / 4:  # one value costs as much as four of a whole column
        return [column[place].as_py() for place in places]
    values = column.to_pylist()
    return [values[place] for place in places]


def filled(array: pa.Array) -> npt.NDArray[np.bool_]:
    """Returns which places have a value."""
    bits = array.buffers()[0]
    if bits is None:
        return np.ones(len(array), dtype=bool)
    return _bits(bits, array.offset, len(array))


def _bits(bits: pa.Buffer | None, offset: int, size: int) -> npt.NDArray[np.bool_]:
    if bits is None or not size:
        return np.empty(0, dtype=bool)
    first, begin = divmod(offset, 8)
    some = np.frombuffer(bits, np.uint8, (begin + size + 7) // 8, first)
    return np.unpackbits(some, bitorder="little")[begin : begin + size].view(bool)


def _dtype(kind: pa.DataType) -> str:
    letter = "f" if kinds.is_floating(kind) else "u" if kinds.is_unsigned_integer(kind) else "i"
    return f"{letter}{kind.byte_width}"


def _offsets(
    lengths: Sequence[int] | npt.NDArray[Any], width: type[np.integer[Any]]
) -> npt.NDArray[Any]:
    offsets = np.zeros(len(lengths) + 1, dtype=width)
    np.cumsum(lengths, out=offsets[1:])
    return offsets


def _validity(values: Sequence[Any]) -> pa.Buffer | None:
    if None not in values:
        return None
    there = np.fromiter((value is not None for value in values), dtype=bool, count=len(values))
    return pa.py_buffer(np.packbits(there, bitorder="little"))
