"""The repairs that a command makes first after a real kill of the last run.

Each command here sends nothing, so no later step can repair what it left out.
"""

from __future__ import annotations

import json
import signal
import sqlite3
import time

import pandas as pd
import pytest

from tests.conftest import Job, SandboxProcess, ended

ROWS = [["a good story"], ["another"], ["#fault:hang one"], ["#fault:hang two"]]


@pytest.fixture
def killed(sandbox, make_job) -> tuple[Job, SandboxProcess]:
    """A killed job with two answers that are in no part yet, and two requests in flight."""
    job = make_job(sandbox.url, rows=ROWS)
    process = job.start()
    with ended(process):
        deadline = time.monotonic() + 30
        while sandbox.received() < 4 or len(payloads(job)) < 2:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
    assert pd.read_parquet(job.results).empty
    return job, sandbox


def payloads(job: Job) -> list[tuple]:
    db = sqlite3.connect(f"{(job.output / 'ledger.sqlite').as_uri()}?mode=ro", uri=True)
    try:
        return db.execute("SELECT seq FROM payloads").fetchall()
    finally:
        db.close()


def refused(job: Job, **spec: object) -> None:
    """Starts a run that is refused only at the question whether rows may be paid for again."""
    job.write_spec(**spec)
    done = job.call("run")
    assert done.returncode == 2, done.stderr
    assert "accept-changes" in done.stderr


def test_answers_that_a_kill_left_in_the_ledger_are_sealed_even_by_a_refused_run(killed):
    """With the workflow that they came from, whatever the job file names now."""
    job, sandbox = killed
    refused(job, workflow="wf_another")
    results = pd.read_parquet(job.results)
    assert sorted(results["variables"]) == ['{"story":"a good story"}', '{"story":"another"}']
    assert set(results["workflow"]) == {"wf_story"}
    assert payloads(job) == []
    assert sandbox.received() == 4


def test_the_drafts_of_a_killed_run_are_removed(killed):
    """Also the draft of a part that the ledger has no record of."""
    job, _ = killed
    for name in (".part-00001.parquet", ".part-00007.parquet"):
        (job.results / name).write_bytes(b"PAR1 and no more")
    refused(job, constants={"tone": "warm"})
    parts = sorted(path.name for path in job.results.iterdir())
    assert parts == ["part-00000.parquet", "part-00001.parquet"]


def test_a_new_copy_of_the_sheet_that_a_kill_left_unnamed_gets_its_name(sandbox, make_job):
    """The ledger's row numbers belong to that sheet. A later run would overwrite the copy."""
    job = make_job(sandbox.url, rows=[["one"], ["#fault:blocked"]])
    job.run(expect=3)
    snapshot = job.output / "input.parquet"
    before = snapshot.read_bytes()
    job.write_sheet(["story"], [["new"], ["one"], ["#fault:blocked"]])
    job.run(expect=3)
    now = snapshot.read_bytes()
    # As after a kill between the ledger's commit and the rename.
    (job.output / ".input.parquet.new").write_bytes(now)
    snapshot.write_bytes(before)
    job.write_sheet(["story"], [["quite another"], ["one"]])
    refused(job, constants={"tone": "warm"})
    assert snapshot.read_bytes() == now
    assert job.call("verify").returncode == 0


def test_settle_finds_the_rows_that_a_kill_left_in_flight(killed):
    """They are ambiguous, although no run has recorded that yet. failures.csv then has them."""
    job, sandbox = killed
    assert job.call("settle").returncode == 0
    summary = job.status()
    assert (summary["failed"], summary["ambiguous"], summary["ok"]) == (2, 0, 2)
    failures = pd.read_csv(job.output / "failures.csv", dtype=str)
    assert list(failures["_row"]) == ["3", "4"]
    assert set(failures["_status"]) == {"failed"}
    assert set(failures["_error_code"]) == {"interrupted"}
    assert sandbox.received() == 4


def test_settle_writes_failures_csv_again(sandbox, make_job):
    """Before, the rows of a finished run were still ambiguous there."""
    job = make_job(sandbox.url, rows=[["#fault:html-504-billed"], ["#fault:blocked"]])
    job.run(expect=5)
    assert job.call("settle", "--only", "gateway").returncode == 0
    failures = pd.read_csv(job.output / "failures.csv", dtype=str)
    assert list(failures["_status"]) == ["failed", "failed"]
    assert json.loads(job.call("verify", "--json").stdout)["findings"] == []
