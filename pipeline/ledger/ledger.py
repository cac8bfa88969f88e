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
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar, cast

from pipeline.core.errors import StorageFailed
from pipeline.core.model import MOVES, Attempt, Clock, Move, Outcome, Reply, Row, State, Verdict
from pipeline.job.traces import Trace
from pipeline.ledger import wal
from pipeline.ledger.group_commit import GroupCommit
from pipeline.ledger.matching import adopt
from pipeline.ledger.queries import BEGAN_WITH_SCHEMA_1, FOLDER_ID, PINNED, Part, Unfinished, Unread
from pipeline.ledger.reader import refuse_lost
from pipeline.ledger.schema import (
    SCHEMA_VERSION,
    altered,
    check_version,
    connect,
    intact,
    part_name,
    tables_since,
    undamaged,
    unusable,
)
from pipeline.system.files import open_private, storing

T = TypeVar("T")


class SqliteLedger:
    """The ledger of one run folder. One process writes; any number may read.

    Every method may be called from any thread; the coroutines from one event loop. After a write
    has failed every later call raises the same StorageFailed: a second fsync after a failed one
    would report success for data that the kernel has already dropped.
    """

    def __init__(
        self, connection: sqlite3.Connection, clock: Clock, make_room: Callable[[], bool]
    ) -> None:
        self._connection = connection
        self._clock = clock
        self._run = 0
        self._next_attempt = self._one("SELECT coalesce(max(attempt_id), 0) + 1 FROM attempts")
        self._next_seq = self._one(
            "SELECT 1 + max(coalesce((SELECT max(seq) FROM payloads), 0),"
            " coalesce((SELECT max(last_seq) FROM parts), 0))"
        )
        self._commits = GroupCommit(connection, make_room)

    # -- before the sending ---------------------------------------------------------------

    def recover(self) -> frozenset[int]:
        """Turns attempts that a crash cut off into ambiguous ones. The ids of their rows."""

        def operation(db: sqlite3.Connection) -> frozenset[int]:
            # Writing makes new checksums, so what is written over is checked first.
            found = db.execute(
                f"SELECT r.row_id, r.last_attempt, {intact('rows', 'r')} AND"
                f" {intact('attempts', 'a')}, r.sheet_row FROM rows r"
                " LEFT JOIN attempts a ON a.attempt_id = r.last_attempt WHERE state = 'sending'"
            ).fetchall()
            for *_, whole, sheet_row in found:
                if not whole:
                    raise altered("the record of an interrupted attempt", sheet_row)
            cut = [(row, attempt) for row, attempt, *_ in found]
            db.executemany(
                "UPDATE attempts SET verdict = 'ambiguous', code = 'interrupted',"
                " message = 'The runner ended before the answer came.' WHERE attempt_id = ?",
                [(attempt,) for _, attempt in cut],
            )
            for row_id, _ in cut:
                _move(db, Move.RECOVER, State.AMBIGUOUS, row_id, "code = 'interrupted'")
            return frozenset(row for row, _ in cut)

        return self._commits.call(operation)

    def read(self, operation: Callable[[sqlite3.Connection], T], /) -> T:
        """Runs an operation of `queries` or `matching` on the writer's thread.

        Raises:
            StorageFailed: when what it read is damaged. Writing goes on: what is in flight then
                is paid, and has to be saved.
        """
        found, damage = self._commits.call(lambda db: _or_damage(operation, db))
        if damage is not None:
            raise damage
        return cast(T, found)

    def set_meta(self, name: str, value: str) -> None:
        self._commits.call(lambda db: db.execute("REPLACE INTO meta VALUES (?, ?)", (name, value)))

    def settle(self, rows: Iterable[Unfinished]) -> None:
        """Takes ambiguous rows as failed and gives failed ones up. None of them is sent.

        One decision for a row and its duplicates."""
        decided = dict.fromkeys((row.row_id, row.state) for row in rows)

        def operation(db: sqlite3.Connection) -> None:
            for row_id, state in decided:
                if state is State.AMBIGUOUS:
                    _move(db, Move.SETTLE, State.FAILED, row_id)
                    self._decide(db, row_id, "settled")
                elif state is State.FAILED:
                    db.execute("UPDATE rows SET given_up = 1 WHERE row_id = ?", (row_id,))
                    self._decide(db, row_id, "given_up")

        self._commits.call(operation)

    def mark_again(self, row_ids: Iterable[int]) -> None:
        """Wants another version of ok rows. Their answers must be sealed: the next request for a
        row takes the place of the bytes that the last one was sent with."""
        marked = list(dict.fromkeys(row_ids))
        self._commits.call(lambda db: self._mark_again(db, marked))

    def _mark_again(self, db: sqlite3.Connection, row_ids: Iterable[int]) -> None:
        for row_id in dict.fromkeys(row_ids):
            setting = "version = version + 1, code = NULL"
            _move(db, Move.AGAIN, State.PENDING, row_id, setting)
            decision_id = self._decide(db, row_id, "again")
            db.execute(
                "INSERT INTO asked_again (decision_id, attempt_id, reason)"
                " SELECT ?, ok_attempt, 'rows' FROM rows WHERE row_id = ?",
                (decision_id, row_id),
            )

    def read_again(self, unread: Iterable[Unread]) -> None:
        """These answers can be read after all: their rows are ok, without another request."""
        found = list(unread)
        first_seq, self._next_seq = self._next_seq, self._next_seq + len(found)

        def operation(db: sqlite3.Connection) -> None:
            for seq, one in enumerate(found, start=first_seq):
                db.execute(
                    "UPDATE attempts SET verdict = 'ok', code = NULL, message = NULL"
                    " WHERE attempt_id = ?",
                    (one.attempt_id,),
                )
                setting = "code = NULL, ok_attempt = ?"
                _move(db, Move.READ_AGAIN, State.OK, one.row_id, setting, one.attempt_id)
                db.execute("INSERT INTO payloads VALUES (?, ?, ?)", (seq, one.attempt_id, one.body))
                db.execute("DELETE FROM fragments WHERE attempt_id = ?", (one.attempt_id,))
                self._decide(db, one.row_id, "reread")

        self._commits.call(operation)

    def _decide(self, db: sqlite3.Connection, row_id: int, decision: str) -> int:
        return _inserted(
            db.execute(
                "INSERT INTO decisions (row_id, decision, decided_at) VALUES (?, ?, ?)",
                (row_id, decision, self._clock.wall()),
            )
        )

    def begin_run(
        self,
        run_id: str,
        snapshot_id: str,
        rows: int,
        skipped: int,
        *,
        snapshot_sha256: str = "",
        pins: str | None = None,
        accepted: Iterable[int] = (),
        again: Iterable[int] = (),
        token: str | None = None,
    ) -> None:
        """Every later attempt belongs to this run, and counts are about its sheet.

        The sheet must have been looked up by `matching`; it has `rows` rows, `skipped` of which
        are never sent and have no answer. `pins` is the JSON of the run's pins. `accepted` are rows
        paid under other pins that the user allows to be paid for again, `again` are ok rows that
        get another version (see `mark_again`), `token` is a plan that is not carried out twice.
        All of this is one commit, so a kill leaves all of it or nothing.
        """

        def operation(db: sqlite3.Connection) -> int:
            adopt(snapshot_id, snapshot_sha256)(db)
            now = self._clock.wall()
            run = _inserted(
                db.execute(
                    "INSERT INTO runs (run_id, started_at, rows, skipped) VALUES (?, ?, ?, ?)",
                    (run_id, now, rows, skipped),
                )
            )
            if pins is not None:
                _write_pins(db, run, pins, accepted)
            self._mark_again(db, again)
            if token is not None:
                db.execute("INSERT INTO spent_tokens VALUES (?, ?, ?)", (token, run, now))
            return run

        self._run = self._commits.call(operation)

    def end_run(self, exit_code: int, stopped: str | None, summary_sha256: str) -> None:
        """The run is over and its summary is written, with this SHA-256."""
        self._commits.call(
            lambda db: db.execute(
                "UPDATE runs SET finished_at = ?, exit_code = ?, stopped = ?, summary_sha256 = ?"
                " WHERE run = ?",
                (self._clock.wall(), exit_code, stopped, summary_sha256, self._run),
            )
        )

    def amend_summary(self, run_id: str, write: Callable[[], str]) -> None:
        """Has `write` write the summary of `run_id` again and notes the SHA-256 that it returns.
        Does nothing if another run has begun since.

        The ledger holds no checksum meanwhile, so that `verify` believes either file after a crash.
        """

        def note(sha256: str | None) -> bool:
            amended = self._commits.call(
                lambda db: (
                    db.execute(
                        "UPDATE runs SET summary_sha256 = ? WHERE run_id = ?"
                        f" AND run = (SELECT max(run) FROM runs) AND {intact('runs', 'runs')}",
                        (sha256, run_id),
                    ).rowcount
                )
            )
            return amended == 1

        if note(None):
            note(write())

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
            lambda db: self._write_outcome(db, attempt, outcome, reply, state, seq), saves=True
        )

    async def withdraw(self, attempt: Attempt) -> None:
        """Takes back an intent of which provably no byte was sent."""

        def operation(db: sqlite3.Connection) -> None:
            _alone(
                db.execute(
                    "DELETE FROM attempts WHERE attempt_id = ? AND verdict IS NULL",
                    (attempt.attempt_id,),
                )
            )
            setting = (
                "code = ?, given_up = ?, attempts = attempts - 1, last_attempt = coalesce((SELECT"
                " max(attempt_id) FROM attempts a WHERE a.row_id = rows.row_id), 0)"
            )
            was = (attempt.was_code, attempt.was_given_up)
            _move(db, Move.WITHDRAW, attempt.was, attempt.row_id, setting, *was)
            db.execute(
                "DELETE FROM requests WHERE row_id IN"
                " (SELECT row_id FROM rows WHERE row_id = ? AND attempts = 0)",
                (attempt.row_id,),
            )
            db.execute("DELETE FROM rows WHERE row_id = ? AND attempts = 0", (attempt.row_id,))

        await self._commits.durably(operation, saves=True)

    def _write_intent(self, db: sqlite3.Connection, attempt_id: int, row: Row) -> Attempt:
        found = db.execute(
            "SELECT row_id, version, state, code, given_up FROM rows"
            " WHERE identity = ? AND occurrence = ?",
            (row.identity, row.occurrence),
        ).fetchone()
        if found:
            row_id, version, state, code, given_up = found
            setting = "last_attempt = ?, attempts = attempts + 1, given_up = 0"
            _move(db, Move.INTEND, State.SENDING, row_id, setting, attempt_id)
        else:
            version, state, code, given_up = 1, State.PENDING, None, 0
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
        return Attempt(attempt_id, row_id, row, State(state), code, bool(given_up))

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
        _alone(
            db.execute(
                "UPDATE attempts SET sent_at = ?, finished_at = ?, latency_s = ?, verdict = ?,"
                " code = ?, message = ?, http_status = ?, maybe_paid = ?"
                " WHERE attempt_id = ? AND verdict IS NULL",
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
        )
        ok_attempt = None if seq is None else attempt.attempt_id
        setting = "code = ?, ok_attempt = coalesce(?, ok_attempt)"
        _move(db, Move.CONCLUDE, state, attempt.row_id, setting, outcome.code, ok_attempt)
        if seq is not None:
            db.execute(
                "INSERT INTO payloads VALUES (?, ?, ?)", (seq, attempt.attempt_id, reply.body)
            )
        elif outcome.maybe_paid and reply.body:
            db.execute(
                "INSERT INTO fragments VALUES (?, ?, ?)",
                (attempt.attempt_id, reply.body, reply.failure is None),
            )

    # -- sealing --------------------------------------------------------------------------

    def unsealed_part(self) -> Part | None:
        """The part that was named and not sealed, if a crash left one."""

        def operation(db: sqlite3.Connection) -> Part | None:
            found = db.execute(
                "SELECT part, name, first_seq, last_seq, sha256,"
                f" {intact('parts', 'p')} FROM parts p WHERE NOT sealed ORDER BY part"
            ).fetchone()
            if found and not found[5]:
                raise altered("the record of a part")
            if found:
                part_name(found[1])
            return Part(*found[:5]) if found else None

        return self.read(operation)

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

    def name_part(self, part: Part) -> None:
        """Durable before the file exists: whatever a crash leaves, the name is known."""
        self._commits.call(
            lambda db: db.execute(
                "REPLACE INTO parts (part, name, first_seq, last_seq, sha256)"
                " VALUES (?, ?, ?, ?, ?)",
                (part.number, part.name, part.first_seq, part.last_seq, part.sha256),
            )
        )

    def seal(self, part: Part) -> None:
        """The file is whole and durable: drops the payloads that it holds."""

        def operation(db: sqlite3.Connection) -> None:
            span = (part.first_seq, part.last_seq)
            db.execute("UPDATE parts SET sealed = 1 WHERE part = ?", (part.number,))
            db.execute(
                "DELETE FROM requests WHERE row_id IN (SELECT row_id FROM payloads"
                " JOIN attempts USING (attempt_id) WHERE seq BETWEEN ? AND ?)",
                span,
            )
            db.execute("DELETE FROM payloads WHERE seq BETWEEN ? AND ?", span)

        self._commits.call(operation)

    # -- while another program holds SQLite's lock ----------------------------------------

    def when_blocked(self, say: Callable[[bool], None]) -> None:
        """Calls `say` in the event loop with True while answers wait for it, with False after."""
        self._commits.say_blocked = say

    async def unblocked(self) -> None:
        """Returns once the ledger can be written to."""
        await self._commits.durably(lambda db: None)

    def leave(self, after_s: float = 0.0) -> None:
        """Waits for it at most `after_s` more. Answers that could not be saved are lost then, and
        their rows ambiguous."""
        self._commits.leave(after_s)

    def close(self) -> None:
        """Commits what was submitted."""
        self._commits.close()

    def _one(self, query: str) -> int:
        return int(self._connection.execute(query).fetchone()[0])


_FOUND_IN = {
    move: "state IN (" + ", ".join(f"'{state}'" for state in sorted(before)) + ")"
    for move, (before, _) in MOVES.items()
}


def _move(
    db: sqlite3.Connection, move: Move, to: State, row_id: int, setting: str = "", *values: object
) -> None:
    """Puts a row into another state; `setting` is what else changes, with its values.

    Raises:
        AssertionError: where that is no move of a row in its state. Nothing more is written then.
    """
    assert to in MOVES[move][1], (move, to)
    _alone(
        db.execute(
            f"UPDATE rows SET state = ?{', ' if setting else ''}{setting}"
            f" WHERE row_id = ? AND {_FOUND_IN[move]}",
            (to, *values, row_id),
        )
    )


def _write_pins(db: sqlite3.Connection, run: int, settings: str, accepted: Iterable[int]) -> None:
    """Ties the folder, and this run, to these pins."""
    db.execute("REPLACE INTO meta VALUES (?, ?)", (PINNED, settings))
    db.execute("INSERT OR IGNORE INTO pins (settings) VALUES (?)", (settings,))
    [pins] = db.execute("SELECT pins FROM pins WHERE settings = ?", (settings,)).fetchone()
    db.execute("INSERT INTO run_pins VALUES (?, ?)", (run, pins))
    db.executemany(
        "INSERT OR IGNORE INTO accepted (row_id, pins, run) VALUES (?, ?, ?)",
        [(row_id, pins, run) for row_id in accepted],
    )


def _inserted(cursor: sqlite3.Cursor) -> int:
    assert cursor.lastrowid is not None
    return cursor.lastrowid


def _alone(cursor: sqlite3.Cursor) -> None:
    if cursor.rowcount != 1:
        raise AssertionError(
            f"Expected to update exactly one ledger row, but updated {cursor.rowcount}. Stopped, "
            "because continuing could pay for a row twice."
        )


def _or_damage(
    operation: Callable[[sqlite3.Connection], T], db: sqlite3.Connection
) -> tuple[T | None, StorageFailed | None]:
    try:
        return undamaged(operation, db), None
    except StorageFailed as error:
        return None, error


@contextmanager
def open_ledger(
    path: Path,
    clock: Clock,
    make_room: Callable[[], bool] = lambda: False,
    *,
    trace: Trace | None = None,
) -> Iterator[SqliteLedger]:
    """The ledger at `path`, made when it is not there. The caller holds the folder's lock.

    `make_room` gives back space that was kept for a full disk, and says whether there was any.
    `trace` is what a run left beside it: a ledger that does not know of that run is no new one.

    Raises:
        Refused: when it was written by a newer release, or is no ledger.
        StorageFailed: when it cannot be opened, lost what was last written to it, or does not know
            of the run that left `trace`.
    """
    if wal.is_damaged(path):
        raise altered("the log of its last writes (ledger.sqlite-wal)")
    refuse_lost(path, trace)
    if not path.exists():
        with storing(path):
            open_private(path).close()
    connection = connect(path, read_only=False)
    try:
        version = check_version(path, connection)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        # On macOS only; see `files.sync`.
        connection.execute("PRAGMA fullfsync = ON")
        connection.execute("PRAGMA checkpoint_fullfsync = ON")
        _create(connection, version)
    except BaseException as error:
        connection.close()
        if isinstance(error, sqlite3.Error):
            raise unusable(path, error) from error
        raise
    ledger = SqliteLedger(connection, clock, make_room)
    try:
        yield ledger
    finally:
        ledger.close()


def _create(db: sqlite3.Connection, version: int) -> None:
    if version < SCHEMA_VERSION:
        facts = _FIRST_FACTS + (_FACTS_OF_SCHEMA_1 if version == 1 else "")
        made = f"{tables_since(version)}{facts}PRAGMA user_version = {SCHEMA_VERSION};"
        db.executescript(f"BEGIN;{made}COMMIT;")


_FIRST_FACTS = f"INSERT INTO meta VALUES ('{FOLDER_ID}', lower(hex(randomblob(16))));\n"
# Schema 1 kept the pins of the last run alone. They are those of every run whose answers are all in
# the last run's sheet; the others may have been paid under pins that were changed since.
_FACTS_OF_SCHEMA_1 = f"""
INSERT INTO meta VALUES ('{BEGAN_WITH_SCHEMA_1}', 'yes');
INSERT INTO pins (settings) SELECT value FROM meta WHERE name = '{PINNED}';
INSERT INTO run_pins SELECT run, pins FROM runs, pins WHERE run NOT IN (
    SELECT a.run FROM attempts a JOIN rows r USING (row_id)
    WHERE a.maybe_paid AND r.sheet_row IS NULL
);
"""
