"""The long tests of `make soak`. They take minutes, and the first ones need strace."""

from __future__ import annotations

import json
import random
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterable
from itertools import chain, count

import pytest

from tests.conftest import Job, SandboxProcess, ended
from tests.promises.test_crash import assert_nothing_lost_or_paid_twice

pytestmark = pytest.mark.long

ROWS = [[f"story number {n}"] for n in range(24)]
IN_FLIGHT = 4
KILLED_AT = ("fdatasync", "fsync", "write", "pwrite64", "rename", "openat", "ftruncate", "unlink")


def _injected(
    job: Job, call: str, what: str, files: Iterable[str] = ()
) -> subprocess.CompletedProcess[str]:
    """Runs a job with a fault in one of its system calls, or in all from one on.

    With `files`, only calls on one of these files are counted. strace counts them for each thread.
    """
    command = [
        *("strace", "-f", "-qq", "-o", "/dev/null", "-e", f"trace={call}"),
        *("-e", f"inject={call}:{what}"),
        *(word for name in files for word in ("-P", name)),
        *job.command("run", "--rate", "400", "--quiet"),
    ]
    return job.shell(command)


def _files_touched(job: Job) -> set[str]:
    """Returns every path in the run folder that a whole run names or opens, the folder included."""
    trace = job.folder / "trace"
    command = ["strace", "-f", "-qq", "-y", "-o", str(trace), "-e", "trace=%file,%desc"]
    done = job.shell([*command, *job.command("run", "--rate", "400", "--quiet")])
    assert done.returncode == 0, done.stderr
    return set(re.findall(rf'{re.escape(str(job.output))}[^">,]*', trace.read_text()))


needs_strace = pytest.mark.skipif(not shutil.which("strace"), reason="strace is not installed")


@needs_strace
@pytest.mark.parametrize("call", KILLED_AT)
def test_a_kill_at_any_system_call_loses_nothing_and_pays_nothing_twice(
    start_sandbox, make_job, call
):
    """Call N = 1, 2, … on a file of the run folder kills the run, each time in a new folder, until
    a run ends without a kill. Then the next `run` finishes each job. Of the many writes only every
    third is tested, from a random one on."""
    files: set[str] = set()
    step = 3 if call == "pwrite64" else 1
    for when in chain((0,), count(random.randint(1, step), step)):
        sandbox: SandboxProcess = start_sandbox(latency="5ms")
        job = make_job(sandbox.url, rows=ROWS, concurrency=IN_FLIGHT)
        if when == 0:
            files = _files_touched(job)
            killed = True
        else:
            done = _injected(job, call, f"signal=KILL:when={when}", sorted(files))
            killed = done.returncode in (137, -signal.SIGKILL)
            assert killed or done.returncode == 0, done.stderr
        finished = job.call("run", "--json", "--rate", "400")
        assert finished.returncode in (0, 5), finished.stderr
        assert_nothing_lost_or_paid_twice(job, sandbox, job.status(), IN_FLIGHT)
        shutil.rmtree(job.output)
        sandbox.stop()
        if not killed:
            break
    assert when > 1
    print(f"{call}: died at {(when - 1) // step} instants")


# (call, fault, step): the disk is full or broken from call n on, or one call fails, or it writes
# only three bytes. The test tries the calls 1, 1 + step, 1 + 2 * step and so on.
REFUSALS = [
    ("fdatasync", "error=EIO:when={n}+", 3),
    ("fdatasync", "error=EIO:when={n}", 7),
    ("fsync", "error=EIO:when={n}+", 1),
    ("pwrite64", "error=ENOSPC:when={n}+", 61),
    ("pwrite64", "error=EDQUOT:when={n}", 83),
    ("pwrite64", "error=EIO:when={n}", 97),
    ("pwrite64", "retval=3:when={n}", 83),
    ("write", "error=ENOSPC:when={n}+", 11),
    ("rename", "error=EIO:when={n}", 1),
]


@needs_strace
@pytest.mark.parametrize(("call", "what", "step"), REFUSALS)
def test_a_refused_write_loses_nothing_and_pays_nothing_twice(
    start_sandbox, make_job, call, what, step
):
    """The run ends with 6 or its own exit code and never loses a bill. On a sound disk the next
    `run` finishes."""
    when, refused = 1, 0
    while when < 40 * step:
        sandbox: SandboxProcess = start_sandbox(latency="5ms")
        job = make_job(sandbox.url, rows=ROWS, concurrency=IN_FLIGHT)
        done = _injected(job, call, what.format(n=when))
        refused += done.returncode == 6
        untouched = done.returncode == 0
        finished = job.call("run", "--json", "--rate", "400")
        if what.startswith("retval") and finished.returncode == 6:
            # The disk reported a write that it did not do. The runner notices, and pays only once.
            assert "damaged" in finished.stderr
            assert max(sandbox.billed().values()) == 1
            sandbox.stop()
            shutil.rmtree(job.output)
            when += step
            continue
        assert finished.returncode in (0, 5), (when, finished.stderr)
        assert_nothing_lost_or_paid_twice(job, sandbox, job.status(), IN_FLIGHT)
        shutil.rmtree(job.output)
        sandbox.stop()
        if untouched and what.endswith("+"):
            break
        when += step
    assert refused > 0 or "retval" in what
    print(f"{call} {what}: refused {refused} times")


@pytest.mark.long(first=True)
def test_an_answer_after_290_seconds_is_ok_and_paid_once(start_sandbox, make_job):
    """The API's page allows 300 s, and the runner waits for 330 s."""
    sandbox = start_sandbox(latency="290s")
    job = make_job(sandbox.url, rows=[["a long story"]])
    done = job.shell(job.command("run", "--json"), timeout=400)
    assert json.loads(done.stdout)["ok"] == 1
    assert list(sandbox.billed().values()) == [1]


def test_half_a_million_rows_fit_into_a_gigabyte(start_sandbox, make_job):
    """All rows are read, keyed and looked up, and one in ten thousand is sent. Then all of it runs
    again."""
    sandbox = start_sandbox()
    job = make_job(sandbox.url)
    with job.sheet.open("w", encoding="utf-8") as file:
        file.write("story\n")
        file.writelines(f"a story about dog number {n} of half a million\n" for n in range(500_000))
    for sent in (50, 0):
        done = job.measured("run", "--limit", "50", "--json")
        summary = json.loads(done.stdout.splitlines()[-1])
        assert (summary["rows"], summary["requests"]) == (500_000, sent)
        assert done.peak_bytes < 1e9


def test_two_hundred_kills_of_run_resume_and_export_lose_nothing_and_pay_nothing_twice(
    start_sandbox, make_job
):
    """There are 500 rows with 32 in flight, and the commands take turns."""
    sandbox = start_sandbox(latency="300ms")
    job = make_job(sandbox.url, rows=[[f"story number {n}"] for n in range(500)], concurrency=32)
    chance = random.Random(7)
    kills = 0
    for turn in range(200):
        verb = ("run", "resume", "export")[turn % 3]
        options = ["--to", str(job.folder / "out.csv")] if verb == "export" else ["--rate", "20"]
        process = subprocess.Popen(
            job.command(verb, *options),
            env=job.environment(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        with ended(process):
            time.sleep(chance.uniform(0.2, 1.2))
            kills += process.poll() is None
            process.send_signal(signal.SIGKILL)
    assert kills > 100
    done = job.call("run", "--rate", "500")
    assert done.returncode in (0, 5), done.stderr
    assert_nothing_lost_or_paid_twice(job, sandbox, job.status(), 32 * kills)
