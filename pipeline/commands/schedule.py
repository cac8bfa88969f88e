"""`pipeline schedule`: prints the configuration that starts a job every night."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pipeline.commands.console import finish, print_json, tell
from pipeline.commands.help import LIMITS, OUTPUT, command, option
from pipeline.commands.options import (
    BASE_URL,
    JOB,
    JSON,
    KEY_FILE,
    OUTPUT_FOLDER,
    QUIET,
    SANDBOX,
    UNTIL,
    JobOptions,
    options,
)

if TYPE_CHECKING:
    from pipeline.job.job import Job
    from pipeline.scaffold.night import Night


@command("Print what starts the job every night.")
@options(
    JOB,
    option(
        "--at",
        required=True,
        metavar="HH:MM",
        group=LIMITS,
        left_out="required",
        help="Start at this time of day, in local time. Required.",
    ),
    UNTIL,
    OUTPUT_FOLDER,
    BASE_URL,
    KEY_FILE,
    SANDBOX,
    option(
        "--as",
        "kind",
        metavar="NAME",
        type=click.Choice(["systemd", "cron", "github"]),
        default="systemd",
        group=OUTPUT,
        left_out="systemd",
        help="For which scheduler: systemd, cron or github.",
    ),
    JSON,
    QUIET,
)
def schedule(
    at: str, until: str | None, kind: str, base_url: str | None, key_file: Path | None, **given: Any
) -> None:
    """Prints what starts JOB every night: systemd units, a crontab line or a GitHub workflow.

    \b
    Examples:
      pipeline schedule jobs/stories.yaml --at 02:00 --until 06:00
      pipeline schedule jobs/stories.yaml --at 02:00 --as cron --key-file ~/.key

    It installs nothing. The first lines that it prints say where they go.
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
    """Returns the texts by file. Each kind loads only its own module."""
    if kind == "systemd":
        from pipeline.scaffold.systemd import systemd_units

        return systemd_units(night)
    if kind == "cron":
        from pipeline.scaffold.cron import cron_line

        return {"crontab": cron_line(night)}
    from pipeline.scaffold.github import github_workflow

    path, text = github_workflow(night)
    return {path: text}
