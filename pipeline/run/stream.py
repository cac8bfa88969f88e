"""A run as a stream of its events, for programs that have a loop of their own."""

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
    """Sends what is not done yet of a job, and yields what happens; `RunEnded` is the last.

    Takes what `run_job_async` takes and raises what it raises, after the events before. Events wait
    for a slow reader in memory; the run does not. A reader that leaves stops the run as one signal
    does: no more rows are sent, and answers that are paid for are waited for and kept. Cancelling
    the reader ends the run at once, as it does that of `run_job_async`.
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
