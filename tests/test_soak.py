"""The long tests: `make soak`. They take minutes, and the first needs strace."""

from __future__ import annotations

import random
import shutil
import signal
import subprocess
import time

import pytest

from tests.conftest import Job, SandboxProcess, ended
from tests.test_crash import assert_nothing_lost_or_paid_twice

pytestmark = pytest.mark.long

ROWS = [[f"story number {n}"] for n in range(60)]
IN_FLIGHT = 4
# How often each call is let through before the process dies at it, until a run ends untouched.
STEPS = {"fdatasync": 3, "fsync": 1, "pwrite64": 41, "rename": 1, "openat": 97, "unlink": 1}


def _killed_at(job: Job, call: str, when: int) -> bool:
    """Whether a run died at its `when`-th system call of that name."""
    command = [
        *("strace", "-f", "-qq", "-o", "/dev/null", "-e", f"trace={call}"),
        *("-e", f"inject={call}:signal=KILL:when={when}"),
        *job.command("run", "--rate", "400", "--quiet"),
    ]
    done = subprocess.run(command, env=job.environment(), capture_output=True, check=False)
    return done.returncode in (137, -9)


@pytest.mark.skipif(not shutil.which("strace"), reason="strace is not installed")
@pytest.mark.parametrize("call", STEPS)
def test_killed_at_every_system_call_nothing_is_lost_and_nothing_is_paid_twice(
    start_sandbox, make_job, call
):
    """One fresh folder for each instant; then the same command finishes it."""
    when, deaths = 1, 0
    while True:
        sandbox: SandboxProcess = start_sandbox(latency="5ms")
        job = make_job(sandbox.url, rows=ROWS, concurrency=IN_FLIGHT)
        killed = _killed_at(job, call, when)
        deaths += killed
        done = job.call("run", "--json", "--rate", "400")
        assert done.returncode in (0, 5), done.stderr
        summary = job.status()
        assert_nothing_lost_or_paid_twice(job, sandbox, summary, IN_FLIGHT)
        shutil.rmtree(job.output)
        sandbox.stop()
        if not killed:
            break
        when += STEPS[call]
    assert deaths > 0
    print(f"{call}: died at {deaths} instants")


def test_two_hundred_kills_of_run_resume_and_export(start_sandbox, make_job):
    """500 rows, 32 in flight, the commands as they come."""
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
