"""The summary of a job: counts, error codes, the exit code, and the command that continues."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

from pipeline.core.errors import (
    DiskRefused,
    Interrupted,
    Locked,
    PipelineError,
    StorageFailed,
)
from pipeline.core.model import JsonObject, RateLimit, Sent, State, StopCode, Stopped, Summary
from pipeline.job.job import Job
from pipeline.ledger import queries
from pipeline.ledger.kept_counts import KeptCounts
from pipeline.ledger.queries import Counts
from pipeline.ledger.reader import reading, refuse_before_first_run
from pipeline.ledger.reviews import count_reviews
from pipeline.status.event_log import believed_limit
from pipeline.status.exit_codes import exit_code_of
from pipeline.status.next_step import next_step, send_pending, stand

SCHEMA_VERSION = 1

_STOP_OF_ERROR = {StorageFailed: StopCode.STORAGE, Interrupted: StopCode.INTERRUPTED}


def summarize(
    job: Job,
    counts: Counts,
    *,
    run_id: str | None = None,
    stopped: Stopped | None = None,
    sent: Sent | None = None,
    for_exit_code: Counter[State] | None = None,
    signal_exit: int | None = None,
    in_use: bool = False,
) -> Summary:
    """Builds the summary of a job from the counts in its ledger.

    `for_exit_code` counts the rows that matter for the exit code, by default every row of the
    sheet. `signal_exit` is the exit code of the signal that ended the run. `in_use`: a run is
    active in the folder, so the summary has no command to continue. Without a `run_id` the summary
    is about the last run and the reason why it stopped.
    """
    sent = sent or Sent()
    standing = stand(counts, in_use)
    states = standing.states
    stop = stopped.code if stopped else None
    # While a run writes its own summary, the ledger does not count it as ended yet.
    of_ended = run_id is None and stop is None
    alike = (counts.last_stopped if of_ended else stop) == StopCode.ALIKE
    cut_short = counts.cut_short if of_ended else stop is not None
    step = next_step(
        standing, counts.last_failed if alike else None, job.limit if cut_short else None
    )
    concerned = states if for_exit_code is None else for_exit_code
    return Summary(
        schema_version=SCHEMA_VERSION,
        run_id=counts.last_run_id if run_id is None else run_id,
        job=job.name,
        rows=standing.rows,
        ok=states[State.OK],
        failed=states[State.FAILED],
        ambiguous=states[State.AMBIGUOUS],
        pending=states[State.PENDING],
        skipped=standing.skipped,
        paid_min=counts.paid_min,
        paid_max=counts.paid_max,
        by_code=standing.by_code,
        stopped=stop,
        requests=sent.requests,
        rate_limited=sent.rate_limited,
        duration_s=round(sent.duration_s, 3),
        results=str(job.folder.results),
        report=str(job.folder.report) if job.folder.report.exists() else None,
        failures=str(job.folder.failures),
        resume_command=job.command(*step.words) if step else None,
        exit_code=exit_code_of(stopped, concerned, signal_exit),
        next_step=replace(step, to_add=job.to_add) if step else None,
        resume_needs=list(job.withheld),
    )


@dataclass(frozen=True, slots=True)
class Status:
    """The summary of a job, and its last run. `in_use`: a process works in the folder now.
    `in_flight` counts the pending rows that were sent and have no response yet. `reviews` counts
    the rows whose answers a person approved, edited or rejected. `rate_limit` is what the last run
    believed of it, None if the log does not say."""

    summary: Summary
    last_run: queries.LastRun | None
    in_use: bool
    in_flight: int
    reviews: dict[str, int]
    rate_limit: RateLimit | None = None


def status_json(status: Status) -> JsonObject:
    """The JSON object of `status`, without the earlier stages."""
    more = asdict(status)
    del more["summary"]
    return as_json(status.summary) | more


def read_status(job: Job) -> Status:
    """Reads the state of a job from its run folder alone. Works while a run is active.

    Raises:
        Refused: before the first run.
        StorageFailed: when the ledger cannot be read.
    """
    return status_with(job, KeptCounts())


def status_with(job: Job, kept: KeptCounts) -> Status:
    """Does the same with the counts of earlier calls.

    Raises:
        Refused: before the first run.
        StorageFailed: when the ledger cannot be read.
    """
    in_use = job.folder.in_use  # read first: a run that ends after it has nothing in flight
    with reading(job.folder.ledger) as read:
        refuse_before_first_run(job, read)
        counts = kept.of(job.folder.ledger, read)
        summary = summarize(job, counts, in_use=in_use)
        in_flight = stand(counts, in_use).in_flight
        reviews = count_reviews(job.folder, read)
        last = read(queries.last_run)
        limit = believed_limit(job.folder.log, last.run_id) if last else None
        return Status(summary, last, in_use, in_flight, reviews, limit)


def for_person(job: Job, summary: Summary) -> Summary:
    """The summary for a person: if `max_paid` is used up, its command names a higher limit.

    Only a person may decide to raise the limit. Programs get the command with the limit unchanged,
    and it then sends nothing.
    """
    step = summary.next_step
    if step is None:
        return summary
    raised = job.affording(summary.paid_max, step.rows)
    return replace(summary, resume_command=raised.command(*step.words))


def as_json(summary: Summary) -> JsonObject:
    """The JSON object of summary.json and of `--json`."""
    fields = asdict(summary)
    del fields["next_step"]
    return fields


def stages_json(
    ends: Sequence[tuple[Job, Summary | None, PipelineError | None]], exit_code: int
) -> JsonObject:
    """The JSON object of a run of several stages: that of the last one, the exit code of all, and
    each stage by itself under `stages`."""
    found = []
    for job, summary, error in ends:
        known = summarize_error(job, error) if error is not None else summary
        assert known is not None, "a stage has a summary or an error"
        found.append(as_json(known) | ({} if error is None else {"error": str(error)}))
    return found[-1] | {"exit_code": exit_code, "stages": found}


def summarize_error(job: Job | None, error: PipelineError) -> Summary:
    """The summary for a run that ended with `error`. Has the counts of the ledger if it can be
    read, else zeros."""
    code = next((code for kind, code in _STOP_OF_ERROR.items() if isinstance(error, kind)), None)
    stopped = Stopped(code, str(error)) if code else None
    summary = _NOTHING if job is None else _summarize_known(job, error, stopped)
    return replace(summary, exit_code=error.exit_code)


def _summarize_known(job: Job, error: PipelineError, stopped: Stopped | None) -> Summary:
    # Another run uses the folder, so its rows in flight are pending and not ambiguous.
    in_use = isinstance(error, Locked) or job.folder.in_use
    summary = summarize(job, _known_counts(job), stopped=stopped, in_use=in_use)
    if summary.run_id or in_use or not isinstance(error, Interrupted | DiskRefused):
        return summary
    # The run ended before its first row, so the next one starts from the beginning.
    step = send_pending(0, job.limit)
    return replace(summary, next_step=step, resume_command=job.command(*step.words))


def _known_counts(job: Job) -> Counts:
    try:
        with reading(job.folder.ledger) as read:
            return read(queries.counts)
    except (PipelineError, OSError):
        return _NO_COUNTS


_NO_COUNTS = Counts(Counter(), 0, 0, 0, 0, "", None)
_NOTHING = Summary(
    schema_version=SCHEMA_VERSION,
    run_id="",
    job="",
    rows=0,
    ok=0,
    failed=0,
    ambiguous=0,
    pending=0,
    skipped=0,
    paid_min=0,
    paid_max=0,
    by_code={},
    stopped=None,
    requests=0,
    rate_limited=0,
    duration_s=0.0,
    results="",
    report=None,
    failures="",
    resume_command=None,
    exit_code=0,
)
