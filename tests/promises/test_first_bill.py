"""Before the first paid run of a folder, a person is asked once if nothing limits it."""

from __future__ import annotations

import os
import pty
import shlex
import subprocess

import pytest

from tests.conftest import Job, SandboxProcess
from tests.support.browser import eventually

ROWS = [["a"], ["b"], ["c"]]
QUESTION = "At most 3 requests may be billed."


def on_terminal(job: Job, answer: str, *options: str) -> tuple[int, str]:
    """Runs the job on a terminal where a person types `answer`. Returns the exit code and what it
    showed."""
    terminal, its_end = pty.openpty()
    process = subprocess.Popen(
        job.command("run", *options),
        env=job.environment(),
        stdin=its_end,
        stdout=its_end,
        stderr=its_end,
    )
    os.close(its_end)
    os.write(terminal, f"{answer}\n".encode())
    shown = b""
    try:
        while chunk := os.read(terminal, 65536):
            shown += chunk
    except OSError:  # Linux reports the closed other end in this way
        pass
    os.close(terminal)
    return process.wait(), shown.decode()


@pytest.fixture
def job(make_job, sandbox: SandboxProcess) -> Job:
    return make_job(sandbox.url, rows=ROWS)


def test_the_question_names_the_number_of_requests_and_comes_once(job: Job, sandbox):
    code, shown = on_terminal(job, "n")
    assert (code, QUESTION in shown) == (2, True), shown
    assert sandbox.received() == 0
    code, shown = on_terminal(job, "y")
    assert (code, QUESTION in shown) == (0, True), shown
    assert sandbox.received() == 3
    job.write_sheet(["story"], [*ROWS, ["d"]])
    code, shown = on_terminal(job, "n")
    assert (code, "may be billed" in shown) == (0, False), shown
    assert sandbox.received() == 4


@pytest.mark.parametrize(
    "options", [("--yes",), ("--limit", "3"), ("--max-paid", "9"), ("--sandbox",)]
)
def test_whoever_set_a_limit_or_agreed_is_not_asked(job: Job, options):
    code, shown = on_terminal(job, "n", *options)
    assert (code, "may be billed" in shown) == (0, False), shown


@pytest.mark.parametrize("key", ["max_paid", "max_paid_per_run"])
def test_a_limit_in_the_job_file_is_one(job: Job, key: str):
    job.write_spec(**{key: 9})
    code, shown = on_terminal(job, "n")
    assert (code, "may be billed" in shown) == (0, False), shown


def test_a_run_in_the_background_of_a_terminal_is_not_asked(job: Job, sandbox):
    """The system would stop it when it reads the answer, and it would keep the run folder."""
    words = shlex.join([str(word) for word in job.command("run")])
    pid, terminal = pty.fork()
    if not pid:
        os.execvpe("bash", ["bash", "--norc", "-i"], job.environment() | {"TERM": "dumb"})
    os.write(terminal, f"{words} &\nwait -f; exit\n".encode())
    eventually(lambda: sandbox.received() == 3)
    os.close(terminal)
    os.waitpid(pid, 0)


def test_without_a_person_the_run_begins(job: Job, sandbox):
    assert job.call("run").returncode == 0
    assert sandbox.received() == 3
