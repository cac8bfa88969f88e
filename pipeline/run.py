"""One run, from the spec to the summary: read this first.

    spec -> sheet -> snapshot -> plan -> executor (throttle, engine) -> ledger -> parts -> summary

Nothing is sent before the whole sheet was read and the plan is made; nothing is read from the
sheet afterwards. The ledger alone decides what is sent.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import sqlite3
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from pipeline import __version__, records
from pipeline.access import SANDBOX_HOST, Access, find_access
from pipeline.answer import classify
from pipeline.checkpoint import PART_ROWS, Sealer
from pipeline.clock import SystemClock
from pipeline.consent import Consent, notices, permit
from pipeline.engines.base import Target
from pipeline.engines.choice import open_engine
from pipeline.engines.needed import check_engine
from pipeline.errors import EngineAway, Interrupted, Locked, Refused
from pipeline.events import (
    AttemptEnded,
    Event,
    Listener,
    Notice,
    Paced,
    PaceEnded,
    RunStarted,
    Stopping,
)
from pipeline.executor import Executor
from pipeline.folder import RunFolder, storing, sync_folder, write_json
from pipeline.inputs.snapshot import find_snapshot
from pipeline.inputs.table import Batch
from pipeline.job import Job, find_job, job_of
from pipeline.learned import KeptPace, kept_pace
from pipeline.ledger import SqliteLedger, open_ledger
from pipeline.logs import EventLog
from pipeline.model import (
    ErrorCode,
    JsonObject,
    Reply,
    Row,
    State,
    StopCode,
    Stopped,
    Summary,
    Verdict,
)
from pipeline.notify import Notifier, notifying
from pipeline.pacing import Pace
from pipeline.paid import check_ledger
from pipeline.pins import pinned_workflow, write_pins
from pipeline.plan import Selection
from pipeline.prepare import Prepared, Sheet, open_sheet, prepare
from pipeline.report.failures import drafted
from pipeline.retry import Breakers
from pipeline.sandbox.spawn import spawned_sandbox
from pipeline.spec import JobSpec
from pipeline.summary import Concern, FailOn, Sent, as_json, summarize
from pipeline.throttle import PacedThrottle
from pipeline.until import SEEN, Until
from pipeline.wording import counted

T = TypeVar("T")

_SEAL_EVERY_S = 30.0
_ASK_AGAIN_S = 0.5


@dataclass(frozen=True, slots=True)
class RunOptions:
    """What one run is told beyond its spec.

    `selection` is which rows are sent. `drain_s` is how long answers in flight are waited for at
    a stop, the request deadline by default. `if_locked` is fail or wait. `until`, in seconds since
    1970, is when the last answer should be there and after which nothing is sent.
    """

    base_url: str | None = None
    key_file: Path | None = None
    selection: Selection = field(default_factory=Selection)
    drain_s: float | None = None
    if_locked: str = "fail"
    until: float | None = None
    fail_on: FailOn = FailOn.ANY
    consent: Consent = field(default_factory=Consent)
    listeners: tuple[Listener, ...] = ()


@dataclass(slots=True)
class Control:
    """How another coroutine, or a signal, ends a run that is under way."""

    signal_exit: int | None = None
    stopped: Stopped | None = None
    abandoned: bool = False
    _executor: Executor | None = None
    _starting: asyncio.Task[Any] | None = None

    async def start(self, starting: Coroutine[Any, Any, T]) -> T:
        """What `starting` returns, unless the run is told to end first.

        Raises:
            Interrupted: when it was.
        """
        self.check()
        task: asyncio.Task[T] = asyncio.ensure_future(starting)
        self._starting = task
        try:
            return await task
        except asyncio.CancelledError:
            self.check()
            raise
        finally:
            self._starting = None

    def attach(self, executor: Executor) -> None:
        self._executor = executor
        if self.stopped is not None:
            executor.stop(self.stopped)

    def stop(self, message: str, exit_code: int | None = None) -> None:
        """Sends no more, waits for what is in flight, saves, ends."""
        self.signal_exit = self.signal_exit or exit_code
        self.stopped = self.stopped or Stopped(StopCode.INTERRUPTED, message)
        if self._starting is not None:
            self._starting.cancel()
        if self._executor is not None:
            self._executor.stop(self.stopped)

    def abandon(self) -> None:
        """Ends now: what is in flight becomes ambiguous."""
        self.abandoned = True
        if self._executor is not None:
            self._executor.abandon()

    def check(self) -> None:
        """Raises once the run is to end; for the time before anything is sent.

        Raises:
            Interrupted: when `stop` was called.
        """
        if self.stopped is not None:
            raise Interrupted("Interrupted before anything was sent.", self.signal_exit)


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
            "An event loop is running here, as in a notebook: use `await pipeline.run_job_async(…)`"
            ". Nothing was sent."
        )
    return asyncio.run(run_job_async(job, options, control=control, **fields))


async def run_job_async(
    job: Job | JobSpec | str | Path,
    options: RunOptions | None = None,
    *,
    control: Control | None = None,
    **fields: Any,
) -> Summary:
    """Sends the rows that are chosen and not settled; returns when each is, or the run stopped.

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
    job = _as_job(job)
    async with notifying(job, options.listeners) as notifier:
        options = replace(options, listeners=notifier.heard_by)
        notifier.summary = await _run_job(job, options, control or Control(), notifier)
        return notifier.summary


async def _run_job(job: Job, options: RunOptions, control: Control, notifier: Notifier) -> Summary:
    spec, folder, clock = job.to_run(), job.folder, SystemClock()
    check_engine(spec)
    until = _until(options, clock)
    sheet = open_sheet(spec, folder)
    access = None if job.sandbox else find_access(options.base_url, options.key_file)
    host = access.host if access else SANDBOX_HOST
    folder.create()
    async with contextlib.AsyncExitStack() as stack:
        await _lock(stack, folder, options.if_locked, control, until)
        notifier.start(access.base_url if access else None)
        ledger = stack.enter_context(
            open_ledger(folder.ledger, clock, folder.make_room, expected=folder.has_answers)
        )
        # What a killed run left unsealed was asked of the workflow that it was for.
        sealer = Sealer(ledger, folder.results, pinned_workflow(ledger.read) or spec.workflow)
        log = stack.enter_context(EventLog(folder.log, clock))
        run = _Run(job, spec, options, control, ledger, sealer, clock, log, until)
        run.recover()
        prepared = await _prepare(job, sheet, host, options.selection, ledger, control)
        permit(job, prepared, options.selection, ledger.read, options.consent)
        run.begin(prepared, host)
        if prepared.plan.to_send:
            with folder.reserving(_reserve_bytes(spec.concurrency)):
                if access is None:
                    names = [source.name for source in prepared.variables.sources]
                    access = stack.enter_context(_rehearsal(spec, names, folder))
                try:
                    await run.send(access)
                except EngineAway as error:
                    run.stop(Stopped(StopCode.NOT_SENT, str(error)))
                except Interrupted:
                    run.stop(control.stopped)
        if control.abandoned:
            notifier.hurry()
        return run.conclude()


def _until(options: RunOptions, clock: SystemClock) -> Until | None:
    if options.until is None:
        return None
    return Until(options.until, wall=clock.wall(), monotonic=clock.monotonic())


def _as_job(job: Job | JobSpec | str | Path) -> Job:
    if isinstance(job, Job):
        return job
    return job_of(job) if isinstance(job, JobSpec) else find_job(job)


async def _lock(
    stack: contextlib.AsyncExitStack,
    folder: RunFolder,
    if_locked: str,
    control: Control,
    until: Until | None,
) -> None:
    """Holds the folder until `stack` ends; with `wait`, once the other run has ended in time."""
    clock = SystemClock()
    while True:
        try:
            stack.enter_context(folder.locked())
            return
        except Locked:
            now = {"wall": clock.wall(), "monotonic": clock.monotonic()}
            if if_locked != "wait" or (until is not None and until.left_s(**now) <= 0):
                raise
        control.check()
        await asyncio.sleep(_ASK_AGAIN_S)


async def _prepare(
    job: Job, sheet: Sheet, host: str, selection: Selection, ledger: SqliteLedger, control: Control
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

    def read(operation: Callable[[sqlite3.Connection], T], /) -> T:
        control.check()
        return ledger.read(operation)

    watched = replace(sheet, table=replace(sheet.table, batches=batches))
    new_snapshot = job.folder.new_snapshot
    checking = asyncio.ensure_future(asyncio.to_thread(check_ledger, job.folder.ledger))
    work = asyncio.ensure_future(
        asyncio.to_thread(prepare, job.to_run(), watched, host, selection, read, new_snapshot)
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
class _Tally:
    """Counts what a run sends, and what is not sealed yet."""

    requests: int = 0
    rate_limited: int = 0
    duration_s: float = 0.0
    unsealed: int = 0
    unsealed_since: float = 0.0

    def see(self, event: Event) -> None:
        if not isinstance(event, AttemptEnded):
            return
        self.requests += 1
        self.rate_limited += event.outcome.code == ErrorCode.RATE_LIMITED
        if event.state is State.OK:
            if not self.unsealed:
                self.unsealed_since = time.monotonic()
            self.unsealed += 1

    def seal_due(self) -> bool:
        waited_s = time.monotonic() - self.unsealed_since
        return self.unsealed >= PART_ROWS or (self.unsealed > 0 and waited_s >= _SEAL_EVERY_S)

    def sent(self) -> Sent:
        return Sent(self.requests, self.rate_limited, self.duration_s)


@dataclass(slots=True)
class _Run:
    """One run in a folder that this process holds."""

    job: Job
    spec: JobSpec
    options: RunOptions
    control: Control
    ledger: SqliteLedger
    sealer: Sealer
    clock: SystemClock
    log: EventLog
    until: Until | None = None
    run_id: str = ""
    stopped: Stopped | None = None
    cut: frozenset[int] = frozenset()
    tally: _Tally = field(default_factory=_Tally)
    _prepared: Prepared | None = None

    @property
    def prepared(self) -> Prepared:
        assert self._prepared is not None
        return self._prepared

    def recover(self) -> None:
        """Brings the folder to rest, whatever ended the last run in it."""
        self.cut = self.ledger.recover()
        self._read_again()
        self.sealer.recover()
        self.sealer.seal_all()
        folder = self.job.folder
        current = self.ledger.read(records.meta(records.SNAPSHOT))
        if current and find_snapshot((folder.new_snapshot,), current):
            folder.adopt_snapshot()
        if self.cut:
            number = counted(len(self.cut), "request")
            self._tell(
                Notice(
                    f"The last run ended with {number} on the way. Each may have "
                    "been paid, so those rows are ambiguous (interrupted) and not sent again."
                )
            )

    def _read_again(self) -> None:
        """Takes answers that a release before this one could not read; nothing is sent for them."""
        unread = self.ledger.read(lambda db: list(records.unread(db)))
        readable = [
            one
            for one in unread
            if classify(Reply(0.0, 0.0, one.http_status, {}, one.body)).verdict is Verdict.OK
        ]
        if readable:
            self.ledger.read_again(readable)
            number = counted(len(readable), "answer")
            self._tell(
                Notice(
                    f"{number} that could not be read before is read now; nothing was sent for it."
                )
            )

    def begin(self, prepared: Prepared, host: str) -> None:
        """Notes the run and its sheet durably and tells the listeners what is planned."""
        self._prepared = prepared
        folder, snapshot, plan = self.job.folder, prepared.snapshot, prepared.plan
        self.run_id = _new_run_id(self.clock)
        write_pins(self.ledger, prepared.pins)
        self.sealer = Sealer(self.ledger, folder.results, self.spec.workflow)
        with storing(folder.new_snapshot):
            sync_folder(folder.path)
        self.ledger.begin_run(
            self.run_id,
            snapshot.snapshot_id,
            snapshot.rows,
            snapshot.skipped,
            snapshot_sha256=snapshot.sha256,
        )
        folder.adopt_snapshot()
        if self.options.selection.again:
            self.ledger.mark_again(plan.chosen_ids)
        write_json(folder.run, self._about(host))
        for message in notices(self.job, prepared, self.options.selection):
            self._tell(Notice(message))
        rows = snapshot.rows - snapshot.skipped
        self._tell(RunStarted(self.run_id, rows, plan.to_send, plan.kept))

    async def send(self, access: Access) -> None:
        """Sends the chosen rows until they are settled or the run stops."""
        kept = self._kept_pace(access)
        pace = Pace(self.spec.rate, kept.recall(self.clock.wall()) if kept else None)
        throttle = PacedThrottle(pace, self.clock, self._tell)
        drain_s = self.options.drain_s
        begun = self.clock.monotonic()
        counts = self.ledger.read(records.counts)
        if self.until is not None:
            seen = self.ledger.read(records.answered_in(SEEN))
            self.until.expect(seen, self.spec.deadline_s)
        target = Target(access, self.spec.workflow, self.spec.deadline_s)
        opening = open_engine(self.spec, target, self._tell)
        async with contextlib.AsyncExitStack() as stack:
            engine = await self.control.start(stack.enter_async_context(opening))
            executor = Executor(
                engine=engine,
                ledger=self.ledger,
                throttle=throttle,
                clock=self.clock,
                breakers=Breakers(
                    any_ok=counts.paid_min > 0,
                    probing=counts.last_stopped == StopCode.AMBIGUOUS,
                ),
                concurrency=self._concurrency(engine.fits),
                retries=self.spec.retries,
                budget=self.spec.budget(counts.paid_max),
                listeners=(self._tell,),
                until=self.until,
            )
            self.control.attach(executor)
            async with self._beside(throttle, kept, executor):
                self.stopped = await executor.run(
                    self._rows(), self.spec.deadline_s if drain_s is None else drain_s
                )
        self.tally.duration_s = self.clock.monotonic() - begun
        sent = self.tally.sent()
        self._tell(
            PaceEnded(
                pace.limit, pace.window_s, pace.share_used(), sent.requests, sent.rate_limited
            )
        )

    def stop(self, stopped: Stopped | None) -> None:
        """Ends the run before anything could be sent."""
        assert stopped is not None
        self.stopped = stopped
        self._tell(Stopping(stopped, 0))

    def conclude(self) -> Summary:
        """Seals what came, and writes down how the run ended."""
        self.sealer.seal_all()
        folder = self.job.folder
        concern = Concern(self.prepared.plan.covered, self.options.fail_on, self.cut)
        with drafted(folder.failures) as failures:
            failures.write(folder.snapshot, self.ledger.read, concern.add)
        summary = summarize(
            self.job,
            self.ledger.read(records.counts),
            run_id=self.run_id,
            stopped=self.stopped or self.control.stopped,
            sent=self.tally.sent(),
            concern=concern.states,
            signal_exit=self.control.signal_exit,
        )
        # In this order a run that the ledger knows to be over has its files beside it.
        sha256 = write_json(folder.summary, as_json(summary))
        self.ledger.end_run(summary.exit_code, summary.stopped, sha256)
        return summary

    def _rows(self) -> Iterator[Row]:
        prepared = self.prepared
        snapshot = replace(prepared.snapshot, path=self.job.folder.snapshot)
        return snapshot.selected(self.spec, prepared.variables, prepared.plan.send)

    def _about(self, host: str) -> JsonObject:
        return {
            "schema_version": 1,
            "run_id": self.run_id,
            "job": self.spec.name,
            "spec": str(self.spec.source),
            "workflow": self.spec.workflow,
            "host": host,
            "started_at": datetime.fromtimestamp(self.clock.wall(), UTC).isoformat(),
            "version": __version__,
            "sending": list(self.job.sending),
        }

    def _concurrency(self, fits: int) -> int:
        if fits < self.spec.concurrency:
            self._tell(
                Notice(
                    f"At most {fits} in flight where requests are sent from, not "
                    f"{self.spec.concurrency}: few files may be open there (`ulimit -n` tells)."
                )
            )
        return min(fits, self.spec.concurrency)

    def _kept_pace(self, access: Access) -> KeptPace | None:
        """What earlier runs learned of this key; a rehearsal and a given rate learn nothing."""
        if access.host == SANDBOX_HOST or self.spec.rate is not None:
            return None
        return kept_pace(access.host, access.key)

    def _tell(self, event: Event) -> None:
        self.tally.see(event)
        self.log(event)
        for listener in self.options.listeners:
            listener(event)

    @contextlib.asynccontextmanager
    async def _beside(
        self, throttle: PacedThrottle, kept: KeptPace | None, executor: Executor
    ) -> AsyncIterator[None]:
        """Tells the pace and seals parts while rows are sent; sealing has a thread of its own."""

        pace = throttle.pace
        if kept is not None:
            kept.exchange(pace, self.clock.monotonic(), self.clock.wall())

        async def twice_a_second() -> None:
            while True:
                await asyncio.sleep(0.5)
                now = self.clock.monotonic()
                try:
                    if kept is not None:
                        kept.exchange(pace, now, self.clock.wall())
                    rate, at = pace.rate(now), throttle.due_at
                    self._tell(Paced(rate, pace.limit, pace.window_s, executor.in_flight, at))
                    if self.tally.seal_due():
                        self.tally.unsealed = 0
                        await asyncio.to_thread(self.sealer.seal_all)
                except Exception as error:  # of the disk or of a caller's listener
                    executor.fail(error)
                    return

        task = asyncio.create_task(twice_a_second())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            if kept is not None:
                kept.keep(pace, self.clock.wall())
                kept.close()


@contextlib.contextmanager
def _rehearsal(spec: JobSpec, variables: list[str], folder: RunFolder) -> Iterator[Access]:
    """A sandbox of this run's own that publishes the job's workflow."""
    book = folder.path / "sandbox-book.sqlite"
    with spawned_sandbox(spec.workflow, variables, book) as spawned:
        yield Access(spawned.url, spawned.key, SANDBOX_HOST)


def _reserve_bytes(concurrency: int) -> int:
    """Room for what may be in flight: an answer of some kilobytes, and SQLite's pages for it."""
    return min(max(concurrency * 16 * 1024, 1024 * 1024), 64 * 1024 * 1024)


def _new_run_id(clock: SystemClock) -> str:
    stamp = datetime.fromtimestamp(clock.wall(), UTC).strftime("%Y%m%dT%H%M%SZ")
    return f"{stamp}-{secrets.token_hex(3)}"
