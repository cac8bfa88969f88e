"""One thread that owns a SQLite connection and commits whatever has piled up, all at once.

An fsync costs about a millisecond, so a commit for each write would cap a run at some hundred rows
a second. Everything that is submitted while one commit is on its way to the disk shares the next.
"""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections import defaultdict, deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

from pipeline.errors import StorageFailed

T = TypeVar("T")
Operation = Callable[[sqlite3.Connection], T]
_Submitted = tuple[Operation[Any], "Future[Any] | asyncio.Future[Any]"]


class GroupCommit:
    """Runs operations in the order of their submission, each durable before it returns.

    After one commit has failed every later call raises the same error: a second fsync after a
    failed one reports success for data that the kernel has already dropped.
    """

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._queue: deque[_Submitted] = deque()
        self._wake = threading.Condition()
        self._closing = False
        self._failed: BaseException | None = None
        self._thread = threading.Thread(target=self._work, name="ledger", daemon=True)
        self._thread.start()

    def call(self, operation: Operation[T]) -> T:
        """Runs `operation` in the next commit and waits for it; from any thread but the loop's.

        Raises:
            StorageFailed: when the commit did not reach the disk.
        """
        future: Future[T] = Future()
        self._submit(operation, future)
        return future.result()

    async def durably(self, operation: Operation[T]) -> T:
        """The same for a coroutine. A cancelled wait does not cancel the write."""
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._submit(operation, future)
        return await future

    def close(self) -> None:
        """Commits what was submitted, ends the thread and closes the connection."""
        with self._wake:
            self._closing = True
            self._wake.notify()
        self._thread.join()
        self._connection.close()

    def _submit(self, operation: Operation[Any], future: Future[Any] | asyncio.Future[Any]) -> None:
        with self._wake:
            if self._failed:
                raise self._failed
            self._queue.append((operation, future))
            self._wake.notify()

    def _work(self) -> None:
        while True:
            with self._wake:
                while not self._queue and not self._closing:
                    self._wake.wait()
                if not self._queue:
                    return
                batch = list(self._queue)
                self._queue.clear()
            self._commit(batch)

    def _commit(self, batch: list[_Submitted]) -> None:
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            results = [operation(self._connection) for operation, _ in batch]
            self._connection.execute("COMMIT")
        except BaseException as error:
            self._fail(batch, error)
            return
        _settle([(future, result) for (_, future), result in zip(batch, results, strict=True)])

    def _fail(self, batch: list[_Submitted], error: BaseException) -> None:
        failed = error
        if isinstance(error, sqlite3.Error | OSError):
            failed = StorageFailed(
                f"The ledger cannot be written ({error}). Sending has stopped; answers that came "
                "and could not be saved are ambiguous. Mend or make room on the disk, then give "
                "the same command again."
            )
            failed.__cause__ = error
        with self._wake:
            self._failed = failed
            batch = batch + list(self._queue)
            self._queue.clear()
        _settle([(future, failed) for _, future in batch])


def _settle(results: list[tuple[Future[Any] | asyncio.Future[Any], Any]]) -> None:
    """One wake-up of the event loop for the whole batch: each costs a system call."""
    by_loop: defaultdict[Any, list[tuple[asyncio.Future[Any], Any]]] = defaultdict(list)
    for future, result in results:
        if isinstance(future, Future):
            _set(future, result)
        else:
            by_loop[future.get_loop()].append((future, result))
    for loop, settled in by_loop.items():
        if not loop.is_closed():
            loop.call_soon_threadsafe(_set_all, settled)


def _set_all(settled: list[tuple[asyncio.Future[Any], Any]]) -> None:
    for future, result in settled:
        if not future.done():
            _set(future, result)


def _set(future: Future[Any] | asyncio.Future[Any], result: Any) -> None:
    if isinstance(result, BaseException):
        future.set_exception(result)
    else:
        future.set_result(result)
