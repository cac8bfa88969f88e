"""What a run or a check says while the user waits and no row moves."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Timer
from typing import Protocol, TypeAlias

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


class _Timer(Protocol):
    def cancel(self) -> object: ...


CallLater: TypeAlias = Callable[[float, Callable[[], None]], _Timer]


def in_thread(after_s: float, function: Callable[[], None]) -> _Timer:
    """Calls `function` later, where no event loop can."""
    timer = Timer(after_s, function)
    timer.start()
    return timer


@contextmanager
def saying_if_slow(
    tell: Listener, sentence: str, call_later: CallLater = in_thread
) -> Iterator[None]:
    """Says `sentence` if the block is not over after two seconds."""

    def say() -> None:
        with contextlib.suppress(StorageFailed):  # of the log: the work continues
            tell(Notice(sentence))

    timer = call_later(_SLOW_S, say)
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
