"""Exports to files with types: the sheet's own columns keep their types, values and nulls."""

from __future__ import annotations

import csv
import datetime
import json
import math
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.conftest import Job

ADDED = ["result", "citations", "_status", "_error_code", "_error_message"]
DAY = datetime.date(2024, 1, 2)
MOMENT = datetime.datetime(2024, 1, 2, 3, 4, 5, 678901)
COLUMNS: dict[str, tuple[pa.DataType, list[Any]]] = {
    "story": (pa.string(), ["a", "b", "c"]),
    "int8": (pa.int8(), [1, None, -3]),
    "int64": (pa.int64(), [2**63 - 1, 0, None]),
    "uint64": (pa.uint64(), [2**64 - 1, None, 0]),
    "float": (pa.float32(), [0.1, None, 2.0]),
    "double": (pa.float64(), [0.30000000000000004, math.nan, 1e300]),
    "decimal": (pa.decimal128(20, 4), [Decimal("1.1000"), None, Decimal("-12345678901.0001")]),
    "bool": (pa.bool_(), [True, False, None]),
    "null": (pa.null(), [None, None, None]),
    "date": (pa.date32(), [DAY, None, DAY]),
    "moment": (pa.timestamp("us", tz="UTC"), [MOMENT.replace(tzinfo=datetime.UTC), None, None]),
    "local": (pa.timestamp("ms"), [MOMENT.replace(microsecond=678000), None, None]),
    "time": (pa.time64("us"), [MOMENT.time(), None, None]),
    "large": (pa.large_string(), ["x", None, ""]),
    "kind": (pa.dictionary(pa.int32(), pa.string()), ["p", None, "p"]),
    "list": (pa.list_(pa.float64()), [[1.0, None, math.nan], [], None]),
    "struct": (
        pa.struct([("a", pa.int64()), ("b", pa.string())]),
        [{"a": 1, "b": None}, None, None],
    ),
}


def sheet_of_types() -> pa.Table:
    """Three rows with a column of each type, and metadata of the file and of a field."""
    fields = [
        pa.field(name, kind, metadata={"unit": "kg"} if name == "double" else None)
        for name, (kind, _) in COLUMNS.items()
    ]
    arrays = [pa.array(values, kind) for kind, values in COLUMNS.values()]
    return pa.table(arrays, schema=pa.schema(fields, {"made by": "a program"}))


@pytest.fixture
def typed(sandbox, make_job) -> Job:
    """A Parquet sheet that was run. Only its column `story` is sent."""
    job = make_job(sandbox.url)
    pq.write_table(sheet_of_types(), job.folder / "sheet.parquet")
    job.write_spec(input="sheet.parquet", variables={"story": "story"})
    job.run()
    return job


def export(job: Job, name: str) -> Path:
    target = job.folder / name
    done = job.call("export", "--to", str(target))
    assert done.returncode == 0, done.stderr
    return target


def refused(job: Job, name: str) -> str:
    done = job.call("export", "--to", str(job.folder / name))
    assert done.returncode == 2, done.stderr
    assert not (job.folder / name).exists()
    return done.stderr


def test_a_parquet_sheet_keeps_its_schema_its_values_and_its_nulls(typed):
    """Also its metadata. The added columns follow."""
    sheet = pq.read_table(typed.folder / "sheet.parquet")
    table = pq.read_table(export(typed, "out.parquet"))
    assert table.column_names == [*sheet.column_names, *ADDED]
    own = table.select(sheet.column_names)
    assert own.schema.equals(sheet.schema, check_metadata=True)
    for name in sheet.column_names:
        if name not in ("double", "list"):  # NaN differs from itself
            assert own[name].equals(sheet[name]), name
    assert str(own.to_pylist()) == str(sheet.to_pylist())
    assert table["_status"].to_pylist() == ["ok"] * 3


def test_a_parquet_sheet_becomes_json_with_numbers_and_nulls(typed):
    """Dates are ISO 8601, decimals keep their digits, and NaN becomes null."""
    lines = export(typed, "out.jsonl").read_text("utf-8").splitlines()
    first, second, third = (json.loads(line, parse_float=str, parse_int=str) for line in lines)
    assert first["int64"] == "9223372036854775807"
    assert (first["float"], first["double"], third["double"]) == (
        "0.1",
        "0.30000000000000004",
        "1e+300",
    )
    assert (first["decimal"], third["decimal"]) == ("1.1000", "-12345678901.0001")
    assert [one["bool"] for one in (first, second, third)] == [True, False, None]
    assert (first["date"], first["moment"]) == ("2024-01-02", "2024-01-02T03:04:05.678901+00:00")
    assert (first["list"], second["list"], third["list"]) == (["1.0", None, None], [], None)
    assert first["struct"] == {"a": "1", "b": None}
    assert (second["double"], second["null"], second["large"], third["large"]) == (
        None,
        None,
        None,
        "",
    )
    assert third["kind"] == "p"


LINES = [
    '{"story": "a", "n": 12345678901234567890, "x": 1.10, "ok": true, "tags": ["é", 1.50]}',
    '{"n": 1e5, "story": "b\\u2028c", "ok": null}',
    '{"story": "c", "x": -0, "extra": {"deep": {"n": 0.1000}}, "empty": ""}',
]


@pytest.fixture
def lines(sandbox, make_job) -> Job:
    """A JSON Lines sheet that was run. Only `story` is sent."""
    job = make_job(sandbox.url)
    (job.folder / "sheet.jsonl").write_text("\n".join([LINES[0], "", *LINES[1:]]) + "\n", "utf-8")
    job.write_spec(input="sheet.jsonl", variables={"story": "story"})
    job.run()
    return job


def test_json_lines_keep_their_digits_and_lack_the_names_that_they_lacked(lines):
    """Each line has the values as they were written, and the added names."""
    written = export(lines, "out.jsonl").read_text("utf-8").splitlines()
    exact = {"parse_float": str, "parse_int": str}
    for before, after in zip(LINES, written, strict=True):
        own = {k: v for k, v in json.loads(after, **exact).items() if k not in ADDED}
        assert own == json.loads(before, **exact)
        assert set(ADDED) <= json.loads(after).keys()


def test_json_lines_become_parquet_types_only_where_no_digit_is_lost(sandbox, make_job):
    """Missing names and null are null. Everything else is text."""
    columns: dict[str, tuple[pa.DataType, list[str | None], list[Any]]] = {
        "story": (pa.string(), ['"a"', '"b"', '"c"'], ["a", "b", "c"]),
        "int": (pa.int64(), ["1", "null", str(2**63 - 1)], [1, None, 2**63 - 1]),
        "large": (pa.string(), ["1", str(2**63), None], ["1", str(2**63), None]),
        "double": (pa.float64(), ["1", "0.1", None], [1.0, 0.1, None]),
        "zeros": (pa.string(), ["1.10", "2", None], ["1.10", "2", None]),
        "long": (pa.string(), ["0.12345678901234567890", None, None], ["0.12345678901234567890"]),
        "bool": (pa.bool_(), ["true", None, "false"], [True, None, False]),
        "mixed": (pa.string(), ["true", "1", '"x"'], ["TRUE", "1", "x"]),
        "nested": (pa.string(), ["[1.50]", "{}", "null"], ["[1.50]", "{}", None]),
        "nothing": (pa.string(), ["null", None, "null"], [None, None, None]),
        "empty": (pa.string(), ['""', None, "null"], ["", None, None]),
        "minus": (pa.string(), ["-0", None, None], ["-0"]),
    }
    job = make_job(sandbox.url)
    texts = [
        ", ".join(f'"{name}": {made[row]}' for name, (_, made, _) in columns.items() if made[row])
        for row in range(3)
    ]
    (job.folder / "sheet.jsonl").write_text("".join(f"{{{one}}}\n" for one in texts), "utf-8")
    job.write_spec(input="sheet.jsonl", variables={"story": "story"})
    job.run()
    table = pq.read_table(export(job, "out.parquet"))
    for name, (kind, _, values) in columns.items():
        assert table.schema.field(name).type == kind, name
        assert table[name].to_pylist()[: len(values)] == values, name
        assert table[name].to_pylist()[len(values) :] == [None] * (3 - len(values)), name


@pytest.mark.parametrize("first", ["parquet", "jsonl"])
@pytest.mark.parametrize("second", ["parquet", "jsonl", "csv"])
def test_a_run_from_an_export_with_types_sends_nothing(sandbox, make_job, first, second):
    """Every column is sent, whatever its type. A third export has the same rows again."""
    rows = [{"story": "a", "n": 5, "x": 0.30000000000000004, "ok": True}, {"story": "b", "n": None}]
    job = make_job(sandbox.url)
    sheet = job.folder / f"sheet.{first}"
    if first == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), sheet)
    else:
        sheet.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    job.write_spec(input=sheet.name, empty="send")
    assert job.run()["requests"] == 2
    target = export(job, f"first.{second}")
    job.write_spec(input=target.name, empty="send")
    assert job.run()["requests"] == 0
    again = export(job, f"second.{second}")
    assert sorted(sandbox.billed().values()) == [1, 1]
    if second == "parquet":
        assert pq.read_table(again).equals(pq.read_table(target))
    else:
        assert again.read_bytes() == target.read_bytes()


def edited(table: pa.Table, name: str, values: list[Any]) -> pa.Table:
    place = table.column_names.index(name)
    return table.set_column(place, table.schema.field(name), pa.array(values, COLUMNS[name][0]))


@pytest.mark.parametrize("target", ["out.parquet", "out.jsonl"])
def test_a_parquet_sheet_that_was_changed_since_the_run_is_refused(typed, target):
    """With the row and the column. Nothing is written, and the message says what to do."""
    sheet = typed.folder / "sheet.parquet"
    table = pq.read_table(sheet)
    for changed, words in (
        (edited(table, "story", ["a", "x", "c"]), 'row 2, column "story" was changed'),
        (table.slice(0, 2), "rows were removed"),
        (pa.concat_tables([table, table.slice(0, 1)]), "row 4 was added"),
        (table.take([1, 0, 2]), 'row 1, column "story" was changed'),
        (table.drop_columns(["int8"]), 'column "int8" was removed'),
        (table.append_column("new", pa.array([1, 2, 3])), 'column "new" was added'),
        (table.append_column("int8", pa.array([1, 2, 3])), 'column "int8 (column'),
    ):
        pq.write_table(changed, sheet)
        said = refused(typed, target)
        assert words in said
        assert "Run again" in said
        assert "export to .csv" in said
    sheet.unlink()
    assert "the sheet is missing" in refused(typed, target)
    assert typed.call("export", "--to", str(typed.folder / "out.csv")).returncode == 0


def test_json_lines_that_were_changed_since_the_run_are_refused(lines):
    """With the line and the name."""
    sheet = lines.folder / "sheet.jsonl"
    sheet.write_text("\n".join([LINES[0], LINES[1], LINES[2].replace('"c"', '"d"')]), "utf-8")
    for target in ("out.jsonl", "out.parquet"):
        assert 'line 3, column "story" was changed' in refused(lines, target)
    sheet.write_text("\n".join([*LINES, LINES[0]]), "utf-8")
    assert "line 4 was added" in refused(lines, "out.jsonl")


def test_an_id_that_was_changed_since_the_run_is_refused(sandbox, make_job):
    """It names the row, although it is not sent."""
    job = make_job(sandbox.url)
    sheet = job.folder / "sheet.jsonl"
    sheet.write_text('{"story": "a", "sku": 1}\n{"story": "b", "sku": 2}\n')
    job.write_spec(input=sheet.name, variables={"story": "story"}, id="sku")
    job.run()
    sheet.write_text('{"story": "a", "sku": 1}\n{"story": "b", "sku": 3}\n')
    assert 'line 2, column "sku" was changed' in refused(job, "out.jsonl")


def test_cells_that_are_not_sent_come_from_the_sheet_as_it_is_now(typed):
    """As in the copy of a workbook."""
    sheet = typed.folder / "sheet.parquet"
    pq.write_table(edited(pq.read_table(sheet), "int8", [7, 8, 9]), sheet)
    assert pq.read_table(export(typed, "out.parquet"))["int8"].to_pylist() == [7, 8, 9]


def test_many_rows_keep_their_values_in_step_with_their_answers(sandbox, make_job):
    """Batches of the sheet, of its copy and of the answers end at different rows. Texts that are
    long or repeated, blank rows at the end, and rows without an answer are among them."""
    count = 9000
    table = pa.table(
        {
            "story": pa.array([f"story {n}" if n % 3 else "" for n in range(count)] + [None] * 50),
            "n": pa.array([*range(count)] + [None] * 50, pa.int32()),
            "kind": pa.array([f"kind {n // 2500}" for n in range(count)] + [None] * 50)
            .dictionary_encode()
            .cast(pa.dictionary(pa.int16(), pa.string())),
            "long": pa.array([("x" * 9000 if n % 2 else "y") for n in range(count)] + [None] * 50),
        }
    )
    job = make_job(sandbox.url)
    pq.write_table(table, job.folder / "sheet.parquet", row_group_size=3500)
    job.write_spec(input="sheet.parquet", variables={"story": "story"}, empty="skip")
    assert job.run("--limit", "3000")["ok"] == 3000
    found = pq.read_table(export(job, "out.parquet"))
    assert found.select(table.column_names).equals(table.slice(0, count))
    assert found.schema.field("kind").type == pa.dictionary(pa.int16(), pa.string())
    for story, result, status in zip(
        *(found[name].to_pylist() for name in ("story", "result", "_status")), strict=True
    ):
        assert (story in result) if status == "ok" else result is None


def test_a_sheet_that_another_option_named_is_compared_with_that_sheet(sandbox, make_job):
    """`run --input` read another file than the job file names."""
    job = make_job(sandbox.url, rows=[["x"]])
    other = job.folder / "other.parquet"
    pq.write_table(pa.table({"story": ["a"], "n": pa.array([1], pa.int16())}), other)
    job.write_spec(variables={"story": "story"})
    job.run("--input", str(other))
    assert pq.read_schema(export(job, "out.parquet")).field("n").type == pa.int16()


def test_a_tsv_becomes_a_csv_with_commas_and_a_tsv_with_tabs(sandbox, make_job):
    """And a .csv sheet can become a .tsv."""
    job = make_job(sandbox.url)
    sheet = job.folder / "sheet.tsv"
    sheet.write_text("story\tnote\na\tx,y\n")
    job.write_spec(input=sheet.name, variables={"story": "story"})
    job.run()
    for name, delimiter in (("out.csv", ","), ("out.tsv", "\t")):
        export(job, name)
        with export(job, name).open(encoding="utf-8-sig", newline="") as file:
            header, row = csv.reader(file, delimiter=delimiter)
        assert header == ["story", "note", *ADDED]
        assert row[:2] == ["a", "x,y"]
    job.write_spec(input="out.tsv", variables={"story": "story"})
    assert job.run()["requests"] == 0


def test_citations_of_a_tsv_can_be_written_with_tabs(lines):
    """Every kind of export has the ending .tsv."""
    target = lines.folder / "sources.tsv"
    assert lines.call("export", "--citations", str(target)).returncode == 0
    assert target.read_text("utf-8-sig").splitlines()[0] == "row\tposition\turl\ttitle\tdomain"
