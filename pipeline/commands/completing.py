"""What the shell proposes for an argument: job files, error codes and workflow ids."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.shell_completion import CompletionItem

from pipeline.core.errors import PipelineError

if TYPE_CHECKING:
    from pipeline.job.spec import JobSpec

_MOST = 200
# click's script puts a text into the command line of bash without quotes: Enter would run what is
# in `$(…)`. A line break would begin another proposal.
_PLAIN = re.compile(r"[\w./@+][\w./@+=-]*")
_FILE = "file"
"""With this type, the shell proposes its own paths."""


def propose_jobs(
    context: click.Context, parameter: click.Parameter, begun: str
) -> list[CompletionItem]:
    """The job files of the folder that was begun, else of this folder and of ``jobs/``. Without
    one, or if one has a name that a shell would not read as it is, the shell proposes files."""
    found = [name for name in map(str, job_files(begun)) if name.startswith(begun)]
    if found and all(map(_PLAIN.fullmatch, found)):
        return [CompletionItem(name) for name in found]
    return [CompletionItem(begun, type=_FILE)]


def propose_codes(
    context: click.Context, parameter: click.Parameter, begun: str
) -> list[CompletionItem]:
    """The error codes of the job's rows, else all, for the last code of a list."""
    before, comma, last = begun.rpartition(",")
    named = {*before.split(",")} if comma else set()
    # click leaves the job among the rest if an option has no value yet.
    job = context.params.get("job") or next(map(Path, context.args), None)
    codes = [code for code in _codes(job) if code not in named]
    wanted = [code for code in codes if code.startswith(last) and _PLAIN.fullmatch(code)]
    return [CompletionItem(f"{before}{comma}{code}") for code in wanted]


def propose_workflows(
    context: click.Context, parameter: click.Parameter, begun: str
) -> list[CompletionItem]:
    """The workflows of the job files of this folder and of ``jobs/``."""
    found = {spec.workflow: path.name for path, spec in _specs() if _PLAIN.fullmatch(path.name)}
    return [
        CompletionItem(workflow, help=name)
        for workflow, name in sorted(found.items())
        if workflow.startswith(begun)
    ]


def job_files(begun: str = "") -> Iterator[Path]:
    """Yields the YAML files of the folder that `begun` names, else of this folder and of
    ``jobs/``."""
    folders = [Path(begun[: begun.rindex("/") + 1])] if "/" in begun else [Path(), Path("jobs")]
    number = 0
    for folder in folders:
        with contextlib.suppress(OSError):
            for path in sorted(folder.iterdir()):
                if path.suffix in (".yaml", ".yml") and number < _MOST:
                    number += 1
                    yield path


def _specs() -> Iterator[tuple[Path, JobSpec]]:
    from pipeline.job.spec import load_spec

    for path in job_files():
        with contextlib.suppress(PipelineError, OSError):
            yield path, load_spec(path)


def _codes(job: Path | None) -> Iterable[str]:
    from pipeline.core.model import ErrorCode
    from pipeline.job.job import find_job
    from pipeline.status.summary import read_status

    with contextlib.suppress(PipelineError, OSError):
        if job is not None:
            return read_status(find_job(job)).summary.by_code
    return [str(code) for code in ErrorCode]
