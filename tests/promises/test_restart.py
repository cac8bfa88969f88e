"""The API goes away and comes back under hundreds of requests in flight."""

from __future__ import annotations

import json
import subprocess
import time

import pytest

from tests.conftest import Job, ended
from tests.promises.test_signals import until
from tests.support.servers import Server


def start(job: Job, rate: int) -> subprocess.Popen[bytes]:
    """The runner as a process."""
    return subprocess.Popen(
        job.command("run", "--rate", str(rate), "--quiet"),
        env=job.environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def a_job(make_job, server: Server, rows: int, in_flight: int) -> Job:
    """Bodies that are alike but for a number."""
    stories = [[f"story {n}"] for n in range(rows)]
    return make_job(server.url, rows=stories, concurrency=in_flight)


def finished(job: Job, server: Server, rows: int) -> dict:
    """The summary, which agrees with what the server received: each body at most once."""
    assert max(server.received.values()) == 1
    summary = json.loads((job.output / "summary.json").read_text())
    assert summary["failed"] == 0
    assert summary["ok"] + summary["ambiguous"] + summary["pending"] == rows
    assert summary["paid_min"] <= server.received.total() <= summary["paid_max"]
    return summary


@pytest.mark.parametrize("in_flight", [100, pytest.param(2000, marks=pytest.mark.long)])
def test_rows_that_were_refused_are_retried_and_none_fails(make_job, in_flight):
    """The server drains what it has and takes no more for a while: nothing is ambiguous."""
    rows = in_flight * 2
    with Server(latency_s=in_flight / 250) as server:
        job = a_job(make_job, server, rows, in_flight)
        process = start(job, 2000)
        with ended(process):
            until(lambda: server.in_flight >= in_flight * 0.9, 60)
            server.refuse()
            time.sleep(server.latency_s + 2)
            server.listen()
            assert process.wait(timeout=120) == 0
    summary = finished(job, server, rows)
    assert (summary["ok"], summary["ambiguous"]) == (rows, 0)
    assert summary["requests"] > rows  # some were refused, and sent again
    log = [json.loads(line) for line in (job.output / "log.jsonl").read_text().splitlines()]
    assert sum(line["event"] == "waiting" for line in log) <= 3


@pytest.mark.parametrize("in_flight", [200, pytest.param(2000, marks=pytest.mark.long)])
def test_what_was_in_flight_when_the_api_died_is_ambiguous_and_stops_the_run(make_job, in_flight):
    """The next run sends one row to try, then all others; those in flight stay as they are."""
    rows = in_flight * 2
    with Server(latency_s=0.5) as server:
        server.holding = True
        job = a_job(make_job, server, rows, in_flight)
        process = start(job, 2000)
        with ended(process):
            until(lambda: server.in_flight == in_flight, 60)
            server.vanish()
            assert process.wait(timeout=60) == 5
        summary = finished(job, server, rows)
        assert (summary["stopped"], summary["ambiguous"]) == ("ambiguous", in_flight)
        server.holding = False
        server.listen()
        until(lambda: server.in_flight == 0)  # of those whose connection is gone
        server.most_in_flight, before = 0, server.received.total()
        server.latency_s = 4.0  # time to look while one row tries
        process = start(job, 2000)
        with ended(process):
            until(lambda: server.received.total() > before)
            time.sleep(0.3)
            assert server.most_in_flight == 1
            server.latency_s = 0.5
            assert process.wait(timeout=120) == 5
        assert server.most_in_flight > 1
    summary = finished(job, server, rows)
    assert (summary["ok"], summary["ambiguous"], summary["pending"]) == (in_flight, in_flight, 0)


def test_while_the_api_is_away_one_request_at_a_time_tries_to_reach_it(make_job):
    """A second apart, then two, then four: no storm of connections on a server that comes back."""
    with Server(latency_s=0.2) as server:
        job = a_job(make_job, server, 60, 50)
        server.refuse()
        process = start(job, 2000)
        with ended(process):
            time.sleep(2)
            server.listen()
            assert process.wait(timeout=60) == 0
    summary = finished(job, server, 60)
    assert summary["ok"] == 60
    # All that left in the first instant, before the first was known to be refused, and the probes.
    assert summary["requests"] <= 60 + 50 + 4
