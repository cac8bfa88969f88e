"""`pipeline settle`: what becomes of rows that are not sent again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import click

from pipeline.commands.console import codes_said, finish, rows_said, show_run, tell
from pipeline.commands.help import SEND, command, option
from pipeline.commands.options import (
    JOB,
    JSON,
    ONLY,
    OUTPUT_FOLDER,
    QUIET,
    ROWS,
    SANDBOX,
    JobOptions,
    options,
)
from pipeline.core.model import State
from pipeline.core.wording import counted, few_words

if TYPE_CHECKING:
    from pipeline.job.job import Job


@command("Give rows up without sending them again.")
@options(
    JOB,
    ONLY,
    ROWS,
    option(
        "--reread",
        is_flag=True,
        group=SEND,
        help="Only read the unreadable responses again (after an upgrade).",
    ),
    OUTPUT_FOLDER,
    SANDBOX,
    JSON,
    QUIET,
)
def settle(only: str | None, rows: str | None, reread: bool, **given: Any) -> None:
    """Gives up rows of JOB without sending them.

    \b
    Examples:
      pipeline settle jobs/stories.yaml --only timeout
      pipeline settle jobs/stories.yaml --reread

    It marks ambiguous rows as failed. With --only or --rows it also gives up failed rows, which
    only `resume --rows` sends again.
    """
    said = JobOptions(**given)
    if reread and (only is not None or rows is not None):
        raise click.UsageError("--reread is about every kept answer: leave out --only and --rows.")

    def work(job: Job) -> int:
        from pipeline.run.settle import reread_job, settle_job
        from pipeline.status.summary import read_status

        if reread:
            number = reread_job(job)
            if not said.quiet:
                tell(reread_line(number))
            show_run(job, read_status(job).summary, said)
            return 0
        decided = settle_job(job, only=codes_said(only), rows=rows_said(rows))
        summary = read_status(job).summary
        if not said.quiet:
            tell(*settled_lines(decided, summary.by_code))
        show_run(job, summary, said)
        return 0

    finish(said, work)


def settled_lines(decided: Counter[State], codes: Iterable[str]) -> list[str]:
    """What was decided about how many rows; `codes` are those that rows have."""
    ambiguous, failed = decided[State.AMBIGUOUS], decided[State.FAILED]
    lines = []
    if ambiguous:
        lines.append(f"{counted(ambiguous, 'ambiguous row')} taken as failed; nothing was sent.")
    if failed:
        lines.append(f"{counted(failed, 'failed row')} given up; nothing was sent.")
    if lines:
        return lines
    here = f"The error codes here are: {few_words(codes)}." if codes else "Every row sent is ok."
    return [f"No row to decide about, and nothing was sent. {here}"]


def reread_line(number: int) -> str:
    """How many kept answers could be read now."""
    if not number:
        return "No kept answer can be read now that could not be read before. Nothing was sent."
    return f"{counted(number, 'kept answer')} can be read now: ok. Nothing was sent."
