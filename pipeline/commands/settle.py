"""`pipeline settle`: gives up rows that the user does not want to send again."""

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
from pipeline.core.wording import few_words

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
        raise click.UsageError("--reread reads every kept response. Leave out --only and --rows.")

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
    """How many rows were given up. `codes` are the error codes that rows of this job have."""
    ambiguous, failed = decided[State.AMBIGUOUS], decided[State.FAILED]
    lines = []
    if ambiguous:
        lines.append(f"Ambiguous rows that now count as failed: {ambiguous}. Nothing was sent.")
    if failed:
        lines.append(f"Failed rows that are given up: {failed}. Nothing was sent.")
    if lines:
        return lines
    if not codes:
        return ["There is no row to give up: every row that was sent is ok. Nothing was sent."]
    here = f"The error codes here are: {few_words(codes)}."
    return [f"There is no row to give up. {here} Nothing was sent."]


def reread_line(number: int) -> str:
    """How many of the kept responses could be read now."""
    if not number:
        return "No kept response can be read that could not be read before. Nothing was sent."
    return f"Kept responses that can be read now, so their rows are ok: {number}. Nothing was sent."
