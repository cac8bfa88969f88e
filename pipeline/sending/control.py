"""The way to end a run from outside of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, TypeVar

from pipeline.core.errors import Interrupted
from pipeline.core.model import StopCode, Stopped
from pipeline.policy.pace import Pace
from pipeline.sending.executor import Executor

T = TypeVar("T")


@dataclass(slots=True)
class Control:
    """The handle with which a signal or another coroutine ends a run.

    Pass it to `run_job`. `stop` ends the run in good order, `abandon` ends it now. It belongs to
    all stages of `run_stages`, and `paces` has the pace of each key for the stage that follows.
    """

    signal_exit: int | None = None
    stopped: Stopped | None = None
    abandoned: bool = False
    paces: dict[str, Pace] = field(default_factory=dict)
    _executor: Executor | None = None
    _starting: asyncio.Task[Any] | None = None
    _leaving: Callable[[], None] | None = None

    async def start(self, starting: Coroutine[Any, Any, T]) -> T:
        """Returns the result of `starting`, unless `stop` is called first.

        Raises:
            Interrupted: when `stop` was called.
        """
        self.check()
        task: asyncio.Task[T] = asyncio.ensure_future(starting)
        self._starting = task
        try:
            return await task
        except asyncio.CancelledError:
            self.check()
            raise
        finally:
            self._starting = None

    def attach(self, executor: Executor) -> None:
        self._executor = executor
        if self.stopped is not None:
            executor.stop(self.stopped)

    def stop(self, message: str, exit_code: int | None = None) -> None:
        """Sends no more rows, waits for the answers in flight, saves them, and ends the run.

        May be called from the event loop at any time, also before the run has begun. The first
        message and the first exit code count.
        """
        self.signal_exit = self.signal_exit or exit_code
        self.stopped = self.stopped or Stopped(StopCode.INTERRUPTED, message)
        if self._starting is not None:
            self._starting.cancel()
        if self._executor is not None:
            self._executor.stop(self.stopped)

    def abandon(self) -> None:
        """Ends the run now: each row in flight becomes ambiguous."""
        self.abandoned = True
        if self._executor is not None:
            self._executor.abandon()
        if self._leaving is not None:
            self._leaving()

    def when_abandoned(self, leave: Callable[[], None]) -> None:
        """Calls `leave` when the run is abandoned, at once if it already is."""
        self._leaving = leave
        if self.abandoned:
            leave()

    def check(self) -> None:
        """Raises if the run has to end. For the time before the first request.

        Raises:
            Interrupted: when `stop` was called.
        """
        if self.stopped is not None:
            raise Interrupted("The run was interrupted before it sent anything.", self.signal_exit)
