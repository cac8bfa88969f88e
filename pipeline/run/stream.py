"""A run as a stream of its events, for programs with their own event loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from pipeline.core.events import Event, RunEnded
from pipeline.job.job import Job
from pipeline.job.spec import JobSpec
from pipeline.run.run import RunOptions, run_job_async
from pipeline.sending.control import Control


async def events_of(
    job: Job | JobSpec | str | Path,
    options: RunOptions | None = None,
    *,
    control: Control | None = None,
    **fields: Any,
) -> AsyncIterator[Event]:
    """Sends the rows of a job that are not done yet, and yields its events. `RunEnded` is the last.

    Takes and raises the same as `run_job_async`. An error is raised after the events before it. A
    slow reader does not slow the run: events wait in memory. A reader that leaves stops the run
    like a first Ctrl-C: no more rows are sent, and the run waits for the answers in flight and
    saves them. Cancelling the reader ends the run at once, like cancelling `run_job_async`.
    """
    control = control or Control()
    options = replace(options or RunOptions(), **fields)
    events: asyncio.Queue[Event | None] = asyncio.Queue()
    listeners = (*options.listeners, events.put_nowait)
    run = asyncio.create_task(
        run_job_async(job, replace(options, listeners=listeners), control=control)
    )
    run.add_done_callback(lambda _: events.put_nowait(None))
    try:
        while (event := await events.get()) is not None:
            yield event
        yield RunEnded(run.result())
    except asyncio.CancelledError:
        run.cancel()
        raise
    finally:
        control.stop("The program that reads the events has stopped reading.")
        await asyncio.gather(run, return_exceptions=True)
