"""What a ledger holds, and how it is read: by its own process, or by another while a run goes on.

Everything here takes a connection and changes nothing that lasts. `SqliteLedger` calls it on its
writer's thread; `reading` gives other processes one unchanging view.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

from pipeline.errors import Refused, StorageFailed
from pipeline.model import State

SCHEMA_VERSION = 1

SCHEMA = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;

CREATE TABLE runs (
    run INTEGER PRIMARY KEY, run_id TEXT NOT NULL, started_at REAL NOT NULL, finished_at REAL,
    rows INTEGER, skipped INTEGER, exit_code INTEGER, stopped TEXT
);

-- One for each (identity, occurrence) that was ever attempted. sheet_row is where it stands in the
-- sheet of the last run, NULL once it has left it. version is what its attempts are about now, 1
-- until the user asks for another answer; ok_attempt is the last attempt that was ok, of any
-- version, so that an unfinished version does not hide a finished one.
CREATE TABLE rows (
    row_id INTEGER PRIMARY KEY, identity BLOB NOT NULL, occurrence INTEGER NOT NULL,
    row_key BLOB NOT NULL, id TEXT, version INTEGER NOT NULL DEFAULT 1,
    state TEXT NOT NULL, code TEXT, last_attempt INTEGER NOT NULL, ok_attempt INTEGER,
    given_up INTEGER NOT NULL DEFAULT 0, attempts INTEGER NOT NULL DEFAULT 1, sheet_row INTEGER,
    UNIQUE (identity, occurrence)
);
CREATE INDEX rows_open ON rows (state) WHERE state <> 'ok';
CREATE INDEX rows_gone ON rows (row_id) WHERE sheet_row IS NULL;
CREATE INDEX rows_equal ON rows (identity) WHERE occurrence > 0;

-- verdict is NULL from the intent until the outcome.
CREATE TABLE attempts (
    attempt_id INTEGER PRIMARY KEY, row_id INTEGER NOT NULL, version INTEGER NOT NULL,
    run INTEGER NOT NULL, sheet_row INTEGER NOT NULL, sent_at REAL NOT NULL, finished_at REAL,
    latency_s REAL, verdict TEXT, code TEXT, message TEXT, http_status INTEGER,
    maybe_paid INTEGER NOT NULL DEFAULT 1
);

-- What the user decided of a row: 'settled' (ambiguous, taken as failed), 'given_up', 'again'.
CREATE TABLE decisions (
    decision_id INTEGER PRIMARY KEY, row_id INTEGER NOT NULL, decision TEXT NOT NULL,
    decided_at REAL NOT NULL
);

-- The bytes that are sent, until the row's answer is sealed in a part.
CREATE TABLE requests (row_id INTEGER PRIMARY KEY, body BLOB NOT NULL);
-- The bytes that came, of answers not sealed yet, numbered in the order in which they came.
CREATE TABLE payloads (seq INTEGER PRIMARY KEY, attempt_id INTEGER NOT NULL, body BLOB NOT NULL);
-- What was received of answers that could not be read.
CREATE TABLE fragments (attempt_id INTEGER PRIMARY KEY, body BLOB NOT NULL);

CREATE TABLE parts (
    part INTEGER PRIMARY KEY, name TEXT NOT NULL, first_seq INTEGER NOT NULL,
    last_seq INTEGER NOT NULL, sha256 TEXT NOT NULL, sealed INTEGER NOT NULL DEFAULT 0
);
"""

SNAPSHOT = "snapshot"
"""The name in `meta` of the snapshot that sheet rows are numbers of."""

T = TypeVar("T")


class Read(Protocol):
    """Runs one reading operation on a ledger."""

    def __call__(self, operation: Callable[[sqlite3.Connection], T], /) -> T: ...


@dataclass(frozen=True, slots=True)
class Finished:
    """One answered row on its way from the ledger to a part."""

    sheet_row: int
    id: str | None
    row_key: bytes
    version: int
    run_id: str
    request: bytes
    answer: bytes
    http_status: int
    attempts: int
    latency_s: float
    sent_at: float
    finished_at: float


@dataclass(frozen=True, slots=True)
class Unfinished:
    """One attempted row of the sheet that is not ok, with its last attempt.

    `answered`: an earlier version of it is ok. `in_last_run`: that attempt was made by it.
    """

    row_id: int
    sheet_row: int
    state: State
    code: str | None
    message: str
    http_status: int | None
    attempts: int
    maybe_paid: bool
    sent_at: float
    given_up: bool
    answered: bool
    in_last_run: bool


@dataclass(frozen=True, slots=True)
class Answered:
    """Where the last finished answer of a row of the sheet is: (`run_id`, `sent_row`) is unique."""

    sheet_row: int
    run_id: str
    sent_row: int


@dataclass(frozen=True, slots=True)
class LastRun:
    """When a run began and how it ended, in seconds since 1970. The last three are None while it
    goes on, and after it was killed."""

    run_id: str
    started_at: float
    finished_at: float | None
    exit_code: int | None
    stopped: str | None


@dataclass(frozen=True, slots=True)
class Counts:
    """Rows of the sheet by state, and requests over the folder's life. Rows never attempted are
    in `sheet_rows` only. `given_up` of the failed rows are not sent again by `resume`.
    `last_stopped` is why the last run ended early."""

    states: Counter[State]
    by_code: dict[str, int]
    paid_min: int
    paid_max: int
    sheet_rows: int
    skipped: int
    given_up: int
    last_run_id: str
    last_stopped: str | None


@contextmanager
def reading(path: Path) -> Iterator[Read]:
    """One view of a ledger that another process may be writing to; it does not change meanwhile.

    Where there is no ledger yet it is an empty one; a kill may have come before its first table.

    Raises:
        Refused: when it was written by a newer release.
        StorageFailed: when it cannot be read.
    """
    connection = connect(path, read_only=True) if path.exists() else _empty()

    def read(operation: Callable[[sqlite3.Connection], T], /) -> T:
        return operation(connection)

    try:
        connection.execute("BEGIN")
        if check_version(path, connection) == 0 and path.exists():
            connection.close()
            connection = _empty()
        yield read
    except sqlite3.Error as error:
        raise unusable(path, error) from error
    finally:
        connection.close()


def _empty() -> sqlite3.Connection:
    connection = sqlite3.connect(":memory:", isolation_level=None)
    connection.executescript(SCHEMA)
    return connection


def connect(path: Path, *, read_only: bool) -> sqlite3.Connection:
    """A connection that commits only when told."""
    mode = "ro" if read_only else "rw"
    try:
        return sqlite3.connect(
            f"{path.absolute().as_uri()}?mode={mode}",
            uri=True,
            isolation_level=None,
            check_same_thread=False,
            timeout=30,
        )
    except sqlite3.Error as error:
        raise unusable(path, error) from error


def check_version(path: Path, db: sqlite3.Connection) -> int:
    """The schema's version, 0 for an empty file.

    Raises:
        Refused: when a newer release wrote it.
    """
    version = int(db.execute("PRAGMA user_version").fetchone()[0])
    if version > SCHEMA_VERSION:
        raise Refused(
            f"{path}: written by a newer release (schema {version}; this one knows "
            f"{SCHEMA_VERSION}). Upgrade the runner. Nothing was sent."
        )
    return version


def unusable(path: Path, error: sqlite3.Error) -> StorageFailed:
    """What to raise when SQLite refuses."""
    return StorageFailed(
        f"{path}: the ledger cannot be used ({error}). Nothing more was sent. "
        "Do not delete it: it is the only record of what was paid."
    )


def meta(name: str) -> Callable[[sqlite3.Connection], str | None]:
    """A fact of the folder, such as what is pinned."""

    def operation(db: sqlite3.Connection) -> str | None:
        found = db.execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchone()
        return found[0] if found else None

    return operation


def counts(db: sqlite3.Connection) -> Counts:
    """Where the rows of the sheet stand, and what was or may have been paid."""
    states: Counter[State] = Counter(
        {
            State(state): count
            for state, count in db.execute(
                "SELECT state, count(*) FROM rows WHERE sheet_row IS NOT NULL GROUP BY state"
            )
        }
    )
    by_code = dict(
        db.execute(
            "SELECT code, count(*) FROM rows WHERE state <> 'ok' AND state <> 'sending'"
            " AND sheet_row IS NOT NULL AND code IS NOT NULL GROUP BY code ORDER BY 2 DESC, 1"
        ).fetchall()
    )
    paid_min, paid_max = db.execute(
        "SELECT coalesce(sum(verdict = 'ok'), 0), coalesce(sum(maybe_paid), 0) FROM attempts"
    ).fetchone()
    given_up = db.execute(
        "SELECT count(*) FROM rows WHERE state <> 'ok' AND state = 'failed' AND given_up"
        " AND sheet_row IS NOT NULL"
    ).fetchone()[0]
    rows, skipped = 0, 0
    last = db.execute("SELECT rows, skipped, run_id FROM runs ORDER BY run DESC LIMIT 1").fetchone()
    if last:
        rows, skipped = last[:2]
    ended = db.execute(
        "SELECT stopped FROM runs WHERE finished_at IS NOT NULL ORDER BY run DESC LIMIT 1"
    ).fetchone()
    return Counts(
        states,
        by_code,
        paid_min,
        paid_max,
        rows,
        skipped,
        given_up,
        last[2] if last else "",
        ended[0] if ended else None,
    )


def unfinished(db: sqlite3.Connection) -> Iterator[Unfinished]:
    """The sheet's rows that were attempted and are not ok, in the sheet's order.

    A row that waits for another version and has not been sent for it is not among them.
    """
    for found in db.execute(
        "SELECT r.row_id, r.sheet_row, r.state, r.code, coalesce(a.message, ''), a.http_status,"
        " r.attempts, a.maybe_paid, a.sent_at, r.given_up, r.ok_attempt IS NOT NULL,"
        " a.run = (SELECT max(run) FROM runs)"
        " FROM rows r JOIN attempts a ON a.attempt_id = r.last_attempt"
        " WHERE r.state <> 'ok' AND r.sheet_row IS NOT NULL"
        " AND NOT (r.state = 'pending' AND r.code IS NULL) ORDER BY r.sheet_row"
    ):
        row_id, sheet_row, state, code, message, status, attempts, paid, sent_at = found[:9]
        given_up, answered, in_last_run = map(bool, found[9:])
        yield Unfinished(
            row_id,
            sheet_row,
            State(state),
            code,
            message,
            status,
            attempts,
            bool(paid),
            sent_at,
            given_up,
            answered,
            in_last_run,
        )


def answered(db: sqlite3.Connection) -> Iterator[Answered]:
    """Where the answers of the sheet's rows are."""
    for found in db.execute(
        "SELECT r.sheet_row, runs.run_id, a.sheet_row FROM rows r"
        " JOIN attempts a ON a.attempt_id = r.ok_attempt JOIN runs ON runs.run = a.run"
        " WHERE r.sheet_row IS NOT NULL"
    ):
        yield Answered(*found)


def last_run(db: sqlite3.Connection) -> LastRun | None:
    """The run that began last; None before the first."""
    found = db.execute(
        "SELECT run_id, started_at, finished_at, exit_code, stopped FROM runs"
        " ORDER BY run DESC LIMIT 1"
    ).fetchone()
    return LastRun(*found) if found else None


def open_marks(db: sqlite3.Connection) -> int:
    """Rows of the sheet that were marked for another version and are not settled in it."""
    return int(
        db.execute(
            "SELECT count(*) FROM rows WHERE state <> 'ok' AND state IN ('pending', 'sending')"
            " AND ok_attempt IS NOT NULL AND sheet_row IS NOT NULL"
        ).fetchone()[0]
    )


def finished(first_seq: int, last_seq: int) -> Callable[[sqlite3.Connection], list[Finished]]:
    """The answers not sealed yet in a range, in their order."""

    def operation(db: sqlite3.Connection) -> list[Finished]:
        return [
            Finished(*found)
            for found in db.execute(
                "SELECT a.sheet_row, r.id, r.row_key, a.version, runs.run_id, q.body, p.body,"
                " a.http_status, r.attempts, a.latency_s, a.sent_at, a.finished_at"
                " FROM payloads p JOIN attempts a USING (attempt_id)"
                " JOIN rows r USING (row_id) JOIN requests q USING (row_id)"
                " JOIN runs USING (run) WHERE p.seq BETWEEN ? AND ? ORDER BY p.seq",
                (first_seq, last_seq),
            )
        ]

    return operation


def sealed_parts(db: sqlite3.Connection) -> list[str]:
    """Names of the parts that are whole, in their order."""
    return [name for (name,) in db.execute("SELECT name FROM parts WHERE sealed ORDER BY part")]
