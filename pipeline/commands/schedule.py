"""`pipeline schedule`: prints the configuration that starts a job every night."""

from __future__ import annotations

import os
import shlex
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pipeline.commands.console import finish, job_said, print_json, tell
from pipeline.commands.help import LIMITS, OUTPUT, command, option
from pipeline.commands.options import (
    BASE_URL,
    JOB,
    JSON,
    KEY_FILE,
    OUTPUT_FOLDER,
    PATH,
    QUIET,
    SANDBOX,
    UNTIL,
    JobOptions,
    options,
)
from pipeline.core.errors import NothingWritten
from pipeline.core.wording import counted

if TYPE_CHECKING:
    from pipeline.job.job import Job
    from pipeline.scaffold.night import Night


@command("Print what starts the job every night.")
@options(
    JOB,
    option(
        "--at",
        metavar="HH:MM",
        group=LIMITS,
        left_out="required without --check",
        help="Start at this time of day, in local time.",
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
    option(
        "--write",
        "folder",
        metavar="DIR",
        type=PATH,
        group=OUTPUT,
        help="Write the files into this folder. Replaces no file.",
    ),
    option(
        "--check",
        "files",
        metavar="FILE",
        type=PATH,
        multiple=True,
        group=OUTPUT,
        help="Compare this installed file with the job file.",
    ),
    JSON,
    QUIET,
)
def schedule(folder: Path | None, files: tuple[Path, ...], **given: Any) -> None:
    """Prints what starts JOB every night: systemd units, a crontab line or a GitHub workflow.

    \b
    Examples:
      pipeline schedule jobs/stories.yaml --at 02:00 --until 06:00
      pipeline schedule jobs/stories.yaml --at 02:00 --as cron --key-file ~/.key
      pipeline schedule jobs/stories.yaml --check FILE.service --check FILE.timer

    It installs nothing. The first lines that it prints say where they go.
    """
    asked = {name: given.pop(name) for name in ("at", "until", "kind", "base_url", "key_file")}
    said = JobOptions(**given)

    def work(job: Job) -> int:
        from pipeline.scaffold.installed import check_installed, write_new
        from pipeline.scaffold.night import warnings

        if files:
            check_installed(files, job.to_run().job_file, _printed_again)
            if said.as_json:
                print_json({"files": {}, "warnings": [], "exit_code": 0})
            tell(f"{counted(len(files), 'file')} checked: each has the lines that this job needs.")
            return 0
        if folder is not None and asked["kind"] == "cron":
            raise NothingWritten(
                "cron reads one table for all jobs. Print the lines without --write, and add them "
                "with `crontab -e`."
            )
        night = _night(job, **asked)
        texts, careful = _files(asked["kind"], night), warnings(night, asked["kind"])
        tell(*(f"Careful: {warning}" for warning in careful))
        if folder is not None:
            tell(*(f"Wrote {path}." for path in write_new(texts, folder)))
        if said.as_json:
            print_json({"files": texts, "warnings": careful, "exit_code": 0})
        elif folder is None:
            click.echo("\n".join(texts.values()), nl=False)
        return 0

    finish(said, work)


def _night(
    job: Job,
    at: str | None,
    until: str | None,
    kind: str,
    base_url: str | None,
    key_file: Path | None,
) -> Night:
    from pipeline.scaffold.night import plan_night

    if at is None:
        raise NothingWritten("Give the time of day at which the job starts: --at 02:00.")
    address = base_url or (None if job.sandbox else os.environ.get("AITUTOR_BASE_URL"))
    return plan_night(job, at, until, base_url=address or None, key_file=key_file)


def _printed_again(words: list[str]) -> dict[str, str]:
    """Returns what the command with these words prints now, by the names of its files."""
    try:
        asked = schedule.make_context("schedule", [*words]).params
    except (click.ClickException, click.exceptions.Exit) as error:  # Exit: --help
        why = (
            error.format_message() if isinstance(error, click.ClickException) else "it prints help"
        )
        raise NothingWritten(
            f"This release cannot print {shlex.join(words)}: {why.rstrip('.')}."
        ) from None
    job = job_said(JobOptions(**{one.name: asked[one.name] for one in fields(JobOptions)}))
    options = {name: asked[name] for name in ("at", "until", "kind", "base_url", "key_file")}
    return _files(options["kind"], _night(job, **options))


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
