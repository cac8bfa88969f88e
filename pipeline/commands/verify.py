"""`pipeline verify`: checks that a run folder is complete and unaltered."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from pipeline.commands.console import answer, finish, print_json
from pipeline.commands.help import command
from pipeline.commands.options import JobOptions, job_options
from pipeline.core.errors import StorageFailed

if TYPE_CHECKING:
    from pipeline.job.job import Job


@command("Check that the run folder is complete and unaltered.")
@job_options
def verify(**given: Any) -> None:
    """Checks that every file in JOB's run folder is complete and unaltered.

    \b
    Example:
      pipeline verify jobs/stories.yaml

    If something is missing or altered, it names the files and rows and exits with 6. It finds
    accidents, not intent: it does not notice a person who rewrites an answer and its checksum. It
    works while a run is active.
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
