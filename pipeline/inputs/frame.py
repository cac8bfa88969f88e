"""Reads frames: the rows that a program passes, by the same rules as those of a Parquet file.

Anything with `__arrow_c_stream__` is a frame: those of pandas and polars, relations of DuckDB,
tables of pyarrow. It is read once into an Arrow table, because some can be read only once.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from datetime import date, datetime, time
from decimal import Decimal
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from pipeline.core.errors import Refused
from pipeline.inputs.arrow_rows import OpenRows, Source, first_line, open_rows
from pipeline.inputs.table import BATCH_ROWS, Table, refuse_too_wide
from pipeline.job.frame import Frame
from pipeline.job.spec import JobSpec

_ERRORS = (pa.ArrowException, TypeError, ValueError, OverflowError, NotImplementedError)


class ReadFrame(NamedTuple):
    """A frame as an Arrow table, and by the position of a column why it cannot be sent."""

    table: pa.Table
    flaws: Mapping[int, str] = {}


def read_frame(given: Any) -> ReadFrame:
    """Reads the rows of any frame.

    Raises:
        Refused: if `given` is no frame, or has no columns or no rows.
    """
    read = _of_pandas(given) if is_pandas(given) else ReadFrame(_of_arrow(given))
    for number, what in ((read.table.num_columns, "columns"), (read.table.num_rows, "rows")):
        if not number:
            raise Refused(f"The frame has no {what}.")
    return read


def is_pandas(given: Any) -> bool:
    """Whether this is a DataFrame of pandas. The caller has imported pandas if it is."""
    pandas = sys.modules.get("pandas")
    return pandas is not None and isinstance(given, pandas.DataFrame)


def _of_arrow(given: Any) -> pa.Table:
    if isinstance(given, pa.Table):
        return given
    if isinstance(given, type) or not any(
        hasattr(given, f"__arrow_c_{name}__") for name in ("stream", "array")
    ):
        is_class = isinstance(given, type)
        kind = given if is_class else type(given)
        what = f"{'The class' if is_class else 'An object of the type'} {kind.__name__}"
        lazy = " Call its .collect() first." if hasattr(given, "collect") else ""
        raise Refused(
            f"{what} is not a frame.{lazy} Pass a DataFrame "
            "of pandas or polars, a relation of DuckDB, or a table of pyarrow."
        )
    polars = sys.modules.get("polars")
    if polars is not None and isinstance(given, polars.DataFrame):
        for name, kind in given.schema.items():
            if kind == polars.Object:  # Arrow gets the addresses of the objects
                raise Refused(
                    f'The frame: column "{name}" has the type Object of polars, which no other '
                    f"library can read. Leave it out: frame.drop({name!r})."
                )
    try:
        return pa.table(given)
    except _ERRORS as error:
        raise Refused(
            f"The frame, an object of the type {type(given).__name__}, cannot be read as a table "
            f"({first_line(error)})."
        ) from None


def _of_pandas(given: Any) -> ReadFrame:
    """The index is no column. The name of a column is its text."""
    if given.columns.nlevels > 1:
        raise Refused(
            f"The columns of the frame have names of {given.columns.nlevels} levels. Give each "
            'column one name, for example with `frame.columns.map("_".join)`.'
        )
    names = [str(name) for name in given.columns]
    for position, name in enumerate(names, start=1):
        if not name.isascii() and name.encode(errors="ignore").decode() != name:
            raise Refused(
                f"The name of column {position} of the frame contains half a character (a lone "
                "surrogate). Give the column another name."
            )
    arrays, flaws = [], {}
    for position in range(len(names)):
        array, flaw = _column(given.iloc[:, position])
        arrays.append(array)
        if flaw:
            flaws[position] = flaw
    return ReadFrame(pa.Table.from_arrays(arrays, names=names), flaws)


def _column(series: Any) -> tuple[pa.Array | pa.ChunkedArray, str | None]:
    """Returns the values of a column, or nulls and the reason why it cannot be sent."""
    flaw = f"it has the type {series.dtype}, which is not text, numbers or dates"
    categories = getattr(series.dtype, "categories", None)
    try:
        if getattr(series.dtype, "subtype", series.dtype) == "object":
            return _of_objects(series), None
        if categories is not None and categories.dtype == object:
            codes = series.cat.codes.to_numpy()
            codes = pa.array(codes, mask=codes < 0)
            return pa.DictionaryArray.from_arrays(codes, _of_objects(categories)), None
        array = pa.array(series, from_pandas=True)
        # The types of pandas' own, such as periods, would be sent as the numbers that they store.
        if not getattr(array.type, "extension_name", "").startswith("pandas."):
            return array, None
    except _Flaw as found:
        flaw = f"it {found}"
    except UnicodeEncodeError as error:
        flaw = f"it has a text with half a character, a lone surrogate ({error.object!r:.40})"
    except _ERRORS as error:
        if series.dtype == object or categories is not None:
            flaw = f"it has a value that cannot become text ({first_line(error)})"
    return pa.nulls(len(series)), flaw


class _Flaw(Exception):
    """Why Python's objects cannot be sent."""


# Of every kind that Arrow would read as another kind in some columns.
_KINDS: tuple[tuple[str, tuple[type, ...]], ...] = (
    ("text", (str,)),
    ("bool", (bool, np.bool_)),
    ("number", (int, float, np.integer)),  # 1 and 1.0 are the same text
    ("datetime", (datetime,)),
    ("date", (date,)),
    ("time", (time,)),
    ("Decimal", (Decimal,)),
)
_MOST_DIGITS = 1000
_DEEPEST = 100
# On top of this many for each row.
_MOST_NESTED, _NESTED_OF_ROW = 1_000_000, 10_000
_NESTED = (list, tuple, dict, set, frozenset, np.ndarray)


def _of_objects(series: Any) -> pa.Array:
    """Returns Python's objects as an array. Arrow chooses one type for all of them: one scale for
    decimals, one offset for times. So the text of a row would depend on other rows. Here it does
    not: the values have one kind, and decimals and times become texts alone.
    """
    missing = series.isna()
    types = {type(value) for value in series[~missing]}
    names = sorted({_kind(kind) for kind in types})
    if len(names) > 1:
        raise _Flaw(f"has values of several types ({', '.join(names)})")
    values = [None if null else one for null, one in zip(missing, series, strict=True)]
    if names == ["Decimal"]:
        return pa.array(map(_decimal, values), pa.string())
    if names == ["datetime"]:
        aware = {value.utcoffset() is not None for value in values if value is not None}
        if len(aware) > 1:
            raise _Flaw("has times with a time zone and times without one")
        return pa.array([value and value.isoformat() for value in values], pa.string())
    if names == ["time"] and any(value and value.tzinfo for value in values):
        raise _Flaw("has times of day with a time zone")
    if names == ["number"]:  # Arrow does not take every mix of numpy's and Python's
        values = [one.item() if isinstance(one, np.generic) else one for one in values]
    _refuse_deep(values)
    return pa.array(values, from_pandas=True)


def _refuse_deep(values: list[Any]) -> None:
    """Refuses lists and dictionaries that are too deep, or contain themselves: Arrow would follow
    them until the process crashes."""
    level: list[Any] = [values]
    rest = _MOST_NESTED + _NESTED_OF_ROW * len(values)
    for _ in range(_DEEPEST + 1):
        rest -= sum(map(len, level))
        if rest < 0:
            raise _Flaw(f"has over {_MOST_NESTED:,} values in lists or dictionaries")
        level = [one for held in level for one in _inside(held) if isinstance(one, _NESTED)]
        if not level:
            return
    raise _Flaw(f"has lists or dictionaries that are more than {_DEEPEST} levels deep")


def _inside(held: Any) -> Iterable[Any]:
    if isinstance(held, np.ndarray):
        return held.flat if held.dtype == "object" else ()
    return held.values() if isinstance(held, dict) else held


def _kind(kind: type) -> str:
    return next((name for name, known in _KINDS if issubclass(kind, known)), kind.__name__)


def _decimal(value: Decimal | None) -> str | None:
    """Returns the digits as they are, without an exponent."""
    if value is None:
        return None
    if not value.is_finite():
        raise _Flaw("has an infinite number")
    if max(abs(value.adjusted()), -int(value.as_tuple().exponent)) > _MOST_DIGITS:
        raise _Flaw(f"has a number of more than {_MOST_DIGITS} digits")
    return format(value or value.copy_abs(), "f")


def open_frame(spec: JobSpec) -> Table:
    """Opens a frame. All of its rows are rows of the sheet, also blank ones at its end."""
    return open_frame_rows(spec).as_table(spec.input)


def open_frame_rows(spec: JobSpec) -> OpenRows:
    """Opens a frame, for its rows with their own types and as texts."""
    frame = spec.input
    assert isinstance(frame, Frame)
    table = frame.table
    assert table is not None, "`Job.to_run` refuses a folder without its frame"
    refuse_too_wide(frame, table.schema.names)
    source = Source(
        frame,
        table.schema,
        table.num_rows,
        lambda: iter(table.to_batches(max_chunksize=BATCH_ROWS)),
        BATCH_ROWS,
        lambda _: None,  # the program has the whole frame in memory
        "Change it in the frame.",
    )
    return open_rows(spec, source, flaws=frame.flaws)
