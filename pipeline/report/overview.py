"""The data of a report: the summary of the job, what failed, and which answers look wrong."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import chain

import numpy as np

from pipeline.core.errors import StorageFailed
from pipeline.core.model import RateLimit, Summary
from pipeline.inputs.row_names import RowNames, row_names
from pipeline.job.job import Job
from pipeline.ledger import queries
from pipeline.ledger.integrity import checked_beside
from pipeline.ledger.reader import Read, refuse_before_first_run
from pipeline.ledger.reviews import Reviews, count_reviews, read_reviews
from pipeline.report.groups import FIRST_ROWS, Group, Groups
from pipeline.results.failures_csv import drafted
from pipeline.results.flags import NOTES
from pipeline.results.lookup import Rows, find_flagged_answers
from pipeline.results.sheet_copy import reading_with_copy
from pipeline.status.event_log import believed_limit
from pipeline.status.next_step import stand
from pipeline.status.stages import source_lines
from pipeline.status.summary import summarize


@dataclass(frozen=True, slots=True)
class FlaggedAnswers:
    """The answers with one flag (`mark`): how many, and the first rows. `command` asks for them
    again, or shows them if a review keeps them or all were asked for again because of this flag and
    have it again. It is None while a run is active."""

    mark: str
    count: int
    first_rows: tuple[int, ...]
    command: str | None = None


@dataclass(frozen=True, slots=True)
class Report:
    """A job's summary, its rows that are not ok by how they ended, and its answers that look wrong
    by flag (`marked`). `unread` says why the answers could not be checked. `in_use`: a run is
    active, and `in_flight` of the pending rows were sent and have no response yet. `names` names
    the rows as the user's program does. `sources` has a line about each earlier stage. `reviews`
    counts the reviewed rows by decision. `rate_limit` is what the last run believed of it."""

    summary: Summary
    groups: list[Group]
    marked: list[FlaggedAnswers] = field(default_factory=list)
    unread: str | None = None
    in_use: bool = False
    in_flight: int = 0
    names: RowNames = field(default_factory=RowNames)
    sources: list[str] = field(default_factory=list)
    reviews: dict[str, int] = field(default_factory=dict)
    rate_limit: RateLimit | None = None


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
        reading_with_copy(job.folder) as (read, snapshot),
    ):
        refuse_before_first_run(job, read)
        counts = read(queries.counts)
        summary = summarize(job, counts, in_use=in_use)
        reviews, last = count_reviews(job.folder, read), read(queries.last_run)
        groups = Groups()
        draft.write(snapshot, read, groups.add, verified_elsewhere=True, in_use=in_use)
        try:
            marked, unread = _marked(job, read, None if in_use else summary.paid_max), None
        except StorageFailed as error:
            marked, unread = [], str(error)
    job = job.affording(summary.paid_max, summary.rows - summary.ok - summary.skipped)
    in_flight = stand(counts, in_use).in_flight
    shown = groups.largest_first(job, in_use)
    report = Report(
        summary,
        shown,
        marked,
        unread,
        in_use,
        in_flight,
        sources=source_lines(job),
        reviews=reviews,
        rate_limit=believed_limit(job.folder.log, last.run_id) if last else None,
    )
    return replace(report, names=row_names(snapshot, first_rows(report)))


def first_rows(report: Report) -> list[int]:
    """The rows that a report names."""
    of_groups = (group.first_rows for group in report.groups)
    return list(chain(*of_groups, *(found.first_rows for found in report.marked)))


def _marked(job: Job, read: Read, paid: int | None) -> list[FlaggedAnswers]:
    """The flags that answers have. `paid` requests were paid so far; None: give no commands."""
    reviews = read_reviews(job.folder, read)
    found = find_flagged_answers(job, read, reviews).flagged
    tried, kept = _tried(read), _kept(read, reviews)
    return [
        FlaggedAnswers(
            mark,
            len(numbers),
            tuple(numbers[:FIRST_ROWS].tolist()),
            None
            if paid is None
            else _command(job, mark, numbers[~np.isin(numbers, kept)], tried, paid),
        )
        for mark, numbers in found.items()
        if mark not in NOTES
    ]


def _tried(read: Read) -> dict[int, frozenset[str]]:
    """The flags because of which the last version of a row was asked for, by row of the sheet."""
    reasons = read(queries.again_reasons)
    if not reasons:
        return {}
    return read(
        lambda db: {
            one.sheet_row: reasons[one.row_id]
            for one in queries.answered(db)
            if one.row_id in reasons
        }
    )


def _kept(read: Read, reviews: Reviews) -> list[int]:
    """The rows of the sheet with an approved or edited answer, which no run asks for again."""
    if not reviews.protected:
        return []
    answered = queries.answered_after_review(reviews.protected)
    return read(
        lambda db: [one.sheet_row for one in answered(db) if one.attempt_id in reviews.protected]
    )


def _command(job: Job, mark: str, rows: Rows, tried: dict[int, frozenset[str]], paid: int) -> str:
    """The command for the rows with the flag `mark` whose answers no review keeps."""
    left = sum(mark not in tried.get(row, ()) for row in rows.tolist())
    if not left:
        return job.command("show", "--flag", mark)
    return job.affording(paid, left).command("run", "--again", mark)
