"""`pipeline status`: shows the counts of a job, once or until its run ends."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pipeline.commands.console import answer, finish, print_json, show
from pipeline.commands.help import OUTPUT, command, option
from pipeline.commands.options import JobOptions, Measure, job_options
from pipeline.core.model import MAX_WAIT_S

if TYPE_CHECKING:
    from pipeline.job.job import Job


@command("Show how many rows are done, failed and pending.")
@job_options
@option(
    "--watch",
    "every_s",
    is_flag=False,
    flag_value=2.0,
    type=Measure(0.1, MAX_WAIT_S),
    metavar="[SECONDS]",
    group=OUTPUT,
    left_out="one look; without SECONDS, every 2 s",
    help="Repeat every 2 s, or every SECONDS, until the run ends.",
)
def status(every_s: float | None, **given: Any) -> None:
    """Shows how many rows of JOB are done, failed and pending.

    \b
    Examples:
      pipeline status jobs/stories.yaml
      pipeline status jobs/stories.yaml --watch

    It only reads the run folder, and works while a run is active.
    """
    said = JobOptions(**given)

    def work(job: Job) -> int:
        from pipeline.commands.watch import watch
        from pipeline.status.stages import source_lines, sources_json
        from pipeline.status.summary import read_status, status_json
        from pipeline.status.summary_lines import last_run_line, rate_limit_lines, review_lines

        found = read_status(job) if every_s is None else watch(job, every_s)
        if not said.quiet:
            answer(said, *source_lines(job))
        show(job, found.summary, said)
        if not said.quiet:
            answer(said, *review_lines(found.reviews))
            answer(said, *rate_limit_lines(found.rate_limit))
            answer(said, last_run_line(found.last_run, found.in_use, found.in_flight))
        if said.as_json:
            print_json(status_json(found) | sources_json(job))
        return 0

    finish(said, work)
