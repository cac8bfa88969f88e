"""Decides about rows without sending them again."""

from __future__ import annotations

from collections import Counter

from pipeline.core.clock import SystemClock
from pipeline.core.errors import Refused
from pipeline.core.model import Clock, State
from pipeline.inputs.row_names import no_such_row
from pipeline.inputs.stored import find_snapshot
from pipeline.job.job import Job
from pipeline.ledger import queries, reader
from pipeline.ledger.ledger import open_ledger
from pipeline.ledger.queries import Unfinished
from pipeline.ledger.reader import refuse_before_first_run
from pipeline.planning.consent import refuse_unknown_codes
from pipeline.planning.selection import RowNumbers
from pipeline.results.failures_csv import rewrite_failures
from pipeline.run.recovery import read_again, recover
from pipeline.status.next_step import stand

_DECIDABLE = (State.AMBIGUOUS, State.FAILED)


def reread_job(job: Job, clock: Clock | None = None) -> int:
    """Reads kept answers again that could not be read when they arrived. Sends nothing.

    A newer release may read more of them. Each run does the same before it sends. The rows of the
    answers that can be read now become ok, and failures.csv is written again. Returns the number of
    these answers.

    Raises:
        Refused: when the job has no run yet.
        Locked: when a run works in the folder.
        StorageFailed: when the ledger is gone, or cannot be read or written.
    """
    with reader.reading(job.folder.ledger) as read:
        refuse_before_first_run(job, read)
        read(queries.check_structure)
    job.folder.refuse_odd()
    with (
        job.folder.locked(),
        open_ledger(job.folder.ledger, clock or SystemClock(), trace=job.folder.trace) as ledger,
    ):
        number = read_again(ledger)
        recover(job.folder, ledger, job.spec.workflow if job.spec else "", lambda _: None)
        rewrite_failures(job.folder, ledger.read)
    return number


def settle_job(
    job: Job,
    clock: Clock | None = None,
    *,
    only: frozenset[str] | None = None,
    rows: RowNumbers | None = None,
) -> Counter[State]:
    """Marks ambiguous rows as failed, and failed rows as given up. Sends nothing.

    `only` (error codes) and `rows` choose the rows. Without them, every ambiguous row is chosen and
    no failed one: a failed row is given up only if you name it. An ambiguous row still counts as
    maybe paid. failures.csv is written again. Returns the number of rows decided, by their state
    before.

    Raises:
        Refused: when the job has no run yet, and for a code or a row that it does not have.
        Locked: when a run works in the folder.
        StorageFailed: when the ledger is gone, or cannot be read or written.
    """
    with reader.reading(job.folder.ledger) as read:
        refuse_before_first_run(job, read)
        # Checked here: this connection may take only so many steps. The writer's has no such limit,
        # because a run takes hours.
        read(queries.check_structure)
        counts = read(queries.counts)
        snapshot = find_snapshot(job.folder.snapshots, read(queries.meta(queries.SNAPSHOT)))
        refuse_unknown_codes(only or (), stand(counts, False).by_code, read)
    if rows is not None and rows.last > counts.sheet_rows:
        raise Refused(no_such_row(rows.last, "the last run's sheet", counts.sheet_rows, snapshot))
    decidable = {State.AMBIGUOUS} if only is None and rows is None else set(_DECIDABLE)

    def chosen(row: Unfinished) -> bool:
        return (
            row.state in decidable
            and not row.given_up
            and (only is None or row.code in only)
            and (rows is None or row.sheet_row in rows)
        )

    job.folder.refuse_odd()
    with (
        job.folder.locked(),
        open_ledger(job.folder.ledger, clock or SystemClock(), trace=job.folder.trace) as ledger,
    ):
        ledger.recover()
        found = ledger.read(lambda db: [row for row in queries.unfinished(db) if chosen(row)])
        ledger.settle(found)
        rewrite_failures(job.folder, ledger.read)
    return Counter(row.state for row in found)
