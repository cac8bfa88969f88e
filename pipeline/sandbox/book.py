"""The book of bills: for each body how often it came, was billed and was answered with what.

A bill is committed before its answer leaves, so that no `kill -9` of the sandbox loses one that
was answered. Power cuts are not its business: the operating system keeps what was written, so
nothing is fsynced. What is known of a body is in the file only: memory stays flat.
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

# The digest has an index of its own: bodies stay in the order in which they came, so that a new
# one is appended instead of dirtying a page somewhere in the middle.
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
# A statement, its values, and who waits for its first row, if anybody does.
Entry = tuple[str, Row, asyncio.Future[Row | None] | None]


@dataclass(frozen=True, slots=True)
class Bill:
    """What a finished run costs and what its model wrote (before any fault spoils it)."""

    credits: int
    result: str
    citations: list[str] | None


class BookFailed(Exception):
    """Something was not written: a full disk, say."""


class Book:
    """The book in the file at `path`; made when it is not there.

    Used from one event loop: what comes within one turn of it is committed together.

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
        """Notes that `body` came; the digest that later entries are made under."""
        digest = hashlib.blake2b(workflow.encode() + b"\0" + body, digest_size=16).digest()
        self._submit(_RECEIVE, (digest, workflow, body.decode("utf-8", "replace"), time.time()))
        return digest

    def answered(self, digest: bytes, what: str) -> None:
        """Notes what the client was answered, such as "200", "429" or "reset"."""
        self._submit(_ANSWERED, (digest, what))

    async def bill(self, digest: bytes, bill: Bill, answer: str) -> None:
        """Notes bill and answer; returns once they would survive the end of this process.

        Raises:
            BookFailed: when they were not written (a full disk, or the book was emptied since
                the body came): then nothing was billed.
        """
        citations = None if bill.citations is None else json.dumps(bill.citations)
        # SQLite takes no lone surrogate; models that count in UTF-16 can write one.
        result = bill.result.encode("utf-8", "replace").decode()
        values = (digest, answer, time.time(), bill.credits, result, citations)
        if await self._done(_BILL, values) is None:
            raise BookFailed("The body is not in the book.")

    async def count_fault(self, digest: bytes) -> int:
        """How often a fault has met this body, this time included."""
        row = await self._done(_FAULTED, (digest,))
        return int(row[0]) if row else 1

    async def find_answer(self, digest: bytes, since: float) -> tuple[str, list[str] | None] | None:
        """Text and citations of the body's last billed run, if it was billed after `since`."""
        row = await self._done(_LAST_ANSWER, (digest, since))
        return None if row is None else (row[0], None if row[1] is None else json.loads(row[1]))

    async def reset(self) -> None:
        """Empties the book."""
        await self._done("DELETE FROM book", ())

    async def totals(self) -> dict[str, int]:
        """Numbers of `bodies`, of times `received` and `billed`, and the `credits` taken."""
        row = await self._done(_TOTALS, ())
        assert row is not None
        return dict(zip(("bodies", "received", "billed", "credits"), row, strict=True))

    def entries(self) -> Iterator[dict[str, Any]]:
        """Every body that ever came, with its bills, in the order of coming.

        Times are seconds since the epoch. Only what is committed is seen: see `totals`, which
        waits for it.
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
        """Closes the file; what was not awaited may be missing from it."""
        self._db.close()

    async def _done(self, statement: str, values: Row) -> Row | None:
        future: asyncio.Future[Row | None] = asyncio.get_running_loop().create_future()
        self._submit(statement, values, future)
        return await future

    def _submit(
        self, statement: str, values: Row, future: asyncio.Future[Row | None] | None = None
    ) -> None:
        if not self._queue:
            # Behind everything that is ready now, so that one commit serves all of it.
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
        except Exception as error:  # whatever it is, those who wait for it have to be told
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
