"""The book of bills. For each request body it counts requests, bills and responses by kind.

A bill is committed before its answer is sent, so no `kill -9` of the sandbox loses the bill of a
sent answer. Nothing is fsynced: the operating system keeps written data, and the book need not
survive a power cut. Only the file knows the bodies, so memory does not grow with them.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import sqlite3
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# The digest has a separate index and is not the primary key. So the bodies stay in the order of
# their arrival, and a new one is appended instead of changing a page in the middle of the file.
_SCHEMA = """
CREATE TABLE IF NOT EXISTS book (
    number INTEGER PRIMARY KEY, digest BLOB NOT NULL UNIQUE,
    workflow TEXT NOT NULL, body TEXT NOT NULL,
    received INTEGER NOT NULL, first_received_at REAL NOT NULL, last_received_at REAL NOT NULL,
    billed INTEGER NOT NULL DEFAULT 0, billed_at REAL, credits INTEGER NOT NULL DEFAULT 0,
    faulted INTEGER NOT NULL DEFAULT 0, answers TEXT NOT NULL DEFAULT '{}',
    result TEXT, citations TEXT
);
"""
_RECEIVE = (
    "INSERT INTO book (digest, workflow, body, received, first_received_at, last_received_at)"
    " VALUES (?1, ?2, ?3, 1, ?4, ?4) ON CONFLICT (digest) DO UPDATE SET received = received + 1,"
    " last_received_at = excluded.last_received_at"
)
_COUNT_ANSWER = (
    "answers = json_set(answers, '$.' || json_quote(?2),"
    " coalesce(json_extract(answers, '$.' || json_quote(?2)), 0) + 1)"
)
_ANSWERED = f"UPDATE book SET {_COUNT_ANSWER} WHERE digest = ?1"
_BILL = (
    f"UPDATE book SET {_COUNT_ANSWER}, billed = billed + 1, billed_at = ?3,"
    " credits = credits + ?4, result = ?5, citations = ?6 WHERE digest = ?1"
    " RETURNING billed"
)
_FAULTED = "UPDATE book SET faulted = faulted + 1 WHERE digest = ? RETURNING faulted"
_LAST_ANSWER = "SELECT result, citations FROM book WHERE digest = ? AND billed_at > ?"
_TOTALS = (
    "SELECT count(*), coalesce(sum(received), 0), coalesce(sum(billed), 0),"
    " coalesce(sum(credits), 0) FROM book"
)
_COLUMNS = (
    "workflow, body, received, first_received_at, last_received_at, billed, billed_at, credits,"
    " answers, result, citations"
)

Row = tuple[Any, ...]
# A statement, its values, and the future that gets its first row (None if no caller waits for it).
Entry = tuple[str, Row, asyncio.Future[Row | None] | None]


@dataclass(frozen=True, slots=True)
class Bill:
    """The cost of a finished run, and the model's text and citations before a fault spoils them."""

    credits: int
    result: str
    citations: list[str] | None


class BookFailed(Exception):
    """An entry was not written, for example because the disk is full."""


class Book:
    """The book in the file at `path`, which is created if it does not exist.

    Use it from one event loop. Entries of the same turn of the loop share one commit.

    Raises:
        ValueError: when the file is not a book or cannot be written.
    """

    def __init__(self, path: Path) -> None:
        try:
            path.touch(mode=0o600)
            self._db = sqlite3.connect(path, isolation_level=None)
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = OFF")
            self._db.executescript(_SCHEMA)
        except (OSError, sqlite3.Error) as error:
            reason = getattr(error, "strerror", None) or error
            raise ValueError(
                f"{path}: cannot be used as a book of bills ({reason}). "
                "Name another file with --book."
            ) from None
        self._path = path
        self._queue: list[Entry] = []

    def receive(self, workflow: str, body: bytes) -> bytes:
        """Counts one request with `body`, and returns the digest that identifies this body."""
        digest = hashlib.blake2b(workflow.encode() + b"\0" + body, digest_size=16).digest()
        self._submit(_RECEIVE, (digest, workflow, body.decode("utf-8", "replace"), time.time()))
        return digest

    def answered(self, digest: bytes, what: str) -> None:
        """Counts one response to this body, such as "200", "429" or "reset"."""
        self._submit(_ANSWERED, (digest, what))

    async def bill(self, digest: bytes, bill: Bill, answer: str) -> None:
        """Writes a bill and its response, and returns once both survive the end of this process.

        Raises:
            BookFailed: when nothing was written and so nothing was billed: the disk is full, or the
                book was emptied after the body arrived.
        """
        citations = None if bill.citations is None else json.dumps(bill.citations)
        # SQLite cannot store a lone surrogate; models that count in UTF-16 can write one.
        result = bill.result.encode("utf-8", "replace").decode()
        values = (digest, answer, time.time(), bill.credits, result, citations)
        if await self._done(_BILL, values) is None:
            raise BookFailed("The body is not in the book.")

    async def count_fault(self, digest: bytes) -> int:
        """Counts one more fault for this body, and returns how many it has met so far."""
        row = await self._done(_FAULTED, (digest,))
        return int(row[0]) if row else 1

    async def find_answer(self, digest: bytes, since: float) -> tuple[str, list[str] | None] | None:
        """Returns text and citations of the body's last billed run, or None if it was not billed
        after `since` (seconds since the epoch)."""
        row = await self._done(_LAST_ANSWER, (digest, since))
        return None if row is None else (row[0], None if row[1] is None else json.loads(row[1]))

    async def reset(self) -> None:
        """Empties the book."""
        await self._done("DELETE FROM book", ())

    async def totals(self) -> dict[str, int]:
        """Returns the number of `bodies`, the times they were `received` and `billed`, and the
        `credits` that they cost."""
        row = await self._done(_TOTALS, ())
        assert row is not None
        return dict(zip(("bodies", "received", "billed", "credits"), row, strict=True))

    def entries(self) -> Iterator[dict[str, Any]]:
        """Yields every body that ever arrived, with its bills, in the order of arrival.

        Times are seconds since the epoch. Only committed entries are included; awaiting `totals`
        first commits the earlier ones.
        """
        reader = sqlite3.connect(f"{self._path.absolute().as_uri()}?mode=ro", uri=True)
        try:
            for row in reader.execute(f"SELECT {_COLUMNS} FROM book ORDER BY number"):
                entry = dict(zip(_COLUMNS.split(", "), row, strict=True))
                citations = entry["citations"]
                yield entry | {
                    "answers": json.loads(entry["answers"]),
                    "citations": None if citations is None else json.loads(citations),
                }
        finally:
            reader.close()

    def close(self) -> None:
        """Closes the file. Entries that no caller awaited may be missing from it."""
        self._db.close()

    async def _done(self, statement: str, values: Row) -> Row | None:
        future: asyncio.Future[Row | None] = asyncio.get_running_loop().create_future()
        self._submit(statement, values, future)
        return await future

    def _submit(
        self, statement: str, values: Row, future: asyncio.Future[Row | None] | None = None
    ) -> None:
        if not self._queue:
            # Commit after all callbacks that are ready now, so that one commit serves all of them.
            asyncio.get_running_loop().call_soon(self._commit)
        self._queue.append((statement, values, future))

    def _commit(self) -> None:
        batch, self._queue = self._queue, []
        try:
            self._db.execute("BEGIN IMMEDIATE")
            rows = [
                self._db.execute(statement, values).fetchone() for statement, values, _ in batch
            ]
            self._db.execute("COMMIT")
        except Exception as error:  # of any kind: the waiting callers must get it
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            _fail(batch, BookFailed(f"The book was not written: {error}"))
            return
        for (_, _, future), row in zip(batch, rows, strict=True):
            if future is not None and not future.done():
                future.set_result(row)


def _fail(batch: list[Entry], error: BookFailed) -> None:
    for _, _, future in batch:
        if future is not None and not future.done():
            future.set_exception(error)
