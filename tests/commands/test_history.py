"""`pipeline history`: the runs of a job, from the ledger."""

from __future__ import annotations

import json
import time

import pytest

import pipeline
from pipeline.core.errors import StorageFailed
from tests.conftest import ended
from tests.promises.test_verify import altered


def test_history_lists_each_run_with_its_own_figures(start_sandbox, make_job):
    """The rows that it sent, what they cost and how it ended. A killed run has them too."""
    sandbox = start_sandbox()
    job = make_job(sandbox.url, rows=[["a"], ["#fault:blocked"], ["#fault:not-json"], ["d"]])
    summaries = [job.run("--limit", "2", expect=3), job.run(expect=5)]
    slow = start_sandbox(latency="20s")
    job.write_sheet(["story"], [["a"], ["e"]])
    process = job.start("--base-url", slow.url, "--output", str(job.folder / "killed"))
    with ended(process):
        while not slow.received():
            time.sleep(0.02)
    killed = json.loads(
        job.call("history", "--json", "--output", str(job.folder / "killed")).stdout
    )["runs"]
    assert [killed[0][name] for name in ("requests", "ambiguous", "paid_min", "paid_max")] == [
        *(2, 2, 0, 2)
    ]
    assert (killed[0]["exit_code"], killed[0]["finished_at"]) == (None, None)
    told = json.loads(job.call("history", "--json").stdout)
    assert told["job"] == "job"
    first, second = told["runs"]
    for run, summary in zip((first, second), summaries, strict=True):
        for name in ("run_id", "rows", "requests", "rate_limited", "exit_code", "stopped"):
            assert run[name] == summary[name], name
        assert 0 < run["duration_s"] < 30
    names = ("ok", "failed", "ambiguous", "paid_min", "paid_max")
    assert [first[name] for name in names] == [1, 1, 0, 1, 1]
    assert [second[name] for name in names] == [1, 0, 1, 1, 2]
    assert first["started_at"] < second["started_at"]
    last = json.loads(job.call("history", "--json", "--last", "1").stdout)["runs"]
    assert last == [second]


def test_a_row_that_was_retried_in_one_run_counts_once(sandbox, make_job):
    """Two requests, one failed row."""
    job = make_job(sandbox.url, rows=[["#fault:json-500"]], retries=1)
    job.run(expect=3)
    [run] = pipeline.read_history(pipeline.find_job(job.spec))
    assert (run.requests, run.failed, run.ok, run.paid_max) == (2, 1, 0, 0)


def test_the_share_of_the_limit_comes_from_the_log_and_history_works_without_it(
    start_sandbox, make_job
):
    """It is the share that the run printed at its end."""
    sandbox = start_sandbox(limit=20, window="1s")
    job = make_job(sandbox.url, rows=[[f"story {n}"] for n in range(50)])
    done = job.call("run")
    assert done.returncode == 0
    shown = job.call("history").stdout.splitlines()
    assert shown[0].split() == [
        *("began", "took", "rows", "ok", "failed", "ambiguous", "paid", "requests", "share", "exit")
    ]
    [run] = pipeline.read_history(pipeline.find_job(job.spec))
    assert run.limit_used is not None
    share = f"{run.limit_used:.0%}"
    assert f"{share} of the rate limit" in done.stderr
    assert f" {share} " in shown[1]
    log = job.output / "log.jsonl"
    log.write_text(log.read_text() + '{"event": "pace_ended", "run_id": ')
    assert pipeline.read_history(pipeline.find_job(job.spec)) == [run]
    log.unlink()
    [again] = pipeline.read_history(pipeline.find_job(job.spec))
    assert (again.limit_used, again.requests) == (None, run.requests)


def test_an_altered_run_is_not_shown_and_before_the_first_run_history_names_the_command(
    sandbox, make_job
):
    """Exit 2 with the command. A damaged row of the ledger raises."""
    job = make_job(sandbox.url, rows=[["a"]])
    done = job.call("history")
    assert (done.returncode, "pipeline run" in done.stderr) == (2, True)
    job.run()
    altered(job.output, "UPDATE runs SET exit_code = 4")
    with pytest.raises(StorageFailed, match="damaged"):
        pipeline.read_history(pipeline.find_job(job.spec))
