"""The runs of a job, one after the other, as the ledger and the log have them.

Everything but the share of the limit comes from the attempts, which are durable before they count:
a run that was killed has its figures too.
"""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.core.model import ErrorCode
from pipeline.job.job import Job
from pipeline.ledger.reader import reading, refuse_before_first_run
from pipeline.ledger.schema import altered, intact
from pipeline.system.opening import as_object, last_lines

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
    used = _limits_used(job.folder.log)
    with reading(job.folder.ledger) as read:
        refuse_before_first_run(job, read)
        return read(_runs(used))


def _runs(used: dict[str, float]) -> Callable[[sqlite3.Connection], list[PastRun]]:
    def operation(db: sqlite3.Connection) -> list[PastRun]:
        rows, requests = _rows_sent(db), _requests(db)
        return [
            _past_run(
                found,
                rows.get(found[0], (0, 0, 0)),
                requests.get(found[0], (0, 0, 0, 0, found[2])),
                used.get(found[1]),
            )
            for found in db.execute(
                "SELECT run, run_id, started_at, finished_at, rows, skipped, exit_code, stopped,"
                f" {intact('runs', 'r')} FROM runs r ORDER BY run"
            )
        ]

    return operation


def _rows_sent(db: sqlite3.Connection) -> dict[int, tuple[int, ...]]:
    """(ok, failed, ambiguous) by run."""
    # SQLite takes the verdict from the attempt that has the highest id of its group.
    found = db.execute(
        "SELECT run, coalesce(sum(verdict = 'ok'), 0), coalesce(sum(verdict = 'failed'), 0),"
        " sum(coalesce(verdict, 'ambiguous') = 'ambiguous') FROM"
        " (SELECT run, row_id, verdict, max(attempt_id) FROM attempts GROUP BY run, row_id)"
        " GROUP BY run"
    )
    return {run: tuple(counts) for run, *counts in found}


def _requests(db: sqlite3.Connection) -> dict[int, tuple[Any, ...]]:
    """(paid_min, paid_max, requests, rate_limited, time of the last one's end) by run."""
    found = db.execute(
        "SELECT run, coalesce(sum(verdict = 'ok'), 0), sum(maybe_paid), count(*),"
        " coalesce(sum(code = ?), 0), max(coalesce(finished_at, sent_at)) FROM attempts"
        " GROUP BY run",
        (ErrorCode.RATE_LIMITED,),
    )
    return {run: tuple(counts) for run, *counts in found}


def _past_run(
    found: tuple[Any, ...], sent: tuple[int, ...], asked: tuple[Any, ...], used: float | None
) -> PastRun:
    _, run_id, started_at, finished_at, rows, skipped, exit_code, stopped, whole = found
    if not whole:
        raise altered("what it says of a run")
    ok, failed, ambiguous = sent
    paid_min, paid_max, requests, rate_limited, last_at = asked
    return PastRun(
        run_id=run_id,
        started_at=started_at,
        finished_at=finished_at,
        duration_s=round(max((finished_at or last_at) - started_at, 0.0), 3),
        rows=rows,
        skipped=skipped,
        ok=ok,
        failed=failed,
        ambiguous=ambiguous,
        paid_min=paid_min,
        paid_max=paid_max,
        requests=requests,
        rate_limited=rate_limited,
        limit_used=used,
        exit_code=exit_code,
        stopped=stopped,
    )


def _limits_used(log: Path) -> dict[str, float]:
    """By run, from the log: it is no record of what was paid, so nothing is lost without it."""
    used: dict[str, float] = {}
    for line in last_lines(log, _LOG_BYTES):
        if b'"pace_ended"' in line:
            _note(line, used)
    return used


def _note(line: bytes, used: dict[str, float]) -> None:
    try:
        said = as_object(line)
        share = float(said["used"])
    except (ValueError, TypeError, KeyError, OverflowError):
        return  # the end of a line that a power cut left
    if said.get("event") == "pace_ended" and math.isfinite(share):
        used[str(said.get("run_id"))] = share
