"""Writes report.html: the outcome of a job in one file that can be forwarded."""

from __future__ import annotations

from pathlib import Path

from pipeline.core.clock import SystemClock
from pipeline.core.model import Clock
from pipeline.core.version import __version__
from pipeline.inputs.row_names import row_names
from pipeline.inputs.stored import find_snapshot
from pipeline.job.job import Job
from pipeline.ledger import queries, reader, wal
from pipeline.ledger.schema import altered
from pipeline.ledger.trends import count_history
from pipeline.planning.pinned_settings import pinned_workflow
from pipeline.report.html.charts import pictures
from pipeline.report.html.page import PageFacts, page
from pipeline.report.html.samples import read_samples
from pipeline.report.overview import Report, first_rows, report_job
from pipeline.status.event_log import ended_paces
from pipeline.status.summary import for_person
from pipeline.system.files import write_durably

# A page should be ready soon. A limit that is further back in the log is just not drawn.
_LOG_BYTES = 64 * 1024 * 1024


def write_report(job: Job, report: Report | None = None, clock: Clock | None = None) -> Path:
    """Writes report.html into the run folder (mode 0600, completely or not at all). Returns its
    path.

    `report` is a result of `report_job` from just before, which has checked the ledger; without it
    this calls `report_job`. Works while a run is active. Sends nothing. Takes at most 2 MB, and
    seconds for a million rows.

    Raises:
        Refused: before the first run.
        StorageFailed: when anything that the page would show was altered, or the page cannot be
            written.
    """
    report = report or report_job(job)
    folder = job.folder
    if wal.is_damaged(folder.ledger):
        raise altered("the log of its last writes (ledger.sqlite-wal)")
    with reader.reading(folder.ledger) as read:
        history = read(lambda db: count_history(db, report.in_use))
        samples = read_samples(folder, read)
        snapshot = find_snapshot(folder.snapshots, read(queries.meta(queries.SNAPSHOT)))
        to_name = (*first_rows(report), *(answer.sheet_row for answer in samples.shown))
        paces = ended_paces(folder.log, _LOG_BYTES)
        limits = {run_id: pace.limit for run_id, pace in paces.items() if pace.limit}
        facts = PageFacts(
            summary=for_person(job, report.summary),
            groups=report.groups,
            last_run=read(queries.last_run),
            in_use=report.in_use,
            in_flight=report.in_flight,
            rate_limit=report.rate_limit,
            to_add=job.to_add,
            marked=report.marked,
            sources=report.sources,
            reviews=report.reviews,
            unread=report.unread,
            names=row_names(snapshot, to_name),
            rehearsal=job.sandbox,
            workflow=pinned_workflow(read) or "unknown",
            history=history,
            samples=samples,
            sent=read(queries.bodies_sent(row for g in report.groups for row in g.first_rows)),
            pictures=pictures(history, limits, report.groups, samples),
            written_at=(clock or SystemClock()).wall(),
            version=__version__,
        )
    write_durably(folder.report, page(facts).encode())
    return folder.report
