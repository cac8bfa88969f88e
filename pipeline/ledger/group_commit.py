"""One thread that owns a SQLite connection and commits whatever has piled up, all at once.

An fsync costs about a millisecond, so a commit for each write would cap a run at some hundred rows
a second. Everything that is submitted while one commit is on its way to the disk shares the next.
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

# How long a write waits for another program that holds the ledger's lock, where nothing is at
# stake; and how often a waiting one says so.
PATIENCE_S = 30.0
_SAY_EVERY_S = 30.0
_TRY_EVERY_MS = 500
# Errors of a write or of more room, which SQLite takes back whole, before any fsync. Only the first
# says that the disk is full: the others also stand for a quota that is used up.
_NO_ROOM = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_WRITE, sqlite3.SQLITE_IOERR_SHMSIZE)
_BUSY = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_PROTOCOL)

T = TypeVar("T")
Operation = Callable[[sqlite3.Connection], T]


class _Submitted(NamedTuple):
    operation: Operation[Any]
    future: Future[Any] | asyncio.Future[Any]
    saves: bool


class GroupCommit:
    """Runs operations in the order of their submission, each durable before it returns.

    After one commit has failed every later call raises the same error: a second fsync after a
    failed one reports success for data that the kernel has already dropped. Two errors are other
    matters. On a full disk SQLite takes the whole commit back before any fsync: then `make_room` is
    called once, and from there on only operations that save something paid are carried out. While
    another program holds the ledger's lock nothing is written at all: what a coroutine submitted
    waits for as long as it takes, and `say_blocked` is called in its loop every 30 s with True, and
    once with False when the wait is over.
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
        """Runs `operation` in the next commit and waits for it; from any thread but the loop's.

        Raises:
            StorageFailed: when the commit did not reach the disk.
            LedgerBusy: when another program held the ledger's lock for 30 s. It may be tried again.
        """
        future: Future[T] = Future()
        self._submit([_Submitted(operation, future, False)])
        return future.result()

    async def durably(self, operation: Operation[T], *, saves: bool = False) -> T:
        """The same for a coroutine. A cancelled wait does not cancel the write.

        `saves`: the operation saves something that was paid, so it is tried on a full disk too.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        if not self._gathered:
            loop.call_soon(self._hand_over)
        self._gathered.append(_Submitted(operation, future, saves))
        return await future

    def leave(self, after_s: float = 0.0) -> None:
        """Waits at most `after_s` more for another program's lock. Answers that could not be saved
        by then are lost: their rows are found cut off by the next run."""
        self._leave_at = min(self._leave_at, time.monotonic() + after_s)

    def close(self) -> None:
        """Commits what was submitted, ends the thread and closes the connection."""
        self.leave(PATIENCE_S)
        self._hand_over()
        with self._wake:
            self._closing = True
            self._wake.notify()
        self._thread.join()
        self._connection.close()

    def _hand_over(self) -> None:
        """Gives the thread all that one turn of the loop asked for: each wake-up costs, and the
        more share a commit, the fewer there are.
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
            return RuntimeError("the ledger is closed")  # nobody would ever carry it out
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
        """Takes SQLite's lock, however long another program holds it."""
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
        """Says it in the loop of a coroutine that waits; False where none does."""
        with self._wake:
            loop = _loop_of(batch) or _loop_of(self._queue)
        if loop is None or loop.is_closed():
            return False
        with contextlib.suppress(RuntimeError):  # it was closed just now
            loop.call_soon_threadsafe(self.say_blocked, blocked)
        return True

    def _save_on_a_full_disk(self, batch: list[_Submitted], error: BaseException) -> None:
        """Once there is room again: what saves something is done, the rest is refused."""
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


def is_busy(error: sqlite3.Error) -> bool:
    """Whether another program holds SQLite's lock, so that nothing was read or written."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in _BUSY


def _is_full(error: BaseException) -> bool:
    # What Python's own part of sqlite3 raises, such as for a text that is none, has no code.
    code = getattr(error, "sqlite_errorcode", None)
    return isinstance(error, sqlite3.Error) and code in _NO_ROOM


def _loop_of(submitted: Iterable[_Submitted]) -> asyncio.AbstractEventLoop | None:
    """The event loop of a coroutine that waits for one of them."""
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
    """One wake-up of the event loop for the whole batch: each costs a system call."""
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
