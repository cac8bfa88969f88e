"""Runs the fault matrix: one row for each fault of a server, compared with the server's book of
bills."""

from __future__ import annotations

import json
from collections import Counter

import pandas as pd
import pytest

from pipeline.sandbox.faults import FAULTS

OK = ("ok", None)
LOST = ("ambiguous", "disconnected")
LATE = ("ambiguous", "timeout")
PROXY = ("ambiguous", "gateway")
UNREADABLE = ("ambiguous", "bad_response")
TOO_LARGE = ("ambiguous", "too_large")

HOW_ROWS_END = {
    "json-500": ("failed", "internal_server_error"),
    "json-500-once": OK,
    "run-failed": ("failed", "workflow_run_failed"),
    "blocked": ("failed", "request_blocked"),
    "success-false": ("failed", "run_failed"),
    "rate-limited-once": OK,
    "html-408": PROXY,
    "html-413": ("failed", "http_413"),
    "html-499": PROXY,
    "html-502": PROXY,
    "html-503": PROXY,
    "html-504": PROXY,
    "html-502-billed": PROXY,
    "html-504-billed": PROXY,
    "reset": LOST,
    "reset-billed": LOST,
    "hang-up": LOST,
    "hang-up-billed": LOST,
    "cut-headers": LOST,
    "cut-body": UNREADABLE,
    "cut-chunked": UNREADABLE,
    "length-too-long": LATE,
    "length-too-short": LOST,  # with the surplus bytes the answer is not valid HTTP
    "idle-close": OK,
    "slow": OK,
    "hang": LATE,
    "silent-billed": LATE,
    "slow-drip": LATE,
    "empty-body": UNREADABLE,
    "not-json": UNREADABLE,
    "no-result": UNREADABLE,
    "result-prose": OK,
    "result-prose-once": OK,
    "result-number": OK,
    "result-object": OK,
    "result-list": OK,
    "result-null": OK,
    "result-empty": OK,
    "result-surrogate": OK,
    "result-encoded": OK,
    "result-5mb": OK,
    "extra-fields": OK,
    "citations-urls": OK,
    "citations-objects": OK,
    "citations-null": OK,
    "citations-garbage": OK,
    "citations-text": OK,
    "citations-10000": OK,
    "gzip-bomb": TOO_LARGE,
    "body-1gb": TOO_LARGE,
    "headers-missing": OK,
    "headers-zero": OK,
    "headers-negative": OK,
    "headers-huge": OK,
    "headers-bad": OK,
}
STOPS = {
    "unauthorized-once": "unauthorized",
    "credits-out": "invalid_billing",
    "spend-limit": "invalid_billing",
    "redirect": "redirect",
    "redirect-301": "redirect",
    "redirect-302": "redirect",
    "redirect-308": "redirect",
}


def story(fault: str) -> str:
    return f"a story with #fault:{fault} in it"


def received(sandbox) -> Counter[str]:
    return Counter(
        {json.loads(entry["body"])["story"]: entry["received"] for entry in sandbox.bills()}
    )


def test_every_fault_is_in_the_matrix():
    """A new fault must say how its row ends."""
    assert set(HOW_ROWS_END) | set(STOPS) | {"restart"} == set(FAULTS)


def test_each_fault_has_its_class_and_code_and_no_row_is_billed_twice(start_sandbox, make_job):
    """53 faults are in one job. Then exactly the ambiguous rows are sent again on request."""
    hold_against_the_matrix(start_sandbox, make_job)


def hold_against_the_matrix(start_sandbox, make_job, **spec) -> None:
    """Runs every fault, each next to a good row, with the settings in `spec`, and compares the
    results."""
    sandbox = start_sandbox(max_duration="60s")
    rows = [
        [text]
        for number, fault in enumerate(HOW_ROWS_END)
        for text in (story(fault), f"good {number}")
    ]
    job = make_job(sandbox.url, rows=rows, concurrency=6, deadline_s=6, retries=1, **spec)
    done = job.measured("run", "--json", "--rate", "5000")
    assert done.returncode == 5, done.stderr
    summary = json.loads(done.stdout.splitlines()[-1])
    assert done.peak_bytes < 1e9
    assert summary["stopped"] is None
    failures = pd.read_csv(job.output / "failures.csv", dtype=str, keep_default_na=False)
    ended = {
        row["story"]: (row["_status"], row["_error_code"])
        for row in failures.to_dict(orient="records")
    }
    for fault, expected in HOW_ROWS_END.items():
        assert ended.get(story(fault), OK) == expected, fault
    assert {story: end for story, end in ended.items() if story.startswith("good")} == {}
    billed = sandbox.billed()
    assert max(billed.values()) == 1
    assert summary["paid_min"] <= sum(billed.values()) <= summary["paid_max"]
    by_story = {json.loads(body)["story"]: times for body, times in billed.items()}
    for fault, (status, _) in HOW_ROWS_END.items():
        assert status != "ok" or by_story[story(fault)] == 1, fault

    codes = ",".join({code for status, code in HOW_ROWS_END.values() if status == "ambiguous"})
    seen = received(sandbox)
    assert job.run(expect=5)["requests"] == 0
    assert received(sandbox) == seen
    sandbox.publish("wf_story", "a template without the marker, as if the server were mended")
    job.call("resume", "--only", codes, "--ambiguous", "--yes", "--rate", "1000")
    ambiguous = [f for f, (status, _) in HOW_ROWS_END.items() if status == "ambiguous"]
    assert received(sandbox) - seen == Counter(map(story, ambiguous))


@pytest.mark.parametrize("fault", STOPS)
def test_faults_that_concern_the_account_or_the_address_stop_the_job(sandbox, make_job, fault):
    """The first one ends the run with exit code 4. The other rows stay pending, and it is not
    billed."""
    job = make_job(sandbox.url, rows=[[story(fault)], ["next"]], concurrency=1)
    summary = job.run(expect=4)
    assert summary["stopped"] == STOPS[fault]
    assert sum(sandbox.billed().values()) == 0
    assert received(sandbox) == Counter([story(fault)])
    assert summary["pending"] == 2 - summary["ambiguous"]


def test_a_restart_makes_at_most_the_requests_in_flight_ambiguous(sandbox, make_job):
    """Its own row is lost. So may be another one that was sent while its connection was closed."""
    rows = [[f"good {number}"] for number in range(30)]
    rows[4] = [story("restart")]
    job = make_job(sandbox.url, rows=rows, concurrency=3)
    summary = job.run(expect=5)
    assert summary["by_code"].keys() == {"disconnected"}
    assert 1 <= summary["ambiguous"] <= 3
    assert summary["ok"] == 30 - summary["ambiguous"]
    assert max(sandbox.billed().values()) == 1
