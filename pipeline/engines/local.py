"""Requests sent from this process."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from pipeline.access import Access
from pipeline.client import Client
from pipeline.model import Engine


@asynccontextmanager
async def local_engine(access: Access, workflow: str, deadline_s: float) -> AsyncIterator[Engine]:
    """An engine on this process's own event loop."""
    async with Client(access, workflow, deadline_s) as client:
        yield client
