"""The target of all requests, and the sending of one request, as every engine does it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass

from pipeline.core.model import Reply
from pipeline.job.access import Access
from pipeline.sending.engines.client import Client


@dataclass(frozen=True, slots=True)
class Target:
    """Where requests go. One response may take `deadline_s` seconds in all, however it arrives."""

    access: Access
    workflow: str
    deadline_s: float

    def client(self, tell: Callable[[str], None]) -> Client:
        """Returns a client for it, which the caller closes. `tell` gets notes for the user."""
        return Client(self.access, self.workflow, self.deadline_s, tell=tell)


async def send_at(client: Client, body: bytes, at: float) -> Reply:
    """Sends one request at `at` on this machine's monotonic clock, or now if that is past.

    Raises nothing except cancellation.
    """
    wait_s = at - time.monotonic()
    if wait_s > 0:
        await asyncio.sleep(wait_s)
    return await client.send(body)
