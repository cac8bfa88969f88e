"""Frames of every kind become text by the rules for Parquet."""

from __future__ import annotations

import copy
import datetime
import decimal
import itertools
import uuid
import zoneinfo
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import polars
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.core.errors import Refused
from pipeline.inputs.formats import open_table
from pipeline.inputs.frame import read_frame
from pipeline.job.frame import Frame
from pipeline.job.spec import JobSpec
from tests.support.odd_arrow import WITHOUT_TEXT

D = decimal.Decimal
DAY, NOON, TEN = datetime.date(2024, 1, 2), datetime.datetime(2024, 1, 2, 12), datetime.time(10)
BERLIN = zoneinfo.ZoneInfo("Europe/Berlin")
SPEC = JobSpec(None, "job", "wf_story", Frame({}), Path("runs"))


def read(given: Any, **fields: Any) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    found = read_frame(given)
    spec = replace(SPEC, input=Frame({}, found.table, found.flaws), **fields)
    table = open_table(spec)
    rows = [row for batch in table.batches() for row in zip(*batch.columns, strict=True)]
    return table.columns, rows


def refused(given: Any, **fields: Any) -> str:
    with pytest.raises(Refused) as caught:
        read(given, **fields)
    return str(caught.value)


def test_values_of_pandas_become_the_texts_of_a_parquet_file(tmp_path):
    """So both pay for the same rows."""
    frame = pd.DataFrame(
        {
            "text": ["a", None],
            "whole": [1, 2],
            "holed": pd.Series([1, None]),
            "nullable": pd.array([1, None], dtype="Int64"),
            "part": [0.1, 1e300],
            "flag": [True, False],
            "kind": pd.Categorical(["x", None]),
            "moment": pd.to_datetime(["2024-01-02 03:04:05", None]),
            "there": pd.to_datetime(["2024-01-02", None]).tz_localize("Asia/Tokyo"),
            "day": [datetime.date(2024, 1, 2), None],
            "money": [decimal.Decimal("1.50"), None],
            "name": [uuid.UUID(int=5), None],
        }
    )
    columns, rows = read(frame)
    first = dict(zip(columns, rows[0], strict=True))
    assert first == {
        "text": "a",
        "whole": "1",
        "holed": "1",
        "nullable": "1",
        "part": "0.1",
        "flag": "TRUE",
        "kind": "x",
        "moment": "2024-01-02T03:04:05",
        "there": "2024-01-02T00:00:00+09:00",
        "day": "2024-01-02",
        "money": "1.50",
        "name": str(uuid.UUID(int=5)),
    }
    assert rows[1] == ("", "2", "", "", "1e+300", "FALSE", "", "", "", "", "", "")
    plain = frame.drop(columns="name")
    plain.to_parquet(tmp_path / "sheet.parquet")
    spec = replace(SPEC, source=tmp_path / "job.yaml", input=tmp_path / "sheet.parquet")
    [batch] = open_table(spec).batches()
    assert list(zip(*batch.columns, strict=True)) == read(plain)[1]


def test_a_number_keeps_its_text_when_a_null_turns_its_column_into_floats():
    """pandas does that. 1 and 1.0 are the same text."""
    numbers = pd.DataFrame({"n": [1, 2, 9007199254740991]})
    holed = pd.concat([numbers, pd.DataFrame({"n": [None]})], ignore_index=True)
    assert holed["n"].dtype in (float, object)
    assert read(holed.astype({"n": float}))[1][:3] == read(numbers)[1]


@pytest.mark.parametrize("value", [2.0**53, 9007199254740994.0, -1e17])
def test_a_whole_number_that_a_float_may_have_changed_is_refused_by_column_and_row(value):
    """A null in a column of long ids makes floats of them, and some of their digits are lost."""
    frame = pd.DataFrame({"sku": [1.0, value], "story": ["a", "b"]})
    words = refused(frame)
    assert 'the frame row 2, column "sku": the number' in words
    assert "Store the column as whole numbers or as text" in words
    assert read(frame, variables=(("story", "story"),))[1][0] == ("1", "a")


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ([["a"], ["b"]], 'the frame: column "odd" has the type list'),
        ([{"a": 1}, {"a": 2}], 'column "odd" has the type struct'),
        ([1, "a"], 'column "odd" has values of several types'),
        ([object(), object()], 'column "odd" has a value that cannot become text'),
        ([D(1), 1], 'column "odd" has values of several types (Decimal, number)'),
        ([D("Infinity"), D(1)], 'column "odd" has an infinite number'),
        ([D("1E+9999999"), D(1)], 'column "odd" has a number of more than 1000 digits'),
        ([1.0, True], 'column "odd" has values of several types (bool, number)'),
        ([np.float32(0.1), 0.1], 'column "odd" has values of several types (float32, number)'),
        ([DAY, NOON], 'column "odd" has values of several types (date, datetime)'),
        ([NOON, NOON.replace(tzinfo=datetime.UTC)], "has times with a time zone and times without"),
        ([TEN, TEN.replace(tzinfo=datetime.UTC)], 'column "odd" has times of day with a time zone'),
        ([b"a", "b"], 'column "odd" has values of several types (bytes, text)'),
        ([2**70, 1], 'column "odd" has a value that cannot become text (Python int too large'),
        (pd.period_range("2024-01", periods=2, freq="M"), 'column "odd" has the type period[M]'),
        (pd.interval_range(0, 2), 'column "odd" has the type '),
        (pd.to_timedelta([1, 2], unit="s"), 'column "odd" has the type duration'),
        ([1 + 2j, 3], 'column "odd" has the type complex128'),
        (["\ud800", "b"], 'column "odd" has a text with half a character, a lone surrogate'),
        ([1.5, float("inf")], 'column "odd": a value is damaged or cannot become text'),
    ],
)
def test_a_column_that_cannot_become_text_is_refused_by_name_only_where_it_is_used(values, words):
    """Other columns may contain anything."""
    frame = pd.DataFrame({"story": ["a", "b"], "odd": pd.Series(values, dtype=_dtype(values))})
    assert words in refused(frame, variables=(("x", "odd"),))
    assert [row[0] for row in read(frame.iloc[:, :1])[1]] == ["a", "b"]
    if "cannot become text" not in words:
        assert [row[0] for row in read(frame, variables=(("x", "story"),))[1]] == ["a", "b"]


@pytest.mark.parametrize(
    ("values", "texts"),
    [
        ([D("1.10"), D("2"), D("7.5"), D("1.000")], ["1.10", "2", "7.5", "1.000"]),
        ([D("1E+2"), D("0.1"), D("-0"), D("1E-7")], ["100", "0.1", "0", "0.0000001"]),
        ([1, 2.5, np.int8(3), np.uint64(400)], ["1", "2.5", "3", "400"]),
        ([0.1, 2.0, np.float64(3)], ["0.1", "2", "3"]),
        ([np.float32(0.1), np.float32(2)], ["0.1", "2"]),
        ([2**53 - 1, 2.5, -(2**53) + 1], ["9007199254740991", "2.5", "-9007199254740991"]),
        (
            [
                datetime.datetime(2024, 7, 1, 12, tzinfo=BERLIN),
                datetime.datetime(2024, 1, 1, 12, tzinfo=BERLIN),
                pd.Timestamp("2024-01-01T12:00:00.000000001", tz="UTC"),
            ],
            [
                "2024-07-01T12:00:00+02:00",
                "2024-01-01T12:00:00+01:00",
                "2024-01-01T12:00:00.000000001+00:00",
            ],
        ),
        (
            [NOON, pd.Timestamp("2024-01-01"), NOON.replace(microsecond=5)],
            ["2024-01-02T12:00:00", "2024-01-01T00:00:00", "2024-01-02T12:00:00.000005"],
        ),
        ([TEN, TEN.replace(microsecond=5)], ["10:00:00", "10:00:00.000005"]),
        ([DAY, DAY.replace(year=1)], ["2024-01-02", "0001-01-02"]),
        ([True, np.bool_(False)], ["TRUE", "FALSE"]),
        (["a", np.str_("b")], ["a", "b"]),
        ([b"a", b"bc"], ["a", "bc"]),
    ],
)
@pytest.mark.parametrize("dtype", ["object", "category", "Sparse"])
def test_the_text_of_an_object_depends_on_no_other_row(values, texts, dtype):
    """Arrow has one scale for all decimals and one offset for all times. In any order, with any
    rows removed, and with nulls, a row has the same text and so is not paid again."""
    text_of = dict(zip(map(id, values), texts, strict=True))
    pairs = itertools.permutations([*values, None], 2)
    for some in (values, values[::-1], values[:1], *pairs):
        column = pd.Series(list(some), dtype=object)
        if dtype == "Sparse":
            column = pd.Series(pd.arrays.SparseArray(column, dtype=pd.SparseDtype(object)))
        elif dtype == "category":
            if len({*column.dropna()}) < column.count():
                continue
            column = pd.Series(
                pd.Categorical(column, categories=pd.Index([*column.dropna()], dtype=object))
            )
        found = [row[0] for row in read(pd.DataFrame({"a": column}))[1]]
        assert found == [text_of.get(id(value), "") for value in some]


def test_an_object_column_of_one_zone_has_the_texts_of_a_timestamp_column():
    """pandas makes objects of summer and winter offsets by itself."""
    moments = [datetime.datetime(2024, month, 1, 12, 30, tzinfo=BERLIN) for month in (1, 7)]
    typed = pd.DataFrame({"a": pd.Series(moments, dtype="datetime64[us, Europe/Berlin]")})
    assert read(typed) == read(typed.astype(object))
    offsets = pd.Series([moment.isoformat() for moment in moments]).map(pd.Timestamp)
    assert offsets.dtype == object
    assert read(pd.DataFrame({"a": offsets})) == read(typed)


def _dtype(values: Any) -> Any:
    return object if isinstance(values, list) and not isinstance(values[0], complex) else None


@pytest.mark.parametrize("name", WITHOUT_TEXT)
def test_a_value_without_text_is_refused_only_where_it_is_used(name, tmp_path):
    """In a frame and in a Parquet file. In other columns, people can read it."""
    odd, text = WITHOUT_TEXT[name]
    table = pa.table({"story": ["a", "b"], "odd": odd})
    rows = [("a", text), ("b", "")]
    assert read(table, variables=(("x", "story"),))[1] == rows
    words = refused(table, variables=(("x", "odd"),))
    assert 'column "odd"' in words
    assert ("the time zone Mars/Base is unknown" in words) == (name == "unknown time zone")
    if name in ("category of such days", "long duration", "part of a day"):
        return  # Parquet has no such type
    pq.write_table(table, tmp_path / "sheet.parquet")
    spec = replace(SPEC, source=tmp_path / "job.yaml", input=tmp_path / "sheet.parquet")
    [batch] = open_table(replace(spec, variables=(("x", "story"),))).batches()
    assert list(zip(*batch.columns, strict=True)) == rows
    with pytest.raises(Refused, match='column "odd"'):
        list(open_table(spec).batches())


def deep(wrap: Callable[[Any], Any], levels: int = 20_000) -> Any:
    value: Any = "a"
    for _ in range(levels):
        value = wrap(value)
    return value


def around_itself() -> list[Any]:
    value: list[Any] = []
    value += [value, value]
    return value


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: deep(lambda value: [value]), "more than 100 levels deep"),
        (lambda: deep(lambda value: (value,)), "more than 100 levels deep"),
        (lambda: deep(lambda value: {"a": value}), "more than 100 levels deep"),
        (lambda: deep(lambda value: np.array([value, None], dtype=object), 101), "100 levels deep"),
        (around_itself, "over 1,000,000 values in lists or dictionaries"),
    ],
)
def test_lists_that_are_too_deep_are_refused_only_where_they_are_used(make, words):
    """Arrow would follow them until the process crashes."""
    values = pd.Series([None, make()], dtype=object)
    frame = pd.DataFrame({"story": ["a", "b"], "odd": values})
    assert words in refused(frame, variables=(("x", "odd"),))
    assert [row[0] for row in read(frame, variables=(("x", "story"),))[1]] == ["a", "b"]


def test_names_of_columns_are_their_texts_and_must_differ_where_they_are_used():
    """pandas allows numbers as names, and the same name twice."""
    assert read(pd.DataFrame([["a", "b"]]))[0] == ("0", "1")
    twice = pd.DataFrame([["a", "b", "c"]], columns=["x", "x", "y"])
    assert read(twice, variables=(("y", "y"),)) == (("x", "x (column B)", "y"), [("a", "b", "c")])
    assert 'the header names "x" twice' in refused(twice)
    assert 'the header names "1" twice' in refused(pd.DataFrame([["a", "b"]], columns=[1, "1"]))
    assert "column 1 has no name" in refused(pd.DataFrame({"": ["a"]}))


def test_a_multiindex_of_rows_is_no_column_and_one_of_columns_is_refused():
    """The index names rows, and is never sent."""
    index = pd.MultiIndex.from_tuples([("a", 1), ("b", 2)], names=["x", "y"])
    assert read(pd.DataFrame({"s": ["p", "q"]}, index=index)) == (("s",), [("p",), ("q",)])
    wide = pd.DataFrame([["p"]], columns=pd.MultiIndex.from_tuples([("a", "b")]))
    assert "names of 2 levels" in refused(wide)


def test_blank_rows_at_the_end_of_a_frame_are_rows():
    """The frame comes back with all of its rows. At the end of a file they are no rows."""
    assert len(read(pd.DataFrame({"a": ["x", None, None]}))[1]) == 3


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (pd.DataFrame(index=[1, 2]), "The frame has no columns"),
        (pd.DataFrame({"a": []}), "The frame has no rows"),
        ([{"a": 1}], "An object of the type list is not a frame"),
        ("sheet.csv", "An object of the type str is not a frame"),
        (pd.Series(["a"]), "cannot be read as a table"),
        (pa.chunked_array([["a"]]), "cannot be read as a table"),
    ],
)
def test_what_is_no_frame_is_refused(given, words):
    """With the kinds of frames that there are."""
    assert words in refused(given)


def test_a_stream_is_read_once():
    """It can be read only once, and the runner may need the rows again."""
    table = pa.table({"a": ["x", "y"]})
    stream = pa.RecordBatchReader.from_batches(table.schema, table.to_batches(1))
    assert read(stream) == (("a",), [("x",), ("y",)])
    assert read(table) == read(table.to_batches()[0]) == (("a",), [("x",), ("y",)])


def test_polars_frames_become_the_same_texts_as_those_of_pandas():
    """Of every type that both have."""
    values = {
        "text": ["a", None],
        "whole": [1, None],
        "part": [0.5, None],
        "flag": [True, None],
        "moment": [datetime.datetime(2024, 1, 2, 3, 4, 5), None],
        "day": [datetime.date(2024, 1, 2), None],
    }
    frame = polars.DataFrame(values).with_columns(
        polars.col("text").cast(polars.Categorical).alias("kind"),
        polars.col("moment").dt.replace_time_zone("Asia/Tokyo").alias("there"),
    )
    rows = read(frame)[1]
    assert rows[0][:6] == read(pd.DataFrame(values))[1][0]
    assert rows[0][6:] == ("a", "2024-01-02T03:04:05+09:00")
    assert rows[1] == ("",) * 8
    assert "Call its .collect() first" in refused(frame.lazy())


def test_relations_of_duckdb_are_frames():
    """Also those whose rows are computed."""
    found = duckdb.sql(
        "SELECT i AS n, 'row ' || i AS story, uuid '00000000-0000-0000-0000-000000000005' AS u, "
        "1.50::DECIMAL(5, 2) AS money, DATE '2024-01-02' AS day FROM range(2) t(i)"
    )
    assert read(found)[1][1] == ("1", "row 1", str(uuid.UUID(int=5)), "1.50", "2024-01-02")


def test_a_frame_is_never_copied_compared_or_printed():
    """It may have any size, and its texts are private."""
    table = pa.table({"secret": ["a"]})
    frame = Frame({}, table)
    assert copy.deepcopy(frame) is copy.copy(frame) is frame
    assert frame != Frame({}, table)
    assert repr(frame) == str(frame) == "the frame"
    spec = replace(SPEC, input=frame)
    assert "secret" not in repr(spec)
    assert spec == replace(spec) != SPEC
    with pytest.raises(TypeError, match="no sheet"):
        _ = spec.file


def test_a_long_frame_is_read_in_batches():
    """Its columns become texts a part at a time."""
    numbers = np.arange(5000)
    found = read_frame(pd.DataFrame({"n": numbers}))
    table = open_table(replace(SPEC, input=Frame({}, found.table)))
    sizes = [len(batch) for batch in table.batches()]
    assert (sum(sizes), max(sizes)) == (5000, 2000)


def test_a_parquet_file_with_other_types_of_pandas_keeps_its_texts(tmp_path):
    """They are sent as stored, as in earlier releases: a run folder keeps its texts."""
    pd.DataFrame({"m": pd.period_range("2024-01", periods=1, freq="M")}).to_parquet(
        tmp_path / "sheet.parquet"
    )
    assert pq.read_schema(tmp_path / "sheet.parquet").field("m").type.storage_type == pa.int64()
    spec = replace(SPEC, source=tmp_path / "job.yaml", input=tmp_path / "sheet.parquet")
    [batch] = open_table(spec).batches()
    assert batch.columns == [["648"]]
