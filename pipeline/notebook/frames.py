"""Sends the rows of a DataFrame, and returns it with the answers: `run_frame`.

It stands next to the command line, because both show a run to a person.
"""

from __future__ import annotations

import asyncio
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from pathlib import Path
from types import NoneType
from typing import TYPE_CHECKING, Any, TypedDict, Unpack

from pipeline.commands.progress import ProgressBar, why
from pipeline.commands.widget import notebook_bar
from pipeline.core.errors import PipelineError, Refused, refuse_other
from pipeline.core.events import Event, Listener, Stopping
from pipeline.core.model import Summary
from pipeline.inputs.frame import is_pandas, read_frame
from pipeline.job.call import as_settings
from pipeline.job.frame import Frame
from pipeline.job.frame_call import in_python
from pipeline.job.job import Job, job_of
from pipeline.job.spec import frame_spec
from pipeline.planning.consent import Consent
from pipeline.planning.selection import Selection
from pipeline.results.frame import add_answers
from pipeline.run.in_thread import run_in_thread
from pipeline.run.run import IfLocked, RunOptions, run_job_async
from pipeline.sending.control import Control
from pipeline.status.exit_codes import FailOn, needs_person
from pipeline.status.summary import as_json, for_person
from pipeline.status.summary_lines import summary_lines

if TYPE_CHECKING:
    from pipeline.results.frame import DataFrame


class FrameOptions(TypedDict, total=False):
    """The other options of `run_frame`: the fields of `RunOptions`, and the keys of a job file in
    the form that they have there. `as:` is called `answer_column`."""

    base_url: str | None
    key_file: str | os.PathLike[str] | None
    selection: Selection
    drain_s: float | None
    if_locked: IfLocked
    until: float | None
    fail_on: FailOn
    consent: Consent
    listeners: tuple[Listener, ...]
    name: str
    constants: Mapping[str, str]
    empty: str | Mapping[str, str]
    where: Sequence[Mapping[str, str | bool]]
    dedupe: bool
    max_paid: int | None
    max_paid_per_run: int | None
    concurrency: int
    retries: int
    rate: float | None
    deadline_s: float
    engine: str
    ray_address: str | None
    workers: int | None
    answer_column: str | None
    columns: Mapping[str, str | Mapping[str, str]]
    add: Sequence[str]
    notify: Mapping[str, str | float | bool]


def run_frame(
    frame: Any,
    *,
    workflow: str,
    output: str | os.PathLike[str],
    variables: Mapping[str, str] | None = None,
    id: str | None = None,
    sandbox: bool = False,
    progress: bool = True,
    control: Control | None = None,
    **options: Unpack[FrameOptions],
) -> DataFrame:
    """Sends the rows of a DataFrame that are not done yet, and returns it with the answers.

    `frame` is a DataFrame of pandas or polars, a relation of DuckDB, a table of pyarrow, or another
    object with `__arrow_c_stream__`. `workflow`, `variables` ({variable: column}) and `id` (a
    column) are as in a job file. `output` is the run folder, which has every answer: the same call
    with the same folder sends only new and changed rows. `sandbox` is a rehearsal. `progress` draws
    a bar and prints the result. `options` are the fields of `RunOptions`, and the keys of a job
    file such as `constants`, `empty`, `where`, `max_paid`, `rate` and `columns`.

    The result is a DataFrame of pandas with the rows and the index of `frame`. Its columns are
    those of `frame`, then `result`, the columns of `columns`, `citations`, `_status`,
    `_error_code`, `_error_message` and `_flags`. A row that is not ok has its status, code and
    message. `attrs["summary"]` has the fields of `Summary`.

    The run works in a thread, also where an event loop is running, as in a notebook. The first
    interrupt stops sending, waits for the answers in flight, and raises KeyboardInterrupt. The
    second one leaves at once.

    Raises:
        Refused: nothing was sent. The message says what to fix.
        Locked: another run works in this folder.
        Interrupted: `control` stopped the run before it sent anything.
        StorageFailed: the disk refused a write. Every outcome that it still accepted is saved.
    """
    refuse_other((Control, NoneType), "a `pipeline.Control`, or None", control=control)
    control = control or Control()
    with _in_python():
        call = _Call.of(frame, workflow, output, variables, id, sandbox, options)
        with _shown(call.job, progress) as shown:
            try:
                summary = run_in_thread(
                    lambda listener: call.run(control, listener), control, shown.listener
                )
            except KeyboardInterrupt:
                shown.say_interrupted()
                raise
            shown.say_result(summary)
        return call.result(summary)


async def run_frame_async(
    frame: Any,
    *,
    workflow: str,
    output: str | os.PathLike[str],
    variables: Mapping[str, str] | None = None,
    id: str | None = None,
    sandbox: bool = False,
    progress: bool = True,
    control: Control | None = None,
    **options: Unpack[FrameOptions],
) -> DataFrame:
    """Does the same as `run_frame` inside your event loop.

    Takes, returns and raises the same. It reacts to no signal. Cancelling it ends the run at once,
    and the rows in flight are then ambiguous. `control.stop` waits for their answers.
    """
    with _in_python():
        call = _Call.of(frame, workflow, output, variables, id, sandbox, options)
        with _shown(call.job, progress) as shown:
            summary = await call.run(control or Control(), shown.listener)
            shown.say_result(summary)
        return await asyncio.to_thread(call.result, summary)


@dataclass(frozen=True, slots=True)
class _Call:
    """One call: the frame as it was read, its job, and the options of its run."""

    given: Any
    job: Job
    options: RunOptions

    @classmethod
    def of(
        cls,
        frame: Any,
        workflow: str,
        output: str | os.PathLike[str],
        variables: Mapping[str, str] | None,
        row_id: str | None,
        sandbox: bool,
        options: FrameOptions,
    ) -> _Call:
        refuse_other((str, os.PathLike), "the path of a run folder", output=output)
        refuse_other((Mapping, NoneType), "{variable: column}, or None", variables=variables)
        refuse_other(bool, "True or False", sandbox=sandbox)
        rest: dict[str, Any] = dict(options)
        of_run = {name: rest.pop(name) for name in _OF_RUN if name in rest}
        key_file = of_run.get("key_file")
        if isinstance(key_file, str):
            of_run["key_file"] = Path(key_file)
        if "answer_column" in rest:
            rest["as"] = rest.pop("answer_column")
        # The name of a column is its text, also where pandas has a number.
        columns = variables and {name: str(column) for name, column in variables.items()}
        id_column = None if row_id is None else str(row_id)
        rest |= {"workflow": workflow, "variables": columns, "id": id_column}
        folder = Path(output).absolute() if os.fspath(output) else ""
        settings = as_settings({"name": _job_name(Path(output))} | rest | {"output": folder})
        spec = frame_spec(Frame(settings), _OTHERS)
        options_of_run = RunOptions(**of_run)
        # The program may sort or shorten its frame while the call runs.
        frame = frame.copy(deep=False) if is_pandas(frame) else frame
        read = read_frame(frame)
        spec = replace(spec, input=Frame(settings, read.table, read.flaws))
        return cls(frame, job_of(spec, sandbox), options_of_run)

    async def run(self, control: Control, listener: Listener) -> Summary:
        listeners = (*self.options.listeners, listener)
        options = replace(self.options, listeners=listeners)
        return await run_job_async(self.job, options, control=control)

    def result(self, summary: Summary) -> DataFrame:
        try:
            frame = add_answers(self.given, self.job)
        except Refused as error:
            raise Refused(
                f"{self.job.folder.path}: another run used this run folder at the same time, with "
                f"other rows ({error}) The answers are saved there. The same call sends only rows "
                "without an answer.",
                closing="",
            ) from None
        frame.attrs["summary"] = as_json(summary)
        return frame


_OF_RUN = tuple(field.name for field in fields(RunOptions))
_OTHERS = (*_OF_RUN, "answer_column", "sandbox", "progress", "control")


def _job_name(folder: Path) -> str:
    """Returns the last part of a folder's path as the name of a job."""
    return re.sub(r"[^A-Za-z0-9_-]+", "-", folder.name)[:100] or "frame"


@contextmanager
def _in_python() -> Iterator[None]:
    """Rewords messages, which speak of job files and commands."""
    try:
        yield
    except PipelineError as error:
        error.args = (in_python(str(error)), *error.args[1:])
        raise


@dataclass(frozen=True, slots=True)
class _Shown:
    """What a call shows: the progress of its run, and the result. Nothing without `bar`."""

    job: Job
    bar: ProgressBar | None
    stops: list[str]

    def listener(self, event: Event) -> None:
        if isinstance(event, Stopping):
            self.stops.append(f"Stopped: {why(event.stopped)}")
        if self.bar is not None:
            self.bar(event)

    def say_result(self, summary: Summary) -> None:
        stops = self.stops if needs_person(summary) else []
        lines = summary_lines(
            for_person(self.job, summary), self.job.command("report"), rehearsal=self.job.sandbox
        )
        self._say(*stops, *lines)

    def say_interrupted(self) -> None:
        self._say(
            "Interrupted. The answers so far are saved. The same call continues, and "
            f'pipeline.read_results("{self.job.folder.path}") returns them.'
        )

    def _say(self, *lines: str) -> None:
        if self.bar is not None:
            self.bar.close()
            for line in lines:
                self.bar.say(line)


@contextmanager
def _shown(job: Job, progress: bool) -> Iterator[_Shown]:
    bar = None
    if progress:
        widget = notebook_bar()
        # A notebook shows stderr in red.
        bar = ProgressBar(sys.stdout if widget else None, widget, in_python)
    try:
        yield _Shown(job, bar, [])
    finally:
        if bar is not None:
            bar.close()
