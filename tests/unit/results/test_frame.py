"""`read_results`: the sheet with its answers as a DataFrame, as it was at the last run."""

from __future__ import annotations

import datetime
import decimal
import json
import time

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import pipeline
from tests.conftest import TOP, ended
from tests.support.workbooks import table, worksheet, write_workbook

ADDED = ["result", "citations", "_status", "_error_code", "_error_message", "_flags"]
ADDED += ["_review"]


def test_a_text_sheet_comes_back_in_its_order_with_its_answers(sandbox, make_job):
    """Also after a sort. Its cells are texts, as they were sent."""
    rows = [["a", "007"], ["b #fault:blocked", "1.50"], ["", "x"]]
    job = make_job(sandbox.url, ["story", "n"], rows, variables={"story": "story"}, empty="skip")
    with pytest.raises(pipeline.Refused, match="no run yet"):
        pipeline.read_results(job.spec)
    job.run(expect=3)
    found = pipeline.read_results(job.spec)
    assert list(found.columns) == ["story", "n", *ADDED]
    assert found["n"].tolist() == ["007", "1.50", "x"]
    assert {str(found[name].dtype) for name in ("story", "n", "result", "_status")} == {"string"}
    assert found["_status"].tolist() == ["ok", "failed", "skipped"]
    assert found["_error_code"].tolist()[1] == "request_blocked"
    assert found["result"].isna().tolist() == [False, True, True]
    assert found["_flags"].iloc[0] == []
    job.write_sheet(["story", "n"], rows[::-1])
    assert pipeline.read_results(str(job.output))["story"].tolist()[0] == "a"
    job.run(expect=3)
    turned = pipeline.read_results(pipeline.find_job(job.spec), paid=True)
    assert turned["result"].tolist()[2] == found["result"].tolist()[0]
    assert turned["story"].tolist() == [row[0] for row in rows[::-1]]


def test_the_columns_of_a_parquet_sheet_keep_their_types(sandbox, make_job):
    """With missing values. A sheet that has changed since the last run is refused."""
    job = make_job(sandbox.url, input="sheet.parquet", variables={"story": "story"})
    sheet = pa.table(
        {
            "story": ["a", "b"],
            "n": [1, None],
            "x": [0.5, None],
            "flag": [True, None],
            "kind": pa.array(["p", None]).dictionary_encode(),
            "day": [datetime.date(2024, 1, 2), None],
            "there": pa.array([0, None], pa.timestamp("us", "Asia/Tokyo")),
            "money": [decimal.Decimal("1.50"), None],
            "list": [[1], None],
            "result": ["mine", "mine"],
        }
    )
    pq.write_table(sheet, job.folder / "sheet.parquet")
    job.run()
    found = pipeline.read_results(job.spec)
    assert {
        name: str(kind) for name, kind in found.dtypes.items() if name in sheet.schema.names
    } == {
        "story": "string",
        "n": "Int64",
        "x": "Float64",
        "flag": "boolean",
        "kind": "category",
        "day": "datetime64[ms]",
        "there": "datetime64[us, Asia/Tokyo]",
        "money": "object",
        "list": "object",
        "result": "string",
    }
    assert found["money"].tolist() == [decimal.Decimal("1.50"), None]
    assert found["list"].tolist() == [[1], None]
    assert found.loc[1, ["n", "x", "flag", "kind", "day", "there"]].isna().all()
    assert found["result"].tolist() == ["mine", "mine"]
    assert list(found.columns[10:]) == [f"{name}_2" for name in ADDED]
    pq.write_table(sheet.slice(0, 1), job.folder / "sheet.parquet")
    with pytest.raises(pipeline.Refused, match="A DataFrame takes the values from this sheet"):
        pipeline.read_results(job.spec)


def test_a_frame_that_pandas_saved_comes_back_with_its_index_as_a_column(sandbox, make_job):
    """The runner sees it as a column of the file."""
    job = make_job(sandbox.url, input="sheet.parquet", variables={"story": "story"})
    frame = pd.DataFrame({"story": ["a"], 5: [1]}, index=pd.Index(["k"], name="key"))
    frame.rename(columns=str).to_parquet(job.folder / "sheet.parquet")
    job.run()
    found = pipeline.read_results(job.spec)
    assert list(found.columns[:3]) == ["story", "5", "key"]
    assert found.index.tolist() == [0]


def test_a_workbook_comes_back_as_the_texts_that_were_sent(sandbox, make_job):
    """Numbers too: a workbook has no types of columns."""
    job = make_job(sandbox.url, input="sheet.xlsx")
    write_workbook(job.folder / "sheet.xlsx", worksheet(table([["story"], ["a"], ["b"]])))
    job.run()
    assert pipeline.read_results(job.spec)["story"].tolist() == ["a", "b"]


def test_it_can_be_read_while_a_run_is_active(start_sandbox, make_job):
    """Rows in flight are pending."""
    sandbox = start_sandbox(latency="300ms")
    job = make_job(sandbox.url, rows=[[f"story {n}"] for n in range(12)], concurrency=2)
    with ended(job.start()):
        ends = time.monotonic() + 60
        while sum(sandbox.billed().values()) < 4 and time.monotonic() < ends:
            time.sleep(0.05)
        statuses = pipeline.read_results(job.spec)["_status"].tolist()
    assert set(statuses) == {"ok", "pending"}
    assert len(statuses) == 12


def test_a_changed_answer_is_not_read(sandbox, make_job):
    """Its part has another checksum."""
    job = make_job(sandbox.url, rows=[["a"]])
    job.run()
    part = next(path for path in job.results.glob("part-*[1-9]*.parquet"))
    content = bytearray(part.read_bytes())
    content[len(content) // 2] ^= 1
    part.write_bytes(content)
    with pytest.raises(pipeline.StorageFailed):
        pipeline.read_results(job.spec)


def test_columns_of_the_job_file_have_nullable_types(make_job):
    """The research job of the clone."""
    spec = (TOP / "jobs" / "research.yaml").read_text(encoding="utf-8")
    job = make_job("http://127.0.0.1:9")
    job.spec.write_text(
        spec.replace("../data", str(TOP / "data")).replace("name: research", "name: job"), "utf-8"
    )
    done = job.call("run", "--sandbox", "--limit", "20")
    assert done.returncode == 0, done.stderr
    found = pipeline.read_results(pipeline.find_job(job.spec, sandbox=True))
    columns = pipeline.load_spec(job.spec).columns
    kinds = {"number": "Float64", "integer": "Int64", "boolean": "boolean", "text": "string"}
    for column in columns:
        assert str(found[column.name].dtype) == kinds[column.type], column
        assert 0 < found[column.name].notna().sum() <= 20
    assert json.dumps(found["_flags"].tolist()[:20])
