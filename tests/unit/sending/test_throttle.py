"""The wait between requests, on a clock that the test controls."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Coroutine
from datetime import UTC
from email.utils import format_datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.core.clock import SystemClock
from pipeline.core.events import Event, Waiting
from pipeline.core.model import Outcome, Reply, Verdict
from pipeline.policy.pace import Learned, Pace
from pipeline.sending.throttle import PacedThrottle, _retry_after_s

OK = Outcome(Verdict.OK)


class TestLoop(asyncio.SelectorEventLoop):
    """An event loop whose time passes only when no task is ready."""

    __test__ = False

    def __init__(self) -> None:
        super().__init__()
        self.now = 1000.0
        self._select = self._selector.select
        self._selector.select = self._pass  # type: ignore[method-assign]

    def _pass(self, timeout: float | None) -> Any:
        # Always a little: aiolimiter waits again for the rounding error of a wait.
        self.now += max(timeout or 0.0, 1e-6)
        return self._select(0)

    def time(self) -> float:
        return self.now

    def monotonic(self) -> float:
        return self.now

    def wall(self) -> float:
        return self.now


@pytest.fixture
def on_virtual_time():
    """Runs a coroutine that gets the loop, which is also the clock."""
    loop = TestLoop()

    def run(work: Callable[[TestLoop], Coroutine[Any, Any, None]]) -> None:
        loop.run_until_complete(work(loop))

    yield run
    loop.close()


def answer(status: int, **headers: str) -> Reply:
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return Reply(0.0, 0.0, status=status, headers=names)


@pytest.mark.parametrize("rate", [0.5, 50.0, 3000.0])
def test_the_rate_is_kept_to_two_percent(on_virtual_time, rate):
    """At any rate, no time is lost by late wake-ups and no burst is let through."""

    async def work(loop: TestLoop) -> None:
        throttle = PacedThrottle(Pace(fixed=rate), loop)
        await throttle.slot()
        begun, slots = (
            loop.now,
            max(200, int(4 * rate)),
        )  # longer than the 50 ms that the limiter holds
        for _ in range(slots):
            await throttle.slot()
        assert slots / (loop.now - begun) == pytest.approx(rate, rel=0.02)

    on_virtual_time(work)


def test_the_first_request_leaves_at_once_and_the_second_pays_for_its_distance(on_virtual_time):
    """Nothing was sent that it must keep away from: at 50 per hour a run would wait 74 s."""

    async def work(loop: TestLoop) -> None:
        pace = Pace(start=Learned(50, 3600.0, 0.97))
        throttle = PacedThrottle(pace, loop)
        begun = loop.now
        await throttle.slot()
        throttle.sent()
        assert loop.now - begun < 0.01
        await throttle.slot()
        assert loop.now - begun == pytest.approx(72.0 / 0.97, rel=0.02)
        begun = loop.now
        await PacedThrottle(pace, loop).slot()  # the next run of this process
        assert loop.now - begun == pytest.approx(72.0 / 0.97, rel=0.02)
        begun = loop.now
        await PacedThrottle(Pace(fixed=0.1), loop).slot()  # a rate that the user wants
        assert loop.now - begun == pytest.approx(10.0, rel=0.02)

    on_virtual_time(work)


def test_a_new_price_counts_within_one_bite(on_virtual_time):
    """A rate that changes during the wait for a slot changes the rest of the price."""

    async def work(loop: TestLoop) -> None:
        pace = Pace(fixed=0.01)
        throttle = PacedThrottle(pace, loop)
        waiting = asyncio.create_task(throttle.slot())
        await asyncio.sleep(10.0)
        pace.fixed = 10.0
        begun = loop.now
        await waiting
        assert loop.now - begun < 0.3

    on_virtual_time(work)


def test_a_pause_that_begins_during_the_wait_for_a_slot_counts(on_virtual_time):
    """Two 429s that arrive while the dispatcher waits also delay the request that it waits for."""

    async def work(loop: TestLoop) -> None:
        throttle = PacedThrottle(Pace(fixed=1.0), loop)
        await throttle.slot()
        tickets = []
        for _ in range(2):
            tickets.append(throttle.sent())
            await asyncio.sleep(0.01)
        waiting = asyncio.create_task(throttle.slot())
        await asyncio.sleep(0.1)
        for ticket in tickets:
            throttle.landed(ticket, answer(429, retry_after="7"), OK)
        begun = loop.now
        await waiting
        assert loop.now - begun == pytest.approx(7.0, abs=0.3)

    on_virtual_time(work)


THE_DATE = "Wed, 21 Oct 2015 07:28:00 GMT"
AT = 1_445_412_480.0


@pytest.mark.parametrize(
    ("headers", "pause_s"),
    [
        ({"retry_after": "7"}, 7.0),
        ({"retry_after": " 7 "}, 7.0),
        ({"retry_after": "3600"}, 300.0),
        ({"retry_after": "-5"}, 0.2),
        ({"retry_after": "0"}, 0.2),
        ({"retry_after": "nan"}, 0.2),
        ({"retry_after": "9" * 5000}, 0.2),
        # dates: by the response's own Date, else by this machine's clock, which shows 07:27:00
        ({"retry_after": THE_DATE}, 60.0),
        ({"retry_after": THE_DATE, "date": "Wed, 21 Oct 2015 07:27:40 GMT"}, 20.0),
        ({"retry_after": THE_DATE, "date": "Wed, 21 Oct 2015 08:27:40 +0100"}, 20.0),
        ({"retry_after": THE_DATE, "date": "just now"}, 60.0),
        ({"retry_after": "Wednesday, 21-Oct-15 07:28:00 GMT"}, 60.0),
        ({"retry_after": "Wed Oct 21 07:28:00 2015"}, 60.0),
        ({"retry_after": "Wed, 21 Oct 2015 07:28:00 -0000"}, 60.0),
        ({"retry_after": "Tue, 20 Oct 2015 07:28:00 GMT"}, 0.2),
        ({"retry_after": "Wed, 21 Oct 2065 07:28:00 GMT"}, 300.0),
        ({"retry_after": "Wed, 99 Foo 2015 07:28:00 GMT"}, 0.2),
        ({"retry_after": "Fri, 31 Dec 9999 23:59:59 -2359"}, 300.0),
        ({"retry_after": f"{THE_DATE}, {THE_DATE} " + "x" * 60_000}, 0.2),
    ],
)
def test_retry_after_is_read_as_seconds_and_as_a_date_and_clamped(
    on_virtual_time, headers, pause_s
):
    """A server can neither stop the run for an hour nor end it with nonsense."""

    async def work(loop: TestLoop) -> None:
        loop.wall = lambda: AT - 60.0  # type: ignore[method-assign]
        throttle = PacedThrottle(Pace(), loop)
        await throttle.slot()
        throttle.landed(throttle.sent(), answer(429, **headers), OK)
        begun = loop.now
        await throttle.slot()
        assert loop.now - begun == pytest.approx(pause_s, abs=0.1)

    on_virtual_time(work)


@settings(max_examples=300)
@given(
    st.one_of(
        st.text(max_size=80),
        st.text(alphabet="0123456789:, -+WedOctGMTJan.", max_size=63),
        st.datetimes().map(lambda at: format_datetime(at.replace(tzinfo=UTC))),
    ),
    st.text(max_size=40),
)
def test_no_retry_after_ends_the_run(retry_after, date):
    """Any header is read as seconds or ignored."""
    seconds = _retry_after_s({"retry-after": retry_after, "date": date}, AT)
    assert seconds is None or 0.0 <= seconds < math.inf


def test_the_user_sees_once_how_long_the_server_asks_to_wait(on_virtual_time):
    """Five minutes without a request need a reason, also after a denial without Retry-After."""
    told: list[Event] = []

    async def work(loop: TestLoop) -> None:
        throttle = PacedThrottle(Pace(), loop, told.append)
        for retry_after in [None] * 25 + ["600"] * 3:
            await throttle.slot()
            ticket = throttle.sent()
            await asyncio.sleep(0.02)
            headers = {} if retry_after is None else {"retry_after": retry_after}
            throttle.landed(ticket, answer(429, **headers), OK)
        waiting = asyncio.create_task(throttle.slot())
        await asyncio.sleep(1.0)
        waiting.cancel()

    on_virtual_time(work)
    plain, asked = told
    assert isinstance(plain, Waiting)
    assert isinstance(asked, Waiting)
    assert "has answered 429" in plain.reason
    assert asked.reason == (
        "the API answered 429 (rate limit) and asks to wait 10 min (Retry-After)"
    )
    assert asked.until_s - plain.until_s > 250


def test_a_wait_that_is_obeyed_for_longer_than_was_said_is_reported_again(on_virtual_time):
    """The first wait is cut to 1.25 windows. The next denial refutes the window, so the whole wait
    counts, and the user must not expect the next try in a second."""
    told: list[Event] = []

    async def work(loop: TestLoop) -> None:
        pace = Pace(limit=50)
        pace._window.window_s = 1.0
        throttle = PacedThrottle(pace, loop, told.append)
        for window_s in (1.0, None, None):
            await throttle.slot()
            ticket = throttle.sent()
            await asyncio.sleep(0.02)
            pace._window.window_s = window_s
            throttle.landed(ticket, answer(429, retry_after="3600"), OK)
        waiting = asyncio.create_task(throttle.slot())
        await asyncio.sleep(1.0)
        waiting.cancel()

    on_virtual_time(work)
    first, again = told
    assert isinstance(first, Waiting)
    assert isinstance(again, Waiting)
    assert first.reason == again.reason
    assert again.until_s - first.until_s > 250


def test_a_long_denial_is_reported_once(on_virtual_time):
    """One event, with the reason and the end of the wait. A pause too short to notice has none."""
    told: list[Event] = []

    async def work(loop: TestLoop) -> None:
        throttle = PacedThrottle(Pace(), loop, told.append)
        for _ in range(40):
            await throttle.slot()
            ticket = throttle.sent()
            await asyncio.sleep(0.02)
            throttle.landed(ticket, answer(429), OK)
        assert throttle.due_at is None

    on_virtual_time(work)
    assert len(told) == 1
    assert isinstance(told[0], Waiting)
    assert "429" in told[0].reason
    assert told[0].until_s > 1000


def test_a_slow_limit_is_reported_once_for_each_wait(on_virtual_time):
    """With one request every few minutes, the user wants to know why the run waits."""
    told: list[Event] = []

    async def work(loop: TestLoop) -> None:
        throttle = PacedThrottle(Pace(fixed=1 / 100), loop, told.append)
        for _ in range(3):
            await throttle.slot()
            throttle.sent()

    on_virtual_time(work)
    assert len(told) == 3


def test_an_answer_without_headers_counts_as_sent(on_virtual_time):
    """It came from a cache or from an error. Both use the rate limit."""

    async def work(loop: TestLoop) -> None:
        pace = Pace(start=Learned(50, 1.0, 1.0))
        throttle = PacedThrottle(pace, loop)
        for status in (200, 500, 404):
            throttle.landed(throttle.sent(), answer(status), OK)
            await asyncio.sleep(0.1)
        assert len(pace._sends) == 3

    on_virtual_time(work)


def test_a_request_that_never_reached_the_limiter_is_not_counted(on_virtual_time):
    """A refused connection does not use the rate limit."""

    async def work(loop: TestLoop) -> None:
        pace = Pace()
        throttle = PacedThrottle(pace, loop)
        throttle.landed(throttle.sent(), Reply(0.0, 0.0), Outcome(Verdict.REFUSED))
        assert len(pace._sends) == 0

    on_virtual_time(work)


def test_a_request_that_left_later_than_its_stamp_counts_from_when_it_left():
    """A worker on another machine reports that. The pace is learned from true send times."""

    async def landed(late_s: float) -> tuple[int, int]:
        pace = Pace()
        throttle = PacedThrottle(pace, SystemClock())
        stamp = throttle.sent(0.0)
        reply = Reply(stamp + late_s, stamp + late_s + 1.0, 200, {}, b"")
        throttle.landed(stamp, reply, OK)
        around = (stamp - 0.001, stamp + 0.001), (stamp + 0.499, stamp + 0.501)
        return tuple(pace._sends.count(*span) for span in around)

    assert asyncio.run(landed(0.5)) == (0, 1)
    assert asyncio.run(landed(0.001)) == (1, 0)
