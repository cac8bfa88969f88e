"""The durable record of every request: one SQLite file, written by one thread.

Theory of operation
===================

The ledger has to answer one question: may the runner send this row? Its answer must be right after
`kill -9` at any instant, and after a power cut on a disk that honours fsync. Two rules achieve it:

1. The runner commits the intent to send a row before the first byte of the request leaves.
2. The runner commits the outcome of the request before it counts the row or sends it again.

So an intent without an outcome has one meaning once its process is gone: the process ended between
the two commits. The request may have been paid. The row becomes ambiguous, and the runner does not
send it again until the user orders that.

Two tables hold this record. `attempts` has one entry for each request. It is the primary record:
`verdict` is NULL from the intent until the outcome. `rows` has one entry for each row of a sheet
that was ever sent. Its `state` follows from the attempts and from the user's `decisions`. A row
that was never sent is in neither table, so a million pending rows cost nothing here.

The first `intend` inserts a row as `sending`. After that, only `_move` changes `state`, and only
as the table `MOVES` in `core.model` allows. The UPDATE itself tests the state before the move:

    INTEND      pending, failed, ambiguous -> sending       intend
    WITHDRAW    sending -> pending, failed, ambiguous       withdraw: provably no byte was sent
    CONCLUDE    sending -> ok, failed, ambiguous, pending   conclude
    RECOVER     sending -> ambiguous                        recover: the process is gone
    READ_AGAIN  ambiguous -> ok                             read_again: the response is readable now
    SETTLE      ambiguous -> failed                         settle: the user's decision
    AGAIN       ok -> pending                               begin_run, mark_again: the user's order
    KEEP        pending -> ok                               begin_run, keep: a review of the answer

An example. Row 7 of the sheet is new. The API refuses it once, and then the process is killed:

    begin_run    `runs` gets run 1.
    intend       `rows` gets row 7 as sending, `requests` its body, `attempts` number 1 without
                 a verdict. Now the runner sends the request. The server responds with 429.
    conclude     Attempt 1: refused, maybe_paid 0. Row 7: pending, with the code rate_limited.
    intend       Row 7: sending. `attempts` gets number 2 without a verdict. The runner sends the
                 request, and `kill -9` ends the process.
    open_ledger  The next run opens the ledger. Row 7 is still sending, but nothing is in flight.
    recover      Attempt 2: ambiguous, with the code interrupted, and still maybe_paid 1. Row 7:
                 ambiguous. The folder now has paid_min 0 and paid_max 1.

From here on `pipeline run` does not send row 7. `resume --ambiguous` sends it again, with
another `intend`. `pipeline settle` calls `settle` instead: the row counts as failed, and its
requests still count as maybe paid.

An answer ends differently: `conclude` stores its bytes in `payloads` and the row is ok. Later the
`Sealer` moves it into a part in three steps. `name_part` records the file's name and checksum, the
Sealer writes the file, and `seal` deletes the payload and the request. After a crash between these
steps, `unsealed_part` returns the part, and the next run finishes it under the same name.

`GroupCommit` makes this fast enough. One commit takes about a millisecond and each request needs
two, so single commits would cap a run at 500 rows a second. All operations that arrive during one
commit share the next.

Damage must not make a paid row look new. `checksums` covers every entry and `wal` the last commits.
`integrity` checks the tables that decide about rows and money before a run sends.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import TypeVar, cast

from pipeline.core.errors import StorageFailed
from pipeline.core.model import MOVES, Attempt, Clock, Move, Outcome, Reply, Row, State, Verdict
from pipeline.job.traces import Trace
from pipeline.ledger import queries, wal
from pipeline.ledger.group_commit import GroupCommit
from pipeline.ledger.matching import adopt
from pipeline.ledger.queries import (
    BEGAN_WITH_SCHEMA_1,
    FOLDER_ID,
    PINNED,
    Part,
    Unfinished,
    Unread,
)
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

NOT_AGAIN: Mapping[int, str] = MappingProxyType({})


class SqliteLedger:
    """The ledger of one run folder. One process writes it, and any number of processes may read.

    Call the methods from any thread, and the coroutines from one event loop. After a write has
    failed, every later call raises the same StorageFailed: a second fsync after a failed one
    would report success for data that the kernel has already dropped. `GroupCommit` describes the
    two exceptions, a full disk and a lock that another program holds.
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
        """Marks attempts without an outcome, and their rows, as ambiguous. Returns the row ids.

        Call it before the first request of a run: then only an earlier process can have left them.

        Raises:
            StorageFailed: when one of these rows or attempts was altered.
        """

        def operation(db: sqlite3.Connection) -> frozenset[int]:
            # An UPDATE computes a new checksum, so the old one has to be checked first.
            found = db.execute(
                f"SELECT r.row_id, r.last_attempt, {intact('rows', 'r')} AND"
                f" {intact('attempts', 'a')}, r.sheet_row FROM rows r"
                " LEFT JOIN attempts a ON a.attempt_id = r.last_attempt"
                " WHERE state <> 'ok' AND state = 'sending'"
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
            StorageFailed: when the operation meets damage. The ledger still accepts writes after
                that, because the answers to requests in flight are paid and must be saved.
        """
        found, damage = self._commits.call(lambda db: _or_damage(operation, db))
        if damage is not None:
            raise damage
        return cast(T, found)

    def set_meta(self, name: str, value: str) -> None:
        self._commits.call(lambda db: db.execute("REPLACE INTO meta VALUES (?, ?)", (name, value)))

    def settle(self, rows: Iterable[Unfinished]) -> None:
        """Makes ambiguous rows failed, and marks failed rows as given up. Sends nothing.

        Writes one decision for a row and its duplicates together."""
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

    def mark_again(self, reasons: Mapping[int, str]) -> None:
        """Makes ok rows pending again, for another answer (the next version).

        `reasons` says by row id why the user asks: see `queries.again_reasons`. The current answers
        must be sealed before: a row has one entry in `requests`. The next request uses it, and
        `seal` deletes it."""
        marked = dict(reasons)
        self._commits.call(lambda db: self._mark_again(db, marked))

    def _mark_again(self, db: sqlite3.Connection, reasons: Mapping[int, str]) -> None:
        for row_id, reason in reasons.items():
            setting = "version = version + 1, code = NULL"
            _move(db, Move.AGAIN, State.PENDING, row_id, setting)
            decision_id = self._decide(db, row_id, "again")
            db.execute(
                "INSERT INTO asked_again (decision_id, attempt_id, reason)"
                " SELECT ?, ok_attempt, ? FROM rows WHERE row_id = ?",
                (decision_id, reason, row_id),
            )

    def keep(self, row_ids: Iterable[int]) -> None:
        """Makes rows ok again that wait for another answer, because a person has approved or
        edited the answer that they have. Leaves out rows that were sent meanwhile."""
        wanted = list(row_ids)

        def operation(db: sqlite3.Connection) -> None:
            for row_id in wanted:
                if db.execute(f"{_WAITING} AND row_id = ?", (row_id,)).fetchone():
                    self._keep(db, row_id)

        self._commits.call(operation)

    def _keep(self, db: sqlite3.Connection, row_id: int) -> None:
        _move(db, Move.KEEP, State.OK, row_id, "code = NULL")
        self._decide(db, row_id, "kept")

    def read_again(self, unread: Iterable[Unread]) -> None:
        """Makes rows ok whose stored responses this release can read. Sends nothing.

        Each `body` becomes the row's answer."""
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
        again: Mapping[int, str] = NOT_AGAIN,
        token: str | None = None,
        last_review: int = 0,
        kept_by_review: str | None = None,
    ) -> None:
        """Starts a run. Later attempts belong to it, and `queries.counts` counts its sheet.

        The caller has looked the sheet up with `matching`. The sheet has `rows` rows, and the job
        skips `skipped` of them. `pins` is the JSON of the run's pinned settings. `accepted` are
        rows that were paid under other pins and that the user allows to be paid for again. `again`
        are ok rows that get another version, with the reasons (see `mark_again`). `token` names a
        plan that must not be carried out twice. `last_review` is the last review that the plan
        knows, and `kept_by_review` the new entry `queries.KEPT_BY_REVIEW`. All of this is one
        commit: a kill leaves all or nothing.
        """

        def operation(db: sqlite3.Connection) -> int:
            for (row_id,) in db.execute(_KEPT_ANSWERS).fetchall():
                self._keep(db, row_id)
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
            if last_review:
                db.execute("INSERT INTO reviews_read VALUES (?, ?)", (run, last_review))
            if kept_by_review is not None:
                db.execute(
                    "REPLACE INTO meta VALUES (?, ?)", (queries.KEPT_BY_REVIEW, kept_by_review)
                )
            self._mark_again(db, again)
            if token is not None:
                db.execute("INSERT INTO spent_tokens VALUES (?, ?, ?)", (token, run, now))
            return run

        self._run = self._commits.call(operation)

    def end_run(self, exit_code: int, stopped: str | None, summary_sha256: str) -> None:
        """Records that the run is over. Its summary is already on disk, with this SHA-256."""
        self._commits.call(
            lambda db: db.execute(
                "UPDATE runs SET finished_at = ?, exit_code = ?, stopped = ?, summary_sha256 = ?"
                " WHERE run = ?",
                (self._clock.wall(), exit_code, stopped, summary_sha256, self._run),
            )
        )

    def amend_summary(self, run_id: str, write: Callable[[], str]) -> None:
        """Calls `write`, which writes the summary of `run_id` again and returns its SHA-256.

        Records that SHA-256. Does nothing if another run has begun since, or if the run's record
        was altered. While `write` works the ledger has no checksum of the summary, so `verify`
        accepts the old file and the new one after a crash.
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
        """Records the intent to send `row`; returns once the record would survive a power cut.

        The caller may send the first byte only after that."""
        attempt_id = self._next_attempt
        self._next_attempt += 1
        return await self._commits.durably(lambda db: self._write_intent(db, attempt_id, row))

    async def conclude(
        self, attempt: Attempt, outcome: Outcome, reply: Reply, state: State
    ) -> None:
        """Records an outcome; returns once the record would survive a power cut.

        `state` is the row's new state. An answer is stored whole. So is the body of a response
        without an answer, if the request may have been paid.
        """
        seq = None
        if outcome.verdict is Verdict.OK:
            seq = self._next_seq
            self._next_seq += 1
        await self._commits.durably(
            lambda db: self._write_outcome(db, attempt, outcome, reply, state, seq), saves=True
        )

    async def withdraw(self, attempt: Attempt) -> None:
        """Deletes an intent. Provably no byte of its request was sent.

        The row gets back the state, code and attempts that it had before. A row without any other
        attempt leaves the ledger.
        """

        def operation(db: sqlite3.Connection) -> None:
            _alone(
                db.execute(
                    "DELETE FROM attempts WHERE attempt_id = ? AND verdict IS NULL",
                    (attempt.attempt_id,),
                )
            )
            db.execute("DELETE FROM lineage WHERE attempt_id = ?", (attempt.attempt_id,))
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
        version, state, code, given_up = 1, State.PENDING, None, 0
        made = db.execute(
            "INSERT INTO rows (identity, occurrence, row_key, id, state, last_attempt, sheet_row)"
            " VALUES (?, ?, ?, ?, 'sending', ?, ?) ON CONFLICT (identity, occurrence) DO NOTHING",
            (row.identity, row.occurrence, row.row_key, row.id, attempt_id, row.number),
        )
        if made.rowcount:
            row_id = _inserted(made)
        else:  # the ledger already has this row
            row_id, version, state, code, given_up = db.execute(
                "SELECT row_id, version, state, code, given_up FROM rows"
                " WHERE identity = ? AND occurrence = ?",
                (row.identity, row.occurrence),
            ).fetchone()
            state = State(state)
            setting = "last_attempt = ?, attempts = attempts + 1, given_up = 0"
            _move(db, Move.INTEND, State.SENDING, row_id, setting, attempt_id)
        db.execute("INSERT OR IGNORE INTO requests VALUES (?, ?)", (row_id, row.body))
        db.execute(
            "INSERT INTO attempts (attempt_id, row_id, version, run, sheet_row, sent_at)"
            " VALUES (?, ?, ?, ?, ?, ?)",
            (attempt_id, row_id, version, self._run, row.number, self._clock.wall()),
        )
        if row.source is not None:
            db.execute(
                "INSERT INTO lineage (attempt_id, source_folder, source_row, source_attempt,"
                " source_edit) VALUES (?, ?, ?, ?, ?)",
                (attempt_id, *row.source),
            )
        return Attempt(attempt_id, row_id, row, state, code, bool(given_up))

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
                    str(outcome.verdict),
                    outcome.code,
                    outcome.message or None,
                    outcome.http_status,
                    int(outcome.maybe_paid),
                    attempt.attempt_id,
                ),
            )
        )
        row_id = attempt.row_id
        if seq is None:
            _move(db, Move.CONCLUDE, state, row_id, "code = ?", outcome.code)
        else:
            setting = "code = NULL, ok_attempt = ?"
            _move(db, Move.CONCLUDE, state, row_id, setting, attempt.attempt_id)
            db.execute(
                "INSERT INTO payloads VALUES (?, ?, ?)", (seq, attempt.attempt_id, reply.body)
            )
        if seq is None and outcome.maybe_paid and reply.body:
            db.execute(
                "INSERT INTO fragments VALUES (?, ?, ?)",
                (attempt.attempt_id, reply.body, reply.failure is None),
            )

    # -- sealing --------------------------------------------------------------------------

    def unsealed_part(self) -> Part | None:
        """Returns the part that has a name and is not sealed, or None.

        A crash or a failed write leaves such a part.

        Raises:
            StorageFailed: when the part's record was altered.
        """

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
        """Returns (number, first_seq, last_seq) of the next part, or None if all is sealed.

        The part has at most `most_rows` answers and `most_bytes` bytes of bodies, but always one
        answer.
        """

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
        """Records a part before its file exists, so that a crash leaves no unknown file."""
        self._commits.call(
            lambda db: db.execute(
                "REPLACE INTO parts (part, name, first_seq, last_seq, sha256)"
                " VALUES (?, ?, ?, ?, ?)",
                (part.number, part.name, part.first_seq, part.last_seq, part.sha256),
            )
        )

    def seal(self, part: Part) -> None:
        """Marks a part as sealed, and deletes its payloads and their requests.

        The part's file must be whole and durable."""

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
        """Sets `say`, which is called in the event loop: with True while writes wait for the lock
        (every 30 s), and with False once they do not."""
        self._commits.say_blocked = say

    async def unblocked(self) -> None:
        """Returns once the runner can write to the ledger."""
        await self._commits.durably(lambda db: None)

    def leave(self, after_s: float = 0.0) -> None:
        """Limits the wait for the lock to `after_s` more seconds. Answers that are not saved by
        then are lost, and their rows are ambiguous."""
        self._commits.leave(after_s)

    def close(self) -> None:
        """Commits the submitted operations and closes the connection."""
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
    """Changes a row's state. `setting` and `values` are the other columns that change with it.

    Raises:
        AssertionError: when the row's state does not allow `move`. The commit fails, and the
            ledger accepts no write after it.
    """
    assert to in MOVES[move][1], (move, to)
    _alone(
        db.execute(
            f"UPDATE rows SET state = ?{', ' if setting else ''}{setting}"
            f" WHERE row_id = ? AND {_FOUND_IN[move]}",
            (str(to), *values, row_id),  # SQLite's module takes 3,000 instructions for an enum
        )
    )


def _write_pins(db: sqlite3.Connection, run: int, settings: str, accepted: Iterable[int]) -> None:
    """Makes `settings` the pins of the run folder and of this run."""
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
    """Opens the ledger at `path` to write, and creates it if it does not exist.

    The caller has the lock of the run folder. `make_room` frees disk space that was reserved for a
    full disk, and returns whether there was any. `trace` is a file that a run left in the folder.
    A ledger without a record of that run is not new but lost.

    Raises:
        Refused: when a newer release wrote the ledger.
        StorageFailed: when SQLite cannot open it, when its last commits are lost, when it has other
            tables than the runner makes, or when it has no record of the run that left `trace`.
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
        # These two have an effect on macOS only; see `files.sync`.
        connection.execute("PRAGMA fullfsync = ON")
        connection.execute("PRAGMA checkpoint_fullfsync = ON")
        _create(connection, version)
        ledger = SqliteLedger(connection, clock, make_room)
    except BaseException as error:
        connection.close()
        if isinstance(error, sqlite3.Error):
            raise unusable(path, error) from error
        raise
    try:
        yield ledger
    finally:
        ledger.close()


def _create(db: sqlite3.Connection, version: int) -> None:
    if version < SCHEMA_VERSION:
        facts = _FIRST_FACTS + (_FACTS_OF_SCHEMA_1 if version == 1 else "")
        made = f"{tables_since(version)}{facts}PRAGMA user_version = {SCHEMA_VERSION};"
        db.executescript(f"BEGIN;{made}COMMIT;")


_WAITING = "SELECT row_id FROM rows WHERE state = 'pending' AND ok_attempt IS NOT NULL"
_KEPT_ANSWERS = (
    "SELECT row_id FROM rows WHERE state IN ('pending', 'failed') AND ok_attempt IS NOT NULL"
    " AND row_id IN (SELECT row_id FROM reviewed)"
)
_FIRST_FACTS = f"INSERT INTO meta VALUES ('{FOLDER_ID}', lower(hex(randomblob(16))));\n"
# Schema 1 stored only the last run's pins. A run had the same pins if all its rows that may have
# been paid are in the last run's sheet. The other runs may have had pins that were changed since.
_FACTS_OF_SCHEMA_1 = f"""
INSERT INTO meta VALUES ('{BEGAN_WITH_SCHEMA_1}', 'yes');
INSERT INTO pins (settings) SELECT value FROM meta WHERE name = '{PINNED}';
INSERT INTO run_pins SELECT run, pins FROM runs, pins WHERE run NOT IN (
    SELECT a.run FROM attempts a JOIN rows r USING (row_id)
    WHERE a.maybe_paid AND r.sheet_row IS NULL
);
"""
