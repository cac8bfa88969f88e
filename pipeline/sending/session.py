"""The part of a run that sends requests, and the work next to it.

While the executor sends, a second task reports the pace, shares it with other runs of the same key
and seals finished answers into parts.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field

from pipeline.core.errors import EngineAway, Interrupted, LedgerBusy
from pipeline.core.events import (
    AttemptEnded,
    Event,
    Listener,
    Notice,
    Paced,
    PaceEnded,
    Stopping,
)
from pipeline.core.model import (
    SANDBOX_HOST,
    Clock,
    Engine,
    ErrorCode,
    Row,
    Sent,
    State,
    StopCode,
    Stopped,
    Sure,
)
from pipeline.job.access import Access
from pipeline.job.spec import JobSpec
from pipeline.ledger import queries
from pipeline.ledger.ledger import SqliteLedger
from pipeline.ledger.schema import PATIENCE_S
from pipeline.policy.cutoff import SEEN, Cutoff
from pipeline.policy.pace import Pace
from pipeline.policy.retry import AMBIGUOUS_IN_A_ROW, Breakers
from pipeline.results.sealing import PART_ROWS, Sealer
from pipeline.sending.control import Control
from pipeline.sending.executor import Executor, every_row
from pipeline.sending.kept_pace import KeptPace, fingerprint, kept_pace
from pipeline.sending.throttle import PacedThrottle

_SEAL_EVERY_S = 30.0
_LOOK_EVERY_S = 0.5


@dataclass(slots=True)
class Sending:
    """The sending of one run's rows. `drain_s` is how long a stop waits for answers, in seconds.
    `allowed` says right before a request whether its row may still be sent."""

    spec: JobSpec
    ledger: SqliteLedger
    sealer: Sealer
    clock: Clock
    control: Control
    tell: Listener
    drain_s: float
    until: Cutoff | None = None
    allowed: Callable[[Row], bool] = every_row
    _tally: _SentSoFar = field(init=False)
    _named_wrong: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        self._tally = _SentSoFar(self.clock)

    @property
    def sent(self) -> Sent:
        """The numbers of requests and of 429s so far. The duration is set when sending ends."""
        tally = self._tally
        return Sent(tally.requests, tally.rate_limited, tally.duration_s)

    async def send(self, access: Access, rows: Iterator[Row], count: int) -> Stopped | None:
        """Sends `rows` until they are finished or the run stops. Returns why it stopped, or None.

        `count` is the number of `rows`. The pace does not spread the last rows for which the limit
        has room.

        A missing engine or an interruption before the first request is such a stop, not an error.

        Raises:
            StorageFailed: when an intent or an outcome could not be made durable.
        """
        try:
            return await self._send(access, rows, count)
        except EngineAway as error:
            return self._not_begun(Stopped(StopCode.NOT_SENT, str(error)))
        except Interrupted:
            assert self.control.stopped is not None
            return self._not_begun(self.control.stopped)

    def _not_begun(self, stopped: Stopped) -> Stopped:
        self.tell(Stopping(stopped, 0))
        return stopped

    async def _send(self, access: Access, rows: Iterator[Row], count: int) -> Stopped | None:
        # Here, because a run without rows to send would spend a third of its time on this import.
        from pipeline.sending.engines.base import Target
        from pipeline.sending.engines.choice import open_engine

        kept = self._kept_pace(access)
        pace = self._pace(access, kept, count)
        throttle = PacedThrottle(pace, self.clock, self.tell)
        begun = self.clock.monotonic()
        if self.until is not None:
            for latency_s in self.ledger.read(queries.answered_in(SEEN)):
                self.until.answered(latency_s)
        target = Target(access, self.spec.workflow, self.spec.deadline_s)
        opening = open_engine(self.spec, target, self.tell)
        async with contextlib.AsyncExitStack() as stack:
            engine = await self.control.start(stack.enter_async_context(opening))
            executor = self._executor(engine, throttle)
            self.control.attach(executor)
            async with self._beside(throttle, kept, executor):
                stopped = await executor.run(rows, self.drain_s)
        self._tally.duration_s = self.clock.monotonic() - begun
        sent, known = self.sent, pace.belief()
        window_s, sure, used = None, None, None
        if known is not None and known.sure is Sure.MEASURED:
            window_s, sure, used = known.window_s, known.sure, known.used
        self.tell(PaceEnded(pace.limit, window_s, used, sent.requests, sent.rate_limited, sure))
        return stopped

    def _pace(self, access: Access, kept: KeptPace | None, rows: int) -> Pace:
        """Returns the pace of the stage before with this key. It knows what that stage has sent,
        which the limit still counts. Without one, returns a pace that begins as the kept one."""
        key = fingerprint(access.host, access.key)
        pace = self.control.paces.get(key)
        if self.spec.rate is not None or pace is None:
            pace = Pace(self.spec.rate, kept.recall(self.clock.wall()) if kept else None)
            if self.spec.rate is None:
                self.control.paces[key] = pace
        pace.begin(rows)
        return pace

    def _executor(self, engine: Engine, throttle: PacedThrottle) -> Executor:
        paid_min, paid_max = self.ledger.read(queries.paid)
        return Executor(
            engine=engine,
            ledger=self.ledger,
            throttle=throttle,
            clock=self.clock,
            breakers=Breakers(
                any_ok=paid_min > 0,
                probing=self.ledger.read(queries.lost_lately(AMBIGUOUS_IN_A_ROW)),
            ),
            concurrency=self._concurrency(engine.fits),
            retries=self.spec.retries,
            budget=self.spec.budget(paid_max),
            limit_name=self.spec.limit_name(paid_max),
            listeners=(self._tally.see, self.tell),
            until=self.until,
            allowed=self.allowed,
        )

    def _concurrency(self, fits: int) -> int:
        if fits < self.spec.concurrency:
            self.tell(
                Notice(
                    f"At most {fits} requests will be in flight, not "
                    f"{self.spec.concurrency}: the machine that sends them allows too few open "
                    "files. To send more at once, raise that limit (`ulimit -n`)."
                )
            )
        return min(fits, self.spec.concurrency)

    def _kept_pace(self, access: Access) -> KeptPace | None:
        """Returns the store of the pace of this key. None for a rehearsal or a fixed rate."""
        if access.host == SANDBOX_HOST or self.spec.rate is not None:
            return None
        return kept_pace(access.host, access.key)

    @contextlib.asynccontextmanager
    async def _beside(
        self, throttle: PacedThrottle, kept: KeptPace | None, executor: Executor
    ) -> AsyncIterator[None]:
        """Calls `_look` twice a second while the block runs, and stores the pace at its end."""
        if kept is not None:
            kept.exchange(throttle.pace, True, self.clock.monotonic(), self.clock.wall())

        sender = asyncio.current_task()

        async def look_again() -> None:
            while True:
                await asyncio.sleep(_LOOK_EVERY_S)
                if sender is not None and sender.cancelling():
                    self.ledger.leave(PATIENCE_S)  # no user is there to close a blocking program
                try:
                    await self._look(throttle, kept, executor)
                except Exception as error:  # of the disk or of a caller's listener
                    executor.fail(error)
                    return

        task = asyncio.create_task(look_again())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            if kept is not None:
                kept.keep(throttle.pace, self.clock.wall())
                kept.close()

    async def _look(
        self, throttle: PacedThrottle, kept: KeptPace | None, executor: Executor
    ) -> None:
        now, pace = self.clock.monotonic(), throttle.pace
        if kept is not None:
            kept.exchange(pace, throttle.due_at is not None, now, self.clock.wall())
        in_flight, due_at = executor.in_flight, throttle.due_at
        known = pace.belief()
        window_s, sure, used = (known.window_s, known.sure, known.used) if known else (None,) * 3
        self.tell(Paced(pace.rate(now), pace.limit, window_s, in_flight, due_at, sure, used))
        self._name_wrong(pace, now)
        if self._tally.seal_due():
            # In another thread, so that the event loop can receive answers meanwhile.
            with contextlib.suppress(LedgerBusy):  # a later call, or the end of the run, seals them
                await asyncio.to_thread(self.sealer.seal_all)

    def _name_wrong(self, pace: Pace, now: float) -> None:
        """Says once that the limit which an earlier run kept was wrong."""
        if self._named_wrong or not pace.kept_was_wrong(now):
            return
        self._named_wrong = True
        assert pace.start is not None
        kept, measured = (
            f"{limit} requests per {window_s:.2g} s"
            for limit, window_s in (
                (pace.start.limit, pace.start.window_s),
                (pace.limit, pace.window_s or 0.0),
            )
        )
        self.tell(
            Notice(
                f"The rate limit that an earlier run measured ({kept}) was wrong or has changed: "
                f"now it is {measured}. The runner uses and keeps the new one."
            )
        )


@dataclass(slots=True)
class _SentSoFar:
    """Counts of the requests that were sent and of the answers that are not sealed yet."""

    clock: Clock
    requests: int = 0
    rate_limited: int = 0
    duration_s: float = 0.0
    _unsealed: int = 0
    _unsealed_since: float = 0.0

    def see(self, event: Event) -> None:
        if not isinstance(event, AttemptEnded):
            return
        self.requests += 1
        self.rate_limited += event.outcome.code == ErrorCode.RATE_LIMITED
        if event.state is State.OK:
            if not self._unsealed:
                self._unsealed_since = self.clock.monotonic()
            self._unsealed += 1

    def seal_due(self) -> bool:
        """Returns whether to seal now. If so, resets the count of unsealed answers."""
        waited_s = self.clock.monotonic() - self._unsealed_since
        if self._unsealed >= PART_ROWS or (self._unsealed and waited_s >= _SEAL_EVERY_S):
            self._unsealed = 0
            return True
        return False
