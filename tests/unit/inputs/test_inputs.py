"""Sheets are read exactly, or refused with the place."""

from __future__ import annotations

import datetime
import decimal
import stat
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.core.errors import Refused
from pipeline.inputs.formats import open_table
from pipeline.inputs.mapping import Variables, bind
from pipeline.inputs.snapshot import Snapshot, take_snapshot
from pipeline.inputs.stored import stored_cells, stored_columns
from pipeline.job.spec import JobSpec


def spec_for(path: Path, **fields: object) -> JobSpec:
    known = {"source": path.with_name("job.yaml"), "name": "job", "workflow": "wf_story"}
    return JobSpec(input=path, output=path.parent / "runs", **(known | fields))  # type: ignore[arg-type]


def read(path: Path, **fields: object) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    table = open_table(spec_for(path, **fields))
    rows = [row for batch in table.batches() for row in zip(*batch.columns, strict=True)]
    return table.columns, rows


def sheet(tmp_path: Path, content: bytes | str, name: str = "sheet.csv") -> Path:
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def snap(path: Path, **fields: object) -> tuple[Snapshot, Variables, JobSpec]:
    spec = spec_for(path, **fields)
    table = open_table(spec)
    variables = bind(spec, table.columns)
    return (
        take_snapshot(spec, table, variables, path.with_name("snapshot.parquet")),
        variables,
        spec,
    )


@pytest.mark.parametrize(
    ("content", "columns", "rows"),
    [
        ("a,b\n1,2\n", ("a", "b"), [("1", "2")]),
        ("a,b\r\n1,2\r\n", ("a", "b"), [("1", "2")]),
        ("a\nx", ("a",), [("x",)]),
        ("\ufeffa,b\n1,2\n", ("a", "b"), [("1", "2")]),
        ("a,b\n1,2\n".encode("utf-16"), ("a", "b"), [("1", "2")]),
        ("a;b\n1,5;2\n", ("a", "b"), [("1,5", "2")]),
        ("a\tb\n1\t2\n", ("a", "b"), [("1", "2")]),
        ("sep=;\na;b\n1;2\n", ("a", "b"), [("1", "2")]),
        ("sep=;\na, b;c\n1,5;2\n", ("a, b", "c"), [("1,5", "2")]),
        ("a, b;c\n15;2\n1,5;3\n", ("a, b", "c"), [("15", "2"), ("1,5", "3")]),
        ('"a, b";c\n1,5;2\n', ("a, b", "c"), [("1,5", "2")]),
        ('"a; b"\nx\n', ("a; b",), [("x",)]),
        ("a\tb, c\n1\t2\n", ("a", "b, c"), [("1", "2")]),
        ("a,b\r1,2\r3,4\r", ("a", "b"), [("1", "2"), ("3", "4")]),
        ("\ufeffa\n1\n".encode("utf-16-be"), ("a",), [("1",)]),
        ("a\n1\n".encode("utf-32"), ("a",), [("1",)]),
        ('a,b\n"x\ny",2\n', ("a", "b"), [("x\ny", "2")]),
        ('a,b\n"say ""hi""",5" pipe\n', ("a", "b"), [('say "hi"', '5" pipe')]),
        ("a,b\n1,2\n\n\n,\n", ("a", "b"), [("1", "2")]),
        ("a\nx\n\ny\n\n", ("a",), [("x",), ("",), ("y",)]),
        ("a\nx\u2028y\x85z\x0bw\n", ("a",), [("x\u2028y\x85z\x0bw",)]),
        ("a\n" + "x" * 3_000_000 + "\n", ("a",), [("x" * 3_000_000,)]),
    ],
)
def test_delimited_text_is_read_exactly(tmp_path, content, columns, rows):
    """Dialects, marks, quotes, blank rows at the end, and separators inside cells."""
    assert read(sheet(tmp_path, content)) == (columns, rows)


@pytest.mark.parametrize("content", ["a\ncafé\n", "\ufeffa\ncafé\n"])
def test_utf8_is_refused_if_the_spec_names_another_encoding(tmp_path, content):
    """If the user saves the sheet again as UTF-8, the run would pay for gibberish."""
    path = sheet(tmp_path, content)
    with pytest.raises(Refused, match="is UTF-8 text"):
        read(path, encoding="cp1252")
    assert read(sheet(tmp_path, "a\nplain\n"), encoding="cp1252")[1] == [("plain",)]


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        ("café", "cp1252"),
        ("中文", "gbk"),
        ("東京\\", "shift_jis"),
        ("naïve", "utf-16-le"),
        ("naïve", "UTF-8"),
    ],
)
def test_the_encoding_in_the_spec_is_used(tmp_path, text, encoding):
    """Western, Chinese and Japanese Excel, and UTF-16 without its mark."""
    path = sheet(tmp_path, f"a\n{text}\n".encode(encoding))
    assert read(path, encoding=encoding) == (("a",), [(text,)])


@pytest.mark.parametrize(
    ("mark", "encoding"),
    [("utf-8-sig", "utf-8"), ("utf-16", "utf-16-le"), ("utf-16", "utf-8"), ("utf-32", "utf-16")],
)
def test_a_byte_order_mark_is_not_part_of_the_header(tmp_path, mark, encoding):
    """Also if the spec names an encoding that would leave the mark in the text."""
    assert read(sheet(tmp_path, "a\né\n".encode(mark)), encoding=encoding) == (("a",), [("é",)])


def test_a_byte_order_mark_that_the_spec_contradicts_is_refused(tmp_path):
    """UTF-16 read as cp1252 would be gibberish."""
    with pytest.raises(Refused, match="begins with the byte order mark of UTF-16"):
        read(sheet(tmp_path, "a\nx\n".encode("utf-16")), encoding="cp1252")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", ["empty"]),
        (b"\xef\xbb\xbf", ["empty"]),
        (b"\n\n", ["line 1", "blank, but the column names belong here"]),
        (b"sep=;\n\na;b\n", ["line 2", "blank"]),
        (b"a,b\n1,2\n1\n", ["line 3", "has 1 cell, but", "has 2"]),
        (b'a,b\n"x\ny",2\n1,2,3\n', ["line 4", "3 cells"]),
        (b'a,b\n1,2\n"x,2\n3,4\n', ["line 3", "quotes"]),
        (b'a,b\n"x"y,2\n', ["line 2", "quotes"]),
        (b"a,a\n1,2\n", ['"a" twice']),
        (b"a,,c\n1,2,3\n", ["column 2", "no name"]),
        (b"a,b\n1,\0\0\n", ["line 2", "NUL"]),
        ("a\nfine\ncafé\n".encode("cp1252"), ["line 3", "encoding:", "cp1252"]),
        ("a\n1\n".encode("utf-16-le"), ["NUL"]),
        (b"a, b;c\n1,5;2\n", ["line 1", "commas and semicolons", "`separator:`"]),
        (b"a,b\r1,2\r3\r", ["line 3", "has 1 cell, but"]),
        (b"a,b\n1,2\n\x1a", ["line 3", "has 1 cell, but"]),
        ("\ufeffa\nx\n".encode("utf-16-le") + b"\0", ["line 3", "not utf-16 text"]),
        (b'a,b\n1,2\n"x,3\n' + b"4,5,6\n" * 6_000_000, ["line 3", "field larger", "quotes"]),
        (b"a" * 70_000_000, ["line 1", "over 64 million"]),
    ],
)
def test_text_that_is_not_valid_is_refused_with_its_line(tmp_path, content, words):
    """Cells never move to another column, and nothing is guessed."""
    with pytest.raises(Refused) as caught:
        read(sheet(tmp_path, content))
    for word in words:
        assert word in str(caught.value), caught.value
    assert str(caught.value).endswith("Nothing was sent.")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("stores.csv", ["no such file", '"stories.csv"']),
        (
            "other.doc",
            ["the ending .doc.", ".csv, .tsv, .txt, .xlsx, .xlsm, .ods, .xls, .xlsb, .parquet"],
        ),
        ("stories.cvs", ["no such file", '"stories.csv"']),
        ("nowhere/stories.csv", ["no such file"]),
    ],
)
def test_a_missing_sheet_is_refused_with_the_nearest_name(tmp_path, name, words):
    """A file of an unknown kind is refused with the kinds that can be read."""
    sheet(tmp_path, "a\n1\n", "stories.csv")
    sheet(tmp_path, "a\n1\n", "other.doc")
    with pytest.raises(Refused) as caught:
        read(tmp_path / name)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize("encoding", ["latin-99", "base64", "undefined", "a\0b"])
def test_an_unknown_encoding_is_refused(tmp_path, encoding):
    """The message names some encodings. A codec of Python that is not for text is unknown too."""
    with pytest.raises(Refused, match=r"cp1252"):
        read(sheet(tmp_path, "a\n1\n"), encoding=encoding)


def test_parquet_values_become_the_text_a_person_would_write(tmp_path):
    """Integers without .0, exact decimals, ISO times, and empty texts for nulls."""
    moment = datetime.datetime(2024, 1, 2, 3, 4, 5, 600000)
    table = pa.table(
        {
            "text": ["00123", None],
            "integer": pa.array([9007199254740993123, None], pa.int64()),
            "float": [15.0, 0.1],
            "decimal": [decimal.Decimal("1.10"), None],
            "flag": [True, None],
            "day": [datetime.date(2024, 1, 2), None],
            "moment": pa.array([moment, None], pa.timestamp("us")),
            "utc": pa.array([moment, None], pa.timestamp("us", tz="UTC")),
            "category": pa.array(["x", None]).dictionary_encode(),
            "nothing": pa.nulls(2),
        }
    )
    pq.write_table(table, tmp_path / "sheet.parquet")
    columns, rows = read(tmp_path / "sheet.parquet")
    assert columns == tuple(table.column_names)
    assert rows == [
        (
            "00123",
            "9007199254740993123",
            "15",
            "1.10",
            "TRUE",
            "2024-01-02",
            "2024-01-02T03:04:05.600000",
            "2024-01-02T03:04:05.600000+00:00",
            "x",
            "",
        ),
        ("", "", "0.1", "", "", "", "", "", "", ""),
    ]


@pytest.mark.parametrize(
    ("column", "text"),
    [
        (pa.array([2**64 - 1], pa.uint64()), "18446744073709551615"),
        (pa.array(["x"], pa.large_string()), "x"),
        (pa.array(["x"], pa.string_view()), "x"),
        (pa.array([7]).dictionary_encode(), "7"),
        (pa.array([0.1], pa.float32()), "0.1"),
        (pa.array(np.array([0.1], np.float16)), "0.1"),
        (pa.array([2.0**53 - 1]), "9007199254740991"),
        (pa.array([1e300]), "1e+300"),
        (pa.array(np.array([np.nan])), ""),
        (pa.array([decimal.Decimal("-0.0001")], pa.decimal128(10, 4)), "-0.0001"),
        (pa.array([decimal.Decimal(10**50)], pa.decimal256(60, 2)), f"1{'0' * 50}.00"),
        (pa.array([1704164645123456789], pa.timestamp("ns")), "2024-01-02T03:04:05.123456789"),
        (pa.array([0], pa.timestamp("s", tz="Asia/Tokyo")), "1970-01-01T09:00:00+09:00"),
        (pa.array([datetime.time(1, 2, 3)], pa.time32("ms")), "01:02:03"),
        (pa.array([1234567891], pa.time64("ns")), "00:00:01.234567891"),
    ],
)
def test_parquet_values_of_every_width_keep_all_their_digits(tmp_path, column, text):
    """They get no digits that their width does not have. NaN is an empty cell."""
    pq.write_table(pa.table({"x": column, "last": ["row"]}), tmp_path / "sheet.parquet")
    assert read(tmp_path / "sheet.parquet")[1] == [(text, "row")]


LONG = [
    (pa.array([1.5, 2.0**53]), "the number 9007199254740992 is too long for the type double"),
    (pa.array([1.0, -1e20]), "the number -100000000000000000000 is too long"),
    (pa.array([1.0, 123456789.0], pa.float32()), "the number 123456792 is too long for the type f"),
    (pa.array(np.array([1, 4096], np.float16)), "the number 4096 is too long for the type halff"),
]


@pytest.mark.parametrize(("column", "words"), LONG)
def test_a_whole_number_that_its_float_type_may_have_changed_is_refused_by_row(
    tmp_path, column, words
):
    """Only where it is used. Run folders with earlier text rules keep their texts."""
    path = tmp_path / "sheet.parquet"
    pq.write_table(pa.table({"id": column, "story": ["a", "b"]}), path)
    with pytest.raises(Refused) as caught:
        read(path)
    assert f'sheet.parquet row 2, column "id": {words}' in str(caught.value)
    earlier = read(path, text_rules=3)[1]
    assert read(path, variables=(("story", "story"),))[1] == earlier
    assert earlier[1][0].lstrip("-").isdigit()


@pytest.mark.parametrize(
    ("column", "words"),
    [
        (pa.array([["a"]]), "the type list"),
        (pa.array([{"a": 1}]), "the type struct"),
        (pa.array([[("a", 1)]], pa.map_(pa.string(), pa.int64())), "the type map"),
        (pa.array([b"\xff"], pa.binary()), "cannot become text"),
        (pa.array([datetime.timedelta(1)]), "the type duration"),
        (pa.array([float("inf")]), "an infinite number"),
        (pa.array([2**60], pa.timestamp("us")), "out of range"),
        (pa.array([0], pa.timestamp("us", tz="Mars/Phobos")), "cannot become text"),
    ],
)
def test_parquet_columns_that_cannot_become_text_are_refused_by_name(tmp_path, column, words):
    """Nested values have no single text, and some dates and time zones do not exist."""
    pq.write_table(pa.table({"odd": column}), tmp_path / "sheet.parquet")
    with pytest.raises(Refused) as caught:
        read(tmp_path / "sheet.parquet")
    assert 'column "odd"' in str(caught.value)
    assert words in str(caught.value)


def test_broken_parquet_is_refused(tmp_path):
    """No footer, a cut file, and text that is not UTF-8."""
    with pytest.raises(Refused, match="not readable as Parquet"):
        read(sheet(tmp_path, b"PAR1 nonsense", "sheet.parquet"))
    with pytest.raises(Refused, match="not readable as Parquet"):
        read(sheet(tmp_path, b"", "sheet.parquet"))
    bad = pa.Array.from_buffers(
        pa.string(), 1, [None, pa.py_buffer(np.array([0, 2], np.int32)), pa.py_buffer(b"\xff\xfe")]
    )
    pq.write_table(pa.table({"a": bad}), tmp_path / "bad.parquet")
    with pytest.raises(Refused, match=r"rows 1 to 1, column \"a\": a value is damaged"):
        read(tmp_path / "bad.parquet")


# -- the snapshot -------------------------------------------------------------------------


def test_the_snapshot_contains_the_sheet_and_yields_the_rows_to_send(tmp_path):
    """It has all columns as text, and three more. The bodies have the exact bytes of the texts."""
    path = sheet(tmp_path, "note,story,row\nn1,é,x\nn2,b,y\n")
    snapshot, variables, spec = snap(path, variables=(("story", "story"),))
    assert (snapshot.rows, snapshot.skipped) == (2, 0)
    frame = pd.read_parquet(snapshot.path)
    assert list(frame.columns) == [
        "note",
        "story",
        "sheet.row",
        "row",
        "row_key",
        "skipped",
        "place",
    ]
    assert list(frame["row"]) == [1, 2]
    assert stored_columns(snapshot.path) == ("note", "story", "row")
    assert list(stored_cells(snapshot.path)) == [(1, ("n1", "é", "x")), (2, ("n2", "b", "y"))]
    rows = list(snapshot.selected(spec, variables, np.array([True, True])))
    assert [row.body for row in rows] == ['{"story":"é"}'.encode(), b'{"story":"b"}']
    assert [row.row_key.hex() for row in rows] == list(frame["row_key"])
    assert stat.S_IMODE(snapshot.path.stat().st_mode) == 0o600
    [only] = snapshot.selected(spec, variables, np.array([False, True]))
    assert (only.number, only.body) == (2, b'{"story":"b"}')


def test_equal_rows_and_skipped_rows_keep_their_places(tmp_path):
    """Also across batches. Occurrences count equal rows, and skipped rows have no key."""
    lines = ["twin" if n % 3 == 0 else "" if n % 3 == 1 else f"s{n}" for n in range(6000)]
    path = sheet(tmp_path, "note,story\n" + "".join(f"n,{line}\n" for line in lines))
    snapshot, variables, spec = snap(path, empty="skip", variables=(("story", "story"),))
    assert (snapshot.rows, snapshot.skipped) == (6000, 2000)
    rows = list(snapshot.selected(spec, variables, np.ones(6000, dtype=bool)))
    assert [row.number for row in rows] == [n + 1 for n in range(6000) if n % 3 != 1]
    twins = [row.occurrence for row in rows if row.body == b'{"story":"twin"}']
    assert twins == list(range(2000))
    assert {row.occurrence for row in rows if row.body != b'{"story":"twin"}'} == {0}
    some = np.zeros(6000, dtype=bool)
    some[[4000, 5999]] = True
    assert [row.number for row in snapshot.selected(spec, variables, some)] == [6000]


def test_with_an_id_an_answer_belongs_to_id_and_key(tmp_path):
    """Equal texts with two ids have two identities."""
    path = sheet(tmp_path, "sku,story\na,same\nb,same\n")
    snapshot, variables, spec = snap(path, id="sku", variables=(("story", "story"),))
    first, second = snapshot.selected(spec, variables, np.array([True, True]))
    assert first.row_key == second.row_key
    assert first.identity != second.identity
    assert (first.id, second.id) == ("a", "b")


@pytest.mark.parametrize(
    ("content", "fields", "words"),
    [
        ("a,b\n", {}, ["no rows"]),
        (
            "a,b\n1,\n,2\n",
            {},
            ["2 cells that would be sent are empty", 'line 2, column "b"', "line 3"],
        ),
        ("a\n" + "x\n\n" * 9 + "x\n", {}, ["9 cells that would", "and 4 more"]),
        ("sku,a\n1,x\n 1,y\n1,z\n", {"id": "sku"}, ["line 4", "is also in line 2"]),
        ("sku,a\n1,x\n ,y\n", {"id": "sku"}, ["line 3", "blank"]),
        ("a\nx\n", {"id": "skuu"}, ['no column "skuu"']),
        ("story\nx\n", {"variables": (("s", "stroy"),)}, ['no column "stroy"', '"story"']),
        ("a,result\nx,y\n", {}, ['"result"', "map it"]),
        ("_a,_b\nx,y\n", {}, ["no column is mapped"]),
    ],
)
def test_a_sheet_with_one_unusable_row_is_refused_before_any_row_is_sent(
    tmp_path, content, fields, words
):
    """The message names the places."""
    with pytest.raises(Refused) as caught:
        snap(sheet(tmp_path, content), **fields)
    for word in words:
        assert word in str(caught.value), caught.value


def test_the_runners_own_columns_are_variables_only_when_mapped(tmp_path):
    """So an exported sheet can be an input again."""
    path = sheet(tmp_path, "a,result,citations,_status\nx,r,c,ok\n")
    assert [s.name for s in snap(path)[1].sources] == ["a"]
    mapped = snap(path, variables=(("draft", "result"),))[1]
    assert [s.name for s in mapped.sources] == ["draft"]


def test_blank_rows_at_the_end_of_a_parquet_sheet_do_not_count(tmp_path):
    """Any number of them, and across batches. Blank rows between filled rows count."""
    path = tmp_path / "sheet.parquet"
    texts = ["a", None, *["b"] * 1997, "last", *[None] * 4500]
    pq.write_table(pa.table({"x": pa.array(texts, pa.string())}), path)
    columns, rows = read(path)
    assert columns == ("x",)
    assert [text for (text,) in rows] == ["a", "", *["b"] * 1997, "last"]
