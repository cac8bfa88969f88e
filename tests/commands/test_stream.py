"""A run as a stream of events, and the recipes that use it."""

from __future__ import annotations

import ast
import asyncio
import inspect
import logging
import re
import signal
from collections import Counter
from typing import Any

import pytest

import pipeline
from tests.conftest import TOP

RECIPES = TOP / "docs" / "recipes.md"


@pytest.fixture
def api(sandbox, monkeypatch):
    """Makes this process send to a sandbox."""
    monkeypatch.setenv("AITUTOR_API_KEY", "sk_sandbox")
    monkeypatch.setenv("AITUTOR_BASE_URL", sandbox.url)
    return sandbox


def snippets() -> list[str]:
    return re.findall(r"```python\n(.*?)```", RECIPES.read_text(encoding="utf-8"), re.DOTALL)


def test_a_run_is_a_stream_that_ends_with_its_summary(api, make_job):
    """Each outcome once, in order. Signals and logging are unchanged."""
    job = make_job(api.url, rows=[["a"], ["#fault:blocked"], ["c"]], rate=500)
    before = (signal.getsignal(signal.SIGINT), logging.getLogger().handlers[:])

    async def read() -> list[Any]:
        return [event async for event in pipeline.events_of(job.spec)]

    events = asyncio.run(read())
    assert isinstance(events[0], pipeline.RunStarted)
    ended = [event for event in events if isinstance(event, pipeline.AttemptEnded)]
    assert Counter(event.state for event in ended) == {"ok": 2, "failed": 1}
    assert isinstance(events[-1], pipeline.RunEnded)
    assert events[-1].summary.exit_code == 3
    assert (signal.getsignal(signal.SIGINT), logging.getLogger().handlers[:]) == before


def test_a_reader_that_leaves_stops_the_run_and_loses_no_answer(start_sandbox, make_job, api):
    """The run waits for the answers in flight: every billed row is ok."""
    slow = start_sandbox(latency="300ms")
    job = make_job(slow.url, rows=[[f"story {n}"] for n in range(30)], concurrency=3)

    async def leave() -> None:
        events = pipeline.events_of(job.spec, base_url=slow.url)
        async for event in events:
            if isinstance(event, pipeline.AttemptEnded):
                break
        await events.aclose()

    asyncio.run(leave())
    summary = pipeline.read_status(pipeline.find_job(job.spec)).summary
    assert (summary.ambiguous, summary.failed) == (0, 0)
    assert summary.ok == sum(slow.billed().values())
    assert 1 <= summary.ok <= 8


def test_errors_of_a_stream_are_typed(api, make_job):
    """They have the same types as those of `run_job_async`."""
    job = make_job(api.url, rows=[[""], ["b"]])

    async def read() -> None:
        async for _ in pipeline.events_of(job.spec):
            pass

    with pytest.raises(pipeline.Refused, match="line 2"):
        asyncio.run(read())


def test_the_recipe_for_a_notebook_runs_unchanged(api, make_job, monkeypatch, capsys):
    """It is compiled like a cell of a notebook, with `await` at the top level."""
    job = make_job(api.url, rows=[[f"story {n}"] for n in range(5)], rate=500)
    (job.folder.parent / "jobs" / "products.yaml").write_text(job.spec.read_text())
    monkeypatch.chdir(job.folder.parent)
    cell = compile(snippets()[0], "cell", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    assert cell.co_flags & inspect.CO_COROUTINE

    async def run_cell() -> None:
        await eval(cell, {})

    asyncio.run(run_cell())
    assert capsys.readouterr().out == "5 0 5\n"


def test_the_recipe_for_schedulers_returns_numbers_and_raises_if_a_person_is_needed(api, make_job):
    """A failed row raises once. A folder in use is skipped."""
    names: dict[str, Any] = {}
    exec(snippets()[1], names)
    night = names["night"]
    job = make_job(api.url, rows=[["a"]], rate=500)
    assert night(job.spec) == {"ok": 1, "paid": 1, "stopped": None}
    with pipeline.find_job(job.spec).folder.locked():
        assert "skipped" in night(job.spec)
    job.write_sheet(["story"], [["a"], ["#fault:blocked"]])
    with pytest.raises(names["NeedsPerson"], match="exit 3, 0 rows ambiguous: pipeline run"):
        night(job.spec)
    assert night(job.spec)["ok"] == 1
    job.write_sheet(["story"], [["a"], ["#fault:html-502"]])
    for _ in range(2):  # ambiguous rows are reported every night, not only the first
        with pytest.raises(names["NeedsPerson"], match="1 rows ambiguous: pipeline resume"):
            night(job.spec)
