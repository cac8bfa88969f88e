"""The loop: one dispatcher, a fixed set of workers, one stream of rows.

The dispatcher waits, in this order, for a row, for a place in flight and in the budget, and for a
slot of the pace; then it hands the row to an idle worker. The worker makes the intent durable,
stamps the time, sends, and makes the outcome durable. Nothing queues between slot and send: send
times are what the pace is learned from.

No task is made per row, and no row is looked at before there is room for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterator
from dataclasses import dataclass, field
from typing import Any

from pipeline.core.errors import StorageFailed
from pipeline.core.events import AttemptEnded, ConcurrencyBinds, Event, Listener, Stopping, Waiting
from pipeline.core.model import (
    Attempt,
    Clock,
    Engine,
    ErrorCode,
    Failure,
    Ledger,
    Outcome,
    Reply,
    Row,
    StopCode,
    Stopped,
    Throttle,
    Verdict,
)
from pipeline.policy.answer import classify
from pipeline.policy.cutoff import Cutoff
from pipeline.policy.retry import BackOff, Breakers, Decision, decide
from pipeline.policy.row_queue import RowQueue

# A clock that is set while the run waits is noticed within this time.
_LOOK_AT_CLOCK_S = 1.0


@dataclass(kw_only=True, slots=True, eq=False)
class Executor:
    """Sends a stream of rows, each at most once unless its answer proves that it may go again.

    `concurrency` is the most requests in flight. `retries` is how often a row that failed for
    certain goes again. `budget` is how many more requests may be billed, None for any number.
    `until` is when the sending ends, if it does.
    """

    engine: Engine
    ledger: Ledger
    throttle: Throttle
    clock: Clock
    breakers: Breakers
    concurrency: int
    retries: int
    budget: int | None
    listeners: tuple[Listener, ...] = ()
    until: Cutoff | None = None
    stopped: Stopped | None = field(default=None, init=False)
    _back_off: BackOff = field(default_factory=BackOff, init=False)
    _queue: RowQueue = field(default_factory=RowQueue, init=False)
    _handed: asyncio.Queue[Row] = field(default_factory=asyncio.Queue, init=False)
    _workers: list[asyncio.Task[None]] = field(default_factory=list, init=False)
    _idle: int = field(default=0, init=False)
    _in_flight: int = field(default=0, init=False)
    _sent: int = field(default=0, init=False)
    _told_full: bool = field(default=False, init=False)
    _sending: set[asyncio.Task[None]] = field(default_factory=set, init=False)
    _changed: asyncio.Event = field(default_factory=asyncio.Event, init=False)
    _abandoned: asyncio.Event = field(default_factory=asyncio.Event, init=False)
    _dispatcher: asyncio.Task[None] | None = field(default=None, init=False)
    _error: BaseException | None = field(default=None, init=False)
    _drain_s: float | None = field(default=None, init=False)

    # -- for the caller -------------------------------------------------------------------

    @property
    def in_flight(self) -> int:
        """Requests handed out whose outcome is not durable yet."""
        return self._in_flight

    async def run(self, rows: Iterator[Row], drain_s: float) -> Stopped | None:
        """Sends `rows` until they are finished or something stops the run.

        Returns why it ended early, or None. After a stop, requests in flight are waited for up to
        `drain_s`, since they are paid for. Cancelling this coroutine abandons them instead.

        Raises:
            StorageFailed: when an intent or outcome could not be made durable.
        """
        self._queue, self._drain_s = RowQueue(rows), drain_s
        self._dispatcher = asyncio.create_task(self._dispatch())
        watch = asyncio.create_task(self._watch_clock())
        try:
            await asyncio.wait({self._dispatcher})
            watch.cancel()
            await self._drain(drain_s)
            if not self._dispatcher.cancelled():
                self._dispatcher.result()
        finally:
            watch.cancel()
            self.abandon()
            # The ledger is closed after this: a second cancellation must not leave rows behind.
            await _wholly(self._end(watch))
        if self._error is not None:
            raise self._error
        return self.stopped

    def stop(self, stopped: Stopped) -> None:
        """Sends no more rows. The first reason stands. May be called twice."""
        if self.stopped is not None:
            return
        self.stopped = stopped
        if self._dispatcher is not None:
            self._dispatcher.cancel()
        # Not those whose answer is here and being saved: that may be the one that ends the run.
        self._emit(Stopping(stopped, len(self._sending), self._drain_s))

    def abandon(self) -> None:
        """Waits for no answer any more: what is in flight becomes ambiguous."""
        if self._abandoned.is_set():
            return  # a second cancellation would hit the saving of what the first one ended
        self._abandoned.set()
        if self._dispatcher is not None:
            self._dispatcher.cancel()
        for task in self._sending:
            task.cancel()

    def fail(self, error: Exception) -> None:
        """Sends no more rows; `run` raises the first such error once what is in flight is saved."""
        if self._error is None:
            self._error = error
        reason = str(error) if isinstance(error, StorageFailed) else "an error in the runner"
        self.stop(Stopped(StopCode.STORAGE, reason))

    # -- the dispatcher -------------------------------------------------------------------

    async def _dispatch(self) -> None:
        while self.stopped is None and await self._row_ready():
            await self._room()
            await self.throttle.slot()
            if self._out_of_time():
                self._stop_in_time()
                return
            self._hand_out(self._queue.take(self.clock.monotonic()))

    async def _watch_clock(self) -> None:
        """Ends whatever the dispatcher waits for when the time to send is over."""
        while self.until is not None and self.stopped is None:
            if self._queue.holds_any and self._out_of_time():
                self._stop_in_time()
            await asyncio.sleep(min(max(self._seconds_left_to_send(), 0.05), _LOOK_AT_CLOCK_S))

    def _out_of_time(self) -> bool:
        return self.until is not None and self._seconds_left_to_send() <= 0

    def _seconds_left_to_send(self) -> float:
        assert self.until is not None
        now = {"wall": self.clock.wall(), "monotonic": self.clock.monotonic()}
        return self.until.seconds_left_to_send(**now)

    def _stop_in_time(self) -> None:
        assert self.until is not None
        self.stop(self.until.stopped())

    async def _row_ready(self) -> bool:
        """Waits for a row that may be sent. False when every row is finished."""
        while not self._queue.ready(self.clock.monotonic()):
            due_at = self._queue.due_at
            if due_at is None and self._in_flight == 0:
                return False
            await self._change(due_at)
        return True

    async def _room(self) -> None:
        """Waits for a place in flight, in the budget, and while the API is away for a probe."""
        while True:
            if self.budget == 0 and self._in_flight == 0:
                self.stop(
                    Stopped(
                        StopCode.MAX_PAID,
                        "As many requests may have been paid as `max_paid` or `max_paid_per_run` "
                        "allows. The rows that are left stay pending.",
                    )
                )
            most = 1 if self.breakers.probing else self.concurrency
            if self._in_flight >= most or self.budget == 0:
                self._note_full()
                await self._change(None)
            elif (wake_at := self._back_off.shut_until(self.clock.monotonic())) is not None:
                await self._change(wake_at)
            else:
                return

    def _note_full(self) -> None:
        if self._in_flight >= self.concurrency and not self._told_full:
            self._told_full = True
            self._emit(ConcurrencyBinds(self._in_flight))

    async def _change(self, until: float | None) -> None:
        """Waits until something lands, or until `until`."""
        self._changed.clear()
        if until is None:
            await self._changed.wait()
            return
        wait_s = max(until - self.clock.monotonic(), 0.0)
        try:
            async with asyncio.timeout(wait_s):
                await self._changed.wait()
        except TimeoutError:
            pass

    def _hand_out(self, row: Row) -> None:
        self._in_flight += 1
        if self.budget is not None:
            self.budget -= 1
        self._back_off.handed_out(self.clock.monotonic())
        if self._idle < self._handed.qsize() + 1:
            self._workers.append(asyncio.create_task(self._work()))
            self._idle += 1
        self._handed.put_nowait(row)

    # -- the workers ----------------------------------------------------------------------

    async def _work(self) -> None:
        while True:
            row = await self._handed.get()
            self._idle -= 1
            try:
                await self._attempt(row)
            except Exception as error:
                self.fail(error)
                self.abandon()  # an outcome could not be saved: nor could those that come
            finally:
                self._in_flight -= 1
                self._idle += 1
                self._changed.set()

    async def _attempt(self, row: Row) -> None:
        try:
            attempt = await self.ledger.intend(row)
        except StorageFailed as error:
            # Nothing was sent for this row; answers on their way may still find a place.
            self._not_billed()
            self.fail(error)
            return
        # Once more: the disk may have taken its time, or the clock was set meanwhile.
        if self._out_of_time():
            self._stop_in_time()
        if self.stopped is not None or self._abandoned.is_set():
            await self.ledger.withdraw(attempt)
            self._not_billed()
            return
        self._sent += 1
        nth, leaves_at = self._sent, self.throttle.sent(self.engine.lead_s)
        reply = await self._send(row, leaves_at)
        outcome = _judge(reply)
        self._note_latency(reply, outcome)
        self.throttle.landed(leaves_at, reply, outcome)
        await self._finish_row(attempt, reply, outcome, nth)

    async def _send(self, row: Row, leaves_at: float) -> Reply:
        task = asyncio.current_task()
        assert task is not None
        self._sending.add(task)
        try:
            return await self.engine.send(row.body, leaves_at)
        except asyncio.CancelledError:
            if not self._abandoned.is_set():
                raise
            task.uncancel()
            return Reply(
                leaves_at,
                self.clock.monotonic(),
                failure=Failure.INTERRUPTED,
                detail="the run ended before the answer came",
            )
        finally:
            self._sending.discard(task)

    async def _finish_row(self, attempt: Attempt, reply: Reply, outcome: Outcome, nth: int) -> None:
        row = attempt.row
        decision = decide(
            outcome, self._queue.failures(row), self.retries, self._queue.refusals(row)
        )
        await self.ledger.conclude(attempt, outcome, reply, decision.state)
        if not outcome.maybe_paid:
            self._not_billed()
        self._note_reachability(reply)
        self._queue_again(row, outcome, decision)
        self._emit(
            AttemptEnded(
                row,
                outcome,
                decision.state,
                self._in_flight - 1,
                latency_s=reply.answered_at - reply.sent_at,
                again_after_s=decision.again_after_s,
            )
        )
        if outcome.stop is not None:
            self.stop(Stopped(outcome.stop, outcome.message))
        broken = self.breakers.see(outcome, decision.state, nth)
        if broken is not None:
            self.stop(broken)

    def _queue_again(self, row: Row, outcome: Outcome, decision: Decision) -> None:
        if decision.again_after_s is None:
            self._queue.finished(row)
            return
        due_at = self.clock.monotonic() + decision.again_after_s
        if outcome.retryable:
            self._queue.failed(row, due_at)
        else:
            self._queue.refused(row, due_at)

    def _note_reachability(self, reply: Reply) -> None:
        if reply.failure is not Failure.NOT_SENT:
            if reply.failure is not Failure.INTERRUPTED:
                self._back_off.answered(reply.sent_at)
            return
        now = self.clock.monotonic()
        was_away = self._back_off.away
        self._back_off.not_sent(now, reply.sent_at)
        if self._back_off.given_up(now):
            self.stop(Stopped(StopCode.NOT_SENT, f"The API cannot be reached: {reply.detail}"))
        elif not was_away:
            self._emit(
                Waiting(f"the API cannot be reached ({reply.detail})", self._back_off.next_at())
            )

    def _note_latency(self, reply: Reply, outcome: Outcome) -> None:
        worked_on = outcome.verdict is not Verdict.REFUSED
        if self.until is not None and worked_on and reply.failure is not Failure.INTERRUPTED:
            self.until.answered(reply.answered_at - reply.sent_at)

    def _not_billed(self) -> None:
        if self.budget is not None:
            self.budget += 1

    # -- the end --------------------------------------------------------------------------

    async def _drain(self, drain_s: float) -> None:
        """Waits for what is in flight, until `drain_s` is over or nobody wants to wait."""
        landed = asyncio.create_task(self._landed())
        abandoned = asyncio.create_task(self._abandoned.wait())
        try:
            await asyncio.wait(
                {landed, abandoned}, timeout=drain_s, return_when=asyncio.FIRST_COMPLETED
            )
        finally:
            landed.cancel()
            abandoned.cancel()

    async def _landed(self) -> None:
        while self._in_flight:
            await self._change(None)

    async def _end(self, watch: asyncio.Task[None]) -> None:
        """Returns when every outcome is saved and no task is left."""
        await self._landed()
        tasks = [watch, *self._workers, *([self._dispatcher] if self._dispatcher else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _emit(self, event: Event) -> None:
        for listener in self.listeners:
            try:
                listener(event)
            except Exception as error:  # of a log or a caller: what is in flight can be saved
                self.fail(error)


async def _wholly(work: Coroutine[Any, Any, None]) -> None:
    """Returns when `work` is done, however often this is cancelled; the cancellation comes then."""
    task = asyncio.ensure_future(work)
    cancelled = False
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            cancelled = True
    if cancelled:
        raise asyncio.CancelledError
    task.result()


def _judge(reply: Reply) -> Outcome:
    """What the reply says. A body that trips its reader was paid for: it is kept as it came."""
    try:
        return classify(reply)
    except Exception as error:
        message = f"the answer could not be read ({type(error).__name__}: {error})"
        return Outcome(
            Verdict.AMBIGUOUS, ErrorCode.BAD_RESPONSE, message, reply.status, maybe_paid=True
        )
