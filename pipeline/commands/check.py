"""`pipeline check`: what a run would send, before it does."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from pipeline.commands.console import answer, finish, print_json, words_said
from pipeline.commands.options import PATH, RATE, job_options, sheet_options
from pipeline.errors import Refused

if TYPE_CHECKING:
    from pipeline.job import Job


@click.command()
@job_options
@sheet_options
@RATE
@click.option("--key-file", type=PATH, help="File that holds the key whose pace was learned.")
def check(**said: Any) -> None:
    """Shows what `run` would send for JOB: texts, equal rows, cost and time. Sends nothing and
    changes nothing.

    \b
    Example:
      pipeline check jobs/stories.yaml
    """

    def work(job: Job) -> int:
        from pipeline.check import check_job
        from pipeline.plan import Selection
        from pipeline.report.checked import check_lines

        checked = check_job(
            job,
            base_url=said["base_url"],
            key_file=said["key_file"],
            selection=Selection(limit=said["limit"]),
            accept_changes=said["accept_changes"],
        )
        code = 0 if checked.refusal is None else Refused.exit_code
        if not said["quiet"] or code:
            more = words_said(said, ("accept_changes", "rate", "key_file"))
            answer(said, *check_lines(checked, job.command("run", *more)))
        if said["as_json"]:
            print_json(asdict(checked) | {"exit_code": code})
        return code

    finish(said, work)
