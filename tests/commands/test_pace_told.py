"""The pace as a run shows it: on the terminal, in log.jsonl, and to the next run."""

from __future__ import annotations

import io
import json
import time

import pytest

from pipeline.commands.progress import ProgressBar
from pipeline.core.events import AttemptEnded, ConcurrencyBinds, Paced, PaceEnded
from pipeline.core.model import Outcome, RateLimit, Row, State, Sure, Verdict
from pipeline.status.event_log import EventLog, believed_limit
from pipeline.status.summary_lines import rate_limit_lines
from tests.conftest import KEY, free_port


@pytest.mark.parametrize(
    ("event", "words"),
    [
        (Paced(48.5, 50, 1.0, 97), ["48.5/s", "50 per 1 s", "97 in flight"]),
        (Paced(0.0014, 5, 3600.0, 0, time.monotonic() + 1e6), ["5 per 3600 s", "next request in"]),
        (ConcurrencyBinds(2000), ["2000 requests in flight", "--concurrency"]),
        (PaceEnded(50, 1.0, 0.974, 900, 3), ["97%", "50 per 1 s", "3 of 900", "429"]),
        (PaceEnded(None, None, None, 10, 4), ["4 of 10", "429"]),
    ],
    ids=lambda value: type(value).__name__,
)
def test_the_user_sees_the_pace_the_limit_and_the_reason_for_a_wait(event, words):
    """Without a terminal, each is one line."""
    stream = io.StringIO()
    ProgressBar(stream)(event)
    for word in words:
        assert word in stream.getvalue()


@pytest.mark.parametrize(
    ("per_s", "wait_s", "shown"),
    [(100.0, 30.0, False), (0.5, 3.0, True), (1 / 60, 60.0, True), (100.0, 1.5, True)],
)
def test_no_pace_is_shown_while_the_next_request_waits_for_something_else(per_s, wait_s, shown):
    """After 429s, the line said "pace 100/s" and "next request in 185 s"."""
    stream = io.StringIO()
    ProgressBar(stream)(Paced(per_s, 50, None, 0, time.monotonic() + wait_s))
    assert ("pace" in stream.getvalue()) is shown


def test_a_run_that_saw_no_limit_and_no_429_prints_nothing_about_them():
    """With a given rate, or a server without a limiter."""
    stream = io.StringIO()
    ProgressBar(stream)(PaceEnded(None, None, None, 10, 0))
    assert stream.getvalue() == ""


def test_a_run_logs_its_pace_and_stores_it_for_the_next_run(start_sandbox, make_job):
    """Limit and window are in log.jsonl and in the cache, whose files do not contain the key."""
    sandbox = start_sandbox(limit=20, latency="300ms")
    rows = [[f"row {number}"] for number in range(80)]
    job = make_job(sandbox.url, rows=rows, concurrency=5)
    done = job.call("run", "--json")
    assert done.returncode == 0, done.stderr
    events = [json.loads(line) for line in (job.output / "log.jsonl").read_text().splitlines()]
    told = {event["event"]: event for event in events}
    assert told["concurrency_binds"]["in_flight"] == 5
    assert told["pace_ended"]["limit"] == 20
    assert told["pace_ended"]["requests"] >= 80
    [kept] = (job.folder / "cache" / "pipeline").iterdir()
    assert json.loads(kept.read_text())["limit"] == 20
    assert KEY not in kept.read_text() + kept.name


class Clock:
    """A clock that shows the time it was set to."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now

    def wall(self) -> float:
        return 1_800_000_000.0 + self.now


def test_the_log_says_how_the_pace_changed_and_no_more(tmp_path):
    """Two events a second would fill the log. A slow night can still be explained later."""
    clock = Clock()
    with EventLog(tmp_path / "log.jsonl", clock) as log:
        for second, per_s, limit in [(0, 5, None), (1, 8, 50), (60, 8.0, 50), (61, 8.01, 50)]:
            clock.now = float(second)
            log(Paced(per_s, limit, 1.0, 3))
        clock.now = 200.0
        log(Paced(20.0, 50, 1.0, 3))
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [(line["event"], line["per_s"], line["limit"]) for line in lines] == [
        ("paced", 5.0, None),
        ("paced", 8.0, 50),
        ("paced", 20.0, 50),
    ]


def test_the_log_says_the_measured_limit_ten_seconds_after_it_was_first_known(tmp_path):
    """Otherwise `status` would say nothing about it in the first minute, nor after a kill. Not the
    first measured window, because the first ones are off."""
    path, clock = tmp_path / "log.jsonl", Clock()
    with EventLog(path, clock, "r1") as log:
        log(Paced(5.0, None, None, 3))
        for second in range(4, 60):
            clock.now = float(second)
            sure = Sure.MEASURED if second % 2 == 0 else None
            log(Paced(40.0, 50, float(second), 3, None, sure))
            known = RateLimit(50, 14.0, Sure.MEASURED, None) if second >= 14 else None
            assert believed_limit(path, "r1") == known
    assert len(path.read_text().splitlines()) == 2


def test_the_log_says_what_the_run_believes_of_the_limit_and_how_sure_it_is(tmp_path):
    """Another process reads it from there. The line of another run does not count."""
    path, clock = tmp_path / "log.jsonl", Clock()
    with EventLog(path, clock, "r1") as log:
        log(Paced(8.0, 50, None, 3))
        assert believed_limit(path, "r1") == RateLimit(50, None, None, None)
        for at, sure in ((70.0, Sure.KEPT), (140.0, Sure.MEASURED)):
            clock.now = at
            log(Paced(8.0, 50, 2.0, 3, None, sure, 0.97 if sure is Sure.MEASURED else None))
            used = 0.97 if sure is Sure.MEASURED else None
            assert believed_limit(path, "r1") == RateLimit(50, 2.0, sure, used)
        log(PaceEnded(None, None, None, 9, 0))  # it learned nothing more
        assert believed_limit(path, "r1") == RateLimit(50, 2.0, Sure.MEASURED, 0.97)
    assert believed_limit(path, "r2") is None
    path.write_text('{"event": "paced", "run_id": "r1", "limit": -1}\n{"event": "paced"\n')
    assert believed_limit(path, "r1") is None


@pytest.mark.parametrize(
    ("known", "lines"),
    [
        (None, []),
        (
            RateLimit(50, None, None, None),
            ["Rate limit: 50 requests, in a window that is not known yet."],
        ),
        (
            RateLimit(50, 1.04, Sure.MEASURED, 0.974),
            ["Rate limit: 50 requests per 1 s (measured). The run used 97% of it."],
        ),
        (
            RateLimit(50, 60.0, Sure.KEPT, None),
            ["Rate limit: 50 requests per 60 s (measured by an earlier run, not confirmed yet)."],
        ),
        (
            RateLimit(1, 7.71, Sure.MEASURED, None),
            ["Rate limit: 1 request per 7.7 s (measured)."],
        ),
    ],
)
def test_status_and_report_say_the_limit_in_one_line(known, lines):
    """The window has two digits, because it is an estimate."""
    assert rate_limit_lines(known) == lines


def test_status_and_report_show_the_limit_that_the_last_run_measured(start_sandbox, make_job):
    """The JSON has the same as the text, and the page too."""
    sandbox = start_sandbox(limit=20, window="1s")
    job = make_job(sandbox.url, rows=[[f"row {n}"] for n in range(100)])
    job.run()
    known = json.loads(job.call("status", "--json").stdout)["rate_limit"]
    assert (known["limit"], known["sure"]) == (20, "measured")
    assert known["window_s"] > 0
    assert known["used"] > 0
    assert json.loads(job.call("report", "--json").stdout)["rate_limit"] == known
    used = f"(measured). The run used {known['used']:.0%} of it."
    assert used in job.call("status").stdout
    assert used in job.call("report").stdout
    assert used in (job.output / "report.html").read_text()


def test_the_log_says_when_a_row_is_retried(tmp_path):
    """And it has no such time for a row that is not retried."""
    row = Row(7, bytes(16), bytes(16), 0, b"{}")
    failed = Outcome(Verdict.FAILED, "internal_server_error", "no", 500, retryable=True)
    with EventLog(tmp_path / "log.jsonl", Clock()) as log:
        log(AttemptEnded(row, failed, State.PENDING, 0, again_after_s=2.0))
        log(AttemptEnded(row, failed, State.FAILED, 0))
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [(line["state"], line["again_after_s"]) for line in lines] == [
        ("pending", 2.0),
        ("failed", None),
    ]


def test_a_run_names_a_kept_limit_that_was_wrong_once(start_sandbox, make_job):
    """Between two nights the limit became half as high. `status` and `report` say the new one."""
    port = free_port()
    before = start_sandbox(limit=40, window="1s", port=port)
    job = make_job(before.url, rows=[[f"row {n}"] for n in range(120)])
    assert job.call("run").returncode == 0
    before.stop()
    after = start_sandbox(limit=20, window="1s", port=port)
    job.write_sheet(["story"], [[f"changed {n}"] for n in range(160)])
    done = job.call("run")
    assert done.returncode == 0
    assert len(after.bills()) == 160
    lines = [json.loads(line) for line in (job.output / "log.jsonl").read_text().splitlines()]
    named = [line for line in lines if "was wrong or has changed" in str(line)]
    assert len(named) == 1
    assert "(40 requests per 1 s)" in str(named[0])
    assert "now it is 20 requests per" in str(named[0])
    assert done.stderr.count("was wrong or has changed") == 1
    for verb in ("status", "report"):
        assert json.loads(job.call(verb, "--json").stdout)["rate_limit"]["limit"] == 20
