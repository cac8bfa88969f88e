"""What a run says while the user waits and no row moves."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from pipeline.core.clock import SystemClock
from pipeline.core.errors import StorageFailed
from pipeline.core.events import Listener, Notice, Waiting

ASK_AGAIN_S = 0.5
_SLOW_S = 2.0
PREPARING = "Reading the sheet and checking the ledger. Nothing is sent yet."
CHECKING_AHEAD = (
    "Everything is saved. Checking the ledger, so that the next run does not have to. Ctrl-C "
    "skips the check."
)
_BLOCKED = (
    "another program, such as a database editor or a backup, holds the lock of ledger.sqlite. "
    "Answers wait in memory. Close the ledger in that program"
)


@contextmanager
def saying_if_slow(tell: Listener, sentence: str) -> Iterator[None]:
    """Says `sentence` if the block is not over after two seconds."""

    def say() -> None:
        with contextlib.suppress(StorageFailed):  # of the log: the work continues
            tell(Notice(sentence))

    timer = asyncio.get_running_loop().call_later(_SLOW_S, say)
    try:
        yield
    finally:
        timer.cancel()


def saying_blocked(tell: Listener, clock: SystemClock) -> Callable[[bool], None]:
    """Returns what the ledger calls while another program holds its lock, and after that."""

    def say(blocked: bool) -> None:
        waiting = Waiting(_BLOCKED, clock.monotonic() + ASK_AGAIN_S)
        with contextlib.suppress(StorageFailed):  # of the log: the wait continues
            tell(waiting if blocked else Notice("The ledger is free again. The run continues."))

    return say
