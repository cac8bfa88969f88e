"""`status --watch`: follows the run of another process and ends with it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time

import pytest

from tests.commands.test_commands import _exit_code, _on_a_terminal
from tests.conftest import ended


@pytest.fixture
def running(start_sandbox, make_job):
    """A job whose run takes a few more seconds."""
    sandbox = start_sandbox(latency="1500ms")
    job = make_job(sandbox.url, rows=[["a"], ["b"]], concurrency=1)
    process = job.start()
    with ended(process):
        while not sandbox.received():
            time.sleep(0.02)
        yield job, process


def test_without_a_terminal_watch_prints_plain_lines_ends_with_the_run_and_changes_nothing(running):
    """No control character, exit 0, and the last status is the final one."""
    job, process = running
    done = job.call("status", "--json", "--watch", "0.1")
    assert process.wait(1) == 0
    assert done.returncode == 0
    assert "\x1b" not in done.stderr
    lines = done.stderr.splitlines()
    assert sum("in flight, " in line for line in lines) == 1
    assert "1 in flight, " in done.stderr
    assert "Last run:" in lines[-1]
    assert "exit 0" in lines[-1]
    assert json.loads(done.stdout)["ok"] == 2
    assert job.call("status", "--watch").stdout.splitlines()[0] == "job: 2 rows: 2 ok."
    assert job.call("verify").returncode == 0


def test_on_a_terminal_watch_draws_over_its_last_status_and_ends_with_ctrl_c(running):
    """Exit 0, and the run continues."""
    job, process = running
    environment = job.environment(COLUMNS="60", TERM="xterm")
    pid, terminal = _on_a_terminal(job.command("status", "--watch=0.1"), environment)
    seen = b""
    while seen.count(b"\x1b[J") < 2:
        seen += os.read(terminal, 4096)
    os.kill(pid, signal.SIGINT)
    assert _exit_code(pid, terminal) == 0
    assert process.poll() is None
    assert max(len(line) for line in seen.split(b"\r\n")) <= 60 + len(b"\x1b[99F\x1b[J")


def test_watch_without_an_active_run_prints_the_status_once(sandbox, make_job):
    """Before the first run it says how to start one."""
    job = make_job(sandbox.url, rows=[["a"]])
    done = job.call("status", "--watch")
    assert (done.returncode, "pipeline run" in done.stderr) == (2, True)
    assert subprocess.run(job.command("status", "--watch=0"), capture_output=True).returncode == 2
