"""Runs a job after the jobs whose answers are its rows.

A stage starts only when the one before it has ended, and only if that one sent what it could. Its
rows are then the answers that the stage before has now.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from pipeline.core.added_columns import KINDS
from pipeline.core.errors import PipelineError, Refused
from pipeline.core.events import Notice
from pipeline.core.model import Summary
from pipeline.core.money import paid_word
from pipeline.core.wording import counted
from pipeline.inputs.checks import SKIP_NAMES, Skip
from pipeline.inputs.formats import open_table
from pipeline.inputs.mapping import bind
from pipeline.inputs.stored import find_snapshot, stored_columns
from pipeline.job.chain import chain_of
from pipeline.job.job import Job, as_job
from pipeline.job.spec import JobSpec
from pipeline.ledger import queries
from pipeline.ledger.reader import has_run, reading
from pipeline.run.check import Checked, check_job
from pipeline.run.in_thread import run_anywhere
from pipeline.run.prepare import with_text_rules
from pipeline.run.run import RunOptions, run_job_async
from pipeline.sending.control import Control
from pipeline.status.exit_codes import GOES_ON, first_of

_WAITS = SKIP_NAMES[Skip.SOURCE]


@dataclass(frozen=True, slots=True)
class StageEnd:
    """How one stage ended: its summary, or the error that ended it before it had one."""

    job: Job
    summary: Summary | None
    error: PipelineError | None = None

    @property
    def exit_code(self) -> int:
        """The exit code of the stage alone."""
        if self.summary is not None:
            return self.summary.exit_code
        return self.error.exit_code if self.error is not None else 0


def exit_code_of_stages(ends: Sequence[StageEnd]) -> int:
    """Returns the exit code of all stages together: the first of theirs in the order of a run."""
    return first_of([end.exit_code for end in ends])


def run_stages(
    job: Job | JobSpec | str | Path,
    options: RunOptions | None = None,
    *,
    control: Control | None = None,
    **fields: Any,
) -> list[StageEnd]:
    """Runs the jobs that the rows of `job` come from, the first source first, and then `job`.

    Takes the options of `run_job`, except for those that choose rows or allow a second payment.
    Each stage has its own summary, caps and run folder. The list ends with the stage that did not
    end well, or with `job`. Where an event loop is already running, this works as `run_job` does.

    Raises:
        Refused: nothing was sent in any stage.
    """
    control = control or Control()
    return run_anywhere(run_stages_async(job, options, control=control, **fields), control)


async def run_stages_async(
    job: Job | JobSpec | str | Path | Sequence[Job],
    options: RunOptions | None = None,
    *,
    control: Control | None = None,
    ended: Callable[[StageEnd], None] = lambda _: None,
    **fields: Any,
) -> list[StageEnd]:
    """Does what `run_stages` does. `ended` is called at the end of each stage. `job` can also be
    the list of all stages, as `chain_of` returns it.

    Raises:
        Refused: nothing was sent in any stage.
    """
    options, control = replace(options or RunOptions(), **fields), control or Control()
    jobs = chain_of(as_job(job)) if isinstance(job, Job | JobSpec | str | Path) else list(job)
    _tell(options, await asyncio.to_thread(_worst_case, jobs, options))
    ends: list[StageEnd] = []
    for number, stage in enumerate(jobs, start=1):
        _tell(options, f"Stage {number} of {len(jobs)}: {stage.name}")
        end = await _run(stage, options, control)
        ends.append(end)
        ended(end)
        if end.exit_code not in GOES_ON:
            break
    return ends


async def _run(job: Job, options: RunOptions, control: Control) -> StageEnd:
    try:
        return StageEnd(job, await run_job_async(job, options, control=control))
    except PipelineError as error:
        return StageEnd(job, None, error)


def _tell(options: RunOptions, message: str) -> None:
    for listener in options.listeners:
        listener(Notice(message))


def _worst_case(jobs: Sequence[Job], options: RunOptions) -> str:
    """Returns the number of requests that may be paid in all stages together, in a sentence. A
    stage may send again what an earlier stage changes.

    Raises:
        Refused: if a stage would be refused as things are now.
    """
    first = jobs[0]
    checked = _checked(first, options)
    rows, most, others = checked.rows, checked.to_send, checked.other_rows
    columns = _columns_now(first)
    known = has_run(first) and columns == _columns_before(first)
    for source, job in pairwise(jobs):
        columns += tuple(source.to_run().column_names(KINDS))
        known = known and has_run(source)
        if known:
            found = _checked(job, options)
            waiting = found.to_send + found.skipped_by.get(_WAITS, 0)
        else:
            _refuse_missing(job, columns)
            waiting = rows
        sent = min(rows, waiting + others)
        most, others = most + sent, min(rows, others + sent)
    paid = paid_word(jobs[-1].sandbox)
    return (
        f"{counted(len(jobs), 'stage')}: {', '.join(job.name for job in jobs)}. At most "
        f"{counted(most, 'request')} would be {paid} in all of them together."
    )


def _checked(job: Job, options: RunOptions) -> Checked:
    """What the stage would send now.

    Raises:
        Refused: if a run of it would be refused.
    """
    checked = check_job(
        job,
        base_url=options.base_url,
        key_file=options.key_file,
        selection=options.selection,
    )
    if checked.refusal is not None:
        raise Refused(checked.refusal)
    return checked


def _columns_now(job: Job) -> tuple[str, ...]:
    return open_table(with_text_rules(job, accept_changes=False).to_run()).columns


def _columns_before(job: Job) -> tuple[str, ...]:
    """The columns of the sheet of the last run."""
    with reading(job.folder.ledger) as read:
        last = find_snapshot(job.folder.snapshots, read(queries.meta(queries.SNAPSHOT)))
    return () if last is None else stored_columns(last)


def _refuse_missing(job: Job, columns: tuple[str, ...]) -> None:
    """Refuses a stage whose columns its source will not have. Where two columns have one name, an
    export gives them numbers, and only the run itself can tell."""
    if len({name.casefold() for name in columns}) == len(columns):
        bind(job.to_run(), columns)
