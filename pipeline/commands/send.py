"""`pipeline run` and `pipeline resume`: the commands that send."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeVar

from pipeline.commands.console import (
    confirm_sending,
    finish,
    overridden,
    person_there,
    print_json,
    resume_selection,
    run_selection,
    show_run,
    tell,
    words_said,
)
from pipeline.commands.help import command
from pipeline.commands.options import (
    AGAIN,
    AGAIN_ROWS,
    AMBIGUOUS,
    EXCEPT,
    ONLY,
    ROWS,
    STAGES,
    ResumeCommand,
    RunCommand,
    SendOptions,
    send_options,
)
from pipeline.core.errors import Locked, Refused

if TYPE_CHECKING:
    from pipeline.core.events import Event, Listener
    from pipeline.core.model import Stopped, Summary
    from pipeline.job.job import Job
    from pipeline.planning.selection import Selection
    from pipeline.run.run import RunOptions
    from pipeline.sending.control import Control

T = TypeVar("T")

_ALONE = "This is about one stage. Earlier ones may have sent requests. Run that stage alone."
_SIGNALS: dict[int, int] = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 143}


@command("Send every row that has not been sent yet.")
@send_options(AGAIN, AGAIN_ROWS, STAGES)
def run(**given: Any) -> None:
    """Sends every row of JOB that has not been sent yet. Run it again to continue.

    \b
    Examples:
      pipeline run jobs/stories.yaml --sandbox
      pipeline run jobs/stories.yaml --limit 5
    """
    said = RunCommand(**given)
    if said.stages:
        _send_stages(said)
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
        from pipeline.run.run import run_job_async

        with _watching(said) as seen:
            options = _run_options(said, selection(), seen)
            summary = _sent(job, lambda control: run_job_async(job, options, control=control))
        with contextlib.suppress(KeyboardInterrupt):  # everything is saved: only printing stops
            seen.tell_stops(summary)
            show_run(job, summary, said)
        return summary.exit_code

    finish(said, work)


def _send_stages(said: RunCommand) -> None:
    """Carries out `run --stages`."""

    def work(job: Job) -> int:
        from pipeline.job.chain import chain_of
        from pipeline.run.chain import StageEnd, exit_code_of_stages, run_stages_async
        from pipeline.status.summary import stages_json

        _refuse_with_stages(said)
        jobs = [*(overridden(source, said) for source in chain_of(job)[:-1]), job]

        def ended(end: StageEnd) -> None:
            seen.close()
            with contextlib.suppress(KeyboardInterrupt):
                if end.summary is None:
                    tell(f"pipeline: {end.job.name}: {end.error}", _ALONE)
                else:
                    seen.tell_stops(end.summary)
                    show_run(end.job, end.summary, replace(said, as_json=False))

        with _watching(said) as seen:
            options = _run_options(said, run_selection(said), seen)
            ends = _sent(
                job,
                lambda control: run_stages_async(jobs, options, control=control, ended=ended),
            )
        skipped = said.if_locked == "skip" and isinstance(ends[-1].error, Locked)
        code = exit_code_of_stages(ends[:-1] if skipped else ends)
        if said.as_json:
            print_json(stages_json([(one.job, one.summary, one.error) for one in ends], code))
        return code

    finish(said, work)


def _refuse_with_stages(said: RunCommand) -> None:
    """Refuses options that mean the rows, the folder or the money of one job alone."""
    of_one_job = ("again", "rows", "accept_changes", "plan", "yes", "max_paid", "input", "output")
    words = words_said(said, of_one_job)
    if words:
        raise Refused(
            f"{words[0]} is for one job, and --stages runs several. Run the stage alone with it."
        )


class _Seen:
    """Shows the events of runs, and keeps why they stopped."""

    def __init__(self, quiet: bool) -> None:
        from pipeline.commands.progress import ProgressBar

        self._quiet = quiet
        self._progress = ProgressBar()
        self._stops: list[Stopped] = []

    def __call__(self, event: Event) -> None:
        from pipeline.core.events import Notice, Stopping

        if not self._quiet:
            self._progress(event)
        elif isinstance(event, Stopping):
            self._stops.append(event.stopped)
        elif isinstance(event, Notice) and event.also_quiet:
            tell(event.message)

    def close(self) -> None:
        self._progress.close()

    def tell_stops(self, summary: Summary) -> None:
        """Says why a quiet run stopped, if a person has to look at it."""
        from pipeline.commands.progress import why
        from pipeline.status.exit_codes import needs_person

        if needs_person(summary):
            tell(*(f"Stopped: {why(stopped)}" for stopped in self._stops))
        self._stops.clear()


@contextlib.contextmanager
def _watching(said: SendOptions) -> Iterator[_Seen]:
    _tune_process()
    seen = _Seen(said.quiet)
    try:
        yield seen
    finally:
        seen.close()


def _sent(job: Job, run: Callable[[Control], Coroutine[Any, Any, T]]) -> T:
    import asyncio

    from pipeline.commands.quiet_ray import own_words_only

    with own_words_only(job.spec):
        return asyncio.run(_until_signalled(run))


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


async def _until_signalled(run: Callable[[Control], Coroutine[Any, Any, T]]) -> T:
    """Runs until the end. The first signal stops the run gently, the second at once.

    The two signals of `stop_job` always mean the same, however often they come.
    """
    import asyncio

    from pipeline.run.stop import STOP_GENTLY, STOP_NOW
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

    def stop_gently() -> None:
        control.stop("Stopped from outside.", _SIGNALS[signal.SIGTERM])

    def stop_now() -> None:
        stop_gently()
        control.abandon()

    loop.add_signal_handler(STOP_GENTLY, stop_gently)
    loop.add_signal_handler(STOP_NOW, stop_now)
    for number in _SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:  # `nohup` ignores SIGHUP, so it stays
            loop.add_signal_handler(number, on_signal, number)
    return await run(control)


def _name(number: int) -> str:
    return "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name
