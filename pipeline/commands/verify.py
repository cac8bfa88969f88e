"""`pipeline verify`: whether a run folder is whole."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from pipeline.commands.console import answer, finish, print_json
from pipeline.commands.options import JobOptions, job_options
from pipeline.core.errors import StorageFailed

if TYPE_CHECKING:
    from pipeline.job.job import Job


@click.command()
@job_options
def verify(**given: Any) -> None:
    """Reads every file of JOB's run folder and checks that all is there and as it was written.

    Works while a run goes on. Ends with 6 and names files and rows where something is not. It finds
    accidents, not intent: a person who rewrites an answer and its checksum is not noticed.

    \b
    Example:
      pipeline verify jobs/stories.yaml
    """
    said = JobOptions(**given)

    def work(job: Job) -> int:
        from pipeline.status.summary import as_json, summarize_error
        from pipeline.verify import verify_job
        from pipeline.verify.lines import verified_lines

        found = verify_job(job)
        code = StorageFailed.exit_code if found.findings else 0
        if not said.quiet or code:
            answer(said, *verified_lines(found, job.name))
        if said.as_json:
            error = StorageFailed("the ledger cannot be read")
            summary = as_json(found.summary or summarize_error(job, error))
            more = asdict(found)
            del more["summary"]
            print_json(summary | more | {"exit_code": code})
        return code

    finish(said, work)
