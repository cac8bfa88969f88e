"""Requests sent from this process."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from pipeline.client import Client
from pipeline.engines.base import Target, send_at
from pipeline.limits import fit_concurrency
from pipeline.model import Engine, Reply


class LocalEngine:
    """An engine on this process's own event loop; `fits` requests may be in flight."""

    lead_s = 0.0

    def __init__(self, client: Client, fits: int) -> None:
        self._client = client
        self.fits = fits

    async def send(self, body: bytes, at: float) -> Reply:
        return await send_at(self._client, body, at)


@asynccontextmanager
async def local_engine(target: Target, concurrency: int) -> AsyncIterator[Engine]:
    """An engine for at most `concurrency` requests in flight, or as many as fit."""
    async with target.client() as client:
        yield LocalEngine(client, fit_concurrency(concurrency))
