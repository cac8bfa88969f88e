"""The worker: one process of a cluster, which sends requests for a driver. Knows nothing of Ray.

The driver, which is the process of the run, hands over requests in batches, each request with the
time at which it may leave. It takes the replies back in batches, when it has room for them. A
network library may deliver a batch twice. The worker sends it once, because a repeat is a second
bill.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import replace
from typing import NamedTuple

from nacl.public import PrivateKey, SealedBox

from pipeline.core.model import Failure, Reply
from pipeline.core.version import __version__
from pipeline.job.access import Access
from pipeline.sending.engines.base import Target
from pipeline.sending.engines.client import Client
from pipeline.sending.engines.process_limits import collect_rarely, fit_concurrency


class BatchedRequest(NamedTuple):
    """One request for a worker. `at`, when it leaves, is on the worker's monotonic clock."""

    number: int
    at: float
    body: bytes


class Landed(NamedTuple):
    """One reply for the driver. Its times are on the worker's monotonic clock."""

    # Not a `Reply` and a number: those take five times as long to pickle and to read.

    number: int
    sent_at: float
    answered_at: float
    status: int | None
    headers: Mapping[str, str]
    body: bytes
    failure: Failure | None
    detail: str


class Hello(NamedTuple):
    """The identity of a worker. Only that worker can read text sealed with `public_key`."""

    version: str
    pid: int
    public_key: bytes


class Worker:
    """The sender of a driver's requests. Sends each batch once, and keeps replies until `take`."""

    def __init__(self) -> None:
        collect_rarely()
        self._private_key = PrivateKey.generate()
        self._client: Client | None = None
        self._seen: set[int] = set()
        self._received: list[int] = []
        self._landed: deque[tuple[int, Reply]] = deque()
        self._notes: list[str] = []
        self._news = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()

    async def hello(self) -> Hello:
        return Hello(__version__, os.getpid(), bytes(self._private_key.public_key))

    async def clock(self) -> float:
        """Returns this machine's monotonic clock, in seconds."""
        return time.monotonic()

    async def open(
        self,
        base_url: str,
        host: str,
        sealed_key: bytes,
        workflow: str,
        deadline_s: float,
        in_flight: int,
    ) -> int:
        """Gets ready to send. Returns how many of `in_flight` requests fit into this process.

        The key arrives sealed, because a cluster stores the arguments of actors in plain text.
        """
        key = SealedBox(self._private_key).decrypt(sealed_key).decode()
        target = Target(Access(base_url, key, host), workflow, deadline_s)
        self._client = target.client(self._notes.append)
        return fit_concurrency(in_flight)

    async def close(self) -> None:
        """Closes the connections in good order."""
        if self._client is not None:
            await self._client.aclose()

    async def send(self, batch: int, requests: list[BatchedRequest]) -> None:
        """Starts each request of a batch, unless the batch came before."""
        if batch in self._seen:
            return
        self._seen.add(batch)
        self._received.append(batch)
        for request in requests:
            task = asyncio.create_task(self._attempt(*request))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def take(
        self, most: int, most_bytes: int, wait_s: float, gather_s: float
    ) -> tuple[list[int], list[Landed]]:
        """Returns the batches received and the replies landed since the last call, oldest first.

        Returns `gather_s` seconds after a reply is there, or after `wait_s` without one, which
        shows the driver that this process is alive. Returns at most `most` replies, and stops
        after the one that reaches `most_bytes`.
        """
        if not self._landed:
            self._news.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await self._news.wait()
        await asyncio.sleep(gather_s)
        received, self._received = self._received, []
        taken: list[Landed] = []
        size = 0
        while self._landed and len(taken) < most and size < most_bytes:
            number, reply = self._landed.popleft()
            size += len(reply.body)
            taken.append(
                Landed(
                    number,
                    reply.sent_at,
                    reply.answered_at,
                    reply.status,
                    reply.headers,
                    reply.body,
                    reply.failure,
                    reply.detail,
                )
            )
        return received, taken

    async def _attempt(self, number: int, at: float, body: bytes) -> None:
        assert self._client is not None
        reply = await self._client.send(body, at)
        if reply.failure and self._notes:  # the log shows the detail of a row that is not ok
            reply = replace(reply, detail=". ".join([reply.detail, *self._notes]))
            self._notes.clear()
        self._landed.append((number, reply))
        self._news.set()
