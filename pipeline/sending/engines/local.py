"""The engine that sends requests from this process."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

from pipeline.core.events import Event, Notice
from pipeline.core.model import Engine, Reply
from pipeline.sending.engines.base import Target
from pipeline.sending.engines.client import Client
from pipeline.sending.engines.process_limits import fit_concurrency


class LocalEngine:
    """An engine on this process's event loop. At most `fits` requests may be in flight."""

    lead_s = 0.0

    def __init__(self, client: Client, fits: int) -> None:
        self._client = client
        self.fits = fits

    def send(self, body: bytes, at: float) -> Coroutine[Any, Any, Reply]:
        return self._client.send(body, at)


@asynccontextmanager
async def local_engine(
    target: Target, concurrency: int, tell: Callable[[Event], None]
) -> AsyncIterator[Engine]:
    """Yields an engine for `concurrency` requests in flight, or fewer if too few files may be open.

    `tell` gets a `Notice` when the connections have something to report.
    """
    async with target.client(lambda message: tell(Notice(message))) as client:
        yield LocalEngine(client, fit_concurrency(concurrency))
