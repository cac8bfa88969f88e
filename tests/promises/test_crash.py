"""Kills a real process, gives the same command again, and compares with the server's book.

These tests do not trust the runner: a request is paid if the sandbox billed it.
"""

from __future__ import annotations

import json
import random
import signal
import time
from collections import Counter

import pandas as pd
import pytest

from tests.conftest import Job, SandboxProcess, ended
from tests.support.servers import Answer, Server

KILLS = 20


def assert_nothing_lost_or_paid_twice(
    job: Job, sandbox: SandboxProcess, summary: dict, most_ambiguous: int
) -> None:
    """Checks the promises against the book."""
    billed = sandbox.billed()
    assert max(billed.values()) == 1
    results = pd.read_parquet(job.results)
    assert not results["row_key"].duplicated().any()
    failures = pd.read_csv(job.output / "failures.csv", dtype=str, keep_default_na=False)
    ambiguous = set(failures.loc[failures["_status"] == "ambiguous", "story"])
    answered = {entry["body"]: entry["result"] for entry in sandbox.bills() if entry["billed"]}
    kept = dict(zip(results["variables"], results["result"], strict=True))
    for body, text in answered.items():
        story = body[len('{"story":"') : -len('"}')]
        assert kept.get(body) == text or story in ambiguous, body
    assert set(kept) <= set(answered)
    counted = ("ok", "failed", "ambiguous", "pending", "skipped")
    assert sum(summary[state] for state in counted) == summary["rows"]
    assert summary["ok"] == len(results)
    assert summary["ambiguous"] == len(ambiguous) <= most_ambiguous
    assert summary["paid_min"] <= sum(billed.values()) <= summary["paid_max"]


def test_after_kills_at_twenty_random_instants_nothing_is_lost_or_paid_twice(
    start_sandbox, make_job
):
    """`kill -9` again and again on one run folder. At most the requests in flight are ambiguous."""
    sandbox = start_sandbox(latency="80ms")
    in_flight = 16
    rows = [[f"story number {n}"] for n in range(2500)]
    job = make_job(sandbox.url, rows=rows, concurrency=in_flight)
    chance = random.Random(20261124)
    killed = 0
    for _ in range(KILLS):
        process = job.start(rate="400")
        with ended(process):
            time.sleep(chance.uniform(0.05, 0.6))
            killed += process.poll() is None
            process.send_signal(signal.SIGKILL)
    assert killed == KILLS
    assert sum(sandbox.billed().values()) > 0
    summary = job.run("--concurrency", "200", expect=5)
    assert summary["pending"] == 0
    assert_nothing_lost_or_paid_twice(job, sandbox, summary, in_flight * killed)
    requests = sandbox.received()
    assert job.run(expect=5)["requests"] == 0
    assert sandbox.received() == requests


def test_results_can_be_read_before_the_first_row_during_a_run_and_after_a_kill(
    start_sandbox, make_job
):
    """pandas can read the folder at any time, and no row disappears."""
    sandbox = start_sandbox(latency="20ms")
    job = make_job(sandbox.url, rows=[[f"story {n}"] for n in range(3000)], concurrency=64)
    seen: list[int] = []
    process = job.start(rate="1000")
    with ended(process):
        deadline = time.monotonic() + 60
        while process.poll() is None and time.monotonic() < deadline:
            if (job.results / "part-00000.parquet").exists():
                seen.append(len(pd.read_parquet(job.results)))
            if seen and seen[-1] >= 2000:
                break
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
    assert seen[0] == 0
    assert seen == sorted(seen)
    after_kill = pd.read_parquet(job.results)
    assert len(after_kill) >= 2000
    summary = json.loads(job.call("run", "--json", "--rate", "5000").stdout.splitlines()[-1])
    # A slow process may have had no request in flight at the kill.
    assert summary["exit_code"] == (5 if summary["ambiguous"] else 0)
    assert summary["ok"] + summary["ambiguous"] == 3000
    assert summary["ambiguous"] <= 64
    billed = sandbox.billed().values()
    assert max(billed) == 1
    assert summary["paid_min"] <= sum(billed) <= summary["paid_max"]
    after_resume = pd.read_parquet(job.results)
    assert set(after_kill["row_key"]) <= set(after_resume["row_key"])
    assert Counter(after_resume.dtypes) == Counter(after_kill.dtypes)


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 143)]
)
def test_after_a_first_signal_the_run_waits_for_answers_in_flight(
    start_sandbox, make_job, number, code
):
    """They are paid for. None is lost and none becomes ambiguous."""
    sandbox = start_sandbox(latency="1s")
    job = make_job(sandbox.url, rows=[[f"story {n}"] for n in range(500)], concurrency=20)
    process = job.start(rate="100")
    with ended(process):
        while not sandbox.received():
            time.sleep(0.05)
        process.send_signal(number)
        assert process.wait(timeout=20) == code
    summary = job.run("--limit", "0")
    assert summary["ambiguous"] == 0
    assert summary["ok"] == sum(sandbox.billed().values()) > 0


def test_a_second_signal_ends_the_run_at_once_and_rows_in_flight_are_ambiguous(
    start_sandbox, make_job
):
    """One row for each request in flight."""
    sandbox = start_sandbox(latency="30s")
    job = make_job(sandbox.url, rows=[[f"story {n}"] for n in range(50)], concurrency=8)
    process = job.start(rate="200")
    with ended(process):
        while sandbox.received() < 8:
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        time.sleep(0.3)
        begun = time.monotonic()
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=10) == 130
        assert time.monotonic() - begun < 5
    done = job.call("status", "--json")
    assert '"ambiguous": 8' in done.stdout
    assert '"interrupted": 8' in done.stdout


def open_marker(body: bytes) -> Answer:
    """A paid answer with an unclosed `{{`. Release 0.1.0 needed days to look for flags in it."""
    result = "{{" + " " * 1_000_000 + json.loads(body)["story"]
    return 200, {}, json.dumps({"success": True, "result": result}).encode()


def test_a_run_seals_the_paid_answers_of_a_killed_run_whatever_their_text(make_job):
    """The first run is killed before it seals the answer, as users had to do with 0.1.0."""
    with Server(open_marker) as server:
        job = make_job(server.url, rows=[[letter] for letter in "abcdef"])
        process = job.start(rate="0.3")
        with ended(process):
            while server.received.total() == 0 or job.status()["ok"] == 0:
                assert process.poll() is None
        assert pd.read_parquet(job.results).empty
        assert job.run()["ok"] == 6
        assert pd.read_parquet(job.results)["result"].str.len().tolist() == [1_000_003] * 6
        assert list(server.received.values()) == [1] * 6


def test_a_signal_during_sealing_ends_the_run_with_all_answers_sealed(make_job):
    """SIGTERM comes while the first of thirty answers of 1 MB are sealed."""
    with Server(open_marker) as server:
        job = make_job(server.url, rows=[[str(n)] for n in range(30)])
        process = job.start(rate="4")
        with ended(process):
            while server.received.total() < 8:
                assert process.poll() is None
                time.sleep(0.05)
            process.send_signal(signal.SIGTERM)
            assert process.wait(timeout=60) == 143
        assert 8 <= len(pd.read_parquet(job.results)) == server.received.total() < 30
