"""The executor: sends the rows of one run, and records each request before and after it is sent.

Theory of operation
-------------------

One task, the dispatcher, decides when the next row may leave. Worker tasks send the rows. The
executor starts a worker only when none is idle, so it never creates a task per row.

The dispatcher (`_dispatch`) waits for three permits, in this order:

1. A row (`_row_ready`). Rows whose retry is due come first, then the next row of the sheet. The
   executor reads at most one row ahead, so a long sheet needs no more memory than a short one.
2. Room (`_room`): fewer than `concurrency` requests in flight and a request left in `budget`. There
   is room for only one request at a time while the API cannot be reached (`BackOff`), and at first
   if the job's last ten answers were lost (`Breakers.probing`).
3. A slot of the pace (`throttle.slot`).

Then it takes the row from the queue, counts it as in flight and against the budget, and hands it to
an idle worker (`_hand_out`). Nothing queues between the slot and the request, because the pace is
learned from the times at which requests leave.

The worker (`_attempt`) finishes each of these steps before it begins the next one:

1. It makes the intent durable (`ledger.intend`). From now until step 5, a crash leaves the row
   ambiguous. If the run stopped meanwhile, the worker takes the intent back (`ledger.withdraw`),
   since no byte has left.
2. It stamps the request as sent (`throttle.sent`).
3. It sends the body (`engine.send`). A timeout or a lost connection is a `Reply` too.
4. It classifies the reply as an `Outcome` (`_judge`) and passes both to the pace
   (`throttle.landed`). `decide` returns the row's new state, and the seconds until a retry if there
   is one.
5. It makes the outcome durable (`ledger.conclude`). Only then does the budget get a request back
   that was not billed, does the row wait for its retry, and do the listeners hear `AttemptEnded`.

An example: three rows with ``concurrency=1``, ``retries=2`` and ``budget=3``.

    row   reply                   outcome                  decision             budget
    1     200 with a `result`     OK, maybe paid           OK                   3 -> 2
    2     500, the API's JSON     FAILED, retryable        PENDING, again 1 s   2 -> 1 -> 2
    3     connection lost         AMBIGUOUS, maybe paid    AMBIGUOUS            2 -> 1
    2     200 with a `result`     OK, maybe paid           OK                   1 -> 0

Row 2 failed in the API's own words, which is not billed. The budget gets the request back, and
`RowQueue.failed` keeps the row for 1 s and counts one of its two retries. (A 429 is REFUSED:
`RowQueue.refused` makes the row due at once the first time, and no retry is used up.) Row 3 left
while row 2 waited. It may have been billed, so its request stays spent, and no run sends the row
again until the user says so. When its 1 s is over, row 2 takes every step again, with new permits
and another intent. Then no row is left and nothing is in flight: `run` returns None.

A run can end earlier in three ways. In each of them, the executor first saves the outcomes of the
requests in flight, as far as the disk accepts them:

* `stop` sends no more rows and waits up to `drain_s` seconds for the requests in flight.
* `abandon` cancels the requests in flight. Each of their rows is ambiguous (`interrupted`).
* `fail` stops the run after an error, such as a full disk. `run` raises that error at the end.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator
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

# So many rows leave in one turn of the event loop, at most. Thousands of new connections in one
# turn would take seconds, in which no answer is read.
_ROWS_A_TURN = 50
# The run notices within this time that somebody has set the clock.
_LOOK_AT_CLOCK_S = 1.0


def every_row(row: Row) -> bool:
    """Allows every row."""
    return True


@dataclass(kw_only=True, slots=True, eq=False)
class Executor:
    """Sends one stream of rows. Retries a row only if its last request was certainly not paid.

    `concurrency` is the most requests in flight. `retries` is how often a row is retried that
    failed in the API's own words. `budget` is the number of requests that may still be billed, None
    without a limit. `limit_name` is the key of the job file that set it. `until` ends the sending
    before a time of day, None if there is no such time. `allowed` is asked before each request. A
    row that it no longer allows stays as it is.
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
    limit_name: str = "max_paid"
    allowed: Callable[[Row], bool] = every_row
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
        """The number of requests that were handed to a worker and have no durable outcome yet."""
        return self._in_flight

    async def run(self, rows: Iterator[Row], drain_s: float) -> Stopped | None:
        """Sends `rows` until they are finished or something stops the run.

        Returns why the run ended early, or None. After a stop, this waits up to `drain_s` seconds
        for the requests in flight, because they are paid for. Cancelling this coroutine abandons
        them instead.

        Raises:
            StorageFailed: when an intent or an outcome could not be made durable.
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
            # The caller closes the ledger next, so a second cancellation must not end this early.
            await _wholly(self._end(watch))
        if self._error is not None:
            raise self._error
        return self.stopped

    def stop(self, stopped: Stopped) -> None:
        """Sends no more rows. May be called twice: the first reason counts."""
        if self.stopped is not None:
            return
        self.stopped = stopped
        if self._dispatcher is not None:
            self._dispatcher.cancel()
        # `_in_flight` also counts answers that are being saved, such as the one that stops the run.
        self._emit(Stopping(stopped, len(self._sending), self._drain_s))

    def abandon(self) -> None:
        """Stops waiting for answers: the rows in flight become ambiguous. May be called twice."""
        if self._abandoned.is_set():
            return  # a second cancellation would hit tasks that already save their outcome
        self._abandoned.set()
        if self._dispatcher is not None:
            self._dispatcher.cancel()
        for task in self._sending:
            task.cancel()

    def fail(self, error: Exception) -> None:
        """Sends no more rows. `run` raises the first such error after the outcomes are saved."""
        if self._error is None:
            self._error = error
        reason = str(error) if isinstance(error, StorageFailed) else "The runner itself failed."
        self.stop(Stopped(StopCode.STORAGE, reason))

    # -- the dispatcher -------------------------------------------------------------------

    async def _dispatch(self) -> None:
        handed = 0
        while self.stopped is None and await self._row_ready():
            await self._room()
            await self.throttle.slot()
            if self._out_of_time():
                self._stop_in_time()
                return
            self._hand_out(self._queue.take(self.clock.monotonic()))
            handed += 1
            if handed % _ROWS_A_TURN == 0:
                await asyncio.sleep(0)

    async def _watch_clock(self) -> None:
        """Stops the run when the time to send is over, also while the dispatcher waits."""
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
        """Waits for a row that may be sent. Returns False when every row is finished."""
        while not self._queue.ready(self.clock.monotonic()):
            due_at = self._queue.due_at
            if due_at is None and self._in_flight == 0:
                return False
            await self._change(due_at)
        return True

    async def _room(self) -> None:
        """Waits until one more request may be in flight, may be billed, and may be tried."""
        while True:
            if self.budget == 0 and self._in_flight == 0:
                self.stop(
                    Stopped(
                        StopCode.MAX_PAID,
                        f"The run reached `{self.limit_name}`: that many requests may have been "
                        "billed. The remaining rows stay pending.",
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
        """Waits until an attempt ends, or until `until` on the monotonic clock."""
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
        worker = asyncio.current_task()
        assert worker is not None
        while True:
            row = await self._handed.get()
            self._idle -= 1
            try:
                await self._attempt(row, worker)
            except Exception as error:
                self.fail(error)
                self.abandon()  # this outcome could not be saved, so later ones cannot either
            finally:
                self._in_flight -= 1
                self._idle += 1
                self._changed.set()

    async def _attempt(self, row: Row, worker: asyncio.Task[None]) -> None:
        if not self.allowed(row):
            self._not_billed()
            self._queue.finished(row)
            return
        try:
            attempt = await self.ledger.intend(row)
        except StorageFailed as error:
            # Nothing was sent for this row. Other answers may still fit on the disk.
            self._not_billed()
            self.fail(error)
            return
        # Checked again: the disk may have been slow, or somebody set the clock meanwhile.
        if self._out_of_time():
            self._stop_in_time()
        if self.stopped is not None or self._abandoned.is_set():
            await self.ledger.withdraw(attempt)
            self._not_billed()
            return
        self._sent += 1
        nth, leaves_at = self._sent, self.throttle.sent(self.engine.lead_s)
        reply = await self._send(row, leaves_at, worker)
        outcome = _judge(reply)
        self._note_latency(reply, outcome)
        self.throttle.landed(leaves_at, reply, outcome)
        await self._finish_row(attempt, reply, outcome, nth)

    async def _send(self, row: Row, leaves_at: float, worker: asyncio.Task[None]) -> Reply:
        self._sending.add(worker)
        try:
            return await self.engine.send(row.body, leaves_at)
        except asyncio.CancelledError:
            if not self._abandoned.is_set():
                raise
            worker.uncancel()
            return Reply(
                leaves_at,
                self.clock.monotonic(),
                failure=Failure.INTERRUPTED,
                detail="the run ended before the server responded",
            )
        finally:
            self._sending.discard(worker)

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
            self.stop(
                Stopped(StopCode.NOT_SENT, f"The runner cannot reach the API: {reply.detail}")
            )
        elif not was_away:
            self._emit(
                Waiting(
                    f"the runner cannot reach the API ({reply.detail})", self._back_off.next_at()
                )
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
        """Waits until nothing is in flight, `drain_s` is over, or the run is abandoned."""
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
        """Returns when every outcome is saved and every task has ended."""
        await self._landed()
        tasks = [watch, *self._workers, *([self._dispatcher] if self._dispatcher else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _emit(self, event: Event) -> None:
        for listener in self.listeners:
            try:
                listener(event)
            except Exception as error:  # of a log or a caller: outcomes can still be saved
                self.fail(error)


async def _wholly(work: Coroutine[Any, Any, None]) -> None:
    """Returns when `work` is done. A cancellation that comes earlier is raised only then."""
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
    """Classifies the reply. If that fails, the row is ambiguous, because its answer may be paid
    for. The ledger stores the raw body."""
    try:
        return classify(reply)
    except Exception as error:
        message = f"the runner could not read the response ({type(error).__name__}: {error})"
        return Outcome(
            Verdict.AMBIGUOUS, ErrorCode.BAD_RESPONSE, message, reply.status, maybe_paid=True
        )
