"""`pipeline check`: shows what a run would send, without sending it."""

from __future__ import annotations

import sys
from functools import partial
from typing import TYPE_CHECKING, Any

from pipeline.commands.console import (
    answer,
    finish,
    is_terminal,
    print_json,
    resume_selection,
    run_selection,
    tell,
    words_said,
)
from pipeline.commands.help import SEND, command, option
from pipeline.commands.options import (
    ACCEPT_CHANGES,
    AGAIN,
    AMBIGUOUS,
    BASE_URL,
    EXCEPT,
    INPUT,
    JOB,
    JSON,
    KEY_FILE,
    LIMIT,
    MAX_PAID,
    ONLY,
    OUTPUT_FOLDER,
    QUIET,
    RATE,
    ROWS,
    SANDBOX,
    CheckCommand,
    options,
)
from pipeline.core.errors import Refused

if TYPE_CHECKING:
    from pipeline.core.events import Event
    from pipeline.job.job import Job
    from pipeline.planning.selection import Selection


_OF_RESUME = ("only", "except_", "ambiguous")
_OF_PLAN = ("again", "limit", "rows", *_OF_RESUME)


@command("Show what `run` would send, and what it costs.")
@options(
    JOB,
    option(
        "--resume", is_flag=True, group=SEND, help="What `resume` would send, instead of `run`."
    ),
    ONLY,
    EXCEPT,
    ROWS,
    AMBIGUOUS,
    AGAIN,
    LIMIT,
    ACCEPT_CHANGES,
    MAX_PAID,
    RATE,
    INPUT,
    OUTPUT_FOLDER,
    BASE_URL,
    KEY_FILE,
    SANDBOX,
    JSON,
    QUIET,
)
def check(**given: Any) -> None:
    """Shows what `run` would send for JOB, and what it costs. Sends nothing.

    \b
    Examples:
      pipeline check jobs/stories.yaml
      pipeline check jobs/stories.yaml --again 3 --json

    With the options of `resume` it shows what `resume` would send.
    """
    said = CheckCommand(**given)

    def work(job: Job) -> int:
        from pipeline.commands.check_lines import check_lines
        from pipeline.planning.reviewed import kept_line
        from pipeline.run.check import check_job, checked_json
        from pipeline.run.waits import PREPARING, saying_if_slow

        verb, selection = _asked(said)
        with saying_if_slow(partial(_say, said), PREPARING):
            checked = check_job(
                job,
                base_url=said.base_url,
                key_file=said.key_file,
                selection=selection,
                accept_changes=said.accept_changes,
            )
        code = 0 if checked.refusal is None else Refused.exit_code
        if not said.quiet or code:
            more = words_said(said, ("accept_changes", "rate", "base_url", "key_file", *_OF_PLAN))
            able = job.affording(checked.paid_max, checked.to_send)
            answer(said, *check_lines(checked, able.command(verb, *more), job.sandbox))
            if checked.kept_by_review:
                answer(said, kept_line(job, checked.kept_by_review, checked.names))
            if job.to_add and checked.to_send:
                answer(said, job.to_add)
        if said.as_json:
            print_json(checked_json(checked) | {"exit_code": code})
        return code

    finish(said, work)


def _say(said: CheckCommand, event: Event) -> None:
    """Says why the terminal shows nothing yet. A program that reads the output can wait."""
    from pipeline.core.events import Notice

    if isinstance(event, Notice) and not said.quiet and is_terminal(sys.stderr):
        tell(event.message)


def _asked(said: CheckCommand) -> tuple[str, Selection]:
    """(`run` or `resume`, the rows that it would choose) for the options given."""
    resumed = [name for name in _OF_RESUME if getattr(said, name)]
    if not (said.resume or resumed) and (said.again or not said.rows):
        return "run", run_selection(said)
    if said.again:
        raise Refused(
            "--again is an option of `run`, and the other options here belong to `resume`. Check "
            "them in two commands."
        )
    return "resume", resume_selection(said)
