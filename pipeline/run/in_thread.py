"""Runs a job in a thread with an event loop, while the caller waits for it.

So a call works where an event loop is already running, as in a notebook. The caller's interrupts
end the run as Ctrl-C ends a command: the first one stops sending and waits for the answers in
flight, and the second one leaves now.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, Generic, TypeVar

from pipeline.core.events import Event, Listener
from pipeline.sending.control import Control

T = TypeVar("T")

_LOOKS_EVERY_S = 0.5
_MESSAGE = "Interrupted."


def run_anywhere(run: Coroutine[Any, Any, T], control: Control) -> T:
    """Returns the result of a coroutine. Where an event loop is already running, it works in a
    thread. `control` is that of its run.

    Raises:
        KeyboardInterrupt: as `run_in_thread` does.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(run)
    return run_in_thread(lambda _: run, control)


def run_in_thread(
    work: Callable[[Listener], Coroutine[Any, Any, T]],
    control: Control,
    listener: Listener = lambda event: None,
) -> T:
    """Returns the result of the coroutine that `work` makes. `control` is that of its run.

    `work` gets a listener for the events of the run. `listener` is called with them in the caller's
    thread, so that it can draw in a notebook.

    Raises:
        KeyboardInterrupt: after an interrupt, when the run has ended and its answers are saved.
    """
    thread = _Thread(work)
    reason: BaseException | None = None
    interrupts = 0
    step: Callable[[], None] = thread.start
    while not thread.ended.is_set():
        try:
            step()
            step = partial(thread.listen, listener)
        except KeyboardInterrupt as error:
            interrupts += 1
            thread.call(control.abandon if interrupts > 1 else partial(control.stop, _MESSAGE))
            reason = reason or error
            step = partial(thread.listen, listener)
        except BaseException as error:  # no thread may send on its own, whatever went wrong
            if thread.ident is None:  # the system allows no more threads
                raise
            thread.call(partial(control.stop, _MESSAGE))
            reason = reason or error
            step = partial(thread.listen, lambda _: None)
    thread.join()
    if reason is not None:
        raise reason
    return thread.result()


class _Thread(threading.Thread, Generic[T]):
    """Runs one coroutine in an event loop, and passes its events to another thread."""

    def __init__(self, work: Callable[[Listener], Coroutine[Any, Any, T]]) -> None:
        super().__init__(name="pipeline-run")
        self.ended = threading.Event()
        self._work = work
        self._loop = asyncio.new_event_loop()
        self._events: queue.SimpleQueue[Event | None] = queue.SimpleQueue()
        self._results: list[T] = []
        self._error: BaseException | None = None

    def run(self) -> None:
        try:
            with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
                self._results.append(runner.run(self._work(self._events.put)))
        except BaseException as error:
            self._error = error
        finally:
            self.ended.set()
            self._events.put(None)

    def listen(self, listener: Listener) -> None:
        """Calls `listener` with the events until the coroutine has ended."""
        while True:
            try:
                event = self._events.get(timeout=_LOOKS_EVERY_S)
            except queue.Empty:
                if self.ended.is_set():
                    return
                continue
            if event is None:
                return
            listener(event)

    def call(self, function: Callable[[], None]) -> None:
        """Calls `function` in the event loop, or not at all if that has ended."""
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(function)

    def result(self) -> T:
        if self._error is not None:
            raise self._error
        return self._results[0]
