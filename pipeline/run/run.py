"""One run, from the spec to the summary: read this first.

    spec -> sheet -> snapshot -> plan -> sending (executor, throttle, engine) -> ledger -> parts
         -> summary

Nothing is sent before the whole sheet was read and the plan is made; nothing is read from the
sheet afterwards. The ledger alone decides what is sent.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any, TypeVar

from pipeline.core.clock import SystemClock
from pipeline.core.errors import EngineAway, Locked, Refused, StorageFailed
from pipeline.core.events import Event, Listener, Notice, RunStarted, Waiting
from pipeline.core.model import SANDBOX_HOST, JsonObject, Row, Sent, Stopped, Summary
from pipeline.core.version import __version__
from pipeline.inputs.table import Batch
from pipeline.job.access import Access, RunKey, find_access
from pipeline.job.job import Job, find_job, job_of
from pipeline.job.run_folder import RunFolder
from pipeline.job.spec import JobSpec
from pipeline.ledger import queries
from pipeline.ledger.integrity import check_ledger
from pipeline.ledger.ledger import SqliteLedger, open_ledger
from pipeline.ledger.reader import Operation, refuse_lost
from pipeline.notify.notifier import Notifier, notifying
from pipeline.planning.consent import Consent, notices, permit
from pipeline.planning.prepared import OpenSheet, Prepared
from pipeline.planning.selection import Selection
from pipeline.policy.cutoff import Cutoff
from pipeline.results.failures_csv import drafted
from pipeline.results.sealing import Sealer
from pipeline.run.prepare import open_sheet, prepare, with_text_rules
from pipeline.run.recovery import recover
from pipeline.sandbox.spawn import DidNotStart, spawned_sandbox
from pipeline.sending.control import Control
from pipeline.sending.engines.needed import check_engine
from pipeline.sending.session import Sending
from pipeline.status.event_log import EventLog
from pipeline.status.exit_codes import FailOn, RowsForExitCode
from pipeline.status.summary import as_json, summarize
from pipeline.system.children import start_python
from pipeline.system.files import storing, sync_folder, write_json

T = TypeVar("T")

_ASK_AGAIN_S = 0.5


class IfLocked(StrEnum):
    """What a run does that finds another one at work in its folder: raise Locked, or wait."""

    FAIL = "fail"
    WAIT = "wait"


@dataclass(frozen=True, slots=True)
class RunOptions:
    """What one run is told beyond its spec.

    `selection` is which rows are sent. `drain_s` is how long answers in flight are waited for at
    a stop, the request deadline by default. `until`, in seconds since 1970, is when the last answer
    should be there and after which nothing is sent.

    Raises:
        Refused: for an `if_locked` or a `fail_on` that there is not.
    """

    base_url: str | None = None
    key_file: Path | None = None
    selection: Selection = field(default_factory=Selection)
    drain_s: float | None = None
    if_locked: IfLocked = IfLocked.FAIL
    until: float | None = None
    fail_on: FailOn = FailOn.ANY
    consent: Consent = field(default_factory=Consent)
    listeners: tuple[Listener, ...] = ()

    def __post_init__(self) -> None:
        for name, choices in (("if_locked", IfLocked), ("fail_on", FailOn)):
            if getattr(self, name) not in list(choices):
                raise Refused(f"{name}={getattr(self, name)!r}: use one of {', '.join(choices)}.")


def run_job(
    job: Job | JobSpec | str | Path,
    options: RunOptions | None = None,
    *,
    control: Control | None = None,
    **fields: Any,
) -> Summary:
    """Sends what is not done yet of a job; see `run_job_async`.

    Raises:
        Refused: within a running event loop, such as a notebook's; besides what that raises.
    """
    with contextlib.suppress(RuntimeError):
        asyncio.get_running_loop()
        raise Refused(
            "An event loop is already running here, as in a notebook. Use "
            "`await pipeline.run_job_async(…)`."
        )
    return asyncio.run(run_job_async(job, options, control=control, **fields))


async def run_job_async(
    job: Job | JobSpec | str | Path,
    options: RunOptions | None = None,
    *,
    control: Control | None = None,
    **fields: Any,
) -> Summary:
    """Sends the rows that are chosen and not finished; returns when each is, or the run stopped.

    `job` is a path, a spec, or what `find_job` found (for a rehearsal: `find_job(path,
    sandbox=True)`). Single options may be given by name: ``run_job(path, drain_s=5)``. Touches
    neither signals nor logging. May be called again after any ending, `kill -9` included.

    Raises:
        Refused: nothing was sent; the message says what to mend.
        Locked: another run works in this folder.
        Interrupted: `control` was told to stop before anything was sent.
        StorageFailed: the disk refused a write; sending stopped and what could be saved is.
    """
    options = replace(options or RunOptions(), **fields)
    job = replace(_as_job(job), limit=options.selection.limit)
    key = RunKey(options.key_file)
    async with notifying(job, options.listeners, key) as notifier:
        options = replace(options, listeners=notifier.heard_by)
        notifier.summary = await _run_job(job, options, key, control or Control(), notifier)
    return notifier.summary


async def _run_job(
    job: Job, options: RunOptions, key: RunKey, control: Control, notifier: Notifier
) -> Summary:
    job = with_text_rules(job, accept_changes=options.consent.accept_changes)
    spec, folder, clock = job.to_run(), job.folder, SystemClock()
    check_engine(spec)
    until = _until(options, clock, spec.deadline_s)
    sheet = open_sheet(spec, folder)
    access = None if job.sandbox else find_access(options.base_url, key)
    host = access.host if access else SANDBOX_HOST
    folder.refuse_unusable()
    refuse_lost(folder.ledger, folder.trace)  # before anything in the folder is changed
    folder.create()
    async with contextlib.AsyncExitStack() as stack:
        await _lock(stack, folder, options.if_locked, control, until)
        notifier.start(access.base_url if access else None)
        ledger = stack.enter_context(
            open_ledger(folder.ledger, clock, folder.make_room, trace=folder.trace)
        )
        tell = _telling(stack.enter_context(EventLog(folder.log, clock)), *options.listeners)
        ledger.when_blocked(_saying_blocked(tell, clock))
        control.when_abandoned(ledger.leave)
        interrupted_row_ids = recover(folder, ledger, spec.workflow, tell)
        prepared = await _prepare(job, sheet, host, options.selection, ledger, control)
        token = permit(job, prepared, options.selection, ledger.read, options.consent)
        run = _Run(job, options, ledger, clock, tell, prepared, interrupted_row_ids, token)
        run.begin(host)
        drain_s = spec.deadline_s if options.drain_s is None else options.drain_s
        sending = Sending(spec, ledger, run.sealer, clock, control, tell, drain_s, until)
        stopped = None
        if prepared.plan.to_send:
            with folder.reserving(_reserve_bytes(spec.concurrency)):
                if access is None:
                    names = [source.name for source in prepared.variables.sources]
                    access = stack.enter_context(_rehearsal(spec, names, folder))
                stopped = await sending.send(access, run.rows())
        if control.abandoned:
            notifier.hurry()
        await ledger.unblocked()
        return run.conclude(stopped or control.stopped, control.signal_exit, sending.sent)


def _telling(*listeners: Listener) -> Listener:
    def tell(event: Event) -> None:
        for listener in listeners:
            listener(event)

    return tell


def _saying_blocked(tell: Listener, clock: SystemClock) -> Callable[[bool], None]:
    reason = (
        "another program, such as a database editor or a backup, holds the lock of ledger.sqlite. "
        "Answers wait in memory. Close the ledger in that program"
    )

    def say(blocked: bool) -> None:
        waiting = Waiting(reason, clock.monotonic() + _ASK_AGAIN_S)
        with contextlib.suppress(StorageFailed):  # of the log: the wait goes on
            tell(waiting if blocked else Notice("The ledger is free again. The run continues."))

    return say


def _until(options: RunOptions, clock: SystemClock, deadline_s: float) -> Cutoff | None:
    if options.until is None:
        return None
    now = {"wall": clock.wall(), "monotonic": clock.monotonic()}
    return Cutoff(options.until, **now, deadline_s=deadline_s)


def _as_job(job: Job | JobSpec | str | Path) -> Job:
    if isinstance(job, Job):
        return job
    return job_of(job) if isinstance(job, JobSpec) else find_job(job)


async def _lock(
    stack: contextlib.AsyncExitStack,
    folder: RunFolder,
    if_locked: IfLocked,
    control: Control,
    until: Cutoff | None,
) -> None:
    """Holds the folder until `stack` ends; with `wait`, once the other run has ended in time."""
    clock = SystemClock()
    while True:
        try:
            stack.enter_context(folder.locked())
            return
        except Locked:
            now = {"wall": clock.wall(), "monotonic": clock.monotonic()}
            if if_locked != IfLocked.WAIT or (until is not None and until.left_s(**now) <= 0):
                raise
        control.check()
        await asyncio.sleep(_ASK_AGAIN_S)


async def _prepare(
    job: Job,
    sheet: OpenSheet,
    host: str,
    selection: Selection,
    ledger: SqliteLedger,
    control: Control,
) -> Prepared:
    """Reads the sheet in a thread, as a long one takes seconds in which a signal must work, and
    looks through the ledger meanwhile.

    Raises:
        StorageFailed: when the ledger is not what was written.
    """

    def batches() -> Iterator[Batch]:
        for batch in sheet.table.batches():
            control.check()
            yield batch

    def read(operation: Operation[T], /) -> T:
        control.check()
        return ledger.read(operation)

    watched = replace(sheet, table=replace(sheet.table, batches=batches))
    new_snapshot = job.folder.new_snapshot
    checking = asyncio.ensure_future(asyncio.to_thread(check_ledger, job.folder.ledger))
    work = asyncio.ensure_future(
        asyncio.to_thread(prepare, job, watched, host, selection, read, new_snapshot)
    )
    both = asyncio.gather(work, checking, return_exceptions=True)
    try:
        await asyncio.shield(both)
    except asyncio.CancelledError:
        control.stop("cancelled")
        await asyncio.wait({both})  # the ledger must not be closed under them
        raise
    checking.result()
    return work.result()


@dataclass(slots=True)
class _Run:
    """The books of one run, in a folder that this process holds. `interrupted_row_ids` are of rows
    that the last one left on their way. `token` is the plan that it spends."""

    job: Job
    options: RunOptions
    ledger: SqliteLedger
    clock: SystemClock
    tell: Listener
    prepared: Prepared
    interrupted_row_ids: frozenset[int]
    token: str | None
    sealer: Sealer = field(init=False)
    run_id: str = field(init=False)

    def __post_init__(self) -> None:
        self.sealer = Sealer(self.ledger, self.job.folder.results, self.job.to_run().workflow)
        self.run_id = _new_run_id(self.clock)

    def begin(self, host: str) -> None:
        """Notes the run and its sheet durably and tells the listeners what is planned."""
        folder, snapshot, plan = self.job.folder, self.prepared.snapshot, self.prepared.plan
        with storing(folder.new_snapshot):
            sync_folder(folder.path)
        self.ledger.begin_run(
            self.run_id,
            snapshot.snapshot_id,
            snapshot.rows,
            snapshot.skipped,
            snapshot_sha256=snapshot.sha256,
            pins=self.prepared.pins.text,
            accepted=self.prepared.repaid.row_ids,
            again=plan.chosen_ids if self.options.selection.again else (),
            token=self.token,
        )
        folder.adopt_snapshot()
        write_json(folder.run, self._about(host))
        for message in notices(self.job, self.prepared, self.options.selection):
            self.tell(Notice(message))
        rows = snapshot.rows - self.prepared.skips.total()
        self.tell(RunStarted(self.run_id, rows, plan.to_send, plan.kept))

    def rows(self) -> Iterator[Row]:
        """The rows to send, each read when it is asked for."""
        prepared = self.prepared
        snapshot = replace(prepared.snapshot, path=self.job.folder.snapshot)
        return snapshot.selected(self.job.to_run(), prepared.variables, prepared.plan.send)

    def conclude(self, stopped: Stopped | None, signal_exit: int | None, sent: Sent) -> Summary:
        """Seals what came, and writes down how the run ended."""
        self.sealer.seal_all()
        folder = self.job.folder
        for_exit_code = RowsForExitCode(
            self.prepared.plan.covered, self.options.fail_on, self.interrupted_row_ids
        )
        with drafted(folder.failures) as failures:
            failures.write(folder.snapshot, self.ledger.read, for_exit_code.add)
        summary = summarize(
            self.job,
            self.ledger.read(queries.counts),
            run_id=self.run_id,
            stopped=stopped,
            sent=sent,
            for_exit_code=for_exit_code.states,
            signal_exit=signal_exit,
        )
        # In this order a run that the ledger knows to be over has its files beside it.
        sha256 = write_json(folder.summary, as_json(summary))
        self.ledger.end_run(summary.exit_code, summary.stopped, sha256)
        return summary

    def _about(self, host: str) -> JsonObject:
        spec = self.job.to_run()
        return {
            "schema_version": 1,
            "run_id": self.run_id,
            "job": spec.name,
            "spec": str(spec.source),
            "workflow": spec.workflow,
            "host": host,
            "started_at": datetime.fromtimestamp(self.clock.wall(), UTC).isoformat(),
            "version": __version__,
            "sending": list(self.job.sending),
            "limit": self.job.limit,
            "options": _resolved(spec),
        }


def _resolved(spec: JobSpec) -> JsonObject:
    """The spec as this run took it, defaults and command line included: the file may be another one
    tomorrow. Addresses under `notify:` may be secrets."""
    said = asdict(replace(spec, lines={}, notify=None))
    for left_out in ("source", "lines", "notify"):
        del said[left_out]
    return {key: str(value) if isinstance(value, Path) else value for key, value in said.items()}


@contextlib.contextmanager
def _rehearsal(spec: JobSpec, variables: list[str], folder: RunFolder) -> Iterator[Access]:
    """A sandbox of this run's own that publishes the job's workflow.

    Raises:
        EngineAway: when it does not start.
    """
    book = folder.path / "sandbox-book.sqlite"
    try:
        with spawned_sandbox(spec.workflow, variables, book, start_python) as spawned:
            yield Access(spawned.url, spawned.key, SANDBOX_HOST)
    except DidNotStart as error:
        raise EngineAway(
            f"The sandbox did not start: {error}. Nothing was sent. Run `pipeline sandbox` to see "
            "whether it starts on its own."
        ) from None


def _reserve_bytes(concurrency: int) -> int:
    """Room for what may be in flight: an answer of some kilobytes, and SQLite's pages for it."""
    return min(max(concurrency * 16 * 1024, 1024 * 1024), 64 * 1024 * 1024)


def _new_run_id(clock: SystemClock) -> str:
    stamp = datetime.fromtimestamp(clock.wall(), UTC).strftime("%Y%m%dT%H%M%SZ")
    return f"{stamp}-{secrets.token_hex(3)}"
