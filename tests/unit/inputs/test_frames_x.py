"""Frames of every kind become text by the rules for Parquet."""

from __future__ import annotations

import copy
import datetime
import decimal
import uuid
from dataclasses import replace
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

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

D = decimal.Decimal
DAY, MOMENT = datetime.date(2024, 1, 2), datetime.datetime(2024, 1, 2, 3, 4, 5)
BERLIN, EAST = ZoneInfo("Europe/Berlin"), datetime.timezone(datetime.timedelta(hours=2))
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
        ([["a"], ["b"]], 'the frame: column "odd" has values of the type list, which is not text'),
        ([{"a": 1}, {"a": 2}], 'column "odd" has values of the type dict'),
        ([1, "a"], 'column "odd" has values of several types: number, str'),
        ([object(), object()], 'column "odd" has values of the type object'),
        (pd.period_range("2024-01", periods=2, freq="M"), 'column "odd" has the type period[M]'),
        (pd.interval_range(0, 2), 'column "odd" has the type '),
        (pd.to_timedelta([1, 2], unit="s"), 'column "odd" has the type duration'),
        ([1 + 2j, 3], 'column "odd" has the type complex128'),
        (
            ["b", "\ud800"],
            "row 2 that cannot be sent: half a character (\\ud800, a lone surrogate)",
        ),
        ([b"a", b"\xff"], "row 2 that cannot be sent: bytes that are not UTF-8 text"),
        ([1.5, float("inf")], 'column "odd" has a value in row 2 that cannot be sent: an infinite'),
        ([1.0, 2.0**53], "the number 9007199254740992 is too long for the type double"),
        ([1, 10**5000], "row 2 that cannot be sent: Exceeds the limit"),
        ([D("1"), D("-inf")], "row 2 that cannot be sent: an infinite number"),
        ([D("1"), D("1e-99999")], "a number of more than 1000 digits"),
        ([1.0, True], 'column "odd" has values of several types: bool, number'),
        (["a", b"b"], "several types: bytes, str"),
        ([DAY, MOMENT], "several types: date, datetime"),
        ([MOMENT, MOMENT.replace(tzinfo=EAST)], "datetime, datetime with a UTC offset"),
        ([datetime.time(10, tzinfo=EAST), datetime.time(11)], "time, time with a UTC offset"),
        ([datetime.time(10, tzinfo=BERLIN), None], "a time zone whose offset depends on the date"),
        ([np.timedelta64(1, "s"), 1], "several types: number, timedelta64"),
        ([pd.Timedelta(1), pd.Period("2024")], "several types: Period, Timedelta"),
    ],
)
def test_a_column_that_cannot_become_text_is_refused_by_name_only_where_it_is_used(values, words):
    """Other columns may contain anything."""
    frame = pd.DataFrame({"story": ["a", "b"], "odd": pd.Series(values, dtype=_dtype(values))})
    assert words in refused(frame, variables=(("x", "odd"),))
    assert [row[0] for row in read(frame.iloc[:, :1])[1]] == ["a", "b"]
    assert [row[0] for row in read(frame, variables=(("x", "story"),))[1]] == ["a", "b"]


@pytest.mark.parametrize(
    ("values", "texts"),
    [
        (
            [D("1.10"), D("7.5"), D("2"), D("1.100"), D("-0.0")],
            ["1.10", "7.5", "2", "1.100", "0.0"],
        ),
        ([D("1E+2"), D("0.1"), D("1E-9"), D("sNaN")], ["100", "0.1", "0.000000001", ""]),
        ([1, D("2.5"), 2.5, 0.1, np.int8(3), np.float64(7)], ["1", "2.5", "2.5", "0.1", "3", "7"]),
        ([2**53 + 1, 2.5, 2**70], [str(2**53 + 1), "2.5", str(2**70)]),
        ([np.float32(0.1), 0.1, np.float16(0.1), D("0.1")], ["0.1"] * 4),
        ([True, np.bool_(False), pd.NA], ["TRUE", "FALSE", ""]),
        (["a", np.str_("b"), float("nan"), D("NaN")], ["a", "b", "", ""]),
        ([DAY, None, pd.NaT], ["2024-01-02", "", ""]),
        ([b"a", bytearray(b"b")], ["a", "b"]),
        (
            [pd.Timestamp("2024-07-01", tz=BERLIN), datetime.datetime(2024, 1, 2, tzinfo=BERLIN)],
            ["2024-07-01T00:00:00+02:00", "2024-01-02T00:00:00+01:00"],
        ),
        ([pd.Timestamp(5), MOMENT], ["1970-01-01T00:00:00.000000005", "2024-01-02T03:04:05"]),
        ([datetime.time(10, tzinfo=EAST)], ["10:00:00+02:00"]),
    ],
)
def test_the_text_of_an_object_is_its_own_in_any_company(values, texts):
    """Otherwise a row that is added or moved would change the texts of paid rows."""
    frame = pd.DataFrame({"x": pd.Series(values, dtype=object)})
    assert [text for (text,) in read(frame)[1]] == texts
    for begin in range(len(values)):
        rest = frame.iloc[begin:][::-1]
        assert [text for (text,) in read(rest)[1]] == texts[begin:][::-1]


def test_a_time_of_pandas_has_the_same_text_alone_and_in_a_column_of_its_zone():
    """pandas makes objects of them when offsets differ, for example when two columns are joined."""
    column = pd.Series(pd.date_range("2024-03-30", periods=3, tz="Europe/Berlin"))
    zoned, objects = pd.DataFrame({"x": column}), pd.DataFrame({"x": column.astype(object)})
    assert (zoned["x"].dtype, objects["x"].dtype) == (column.dtype, object)
    assert read(zoned) == read(objects)


def test_categories_that_are_objects_have_their_own_texts():
    """Arrow would choose one type for all of them."""
    prices = pd.Series(pd.Categorical([D("1.10"), D("2"), None, D("7.55")]))
    assert read(pd.DataFrame({"x": prices}))[1] == [("1.10",), ("2",), ("",), ("7.55",)]
    mixed = pd.DataFrame({"x": pd.Categorical([DAY, "a"])})
    assert "several types: date, str" in refused(mixed)


def _deep(levels: int) -> list[Any]:
    found: list[Any] = []
    for _ in range(levels):
        found = [found]
    return found


def _doubled(levels: int) -> list[Any]:
    found: list[Any] = []
    for _ in range(levels):
        found = [found, found]
    return found


def _endless() -> list[Any]:
    found: list[Any] = []
    found.append(found)
    return found


@pytest.mark.parametrize("value", [_deep(20_000), _doubled(50), _endless(), {1: _deep(20_000)}])
def test_deep_and_endless_lists_are_refused_only_where_they_are_sent(value):
    """Arrow would end the process."""
    frame = pd.DataFrame({"story": ["a"], "odd": pd.Series([value], dtype=object)})
    assert f"values of the type {type(value).__name__}" in refused(frame, variables=(("x", "odd"),))
    assert read(frame, variables=(("x", "story"),))[1] == [("a", "")]


def test_objects_that_are_not_sent_are_readable():
    """In the copy of the sheet that the run folder keeps."""
    odd = [[1, {"a": (2, DAY)}], np.array([1, 2]), "\ud800", 1.5, object, [_deep(3)], {(1, 2): 3}]
    frame = pd.DataFrame({"story": list("abcdefg"), "odd": pd.Series(odd, dtype=object)})
    found = [text for _, text in read(frame, variables=(("x", "story"),))[1]]
    assert found == [
        '[1, {"a": [2, "2024-01-02"]}]',
        "[1, 2]",
        "\\ud800",
        "1.5",
        "<class 'object'>",
        "[[[[[]]]]]",
        "",
    ]


FAR = pa.array([4_000_000, 0, None], pa.date32())
NOWHERE = pa.array([0, None, 1], pa.timestamp("us", "Mars/X"))


@pytest.mark.parametrize(
    ("column", "texts", "words"),
    [
        (pa.array([1.5, float("inf"), None]), ["1.5", "inf", ""], "an infinite number"),
        (pa.array([0.5, float("-inf"), 0], pa.float16()), ["0.5", "-inf", "0"], "an infinite"),
        (FAR, ["12921-08-18", "1970-01-01", ""], "date value out of range"),
        (FAR.dictionary_encode(), ["12921-08-18", "1970-01-01", ""], "date value out of range"),
        (
            NOWHERE,
            ["1970-01-01 00:00:00.000000Z", "", "1970-01-01 00:00:00.000001Z"],
            'column "odd" has the time zone "Mars/X", which is not in the time zone database',
        ),
        (pa.array([b"a", b"\xff", None]), ["a", "ff", ""], "'utf-8' codec can't decode"),
        (pa.array([[4_000_000], [0], None], pa.list_(pa.date32())), None, "has the type list"),
    ],
)
def test_a_value_without_a_text_is_refused_only_where_it_is_sent(tmp_path, column, texts, words):
    """In a frame and in a Parquet file, where other columns may contain anything."""
    table = pa.table({"story": ["a", "b", "c"], "odd": column})
    pq.write_table(table, tmp_path / "sheet.parquet")
    source = {"source": tmp_path / "job.yaml", "input": tmp_path / "sheet.parquet"}
    for spec in (replace(SPEC, input=Frame({}, table)), replace(SPEC, **source)):
        with pytest.raises(Refused) as caught:
            list(open_table(replace(spec, variables=(("x", "odd"),))).batches())
        assert words in str(caught.value)
        found = open_table(replace(spec, variables=(("x", "story"),)))
        [batch] = found.batches()
        assert batch.columns[0] == ["a", "b", "c"]
        assert batch.columns[1] == (texts or ['"[12921-08-18]"', '["1970-01-01"]', ""])
        assert 1 in found.found.flaws


def test_names_of_columns_must_be_texts_that_a_request_can_have():
    """Half a character cannot be sent, stored or printed."""
    words = refused(pd.DataFrame([["a", "b"]], columns=pd.Index(["x", "\ud800"], dtype=object)))
    assert "The name of column 2 of the frame has half a character" in words


def test_objects_of_polars_are_refused():
    """Arrow would get their addresses in memory."""
    frame = polars.DataFrame({"a": ["x"], "o": polars.Series([object()], dtype=polars.Object)})
    assert 'column "o" of the frame has the type Object of polars' in refused(frame)
    assert read(frame.drop("o"))[1] == [("x",)]


def _dtype(values: Any) -> Any:
    return object if isinstance(values, list) and not isinstance(values[0], complex) else None


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
        (pd.DataFrame, "The class DataFrame is not a frame"),
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
    with pytest.raises(TypeError, match="no file"):
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
