"""People review while runs are active, and processes die. No decision is lost or paid over."""

from __future__ import annotations

import fcntl
import json
import shutil
import signal
import sqlite3
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest

import pipeline
from tests.conftest import Job, SandboxProcess, ended

STORIES = [f"story {n}" for n in range(1, 9)]
ROWS = [[f"A{n}", story] for n, story in enumerate(STORIES, 1)]


def made(sandbox: SandboxProcess, make_job, **spec) -> Job:
    job = make_job(
        sandbox.url,
        ["sku", "story"],
        ROWS,
        **({"variables": {"story": "story"}, "id": "sku", "concurrency": 1} | spec),
    )
    job.run()
    return job


def billed(sandbox: SandboxProcess) -> Counter[str]:
    found: Counter[str] = Counter()
    for body, times in sandbox.billed().items():
        found[json.loads(body)["story"]] += times
    return found


def decided(job: Job) -> dict[int, str | None]:
    return {row.row: row.review for row in pipeline.show_job(pipeline.find_job(job.spec))}


def test_a_row_that_is_approved_during_an_again_run_is_not_sent(start_sandbox, make_job):
    """Neither now nor by the next run. Its row is ok again, and all other rows are asked again."""
    sandbox = start_sandbox()
    job = made(sandbox, make_job)
    process = job.start("--again", "all", "--yes", rate="2")
    with ended(process):
        while sandbox.received() < 10:
            time.sleep(0.01)
        done = job.call("review", "--rows", "7", "--approve")
        assert done.returncode == 0, done.stderr
        assert process.poll() is None
        assert process.wait() == 0
    expected = {story: 1 if story == "story 7" else 2 for story in STORIES}
    assert billed(sandbox) == expected
    assert job.status()["ok"] == 8
    assert job.call("verify").returncode == 0
    assert job.run()["requests"] == 0
    assert "Every chosen row" not in job.call("run", "--again", "1", "--yes").stderr
    assert billed(sandbox) == expected | {"story 1": 3}


def test_an_answer_that_is_edited_while_a_newer_one_is_in_flight_stands(start_sandbox, make_job):
    """The newer one was paid and stays in the results. No run asks for a third one."""
    sandbox = start_sandbox(latency="2s")
    job = made(sandbox, make_job, concurrency=8)
    process = job.start("--again", "1", "--yes")
    with ended(process):
        while sandbox.received() < 9:
            time.sleep(0.01)
        found = pipeline.find_job(job.spec)
        pipeline.review_job(found, "edited", ids=["A1"], text="Mine.")
        assert process.wait() == 0
    assert billed(sandbox)["story 1"] == 2
    assert job.export()["result"][0] == "Mine."
    assert decided(job)[1] == "edited"
    assert job.status()["reviews"] == {"edited": 1}
    assert "approved or edited" in job.call("run", "--again", "1", "--yes").stderr
    assert job.call("verify").returncode == 0
    sheet = job.folder / "review.csv"
    job.call("export", "--review", str(sheet))
    text = sheet.read_text("utf-8-sig").replace("edited,Mine.", "reset,Mine.")
    sheet.write_text(text, "utf-8-sig")
    assert "1 reset" in job.call("review", "--from", str(sheet)).stderr
    assert job.export()["result"][0] not in ("Mine.", None)


def test_a_row_that_is_approved_after_a_killed_again_run_is_not_sent(start_sandbox, make_job):
    """The run had marked it durably. The answer that it has stays, and the row is ok."""
    sandbox = start_sandbox()
    job = made(sandbox, make_job)
    process = job.start("--again", "all", "--yes", rate="2")
    with ended(process):
        while sandbox.received() < 10:
            time.sleep(0.01)
        time.sleep(0.2)
        process.send_signal(signal.SIGKILL)
    before = billed(sandbox)
    assert job.call("review", "--rows", "1-8", "--approve").returncode == 0
    assert json.loads(job.call("check", "--json").stdout)["to_send"] == 0
    assert job.call("run").returncode in (0, 5)
    assert billed(sandbox) == before
    assert job.status()["pending"] == 0
    assert job.call("verify").returncode == 0


def test_two_reviewers_and_a_run_at_once_lose_nothing(start_sandbox, make_job):
    """Each of many reviewers saves its decision, while the run sends every row."""
    sandbox = start_sandbox()
    job = made(sandbox, make_job)
    job.write_sheet(["sku", "story"], [*ROWS, *[[f"B{n}", f"later {n}"] for n in range(30)]])
    process = job.start(rate="20")
    words = [("--rows", f"{n}", "--approve" if n % 2 else "--reject") for n in range(1, 9)]
    with ended(process):
        with ThreadPoolExecutor(4) as reviewers:
            done = list(reviewers.map(lambda one: job.call("review", *one), words))
        assert not [one.stderr for one in done if one.returncode]
        assert process.wait() == 0
    assert set(billed(sandbox).values()) == {1}
    found = decided(job)
    assert [found[n] for n in range(1, 9)] == ["approved", "rejected"] * 4


def test_a_killed_review_saves_all_or_nothing_and_blocks_nobody(sandbox, make_job):
    """Whenever the kill comes. A review whose command said so is there."""
    job = made(sandbox, make_job)
    saved = 0
    for number in range(12):
        process = job.start("--rows", "1-8", "--approve", verb="review")
        with ended(process):
            time.sleep(0.05 * number)
            process.send_signal(signal.SIGKILL)
            saved |= process.wait() == 0
        decisions = set(decided(job).values())
        assert decisions in ({None}, {"approved"}), decisions
        assert decisions == {"approved"} or not saved
        assert job.call("verify").returncode == 0
    assert job.call("review", "--rows", "1-8", "--approve").returncode == 0
    assert set(decided(job).values()) == {"approved"}
    with pytest.raises(pipeline.Refused):
        pipeline.run_job(job.spec, selection=pipeline.select_again())
    assert set(billed(sandbox).values()) == {1}


def test_a_run_that_is_killed_with_reviews_keeps_them(start_sandbox, make_job):
    """The next run knows the same decisions."""
    sandbox = start_sandbox(latency="50ms")
    job = made(sandbox, make_job)
    assert job.call("review", "--rows", "1-4", "--approve").returncode == 0
    for _ in range(4):
        process = job.start("--again", "all", "--yes", rate="20")
        with ended(process):
            time.sleep(0.4)
            process.send_signal(signal.SIGKILL)
    job.call("run")
    assert {billed(sandbox)[story] for story in STORIES[:4]} == {1}
    assert [decided(job)[n] for n in range(1, 5)] == ["approved"] * 4


def test_a_database_editor_that_locks_the_reviews_stops_no_answer(start_sandbox, make_job):
    """Rows without an answer are sent. Rows of --again wait for the next run, which sends them."""
    sandbox = start_sandbox()
    job = made(sandbox, make_job)
    assert job.call("review", "--rows", "1", "--approve").returncode == 0
    process = job.start("--again", "all", "--yes", rate="2")
    with ended(process):
        while sandbox.received() < 9:
            time.sleep(0.01)
        with sqlite3.connect(job.output / "reviews.sqlite", isolation_level=None) as db:
            db.execute("PRAGMA locking_mode = EXCLUSIVE")
            db.create_function("row_sum", -1, lambda *_: b"", deterministic=True)
            db.execute("BEGIN EXCLUSIVE")
            begun = time.monotonic()
            assert process.wait() == 0
            assert time.monotonic() - begun < 10
        db.close()
    assert billed(sandbox)["story 1"] == 1
    job.run()
    assert sum(billed(sandbox).values()) == 15


def test_a_reviewer_that_waits_for_another_one_is_refused_in_the_end(
    sandbox, make_job, monkeypatch
):
    """Nothing is saved then. The lock ends with its process."""
    from pipeline.ledger import reviews

    job = made(sandbox, make_job)
    monkeypatch.setattr(reviews, "PATIENCE_S", 0.2)
    found = pipeline.find_job(job.spec)
    with (job.output / "reviews.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(pipeline.Locked):
            pipeline.review_job(found, "approved", ids=["A1"])
        held = threading.Timer(0.1, lambda: fcntl.flock(lock, fcntl.LOCK_UN))
        held.start()
        pipeline.review_job(found, "approved", ids=["A2"])
    assert decided(job)[1] is None
    assert decided(job)[2] == "approved"


def test_a_full_disk_saves_no_review_and_says_so(sandbox, make_job):
    """The decisions from before are still there."""
    job = made(sandbox, make_job)
    job.output.chmod(0o500)
    shutil.copy(job.output / "ledger.sqlite", job.folder)
    try:
        done = job.call("review", "--rows", "1", "--approve")
    finally:
        job.output.chmod(0o700)
    if done.returncode:  # root may write everywhere
        assert done.returncode == 6
        assert "saved" in done.stderr
