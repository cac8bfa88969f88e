"""The whole of a report: where the job stands, and what failed."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline import records
from pipeline.job import Job
from pipeline.model import Summary
from pipeline.report.failures import rewrite_failures
from pipeline.report.groups import Group, Groups
from pipeline.summary import refuse_before_first_run, summarize


@dataclass(frozen=True, slots=True)
class Report:
    """A job's summary, and its rows that are not ok by how they ended."""

    summary: Summary
    groups: list[Group]


def report_job(job: Job) -> Report:
    """Reads the run folder, writes its failures.csv anew, and groups what failed by code.

    Works while a run goes on. Nothing is sent.

    Raises:
        Refused: when there was no run yet.
        StorageFailed: when the ledger cannot be read or failures.csv cannot be written.
    """
    with records.reading(job.folder.ledger) as read:
        refuse_before_first_run(job, read)
        summary = summarize(job, read(records.counts))
        groups = Groups()
        rewrite_failures(job.folder, read, groups.add)
    return Report(summary, groups.largest_first(job))
