"""Columns of Arrow whose values Python or pandas cannot represent, or only as objects."""

from __future__ import annotations

import polars
import pyarrow as pa


def _stored(kind: pa.DataType, values: list[object], storage: pa.DataType) -> pa.Array:
    return pa.ExtensionArray.from_storage(kind, pa.array(values, storage))


def _of_number(number: int, storage: pa.DataType, kind: pa.DataType) -> pa.Array:
    return pa.array([number, None], storage).cast(kind)


_DAY = _of_number(10**7, pa.int32(), pa.date32())
_OF_POLARS = pa.table(
    polars.DataFrame(
        {
            "texts": [["a", "b"], None],
            "kinds": polars.Series([["a"], None], dtype=polars.List(polars.Categorical)),
        }
    )
)
_CODES = pa.array([0, 1], pa.int8())

OBJECTS: dict[str, tuple[pa.Array | pa.ChunkedArray, list[object]]] = {
    "lists of texts of polars": (_OF_POLARS["texts"], [["a", "b"], None]),
    "lists of categories of polars": (_OF_POLARS["kinds"], [["a"], None]),
    "run-end-encoded": (
        pa.RunEndEncodedArray.from_arrays(pa.array([2], pa.int32()), ["a"]),
        ["a"] * 2,
    ),
    "sparse union": (
        pa.UnionArray.from_sparse(_CODES, [pa.array(["a", "b"]), pa.array([1, 2])]),
        ["a", 2],
    ),
    "dense union": (
        pa.UnionArray.from_dense(
            _CODES, pa.array([0, 0], pa.int32()), [pa.array(["a"]), pa.array([1])]
        ),
        ["a", 1],
    ),
    "bool8": (_stored(pa.bool8(), [1, None], pa.int8()), [True, None]),
    "json": (_stored(pa.json_(), ["{}", None], pa.string()), ["{}", None]),
    "opaque": (_stored(pa.opaque(pa.binary(), "a", "b"), [b"a", None], pa.binary()), [b"a", None]),
    "categories of lists": (
        pa.DictionaryArray.from_arrays(_CODES, pa.array([["a"], None])),
        [["a"], None],
    ),
}
"""By name, a column, and its values as Python's objects."""

WITHOUT_TEXT: dict[str, tuple[pa.Array, str]] = {
    "infinity": (pa.array([float("inf"), None]), "inf"),
    "half infinity": (pa.array([float("-inf"), None], pa.float16()), "-inf"),
    "day after the year 9999": (_DAY, "29349-01-26"),
    "category of such days": (
        pa.DictionaryArray.from_arrays(pa.array([0, None], pa.int8()), _DAY),
        "29349-01-26",
    ),
    "list of such days": (
        pa.ListArray.from_arrays(pa.array([0, None, 1], pa.int32()), _DAY[:1]),
        '"[29349-01-26]"',
    ),
    "time after the year 9999": (
        _of_number(4 * 10**14, pa.int64(), pa.timestamp("ms")),
        "14645-06-30 15:06:40.000",
    ),
    "unknown time zone": (
        _of_number(10**12, pa.int64(), pa.timestamp("ms", "Mars/Base")),
        "2001-09-09 01:46:40.000Z",
    ),
    "long duration": (_of_number(2**62, pa.int64(), pa.duration("s")), "4611686018427387904"),
    "part of a day": (_of_number(1, pa.int64(), pa.int64()).view(pa.date64()), "1970-01-01"),
}
"""By name, a column, and the text of its first value for people. The second value is null."""
