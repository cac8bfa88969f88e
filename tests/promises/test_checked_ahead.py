"""A long job is checked at the end of a run. The next run trusts the bytes, and only the bytes."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import time
from pathlib import Path

import pandas as pd
import pytest

import pipeline
from pipeline.core.events import Event, Notice
from pipeline.ledger.sound import content_of
from pipeline.run.waits import CHECKING_AHEAD, PREPARING
from tests.conftest import Job
from tests.support.browser import eventually
from tests.support.screen import screen

# The requests of these rows make a ledger that is as large as that of 100,000 short rows.
LONG = [[f"{name} {'x' * 4_000_000}"] for name in "abcde"]


def remembered(job: Job) -> set[str]:
    folder = job.folder / "cache" / "pipeline" / "sound"
    return {path.name for path in folder.iterdir()} if folder.exists() else set()


def ledger_of(job: Job) -> Path:
    return job.output / "ledger.sqlite"


def test_a_run_leaves_a_checked_ledger_and_the_next_one_sends_only_what_is_new(sandbox, make_job):
    job = make_job(sandbox.url, rows=LONG)
    assert job.run()["ok"] == 5
    assert remembered(job) == {content_of(ledger_of(job))}
    job.write_sheet(["story"], [*LONG, ["new"]])
    assert job.run()["ok"] == 6
    assert content_of(ledger_of(job)) in remembered(job)
    assert len(remembered(job)) == 2
    assert list(sandbox.billed().values()) == [1] * 6


def test_a_byte_that_changes_between_two_runs_stops_the_second(sandbox, make_job):
    job = make_job(sandbox.url, rows=LONG)
    job.run()
    content = ledger_of(job).read_bytes()
    [key, *_] = map(bytes.fromhex, pd.read_parquet(job.results)["row_key"])
    assert key in content
    ledger_of(job).write_bytes(content.replace(key, b"another".ljust(16)))
    failed = job.call("run")
    assert failed.returncode == 6, failed.stderr
    assert "is damaged" in failed.stderr
    assert sandbox.received() == 5
    assert len(remembered(job)) == 1


def test_a_cancelled_call_ends_the_process_of_its_check(sandbox, make_job, monkeypatch):
    """Otherwise the caller's loop would wait for the check of a million rows. Here the check
    stands still."""
    job = make_job(sandbox.url, rows=LONG)
    job.run()
    job.write_sheet(["story"], [*LONG, ["new"]])
    (job.output / "summary.json").unlink()
    for name, value in job.environment().items():
        monkeypatch.setenv(name, value)

    async def cancelled() -> None:
        task = asyncio.create_task(pipeline.run_job_async(job.spec))
        # The check before the run ends before the summary is written.
        while not (job.output / "summary.json").exists() or not (found := checks(job)):
            assert not task.done()
            await asyncio.sleep(0.01)
        os.kill(found[0], signal.SIGSTOP)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        try:
            eventually(lambda: not Path(f"/proc/{found[0]}").exists())
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(found[0], signal.SIGCONT)

    asyncio.run(cancelled())
    assert content_of(ledger_of(job)) not in remembered(job)
    assert job.run()["requests"] == 0
    assert list(sandbox.billed().values()) == [1] * 6


def test_a_run_that_shows_nothing_for_seconds_says_what_it_does(sandbox, make_job, monkeypatch):
    """Once before the first request, and once after the last. Both checks stand still here until
    it has said so."""
    job = make_job(sandbox.url, rows=LONG)
    job.run()
    for path in (job.folder / "cache" / "pipeline" / "sound").iterdir():
        path.unlink()  # otherwise the ledger is known, and the first check takes no time
    job.write_sheet(["story"], [*LONG, ["new"]])
    for name, value in job.environment().items():
        monkeypatch.setenv(name, value)
    said: list[str] = []

    def listen(event: Event) -> None:
        if isinstance(event, Notice):
            said.append(event.message)

    async def slow() -> None:
        task = asyncio.create_task(
            pipeline.run_job_async(job.spec, pipeline.RunOptions(listeners=(listen,)))
        )
        for sentence in (PREPARING, CHECKING_AHEAD):
            while not (found := checks(job)):
                assert not task.done()
                await asyncio.sleep(0.01)
            os.kill(found[0], signal.SIGSTOP)
            while sentence not in said:
                assert not task.done()
                await asyncio.sleep(0.01)
            os.kill(found[0], signal.SIGCONT)
            while found[0] in checks(job):
                await asyncio.sleep(0.01)
        assert (await task).ok == 6

    asyncio.run(asyncio.wait_for(slow(), 60))
    assert said.index(PREPARING) < said.index(CHECKING_AHEAD)
    assert list(sandbox.billed().values()) == [1] * 6


@pytest.mark.parametrize(("options", "says"), [((), True), (("--quiet",), False)])
def test_a_check_that_shows_nothing_for_seconds_says_the_same(sandbox, make_job, options, says):
    """On a terminal. `--quiet` and a log file have nothing of it."""
    job = make_job(sandbox.url, rows=LONG)
    job.run()
    for path in (job.folder / "cache" / "pipeline" / "sound").iterdir():
        path.unlink()
    with screen(200) as terminal, (job.folder / "log").open("w+") as log:
        for stderr in (terminal.stream, log):
            started = subprocess.Popen(
                job.command("check", *options),
                env=job.environment(),
                stdout=subprocess.DEVNULL,
                stderr=stderr,
            )
            eventually(lambda pid=started.pid: checks(job, pid))
            [check] = checks(job, started.pid)
            os.kill(check, signal.SIGSTOP)
            if says and stderr is not log:
                eventually(lambda: PREPARING in terminal.lines())
            else:
                time.sleep(2.5)
            os.kill(check, signal.SIGCONT)
            assert started.wait(60) == 0
        assert (PREPARING in terminal.lines()) is says
        log.seek(0)
        assert PREPARING not in log.read()


def checks(job: Job, parent: int | None = None) -> list[int]:
    """Returns the processes of `parent`, by default this process, that check the job's ledger."""
    words = f"pipeline.ledger.integrity\0{job.output}".encode()
    return [
        int(child)
        for path in Path(f"/proc/{parent or os.getpid()}/task").glob("*/children")
        for child in path.read_text().split()
        if words in Path(f"/proc/{child}/cmdline").read_bytes()
    ]


def test_a_run_without_a_cache_folder_is_like_any_other(sandbox, make_job):
    job = make_job(sandbox.url, rows=LONG)
    for _ in range(2):
        done = job.call("run", env=job.environment(XDG_CACHE_HOME="/dev/null"))
        assert done.returncode == 0, done.stderr
    assert sandbox.received() == 5
