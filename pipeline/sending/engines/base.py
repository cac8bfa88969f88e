"""What every engine does with one request, and what it needs to know for that."""

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
    """Where requests go. `deadline_s` is the absolute time that one answer may take."""

    access: Access
    workflow: str
    deadline_s: float

    def client(self, tell: Callable[[str], None]) -> Client:
        """A client for it, to be closed. `tell` hears what a person should know."""
        return Client(self.access, self.workflow, self.deadline_s, tell=tell)


async def send_at(client: Client, body: bytes, at: float) -> Reply:
    """One request, which leaves at `at` on this machine's monotonic clock, or now if that is past.

    Raises nothing but cancellation.
    """
    wait_s = at - time.monotonic()
    if wait_s > 0:
        await asyncio.sleep(wait_s)
    return await client.send(body)
