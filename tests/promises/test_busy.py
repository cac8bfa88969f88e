"""Another program, a real process, holds SQLite's lock on the ledger, as editors and backups do.

Nothing was written and nothing is damaged, so answers wait in memory until it frees the lock.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd
import pytest

import pipeline
from pipeline.core.errors import LedgerBusy, StorageFailed
from pipeline.ledger.group_commit import GroupCommit
from tests.conftest import Job, SandboxProcess, ended

HOLDING = """
import sqlite3, sys
db = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=20)
db.execute(sys.argv[2])
print("held", flush=True)
sys.stdin.read()
"""


@contextlib.contextmanager
def held(ledger: Path, begin: str = "BEGIN IMMEDIATE") -> Iterator[None]:
    """Another process holds the lock during the block."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDING, str(ledger), begin],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with ended(process), process:
        assert process.stdout is not None
        assert process.stdin is not None
        assert process.stdout.readline() == b"held\n"
        yield
        process.stdin.close()


def until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def start(job: Job, *options: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        job.command("run", "--rate", "5000", *options),
        env=job.environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def logged(job: Job, event: str) -> list[str]:
    lines = (job.output / "log.jsonl").read_text().splitlines()
    return [line for line in lines if json.loads(line)["event"] == event]


def eight_in_flight(job: Job, sandbox: SandboxProcess, process: subprocess.Popen[str]) -> None:
    until(lambda: process.poll() is not None or sandbox.received() == 8)


@pytest.fixture
def job(start_sandbox, make_job) -> tuple[Job, SandboxProcess]:
    """Twenty rows, with eight in flight. Each answer takes two seconds."""
    sandbox = start_sandbox(latency="2s")
    return make_job(sandbox.url, rows=[[f"story {n}"] for n in range(20)], concurrency=8), sandbox


@pytest.mark.long
@pytest.mark.parametrize("begin", ["BEGIN IMMEDIATE", "BEGIN EXCLUSIVE"])
def test_answers_wait_for_the_lock_as_long_as_it_takes(job, begin):
    """Longer than 30 s, which once made them ambiguous. The runner reports the wait twice."""
    job, sandbox = job
    process = start(job)
    with ended(process):
        eight_in_flight(job, sandbox, process)
        with held(job.output / "ledger.sqlite", begin):
            until(lambda: len(logged(job, "waiting")) == 2)
            assert sandbox.received() == 8
        _, said = process.communicate(timeout=60)
    assert process.returncode == 0, said
    assert "Waiting: another program, such as a database editor or a backup, holds" in said
    assert "The ledger is free again." in said
    assert set(sandbox.billed().values()) == {1}
    assert len(pd.read_parquet(job.results)) == 20
    assert job.status()["ok"] == 20


def test_while_answers_wait_one_ctrl_c_waits_on_and_a_second_one_ends_the_run(job):
    """The answers are paid for, so the first still waits. After the second they are ambiguous."""
    job, sandbox = job
    process = start(job)
    with ended(process):
        eight_in_flight(job, sandbox, process)
        with held(job.output / "ledger.sqlite"):
            until(lambda: len(logged(job, "waiting")) == 1)
            process.send_signal(signal.SIGINT)
            until(lambda: len(logged(job, "stopping")) == 1)
            time.sleep(1)
            assert process.poll() is None
            process.send_signal(signal.SIGINT)
            _, said = process.communicate(timeout=20)
    assert process.returncode == 6, said
    assert "could not be saved are ambiguous" in said
    summary = job.run(expect=5)
    assert (summary["ok"], summary["ambiguous"]) == (12, 8)
    assert set(sandbox.billed().values()) == {1}


def test_one_ctrl_c_while_answers_wait_loses_none_of_them(job):
    """The runner saves them as soon as the other program frees the lock, and then ends."""
    job, sandbox = job
    process = start(job)
    with ended(process):
        eight_in_flight(job, sandbox, process)
        with held(job.output / "ledger.sqlite"):
            until(lambda: len(logged(job, "waiting")) == 1)
            process.send_signal(signal.SIGINT)
            until(lambda: len(logged(job, "stopping")) == 1)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert (job.status()["ok"], job.status()["pending"]) == (8, 12)


@pytest.mark.long
def test_a_cancelled_run_does_not_wait_for_ever(job, monkeypatch):
    """The other program may never free the lock. After 30 s the rows are ambiguous."""
    job, sandbox = job
    for name, value in job.environment().items():
        monkeypatch.setenv(name, value)

    async def cancelled() -> None:
        task = asyncio.create_task(pipeline.run_job_async(job.spec))
        while await asyncio.to_thread(sandbox.received) < 8:
            await asyncio.sleep(0.05)
        with held(job.output / "ledger.sqlite"):
            await asyncio.sleep(3)
            task.cancel()
            await asyncio.wait({task}, timeout=90)
            assert task.done()
        with pytest.raises((asyncio.CancelledError, StorageFailed)):
            await task

    asyncio.run(cancelled())
    assert job.run(expect=5)["ambiguous"] == 8
    assert set(sandbox.billed().values()) == {1}


@pytest.mark.long
def test_a_ledger_that_is_locked_from_the_start_ends_the_run_after_30_s(job):
    """No paid answer waits, so the exit code is 75 and the next night tries again."""
    job, sandbox = job
    assert job.run("--limit", "0")["requests"] == 0
    with held(job.output / "ledger.sqlite"):
        done = job.call("run")
    assert done.returncode == 75, done.stderr
    assert "has locked ledger.sqlite" in done.stderr
    assert "Nothing more was sent." in done.stderr
    assert sandbox.received() == 0


@pytest.mark.long
def test_a_write_that_gives_up_waiting_for_the_lock_does_not_stop_later_writes(tmp_path):
    """The write of a sealer is refused after 30 s, and the ledger accepts the next one."""
    path = tmp_path / "words.sqlite"
    db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("CREATE TABLE words (word)")
    commits = GroupCommit(db)
    with held(path), pytest.raises(LedgerBusy):
        commits.call(lambda db: db.execute("INSERT INTO words VALUES ('refused')"))
    commits.call(lambda db: db.execute("INSERT INTO words VALUES ('kept')"))
    assert commits.call(lambda db: db.execute("SELECT word FROM words").fetchall()) == [("kept",)]
    commits.close()
