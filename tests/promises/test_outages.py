"""A filter or a proxy answers in place of the API: what a run loses by that, and what the next runs
do. The server counts the requests."""

from __future__ import annotations

import json
import signal
from itertools import count

import pytest

from tests.conftest import Job, ended
from tests.promises.test_signals import until
from tests.support.servers import Answer, Server, ok

REQUEST_IDS = count()


def page(status: int) -> Answer:
    """Returns a filter's page, which is the same each time except for the request id."""
    return status, {}, f"<html>Blocked. Request id: {next(REQUEST_IDS):08x}</html>".encode()


def number_of(body: bytes) -> int:
    return int(json.loads(body)["story"])


def numbers(count: int) -> list[list[str]]:
    return [[str(n)] for n in range(count)]


def summary_of(job: Job) -> dict:
    return json.loads((job.output / "summary.json").read_text())


@pytest.mark.parametrize("status", [403, pytest.param(404, marks=pytest.mark.long)])
def test_a_filter_that_takes_over_in_the_middle_of_a_run_stops_it(make_job, status):
    """Once, 1,474 rows failed in 7 s. Answers to earlier requests arrive in between."""
    blocked = range(200, 600)
    with Server(lambda body: page(status) if number_of(body) in blocked else ok(body)) as server:
        server.at_once = lambda body: number_of(body) in blocked
        server.latency_s = 1.0
        job = make_job(server.url, rows=numbers(600), concurrency=600)
        done = job.call("run", "--rate", "150", "--json")
        summary = json.loads(done.stdout)
        assert (done.returncode, summary["stopped"]) == (4, "alike"), done.stderr
        failed = summary["failed"]
        assert summary["by_code"] == {f"http_{status}": failed}
        assert summary["ok"] == 200  # the run waited for those in flight
        assert 10 <= failed <= 60  # ten, and the rows in flight
        assert summary["pending"] == 400 - failed
        assert (
            "10 rows in a row failed with the same error, which does not come from the API "
            f"(http_{status}" in done.stderr
        )
        # The filter is gone: first only these rows, then the rest, and no row twice.
        blocked = range(0)
        before = server.received.total()
        assert job.call("resume", "--only", f"http_{status}").returncode == 0
        assert server.received.total() - before == failed
        server.latency_s = 0.0
        assert job.run()["ok"] == 600
        assert server.received.total() == 600 + failed


def test_rows_that_a_filter_blocks_among_others_fail_and_do_not_stop_the_run(make_job):
    """One row in ten has a word that the filter blocks."""

    def blocks_some(body: bytes) -> Answer:
        return page(403) if number_of(body) % 10 == 0 else ok(body)

    with Server(blocks_some) as server:
        job = make_job(server.url, rows=numbers(300))
        summary = job.run(expect=3)
        assert (summary["ok"], summary["by_code"]) == (270, {"http_403": 30})
        assert max(server.received.values()) == 1


def lose_ten(job: Job, server: Server) -> None:
    """Loses ten answers in a row in a proxy, which stops the run."""
    server.answer = lambda body: page(502)
    summary = job.run("--concurrency", "1", expect=5)
    assert (summary["stopped"], summary["ambiguous"]) == ("ambiguous", 10)


def test_after_lost_answers_one_row_is_tried_also_if_runs_without_a_request_came_between(make_job):
    """After `--limit 0`, after a night without new rows, and after a try that was lost too."""
    with Server() as server:
        job = make_job(server.url, rows=numbers(60))
        lose_ten(job, server)
        for _ in range(2):
            assert job.run("--limit", "0")["requests"] == 0
            before = server.received.total()
            assert job.run(expect=5)["stopped"] == "ambiguous"
            assert server.received.total() - before == 1
        server.answer = ok
        assert job.run(expect=5)["ok"] == 48
        assert max(server.received.values()) == 1


def test_after_lost_answers_one_row_is_tried_also_if_the_run_was_killed(make_job):
    """It was killed while it waited for the rows in flight, before it recorded why it stopped."""
    lost = range(20, 30)
    with Server(lambda body: page(502) if number_of(body) in lost else ok(body)) as server:
        server.at_once = lambda body: number_of(body) in lost
        server.holding = True
        job = make_job(server.url, rows=numbers(60), concurrency=30)
        process = job.start("--quiet")
        with ended(process):
            log = job.output / "log.jsonl"
            until(lambda: log.exists() and "10 answers in a row" in log.read_text(), 30)
            process.send_signal(signal.SIGKILL)
        assert server.received.total() == 30
        assert not (job.output / "summary.json").exists()
        server.at_once = lambda body: True
        server.answer = lambda body: page(502)
        assert job.run(expect=5)["stopped"] == "ambiguous"
        assert server.received.total() == 31
