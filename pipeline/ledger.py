"""The durable life of every attempt: SQLite, one writer thread, commits grouped.

The attempt is the primary record. It is committed before its first byte leaves (`intend`), and its
outcome is committed before anybody counts it (`conclude`). An attempt found without an outcome was
cut off by a crash: it may have been paid, so its row is ambiguous.

Everything that arrives while one commit is on its way to the disk shares the next one: an fsync
costs about a millisecond, so one a row would cap the run at some hundred rows a second.

A row enters the ledger with its first attempt. What is known of a sheet's other rows is nothing,
so a million pending rows cost nothing here.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from pipeline.errors import Refused, StorageFailed
from pipeline.folder import open_private
from pipeline.groupcommit import GroupCommit
from pipeline.model import Attempt, Clock, Held, Outcome, Reply, Row, State, Verdict

SCHEMA_VERSION = 1

_SCHEMA = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;

CREATE TABLE runs (
    run INTEGER PRIMARY KEY, run_id TEXT NOT NULL, started_at REAL NOT NULL, finished_at REAL,
    rows INTEGER, skipped INTEGER, exit_code INTEGER, stopped TEXT
);

-- One for each (identity, occurrence) that was ever attempted. sheet_row is where it stands in the
-- sheet of the last run, NULL once it has left it.
CREATE TABLE rows (
    row_id INTEGER PRIMARY KEY, identity BLOB NOT NULL, occurrence INTEGER NOT NULL,
    row_key BLOB NOT NULL, id TEXT, version INTEGER NOT NULL DEFAULT 1,
    state TEXT NOT NULL, code TEXT, last_attempt INTEGER NOT NULL,
    attempts INTEGER NOT NULL DEFAULT 1, sheet_row INTEGER,
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

_BETTER_FIRST = (State.OK, State.SENDING, State.AMBIGUOUS, State.FAILED, State.PENDING)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Part:
    """A fixed range of answers and the file that they go to."""

    part: int
    name: str
    first_seq: int
    last_seq: int
    sha256: str


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
    """One row of the sheet that is not ok, with its last attempt."""

    sheet_row: int
    state: State
    code: str | None
    message: str
    http_status: int | None
    attempts: int
    maybe_paid: bool
    sent_at: float


@dataclass(frozen=True, slots=True)
class Counts:
    """Rows of the sheet by state, and requests over the folder's life. Rows never attempted are
    in `sheet_rows` only."""

    states: Counter[State]
    by_code: dict[str, int]
    paid_min: int
    paid_max: int
    sheet_rows: int
    skipped: int
    last_run_id: str


class SqliteLedger:
    """The ledger of one run folder. One process writes; any number may read.

    Every method may be called from any thread; the coroutines from one event loop. After a write
    has failed every later call raises the same StorageFailed: a second fsync after a failed one
    would report success for data that the kernel has already dropped.
    """

    def __init__(self, connection: sqlite3.Connection, clock: Clock) -> None:
        self._connection = connection
        self._clock = clock
        self._run = 0
        self._next_attempt = self._one("SELECT coalesce(max(attempt_id), 0) + 1 FROM attempts")
        self._next_seq = self._one(
            "SELECT 1 + max(coalesce((SELECT max(seq) FROM payloads), 0),"
            " coalesce((SELECT max(last_seq) FROM parts), 0))"
        )
        self._commits = GroupCommit(connection)

    # -- before the sending ---------------------------------------------------------------

    def recover(self) -> int:
        """Turns attempts that a crash cut off into ambiguous ones. How many there were."""

        def operation(db: sqlite3.Connection) -> int:
            cut = db.execute(
                "SELECT row_id, last_attempt FROM rows WHERE state = 'sending'"
            ).fetchall()
            db.executemany(
                "UPDATE attempts SET verdict = 'ambiguous', code = 'interrupted',"
                " message = 'The runner ended before the answer came.' WHERE attempt_id = ?",
                [(attempt,) for _, attempt in cut],
            )
            db.executemany(
                "UPDATE rows SET state = 'ambiguous', code = 'interrupted' WHERE row_id = ?",
                [(row,) for row, _ in cut],
            )
            return len(cut)

        return self._commits.call(operation)

    def order_equal_rows(self) -> None:
        """Gives the best outcomes held for equal rows to the first of them in the sheet."""

        def operation(db: sqlite3.Connection) -> None:
            repeated = db.execute(
                "SELECT DISTINCT identity FROM rows WHERE occurrence > 0"
            ).fetchall()
            for (identity,) in repeated:
                rows = db.execute(
                    "SELECT row_id, state, occurrence FROM rows WHERE identity = ?"
                    " ORDER BY occurrence",
                    (identity,),
                ).fetchall()
                best = sorted(rows, key=lambda row: _BETTER_FIRST.index(State(row[1])))
                changed = [(new, row_id) for new, (row_id, _, old) in enumerate(best) if new != old]
                # Through negative numbers, as no two rows may share an occurrence on the way.
                for shift in (-len(rows), 0):
                    db.executemany(
                        "UPDATE rows SET occurrence = ? WHERE row_id = ?",
                        [(new + shift, row_id) for new, row_id in changed],
                    )

        self._commits.call(operation)

    def meta(self, name: str) -> str | None:
        """A fact of the folder, such as what is pinned."""

        def operation(db: sqlite3.Connection) -> str | None:
            found = db.execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchone()
            return found[0] if found else None

        return self._commits.call(operation)

    def set_meta(self, name: str, value: str) -> None:
        self._commits.call(lambda db: db.execute("REPLACE INTO meta VALUES (?, ?)", (name, value)))

    def count_ok(self) -> int:
        """Rows of the last run's sheet that are ok."""
        return self.counts().states[State.OK]

    def begin_placing(self) -> None:
        """Starts the comparison of a sheet with what is held."""
        self._commits.call(
            lambda db: db.execute(
                "CREATE TEMP TABLE placed (row_id INTEGER PRIMARY KEY, sheet_row INTEGER)"
            )
        )

    def look_up(
        self, rows: Iterable[tuple[int, bytes, int]], *, place: bool = True
    ) -> list[Held | None]:
        """What is held for each (sheet row, identity, occurrence) of a batch, in its order."""
        wanted = list(rows)

        def operation(db: sqlite3.Connection) -> list[Held | None]:
            db.execute(
                "CREATE TEMP TABLE IF NOT EXISTS wanted"
                " (sheet_row INTEGER PRIMARY KEY, identity BLOB, occurrence INTEGER)"
            )
            db.execute("DELETE FROM wanted")
            db.executemany("INSERT INTO wanted VALUES (?, ?, ?)", wanted)
            found = {
                number: Held(row_id, State(state), code)
                for number, row_id, state, code in db.execute(
                    "SELECT w.sheet_row, r.row_id, r.state, r.code"
                    " FROM wanted w CROSS JOIN rows r"
                    " ON r.identity = w.identity AND r.occurrence = w.occurrence"
                )
            }
            if place:
                db.executemany(
                    "INSERT INTO placed VALUES (?, ?)",
                    [(held.row_id, number) for number, held in found.items()],
                )
            return [found.get(number) for number, _, _ in wanted]

        return self._commits.call(operation)

    def finish_placing(self) -> None:
        """Makes the sheet that was looked up the one that counts are about."""

        def operation(db: sqlite3.Connection) -> None:
            db.execute(
                "UPDATE rows SET sheet_row = placed.sheet_row FROM placed"
                " WHERE rows.row_id = placed.row_id AND rows.sheet_row IS NOT placed.sheet_row"
            )
            db.execute(
                "UPDATE rows SET sheet_row = NULL WHERE sheet_row IS NOT NULL"
                " AND row_id NOT IN (SELECT row_id FROM placed)"
            )
            db.execute("DROP TABLE placed")

        self._commits.call(operation)

    def begin_run(self, run_id: str, rows: int, skipped: int) -> None:
        """Every later attempt belongs to this run."""

        def operation(db: sqlite3.Connection) -> int:
            cursor = db.execute(
                "INSERT INTO runs (run_id, started_at, rows, skipped) VALUES (?, ?, ?, ?)",
                (run_id, self._clock.wall(), rows, skipped),
            )
            assert cursor.lastrowid is not None
            return cursor.lastrowid

        self._run = self._commits.call(operation)

    def end_run(self, exit_code: int, stopped: str | None) -> None:
        self._commits.call(
            lambda db: db.execute(
                "UPDATE runs SET finished_at = ?, exit_code = ?, stopped = ? WHERE run = ?",
                (self._clock.wall(), exit_code, stopped, self._run),
            )
        )

    # -- while it is sending --------------------------------------------------------------

    async def intend(self, row: Row) -> Attempt:
        """Returns once the intent to send `row` would survive a power cut."""
        attempt_id = self._next_attempt
        self._next_attempt += 1
        return await self._commits.durably(lambda db: self._write_intent(db, attempt_id, row))

    async def conclude(
        self, attempt: Attempt, outcome: Outcome, reply: Reply, state: State
    ) -> None:
        """Returns once the outcome would survive a power cut. `state` is what the row is now."""
        seq = None
        if outcome.verdict is Verdict.OK:
            seq = self._next_seq
            self._next_seq += 1
        await self._commits.durably(
            lambda db: self._write_outcome(db, attempt, outcome, reply, state, seq)
        )

    async def withdraw(self, attempt: Attempt) -> None:
        """Takes back an intent of which provably no byte was sent."""

        def operation(db: sqlite3.Connection) -> None:
            db.execute("DELETE FROM attempts WHERE attempt_id = ?", (attempt.attempt_id,))
            db.execute(
                "UPDATE rows SET state = ?, code = ?, attempts = attempts - 1,"
                " last_attempt = coalesce((SELECT max(attempt_id) FROM attempts a"
                " WHERE a.row_id = rows.row_id), 0) WHERE row_id = ?",
                (attempt.was, attempt.was_code, attempt.row_id),
            )
            db.execute(
                "DELETE FROM requests WHERE row_id IN"
                " (SELECT row_id FROM rows WHERE row_id = ? AND attempts = 0)",
                (attempt.row_id,),
            )
            db.execute("DELETE FROM rows WHERE row_id = ? AND attempts = 0", (attempt.row_id,))

        await self._commits.durably(operation)

    def _write_intent(self, db: sqlite3.Connection, attempt_id: int, row: Row) -> Attempt:
        found = db.execute(
            "SELECT row_id, version, state, code FROM rows WHERE identity = ? AND occurrence = ?",
            (row.identity, row.occurrence),
        ).fetchone()
        if found:
            row_id, version, state, code = found
            db.execute(
                "UPDATE rows SET state = 'sending', last_attempt = ?, attempts = attempts + 1"
                " WHERE row_id = ?",
                (attempt_id, row_id),
            )
        else:
            version, state, code = 1, State.PENDING, None
            row_id = db.execute(
                "INSERT INTO rows (identity, occurrence, row_key, id, version, state,"
                " last_attempt, sheet_row) VALUES (?, ?, ?, ?, ?, 'sending', ?, ?)",
                (
                    row.identity,
                    row.occurrence,
                    row.row_key,
                    row.id,
                    version,
                    attempt_id,
                    row.number,
                ),
            ).lastrowid
        db.execute("INSERT OR IGNORE INTO requests VALUES (?, ?)", (row_id, row.body))
        db.execute(
            "INSERT INTO attempts (attempt_id, row_id, version, run, sheet_row, sent_at)"
            " VALUES (?, ?, ?, ?, ?, ?)",
            (attempt_id, row_id, version, self._run, row.number, self._clock.wall()),
        )
        return Attempt(attempt_id, row_id, row, State(state), code)

    def _write_outcome(
        self,
        db: sqlite3.Connection,
        attempt: Attempt,
        outcome: Outcome,
        reply: Reply,
        state: State,
        seq: int | None,
    ) -> None:
        now = self._clock.wall()
        latency_s = reply.answered_at - reply.sent_at
        db.execute(
            "UPDATE attempts SET sent_at = ?, finished_at = ?, latency_s = ?, verdict = ?,"
            " code = ?, message = ?, http_status = ?, maybe_paid = ? WHERE attempt_id = ?",
            (
                now - latency_s,
                now,
                latency_s,
                outcome.verdict,
                outcome.code,
                outcome.message or None,
                outcome.http_status,
                outcome.maybe_paid,
                attempt.attempt_id,
            ),
        )
        db.execute(
            "UPDATE rows SET state = ?, code = ? WHERE row_id = ?",
            (state, outcome.code, attempt.row_id),
        )
        if seq is not None:
            db.execute(
                "INSERT INTO payloads VALUES (?, ?, ?)", (seq, attempt.attempt_id, reply.body)
            )
        elif outcome.verdict is Verdict.AMBIGUOUS and reply.body:
            db.execute("INSERT INTO fragments VALUES (?, ?)", (attempt.attempt_id, reply.body))

    # -- sealing --------------------------------------------------------------------------

    def unsealed_part(self) -> Part | None:
        """The part that was named and not sealed, if a crash left one."""
        return self._commits.call(
            lambda db: next(
                (
                    Part(*found)
                    for found in db.execute(
                        "SELECT part, name, first_seq, last_seq, sha256 FROM parts"
                        " WHERE NOT sealed ORDER BY part"
                    )
                ),
                None,
            )
        )

    def next_part(self, most_rows: int, most_bytes: int) -> tuple[int, int, int] | None:
        """(number, first_seq, last_seq) of the part to be named next; None when all is sealed."""

        def operation(db: sqlite3.Connection) -> tuple[int, int, int] | None:
            sizes = db.execute(
                "SELECT seq, length(body) FROM payloads ORDER BY seq LIMIT ?", (most_rows,)
            ).fetchall()
            if not sizes:
                return None
            total, last = 0, sizes[0][0]
            for seq, size in sizes:
                if total and total + size > most_bytes:
                    break
                total, last = total + size, seq
            number = db.execute("SELECT coalesce(max(part), 0) + 1 FROM parts").fetchone()[0]
            return number, sizes[0][0], last

        return self._commits.call(operation)

    def finished(self, first_seq: int, last_seq: int) -> list[Finished]:
        """The answers of a part, in their order."""
        return self._commits.call(
            lambda db: [
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
        )

    def name_part(self, part: Part) -> None:
        """Durable before the file exists: whatever a crash leaves, the name is known."""
        self._commits.call(
            lambda db: db.execute(
                "REPLACE INTO parts (part, name, first_seq, last_seq, sha256)"
                " VALUES (?, ?, ?, ?, ?)",
                (part.part, part.name, part.first_seq, part.last_seq, part.sha256),
            )
        )

    def seal(self, part: Part) -> None:
        """The file is whole and durable: drops the payloads that it holds."""

        def operation(db: sqlite3.Connection) -> None:
            span = (part.first_seq, part.last_seq)
            db.execute("UPDATE parts SET sealed = 1 WHERE part = ?", (part.part,))
            db.execute(
                "DELETE FROM requests WHERE row_id IN (SELECT row_id FROM payloads"
                " JOIN attempts USING (attempt_id) WHERE seq BETWEEN ? AND ?)",
                span,
            )
            db.execute("DELETE FROM payloads WHERE seq BETWEEN ? AND ?", span)

        self._commits.call(operation)

    # -- reading --------------------------------------------------------------------------

    def counts(self) -> Counts:
        """Where the rows of the sheet stand, and what was or may have been paid."""
        return self._commits.call(_counts)

    def unfinished(self) -> list[Unfinished]:
        """The sheet's rows that were attempted and are not ok, in the sheet's order."""
        return self._commits.call(_unfinished)

    def close(self) -> None:
        """Commits what was submitted."""
        self._commits.close()

    def _one(self, query: str) -> int:
        return int(self._connection.execute(query).fetchone()[0])


@contextmanager
def open_ledger(path: Path, clock: Clock) -> Iterator[SqliteLedger]:
    """The ledger at `path`, made when it is not there. The caller holds the folder's lock.

    Raises:
        Refused: when it was written by a newer release, or is no ledger.
        StorageFailed: when it cannot be opened.
    """
    if not path.exists():
        open_private(path).close()
    connection = _connect(path, read_only=False)
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        _create(path, connection)
    except sqlite3.Error as error:
        connection.close()
        raise _unusable(path, error) from error
    ledger = SqliteLedger(connection, clock)
    try:
        yield ledger
    finally:
        ledger.close()


def read_counts(path: Path) -> Counts:
    """The counts of a ledger that another process may be writing to."""
    return _read(path, _counts)


def _read(path: Path, operation: Callable[[sqlite3.Connection], T]) -> T:
    connection = _connect(path, read_only=True)
    try:
        _check_version(path, connection)
        return operation(connection)
    except sqlite3.Error as error:
        raise _unusable(path, error) from error
    finally:
        connection.close()


def _connect(path: Path, *, read_only: bool) -> sqlite3.Connection:
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
        raise _unusable(path, error) from error


def _create(path: Path, db: sqlite3.Connection) -> None:
    if _check_version(path, db) == 0:
        db.executescript(f"BEGIN;{_SCHEMA}PRAGMA user_version = {SCHEMA_VERSION};COMMIT;")


def _check_version(path: Path, db: sqlite3.Connection) -> int:
    version = int(db.execute("PRAGMA user_version").fetchone()[0])
    if version > SCHEMA_VERSION:
        raise Refused(
            f"{path}: written by a newer release (schema {version}; this one knows "
            f"{SCHEMA_VERSION}). Upgrade the runner. Nothing was sent."
        )
    return version


def _unusable(path: Path, error: sqlite3.Error) -> StorageFailed:
    return StorageFailed(
        f"{path}: the ledger cannot be used ({error}). Nothing more was sent. "
        "Do not delete it: it is the only record of what was paid."
    )


def _counts(db: sqlite3.Connection) -> Counts:
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
    last = db.execute("SELECT rows, skipped, run_id FROM runs ORDER BY run DESC LIMIT 1").fetchone()
    return Counts(states, by_code, paid_min, paid_max, *(last or (0, 0, "")))


def _unfinished(db: sqlite3.Connection) -> list[Unfinished]:
    return [
        Unfinished(number, State(state), code, message, status, attempts, bool(paid), sent_at)
        for number, state, code, message, status, attempts, paid, sent_at in db.execute(
            "SELECT r.sheet_row, r.state, r.code, coalesce(a.message, ''), a.http_status,"
            " r.attempts, a.maybe_paid, a.sent_at"
            " FROM rows r JOIN attempts a ON a.attempt_id = r.last_attempt"
            " WHERE r.state <> 'ok' AND r.sheet_row IS NOT NULL ORDER BY r.sheet_row"
        )
    ]
