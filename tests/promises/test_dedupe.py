"""`dedupe: true`: equal rows are one paid request, and each of them gets its answer."""

from __future__ import annotations

import json
import sqlite3
import time

import pandas as pd
import pytest

from pipeline.ledger import checksums

STORIES = ["a", "b", "a", "a", "blocked #fault:blocked", "b", "blocked #fault:blocked"]


def rows(*stories: str) -> list[list[str]]:
    return [[story] for story in stories]


def body(story: str) -> str:
    return json.dumps({"story": story}, separators=(",", ":"))


def verified(job) -> bool:
    done = job.call("verify")
    return done.returncode == 0 or pytest.fail(done.stderr)


def failed_rows(job) -> list[str]:
    return list(pd.read_csv(job.output / "failures.csv", dtype=str)["_row"])


def test_equal_rows_are_one_request_and_each_counts_and_has_the_answer(sandbox, make_job):
    """In the summary, the export, failures.csv, `max_paid` and `verify`. A second run sends
    nothing."""
    job = make_job(sandbox.url, rows=rows(*STORIES), dedupe=True, max_paid=3)
    summary = job.run(expect=3)
    assert (summary["rows"], summary["ok"], summary["failed"]) == (7, 5, 2)
    assert (summary["requests"], summary["paid_max"]) == (3, 2)
    assert summary["by_code"] == {"request_blocked": 2}
    assert sandbox.billed() == {body("a"): 1, body("b"): 1, body(STORIES[4]): 0}
    exported = job.export()
    answers = {entry["body"]: entry["result"] for entry in sandbox.bills()}
    for story, result, status in exported[["story", "result", "_status"]].itertuples(index=False):
        assert (status, result) == (
            ("failed", None) if "#" in story else ("ok", answers[body(story)])
        )
    assert failed_rows(job) == ["5", "7"]
    assert len(pd.read_parquet(job.results)) == 2
    assert verified(job)
    assert job.run(expect=3)["requests"] == 0
    assert sandbox.received() == 3


def test_naming_any_of_the_equal_rows_names_the_one_that_is_sent(sandbox, make_job):
    """For `resume --rows`, `settle`, `--again` and `--limit`."""
    job = make_job(sandbox.url, rows=rows(*STORIES), dedupe=True)
    assert job.run("--limit", "1")["ok"] == 3
    assert sandbox.received() == 1
    job.run(expect=3)
    done = job.call("resume", "--rows", "7", "--json")
    assert done.returncode == 3, done.stderr
    assert json.loads(done.stdout)["requests"] == 1
    assert job.call("settle", "--rows", "7").returncode == 0
    assert failed_rows(job) == ["5", "7"]
    assert json.loads(job.call("resume", "--json").stdout)["requests"] == 0
    assert job.run("--again", "3-4", "--yes")["requests"] == 1
    assert sandbox.billed()[body("a")] == 2
    assert list(job.export()["_status"]) == ["ok"] * 4 + ["failed", "ok", "failed"]
    assert verified(job)


def test_an_ambiguous_request_makes_each_of_the_equal_rows_ambiguous(sandbox, make_job):
    """It is sent once more, for all of them, only if the user says so."""
    lost = "lost #fault:not-json"
    job = make_job(sandbox.url, rows=rows(lost, "a", lost), dedupe=True)
    summary = job.run(expect=5)
    assert (summary["ambiguous"], summary["paid_max"]) == (2, 2)
    assert (
        "1 row may have been paid already and would be sent again: row 1 (line 2)."
        in job.call("resume", "--ambiguous").stderr
    )
    job.call("resume", "--ambiguous", "--yes", "--rows", "3")
    assert sandbox.billed()[body(lost)] == 2
    assert verified(job)


def test_turning_dedupe_off_sends_the_other_equal_rows_and_on_sends_nothing(sandbox, make_job):
    """No answer is lost and none is paid again, in both directions."""
    job = make_job(sandbox.url, rows=rows("a", "b", "a", "a"), dedupe=True)
    job.run()
    job.write_spec(dedupe=False)
    assert json.loads(job.call("check", "--json").stdout)["to_send"] == 2
    assert job.run("--limit", "3")["requests"] == 1
    assert sandbox.billed() == {body("a"): 2, body("b"): 1}
    job.write_spec(dedupe=True)
    summary = job.run()
    assert (summary["requests"], summary["ok"]) == (0, 4)
    assert verified(job)
    job.write_spec(dedupe=False)
    summary = job.run("--limit", "3")
    assert (summary["requests"], summary["ok"], summary["pending"]) == (0, 3, 1)
    assert verified(job)
    assert len(pd.read_parquet(job.results)) == 3


def test_with_ids_equal_rows_differ_only_in_their_id(sandbox, make_job):
    """The best answer for any of them is the answer of all, also if its id moved."""
    sheet = [["1", "a"], ["2", "lost #fault:json-500"], ["3", "a"]]
    job = make_job(sandbox.url, ["sku", "story"], sheet, id="sku", variables={"story": "story"})
    assert job.run("--limit", "1")["requests"] == 1
    job.write_spec(id="sku", variables={"story": "story"}, dedupe=True, retries=0)
    job.write_sheet(["sku", "story"], [["3", "a"], ["0", sheet[1][1]], ["2", sheet[1][1]]])
    assert (
        job.run(expect=3)["requests"] == 1
    )  # row 3 has the answer of id 1; the failing ones share one
    assert verified(job)
    job.write_sheet(["sku", "story"], [["2", sheet[1][1]], ["0", sheet[1][1]], ["1", "a"]])
    done = job.call("resume", "--json")
    assert json.loads(done.stdout)["requests"] == 1, done.stderr  # under the id 0 that it has
    assert verified(job)
    assert sandbox.billed()[body("a")] == 1
    job.write_spec(id="sku", variables={"story": "story"}, retries=0)
    found = json.loads(job.call("check", "--json").stdout)
    assert (found["ok"], found["failed"], found["pending"]) == (1, 1, 1)


def test_a_killed_run_leaves_equal_rows_ambiguous_together(start_sandbox, make_job):
    """`status` counts each of them, as pending while the request is in flight and afterwards."""
    sandbox = start_sandbox(latency="60s")
    job = make_job(sandbox.url, rows=rows("a", "a", "a"), dedupe=True)
    process = job.start()
    while not sandbox.received():
        time.sleep(0.02)
    found = job.status()
    assert (found["pending"], found["in_flight"], found["ambiguous"]) == (3, 3, 0)
    process.kill()
    process.wait()
    assert job.status()["ambiguous"] == 3
    summary = job.run(expect=5)
    assert (summary["requests"], summary["ambiguous"]) == (0, 3)
    assert failed_rows(job) == ["1", "2", "3"]


@pytest.mark.parametrize(
    "change", ["UPDATE duplicates SET first_row = 3", "UPDATE duplicates SET sheet_row = 2"]
)
def test_a_duplicate_at_a_wrong_place_is_found(sandbox, make_job, change):
    """By `verify`. The next run writes it again from the sheet."""
    job = make_job(sandbox.url, rows=rows("a", "b", "c", "a"), dedupe=True)
    job.run()
    db = sqlite3.connect(job.output / "ledger.sqlite", isolation_level=None)
    checksums.register(db)
    db.execute(change)
    db.close()
    done = job.call("verify")
    assert done.returncode == 6
    assert "row 4" in done.stdout or "row 2" in done.stdout
    assert job.run()["requests"] == 0
    assert verified(job)
