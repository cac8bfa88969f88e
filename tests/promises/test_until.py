"""`--until`: nothing is sent after a time of day, whatever the clocks do."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Iterator
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from pipeline.core.errors import Refused
from pipeline.core.model import Reply, StopCode
from pipeline.core.time_of_day import find_until
from pipeline.policy.cutoff import SEEN, Cutoff
from tests.unit.sending.test_executor import OK, World, rows

BERLIN = ZoneInfo("Europe/Berlin")


@pytest.fixture
def in_berlin() -> Iterator[None]:
    """Sets the time zone to Berlin, where summer time began on 29 March 2026."""
    before = os.environ.get("TZ")
    os.environ["TZ"] = "Europe/Berlin"
    time.tzset()
    yield
    if before is None:
        del os.environ["TZ"]
    else:
        os.environ["TZ"] = before
    time.tzset()


TIMES = [
    ("2026-11-24 02:00:00", "06:00", "2026-11-24 06:00:00"),
    ("2026-11-24 06:00:01", "6:00", "2026-11-25 06:00:00"),
    ("2026-11-24 23:59:59.5", "00:00", "2026-11-25 00:00:00"),
    ("2026-11-24 05:59:58.7", "05:59:59", "2026-11-24 05:59:59"),
    ("2026-12-31 23:00:00", "06:00:30", "2027-01-01 06:00:30"),
    ("2026-03-28 23:00:00", "06:00", "2026-03-29 06:00:00"),
    ("2026-03-29 01:00:00", "02:30", "2026-03-29 03:00:00"),
    ("2026-10-25 01:00:00", "02:30", "2026-10-25 02:30:00"),
]


@pytest.mark.parametrize(("now", "text", "ends"), TIMES)
def test_a_time_of_day_is_the_next_one_that_the_clock_shows(in_berlin, now, text, ends):
    """Today or tomorrow. A time that summer time skips is the moment of the change."""
    began = datetime.fromisoformat(now).replace(tzinfo=BERLIN).timestamp()
    found = datetime.fromtimestamp(find_until(text, began), BERLIN)
    assert found.replace(tzinfo=None) == datetime.fromisoformat(ends)
    assert found.timestamp() > began


def test_a_time_that_the_clock_shows_twice_is_the_next_of_the_two(in_berlin):
    """On 25 October 2026, 02:30 came at 00:30 and at 01:30 UTC."""
    between = datetime.fromisoformat("2026-10-25T00:45:00+00:00").timestamp()
    assert find_until("02:30", between) == between + 45 * 60


@pytest.mark.parametrize("text", ["", "6", "24:00", "06:60", "6am", "06:00:61", "-1:00", "٠٦:٠٠"])
def test_a_text_that_is_not_a_time_of_day_is_refused(text):
    """The message has an example, and nothing is sent."""
    with pytest.raises(Refused, match=r"06:00\. Nothing was sent"):
        find_until(text, 0.0)


def test_the_next_answer_is_expected_within_the_time_of_19_in_20_earlier_ones():
    """Before the first answer the deadline counts. One slow answer in 20 does not end the night."""
    until = Cutoff(1000.0, wall=0.0, monotonic=0.0, deadline_s=300.0)
    assert until.seconds_left_to_send(wall=0.0, monotonic=0.0) == 1000 - 300
    for latency_s in [1.0] * 19 + [250.0]:
        until.answered(latency_s)
    assert until.answer_s == 1.0
    until.answered(260.0)
    assert until.answer_s == 250.0
    for _ in range(SEEN):
        until.answered(20.0)
    assert until.answer_s == 20.0
    for _ in range(SEEN):
        until.answered(500.0)
    assert until.answer_s == 300.0


class SetClock:
    """A clock that is set in the middle of a run."""

    def __init__(self) -> None:
        self.step_s = 0.0

    def monotonic(self) -> float:
        return time.monotonic()

    def wall(self) -> float:
        return time.time() + self.step_s


@pytest.mark.parametrize("step_s", [0.0, -3600.0, 3600.0])
def test_a_clock_that_is_set_sends_no_row_past_the_time(step_s):
    """Set back, it does not make the run longer. Set past the time, it ends the run at once."""
    clock, sent_at = SetClock(), []

    async def send(body: bytes) -> Reply:
        sent_at.append(time.monotonic())
        await asyncio.sleep(0.01)
        return Reply(sent_at[-1], time.monotonic(), 200, {}, OK)

    world = World(send)
    began = time.monotonic()
    until = Cutoff(clock.wall() + 0.6, wall=clock.wall(), monotonic=began, deadline_s=330.0)
    until.answered(0.01)

    async def run() -> None:
        executor = world.executor(clock=clock, concurrency=1, until=until)
        running = asyncio.create_task(executor.run(iter(rows(200)), 5))
        await asyncio.sleep(0.2)
        clock.step_s = step_s
        stopped = await running
        assert stopped is not None
        assert stopped.code is StopCode.UNTIL

    asyncio.run(run())
    last = max(sent_at) - began
    assert last < 0.6
    assert (last < 0.3) == (step_s > 0)


def test_a_wait_for_a_slot_ends_at_the_time_and_the_intent_is_taken_back():
    """A pace that lets nothing through, and a disk that takes longer than the time that is left."""

    async def send(body: bytes) -> Reply:
        raise AssertionError("sent after the time")

    class Slow(World):
        async def slot(self) -> None:
            await asyncio.sleep(self.slot_s)

        async def intend(self, row):  # type: ignore[no-untyped-def]
            await asyncio.sleep(0.5)
            return await super().intend(row)

    async def run(slot_s: float) -> list[str]:
        world = Slow(send)
        world.slot_s = slot_s
        until = Cutoff(
            time.time() + 0.3, wall=time.time(), monotonic=time.monotonic(), deadline_s=330.0
        )
        until.answered(0.01)
        stopped = await world.executor(until=until, concurrency=1).run(iter(rows(2)), 5)
        assert stopped is not None
        assert stopped.code is StopCode.UNTIL
        return [what for what, _ in world.seen]

    assert asyncio.run(run(60.0)) == []
    assert asyncio.run(run(0.0)) == ["ask", "intend", "withdraw"]


def test_a_run_that_is_done_before_the_time_ends_normally():
    """If answers are in flight at that time, the run waits for them and also ends normally."""

    async def send(body: bytes) -> Reply:
        began = time.monotonic()
        await asyncio.sleep(0.3)
        return Reply(began, time.monotonic(), 200, {}, OK)

    async def run() -> object:
        world = World(send)
        until = Cutoff(
            time.time() + 0.2, wall=time.time(), monotonic=time.monotonic(), deadline_s=330.0
        )
        until.answered(0.01)
        return await world.executor(until=until).run(iter(rows(4)), 5)

    assert asyncio.run(run()) is None


def in_seconds(seconds: float) -> tuple[str, float]:
    """Returns a time of day at least `seconds` away, as text and in seconds since 1970."""
    at = datetime.now().replace(microsecond=0) + timedelta(seconds=seconds + 1)
    return at.strftime("%H:%M:%S"), at.timestamp()


def test_nothing_arrives_after_the_time_and_the_same_command_continues(start_sandbox, make_job):
    """Exit 75 and `stopped: until`. The server's book has no later request and each row once."""
    sandbox = start_sandbox(latency="400ms")
    stories = [[f"story {n}"] for n in range(60)]
    job = make_job(sandbox.url, rows=stories, deadline_s=1, rate=8)
    text, ends = in_seconds(4)
    done = job.call("run", "--json", "--until", text)
    assert done.returncode == 75, done.stderr
    assert time.time() < ends + 5
    summary = json.loads(done.stdout)
    assert summary["stopped"] == "until"
    assert summary["exit_code"] == 75
    assert 0 < summary["ok"] < 60
    assert summary["ok"] + summary["pending"] == 60
    assert max(bill["last_received_at"] for bill in sandbox.bills()) < ends
    assert max(bill["billed_at"] for bill in sandbox.bills()) < ends + 1
    assert len(sandbox.bills()) == summary["ok"]
    assert job.run("--rate", "1000")["ok"] == 60
    assert set(sandbox.billed().values()) == {1}


def test_nothing_is_sent_if_less_time_is_left_than_an_answer_takes(start_sandbox, make_job):
    """The deadline counts until an answer is known, then the times of earlier runs. `resume` has
    the option too. A run that has nothing to send is done as usual."""
    sandbox = start_sandbox(latency="4s")
    job = make_job(sandbox.url, rows=[["a"], ["b"]])
    text, _ = in_seconds(60)
    first = json.loads(job.call("resume", "--json", "--until", text).stdout)
    assert (first["stopped"], first["requests"], first["exit_code"]) == ("until", 0, 75)
    job.run("--limit", "1")
    text, _ = in_seconds(3)
    again = json.loads(job.call("run", "--json", "--until", text).stdout)
    assert (again["stopped"], again["requests"]) == ("until", 0)
    assert sandbox.received() == 1
    assert job.run("--limit", "1", "--until", in_seconds(60)[0])["stopped"] is None
