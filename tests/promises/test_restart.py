"""The API stops and comes back while hundreds of requests are in flight."""

from __future__ import annotations

import json
import subprocess
import time

import pytest

from tests.conftest import Job, ended
from tests.promises.test_signals import until
from tests.support.servers import Server


def start(job: Job, rate: int) -> subprocess.Popen[bytes]:
    """Starts the runner as a process."""
    return subprocess.Popen(
        job.command("run", "--rate", str(rate), "--quiet"),
        env=job.environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def a_job(make_job, server: Server, rows: int, in_flight: int) -> Job:
    """Makes a job whose bodies differ only in a number."""
    stories = [[f"story {n}"] for n in range(rows)]
    return make_job(server.url, rows=stories, concurrency=in_flight)


def finished(job: Job, server: Server, rows: int) -> dict:
    """Returns the summary, after comparing it with the server's book: each body at most once."""
    assert max(server.received.values()) == 1
    summary = json.loads((job.output / "summary.json").read_text())
    assert summary["failed"] == 0
    assert summary["ok"] + summary["ambiguous"] + summary["pending"] == rows
    assert summary["paid_min"] <= server.received.total() <= summary["paid_max"]
    return summary


@pytest.mark.parametrize("in_flight", [100, pytest.param(2000, marks=pytest.mark.long)])
def test_rows_that_were_refused_are_retried_and_none_fails(make_job, in_flight):
    """The server answers its open requests and takes no more for a while: no row is ambiguous."""
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
    assert summary["requests"] > rows  # some rows were refused, and sent again
    log = [json.loads(line) for line in (job.output / "log.jsonl").read_text().splitlines()]
    assert sum(line["event"] == "waiting" for line in log) <= 3


@pytest.mark.parametrize("in_flight", [200, pytest.param(2000, marks=pytest.mark.long)])
def test_rows_in_flight_when_the_api_dies_are_ambiguous_and_stop_the_run(make_job, in_flight):
    """The next run tries one row, then sends all others. The ambiguous rows stay ambiguous."""
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
        until(lambda: server.in_flight == 0)  # those whose connection is gone
        server.most_in_flight, before = 0, server.received.total()
        server.latency_s = 4.0  # time to look while one row is tried
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


def test_while_the_api_is_away_the_run_tries_one_request_at_a_time(make_job):
    """1, 2 and then 4 s apart, so that a server that comes back gets no storm of connections."""
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
    # The probes, and the requests that left before the first one was known to be refused.
    assert summary["requests"] <= 60 + 50 + 4
