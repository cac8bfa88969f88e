"""The runs of a job, one after the other, as the ledger and the log have them.

Everything but the share of the limit comes from the attempts, which are durable before they count:
a run that was killed has its figures too.
"""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.job.job import Job
from pipeline.ledger.past_runs import RunFacts, rows_sent, run_facts
from pipeline.ledger.reader import reading, refuse_before_first_run
from pipeline.status.event_log import EndedPace, ended_paces

# Of a longer log only the end is read: a line a minute and one for each failed row is far less.
_LOG_BYTES = 1 << 30


@dataclass(frozen=True, slots=True)
class PastRun:
    """One run. `rows` and `skipped` are of the sheet that it read; `ok`, `failed`, `ambiguous` are
    rows that it sent, by their last attempt in it.

    Times are in seconds since 1970. `finished_at`, `exit_code` and `stopped` are None while it goes
    on and after it was killed; `duration_s` is then until its last answer. `limit_used` is the part
    of the rate limit that was used; None where it was not learned or the log is gone.
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
    """The runs in a job's folder, the first one first. Works while a run goes on.

    Raises:
        Refused: before the first run.
        StorageFailed: when the ledger cannot be read, or what it says of a run was altered.
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
