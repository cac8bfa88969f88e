"""A worker of a cluster, called as the driver calls it, but in this process without a cluster."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable

import pytest

pytest.importorskip("nacl", reason="the extra ray is not installed")

from nacl.public import PublicKey, SealedBox

from pipeline.core.model import Failure
from pipeline.core.version import __version__
from pipeline.job.access import Access
from pipeline.sending.engines.worker import BatchedRequest, Landed, Worker
from tests.support.servers import Server, ok

WAIT_S = 10.0


def working(
    url: str,
    steps: Callable[[Worker], Awaitable[None]],
    deadline_s: float = 30.0,
    key: bytes = b"sk_sealed",
) -> int:
    """Opens a worker, lets `steps` use it and closes it. Returns how many of 10 requests fit."""

    async def go() -> int:
        worker = Worker()
        hello = await worker.hello()
        sealed = SealedBox(PublicKey(hello.public_key)).encrypt(key)
        access = Access(url, "", "example.com")
        fits = await worker.open(
            access.base_url, access.host, sealed, "wf_story", deadline_s, in_flight=10
        )
        try:
            await steps(worker)
        finally:
            await worker.close()
        return fits

    return asyncio.run(go())


async def taken(worker: Worker, replies: int) -> tuple[list[int], list[Landed]]:
    """Takes batches and replies until `replies` replies are there, and returns both."""
    batches: list[int] = []
    landed: list[Landed] = []
    while len(landed) < replies:
        more, now = await worker.take(100, 1_000_000, WAIT_S, 0.0)
        assert now, "no reply came within the time that the driver waits"
        batches += more
        landed += now
    return batches, landed


def test_a_worker_identifies_itself():
    """By its release, its process and the public key for texts that only it can read."""

    async def go() -> None:
        worker = Worker()
        hello = await worker.hello()
        assert hello.version == __version__
        assert hello.pid == os.getpid()
        assert len(hello.public_key) == 32
        before = time.monotonic()
        assert before <= await worker.clock() <= time.monotonic()
        await worker.close()

    asyncio.run(go())


@pytest.mark.parametrize(("key", "status"), [(b"sk_sandbox", 200), (b"sk_other", 401)])
def test_a_worker_sends_with_the_key_that_was_sealed_for_it(sandbox, key, status):
    """Only that key decides whether the server accepts the request."""

    async def steps(worker: Worker) -> None:
        await worker.send(1, [BatchedRequest(1, 0.0, b'{"story": "a"}')])
        _, landed = await taken(worker, 1)
        assert [one.status for one in landed] == [status]

    working(sandbox.url, steps, key=key)


def test_a_worker_sends_each_request_of_a_batch_and_returns_each_reply():
    """Each reply has the number, times, status, headers and body of its request."""
    with Server(ok) as server:

        async def steps(worker: Worker) -> None:
            begun = time.monotonic()
            requests = [BatchedRequest(n, 0.0, b'{"story": "s %d"}' % n) for n in (5, 7)]
            await worker.send(1, requests)
            batches, landed = await taken(worker, 2)
            assert batches == [1]
            assert {one.number for one in landed} == {5, 7}
            for one in landed:
                assert begun <= one.sent_at <= one.answered_at <= time.monotonic()
                assert one.status == 200
                assert one.headers["content-type"] == "application/json"
                assert f"s {one.number}".encode() in one.body
                assert one.failure is None
                assert one.detail == ""

        assert working(server.url, steps) == 10
        assert server.received == {'{"story": "s 5"}': 1, '{"story": "s 7"}': 1}


def test_a_batch_that_comes_twice_is_sent_once():
    """A network library may repeat a call, and a second request would be a second bill."""
    with Server(ok) as server:

        async def steps(worker: Worker) -> None:
            batch = [BatchedRequest(1, 0.0, b'{"story": "a"}')]
            await worker.send(1, batch)
            await worker.send(1, batch)
            await worker.send(2, [BatchedRequest(2, 0.0, b'{"story": "b"}')])
            batches, landed = await taken(worker, 2)
            assert batches == [1, 2]
            assert sorted(one.number for one in landed) == [1, 2]
            await worker.send(1, batch)
            assert await worker.take(100, 1_000_000, 0.05, 0.0) == ([], [])

        working(server.url, steps)
        assert server.received == {'{"story": "a"}': 1, '{"story": "b"}': 1}


def test_a_request_waits_for_its_time():
    """The driver sets the pace. `at` is on this machine's monotonic clock."""
    with Server(ok) as server:

        async def steps(worker: Worker) -> None:
            at = time.monotonic() + 0.3
            await worker.send(1, [BatchedRequest(1, at, b'{"story": "late"}')])
            assert await worker.take(100, 1_000_000, 0.05, 0.0) == ([1], [])
            assert not server.received
            _, landed = await taken(worker, 1)
            assert landed[0].sent_at >= at

        working(server.url, steps)


def test_replies_are_taken_oldest_first_and_no_more_than_the_driver_has_room_for():
    """By number and by bytes: the reply that exceeds the bytes is the last one."""
    with Server(ok) as server:

        async def steps(worker: Worker) -> None:
            for number in range(4):
                await worker.send(
                    number, [BatchedRequest(number, 0.0, b'{"story": "%d"}' % number)]
                )
                while len(worker._landed) <= number:
                    await asyncio.sleep(0.01)
            size = len(worker._landed[0][1].body)
            received, one = await worker.take(1, 1_000_000, WAIT_S, 0.0)
            assert received == [0, 1, 2, 3]
            assert [landed.number for landed in one] == [0]
            received, two = await worker.take(100, size + 1, WAIT_S, 0.0)
            assert received == []
            assert [landed.number for landed in two] == [1, 2]
            _, last = await worker.take(100, size, WAIT_S, 0.0)
            assert [landed.number for landed in last] == [3]

        working(server.url, steps)


def test_a_call_returns_as_soon_as_a_reply_is_there_and_gathers_those_that_come_at_once():
    """Only a worker without replies waits for the whole time."""
    with Server(ok, latency_s=0.2) as server:

        async def steps(worker: Worker) -> None:
            await worker.send(1, [BatchedRequest(1, 0.0, b'{"story": "a"}')])
            # It would take a minute if the worker did not notice the reply.
            async with asyncio.timeout(WAIT_S):
                _, landed = await worker.take(100, 1_000_000, 60.0, 0.0)
            assert [one.number for one in landed] == [1]
            later = time.monotonic() + 0.1
            await worker.send(2, [BatchedRequest(n, later, b'{"story": "%d"}' % n) for n in (2, 3)])
            _, landed = await worker.take(100, 1_000_000, WAIT_S, 0.3)
            assert sorted(one.number for one in landed) == [2, 3]

        working(server.url, steps)


@pytest.mark.parametrize(
    ("deadline_s", "failure"), [(0.2, Failure.TIMEOUT), (30.0, Failure.DISCONNECTED)]
)
def test_a_worker_reports_how_a_request_ended_without_an_answer(deadline_s, failure):
    """At the driver's deadline, or when the server hangs up."""
    with Server(ok) as server:
        server.holding = True

        async def steps(worker: Worker) -> None:
            await worker.send(1, [BatchedRequest(1, 0.0, b'{"story": "a"}')])
            if failure is Failure.DISCONNECTED:
                while not server.in_flight:
                    await asyncio.sleep(0.01)
                server.hang_up()
            _, landed = await taken(worker, 1)
            assert (landed[0].status, landed[0].failure) == (None, failure)
            assert landed[0].detail

        working(server.url, steps, deadline_s)


def test_a_key_that_was_sealed_for_another_worker_opens_nothing():
    """The worker sends nothing with a key that it cannot read."""

    async def go() -> None:
        other = await Worker().hello()
        sealed = SealedBox(PublicKey(other.public_key)).encrypt(b"sk_sealed")
        with pytest.raises(Exception, match="decrypt"):
            await Worker().open("http://127.0.0.1:9", "example.com", sealed, "wf", 30.0, 10)

    asyncio.run(go())
