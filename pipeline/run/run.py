"""One run, from the job file to the summary. If you are new to this code, begin here.

    job file -> sheet -> snapshot -> plan -> requests -> ledger -> parts -> summary

A command or a program calls `run_job`. The work is done by `_run_job`, in this order:

1. Check. Open the sheet, find the host and the key, and look at the run folder. A refusal here
   leaves the disk unchanged.
2. Take the folder. `_lock` makes sure that only one run works in it. The ledger is opened:
   `ledger.sqlite` is the record of every request, and it alone decides which rows are sent.
3. Repair. `recover` finishes the work of a run that ended halfway, even by `kill -9`.
4. Plan. `_prepare` copies the whole sheet into a snapshot, checks each row of the ledger against
   its checksum (or the whole file against that of an earlier check), and finds each row of the
   sheet in the ledger. The plan lists the rows to send.
5. Ask. `permit` returns only if the user allows every request that may pay for a row twice.
6. Begin. `_Run.begin` records the run, its settings and its snapshot durably. From now on rows are
   read from the snapshot, so a sheet that is saved again during the run changes nothing.
7. Send. `Sending` opens an engine and lets the executor send the rows, at the pace that the
   throttle allows. Answers that are in the ledger are sealed into parts meanwhile.
8. Conclude. `_Run.conclude` seals the rest, and writes `failures.csv` and `summary.json`.

A large ledger is checked again when it is closed, so that the next run need not wait for that.

Around all this, `notifying` notifies the addresses and files under `notify:`. The healthcheck gets
a ping when the run has its folder. All of them get the end of the run, after the folder is free
again.

Nothing is sent before step 7. A run may be killed at any instant: the next one repairs and
continues. `check.check_job` does only steps 1 and 4, with a temporary snapshot, and shows the plan.

To read on: `planning.plan` for the choice of rows, `sending.executor` for the life of one request,
`ledger.ledger` for what is durable when, `policy.answer` for the meaning of each response, and
`results.sealing` for the parts.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import threading
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from enum import StrEnum
from numbers import Real
from os import PathLike
from pathlib import Path
from types import NoneType
from typing import Any, TypeVar

from pipeline.core.clock import SystemClock
from pipeline.core.errors import EngineAway, Locked, Refused, refuse_other
from pipeline.core.events import Event, Listener, Notice, RunStarted
from pipeline.core.model import SANDBOX_HOST, JsonObject, Row, Sent, Stopped, Summary
from pipeline.core.version import __version__
from pipeline.inputs.table import Batch
from pipeline.job.access import Access, RunKey, find_access
from pipeline.job.answer_shape import sample_shape
from pipeline.job.frame import Frame
from pipeline.job.job import Job, as_job
from pipeline.job.run_folder import RunFolder
from pipeline.job.spec import JobSpec
from pipeline.job.stage import Input
from pipeline.ledger import queries
from pipeline.ledger.integrity import check_ahead, check_ledger
from pipeline.ledger.ledger import SqliteLedger, open_ledger
from pipeline.ledger.reader import Operation, refuse_lost
from pipeline.notify.notifier import Notifier, notifying
from pipeline.planning.consent import Consent, locked_line, notices, permit
from pipeline.planning.prepared import Links, OpenSheet, Prepared
from pipeline.planning.selection import Selection
from pipeline.policy.cutoff import Cutoff
from pipeline.results.failures_csv import drafted
from pipeline.results.sealing import Sealer
from pipeline.run.in_thread import run_anywhere
from pipeline.run.prepare import open_sheet, prepare, with_text_rules
from pipeline.run.recovery import recover
from pipeline.run.review_guard import ReviewGuard
from pipeline.run.stages import with_source
from pipeline.run.waits import (
    ASK_AGAIN_S,
    CHECKING_AHEAD,
    PREPARING,
    saying_blocked,
    saying_if_slow,
)
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


class IfLocked(StrEnum):
    """What a run does when another run works in its folder: raise `Locked`, or wait for it."""

    FAIL = "fail"
    WAIT = "wait"


@dataclass(frozen=True, slots=True)
class RunOptions:
    """The options of one run, in addition to its job file.

    `base_url` and `key_file` take the place of AITUTOR_BASE_URL and AITUTOR_API_KEY. `selection`
    chooses the rows. `drain_s` is how many seconds a stop waits for answers in flight, by default
    the request deadline. `until`, in seconds since 1970, is when the last answer should be there:
    the run stops sending earlier, by the time that answers take. `fail_on` decides which failed
    rows make the exit code non-zero. `consent` holds what the user allows beforehand. `listeners`
    are called with each event.

    Raises:
        Refused: for an unknown `if_locked` or `fail_on`, and for a value of a wrong type.
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
        selections = "a `pipeline.Selection` or the result of `pipeline.select_resume`"
        refuse_other(Selection, selections, selection=self.selection)
        refuse_other(Consent, "a `pipeline.Consent`", consent=self.consent)
        refuse_other((tuple, list), "a tuple of functions", listeners=self.listeners)
        for listener in self.listeners:
            if not callable(listener):
                raise Refused(f"listeners= contains {listener!r}. Pass a tuple of functions.")
        seconds = "a number of seconds, or None"
        refuse_other((Real, NoneType), seconds, drain_s=self.drain_s, until=self.until)
        refuse_other((str, NoneType), "an address as text, or None", base_url=self.base_url)
        refuse_other((str, PathLike, NoneType), "a path, or None", key_file=self.key_file)
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
    """Sends the rows of a job that are not done yet, and returns the summary.

    Takes and raises the same as `run_job_async`. Where an event loop is already running, as in a
    notebook, the run works in a thread: an interrupt then stops sending, waits for the answers in
    flight, and raises KeyboardInterrupt. A second one leaves at once.
    """
    control = control or Control()
    return run_anywhere(run_job_async(job, options, control=control, **fields), control)


async def run_job_async(
    job: Job | JobSpec | str | Path,
    options: RunOptions | None = None,
    *,
    control: Control | None = None,
    **fields: Any,
) -> Summary:
    """Sends the chosen rows that are not finished. Returns when all are, or when the run stops.

    `job` is a path, a spec, or a `Job` from `find_job` (for a rehearsal: `find_job(path,
    sandbox=True)`). You can pass single options by name: ``run_job(path, drain_s=5)``. `control`
    stops the run from outside. The function touches neither signals nor logging. Call it again
    after any ending, also after `kill -9`: it continues where the last run ended.

    Raises:
        Refused: nothing was sent. The message says what to fix.
        Locked: another run works in this folder.
        Interrupted: `control` stopped the run before it sent anything.
        PipelineError: the sandbox of a rehearsal did not start. Nothing was sent.
        StorageFailed: the disk refused a write. Sending stopped, and every outcome that the disk
            still accepted is saved.
    """
    options = replace(options or RunOptions(), **fields)
    refuse_other((Control, NoneType), "a `pipeline.Control`, or None", control=control)
    job = replace(as_job(job), limit=options.selection.limit)
    key = RunKey(options.key_file)
    async with notifying(job, options.listeners, key) as notifier:
        options = replace(options, listeners=notifier.heard_by)
        notifier.summary = await _run_job(job, options, key, control or Control(), notifier)
    return notifier.summary


async def _run_job(
    job: Job, options: RunOptions, key: RunKey, control: Control, notifier: Notifier
) -> Summary:
    given, spec, folder, clock = job, job.to_run(), job.folder, SystemClock()
    check_engine(spec)
    loop = asyncio.get_running_loop()
    until = _until(options, clock, spec.deadline_s)
    job, sheet = _opened(given, options)
    access = None if job.sandbox else find_access(options.base_url, key)
    host = access.host if access else SANDBOX_HOST
    folder.refuse_unusable()
    if not job.sandbox:
        folder.refuse_lost_layer()
    refuse_lost(folder.ledger, folder.trace)  # before the run changes anything in the folder
    folder.create()
    async with contextlib.AsyncExitStack() as stack:
        if await _lock(stack, folder, options.if_locked, control, until):
            job, sheet = _opened(given, options)  # other rows may be in the same file now
        spec = job.to_run()
        notifier.start(access.base_url if access else None)
        without_log = _telling(*options.listeners)  # it is closed when the check begins
        stack.push_async_exit(_checking_ahead(folder.ledger, control, without_log))
        ledger = stack.enter_context(
            open_ledger(folder.ledger, clock, folder.make_room, trace=folder.trace)
        )
        tell = _telling(stack.enter_context(EventLog(folder.log, clock)), *options.listeners)
        ledger.when_blocked(saying_blocked(tell, clock))
        control.when_abandoned(ledger.leave)
        interrupted_row_ids = recover(folder, ledger, spec.workflow, tell)
        with saying_if_slow(tell, PREPARING, loop.call_later):
            prepared = await _prepare(job, sheet, host, options.selection, ledger, control)
        if prepared.neighbours.locked:
            tell(Notice(locked_line(prepared.neighbours.locked)))
        token = permit(job, prepared, options.selection, ledger.read, options.consent)
        run = _Run(job, options, ledger, clock, tell, prepared, interrupted_row_ids, token)
        guard = ReviewGuard(prepared, ledger.read)
        run.begin(host)
        drain_s = spec.deadline_s if options.drain_s is None else options.drain_s
        sending = Sending(
            spec, ledger, run.sealer, clock, control, tell, drain_s, until, guard.allows
        )
        stopped = None
        if prepared.plan.to_send:
            with folder.reserving(_reserve_bytes(spec.concurrency)):
                if access is None:
                    names = [source.name for source in prepared.variables.sources]
                    access = stack.enter_context(_rehearsal(spec, names, folder))
                stopped = await sending.send(access, run.rows(), prepared.plan.to_send)
        if control.abandoned:
            notifier.hurry()
        await ledger.unblocked()
        ledger.keep(guard.kept)
        return run.conclude(stopped or control.stopped, control.signal_exit, sending.sent)


def _checking_ahead(
    ledger: Path, control: Control, tell: Listener
) -> Callable[..., Awaitable[None]]:
    """Returns the check of a ledger after a run. A signal and a cancelled task end it."""
    ended, loop = threading.Event(), asyncio.get_running_loop()

    async def check(failed: type[BaseException] | None, *_: object) -> None:
        if failed is None and control.stopped is None:
            try:
                with saying_if_slow(tell, CHECKING_AHEAD, loop.call_later):
                    await asyncio.to_thread(
                        check_ahead, ledger, lambda: control.stopped is None and not ended.is_set()
                    )
            finally:
                ended.set()  # a cancelled task leaves its thread and the process of the check

    return check


def _telling(*listeners: Listener) -> Listener:
    def tell(event: Event) -> None:
        for listener in listeners:
            listener(event)

    return tell


def _opened(job: Job, options: RunOptions) -> tuple[Job, OpenSheet]:
    """Returns the job with the settings of its run folder, and its sheet."""
    job = with_text_rules(with_source(job), accept_changes=options.consent.accept_changes)
    return job, open_sheet(job.to_run(), job.folder)


def _until(options: RunOptions, clock: SystemClock, deadline_s: float) -> Cutoff | None:
    if options.until is None:
        return None
    now = {"wall": clock.wall(), "monotonic": clock.monotonic()}
    return Cutoff(options.until, **now, deadline_s=deadline_s)


async def _lock(
    stack: contextlib.AsyncExitStack,
    folder: RunFolder,
    if_locked: IfLocked,
    control: Control,
    until: Cutoff | None,
) -> bool:
    """Locks the folder until `stack` ends. With `wait`, first waits for the other run's end.
    Returns whether it waited.

    Raises:
        Locked: when another run works in the folder, with `wait` only once `until` is over.
    """
    clock, waited = SystemClock(), False
    while True:
        try:
            stack.enter_context(folder.locked())
            return waited
        except Locked:
            now = {"wall": clock.wall(), "monotonic": clock.monotonic()}
            if if_locked != IfLocked.WAIT or (until is not None and until.left_s(**now) <= 0):
                raise
        waited = True
        control.check()
        await asyncio.sleep(ASK_AGAIN_S)


async def _prepare(
    job: Job,
    sheet: OpenSheet,
    host: str,
    selection: Selection,
    ledger: SqliteLedger,
    control: Control,
) -> Prepared:
    """Reads the sheet and makes the plan, and checks the whole ledger at the same time.

    Both run in threads: a long sheet takes seconds, in which a signal must still work.

    Raises:
        Interrupted: when `control` stops the run meanwhile.
        Refused: as `prepare`.
        StorageFailed: when the ledger is damaged or was altered.
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
        await asyncio.wait({both})  # both threads still use the ledger, so it must stay open
        raise
    checking.result()
    return work.result()


@dataclass(slots=True)
class _Run:
    """The records of one run, in a folder that this process has locked.

    `interrupted_row_ids` are the ledger's ids of the rows that the last run left in flight. `token`
    names the `--plan` that this run carries out. It is None without `--plan`, and for a plan that
    may be carried out again.
    """

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
        """Records the run and its sheet durably, and reports the plan to the listeners."""
        folder, snapshot, plan = self.job.folder, self.prepared.snapshot, self.prepared.plan
        with storing(folder.new_snapshot):
            sync_folder(folder.path)
        self.ledger.begin_run(
            self.run_id,
            snapshot.snapshot_id,
            snapshot.rows,
            snapshot.skipped + len(self.prepared.by_review.rows),
            snapshot_sha256=snapshot.sha256,
            pins=self.prepared.pins.text,
            accepted=self.prepared.repaid.row_ids,
            again=self.prepared.again,
            token=self.token,
            last_review=self.prepared.reviews.last,
            kept_by_review=_as_text(self.prepared.by_review.links),
        )
        folder.adopt_snapshot()
        write_json(folder.run, self._about(host))
        for message in notices(self.job, self.prepared, self.options.selection):
            self.tell(Notice(message))
        rows = snapshot.rows - self.prepared.skips.total()
        self.tell(RunStarted(self.run_id, rows, plan.to_send, plan.kept))

    def rows(self) -> Iterator[Row]:
        """Yields the rows to send. Each one is read only when the executor asks for it."""
        prepared = self.prepared
        snapshot = replace(prepared.snapshot, path=self.job.folder.snapshot)
        return snapshot.selected(self.job.to_run(), prepared.variables, prepared.plan.send)

    def conclude(self, stopped: Stopped | None, signal_exit: int | None, sent: Sent) -> Summary:
        """Seals the remaining answers, and writes failures.csv, summary.json and the run's end."""
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
        # In this order, a run that has ended in the ledger also has its files.
        sha256 = write_json(folder.summary, as_json(summary))
        self.ledger.end_run(summary.exit_code, summary.stopped, sha256)
        return summary

    def _about(self, host: str) -> JsonObject:
        spec = self.job.to_run()
        return {
            "schema_version": 1,
            "run_id": self.run_id,
            "job": spec.name,
            **_source(spec),
            "workflow": spec.workflow,
            "host": host,
            "started_at": datetime.fromtimestamp(self.clock.wall(), UTC).isoformat(),
            "version": __version__,
            "sending": list(self.job.sending),
            "limit": self.job.limit,
            "process": os.getpid(),
            "options": _resolved(spec),
        }


def _as_text(links: Links | None) -> str | None:
    return None if links is None else json.dumps(links)


def _source(spec: JobSpec) -> JsonObject:
    """Returns the job file, or the settings of the call that passed a frame, so that commands can
    read the folder without the frame."""
    if isinstance(spec.input, Frame):
        return {"frame": {key: v for key, v in spec.input.settings.items() if key != "notify"}}
    return {"spec": str(spec.job_file)}


def _resolved(spec: JobSpec) -> JsonObject:
    """Returns the settings of this run, with defaults and command line options.

    run.json keeps them, because the job file may change tomorrow. The addresses under `notify:` are
    left out: they may be secrets.
    """
    said = asdict(replace(spec, lines={}, notify=None))
    for left_out in ("source", "lines", "notify"):
        del said[left_out]
    return {key: str(value) if isinstance(value, Input) else value for key, value in said.items()}


@contextlib.contextmanager
def _rehearsal(spec: JobSpec, variables: list[str], folder: RunFolder) -> Iterator[Access]:
    """Starts a sandbox for this run, which publishes the job's workflow.

    Raises:
        EngineAway: when the sandbox does not start.
    """
    book = folder.path / "sandbox-book.sqlite"
    try:
        shape = sample_shape(spec.columns)
        with spawned_sandbox(spec.workflow, variables, book, start_python, shape) as spawned:
            yield Access(spawned.url, spawned.key, SANDBOX_HOST)
    except DidNotStart as error:
        raise EngineAway(
            f"The sandbox did not start: {error}. Nothing was sent. Run `pipeline sandbox` to see "
            "whether it starts on its own."
        ) from None


def _reserve_bytes(concurrency: int) -> int:
    """Returns the disk space to reserve for the requests in flight.

    That is 16 KiB for each one (an answer of a few kilobytes, and SQLite's pages for it), at least
    1 MiB and at most 64 MiB.
    """
    return min(max(concurrency * 16 * 1024, 1024 * 1024), 64 * 1024 * 1024)


def _new_run_id(clock: SystemClock) -> str:
    stamp = datetime.fromtimestamp(clock.wall(), UTC).strftime("%Y%m%dT%H%M%SZ")
    return f"{stamp}-{secrets.token_hex(3)}"
