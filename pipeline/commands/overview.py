"""`pipeline` alone: the jobs of this folder, each with its state and its next command."""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.commands.completing import job_files
from pipeline.core.errors import PipelineError

if TYPE_CHECKING:
    from pipeline.job.job import Job

_MOST = 10
_SHEETS_IN = (Path(), Path("data"))


def overview_lines() -> Iterator[str]:
    """The jobs of this folder and of ``jobs/``, or how to begin."""
    found = [(path, lines) for path in job_files() if (lines := list(_job_lines(path)))]
    for path, lines in found[:_MOST]:
        yield str(path)
        yield from (f"  {line}" for line in lines)
    if len(found) > _MOST:
        yield f"and {len(found) - _MOST} more jobs."
    if not found:
        yield from _beginning()
    yield ""
    yield "All commands: pipeline --help. In the browser: pipeline ui."


def _job_lines(path: Path) -> Iterator[str]:
    """The state of a job and its next command. Nothing for another kind of YAML file."""
    from pipeline.job.job import find_job
    from pipeline.ledger.reader import has_run
    from pipeline.status.summary import for_person, read_status
    from pipeline.status.summary_lines import next_lines, outcome_line

    try:
        job = find_job(path, words=(str(path),))
        if has_run(job):
            status = read_status(job)
            summary = for_person(job, status.summary)
            yield outcome_line(summary)
            if status.in_use:
                yield f"A run is active. To watch it: {job.command('status')}"
            else:
                yield from next_lines(summary, False) or _export_line(job)
            return
    except PipelineError as error:
        if path.parent.name == "jobs":
            yield str(error)
        return
    yield "No run yet."
    if job.rehearsed:
        yield f"Next: {job.command('run', '--limit', '5')}"
    else:
        yield f"Next, without a key and without cost: {job.command('run', '--sandbox')}"


def _export_line(job: Job) -> list[str]:
    from pipeline.results.proposed_export import proposed_export

    command = proposed_export(job, 0)
    return [] if command is None else [f"Next: {command}"]


def _beginning() -> Iterator[str]:
    sheet = next(_sheets(), None)
    yield "There is no job in this folder yet. Begin with a sheet:"
    yield f"  pipeline init {'SHEET' if sheet is None else shlex.quote(str(sheet))} --workflow ID"


def _sheets() -> Iterator[Path]:
    from pipeline.job.yaml_fields import SHEETS

    for folder in _SHEETS_IN:
        with contextlib.suppress(OSError):
            yield from sorted(p for p in folder.iterdir() if p.suffix.lower() in SHEETS)
