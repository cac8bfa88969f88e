"""Full, read-only or damaged disks: exit code 6, no paid answer is lost, and room is enough.

The small disks are tmpfs mounts, which only some users may mount. The other tests need nothing.
"""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd
import pytest

from pipeline.core.clock import SystemClock
from pipeline.ledger.ledger import open_ledger
from tests.conftest import Job, SandboxProcess, ended
from tests.promises.test_signals import until
from tests.support.servers import Server

Mount = Callable[[int], Path]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Mount]:
    """Mounts a disk of a given size in kilobytes, and unmounts it at the end."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = False

    def mount(kilobytes: int) -> Path:
        nonlocal mounted
        options = f"size={kilobytes}k" + (",remount" if mounted else "")
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)]
        if not shutil.which("mount") or subprocess.run(command, check=False).returncode:
            pytest.skip("mounting a tmpfs takes root")
        mounted = True
        return place

    yield mount
    if mounted:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


def assert_nothing_lost(job: Job, sandbox: SandboxProcess, output: Path) -> None:
    """Asserts that every bill has its answer in the results, and that no body has two bills."""
    billed = sandbox.billed()
    results = pd.read_parquet(output / "results")
    assert set(results["variables"]) == {body for body, times in billed.items() if times}
    assert set(billed.values()) <= {0, 1}
    assert not results["row_key"].duplicated().any()


@pytest.mark.parametrize("kilobytes", [64, 1300, 1700, 2400])
def test_a_full_disk_stops_the_sending_saves_answers_in_flight_and_needs_only_room(
    start_sandbox, make_job, small_disk, kilobytes
):
    """Exit code 6 wherever the disk fills up. Once there is room, the printed command finishes the
    job."""
    sandbox = start_sandbox(latency="30ms")
    rows = [[f"story {n} " + "x" * 4000] for n in range(400)]
    job = make_job(sandbox.url, rows=rows, concurrency=8)
    output = small_disk(kilobytes) / "out"
    done = job.call("run", "--json", "--rate", "5000", "--output", str(output))
    assert done.returncode == 6, done.stderr
    said = json.loads(done.stdout)
    assert said["stopped"] == "storage"
    says_none = "Nothing was sent" in done.stderr or "Nothing more was sent" in done.stderr
    going_on = [line for line in done.stderr.splitlines() if line.startswith("Next: ")]
    assert len(going_on) == 1
    assert (sum(sandbox.billed().values()) == 0) == says_none
    small_disk(64_000)
    for line in going_on:
        assert job.paste(line[line.index("pipeline ") :]).returncode == 0
    summary = job.run("--output", str(output))
    assert (summary["ok"], summary["ambiguous"]) == (400, 0)
    assert_nothing_lost(job, sandbox, output)


@pytest.mark.skipif(not shutil.which("strace"), reason="strace is not installed")
@pytest.mark.parametrize("error", ["EDQUOT", "ENOSPC"])
def test_a_quota_that_is_used_up_is_treated_as_a_full_disk(start_sandbox, make_job, error):
    """One write of the ledger's log fails, as before the reserve is freed. SQLite calls a used-up
    quota a "disk I/O error". Before this test, that lost every answer in flight."""
    sandbox = start_sandbox(latency="50ms")
    job = make_job(sandbox.url, rows=[[f"story {n}"] for n in range(60)], concurrency=8)
    injected = ["-e", "trace=pwrite64", "-e", f"inject=pwrite64:error={error}:when=60"]
    log = ["-P", str(job.output / "ledger.sqlite-wal")]
    strace = ["strace", "-f", "-qq", "-o", "/dev/null", *injected, *log]
    job.run("--limit", "0")  # strace finds the log by its path
    done = job.shell([*strace, *job.command("run", "--rate", "5000")])
    assert done.returncode == 6, done.stderr
    billed = sandbox.billed()
    assert len(billed) > 8
    summary = job.run()
    assert (summary["ok"], summary["ambiguous"]) == (60, 0)
    assert_nothing_lost(job, sandbox, job.output)


def test_a_run_folder_that_cannot_be_made_ends_the_run_before_anything_is_sent(sandbox, make_job):
    """A file is in its place."""
    job = make_job(sandbox.url, rows=[["a"]])
    (job.folder / "taken").write_text("x")
    done = job.call("run", "--output", str(job.folder / "taken"))
    assert done.returncode == 2
    assert "Nothing was sent" in done.stderr
    done = job.call("run", "--output", str(job.folder / "taken" / "below"))
    assert done.returncode == 6
    assert "Nothing was sent" in done.stderr
    assert sandbox.received() == 0


def test_a_folder_with_the_users_own_files_is_refused_and_not_changed(sandbox, make_job):
    """`output:` may name it by mistake. The runner once silently made such a folder private."""
    job = make_job(sandbox.url, rows=[["a"]])
    own = job.folder / "letters"
    own.mkdir(mode=0o755)
    (own / "to-mother.txt").write_text("x")
    for verb in ("run", "check"):
        done = job.call(verb, "--output", str(own))
        assert done.returncode == 2, done.stderr
        assert "letters: this folder contains other files" in done.stderr
        assert f"for example {own}/run. Nothing was sent." in done.stderr
    assert [path.name for path in own.iterdir()] == ["to-mother.txt"]
    assert own.stat().st_mode & 0o777 == 0o755
    assert job.run("--output", str(own / "run"))["ok"] == 1
    assert own.stat().st_mode & 0o777 == 0o755


THEIRS = {
    "lock": "held by backup.sh\n",
    ".lock": "",
    "log.jsonl": '{"level": "info", "msg": "x"}\n',
    ".reserve": "seats 1 to 4\n",
    "summary.json": '{"total": 3}\n',
    "report.html": "<h1>1998</h1>",
    "run.json": '{"cmd": "make"}\n',
    "failures.csv": "a,b\n",
}


@pytest.mark.parametrize("beside", [True, False])
@pytest.mark.parametrize("name", THEIRS)
def test_a_file_with_a_name_that_a_run_uses_makes_no_folder_a_run_folder(
    sandbox, make_job, name, beside
):
    """Neither next to other files nor alone. Exit code 2, or 6 where a ledger may be lost."""
    job = make_job(sandbox.url, rows=[["a"]])
    own = job.folder / "mine"
    own.mkdir(mode=0o755)
    (own / name).write_text(THEIRS[name])
    if beside:
        (own / "notes.txt").write_text("x")
    before = {path.name: path.read_bytes() for path in own.iterdir()}
    done = job.call("run", "--output", str(own))
    assert done.returncode in ((2,) if beside else (2, 6)), done.stderr
    assert "Nothing was sent" in done.stderr
    assert {path.name: path.read_bytes() for path in own.iterdir()} == before
    assert own.stat().st_mode & 0o777 == 0o755
    assert sandbox.received() == 0


@pytest.mark.parametrize("name", ["", ".gitkeep", "results"])
def test_an_almost_empty_folder_becomes_the_run_folder(sandbox, make_job, name):
    """From then on only the user has access."""
    job = make_job(sandbox.url, rows=[["a"]])
    job.output.mkdir(parents=True, mode=0o755)
    if name:
        (job.output / name).mkdir() if name == "results" else (job.output / name).touch()
    assert job.run()["ok"] == 1
    assert job.output.stat().st_mode & 0o777 == 0o700


def test_no_reserve_is_left_behind(sandbox, make_job):
    """The reserve is only for the time of sending."""
    job = make_job(sandbox.url, rows=[["a"]])
    job.run()
    assert not [p.name for p in job.output.iterdir() if p.name.startswith(".")]


@pytest.mark.parametrize(
    "name", ["lock", "log.jsonl", ".reserve", "results/.part-00001.parquet", "ledger.sqlite"]
)
def test_a_file_that_cannot_be_opened_ends_the_run_before_anything_is_sent(sandbox, make_job, name):
    """As after a run by another user. Here a folder is in its place. Exit code 6, no traceback."""
    job = make_job(sandbox.url, rows=[["a"]])
    place = job.output / name
    place.mkdir(parents=True)
    done = job.call("run", "--quiet")
    assert (done.returncode, "Traceback" in done.stderr) == (6, False), done.stderr
    assert sandbox.received() == 0
    place.rmdir()
    assert job.run()["ok"] == 1


def fill(disk: Path) -> None:
    """Fills a disk until not one byte more fits."""
    with (disk / "filler").open("ab", 0) as filler, contextlib.suppress(OSError):
        while filler.write(b"x" * 4096):
            pass


def test_a_disk_that_is_full_at_the_first_start_is_reported_in_words(sandbox, make_job, small_disk):
    """Exit code 6, however much fits. Nothing is sent, and making room is enough to continue."""
    job = make_job(sandbox.url, rows=[["a"]])
    for pages in (0, 1, 2, 3, 5, 8, 10, 20, 24, 25, 26, 27, 28, 30, 32):
        disk = small_disk(256)
        fill(disk)
        with (disk / "filler").open("ab") as filler:
            filler.truncate(filler.tell() - pages * 4096)
        output = str(disk / "out")
        done = job.call("run", "--output", output)
        assert done.returncode == 6, (pages, done.stderr)
        assert "Traceback" not in done.stderr, done.stderr
        assert re.search("is full|No space left", done.stderr), done.stderr
        assert sandbox.received() == 0
        (disk / "filler").unlink()
        status = job.call("status", "--output", output)
        assert status.returncode in (0, 2), (pages, status.stderr)
        shutil.rmtree(output)
    small_disk(64_000)
    assert job.run("--output", output)["ok"] == 1


READING = [["status"], ["verify"], ["history"], ["check"], ["show"], ["export", "--to"]]


@pytest.mark.parametrize("ends", ["well", "killed"])
def test_commands_that_only_read_work_on_a_full_disk(start_sandbox, make_job, small_disk, ends):
    """They print the same as before, and no run can begin meanwhile. SQLite's readers need a file
    next to the ledger, and there is no room for it."""
    sandbox = start_sandbox(latency="20s" if ends == "killed" else "1ms")
    job = make_job(sandbox.url, rows=[["a"], ["b"]])
    disk = small_disk(64_000)
    output = str(disk / "out")
    if ends == "well":
        job.run("--output", output)
    else:
        process = job.start("--output", output)
        with ended(process):
            while sandbox.received() < 2:
                time.sleep(0.05)
            process.kill()

    def said() -> list[str]:
        exported = job.folder / "out.csv"
        exported.unlink(missing_ok=True)
        told = []
        for words in READING:
            more = [str(exported)] if words[0] == "export" else []
            done = job.call(*words, *more, "--output", output)
            assert done.returncode == 0, (words, done.stderr)
            told.append(done.stdout)
        return [*told, exported.read_text()]

    before = said()
    if ends == "well":  # the readers left their files, which the last writer removes
        with open_ledger(disk / "out" / "ledger.sqlite", SystemClock()):
            pass
        assert not list((disk / "out").glob("ledger.sqlite-*"))
    fill(disk)
    assert said() == before
    assert job.call("run", "--output", output).returncode == 6
    assert sandbox.received() == 2


@pytest.mark.parametrize("lost", ["gone", "empty"])
def test_with_a_lost_ledger_and_results_nothing_is_paid_again(sandbox, make_job, lost):
    """The ledger is the only record of paid requests: exit code 6, and nothing is sent."""
    job = make_job(sandbox.url, rows=[["a"], ["b"]])
    job.run()
    ledger = job.output / "ledger.sqlite"
    ledger.rename(job.folder / "kept")
    if lost == "empty":
        ledger.touch()
    done = job.call("run")
    assert done.returncode == 6, done.stderr
    assert "Nothing was sent" in done.stderr
    assert sandbox.received() == 2
    (job.folder / "kept").rename(ledger)
    assert job.run()["requests"] == 0


@pytest.mark.parametrize("lost", ["gone", "empty"])
def test_no_command_takes_a_lost_ledger_for_a_job_without_runs(sandbox, make_job, lost):
    """`settle` once made a new ledger, and the next run paid for all rows again."""
    job = make_job(sandbox.url, rows=[["a"], ["b"]])
    job.run()
    ledger = job.output / "ledger.sqlite"
    ledger.unlink()
    if lost == "empty":
        job.call("run")  # refused, and leaves an empty ledger
    for words in (["settle"], ["settle", "--only", "timeout"], ["status"], ["report"], ["history"]):
        done = job.call(*words)
        assert done.returncode == 6, (words, done.stderr)
        assert "ledger.sqlite: the ledger is missing or empty" in done.stderr
        assert "Start it with" not in done.stderr
    assert "ledger.sqlite: the file is missing or empty" in job.call("verify").stdout
    assert job.call("run").returncode == 6
    assert sandbox.received() == 2


def half_made(path: Path) -> None:
    """Writes the files that a kill within the first transaction leaves: pages and a journal."""
    with contextlib.closing(sqlite3.connect(path.with_name("whole"), isolation_level=None)) as db:
        db.executescript("PRAGMA cache_size = 1; BEGIN; CREATE TABLE kept (text);")
        db.executemany("INSERT INTO kept VALUES (?)", [("x" * 3000,)] * 50)
        shutil.copy(path.with_name("whole"), path)
        shutil.copy(path.with_name("whole-journal"), f"{path}-journal")


@pytest.mark.parametrize("made", [Path.touch, half_made])
def test_a_kill_before_the_ledgers_first_table_is_not_damage(sandbox, make_job, made):
    """`status` reports that there was no run, and `run` starts one."""
    job = make_job(sandbox.url, rows=[["a"]])
    job.output.mkdir(parents=True)
    made(job.output / "ledger.sqlite")
    done = job.call("status")
    assert (done.returncode, "no run yet" in done.stderr) == (2, True)
    assert job.run()["ok"] == 1


def test_a_part_that_cannot_be_written_during_a_run_ends_the_run(make_job):
    """If answers cannot be sealed, the runner must not pay for more of them."""
    with Server() as server:
        job = make_job(server.url, rows=[[f"story {n}"] for n in range(12_000)])
        process = job.start("--quiet", rate="1500")
        with ended(process):
            until(lambda: server.received.total() > 0, 30)
            in_its_place = job.results / ".part-00001.parquet"
            in_its_place.mkdir()
            assert process.wait(timeout=60) == 6
        assert server.received.total() < 9_000  # the first part is due after 2,000 answers
        in_its_place.rmdir()
        assert job.run()["ok"] == 12_000
        assert set(server.received.values()) == {1}
