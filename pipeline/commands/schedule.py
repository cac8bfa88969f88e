"""`pipeline schedule`: prints what starts a job every night."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pipeline.commands.console import finish, print_json, tell
from pipeline.commands.options import PATH, JobOptions, job_options

if TYPE_CHECKING:
    from pipeline.job.job import Job
    from pipeline.scaffold.night import Night


@click.command()
@job_options
@click.option("--at", required=True, metavar="HH:MM", help="When it starts, local time.")
@click.option("--until", metavar="HH:MM", help="When it ends at the latest; see `run`.")
@click.option(
    "--as",
    "kind",
    type=click.Choice(["systemd", "cron", "github"]),
    default="systemd",
    show_default=True,
    help="For which scheduler.",
)
@click.option(
    "--base-url", metavar="URL", help="Another address of the API, also from AITUTOR_BASE_URL."
)
@click.option("--key-file", type=PATH, help="File that holds the key.")
def schedule(
    at: str, until: str | None, kind: str, base_url: str | None, key_file: Path | None, **given: Any
) -> None:
    """Prints what starts JOB every night: systemd units, a cron line or a GitHub workflow.

    Writes nothing and starts nothing; where it goes is said in its first lines.

    \b
    Examples:
      pipeline schedule jobs/stories.yaml --at 02:00 --until 06:00
      pipeline schedule jobs/stories.yaml --at 02:00 --as cron --key-file ~/.aitutor-key
    """
    said = JobOptions(**given)

    def work(job: Job) -> int:
        from pipeline.scaffold.night import plan_night, warnings

        address = base_url or (None if job.sandbox else os.environ.get("AITUTOR_BASE_URL"))
        night = plan_night(job, at, until, base_url=address or None, key_file=key_file)
        files = _files(kind, night)
        careful = warnings(night, kind)
        tell(*(f"Careful: {warning}" for warning in careful))
        if said.as_json:
            print_json({"files": files, "warnings": careful, "exit_code": 0})
        else:
            click.echo("\n".join(files.values()), nl=False)
        return 0

    finish(said, work)


def _files(kind: str, night: Night) -> dict[str, str]:
    from pipeline.scaffold.cron import cron_line
    from pipeline.scaffold.github import github_workflow
    from pipeline.scaffold.systemd import systemd_units

    if kind == "systemd":
        return systemd_units(night)
    if kind == "cron":
        return {"crontab": cron_line(night)}
    path, text = github_workflow(night)
    return {path: text}
