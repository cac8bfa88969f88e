"""Tests the commands as calls from Python."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from pathlib import Path

import pandas as pd
import pytest

import pipeline
from pipeline.core.events import AttemptEnded


@pytest.fixture(autouse=True)
def _reach(monkeypatch):
    """Sets the key as an importing program would set it."""
    monkeypatch.setenv("AITUTOR_API_KEY", "sk_sandbox")


def reaching(monkeypatch, sandbox) -> None:
    monkeypatch.setenv("AITUTOR_BASE_URL", sandbox.url)


def test_a_whole_job_can_be_done_by_calls(sandbox, make_job, monkeypatch):
    """It runs, checks, reports, settles, resumes and exports, and begins with a path as a user
    would."""
    reaching(monkeypatch, sandbox)
    job = make_job(sandbox.url, rows=[["a"], ["#fault:blocked"], ["#fault:not-json"]], rate=500)
    summary = pipeline.run_job(job.spec)
    assert (summary.ok, summary.failed, summary.ambiguous, summary.exit_code) == (1, 1, 1, 5)
    found = pipeline.find_job(job.spec)
    assert pipeline.check_job(found).to_send == 0
    assert [g.code for g in pipeline.report_job(found).groups] == [
        "bad_response",
        "request_blocked",
    ]
    selection = pipeline.select_resume(only=frozenset({"request_blocked"}))
    assert pipeline.run_job(found, selection=selection).requests == 1
    with pytest.raises(pipeline.Refused, match="--yes"):
        pipeline.run_job(found, selection=pipeline.select_resume(ambiguous=True))
    written = pipeline.export_job(found, job.folder / "out.parquet")
    assert written.rows == len(pd.read_parquet(written.path)) == 3
    assert pipeline.settle_job(found) == {pipeline.State.AMBIGUOUS: 1}
    assert pipeline.read_status(found).summary.ok == 1


def test_many_jobs_run_in_one_loop_and_touch_neither_signals_nor_logging(
    sandbox, make_job, monkeypatch, tmp_path
):
    """`run_job_async` runs within another program, which owns them."""
    reaching(monkeypatch, sandbox)
    job = make_job(sandbox.url, rows=[[f"story {n}"] for n in range(20)], rate=500)
    spec = pipeline.load_spec(job.spec)
    before = (signal.getsignal(signal.SIGINT), logging.getLogger().handlers[:])
    specs = [pipeline.find_job(job.spec, output=tmp_path / f"out-{n}") for n in range(3)]

    async def together() -> list[pipeline.Summary]:
        return await asyncio.gather(*(pipeline.run_job_async(one) for one in specs))

    summaries = asyncio.run(together())
    assert [s.ok for s in summaries] == [20, 20, 20]
    assert (signal.getsignal(signal.SIGINT), logging.getLogger().handlers[:]) == before
    assert spec.rate == 500
    assert set(sandbox.billed().values()) == {3}


def test_listeners_get_events_and_a_control_stops_the_run(start_sandbox, make_job, monkeypatch):
    """Requests in flight are waited for. The other rows stay pending."""
    sandbox = start_sandbox(latency="50ms")
    reaching(monkeypatch, sandbox)
    job = make_job(sandbox.url, rows=[[f"story {n}"] for n in range(200)], concurrency=4)
    control, seen = pipeline.Control(), []

    def listen(event: object) -> None:
        seen.append(event)
        if isinstance(event, AttemptEnded) and event.state is pipeline.State.OK:
            control.stop("enough")

    summary = pipeline.run_job(job.spec, control=control, listeners=(listen,))
    assert summary.stopped == "interrupted"
    assert summary.exit_code == 130
    assert summary.ok == sum(sandbox.billed().values()) > 0
    assert summary.pending == 200 - summary.ok
    assert isinstance(seen[0], pipeline.RunStarted)
    assert any(isinstance(event, pipeline.Stopping) for event in seen)


def test_a_rehearsal_needs_no_key(make_job, monkeypatch):
    """It begins with `find_job(path, sandbox=True)`."""
    monkeypatch.delenv("AITUTOR_API_KEY")
    job = make_job("http://127.0.0.1:9", rows=[["a"], ["b"]])
    rehearsal = pipeline.find_job(job.spec, sandbox=True)
    assert pipeline.run_job(rehearsal).ok == 2
    assert Path(f"{job.output}.sandbox").is_dir()
    assert not os.path.exists(job.output)


def test_the_printed_commands_of_a_rehearsal_are_rehearsals_too(make_job, monkeypatch):
    """None of them pays when it is pasted."""
    monkeypatch.delenv("AITUTOR_API_KEY")
    job = make_job("http://127.0.0.1:9", rows=[["a"], ["#fault:blocked"]])
    rehearsal = pipeline.find_job(job.spec, sandbox=True)
    summary = pipeline.run_job(rehearsal)
    assert summary.resume_command is not None
    assert summary.resume_command.endswith(f"{job.spec} --sandbox")
    [group] = pipeline.report_job(rehearsal).groups
    assert f"{job.spec} --sandbox" in group.command
    elsewhere = pipeline.find_job(job.spec, output=job.folder / "other")
    assert elsewhere.command("status") == f"pipeline status {job.spec} --output {job.folder}/other"


def test_a_wrong_option_is_a_type_error(make_job):
    """Any Python function does the same."""
    job = make_job("http://127.0.0.1:9", rows=[["a"]])
    with pytest.raises(TypeError):
        pipeline.run_job(job.spec, limmit=5)


@pytest.mark.parametrize(("name", "value"), [("if_locked", "skip"), ("fail_on", "wiat")])
def test_an_unknown_choice_is_refused(make_job, name, value):
    """Otherwise it would count as a valid one."""
    job = make_job("http://127.0.0.1:9", rows=[["a"]])
    with pytest.raises(pipeline.Refused, match=f"{name}=.*use one of .*Nothing was sent"):
        pipeline.run_job(job.spec, **{name: value})


def test_a_listener_that_raises_loses_no_answer(start_sandbox, make_job, monkeypatch):
    """The run raises the listener's error after it has saved the requests in flight."""
    sandbox = start_sandbox(latency="300ms")
    reaching(monkeypatch, sandbox)
    job = make_job(sandbox.url, rows=[[f"story {n}"] for n in range(50)], rate=100, concurrency=8)

    def listen(event: object) -> None:
        if isinstance(event, AttemptEnded):
            raise KeyError("a bug of the caller")

    with pytest.raises(KeyError):
        pipeline.run_job(job.spec, listeners=(listen,))
    summary = pipeline.run_job(job.spec)
    assert (summary.ok, summary.ambiguous) == (50, 0)
    assert set(sandbox.billed().values()) == {1}


def test_a_cancelled_call_that_still_reads_its_sheet_leaves_nothing_behind(
    sandbox, make_job, monkeypatch
):
    """The folder is free again, and nothing was sent."""
    reaching(monkeypatch, sandbox)
    job = make_job(sandbox.url, rows=[[f"story number {n}"] for n in range(200_000)])

    async def begin_and_cancel() -> None:
        task = asyncio.create_task(pipeline.run_job_async(job.spec))
        await asyncio.sleep(0.3)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(begin_and_cancel())
    assert sandbox.received() == 0
    job.write_sheet(["story"], [["a"]])
    assert pipeline.run_job(job.spec).ok == 1
