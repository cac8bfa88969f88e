"""An engine that answers at once, so that only the driver's own work is measured.

`python benchmarks/at_once.py JOB_FILE` runs a job with it.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from measure import ANSWER

from pipeline.core.model import Reply
from pipeline.run.run import run_job
from pipeline.sending.engines import choice

HEADERS = {"content-type": "application/json", "x-ratelimit-limit": "1000000"}


def reply_at_once() -> Reply:
    now = time.monotonic()
    return Reply(now, now, 200, HEADERS, ANSWER)


class InstantEngine:
    """Has the reply as soon as it gets the request."""

    lead_s, fits = 0.0, 1_000_000

    async def send(self, body: bytes, at: float) -> Reply:
        await asyncio.sleep(0)
        return reply_at_once()


@asynccontextmanager
async def instant_engine(*_: Any) -> AsyncIterator[InstantEngine]:
    yield InstantEngine()


def answer_at_once() -> None:
    """Gives every later run of this process the engine that answers at once."""
    choice.open_engine = instant_engine  # type: ignore[assignment]


if __name__ == "__main__":
    answer_at_once()
    sys.exit(run_job(Path(sys.argv[1])).exit_code)
