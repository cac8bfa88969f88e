"""How often one row may be sent in a minute, whatever the server answers. The server counts."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from email.utils import formatdate

import pytest

from pipeline.policy.retry import MOST_PER_MINUTE
from tests.conftest import Job, ended
from tests.promises.test_signals import until
from tests.support.servers import Answer, Server, ok

ROW = '{"story":"the row"}'
PAGE = b"<html>Slow down</html>"


def refusal(status: int, code: str | None = "rate_limited", **headers: str) -> Answer:
    """Returns an error in the API's JSON. `_` in a header's name stands for a hyphen."""
    fields = {"success": False, "error": "Rate limit exceeded"} | ({"code": code} if code else {})
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return status, named, json.dumps(fields).encode()


def only_for_the_row(answer: Answer) -> Callable[[bytes], Answer]:
    """Gives `answer` to one row. Every other row is ok."""
    return lambda body: answer if body.decode() == ROW else ok(body)


def run_for_a_while(job: Job, server: Server, seconds: float) -> None:
    """Lets a run that may never end send for `seconds`, then kills it."""
    process = job.start("--quiet")
    with ended(process):
        until(lambda: server.received[ROW], 20)
        deadline = time.monotonic() + seconds
        while process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)


@pytest.mark.parametrize("code", ["rate_limited", None])
@pytest.mark.parametrize(
    ("status", "times", "ended_with"),
    [
        (500, 3, {"internal_server_error": 1}),  # a failure in the API's own words has two retries
        (503, 1, {"gateway": 1}),
        (504, 1, {"gateway": 1}),
        (408, 1, {"gateway": 1}),
        (400, 1, {"http_400": 1}),
        (403, 1, {"http_403": 1}),
        (404, 1, {"http_404": 1}),
        (200, 1, {"run_failed": 1}),
    ],
)
def test_a_rate_limit_under_another_status_follows_the_rule_of_that_status(
    make_job, status, code, times, ended_with
):
    """Once, a row whose 500 called itself rate limited was sent 992 times in 20 s."""
    with Server(only_for_the_row(refusal(status, code))) as server:
        job = make_job(server.url, rows=[["the row"], ["another"]])
        run_for_a_while(job, server, 8)
        assert server.received[ROW] == times
    summary = json.loads((job.output / "summary.json").read_text())
    assert (summary["by_code"], summary["rate_limited"]) == (ended_with, 0)


@pytest.mark.parametrize(
    "answer",
    [
        refusal(429),
        (429, {}, PAGE),
        refusal(429, retry_after="0"),
        refusal(429, retry_after="-1"),
        refusal(429, retry_after="nan"),
        refusal(429, x_ratelimit_limit="1000000", x_ratelimit_remaining="1000000"),
        refusal(429, x_ratelimit_limit="NaN", x_ratelimit_remaining="-1e9"),
        refusal(429, x_ratelimit_limit="-1", x_ratelimit_remaining="99"),
    ],
    ids=["json", "page", "zero", "negative", "nan", "huge", "not-numbers", "negative-limit"],
)
def test_a_row_that_is_always_refused_is_sent_a_few_times_a_minute_at_any_rate(make_job, answer):
    """It always gets a 429 at once, while every other row is let through and --rate is 5000."""
    others = [[f"story {n}"] for n in range(3000)]
    with Server(only_for_the_row(answer)) as server:
        job = make_job(server.url, rows=[["the row"], *others], concurrency=50)
        run_for_a_while(job, server, 4)
        assert 2 <= server.received[ROW] <= MOST_PER_MINUTE
        assert server.received.total() > 100  # the other rows were not delayed


def test_a_row_that_is_refused_and_fails_in_turn_is_sent_a_few_times_a_minute(make_job):
    """Neither of the two counters is reset when the other one counts."""
    asked = 0

    def in_turn(body: bytes) -> Answer:
        nonlocal asked
        asked += 1
        return refusal(429 if asked % 2 else 500)

    with Server(in_turn) as server:
        job = make_job(server.url, rows=[["the row"]], retries=1000)
        run_for_a_while(job, server, 5)
        assert server.received[ROW] <= MOST_PER_MINUTE


def test_rows_that_the_limit_refuses_from_time_to_time_all_become_ok(start_sandbox, make_job):
    """Thirty rows with a limit of ten a second, at a pace that the run has to learn."""
    sandbox = start_sandbox(limit=10, window="1s")
    job = make_job(sandbox.url, rows=[[f"story {n}"] for n in range(30)])
    summary = job.run()
    assert summary["ok"] == 30
    assert max(entry["received"] for entry in sandbox.bills()) <= MOST_PER_MINUTE


@pytest.mark.parametrize("hours_off", [0, 5])
def test_a_retry_after_with_a_date_is_obeyed_and_shown(make_job, hours_off):
    """By the server's own clock, which may be hours wrong."""
    asked_at: list[float] = []

    def refuses_once(body: bytes) -> Answer:
        asked_at.append(time.monotonic())
        if len(asked_at) > 1:
            return ok(body)
        now = time.time() + 3600 * hours_off
        dates = {"date": formatdate(now, usegmt=True), "retry_after": formatdate(now + 4)}
        return refusal(429, **dates)

    with Server(refuses_once) as server:
        job = make_job(server.url, rows=[["the row"]])
        done = job.call("run", "--rate", "5000")
    assert done.returncode == 0, done.stderr
    assert "asks to wait 4 s (Retry-After)" in done.stderr
    assert asked_at[1] - asked_at[0] >= 3.9
