"""The runs of a job, in order, from the ledger and the log.

All figures except the share of the limit come from the attempts in the ledger. An attempt is on
disk before it counts, so a run that was killed has its figures too.
"""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.job.job import Job
from pipeline.ledger.past_runs import RunFacts, rows_sent, run_facts
from pipeline.ledger.reader import reading, refuse_before_first_run
from pipeline.status.event_log import EndedPace, ended_paces

# Only the end of a longer log is read. A line a minute and one per failed row are far less.
_LOG_BYTES = 1 << 30


@dataclass(frozen=True, slots=True)
class PastRun:
    """One run. `rows` and `skipped` count the sheet that it read. `ok`, `failed` and `ambiguous`
    count the rows that it sent, by their last attempt in this run.

    Times are in seconds since 1970. `finished_at`, `exit_code` and `stopped` are None while the run
    is active and after it was killed; `duration_s` then ends with its last answer. `limit_used` is
    the share of the rate limit that it used, None if it measured no limit or the log is gone.
    """

    run_id: str
    started_at: float
    finished_at: float | None
    duration_s: float
    rows: int
    skipped: int
    ok: int
    failed: int
    ambiguous: int
    paid_min: int
    paid_max: int
    requests: int
    rate_limited: int
    limit_used: float | None
    exit_code: int | None
    stopped: str | None


def read_history(job: Job) -> list[PastRun]:
    """Returns the runs in a job's run folder, oldest first. Works while a run is active.

    Raises:
        Refused: before the first run.
        StorageFailed: when the ledger cannot be read, or its record of a run was altered.
    """
    paces = ended_paces(job.folder.log, _LOG_BYTES)
    with reading(job.folder.ledger) as read:
        refuse_before_first_run(job, read)
        sent, runs = read(rows_sent), read(run_facts)
    return [
        _past_run(run, sent.get(run.run, (0, 0, 0)), paces.get(run.run_id, EndedPace()).used)
        for run in runs
    ]


def _past_run(run: RunFacts, sent: tuple[int, int, int], used: float | None) -> PastRun:
    ended = run.finished_at or run.last_seen or run.started_at
    ok, failed, ambiguous = sent
    return PastRun(
        run_id=run.run_id,
        started_at=run.started_at,
        finished_at=run.finished_at,
        duration_s=round(max(ended - run.started_at, 0.0), 3),
        rows=run.rows,
        skipped=run.skipped,
        ok=ok,
        failed=failed,
        ambiguous=ambiguous,
        paid_min=run.ok,
        paid_max=run.paid_max,
        requests=run.requests,
        rate_limited=run.rate_limited,
        limit_used=used,
        exit_code=run.exit_code,
        stopped=run.stopped,
    )
