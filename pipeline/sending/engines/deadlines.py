"""The deadlines of all requests of one client, on one timer.

With thousands of requests in flight, a timer for each takes a tenth of a request's time.
"""

from __future__ import annotations

import asyncio
import math

_TICK_S = 1.0
# A tick that is later than this means that the process stood still, after SIGSTOP or a pause of the
# machine.
_LATE_S = 1.0


class Deadline:
    """The end of one request, on the event loop's clock. Infinite while it is paused."""

    __slots__ = ("due", "timeout")

    def __init__(self, timeout: asyncio.Timeout, due: float) -> None:
        self.timeout = timeout
        self.due = due

    def pause(self) -> float:
        """Stops the time. Returns the seconds that are left, for `resume`."""
        left_s, self.due = self.due - asyncio.get_running_loop().time(), math.inf
        return left_s

    def resume(self, left_s: float) -> None:
        self.due = asyncio.get_running_loop().time() + left_s


class Deadlines:
    """Ends each request `after_s` seconds after its start, or up to one tick later. A tick is a
    second, and a tenth of a deadline below 10 s."""

    def __init__(self, after_s: float) -> None:
        self._after_s = after_s
        self._tick_s = min(_TICK_S, after_s / 10)
        self._running: set[Deadline] = set()
        self._timer: asyncio.TimerHandle | None = None

    def begin(self, timeout: asyncio.Timeout) -> Deadline:
        """Starts the time of a request. `timeout` was made without an end, and ends the
        request when the time is over."""
        loop = asyncio.get_running_loop()
        deadline = Deadline(timeout, loop.time() + self._after_s)
        self._running.add(deadline)
        if self._timer is None:
            self._wait(loop)
        return deadline

    def end(self, deadline: Deadline) -> None:
        """Forgets the deadline of a request that is over."""
        self._running.discard(deadline)

    def close(self) -> None:
        """Stops the timer."""
        if self._timer is not None:
            self._timer.cancel()

    def _wait(self, loop: asyncio.AbstractEventLoop) -> None:
        due = loop.time() + self._tick_s
        self._timer = loop.call_at(due, self._ticked, loop, due)

    def _ticked(self, loop: asyncio.AbstractEventLoop, due: float) -> None:
        """Ends the requests whose time is over.

        A process that stood still has not read the answers that arrived meanwhile, so its deadlines
        move by that time.
        """
        now = loop.time()
        stood_s = now - due if now - due > _LATE_S else 0.0
        for deadline in self._running:
            if deadline.due >= due:
                deadline.due += stood_s
            if deadline.due <= now:
                deadline.due = math.inf
                deadline.timeout.reschedule(now)
        self._timer = None
        if self._running:
            self._wait(loop)
