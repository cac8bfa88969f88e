"""Two runs that start together in one run folder: one works, the other says so at once."""

from __future__ import annotations

import shutil
import threading
import time
from pathlib import Path

import pytest

from pipeline.job.run_folder import RunFolder
from tests.conftest import Job, SandboxProcess
from tests.support.forks import Forks, forking

ROWS = 8


def start_two(job: Job, sandbox: SandboxProcess, one: Forks, other: Forks) -> bool:
    """Starts two runs in a fresh folder. Returns whether they met: on a busy machine one may be
    done before the other begins."""
    shutil.rmtree(job.output, ignore_errors=True)
    received = sandbox.received()
    words = ("run", str(job.spec), "--rate", "20", "--quiet")
    running = {forks.start(*words): forks for forks in (one, other)}
    waiting = dict(running)
    while len(waiting) == 2:
        waiting = {pid: forks for pid, forks in waiting.items() if not has_ended(pid)}
        time.sleep(0.01)
    codes = {forks.wait(pid): forks.complained for pid, forks in running.items()}
    assert sandbox.received() == received + ROWS
    if 75 in codes:
        assert "another run (process" in codes[75]
        assert "Nothing was sent" in codes[75]
    assert set(codes) <= {0, 75}, codes
    return 75 in codes


def has_ended(pid: int) -> bool:
    """Whether a child of another process of this test has ended and was not waited for yet."""
    return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"


def starts(job: Job, sandbox: SandboxProcess, tmp_path: Path, times: int) -> None:
    """Starts two runs `times` times. Most of the pairs meet."""
    folders = [tmp_path / "one", tmp_path / "other"]
    for folder in folders:
        folder.mkdir()
    with (
        forking(folders[0], job.environment()) as one,
        forking(folders[1], job.environment()) as other,
    ):
        assert sum(start_two(job, sandbox, one, other) for _ in range(times)) > times / 2


def each_once(sandbox: SandboxProcess, times: int) -> None:
    """Checks that every fresh folder paid for each row once."""
    assert set(sandbox.billed().values()) == {times}


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
def test_of_two_runs_that_start_together_one_works_and_the_other_says_locked_at_once(
    sandbox, make_job, tmp_path
):
    """Five times, each in a fresh folder."""
    job = make_job(sandbox.url, rows=[[f"story {n}"] for n in range(ROWS)])
    starts(job, sandbox, tmp_path, 5)
    each_once(sandbox, 5)


@pytest.mark.long
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
def test_of_two_runs_that_start_together_fifty_times_one_works_each_time(
    sandbox, make_job, tmp_path
):
    """Fifty times."""
    job = make_job(sandbox.url, rows=[[f"story {n}"] for n in range(ROWS)])
    starts(job, sandbox, tmp_path, 50)
    each_once(sandbox, 50)


def test_temporary_files_of_another_run_are_not_refused_as_odd_files(tmp_path):
    """SQLite's journal and drafts may vanish after the folder is listed."""
    folder = RunFolder(tmp_path)
    (tmp_path / "ledger.sqlite").touch()
    ended = threading.Event()

    def come_and_go() -> None:
        while not ended.is_set():
            for number in range(20):
                (tmp_path / f".run.json.{number:08x}.draft").touch()
            for number in range(20):
                (tmp_path / f".run.json.{number:08x}.draft").unlink()

    thread = threading.Thread(target=come_and_go)
    thread.start()
    try:
        for _ in range(300):
            folder.refuse_unusable()
    finally:
        ended.set()
        thread.join()
