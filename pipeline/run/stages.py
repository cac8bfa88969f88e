"""Opens the rows of a job that come from another job."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from pipeline.job.chain import source_of
from pipeline.job.job import Job, find_job
from pipeline.job.stage import Stage
from pipeline.ledger.reader import has_run


def with_source(job: Job) -> Job:
    """Returns the job with its rows, if they are the answers of another job: they are opened when
    they are read. A rehearsal reads the paid answers if its source has no rehearsal.

    Raises:
        Refused: as `source_of`.
    """
    source = source_of(job)
    if source is None:
        return job
    # Imported here, because most jobs have a sheet.
    from pipeline.results.source_rows import open_source

    spec = job.to_run()
    if job.sandbox and not has_run(source):
        paid = find_job(source.to_run().job_file)
        source = paid if has_run(paid) else source
    stage = Stage(source.to_run().job_file, partial(open_source, source))
    return replace(job, spec=replace(spec, input=stage))
