"""The data of a report: the summary of the job, what failed, and which answers look wrong."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import chain

from pipeline.core.errors import StorageFailed
from pipeline.core.model import Summary
from pipeline.inputs.row_names import RowNames, row_names
from pipeline.job.job import Job
from pipeline.ledger import queries, reader
from pipeline.ledger.integrity import checked_beside
from pipeline.ledger.reader import Read, refuse_before_first_run
from pipeline.ledger.reviews import count_reviews
from pipeline.report.groups import FIRST_ROWS, Group, Groups
from pipeline.results.failures_csv import current_snapshot, drafted
from pipeline.results.flags import NOTES
from pipeline.results.lookup import find_flagged_answers
from pipeline.status.next_step import stand
from pipeline.status.summary import summarize


@dataclass(frozen=True, slots=True)
class FlaggedAnswers:
    """The answers with one flag (`mark`): how many, and the first rows. `command` asks for them
    again. It is None while a run is active."""

    mark: str
    count: int
    first_rows: tuple[int, ...]
    command: str | None = None


@dataclass(frozen=True, slots=True)
class Report:
    """A job's summary, its rows that are not ok by how they ended, and its answers that look wrong
    by flag (`marked`). `unread` says why the answers could not be checked. `in_use`: a run is
    active, and `in_flight` of the pending rows were sent and have no response yet. `names` names
    the rows as the user's program does. `reviews` counts the reviewed rows by decision."""

    summary: Summary
    groups: list[Group]
    marked: list[FlaggedAnswers] = field(default_factory=list)
    unread: str | None = None
    in_use: bool = False
    in_flight: int = 0
    names: RowNames = field(default_factory=RowNames)
    reviews: dict[str, int] = field(default_factory=dict)


def report_job(job: Job) -> Report:
    """Reads the run folder, rewrites its failures.csv, and groups the failed rows by code.

    Works while a run is active. Sends nothing.

    Raises:
        Refused: before the first run.
        StorageFailed: when the ledger cannot be read or failures.csv cannot be written.
    """
    ledger, in_use = job.folder.ledger, job.folder.in_use
    with (
        drafted(job.folder.failures) as draft,
        checked_beside(ledger),
        reader.reading(ledger) as read,
    ):
        refuse_before_first_run(job, read)
        counts = read(queries.counts)
        summary = summarize(job, counts, in_use=in_use)
        reviews = count_reviews(job.folder, read)
        groups = Groups()
        snapshot = current_snapshot(job.folder, read)
        draft.write(snapshot, read, groups.add, verified_elsewhere=True, in_use=in_use)
        try:
            marked, unread = _marked(job, read), None
        except StorageFailed as error:
            marked, unread = [], str(error)
    if not in_use:
        marked = [_with_command(job, found, summary.paid_max) for found in marked]
    job = job.affording(summary.paid_max, summary.rows - summary.ok - summary.skipped)
    in_flight = stand(counts, in_use).in_flight
    shown = groups.largest_first(job, in_use)
    report = Report(summary, shown, marked, unread, in_use, in_flight, reviews=reviews)
    return replace(report, names=row_names(snapshot, first_rows(report)))


def first_rows(report: Report) -> list[int]:
    """The rows that a report names."""
    of_groups = (group.first_rows for group in report.groups)
    return list(chain(*of_groups, *(found.first_rows for found in report.marked)))


def _with_command(job: Job, found: FlaggedAnswers, paid: int) -> FlaggedAnswers:
    command = job.affording(paid, found.count).command("run", "--again", found.mark)
    return replace(found, command=command)


def _marked(job: Job, read: Read) -> list[FlaggedAnswers]:
    found = find_flagged_answers(job, read).flagged
    return [
        FlaggedAnswers(mark, len(numbers), tuple(numbers[:FIRST_ROWS].tolist()))
        for mark, numbers in found.items()
        if mark not in NOTES
    ]
