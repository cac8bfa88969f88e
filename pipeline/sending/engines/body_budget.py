"""One memory budget for the bodies of all responses.

Thousands of requests in flight may all get megabytes. A body that would exceed the budget is not
read further until others are saved: the server waits, and memory does not grow. One body at a time
may overdraw the budget and finish, because bodies that all wait for one another would wait forever.
"""

from __future__ import annotations

import asyncio
import weakref

MAX_BODIES_BYTES = 256 * 1024 * 1024
# Smaller bodies are not counted: two thousand of them are at most half of the budget.
COUNTED_FROM_BYTES = 64 * 1024


class BodyBudget:
    """The budget of one event loop."""

    def __init__(self, total_bytes: int = MAX_BODIES_BYTES) -> None:
        self._free = total_bytes
        self._overdrawn_by: Share | None = None
        self._waiting: list[asyncio.Future[None]] = []

    @property
    def free_bytes(self) -> int:
        """The bytes that are left. Negative while one body overdraws."""
        return self._free

    def share(self) -> Share:
        """Returns the share of one body, which is empty at first."""
        return Share(self)

    def grant(self, share: Share, more: int) -> bool:
        """Gives `share` another `more` bytes if it may have them now. Returns whether it did."""
        if self._free < more:
            if self._overdrawn_by not in (None, share):
                return False
            self._overdrawn_by = share
        self._free -= more
        return True

    def give_back(self, share: Share, size: int) -> None:
        """Takes `size` bytes back from `share`, and wakes the bodies that wait."""
        self._free += size
        if self._overdrawn_by is share:
            self._overdrawn_by = None
        waiting, self._waiting = self._waiting, []
        for future in waiting:
            if not future.done():
                future.set_result(None)

    async def changed(self) -> None:
        """Returns when a share has given bytes back."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        await future


class Share:
    """The bytes of one body that count against the budget."""

    __slots__ = ("_budget", "size")

    def __init__(self, budget: BodyBudget) -> None:
        self._budget = budget
        self.size = 0

    def may_grow(self, size: int) -> bool:
        """Returns whether the body may be `size` bytes long now. If so, counts them."""
        if size <= max(self.size, COUNTED_FROM_BYTES):
            return True
        if not self._budget.grant(self, size - self.size):
            return False
        self.size = size
        return True

    async def grow(self, size: int) -> None:
        """Waits until the body may be `size` bytes long, and counts them."""
        while not self.may_grow(size):
            await self._budget.changed()

    def shrink(self, size: int) -> None:
        """Gives bytes back after the body was cut to `size` bytes."""
        less, self.size = self.size - size, size
        if less > 0:
            self._budget.give_back(self, less)

    def until_gone(self, holder: object) -> None:
        """Gives the bytes back when `holder` leaves memory, on whichever thread that happens."""
        if self.size:
            loop = asyncio.get_running_loop()
            weakref.finalize(holder, _later, loop, self)


def _later(loop: asyncio.AbstractEventLoop, share: Share) -> None:
    if not loop.is_closed():
        loop.call_soon_threadsafe(share.shrink, 0)
