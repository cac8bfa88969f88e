"""The sheet going home: every cell as it was, every answer beside its row."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.export.files import write_csv
from pipeline.export.table import Exported
from tests.conftest import Job

SHEET = [
    ["-5", "a plain story", "+49 170"],
    ["007", "#fault:blocked", "=SUM(A1)"],
    ["", "#fault:html-504-billed", ""],
    [" x", "line\none\r\ntwo\u2028three", "@home"],
]
COLUMNS = ["no", "story", "_note"]
ADDED = ["result", "citations", "_status", "_error_code", "_error_message"]


@pytest.fixture
def job(sandbox, make_job) -> Job:
    """Two rows ok, one failed, one ambiguous; answers that begin like formulas."""
    job = make_job(sandbox.url, COLUMNS, SHEET, variables={"story": "story"}, workflow="wf_mine")
    sandbox.publish("wf_mine", "{{story}}", web_search=True)
    job.run(expect=5)
    return job


def test_csv_keeps_the_sheet_as_it_was_and_guards_only_what_was_added(job):
    """A byte order mark for Excel; -5 and +49 stay; the server's formulas do not run."""
    target = job.folder / "out.csv"
    done = job.call("export", "--to", str(target))
    assert done.returncode == 0
    raw = target.read_bytes()
    assert raw.startswith(b"\xef\xbb\xbf")
    with target.open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.reader(file))
    assert rows[0] == COLUMNS + ADDED
    assert [row[:3] for row in rows[1:]] == SHEET
    assert [row[5] for row in rows[1:]] == ["ok", "failed", "ambiguous", "ok"]
    assert rows[2][6:] == ["request_blocked", "Request blocked"]
    assert rows[1][4].startswith("https://example.")
    assert "\n".join(rows[4][4].splitlines()) == rows[4][4]


def test_a_formula_from_a_server_is_guarded_and_counted(tmp_path):
    """Unless the user says not to; the sheet's own cells never."""
    batch = pa.record_batch({"a": ["=1"], "result": ["=HYPERLINK(1)"], "_status": ["ok"]})
    exported = Exported(batch.schema, 1, ("result", "_status"), lambda: iter([batch]))
    target = tmp_path / "guarded.csv"
    assert write_csv(exported, target, True) == 1
    assert "=1,'=HYPERLINK(1),ok" in target.read_text("utf-8-sig")
    assert write_csv(exported, target, False) == 0
    assert "=1,=HYPERLINK(1),ok" in target.read_text("utf-8-sig")


def test_parquet_and_jsonl_are_exact(job):
    """Citations as a table; nulls where nothing is known; one object a line for any reader."""
    parquet, jsonl = job.folder / "out.parquet", job.folder / "out.jsonl"
    assert job.call("export", "--to", str(parquet)).returncode == 0
    assert job.call("export", "--to", str(jsonl)).returncode == 0
    rows = pq.read_table(parquet).to_pylist()
    assert [[row[c] for c in COLUMNS] for row in rows] == SHEET
    assert [row["result"] is None for row in rows] == [False, True, True, False]
    assert rows[0]["citations"][0]["url"].startswith("https://")
    lines = jsonl.read_text("utf-8").splitlines()
    assert [json.loads(line) for line in lines] == rows


def test_an_export_is_a_sheet_again_and_its_own_columns_are_replaced(job):
    """Not sent, not doubled."""
    exported = job.folder / "again.csv"
    job.call("export", "--to", str(exported))
    other = str(job.folder / "runs" / "other")
    done = job.call("run", "--input", str(exported), "--output", other, "--json")
    assert json.loads(done.stdout)["skipped"] == 1
    target = job.folder / "second.parquet"
    job.call("export", "--output", other, "--to", str(target))
    table = pd.read_parquet(target)
    assert list(table.columns) == COLUMNS + ADDED
    assert list(table["_status"]) == ["ok", "failed", "skipped", "ok"]


def test_a_column_of_the_users_own_keeps_its_name(sandbox, make_job):
    """The added one gets another, and that is said."""
    job = make_job(sandbox.url, ["result", "story"], [["mine", "a"]], variables={"story": "story"})
    job.run()
    target = job.folder / "out.parquet"
    done = job.call("export", "--to", str(target))
    assert "_result" in done.stderr
    table = pd.read_parquet(target)
    assert table["result"][0] == "mine"
    assert "a" in table["_result"][0]


def test_answers_that_are_not_sealed_yet_are_exported_too(start_sandbox, make_job):
    """After a kill, and while a run goes on."""
    sandbox = start_sandbox(latency="50ms")
    job = make_job(sandbox.url, rows=[[f"story {n}"] for n in range(400)], concurrency=4)
    process = job.start()
    try:
        while sum(sandbox.billed().values()) < 20:
            pass
        during = job.export()
        assert (during["_status"] == "ok").sum() >= 10
    finally:
        process.kill()
        process.wait()
    after = job.export()
    ok = after[after["_status"] == "ok"]
    assert len(ok) >= 20 - 4
    assert all(story in result for story, result in zip(ok["story"], ok["result"], strict=True))
    assert not list(job.results.glob("part-00001*"))


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("sheet.csv", "the job's input"),
        ("link.csv", "the job's input"),
        ("runs/job/results/part-00001.parquet", "run folder"),
        ("runs/job/ledger.jsonl", "run folder"),
        ("out.xls", "'.xls'"),
        ("nowhere/out.csv", "no folder"),
    ],
)
def test_a_place_that_an_export_must_not_take_is_refused(job, target, words):
    """Exit 2, and nothing there is touched."""
    (job.folder / "link.csv").symlink_to(job.sheet)
    path = job.folder / target
    before = path.read_bytes() if path.exists() else None
    done = job.call("export", "--to", str(path))
    assert done.returncode == 2
    assert words in done.stderr
    assert (path.read_bytes() if path.exists() else None) == before


def test_a_part_that_was_removed_is_named_and_no_row_is_left_out_silently(job):
    """Exit 6 and no file."""
    (job.results / "part-00001.parquet").unlink()
    target = job.folder / "out.csv"
    assert job.call("export", "--to", str(target)).returncode == 6
    assert not target.exists()


def test_before_the_first_run_there_is_nothing_to_export(make_job):
    """And the message says what to do."""
    job = make_job("http://127.0.0.1:9", rows=[["a"]])
    done = job.call("export", "--to", str(Path(job.folder) / "out.csv"))
    assert (done.returncode, "pipeline run" in done.stderr) == (2, True)


def test_a_sheet_with_semicolons_comes_home_with_semicolons(sandbox, make_job):
    """The Excel that wrote it reads no other."""
    job = make_job(sandbox.url)
    job.sheet.write_text("no;story\n1;a, b\n", encoding="utf-8")
    job.write_spec(variables={"story": "story"})
    job.run()
    target = job.folder / "out.csv"
    assert job.call("export", "--to", str(target)).returncode == 0
    lines = target.read_text("utf-8-sig").splitlines()
    assert lines[0] == "no;story;result;citations;_status;_error_code;_error_message"
    assert lines[1].startswith("1;a, b;")
