"""How a run ended: counts, codes, the exit code, and the command that goes on from here."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from pipeline.errors import PipelineError
from pipeline.ledger import Counts
from pipeline.model import JsonObject, State, StopCode, Stopped, Summary

SCHEMA_VERSION = 1

_EXIT_OF_STOP = {
    StopCode.STORAGE: 6,
    StopCode.INTERRUPTED: 130,
    StopCode.NOT_SENT: 75,
    StopCode.AMBIGUOUS: 5,
}
_EXIT_STOPPED = 4
_EXIT_AMBIGUOUS = 5
_EXIT_FAILED = 3


@dataclass(frozen=True, slots=True)
class Sent:
    """What this run sent."""

    requests: int = 0
    rate_limited: int = 0
    duration_s: float = 0.0


def summarize(
    *,
    run_id: str,
    job: str,
    counts: Counts,
    stopped: Stopped | None,
    sent: Sent,
    paths: tuple[str, str, str],
    command: Sequence[str],
    signal_exit: int | None = None,
) -> Summary:
    """The summary of a job as the ledger holds it. `paths`: results, report, failures.

    `command` is the command line that goes on with this job, word by word.
    """
    ok = counts.states[State.OK]
    failed = counts.states[State.FAILED]
    ambiguous = counts.states[State.AMBIGUOUS] + counts.states[State.SENDING]
    pending = counts.sheet_rows - counts.skipped - ok - failed - ambiguous
    code = _exit_code(stopped, failed, ambiguous, signal_exit)
    results, report, failures = paths
    return Summary(
        schema_version=SCHEMA_VERSION,
        run_id=run_id,
        job=job,
        rows=counts.sheet_rows,
        ok=ok,
        failed=failed,
        ambiguous=ambiguous,
        pending=pending,
        skipped=counts.skipped,
        paid_min=counts.paid_min,
        paid_max=counts.paid_max,
        by_code=counts.by_code,
        stopped=stopped.code if stopped else None,
        requests=sent.requests,
        rate_limited=sent.rate_limited,
        duration_s=round(sent.duration_s, 3),
        results=results,
        report=report,
        failures=failures,
        resume_command=shlex.join(command) if pending else None,
        exit_code=code,
    )


def as_json(summary: Summary) -> JsonObject:
    """The object of summary.json and of `--json`."""
    return asdict(summary)


def refusal_json(error: PipelineError) -> JsonObject:
    """The same object where no run came about: what is known is the code and the message."""
    nothing = Counts(Counter(), {}, 0, 0, 0, 0, "")
    summary = summarize(
        run_id="", job="", counts=nothing, stopped=None, sent=Sent(), paths=("", "", ""), command=()
    )
    return {**as_json(summary), "exit_code": error.exit_code, "error": str(error)}


def _exit_code(
    stopped: Stopped | None, failed: int, ambiguous: int, signal_exit: int | None
) -> int:
    """Several may apply: 6, 130 or 143, 4, 75, 5, 3 in this order."""
    if stopped is not None:
        if stopped.code is StopCode.INTERRUPTED and signal_exit is not None:
            return signal_exit
        return _EXIT_OF_STOP.get(stopped.code, _EXIT_STOPPED)
    if ambiguous:
        return _EXIT_AMBIGUOUS
    return _EXIT_FAILED if failed else 0
