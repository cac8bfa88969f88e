"""Chains of jobs: the rows of each are the answers of the one before it."""

from __future__ import annotations

from pipeline.core.errors import Refused
from pipeline.job.job import Job, find_job
from pipeline.job.stage import Stage
from pipeline.system.paths import resolved


def source_of(job: Job) -> Job | None:
    """Returns the job whose answers are the rows of `job`, None for other rows. That of a rehearsal
    is a rehearsal.

    Raises:
        Refused: if the other job cannot be found, or has the same run folder.
    """
    stage = job.to_run().input
    if not isinstance(stage, Stage):
        return None
    source = find_job(stage.job, sandbox=job.sandbox)
    if resolved(source.folder.path) == resolved(job.folder.path):
        raise Refused(
            f"{job.to_run().at('input')}: {stage.name} has the same run folder as this job, "
            f"{job.folder.path}. Give one of the two another `name:` or `output:`."
        )
    return source


def chain_of(job: Job) -> list[Job]:
    """Returns the job and all jobs that its rows come from, the first source first.

    Raises:
        Refused: as `source_of`.
    """
    source = source_of(job)
    return [job] if source is None else [*chain_of(source), job]
