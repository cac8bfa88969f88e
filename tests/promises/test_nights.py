"""Unattended nights: a timer, a kill, empty credits, and at the end the server's book of bills."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from collections import Counter

import pandas as pd
import pytest

from tests.conftest import Job, SandboxProcess, ended

NIGHT = ("--if-locked", "skip", "--fail-on", "new", "--quiet", "--rate", "200")


def story(bill: dict) -> str:
    return str(json.loads(bill["body"])["story"])


def append(job: Job, first: int, last: int) -> None:
    with job.sheet.open("a", encoding="utf-8") as file:
        file.writelines(f"story {n}\n" for n in range(first, last + 1))


def begin(job: Job, *options: str) -> subprocess.Popen[bytes]:
    return job.start(*NIGHT, *options)


def await_received(sandbox: SandboxProcess, number: int) -> None:
    give_up = time.monotonic() + 30
    while sandbox.received() < number:
        assert time.monotonic() < give_up
        time.sleep(0.02)


def test_five_nights_with_a_kill_and_empty_credits_pay_each_row_once(start_sandbox, make_job):
    """One start overlaps, rows are appended, one night is killed, and one runs out of credits. The
    rows that are ambiguous at the end were in flight at the kill, and the user decides on them."""
    sandbox = start_sandbox(latency="700ms")
    job = make_job(sandbox.url, rows=[[f"story {n}"] for n in range(1, 9)], concurrency=4)
    first = begin(job, "--concurrency", "1")  # so slow that the other start falls within it
    with ended(first):
        await_received(sandbox, 2)
        second = job.call("run", *NIGHT)
        assert (second.returncode, second.stdout, second.stderr) == (0, "", "")
        assert first.poll() is None
        assert first.wait(20) == 0
    assert Counter(sandbox.billed().values()) == {1: 8}

    append(job, 9, 16)
    third = begin(job)
    with ended(third):
        await_received(sandbox, 10)
        third.send_signal(signal.SIGKILL)
    [cut] = json.loads(job.call("report", "--json").stdout)["groups"]
    in_flight = set(cut["first_rows"])
    assert (cut["state"], len(in_flight)) == ("ambiguous", cut["count"])
    assert 1 <= len(in_flight) <= 4
    on_the_way = {f"story {n}" for n in in_flight}
    assert {story(bill) for bill in sandbox.bills()[8:]} <= on_the_way

    append(job, 17, 20)
    time.sleep(1)  # the server may still bill the requests of the killed run
    sandbox.set_credits(3)
    fourth = job.call("run", *NIGHT)
    assert fourth.returncode == 4
    assert "invalid_billing" in fourth.stderr
    sandbox.set_credits(1000)
    fifth = job.call("run", *NIGHT)
    assert (fifth.returncode, fifth.stdout, fifth.stderr) == (0, "", "")

    assert max(sandbox.billed().values()) == 1
    table = job.export()
    assert len(table) == 20
    ambiguous = set(table["story"][table["_status"] == "ambiguous"])
    assert ambiguous == on_the_way
    assert set(table["story"][table["_status"] == "ok"]) == set(table["story"]) - ambiguous
    assert set(table["_status"]) == {"ok", "ambiguous"}

    one, *others = sorted(in_flight)
    job.call("settle", "--rows", str(one))
    words = ("--ambiguous", "--yes", "--rows", ",".join(map(str, others or [one])))
    assert job.call("resume", *words).returncode == 0
    states = Counter(job.export()["_status"])
    assert states == ({"ok": 19, "failed": 1} if others else {"ok": 20})
    for bill in sandbox.bills():
        resumed = int(story(bill).split()[1]) in (others or [one])
        assert bill["billed"] <= (2 if resumed else 1), bill
    assert len(pd.read_parquet(job.results)) == states["ok"]
    assert job.call("verify").returncode == 0


# -- no terminal, no HOME, no locale, no stdin ----------------------------------------------------


def bare(job: Job, *options: str, closed: str = "</dev/null") -> subprocess.CompletedProcess[bytes]:
    """Runs the job as a scheduler does: `env -i`, a new session, streams as in `closed`."""
    words = job.command("run", "--rate", "200", *options)
    said = {"AITUTOR_API_KEY": "sk_sandbox", "AITUTOR_BASE_URL": job.base_url, "LANG": "C"}
    assigned = [f"{name}={value}" for name, value in said.items()]
    return subprocess.run(
        ["env", "-i", *assigned, "/bin/sh", "-c", f'exec "$@" {closed}', "sh", *words],
        cwd="/",
        start_new_session=True,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=60,
        check=False,
    )


CONTROL = re.compile(rb"[\x00-\x08\x0b-\x1f\x7f]")


@pytest.mark.parametrize("closed", ["</dev/null", "<&-", "<&- >&-"])
def test_without_terminal_home_locale_and_stdin_a_run_prints_plain_lines_and_finishes(
    start_sandbox, make_job, closed
):
    """No question, no control character, few lines. Non-ASCII texts arrive byte for byte."""
    sandbox = start_sandbox(latency="100ms")
    rows = [["plain"], ["größer 漢字 \u2028 \U0001f600"], ["#fault:blocked"]]
    job = make_job(sandbox.url, rows=rows, retries=0)
    done = bare(job, closed=closed)
    assert done.returncode == 3, done.stderr
    assert done.stdout == b""
    assert not CONTROL.search(done.stderr)
    assert done.stderr.count(b"\n") < 12
    assert b"request_blocked" in done.stderr
    assert {story(bill) for bill in sandbox.bills()} == {text for [text] in rows}
    asked = bare(job, "--again", "all", closed=closed)
    assert (asked.returncode, b"--yes" in asked.stderr) == (2, True)
    assert sandbox.received() == 3


def test_progress_without_a_terminal_is_a_line_at_most_every_thirty_seconds(
    start_sandbox, make_job
):
    """A run of two seconds prints one line, although it reports its pace twice a second."""
    sandbox = start_sandbox(latency="2s")
    job = make_job(sandbox.url, rows=[["a"]])
    done = bare(job)
    assert done.returncode == 0
    assert len(re.findall(rb"rows done", done.stderr)) == 1


def test_quiet_is_silent_in_every_stream_unless_a_person_is_needed(sandbox, make_job):
    """Exit code 0, a skipped folder in use and the time of --until print nothing. 2 to 6 do."""
    job = make_job(sandbox.url, rows=[["a"], ["b"]])
    for options, code, says in (
        (("--until", time.strftime("%H:%M", time.localtime(time.time() + 90))), 75, b""),
        (("--limit", "1"), 0, b""),
        (("--limit", "1", "--max-paid", "0"), 0, b""),
        (("--max-paid", "1"), 4, b"max_paid"),
        (("--base-url", "http://example.com"), 2, b"unencrypted"),
    ):
        done = bare(job, "--quiet", *options)
        assert (done.returncode, done.stdout) == (code, b""), done.stderr
        assert says in done.stderr
        assert bool(done.stderr) == bool(says)


def test_every_line_of_the_log_is_an_object_with_its_run_and_of_a_row_its_number(
    start_sandbox, make_job
):
    """In the morning a person searches the log by run id and row."""
    sandbox = start_sandbox()
    job = make_job(sandbox.url, rows=[["a"], ["#fault:blocked"], ["#fault:not-json"]])
    assert bare(job).returncode == 5
    run_id = json.loads((job.output / "summary.json").read_text())["run_id"]
    lines = [json.loads(line) for line in (job.output / "log.jsonl").read_bytes().splitlines()]
    assert {line["run_id"] for line in lines} == {run_id}
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT[\d:.]+\+00:00", line["at"]) for line in lines)
    rows = {line["row"]: line["code"] for line in lines if line["event"] == "attempt_ended"}
    assert rows == {2: "request_blocked", 3: "bad_response"}


def test_a_run_outlives_the_session_in_which_it_started(start_sandbox, make_job):
    """Its terminal hangs up. The run waits for the answers in flight, saves them and exits 143."""
    sandbox = start_sandbox(latency="1s")
    job = make_job(sandbox.url, rows=[["a"], ["b"]], concurrency=1)
    process = job.start()
    with ended(process):
        await_received(sandbox, 1)
        os.kill(process.pid, signal.SIGHUP)
        assert process.wait(20) == 143
    assert job.status()["ok"] == 1
    assert Counter(sandbox.billed().values()) == {1: 1}
