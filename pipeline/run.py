"""One run, from the spec to the summary: read this first.

    spec -> table -> snapshot -> plan -> executor (throttle, engine) -> ledger -> parts -> summary

Nothing is sent before the whole sheet was read and the plan is made; nothing is read from the
sheet afterwards. The ledger alone decides what is sent.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

from pipeline import __version__
from pipeline.access import SANDBOX_HOST, Access, find_access
from pipeline.checkpoint import PART_ROWS, Sealer
from pipeline.engines.local import local_engine
from pipeline.errors import Refused, StorageFailed
from pipeline.events import AttemptEnded, Event, Listener, Paced, PaceEnded, RunStarted
from pipeline.executor import Executor
from pipeline.folder import RunFolder, write_json
from pipeline.inputs.snapshot import Snapshot, take_snapshot
from pipeline.inputs.table import open_table
from pipeline.learned import KeptPace, kept_pace
from pipeline.ledger import SqliteLedger, open_ledger, read_counts
from pipeline.limits import fit_concurrency
from pipeline.logs import EventLog
from pipeline.model import ErrorCode, JsonObject, Row, State, StopCode, Stopped, Summary
from pipeline.pacing import Pace
from pipeline.pins import check_pins
from pipeline.plan import Plan, Selection, add_batch, bind, empty_plan
from pipeline.report.failures import write_failures
from pipeline.retry import Breakers
from pipeline.sandbox.spawn import spawned_sandbox
from pipeline.spec import JobSpec, load_spec
from pipeline.summary import Sent, as_json, summarize
from pipeline.throttle import PacedThrottle

_SEAL_EVERY_S = 30.0
_LOOK_UP_ROWS = 2000


@dataclass(frozen=True, slots=True)
class SystemClock:
    """The machine's own time."""

    def monotonic(self) -> float:
        return time.monotonic()

    def wall(self) -> float:
        return time.time()


@dataclass(frozen=True, slots=True)
class RunOptions:
    """What one run is told beyond its spec."""

    base_url: str | None = None
    key_file: Path | None = None
    sandbox: bool = False
    limit: int | None = None
    drain_s: float | None = None
    accept_changes: bool = False
    listeners: tuple[Listener, ...] = ()
    command: Sequence[str] = ()


@dataclass(slots=True)
class Control:
    """How another coroutine, or a signal, ends a run that is under way."""

    signal_exit: int | None = None
    _executor: Executor | None = None
    _stopped: Stopped | None = None

    def attach(self, executor: Executor) -> None:
        self._executor = executor
        if self._stopped is not None:
            executor.stop(self._stopped)

    def stop(self, message: str, exit_code: int | None = None) -> None:
        """Sends no more, waits for what is in flight, saves, ends."""
        self.signal_exit = self.signal_exit or exit_code
        self._stopped = self._stopped or Stopped(StopCode.INTERRUPTED, message)
        if self._executor is not None:
            self._executor.stop(self._stopped)

    def abandon(self) -> None:
        """Ends now: what is in flight becomes ambiguous."""
        if self._executor is not None:
            self._executor.abandon()


def run_job(
    spec: JobSpec, options: RunOptions | None = None, control: Control | None = None
) -> Summary:
    """Sends what is not done yet of a job; see `run_job_async`."""
    return asyncio.run(run_job_async(spec, options, control))


async def run_job_async(
    spec: JobSpec, options: RunOptions | None = None, control: Control | None = None
) -> Summary:
    """Sends every row that is not settled, and returns when each is, or when the run stopped.

    Touches neither signals nor logging. May be called again after any ending, `kill -9` included.

    Raises:
        Refused: nothing was sent; the message says what to mend.
        Locked: another run works in this folder.
        StorageFailed: the disk refused a write; sending stopped and what could be saved is.
    """
    options = options or RunOptions()
    control = control or Control()
    clock = SystemClock()
    folder = run_folder(spec, options.sandbox)
    table = open_table(spec)
    variables = bind(spec, table.columns)
    with contextlib.ExitStack() as stack:
        access = None if options.sandbox else find_access(options.base_url, options.key_file)
        host = access.host if access else SANDBOX_HOST
        folder.create()
        stack.enter_context(folder.locked())
        ledger = stack.enter_context(open_ledger(folder.ledger, clock))
        ledger.recover()
        sealer = Sealer(ledger, folder.results, spec.workflow)
        sealer.recover()
        snapshot = take_snapshot(spec, table, variables, folder.new_snapshot)
        check_pins(ledger, spec, variables, host, accept=options.accept_changes)
        plan = _plan(ledger, snapshot, Selection(limit=options.limit))
        folder.new_snapshot.rename(folder.snapshot)
        snapshot = replace(snapshot, path=folder.snapshot)
        log = stack.enter_context(EventLog(folder.log, clock))
        run = _Run(spec, options, control, folder, ledger, sealer, clock, log)
        run.begin(snapshot, plan, host)
        if plan.to_send:
            if access is None:
                names = [source.name for source in variables.sources]
                access = stack.enter_context(_rehearsal(spec, names, folder))
            await run.send(snapshot.selected(spec, variables, plan.send), access)
        return run.conclude()


def load_job(path: Path) -> JobSpec:
    """The spec at `path`, or the spec of the run folder at `path`.

    Raises:
        Refused: when there is neither.
    """
    if not path.is_dir():
        return load_spec(path)
    run_file = RunFolder(path).run
    try:
        spec = Path(json.loads(run_file.read_text(encoding="utf-8"))["spec"])
    except (OSError, ValueError, KeyError, TypeError):
        raise Refused(
            f"{path}: neither a job spec nor a run folder (no run.json). Nothing was sent."
        ) from None
    return replace(load_spec(spec), output=path.absolute())


def run_folder(spec: JobSpec, sandbox: bool) -> RunFolder:
    """Where a job is kept; a rehearsal has a folder of its own, apart from paid results."""
    suffix = ".sandbox"
    if sandbox and spec.output.suffix != suffix:
        return RunFolder(spec.output.with_name(spec.output.name + suffix))
    return RunFolder(spec.output)


def read_status(folder: RunFolder, job: str, command: Sequence[str]) -> Summary:
    """Where a job stands, from its run folder alone; works while a run goes on.

    Raises:
        Refused: when the folder holds no run.
    """
    if not folder.ledger.exists():
        raise Refused(f"{folder.path}: no run yet. Start it with: pipeline run {job}")
    counts = read_counts(folder.ledger)
    return summarize(
        run_id=counts.last_run_id,
        job=job,
        counts=counts,
        stopped=None,
        sent=Sent(),
        paths=_paths(folder),
        command=command,
    )


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
    """One run, once the plan is made."""

    spec: JobSpec
    options: RunOptions
    control: Control
    folder: RunFolder
    ledger: SqliteLedger
    sealer: Sealer
    clock: SystemClock
    log: EventLog
    run_id: str = ""
    stopped: Stopped | None = None
    tally: _Tally = field(default_factory=_Tally)
    any_ok: bool = False

    def begin(self, snapshot: Snapshot, plan: Plan, host: str) -> None:
        """Notes the run durably and tells the listeners what is planned."""
        self.run_id = _new_run_id(self.clock)
        self.any_ok = plan.counts[State.OK] > 0
        self.ledger.begin_run(self.run_id, snapshot.rows, snapshot.skipped)
        facts: JsonObject = {
            "schema_version": 1,
            "run_id": self.run_id,
            "job": self.spec.name,
            "spec": str(self.spec.source),
            "workflow": self.spec.workflow,
            "host": host,
            "started_at": datetime.fromtimestamp(self.clock.wall(), UTC).isoformat(),
            "version": __version__,
        }
        write_json(self.folder.run, facts)
        rows = snapshot.rows - snapshot.skipped
        self._tell(RunStarted(self.run_id, rows, plan.to_send, plan.counts))

    async def send(self, rows: Iterator[Row], access: Access) -> None:
        """Sends `rows` until they are settled or the run stops."""
        kept = self._kept_pace(access)
        pace = Pace(self.spec.rate, kept.recall(self.clock.wall()) if kept else None)
        throttle = PacedThrottle(pace, self.clock, self._tell)
        drain_s = self.options.drain_s
        begun = self.clock.monotonic()
        async with local_engine(access, self.spec.workflow, self.spec.deadline_s) as engine:
            executor = Executor(
                engine=engine,
                ledger=self.ledger,
                throttle=throttle,
                clock=self.clock,
                breakers=Breakers(any_ok=self.any_ok),
                concurrency=fit_concurrency(self.spec.concurrency),
                retries=self.spec.retries,
                budget=self._budget(),
                listeners=(self._tell,),
            )
            self.control.attach(executor)
            async with self._beside(throttle, kept, executor):
                self.stopped = await executor.run(
                    rows, self.spec.deadline_s if drain_s is None else drain_s
                )
        self.tally.duration_s = self.clock.monotonic() - begun
        sent = self.tally.sent()
        self._tell(
            PaceEnded(
                pace.limit, pace.window_s, pace.share_used(), sent.requests, sent.rate_limited
            )
        )

    def _kept_pace(self, access: Access) -> KeptPace | None:
        """What earlier runs learned of this key; a rehearsal and a given rate learn nothing."""
        if access.host == SANDBOX_HOST or self.spec.rate is not None:
            return None
        return kept_pace(access.host, access.key)

    def conclude(self) -> Summary:
        """Seals what came, and writes down how the run ended."""
        self.sealer.seal_all()
        summary = summarize(
            run_id=self.run_id,
            job=self.spec.name,
            counts=self.ledger.counts(),
            stopped=self.stopped,
            sent=self.tally.sent(),
            paths=_paths(self.folder),
            command=self.options.command,
            signal_exit=self.control.signal_exit,
        )
        write_failures(self.folder.failures, self.folder.snapshot, self.ledger.unfinished())
        self.ledger.end_run(summary.exit_code, summary.stopped)
        write_json(self.folder.summary, as_json(summary))
        return summary

    def _budget(self) -> int | None:
        """How many more requests may be billed, by both limits of the spec."""
        limits = []
        if self.spec.max_paid is not None:
            limits.append(max(self.spec.max_paid - self.ledger.counts().paid_max, 0))
        if self.spec.max_paid_per_run is not None:
            limits.append(self.spec.max_paid_per_run)
        return min(limits, default=None)

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
                if kept is not None:
                    kept.exchange(pace, now, self.clock.wall())
                at = throttle.due_at
                self._tell(Paced(pace.rate(now), pace.limit, pace.window_s, executor.in_flight, at))
                if self.tally.seal_due():
                    self.tally.unsealed = 0
                    try:
                        await asyncio.to_thread(self.sealer.seal_all)
                    except StorageFailed as error:
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


def _plan(ledger: SqliteLedger, snapshot: Snapshot, selection: Selection) -> Plan:
    """Compares the sheet with what is held, batch by batch, and makes it the sheet that counts."""
    plan = empty_plan(snapshot.rows)
    ledger.order_equal_rows()
    ledger.begin_placing()
    for numbers, wanted in _look_ups(snapshot):
        add_batch(plan, numbers, ledger.look_up(wanted), selection)
    ledger.finish_placing()
    return plan


def _look_ups(snapshot: Snapshot) -> Iterator[tuple[list[int], list[tuple[int, bytes, int]]]]:
    for first in range(0, len(snapshot.numbers), _LOOK_UP_ROWS):
        span = range(first, min(first + _LOOK_UP_ROWS, len(snapshot.numbers)))
        numbers = [int(snapshot.numbers[i]) for i in span]
        yield (
            numbers,
            [
                (number, snapshot.identity_at(i), int(snapshot.occurrences[i]))
                for number, i in zip(numbers, span, strict=True)
            ],
        )


def _paths(folder: RunFolder) -> tuple[str, str, str]:
    return str(folder.results), str(folder.report), str(folder.failures)


def _new_run_id(clock: SystemClock) -> str:
    stamp = datetime.fromtimestamp(clock.wall(), UTC).strftime("%Y%m%dT%H%M%SZ")
    return f"{stamp}-{secrets.token_hex(3)}"
