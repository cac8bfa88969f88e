"""The executor: the order of its steps, and how it stops. Ledger and engine are fakes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from itertools import pairwise

import pytest

from pipeline.core.clock import SystemClock
from pipeline.core.errors import StorageFailed
from pipeline.core.events import AttemptEnded, Event, Stopping, Waiting
from pipeline.core.model import (
    Attempt,
    Failure,
    Outcome,
    Reply,
    Row,
    State,
    StopCode,
    Stopped,
    Verdict,
)
from pipeline.policy.cutoff import Cutoff
from pipeline.policy.retry import Breakers
from pipeline.sending.executor import Executor

OK = json.dumps({"success": True, "result": "text"}).encode()
Send = Callable[[bytes], Awaitable[Reply]]


def rows(count: int) -> list[Row]:
    return [Row(n, bytes([n]) * 16, bytes([n]) * 16, 0, b"%d" % n) for n in range(1, count + 1)]


def replied(status: int = 200, body: bytes = OK) -> Reply:
    return Reply(0.0, 1.0, status, {}, body)


def error(status: int, code: str) -> Reply:
    fields = {"error": "no", "success": False, "code": code}
    return replied(status, json.dumps(fields).encode())


async def aside() -> None:
    await asyncio.sleep(0)


class World:
    """A fake engine, ledger and throttle in one, which record each call."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.seen: list[tuple[str, int]] = []
        self.states: dict[int, State] = {}
        self.outcomes: list[Outcome] = []
        self.events: list[Event] = []
        self.most_in_flight = 0
        self._in_flight = 0
        self.broken = False
        self.saving: asyncio.Event | None = None
        self.intending: dict[int, asyncio.Event] = {}
        self.cancellations_while_saving: list[int] = []
        self.lead_s = 0.0
        self.fits = 1_000

    async def send(self, body: bytes, at: float) -> Reply:
        self.seen.append(("send", int(body)))
        self._in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self._in_flight)
        try:
            return await self._send(body)
        finally:
            self._in_flight -= 1

    async def intend(self, row: Row) -> Attempt:
        self.seen.append(("ask", row.number))
        await (self.intending[row.number].wait() if row.number in self.intending else aside())
        self._write("intend", row)
        self.states[row.number] = State.SENDING
        return Attempt(len(self.seen), row.number, row, State.PENDING, None)

    async def conclude(
        self, attempt: Attempt, outcome: Outcome, reply: Reply, state: State
    ) -> None:
        self.seen.append(("save", attempt.row.number))
        task = asyncio.current_task()
        assert task is not None
        self.cancellations_while_saving.append(task.cancelling())
        await (aside() if self.saving is None else self.saving.wait())
        self._write("conclude", attempt.row)
        self.states[attempt.row.number] = state
        self.outcomes.append(outcome)

    async def withdraw(self, attempt: Attempt) -> None:
        self._write("withdraw", attempt.row)
        self.states[attempt.row.number] = attempt.was

    async def slot(self) -> None:
        await asyncio.sleep(0)

    def sent(self, lead_s: float) -> float:
        return 0.0

    def landed(self, ticket: float, reply: Reply, outcome: Outcome) -> None:
        pass

    def listen(self, event: Event) -> None:
        if isinstance(event, AttemptEnded):
            self.seen.append(("tell", event.row.number))
        self.events.append(event)

    def _write(self, what: str, row: Row) -> None:
        if self.broken:
            raise StorageFailed("the disk is full")
        self.seen.append((what, row.number))

    def executor(self, **options: object) -> Executor:
        known = {
            "engine": self,
            "ledger": self,
            "throttle": self,
            "clock": SystemClock(),
            "breakers": Breakers(any_ok=True),
            "concurrency": 4,
            "retries": 2,
            "budget": None,
            "listeners": (self.listen,),
        }
        return Executor(**(known | options))  # type: ignore[arg-type]


async def at_once(body: bytes) -> Reply:
    await asyncio.sleep(0)
    return replied()


def run(world: World, count: int, **options: object) -> Stopped | None:
    async def go() -> Stopped | None:
        return await world.executor(**options).run(iter(rows(count)), drain_s=5)

    return asyncio.run(go())


def test_an_attempt_is_durable_before_it_is_sent_and_its_outcome_before_it_is_reported():
    """Every promise depends on this order."""
    world = World(at_once)
    assert run(world, 20) is None
    for number in range(1, 21):
        steps = [what for what, row in world.seen if row == number]
        assert steps == ["ask", "intend", "send", "save", "conclude", "tell"]
    assert set(world.states.values()) == {State.OK}


def test_no_more_rows_are_in_flight_than_allowed_and_at_most_one_is_read_ahead():
    """A million rows take no more memory than the rows in flight."""
    taken = 0

    def stream():
        nonlocal taken
        for row in rows(50):
            taken += 1
            assert taken - sum(what == "conclude" for what, _ in world.seen) <= 4
            yield row

    async def slowly(body: bytes) -> Reply:
        await asyncio.sleep(0.001)
        return replied()

    world = World(slowly)
    asyncio.run(world.executor(concurrency=3).run(stream(), drain_s=5))
    assert world.most_in_flight == 3


def test_rows_that_may_all_leave_at_once_leave_the_other_work_its_turns():
    """Thousands of new connections in one turn took 11 s, in which no answer was read."""

    class Unpaced(World):
        async def slot(self) -> None:
            pass

    async def go() -> list[int]:
        executor = Unpaced(never).executor(concurrency=200)
        running = asyncio.create_task(executor.run(iter(rows(200)), drain_s=0))
        seen = [0]
        while executor.in_flight < 200:
            await asyncio.sleep(0)
            seen.append(executor.in_flight)
        executor.abandon()
        await running
        return seen

    seen = asyncio.run(go())
    assert max(after - before for before, after in pairwise(seen)) == 50


def test_a_refused_row_is_sent_again_at_once_then_waits_and_uses_up_no_retries():
    """With `retries=0`, ten 429s in a row lose no row, although they hit each of them."""
    denials = 10

    async def limited(body: bytes) -> Reply:
        nonlocal denials
        await asyncio.sleep(0)
        if denials:
            denials -= 1
            return error(429, "rate")
        return replied()

    world = World(limited)
    assert run(world, 3, concurrency=1, retries=0) is None
    sent = [row for what, row in world.seen if what == "send"]
    assert sent[:4] == [1, 1, 2, 2]
    assert len(sent) == 10 + 3
    assert set(world.states.values()) == {State.OK}


async def happened(world: World, what: str, times: int) -> None:
    """Waits until the world has recorded `what` as often as `times`."""
    async with asyncio.timeout(20):
        while sum(one == what for one, _ in world.seen) < times:
            await asyncio.sleep(0.001)


async def never(body: bytes) -> Reply:
    await asyncio.Event().wait()
    raise AssertionError


def test_a_stop_withdraws_unsent_intents_and_waits_for_requests_in_flight():
    """A row whose intent becomes durable after the stop is never sent and costs nothing."""
    release = asyncio.Event()

    async def wait(body: bytes) -> Reply:
        await release.wait()
        return replied()

    async def go() -> tuple[World, Executor]:
        world = World(wait)
        executor = world.executor(concurrency=4, budget=7)
        running = asyncio.create_task(executor.run(iter(rows(9)), drain_s=5))
        world.intending = {3: asyncio.Event(), 4: asyncio.Event()}
        await happened(world, "send", 2)
        await happened(world, "ask", 4)
        executor.stop(Stopped(StopCode.INTERRUPTED, "enough"))
        executor.stop(Stopped(StopCode.MAX_PAID, "the second reason does not stand"))
        for intent in world.intending.values():
            intent.set()
        await happened(world, "withdraw", 2)
        assert not running.done()
        release.set()
        stopped = await running
        assert stopped is not None
        assert stopped.code is StopCode.INTERRUPTED
        return world, executor

    world, executor = asyncio.run(go())
    assert sorted(row for what, row in world.seen if what == "send") == [1, 2]
    assert sorted(row for what, row in world.seen if what == "withdraw") == [3, 4]
    assert world.states == {
        1: State.OK,
        2: State.OK,
        3: State.PENDING,
        4: State.PENDING,
    }
    assert executor.budget == 5  # of seven: two were billed
    [stopping] = [e for e in world.events if isinstance(e, Stopping)]
    assert (stopping.in_flight, stopping.wait_s) == (2, 5)


def test_an_abandoned_run_does_not_send_a_row_whose_intent_was_being_written():
    """A second Ctrl-C comes while the disk is busy. The run would not wait for the answer."""

    async def go() -> World:
        world = World(at_once)
        world.intending = {1: asyncio.Event(), 2: asyncio.Event()}
        running = asyncio.create_task(world.executor(concurrency=2).run(iter(rows(9)), drain_s=60))
        await happened(world, "ask", 2)
        running.cancel()
        await asyncio.sleep(0.01)
        for intent in world.intending.values():
            intent.set()
        with pytest.raises(asyncio.CancelledError):
            await running
        return world

    world = asyncio.run(go())
    assert [row for what, row in world.seen if what == "send"] == []
    assert world.states == {1: State.PENDING, 2: State.PENDING}


def test_the_time_is_checked_again_once_the_intent_is_durable():
    """The disk took a minute, or somebody set the clock. Nothing is sent after --until."""

    class OwnClock:
        now = 1000.0

        def monotonic(self) -> float:
            return self.now

        def wall(self) -> float:
            return self.now

    async def go() -> World:
        clock = OwnClock()
        world = World(at_once)
        world.intending = {1: asyncio.Event()}
        until = Cutoff(1100.0, wall=1000.0, monotonic=1000.0, deadline_s=10.0)
        executor = world.executor(clock=clock, until=until, concurrency=1, budget=3)
        running = asyncio.create_task(executor.run(iter(rows(1)), drain_s=60))
        await happened(world, "ask", 1)
        clock.now = 1095.0
        world.intending[1].set()
        stopped = await running
        assert stopped is not None
        assert stopped.code is StopCode.UNTIL
        assert executor.budget == 3
        return world

    world = asyncio.run(go())
    assert [row for what, row in world.seen if what in ("send", "withdraw")] == [1]
    assert world.states == {1: State.PENDING}


def test_a_place_in_the_budget_is_given_back_when_the_outcome_is_durable():
    """Not earlier: after a crash in between, one request too many could be billed."""

    async def blocked(body: bytes) -> Reply:
        await asyncio.sleep(0)
        return error(400, "request_blocked") if body == b"1" else replied()

    async def go() -> World:
        world = World(blocked)
        world.saving = asyncio.Event()
        executor = world.executor(budget=1)
        running = asyncio.create_task(executor.run(iter(rows(2)), drain_s=5))
        await happened(world, "save", 1)
        await asyncio.sleep(0.05)
        assert executor.budget == 0
        assert sum(what == "ask" for what, _ in world.seen) == 1
        world.saving.set()
        assert await running is None
        return world

    assert asyncio.run(go()).states == {1: State.FAILED, 2: State.OK}


def test_an_intent_that_cannot_be_written_costs_nothing():
    """Its row was not sent."""
    world = World(at_once)
    world.broken = True
    executor = world.executor(budget=4, concurrency=1)
    with pytest.raises(StorageFailed):
        asyncio.run(executor.run(iter(rows(2)), drain_s=5))
    assert executor.budget == 4


def test_an_outcome_that_cannot_be_saved_ends_the_wait_for_the_others():
    """Their outcomes could not be saved either, and each answer may take minutes."""

    async def first_alone(body: bytes) -> Reply:
        return replied() if body == b"1" else await never(body)

    async def go() -> None:
        world = World(first_alone)
        world.saving = asyncio.Event()
        running = asyncio.create_task(world.executor(concurrency=3).run(iter(rows(9)), drain_s=600))
        await happened(world, "send", 3)
        world.broken = True
        world.saving.set()
        async with asyncio.timeout(20):
            with pytest.raises(StorageFailed, match="full"):
                await running

    asyncio.run(go())


def test_a_cancellation_that_comes_while_the_last_outcomes_are_saved_is_not_lost():
    """The caller still gets its CancelledError, after all outcomes are saved."""

    async def go() -> World:
        world = World(never)
        world.saving = asyncio.Event()
        executor = world.executor(concurrency=2)
        running = asyncio.create_task(executor.run(iter(rows(2)), drain_s=0.01))
        await happened(world, "send", 2)
        executor.stop(Stopped(StopCode.INTERRUPTED, "enough"))
        await happened(world, "save", 2)  # after the drain
        running.cancel()
        await asyncio.sleep(0.01)
        assert not running.done()
        world.saving.set()
        with pytest.raises(asyncio.CancelledError):
            await running
        return world

    assert set(asyncio.run(go()).states.values()) == {State.AMBIGUOUS}


def test_an_abandoned_request_is_saved_by_a_task_that_is_no_longer_cancelled():
    """Otherwise each `asyncio.timeout` before the disk would take that cancellation for its own."""
    world = World(never)

    async def go() -> None:
        executor = world.executor(concurrency=2)
        running = asyncio.create_task(executor.run(iter(rows(2)), drain_s=60))
        await happened(world, "send", 2)
        executor.stop(Stopped(StopCode.INTERRUPTED, "enough"))
        executor.abandon()
        await running

    asyncio.run(go())
    assert world.cancellations_while_saving == [0, 0]


def test_a_row_that_is_in_flight_after_the_drain_is_ambiguous_and_recorded():
    """With the code `interrupted`, durably, and with an event."""

    async def never(body: bytes) -> Reply:
        await asyncio.Event().wait()
        raise AssertionError

    async def go() -> World:
        world = World(never)
        executor = world.executor(concurrency=2)
        running = asyncio.create_task(executor.run(iter(rows(5)), drain_s=0.05))
        while len(world.states) < 2:
            await asyncio.sleep(0.001)
        executor.stop(Stopped(StopCode.INTERRUPTED, "enough"))
        await running
        return world

    world = asyncio.run(go())
    assert [o.code for o in world.outcomes] == ["interrupted"] * 2
    assert list(world.states.values()) == [State.AMBIGUOUS] * 2


@pytest.mark.parametrize(
    ("reply", "code"),
    [
        (error(401, "unauthorized"), StopCode.UNAUTHORIZED),
        (error(402, "invalid_billing"), StopCode.INVALID_BILLING),
        (error(404, "workflow_not_found"), StopCode.WORKFLOW_NOT_FOUND),
        (replied(307, b""), StopCode.REDIRECT),
        (Reply(0, 1, failure=Failure.TLS), StopCode.TLS),
    ],
)
def test_an_error_that_concerns_every_row_stops_the_job_at_the_first_one(reply, code):
    """At most the requests that were in flight are sent."""

    async def refuse(body: bytes) -> Reply:
        await asyncio.sleep(0)
        return reply

    world = World(refuse)
    stopped = run(world, 100, concurrency=3)
    assert stopped is not None
    assert stopped.code is code
    assert sum(what == "send" for what, _ in world.seen) <= 3


def test_the_budget_counts_requests_in_flight_and_gets_back_those_that_were_not_billed():
    """Rows that fail without a bill do not use the budget up, so all four paid rows are sent."""

    async def every_second_fails(body: bytes) -> Reply:
        await asyncio.sleep(0)
        return error(400, "request_blocked") if int(body) % 2 else replied()

    world = World(every_second_fails)
    stopped = run(world, 40, budget=4, concurrency=8)
    assert stopped is not None
    assert stopped.code is StopCode.MAX_PAID
    assert list(world.states.values()).count(State.OK) == 4


def test_a_ledger_that_cannot_be_written_ends_the_run_before_anything_more_is_sent():
    """The caller gets the error."""

    async def breaks(body: bytes) -> Reply:
        await asyncio.sleep(0)
        world.broken = int(body) >= 5
        return replied()

    world = World(breaks)
    with pytest.raises(StorageFailed, match="full"):
        run(world, 100, concurrency=2)
    assert sum(what == "send" for what, _ in world.seen) <= 8


def test_an_api_that_cannot_be_reached_gets_one_request_at_a_time():
    """Two hundred rows do not all try to connect."""

    async def away(body: bytes) -> Reply:
        await asyncio.sleep(0)
        now = asyncio.get_running_loop().time()
        return Reply(now, now, failure=Failure.NOT_SENT, detail="refused")

    async def go() -> World:
        world = World(away)
        executor = world.executor(concurrency=50)
        running = asyncio.create_task(executor.run(iter(rows(200)), drain_s=5))
        await asyncio.sleep(1.5)
        knocked = sum(what == "send" for what, _ in world.seen)
        executor.stop(Stopped(StopCode.INTERRUPTED, "enough"))
        await running
        assert knocked <= 52
        return world

    world = asyncio.run(go())
    assert sum(isinstance(event, Waiting) for event in world.events) == 1
    assert {o.verdict for o in world.outcomes} == {Verdict.REFUSED}
    assert set(world.states.values()) == {State.PENDING}


def test_a_run_that_is_cancelled_leaves_no_row_in_flight():
    """Cancelling the coroutine has the same effect as a second Ctrl-C."""

    async def never(body: bytes) -> Reply:
        await asyncio.Event().wait()
        raise AssertionError

    async def go() -> World:
        world = World(never)
        running = asyncio.create_task(world.executor().run(iter(rows(9)), drain_s=60))
        while len(world.states) < 4:
            await asyncio.sleep(0.001)
        await asyncio.sleep(0.01)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        return world

    world = asyncio.run(go())
    assert set(world.states.values()) == {State.AMBIGUOUS}


def test_a_run_that_is_cancelled_several_times_still_saves_the_rows_in_flight():
    """A framework that ends a service cancels more than once, and then the ledger is closed."""

    async def never(body: bytes) -> Reply:
        await asyncio.Event().wait()
        raise AssertionError

    async def go() -> tuple[World, int, int]:
        world = World(never)
        world.saving = asyncio.Event()
        executor = world.executor(concurrency=5)
        before = len(asyncio.all_tasks())
        running = asyncio.create_task(executor.run(iter(rows(9)), drain_s=60))
        while sum(what == "send" for what, _ in world.seen) < 5:
            await asyncio.sleep(0.001)
        for _ in range(3):
            running.cancel()
            await asyncio.sleep(0.01)
            assert not running.done()
        world.saving.set()
        with pytest.raises(asyncio.CancelledError):
            await running
        return world, executor.in_flight, len(asyncio.all_tasks()) - before

    world, in_flight, tasks = asyncio.run(go())
    assert set(world.states.values()) == {State.AMBIGUOUS}
    assert (in_flight, tasks) == (0, 0)


def test_an_error_in_a_listener_ends_the_run_with_that_error():
    """The executor does not hide a bug."""

    def broken(event: Event) -> None:
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        run(World(at_once), 10, listeners=(broken,))
