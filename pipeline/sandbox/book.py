"""The book of bills: for each body how often it came, how often it was billed, and with what.

A bill is committed before its answer leaves, so that no `kill -9` of the sandbox loses one that
was answered. Power cuts are not its business: the operating system keeps what was written.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import sqlite3
import threading
import time
from pathlib import Path
from typing import Any

_SCHEMA = """
CREATE TABLE IF NOT EXISTS bodies (
    digest BLOB PRIMARY KEY, workflow TEXT NOT NULL, body TEXT NOT NULL,
    received INTEGER NOT NULL DEFAULT 0, billed INTEGER NOT NULL DEFAULT 0,
    credits INTEGER NOT NULL DEFAULT 0, answers TEXT NOT NULL DEFAULT '{}',
    result TEXT, last_at REAL
) WITHOUT ROWID;
"""


class Book:
    """The book in the file at `path`; made when it is not there."""

    def __init__(self, path: Path) -> None:
        self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = OFF")
        self._db.executescript(_SCHEMA)
        self._wake = threading.Condition()
        self._queue: list[tuple[str, tuple[Any, ...], asyncio.Future[None] | None]] = []
        threading.Thread(target=self._write_forever, daemon=True).start()

    def receive(self, workflow: str, body: bytes) -> bytes:
        """Notes that `body` came; the digest that later entries are made under."""
        digest = hashlib.blake2b(workflow.encode() + b"\0" + body, digest_size=16).digest()
        self._submit(
            "INSERT INTO bodies (digest, workflow, body, received, last_at)"
            " VALUES (?, ?, ?, 1, ?) ON CONFLICT (digest) DO UPDATE SET received = received + 1,"
            " last_at = excluded.last_at",
            (digest, workflow, body.decode("utf-8", "replace"), time.time()),
            None,
        )
        return digest

    async def bill(self, digest: bytes, credits: int, result: str) -> None:
        """Returns once the bill would survive the end of this process."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._submit(
            "UPDATE bodies SET billed = billed + 1, credits = credits + ?, result = ?"
            " WHERE digest = ?",
            (credits, result, digest),
            future,
        )
        await future

    def answered(self, digest: bytes, what: str) -> None:
        """Notes what the client was answered, such as "200" or "429"."""
        self._submit(
            "UPDATE bodies SET answers = json_set(answers, '$.' || json_quote(?1),"
            " coalesce(json_extract(answers, '$.' || json_quote(?1)), 0) + 1) WHERE digest = ?2",
            (what, digest),
            None,
        )

    async def bills(self) -> list[dict[str, Any]]:
        """Every body that ever came, with its bills."""
        await self._flushed()
        columns = "workflow, body, received, billed, credits, answers, result, last_at"
        rows = self._db.execute(f"SELECT {columns} FROM bodies").fetchall()
        entries = [dict(zip(columns.split(", "), row, strict=True)) for row in rows]
        return [{**entry, "answers": json.loads(entry["answers"])} for entry in entries]

    async def reset(self) -> None:
        """Empties the book."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._submit("DELETE FROM bodies", (), future)
        await future

    async def _flushed(self) -> None:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._submit("SELECT 1", (), future)
        await future

    def _submit(
        self, statement: str, values: tuple[Any, ...], future: asyncio.Future[None] | None
    ) -> None:
        with self._wake:
            self._queue.append((statement, values, future))
            self._wake.notify()

    def _write_forever(self) -> None:
        while True:
            with self._wake:
                while not self._queue:
                    self._wake.wait()
                batch, self._queue = self._queue, []
            self._db.execute("BEGIN")
            for statement, values, _ in batch:
                self._db.execute(statement, values)
            self._db.execute("COMMIT")
            waiting = [future for _, _, future in batch if future is not None]
            if waiting:
                waiting[0].get_loop().call_soon_threadsafe(_resolve, waiting)


def _resolve(waiting: list[asyncio.Future[None]]) -> None:
    for future in waiting:
        if not future.done():
            future.set_result(None)
