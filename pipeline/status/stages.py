"""The states of the jobs that the rows of a job come from."""

from __future__ import annotations

from pipeline.core.errors import PipelineError, Refused
from pipeline.core.model import JsonObject, Summary
from pipeline.job.chain import chain_of
from pipeline.job.job import Job
from pipeline.job.stage import Stage
from pipeline.status.history import PastRun, read_history
from pipeline.status.summary import as_json, for_person, read_status
from pipeline.status.summary_lines import outcome_line


def read_sources(job: Job) -> list[tuple[Job, Summary | PipelineError]]:
    """Returns the earlier stages of a job, the first source first. A job that cannot be shown, for
    example before its first run, has the error that says why."""
    if job.spec is None or not isinstance(job.spec.input, Stage):
        return []
    return [(source, _read(source)) for source in chain_of(job)[:-1]]


def read_source_histories(job: Job) -> list[tuple[Job, list[PastRun]]]:
    """Returns the runs of the earlier stages of a job, the first source first. A job before its
    first run has none.

    Raises:
        StorageFailed: as `read_history`.
    """
    return [
        (source, [] if isinstance(found, Refused) else read_history(source))
        for source, found in read_sources(job)
    ]


def source_lines(job: Job) -> list[str]:
    """Returns one line about each earlier stage, with its next command."""
    return [_line(source, found) for source, found in read_sources(job)]


def sources_json(job: Job) -> JsonObject:
    """Returns the summaries of the earlier stages under the name `sources`. Empty without any."""
    found = [
        {"job": source.name, "error": str(one)} if isinstance(one, PipelineError) else as_json(one)
        for source, one in read_sources(job)
    ]
    return {"sources": found} if found else {}


def _read(job: Job) -> Summary | PipelineError:
    try:
        return for_person(job, read_status(job).summary)
    except PipelineError as error:
        return error


def _line(job: Job, found: Summary | PipelineError) -> str:
    if isinstance(found, PipelineError):
        return f"Earlier stage {job.name}: {found}"
    following = f" Next there: {found.resume_command}" if found.resume_command else ""
    return f"Earlier stage {outcome_line(found)}{following}"
