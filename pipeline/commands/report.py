"""`pipeline report`: shows what failed and why, on the terminal and as a page."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.commands.console import answer, finish, print_json, show, tell
from pipeline.commands.help import OUTPUT, command, option
from pipeline.commands.options import PATH, JobOptions, job_options

if TYPE_CHECKING:
    from pipeline.job.job import Job


@command("Show what failed, why, and what to do about it.")
@job_options
@option("--open", "open_", is_flag=True, group=OUTPUT, help="Open report.html in a browser.")
@option(
    "--bodies",
    metavar="DIR",
    type=PATH,
    group=OUTPUT,
    help="Write the responses that are not answers into this new folder.",
)
def report(open_: bool, bodies: Path | None, **given: Any) -> None:
    """Shows which rows of JOB failed, why, and the command that sends them again.

    \b
    Examples:
      pipeline report jobs/stories.yaml
      pipeline report jobs/stories.yaml --open

    It also lists answers that look wrong. It writes the same with charts and sample answers to
    report.html in the run folder, one file to forward that loads nothing from the network.
    """
    said = JobOptions(**given)

    def work(job: Job) -> int:
        from pipeline.report.as_json import report_json
        from pipeline.report.bodies import write_bodies
        from pipeline.report.overview import report_job
        from pipeline.report.terminal import group_lines, marked_lines
        from pipeline.status.stages import sources_json
        from pipeline.status.summary_lines import (
            all_well_line,
            rate_limit_lines,
            review_lines,
            shown_path,
        )

        found = report_job(job)
        kept = None if bodies is None else write_bodies(job, bodies)
        if not said.quiet:
            answer(said, *found.sources)
        # Printed before the page is drawn: that takes a while, and fails if a part is damaged.
        show(job, found.summary, said)
        if not said.quiet:
            answer(said, *review_lines(found.reviews), *rate_limit_lines(found.rate_limit))
            groups = group_lines(found.groups, job.sandbox, found.names)
            answer(said, *(groups or [all_well_line(found.summary)]))
            if job.to_add and not found.summary.resume_command:
                answer(said, "", job.to_add)
            answer(said, *marked_lines(found.marked, found.unread, job.sandbox, found.names))
        # The charts' library takes 0.6 s to import. The text above is there before.
        from pipeline.report.html.write import write_report

        path = write_report(job, found)
        if not said.quiet:
            answer(said, "", f"Report to read and forward: {shown_path(str(path))}")
            if kept is not None:
                answer(said, f"Responses that are not answers: {kept}, in {bodies}")
        if said.as_json:
            shown = replace(found, summary=replace(found.summary, report=str(path)))
            print_json(report_json(shown) | sources_json(job))
        if open_:
            _open(path)
        return 0

    finish(said, work)


def _open(path: Path) -> None:
    import os
    import webbrowser

    from pipeline.job.access import SECRETS

    for name in SECRETS:  # a browser outlives the command, and needs too many other variables
        os.environ.pop(name, None)
    if not webbrowser.open(path.absolute().as_uri()):
        tell(f"No browser could be started. Open this file yourself: {path}")
