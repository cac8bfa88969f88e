"""A thread that owns a SQLite connection and puts all waiting operations into one commit.

A commit takes about a millisecond (fsync). One for each write would cap a run at a few hundred rows
a second. So all operations that are submitted while one commit is being written share the next.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import sqlite3
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from typing import Any, NamedTuple, TypeVar

from pipeline.core.errors import DiskRefused, LedgerBusy, StorageFailed
from pipeline.ledger.schema import PATIENCE_S, is_busy

# How often `say_blocked` is called while a coroutine waits.
_SAY_EVERY_S = 30.0
_TRY_EVERY_MS = 500
# Errors of a write or of enlarging a file. SQLite rolls the whole commit back, before any fsync.
# Only the first says that the disk is full. The others also stand for a quota that is used up.
_NO_ROOM = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_WRITE, sqlite3.SQLITE_IOERR_SHMSIZE)

T = TypeVar("T")
Operation = Callable[[sqlite3.Connection], T]


class _Submitted(NamedTuple):
    operation: Operation[Any]
    future: Future[Any] | asyncio.Future[Any]
    saves: bool


class GroupCommit:
    """Runs operations in the order of their submission. Each is durable before its call returns.

    After one commit has failed, every later call raises the same error: a second fsync after a
    failed one reports success for data that the kernel has already dropped. There are two
    exceptions.

    * Full disk: SQLite rolls the whole commit back before any fsync. Then `make_room` is called
      once. If it made room, only operations with `saves` are carried out from then on.
    * Lock of another program: SQLite writes nothing. Operations of coroutines wait until the lock
      is free or `leave` ends the wait. Meanwhile `say_blocked` is called in their loop every 30 s
      with True, and once with False after the wait.
    """

    def __init__(
        self, connection: sqlite3.Connection, make_room: Callable[[], bool] = lambda: False
    ) -> None:
        connection.execute(f"PRAGMA busy_timeout = {_TRY_EVERY_MS}")
        self.say_blocked: Callable[[bool], None] = lambda blocked: None
        self._connection = connection
        self._make_room = make_room
        self._leave_at = math.inf
        self._queue: deque[_Submitted] = deque()
        self._gathered: list[_Submitted] = []
        self._wake = threading.Condition()
        self._closing = False
        self._full: StorageFailed | None = None
        self._failed: BaseException | None = None
        self._thread = threading.Thread(target=self._work, name="ledger", daemon=True)
        self._thread.start()

    def call(self, operation: Operation[T]) -> T:
        """Runs `operation` in the next commit and waits for it. Blocks the calling thread.

        Raises:
            StorageFailed: when the commit did not reach the disk.
            LedgerBusy: when another program held the ledger's lock for 30 s. The caller may try
                again.
        """
        future: Future[T] = Future()
        self._submit([_Submitted(operation, future, False)])
        return future.result()

    async def durably(self, operation: Operation[T], *, saves: bool = False) -> T:
        """Does the same for a coroutine. Cancelling the wait does not cancel the write.

        `saves`: the operation is carried out on a full disk too. It saves something that was paid,
        or withdraws an intent.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        if not self._gathered:
            loop.call_soon(self._hand_over)
        self._gathered.append(_Submitted(operation, future, saves))
        return await future

    def leave(self, after_s: float = 0.0) -> None:
        """Limits the wait for another program's lock to `after_s` more seconds.

        Answers that are not saved by then are lost. The next run finds their attempts without an
        outcome."""
        self._leave_at = min(self._leave_at, time.monotonic() + after_s)

    def close(self) -> None:
        """Commits the submitted operations, ends the thread and closes the connection."""
        self.leave(PATIENCE_S)
        self._hand_over()
        with self._wake:
            self._closing = True
            self._wake.notify()
        self._thread.join()
        self._connection.close()

    def _hand_over(self) -> None:
        """Gives the thread all operations that one turn of the event loop submitted.

        Each wake-up of the thread costs time, and larger batches need fewer commits.
        """
        gathered, self._gathered = self._gathered, []
        if gathered:
            self._submit(gathered)

    def _submit(self, batch: list[_Submitted]) -> None:
        with self._wake:
            refused = [(one.future, error) for one in batch if (error := self._refusal(one))]
            if len(refused) < len(batch):
                self._queue.extend(one for one in batch if not self._refusal(one))
                self._wake.notify()
        _resolve(refused)

    def _refusal(self, submitted: _Submitted) -> BaseException | None:
        if self._closing:
            return RuntimeError("the ledger is closed")  # the thread may have ended
        return self._failed or (None if submitted.saves else self._full)

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
            self._begin(batch)
            results = [one.operation(self._connection) for one in batch]
            self._connection.execute("COMMIT")
        except LedgerBusy as error:
            _resolve([(one.future, error) for one in batch])
            return
        except BaseException as error:
            if self._full is None and _is_full(error) and self._make_room():
                self._save_on_a_full_disk(batch, error)
            else:
                self._fail(batch, error)
            return
        _resolve([(one.future, result) for one, result in zip(batch, results, strict=True)])

    def _begin(self, batch: list[_Submitted]) -> None:
        """Begins a transaction, which takes SQLite's lock. Waits while another program holds it.

        Raises:
            LedgerBusy: after 30 s, when no operation of the batch belongs to a coroutine.
            DiskRefused: when `leave` has ended the wait.
        """
        begun = time.monotonic()
        say_at = begun
        while True:
            try:
                self._connection.execute("BEGIN IMMEDIATE")
                break
            except sqlite3.OperationalError as error:
                if not is_busy(error):
                    raise
            now = time.monotonic()
            if now >= self._leave_at:
                raise DiskRefused(
                    "Another program still held the lock of ledger.sqlite when the run had to end. "
                    "Rows whose answers could not be saved are ambiguous."
                )
            if now >= begun + PATIENCE_S and _loop_of(batch) is None:
                raise LedgerBusy()
            if now >= say_at and self._say(batch, True):
                say_at = now + _SAY_EVERY_S
        if say_at > begun:
            self._say(batch, False)

    def _say(self, batch: list[_Submitted], blocked: bool) -> bool:
        """Calls `say_blocked` in the loop of a waiting coroutine. False if no coroutine waits."""
        with self._wake:
            loop = _loop_of(batch) or _loop_of(self._queue)
        if loop is None or loop.is_closed():
            return False
        with contextlib.suppress(RuntimeError):  # the loop was closed just now
            loop.call_soon_threadsafe(self.say_blocked, blocked)
        return True

    def _save_on_a_full_disk(self, batch: list[_Submitted], error: BaseException) -> None:
        """Carries out the operations that save something, and refuses the others. `make_room` has
        made room before."""
        full = _storage_failed(error)
        with self._wake:
            self._full = full
            batch = batch + list(self._queue)
            self._queue.clear()
        if self._connection.in_transaction:
            self._connection.execute("ROLLBACK")
        _resolve([(one.future, full) for one in batch if not one.saves])
        saving = [one for one in batch if one.saves]
        if saving:
            self._commit(saving)

    def _fail(self, batch: list[_Submitted], error: BaseException) -> None:
        failed = _storage_failed(error) if isinstance(error, sqlite3.Error | OSError) else error
        with self._wake:
            self._failed = failed
            batch = batch + list(self._queue)
            self._queue.clear()
        _resolve([(one.future, failed) for one in batch])


def _is_full(error: BaseException) -> bool:
    # Errors of Python's own part of sqlite3, such as for bytes that are no UTF-8, have no code.
    code = getattr(error, "sqlite_errorcode", None)
    return isinstance(error, sqlite3.Error) and code in _NO_ROOM


def _loop_of(submitted: Iterable[_Submitted]) -> asyncio.AbstractEventLoop | None:
    """Returns the event loop of a coroutine that waits for one of `submitted`, or None."""
    futures = (one.future for one in submitted)
    return next((one.get_loop() for one in futures if isinstance(one, asyncio.Future)), None)


def _storage_failed(error: BaseException) -> StorageFailed:
    failed = DiskRefused(
        f"The runner cannot write to ledger.sqlite ({error}) and has stopped sending. Rows whose "
        "answers could not be saved are ambiguous. Repair the disk, or make room on it (a quota "
        "may be used up)."
    )
    failed.__cause__ = error
    return failed


def _resolve(results: list[tuple[Future[Any] | asyncio.Future[Any], Any]]) -> None:
    """Wakes each event loop once for the whole batch: each wake-up costs a system call."""
    by_loop: defaultdict[Any, list[tuple[asyncio.Future[Any], Any]]] = defaultdict(list)
    for future, result in results:
        if isinstance(future, Future):
            _set(future, result)
        else:
            by_loop[future.get_loop()].append((future, result))
    for loop, resolved in by_loop.items():
        if not loop.is_closed():
            loop.call_soon_threadsafe(_set_all, resolved)


def _set_all(resolved: list[tuple[asyncio.Future[Any], Any]]) -> None:
    for future, result in resolved:
        if not future.done():
            _set(future, result)


def _set(future: Future[Any] | asyncio.Future[Any], result: Any) -> None:
    if isinstance(result, BaseException):
        future.set_exception(result)
    else:
        future.set_result(result)
