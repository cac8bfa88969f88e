"""The engine that sends requests from many processes or machines, through Ray actors.

The plan, the pace and the ledger stay with this process, the driver, so every promise holds as on
one machine. By default Ray repeats calls that it believes have failed, and a repeat is a second
bill. So the workers are actors, never tasks, with `max_restarts=0` and `max_task_retries=0`, and a
worker sends a batch only once, even if it arrives twice.

The driver hands a request over a little before the time at which it may leave. The worker sends it
at that time, so the travel time of a batch does not show in the pace. Replies return only as fast
as the driver asks for them. If a worker dies, its requests in flight may have been paid, so their
rows are ambiguous (`interrupted`).
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine
from itertools import count
from typing import Any, NamedTuple, TypeVar

import ray
from nacl.public import PublicKey, SealedBox

from pipeline.core.errors import EngineAway
from pipeline.core.events import Event, Notice
from pipeline.core.model import Engine, Failure, Reply
from pipeline.core.version import __version__
from pipeline.core.wording import counted
from pipeline.sending.engines.base import Target
from pipeline.sending.engines.body_budget import BodyBudget
from pipeline.sending.engines.ray_cluster import connect, leave, machines, reason_of, signals_kept
from pipeline.sending.engines.ray_head import Head
from pipeline.sending.engines.worker import BatchedRequest, Landed, Worker

T = TypeVar("T")

# One call costs the driver as much as a hundred rows. So requests and replies are gathered for a
# moment in both directions. The lead makes up for it in requests, and answers take seconds anyway.
LEAD_S, GATHER_S = 0.03, 0.01
WORKERS = 2
START_S = 60.0
_CLOSE_S = 2.0
# A worker without replies says so within the first time. After the second it counts as dead.
TAKE_S, LOST_AFTER_S = 5.0, 30.0
TAKE_MOST, TAKE_BYTES = 2_000, 8 * 1024 * 1024

_SMALLEST_BATCH = 16
_SHUNNED_S = 10.0
_AGAIN_MIN_S, _AGAIN_MAX_S, _LIVED_S = 1.0, 30.0, 60.0
_CLOCK_EVERY_S, _CLOCKS_KEPT, _CLOCKS_AT_FIRST = 5.0, 12, 5


class _WaitingRequest(NamedTuple):
    """A request whose reply the executor waits for. `at`, when it leaves, is on this machine's
    monotonic clock."""

    at: float
    body: bytes
    reply: asyncio.Future[Reply]


class WorkerClock:
    """How far a worker's monotonic clock is ahead of ours, in seconds.

    The estimate comes from the recent look with the shortest round trip.
    """

    def __init__(self) -> None:
        self._looks: deque[tuple[float, float]] = deque(maxlen=_CLOCKS_KEPT)
        self.ahead_s = 0.0
        self.looked_at = -math.inf

    def look(self, asked_at: float, theirs: float, now: float) -> None:
        """Takes a reading: their clock was `theirs` at some time between `asked_at` and `now`."""
        self._looks.append((now - asked_at, theirs - (asked_at + now) / 2))
        self.ahead_s = min(self._looks)[1]
        self.looked_at = now


class Lost(Exception):
    """A worker counts as dead."""


async def _heard(asking: Coroutine[Any, Any, T]) -> T:
    """Returns the result of a call to a worker.

    Counts the seconds one by one instead of reading a clock: a driver that stood still (Ctrl-Z, a
    suspended machine) wakes up with a result that it has not read yet. The worker was not silent.

    Raises:
        Lost: when there is no result for so long that the worker counts as dead.
    """
    answer = asyncio.ensure_future(asking)
    try:
        for _ in range(int(LOST_AFTER_S)):
            done, _ = await asyncio.wait({answer}, timeout=1.0)
            if done:
                return answer.result()
    finally:
        answer.cancel()
    raise Lost(f"it did not respond for {LOST_AFTER_S:.0f} s")


class Sender:
    """One actor as the driver sees it: the batches it was given, and the replies still open."""

    def __init__(self) -> None:
        self.actor: Any = None
        self.name = ""
        self.fits = 0
        self.clock = WorkerClock()
        self.waiting: dict[int, _WaitingRequest] = {}
        self.unreceived: dict[int, float] = {}
        self.shunned_until = -math.inf
        self.started_at = time.monotonic()

    async def open(self, target: Target, in_flight: int) -> None:
        """Gives the actor everything that it needs to send: target, sealed key and limits.

        Raises:
            EngineAway: when the cluster has another version of this package.
        """
        hello = await self.actor.hello.remote()
        self.name = f"worker {hello.pid}"
        if hello.version != __version__:
            raise EngineAway(
                f"The Ray cluster has pipeline {hello.version} installed, but this machine has "
                f"{__version__}. Nothing was sent. Install the same version on all machines."
            )
        for _ in range(_CLOCKS_AT_FIRST):
            await self.look_at_clock()
        access = target.access
        sealed = SealedBox(PublicKey(hello.public_key)).encrypt(access.key.encode())
        self.fits = await self.actor.open.remote(
            access.base_url, access.host, sealed, target.workflow, target.deadline_s, in_flight
        )

    async def look_at_clock(self) -> None:
        asked_at = time.monotonic()
        theirs = await self.actor.clock.remote()
        self.clock.look(asked_at, theirs, time.monotonic())

    def hand(self, batch: int, numbered: dict[int, _WaitingRequest]) -> None:
        """Gives the actor a batch, without waiting for anything."""
        self.waiting.update(numbered)
        self.unreceived[batch] = time.monotonic()
        ahead_s = self.clock.ahead_s
        requests = [BatchedRequest(n, one.at + ahead_s, one.body) for n, one in numbered.items()]
        try:
            # The result is not needed: `take` returns which batches were received.
            self.actor.send.remote(batch, requests)
        except Exception:  # the batch may be on its way, so its rows must become ambiguous
            self.kill()  # `take` then finds the worker dead

    async def take(self) -> list[Landed]:
        """Returns the next replies, or none if none arrived for a while.

        Raises:
            Lost: when the worker is dead or seems to be.
        """
        asked_at = time.monotonic()
        received, landed = await _heard(self._ask())
        for batch in received:
            self.unreceived.pop(batch, None)
        # Measured up to the call: a driver that had no room for replies did not ask for a while.
        oldest = next(iter(self.unreceived.values()), math.inf)
        if asked_at - oldest > LOST_AFTER_S:
            raise Lost(f"its requests did not reach it within {LOST_AFTER_S:.0f} s")
        return list(landed)

    async def _ask(self) -> tuple[list[int], list[Landed]]:
        if time.monotonic() - self.clock.looked_at > _CLOCK_EVERY_S:
            await self.look_at_clock()
        taken: tuple[list[int], list[Landed]] = await self.actor.take.remote(
            TAKE_MOST, TAKE_BYTES, TAKE_S, GATHER_S
        )
        return taken

    def landed(self, landed: Landed) -> tuple[asyncio.Future[Reply], Reply] | None:
        """Returns the future that waits for this reply, and the reply by our clock.

        Returns None if nothing waits for it any longer.
        """
        waiting = self.waiting.pop(landed.number, None)
        if landed.failure is Failure.NOT_SENT:
            self.shunned_until = time.monotonic() + _SHUNNED_S
        if waiting is None or waiting.reply.done():
            return None
        ahead_s = self.clock.ahead_s
        reply = Reply(
            landed.sent_at - ahead_s,
            landed.answered_at - ahead_s,
            landed.status,
            landed.headers,
            landed.body,
            landed.failure,
            landed.detail,
        )
        return waiting.reply, reply

    def kill(self) -> None:
        """Ends the actor, if the cluster still exists."""
        with contextlib.suppress(Exception):
            ray.kill(self.actor, no_restart=True)

    def lose(self, why: str) -> int:
        """Ends the actor and makes its requests in flight ambiguous. Returns how many there were.

        An actor that only seemed dead could otherwise continue to send.
        """
        self.kill()
        now = time.monotonic()
        lost = [one for one in self.waiting.values() if not one.reply.done()]
        for one in lost:
            detail = f"the {self.name}, which sent this row, was lost ({why})"
            one.reply.set_result(Reply(one.at, now, failure=Failure.INTERRUPTED, detail=detail))
        self.waiting.clear()
        return len(lost)


class RayEngine:
    """An engine on Ray actors. At most `fits` requests may be in flight on all of them together."""

    lead_s = LEAD_S

    def __init__(
        self, target: Target, concurrency: int, workers: int, tell: Callable[[Event], None]
    ) -> None:
        self._target = target
        self._concurrency = concurrency
        self._wanted = workers
        self._tell = tell
        self._actor = ray.remote(
            num_cpus=1, max_restarts=0, max_task_retries=0, scheduling_strategy="SPREAD"
        )(Worker)
        self._senders: list[Sender] = []
        self._gathered: list[_WaitingRequest] = []
        self._numbers = count()
        self._batches = count()
        self._bodies = BodyBudget()
        self._started = asyncio.Event()
        self._trouble = ""
        self._places: list[asyncio.Task[None]] = []

    @property
    def fits(self) -> int:
        return min(sum(sender.fits for sender in self._senders), self._concurrency)

    async def send(self, body: bytes, at: float) -> Reply:
        """Hands `body` to a worker, in a batch with the other requests of this moment."""
        loop = asyncio.get_running_loop()
        waiting = _WaitingRequest(at, body, loop.create_future())
        if not self._gathered:
            loop.call_later(GATHER_S, self._hand_over)
        self._gathered.append(waiting)
        return await waiting.reply

    async def start(self) -> None:
        """Returns once every worker has started, or those that could be started in time.

        Raises:
            EngineAway: when no worker could be started.
        """
        self._places = [asyncio.create_task(self._keep_worker()) for _ in range(self._wanted)]
        try:
            async with asyncio.timeout(START_S):
                while len(self._senders) < self._wanted and not self._trouble:
                    self._started.clear()
                    await self._started.wait()
        except TimeoutError:
            self._trouble = (
                f"The Ray cluster had no room for a worker within {START_S:.0f} s. Each worker "
                "needs one CPU of the cluster. Nothing was sent. Try again later."
            )
        if not self._senders:
            raise EngineAway(self._trouble)
        if len(self._senders) < self._wanted:
            there = counted(len(self._senders), "worker")
            self._tell(
                Notice(
                    f"The Ray cluster started only {there} of {self._wanted}. The run continues "
                    "and adds workers when the cluster has room."
                )
            )

    async def aclose(self) -> None:
        """Ends the workers. Those that still respond close their connections first."""
        with contextlib.suppress(Exception):  # of a cluster that is gone: the replies here are safe
            closing = [sender.actor.close.remote() for sender in self._senders]
            if closing:
                await asyncio.to_thread(
                    ray.wait, closing, num_returns=len(closing), timeout=_CLOSE_S
                )
        for place in self._places:
            place.cancel()
        await asyncio.gather(*self._places, return_exceptions=True)

    async def _keep_worker(self) -> None:
        """Keeps one worker alive: replaces it when it dies, until this is cancelled."""
        pause_s = _AGAIN_MIN_S
        while True:
            sender = Sender()
            try:
                sender.actor = self._actor.remote()
                await self._serve(sender)
            except EngineAway as error:
                self._note_trouble(str(error))
            except Exception as error:  # of any kind: this place still needs another worker
                self._note_end(sender, reason_of(error))
            finally:
                sender.lose("the run ended")
            if time.monotonic() - sender.started_at > _LIVED_S:
                pause_s = _AGAIN_MIN_S
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, _AGAIN_MAX_S)

    async def _serve(self, sender: Sender) -> None:
        """Passes on a worker's replies until the worker is lost."""
        await sender.open(self._target, self._concurrency)
        self._senders.append(sender)
        self._started.set()
        try:
            while True:
                for landed in await sender.take():
                    await self._bring_home(sender, landed)
        finally:
            self._senders.remove(sender)

    async def _bring_home(self, sender: Sender, landed: Landed) -> None:
        """Gives a reply to the `send` that waits for it.

        Waits while too many bytes of other replies are not saved yet. The worker keeps its replies
        meanwhile.
        """
        found = sender.landed(landed)
        if found is None:
            return
        future, reply = found
        share = self._bodies.share()
        await share.grow(len(reply.body))
        share.until_gone(reply)
        if not future.done():
            future.set_result(reply)

    def _hand_over(self) -> None:
        waiting = [one for one in self._gathered if not one.reply.done()]
        self._gathered = []
        if not self._senders:
            now = time.monotonic()
            for one in waiting:
                detail = "no worker of the Ray cluster is alive"
                one.reply.set_result(Reply(now, now, failure=Failure.NOT_SENT, detail=detail))
            return
        size = max(math.ceil(len(waiting) / len(self._senders)), _SMALLEST_BATCH)
        for first in range(0, len(waiting), size):
            numbered = {next(self._numbers): one for one in waiting[first : first + size]}
            self._least_busy().hand(next(self._batches), numbered)

    def _least_busy(self) -> Sender:
        """Returns the worker for the next batch.

        A worker that cannot connect replies fastest, so it must not get all the rows.
        """
        now = time.monotonic()
        return min(
            self._senders,
            key=lambda sender: (
                sender.shunned_until > now,
                len(sender.waiting) >= sender.fits,
                len(sender.waiting),
            ),
        )

    def _note_end(self, sender: Sender, why: str) -> None:
        if not sender.fits:
            self._note_trouble(
                f"The Ray cluster could not start a worker ({why}). That worker sent nothing."
            )
            return
        number = counted(sender.lose(why), "request")
        self._tell(
            Notice(
                f"The {sender.name} was lost ({why}) with {number} in flight. Each may have been "
                "billed, so the runner marks those rows ambiguous (interrupted) and does not retry "
                "them. The other workers continue, and a new one starts."
            )
        )

    def _note_trouble(self, trouble: str) -> None:
        self._trouble = trouble
        self._started.set()


@contextlib.asynccontextmanager
async def ray_engine(
    target: Target,
    concurrency: int,
    *,
    address: str | None,
    workers: int | None,
    tell: Callable[[Event], None],
) -> AsyncIterator[Engine]:
    """Yields an engine of `workers` actors on the cluster at `address`. Without an address, starts
    a new cluster on this machine.

    A program that is already connected to a cluster uses that one, and stays connected.

    Raises:
        EngineAway: when there is no cluster, or no room on it.
    """
    async with contextlib.AsyncExitStack() as stack:
        if not ray.is_initialized():
            head = None if address else _head(workers or WORKERS)
            stack.push_async_callback(asyncio.to_thread, leave, head)
            with signals_kept():
                await asyncio.to_thread(connect, address, head)
        engine = RayEngine(target, concurrency, workers or machines(WORKERS), tell)
        try:
            await engine.start()
            yield engine
        finally:
            await engine.aclose()


def _head(cpus: int) -> Head:
    try:
        return Head(cpus)
    except OSError as error:
        raise EngineAway(
            f"The runner could not start a Ray cluster on this machine ({error.strerror}). Nothing "
            "was sent. Try again later, or send without `engine: ray`."
        ) from None
