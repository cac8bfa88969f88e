"""`pipeline run` and `pipeline resume`: the commands that send."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING, Any

from pipeline.commands.console import (
    confirm_sending,
    finish,
    person_there,
    resume_selection,
    run_selection,
    show_run,
    tell,
)
from pipeline.commands.help import command
from pipeline.commands.options import (
    AGAIN,
    AGAIN_ROWS,
    AMBIGUOUS,
    EXCEPT,
    ONLY,
    ROWS,
    ResumeCommand,
    RunCommand,
    SendOptions,
    send_options,
)

if TYPE_CHECKING:
    from pipeline.core.events import Event, Listener
    from pipeline.core.model import Stopped, Summary
    from pipeline.job.job import Job
    from pipeline.planning.selection import Selection
    from pipeline.run.run import RunOptions

_SIGNALS: dict[int, int] = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 143}


@command("Send every row that has not been sent yet.")
@send_options(AGAIN, AGAIN_ROWS)
def run(**given: Any) -> None:
    """Sends every row of JOB that has not been sent yet. Run it again to continue.

    \b
    Examples:
      pipeline run jobs/stories.yaml --sandbox
      pipeline run jobs/stories.yaml --limit 5
    """
    said = RunCommand(**given)
    _send(said, lambda: run_selection(said))


@command("Send failed rows again, and those not sent yet.")
@send_options(ONLY, EXCEPT, ROWS, AMBIGUOUS)
def resume(**given: Any) -> None:
    """Sends the failed rows of JOB again, and those that have not been sent yet.

    \b
    Example:
      pipeline resume jobs/stories.yaml --only gateway --ambiguous
    """
    said = ResumeCommand(**given)
    _send(said, lambda: resume_selection(said))


def _send(said: SendOptions, selection: Callable[[], Selection]) -> None:
    """Carries out `run` or `resume`, which differ only in the rows that they select."""

    def work(job: Job) -> int:
        import asyncio

        from pipeline.commands.progress import ProgressBar, why
        from pipeline.commands.quiet_ray import own_words_only
        from pipeline.core.events import Notice, Stopping
        from pipeline.status.exit_codes import needs_person

        _tune_process()
        progress = ProgressBar()
        stops: list[Stopped] = []

        def quietly(event: Event) -> None:
            if isinstance(event, Stopping):
                stops.append(event.stopped)
            elif isinstance(event, Notice) and event.also_quiet:
                tell(event.message)

        options = _run_options(said, selection(), quietly if said.quiet else progress)
        try:
            with own_words_only(job.spec):
                summary = asyncio.run(_until_signalled(job, options))
        finally:
            progress.close()
        with contextlib.suppress(KeyboardInterrupt):  # everything is saved: only printing stops
            if needs_person(summary):
                tell(*(f"Stopped: {why(stopped)}" for stopped in stops))
            show_run(job, summary, said)
        return summary.exit_code

    finish(said, work)


def _tune_process() -> None:
    import logging

    from pipeline.sending.engines.process_limits import collect_rarely

    collect_rarely()
    # Without this, Python would print the exporters' log lines into the progress bar, and with
    # them the whole address of the collector.
    logging.getLogger("opentelemetry").addHandler(logging.NullHandler())


def _run_options(said: SendOptions, selection: Selection, listener: Listener) -> RunOptions:
    from pipeline.planning.consent import Consent
    from pipeline.run.run import IfLocked, RunOptions
    from pipeline.status.exit_codes import FailOn

    return RunOptions(
        base_url=said.base_url,
        key_file=said.key_file,
        selection=selection,
        drain_s=said.drain,
        # `skip` fails too, but `finish` then exits with 0.
        if_locked=IfLocked.WAIT if said.if_locked == "wait" else IfLocked.FAIL,
        until=_until_said(said),
        fail_on=FailOn(said.fail_on),
        consent=Consent(
            said.accept_changes,
            said.yes,
            confirm_sending if person_there() else None,
            said.plan,
        ),
        listeners=(listener,),
    )


def _until_said(said: SendOptions) -> float | None:
    """The moment of `--until`, in seconds since 1970. A time of day that has passed is tomorrow's,
    so the message names the day."""
    from pipeline.core.time_of_day import find_until

    if said.until is None:
        return None
    until = find_until(said.until, time.time())
    if not said.quiet:
        tell(f"No request is sent after {datetime.fromtimestamp(until):%Y-%m-%d %H:%M:%S}.")
    return until


async def _until_signalled(job: Job, options: RunOptions) -> Summary:
    """Runs the job. The first signal stops it gently, the second at once."""
    import asyncio

    from pipeline.run.run import run_job_async
    from pipeline.sending.control import Control

    control = Control()
    loop = asyncio.get_running_loop()
    seen: list[int] = []

    def on_signal(number: int) -> None:
        seen.append(number)
        if len(seen) == 1:
            control.stop(f"Interrupted by {_name(number)}.", _SIGNALS[number])
        else:
            control.abandon()

    for number in _SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:  # `nohup` ignores SIGHUP, so it stays
            loop.add_signal_handler(number, on_signal, number)
    return await run_job_async(job, options, control=control)


def _name(number: int) -> str:
    return "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name
