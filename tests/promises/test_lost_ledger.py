"""With a ledger that is lost, empty or older than the files next to it, nothing is paid again.

On the other hand, no kill of a first run leaves a folder that every later run refuses.
"""

from __future__ import annotations

import shutil
import signal
import time
from pathlib import Path

import pytest

from tests.conftest import Job, SandboxProcess, ended
from tests.promises.test_power_loss import History, forget, put_back, trace
from tests.support.disk import Disk, read_trace
from tests.support.forks import forking

AMBIGUOUS = [["#fault:html-504-billed one"], ["#fault:html-504-billed two"], ["#fault:not-json"]]
COMMANDS = [
    ["run"],
    ["resume", "--ambiguous", "--yes"],
    ["check"],
    ["settle"],
    ["status"],
    ["report"],
    ["history"],
    ["show"],
    ["verify"],
]
# The files of such a run. A rehearsal also has its book.
LEFT = ["run.json", "summary.json", "failures.csv", "input.parquet", "log.jsonl"]


def remove_ledger(folder: Path) -> None:
    for path in folder.glob("ledger.sqlite*"):
        path.unlink()


def assert_refused(job: Job, sandbox: SandboxProcess, says: str = "") -> None:
    """Asserts that every command refuses the folder, and that nothing reaches the server."""
    before = sandbox.received()
    export = ["export", "--to", str(job.folder / "out.csv")]
    for verb, *options in [*COMMANDS, export]:
        done = job.call(verb, *options)
        assert done.returncode == 6, (verb, done.returncode, done.stderr)
        assert "Start it with" not in done.stderr
        assert says in done.stderr + done.stdout, (verb, done.stderr)
    assert sandbox.received() == before


@pytest.mark.parametrize("lost", ["gone", "empty"])
def test_any_file_that_a_run_left_shows_that_a_ledger_is_missing(sandbox, make_job, lost):
    """Three rows are maybe paid and none is sealed. One single file must be enough."""
    job = make_job(sandbox.url, rows=AMBIGUOUS)
    assert job.run(expect=5)["ambiguous"] == 3
    whole = Path(shutil.move(job.copied("whole"), job.folder / "whole"))
    for name in LEFT:
        shutil.rmtree(job.output)
        job.output.mkdir()
        shutil.copy(whole / name, job.output)
        if lost == "empty":
            (job.output / "ledger.sqlite").touch()
        assert_refused(job, sandbox, says="ledger.sqlite")
    shutil.rmtree(job.output)
    whole.rename(job.output)
    assert job.run(expect=5)["requests"] == 0


def test_a_report_or_a_part_also_shows_that_a_ledger_is_missing(sandbox, make_job):
    """The empty part, the lock and an empty log do not: a refused run leaves them, too."""
    job = make_job(sandbox.url, rows=[["a"]])
    job.run()
    job.call("report")
    whole = Path(shutil.move(job.copied("whole"), job.folder / "whole"))
    for name in ("report.html", "results/part-00001.parquet"):
        shutil.rmtree(job.output)
        (job.output / "results").mkdir(parents=True)
        shutil.copy(whole / name, job.output / name)
        assert_refused(job, sandbox, says="ledger.sqlite")
    shutil.rmtree(job.output)
    (job.output / "results").mkdir(parents=True)
    (job.output / "log.jsonl").touch()
    for name in ("lock", "results/part-00000.parquet"):
        shutil.copy(whole / name, job.output / name)
    assert job.run()["requests"] == 1


def test_the_book_of_a_rehearsal_shows_that_its_ledger_is_missing(make_job):
    """A rehearsal behaves like the paid run that it prepares."""
    job = make_job("http://127.0.0.1:9", rows=[["a"]])
    assert job.call("run", "--sandbox").returncode == 0
    rehearsed = job.output.with_name("job.sandbox")
    for path in rehearsed.iterdir():
        if path.is_file() and path.name != "sandbox-book.sqlite":
            path.unlink()
    shutil.rmtree(rehearsed / "results")
    done = job.call("run", "--sandbox")
    assert (done.returncode, "sandbox-book.sqlite" in done.stderr) == (6, True), done.stderr


@pytest.mark.parametrize("earlier", [0, 1])
def test_removing_the_log_after_a_kill_does_not_undo_a_run(start_sandbox, make_job, earlier):
    """After `kill -9` the last commits are only in `ledger.sqlite-wal`, which looks like litter.
    Without it, the ledger has only earlier runs, or none."""
    sandbox = start_sandbox(latency="20s")
    job = make_job(sandbox.url, rows=[["a"], ["b"], ["c"]])
    for _ in range(earlier):
        assert job.run("--limit", "0")["requests"] == 0
    process = job.start()
    with ended(process):
        while sandbox.received() < 3:
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
    (job.output / "ledger.sqlite-wal").unlink()
    assert_refused(job, sandbox)
    assert sandbox.received() == 3


def test_a_log_without_its_ledger_is_not_deleted(start_sandbox, make_job):
    """SQLite deletes the log of an empty ledger, but this one records paid requests."""
    sandbox = start_sandbox(latency="20s")
    job = make_job(sandbox.url, rows=[["a"]])
    process = job.start()
    with ended(process):
        while not sandbox.received():
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
    for path in job.output.iterdir():
        if path.is_file() and path.name != "ledger.sqlite-wal":
            path.unlink()
    log = (job.output / "ledger.sqlite-wal").read_bytes()
    assert log
    done = job.call("run")
    assert (done.returncode, "ledger.sqlite-wal" in done.stderr) == (6, True), done.stderr
    assert (job.output / "ledger.sqlite-wal").read_bytes() == log
    assert sandbox.received() == 1


@pytest.mark.skipif(not shutil.which("strace"), reason="strace is not installed")
def test_no_kill_of_a_first_run_leaves_a_folder_that_is_refused_or_pays_twice(sandbox, make_job):
    """Kills it after each system call that changed a name. The next run continues. Without the
    ledger, it continues only if nothing had been sent."""
    rows = [["story one"], ["story two"], ["story three"]]
    job = make_job(sandbox.url, rows=rows, concurrency=1, rate=500)
    history = History(Disk(job.folder))
    tried = refused = 0
    with forking(job.folder.parent, job.environment()) as forks:

        def goes_on() -> int:
            forget(sandbox)
            code = forks.call("run", str(job.spec), "--rate", "5000", "--quiet")
            billed = {body.encode() for body, times in sandbox.billed().items() if times}
            assert not billed & history.sent
            return code

        names: set[str] = set()
        for call in list(read_trace(trace(job, len(rows)))):
            history.follow(call)
            shown = history.disk.shown()
            if set(shown) == names:
                continue
            names = set(shown)
            put_back(shown, job)
            assert goes_on() in (0, 5), forks.complained
            put_back(shown, job)
            remove_ledger(job.output)
            code = goes_on()
            assert code in ((6,) if history.sent else (0, 6)), (names, forks.complained)
            tried, refused = tried + 1, refused + (code == 6)
    assert refused > 3
    assert tried - refused > 3
