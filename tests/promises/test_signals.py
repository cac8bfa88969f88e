"""Signals in every stage of a run, and other things that a terminal or a machine does to a run."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import pipeline
from pipeline.core.errors import Refused
from tests.conftest import Job, closed_port, ended
from tests.promises.test_crash import assert_nothing_lost_or_paid_twice
from tests.support.servers import Server, rate_limited

SIGNALS = [
    (signal.SIGTERM, 143),
    pytest.param(signal.SIGINT, 130, marks=pytest.mark.long),
    pytest.param(signal.SIGHUP, 143, marks=pytest.mark.long),
]


def until(condition: Callable[[], object], timeout_s: float = 20.0) -> None:
    """Waits until `condition()` is true."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def left(process: subprocess.Popen[bytes]) -> int:
    """Returns the exit code of a process that must end now and not after its far longer wait."""
    return process.wait(timeout=10)


def catches(process: subprocess.Popen[bytes], number: int) -> bool:
    """Whether a process has a handler for a signal yet, according to Linux."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    [caught] = re.findall(r"^SigCgt:\s*([0-9a-f]+)$", status, re.MULTILINE)
    return bool(int(caught, 16) >> (number - 1) & 1)


def log_of(job: Job) -> str:
    """Returns the text of the run's log."""
    return (job.output / "log.jsonl").read_text()


def start(job: Job, *options: str, verb: str = "run") -> subprocess.Popen[bytes]:
    """Starts the runner and captures its output."""
    return subprocess.Popen(
        job.command(verb, *options),
        env=job.environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


@pytest.mark.parametrize(("number", "code"), SIGNALS)
def test_a_signal_while_the_sheet_is_read_ends_the_run_before_anything_is_sent(
    sandbox, make_job, number, code
):
    """A long sheet takes many seconds. The run does not finish reading it."""
    job = make_job(sandbox.url, columns=["story"], rows=[])
    with job.sheet.open("w") as file:
        file.write("story\n")
        file.writelines(f"story number {n}\n" for n in range(600_000))
    process = start(job, "--json")
    with process, ended(process):
        until((job.output / ".input.parquet.new").exists)
        time.sleep(0.2)
        process.send_signal(number)
        assert left(process) == code
        assert process.stdout is not None
        said = json.loads(process.stdout.read())
    assert (said["stopped"], said["exit_code"]) == ("interrupted", code)
    assert sandbox.received() == 0
    job.write_sheet(["story"], [["a"]])
    assert job.run()["ok"] == 1


@pytest.mark.parametrize(("number", "code"), SIGNALS)
def test_a_signal_during_the_wait_for_another_run_ends_the_wait(sandbox, make_job, number, code):
    """`--if-locked wait` waits for hours if necessary."""
    from pipeline.job.run_folder import RunFolder

    job = make_job(sandbox.url, rows=[["a"]])
    folder = RunFolder(job.output)
    folder.create()
    with folder.locked():
        process = start(job, "--if-locked", "wait")
        with process, ended(process):
            until(lambda: catches(process, signal.SIGTERM))
            time.sleep(0.2)
            assert process.poll() is None
            process.send_signal(number)
            assert left(process) == code
    assert sandbox.received() == 0


@pytest.mark.parametrize("signals", [pytest.param(1, marks=pytest.mark.long), 2])
def test_a_signal_during_the_wait_for_a_slot_ends_the_wait(sandbox, make_job, signals):
    """The rate is one request in a hundred seconds, and the first one leaves after that time."""
    job = make_job(sandbox.url, rows=[["a"], ["b"], ["c"]])
    process = start(job, "--rate", "0.01")
    with process, ended(process):
        until((job.output / "run.json").exists)
        time.sleep(0.5)
        for _ in range(signals):
            process.send_signal(signal.SIGINT)
        assert left(process) == 130
    summary = job.status()
    assert (summary["pending"], summary["ambiguous"]) == (3, 0)
    assert sandbox.received() == 0


def test_the_signals_of_hosted_ci_leave_time_to_save(start_sandbox, make_job):
    """INT, a wait, TERM, 2.5 s, KILL: the run ends before KILL and names each row in flight."""
    sandbox = start_sandbox(latency="30s")
    job = make_job(sandbox.url, rows=[[f"story {n}"] for n in range(50)], concurrency=8)
    process = start(job, "--rate", "500")
    with process, ended(process):
        until(lambda: sandbox.received() == 8)
        process.send_signal(signal.SIGINT)
        time.sleep(0.75)
        assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        assert left(process) == 130
    summary = job.status()
    assert (summary["ambiguous"], summary["pending"]) == (8, 42)


@pytest.mark.parametrize(
    ("options", "number", "words"),
    [
        (("--quiet",), signal.SIGTERM, "Stopped: Interrupted by SIGTERM.\n"),
        (
            (),
            signal.SIGINT,
            "Stopping: Interrupted by Ctrl-C. Waiting for 2 requests in flight, at most 0.5 s. "
            "Interrupt again to leave now: those rows are then ambiguous.\n",
        ),
    ],
)
def test_a_stop_says_in_whole_sentences_what_the_run_waits_for_and_how_long_at_most(
    start_sandbox, make_job, options, number, words
):
    """During the wait. With --quiet after it, when a second signal no longer has an effect."""
    sandbox = start_sandbox(latency="30s")
    job = make_job(sandbox.url, rows=[["a"], ["b"]])
    process = start(job, "--drain", "0.5", *options)
    with process, ended(process):
        until(lambda: sandbox.received() == 2)
        process.send_signal(number)
        said = process.communicate(timeout=20)[1].decode()
    assert words in said
    assert "nterrupted" not in said.replace(words, "").replace("  interrupted\n", "")


def test_a_signal_while_parts_are_sealed_loses_nothing(sandbox, make_job):
    """At any of the last instants: all rows are there, and the next run has nothing to send."""
    job = make_job(sandbox.url, rows=[[f"story {n} " + "x" * 3000] for n in range(1200)])
    process = start(job, "--rate", "5000")
    with process, ended(process):
        until(lambda: list(job.results.glob(".part-00001*")) or process.poll() is not None)
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=20) in (0, 130)
    summary = job.run()
    assert (summary["ok"], summary["requests"]) == (1200, 0)
    assert_nothing_lost_or_paid_twice(job, sandbox, summary, 0)


def test_a_run_under_nohup_ignores_the_signal(sandbox, make_job):
    """A signal that was ignored from the start stays ignored: the run continues after a logout."""
    job = make_job(sandbox.url, rows=[["a"], ["b"], ["c"]])
    process = subprocess.Popen(
        ["nohup", *job.command("run", "--rate", "4", "--quiet")],
        env=job.environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    with ended(process):
        until(sandbox.received)
        process.send_signal(signal.SIGHUP)
        assert process.wait(timeout=20) == 0
    assert job.status()["ok"] == 3


def test_ctrl_c_at_a_question_means_no(sandbox, make_job):
    """The terminal asks whether rows may be paid twice."""
    job = make_job(sandbox.url, rows=[["#fault:not-json"]])
    job.run(expect=5)
    pid, terminal = pty.fork()
    if pid == 0:
        command = job.command("resume", "--ambiguous")
        os.execve(command[0], command, job.environment())
    shown = b""
    while b"Send them?" not in shown:
        shown += os.read(terminal, 1000)

    def ended_by_ctrl_c() -> object:
        os.write(terminal, b"\x03")  # Python may miss a signal in the instant before it reads
        time.sleep(0.2)
        return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)

    until(ended_by_ctrl_c, 5)
    # A second signal may hit the interpreter while it exits.
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) in (130, -signal.SIGINT)
    os.close(terminal)
    assert sandbox.received() == 1


@pytest.mark.parametrize("denied_s", [1, pytest.param(120, marks=pytest.mark.long)])
def test_ctrl_c_works_at_once_while_every_request_is_denied(make_job, denied_s):
    """Only 429s, with headers that mean nothing: no row fails, and each wait has one log line."""
    with Server(rate_limited) as server:
        job = make_job(server.url, rows=[[f"story {n}"] for n in range(200)], concurrency=50)
        process = start(job)
        with process, ended(process):
            until(lambda: server.received.total() > 6)
            time.sleep(denied_s)
            process.send_signal(signal.SIGINT)
            assert left(process) == 130
        received = server.received.total()
    summary = job.status()
    assert (summary["pending"], summary["failed"], summary["paid_max"]) == (200, 0, 0)
    log = [json.loads(line) for line in log_of(job).splitlines()]
    assert sum(line["event"] == "attempt_ended" for line in log) <= received < 60 + denied_s


@pytest.mark.parametrize("stopped_s", [1, pytest.param(60, marks=pytest.mark.long)])
def test_a_process_that_was_stopped_while_the_server_hung_up_continues(make_job, stopped_s):
    """SIGSTOP, like a closed laptop: at most the rows in flight are ambiguous. The rest is sent."""
    with Server() as server:
        server.holding = True
        job = make_job(server.url, rows=[[f"story {n}"] for n in range(40)], concurrency=6)
        process = start(job, "--rate", "500")
        with process, ended(process):
            until(lambda: server.in_flight == 6)
            process.send_signal(signal.SIGSTOP)
            time.sleep(stopped_s / 2)
            server.hang_up()
            server.holding = False
            time.sleep(stopped_s / 2)
            process.send_signal(signal.SIGCONT)
            assert process.wait(timeout=30) == 5
        assert max(server.received.values()) == 1
        assert len(server.received) == 40
    summary = job.status()
    assert (summary["ok"], summary["ambiguous"]) == (34, 6)


def test_a_process_that_stood_still_past_the_deadline_reads_the_answers_that_came(make_job):
    """SIGSTOP, or a paused machine: the server answered in time, and the answers were unread."""
    with Server() as server:
        server.holding = True
        job = make_job(
            server.url, rows=[[f"story {n}"] for n in range(6)], concurrency=6, deadline_s=3
        )
        process = start(job, "--rate", "500")
        with process, ended(process):
            until(lambda: server.in_flight == 6)
            process.send_signal(signal.SIGSTOP)
            server.holding = False
            time.sleep(4.5)
            process.send_signal(signal.SIGCONT)
            assert process.wait(timeout=30) == 0
        assert sorted(server.received.values()) == [1] * 6
    assert job.status()["ok"] == 6


def _faketime() -> Path | None:
    found = list(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))
    return found[0] if found and sys.platform == "linux" else None


@pytest.mark.long
@pytest.mark.skipif(_faketime() is None, reason="libfaketime is not installed")
def test_clock_steps_of_hours_change_nothing(start_sandbox, make_job):
    """The wall clock jumps back and forth every 300 ms. Deadlines and pace do not depend on it."""
    sandbox = start_sandbox(latency="50ms")
    job = make_job(sandbox.url, rows=[[f"story {n}"] for n in range(300)], concurrency=8)
    steps = job.folder / "clock"
    steps.write_text("+0")
    process = subprocess.Popen(
        job.command("run", "--rate", "60", "--quiet"),
        env=job.environment(
            LD_PRELOAD=str(_faketime()),
            FAKETIME_TIMESTAMP_FILE=str(steps),
            FAKETIME_NO_CACHE="1",
            FAKETIME_DONT_FAKE_MONOTONIC="1",
        ),
    )
    with ended(process):
        for step in ("+5h", "-9h", "+1d", "-30d", "+0") * 20:
            time.sleep(0.3)
            steps.write_text(step)
            if process.poll() is not None:
                break
        assert process.wait(timeout=30) == 0
    summary = job.status()
    assert summary["ok"] == 300
    assert_nothing_lost_or_paid_twice(job, sandbox, summary, 0)


def test_ctrl_c_works_at_once_while_no_server_listens(make_job):
    """While the API cannot be reached, there is no answer to wait for."""
    job = make_job(f"http://127.0.0.1:{closed_port()}", rows=[["a"]])
    process = start(job)
    with process, ended(process):
        until(lambda: (job.output / "log.jsonl").exists() and "waiting" in log_of(job))
        process.send_signal(signal.SIGTERM)
        assert left(process) == 143
    assert job.status()["pending"] == 1


def test_stop_job_stops_a_run_gently_however_often_it_is_called(start_sandbox, make_job):
    """Answers in flight are saved. Without a run there is nothing to stop."""
    sandbox = start_sandbox(latency="2s")
    job = make_job(sandbox.url, rows=[[f"story {n}"] for n in range(20)], concurrency=4)
    found = pipeline.find_job(job.spec)
    assert pipeline.stop_job(found) is None
    process = job.start()
    with ended(process):
        until(lambda: sandbox.received() == 4)
        for _ in range(3):
            assert pipeline.stop_job(found) == process.pid
        assert process.wait(timeout=60) == 143
    assert (job.status()["ok"], job.status()["ambiguous"]) == (4, 0)
    assert sorted(sandbox.billed().values()) == [1, 1, 1, 1]
    assert job.run()["ok"] == 20
    assert set(sandbox.billed().values()) == {1}


def test_stop_job_does_not_end_a_python_program(start_sandbox, make_job):
    """It has no handler for the signal, which would end it at once and lose its answers."""
    sandbox = start_sandbox(latency="2s")
    job = make_job(sandbox.url, rows=[["a"]])
    code = f"import pipeline; print(pipeline.run_job({str(job.spec)!r}).exit_code)"
    words = [sys.executable, "-c", code]
    with subprocess.Popen(words, env=job.environment(), stdout=subprocess.PIPE) as program:
        until(lambda: sandbox.received() > 0)
        for now in (False, True):
            with pytest.raises(Refused, match=f"process {program.pid} works in this folder"):
                pipeline.stop_job(pipeline.find_job(job.spec), now=now)
        assert program.communicate(timeout=60)[0].split() == [b"0"]
    assert job.status()["ambiguous"] == 0
