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
from typing import NamedTuple, Protocol, TypeVar

from pipeline.model import ErrorCode, State, StopCode, Verdict
from pipeline.schema import altered, check_version, connect, empty, intact, undamaged, unusable

SNAPSHOT = "snapshot"
"""The name in `meta` of the snapshot that sheet rows are numbers of."""
SNAPSHOT_SHA256 = "snapshot_sha256"
"""The name in `meta` of the SHA-256 of that snapshot's file."""

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


class Unfinished(NamedTuple):
    """One attempted row of the sheet that is not ok, with its last attempt.

    `answered`: an earlier version of it is ok. `in_last_run`: that attempt was made by it.
    """

    # Of a million of them, a frozen dataclass takes three times as long to make.

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
class Unread:
    """A whole answer that was paid for and could not be read when it came."""

    row_id: int
    attempt_id: int
    http_status: int
    body: bytes


class Answered(NamedTuple):
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
    connection = connect(path, read_only=True) if path.exists() else empty()

    def read(operation: Callable[[sqlite3.Connection], T], /) -> T:
        return undamaged(operation, connection)

    try:
        if not _is_made(path, connection):
            connection.close()
            connection = empty()
        yield read
    except sqlite3.Error as error:
        raise unusable(path, error) from error
    finally:
        connection.close()


def _is_made(path: Path, db: sqlite3.Connection) -> bool:
    """Begins the view; whether the ledger has its tables.

    A rollback journal is there only while the file is being made: from its first table on, the
    ledger has a write-ahead log instead. A reader cannot take back what a kill left in it, and
    there is nothing in it to read.
    """
    try:
        db.execute("BEGIN")
        return check_version(path, db) > 0
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode == sqlite3.SQLITE_READONLY_ROLLBACK:
            return False
        raise


def meta(name: str) -> Callable[[sqlite3.Connection], str | None]:
    """A fact of the folder, such as what is pinned."""

    def operation(db: sqlite3.Connection) -> str | None:
        found = db.execute(
            f"SELECT value, {intact('meta', 'm')} FROM meta m WHERE name = ?", (name,)
        ).fetchone()
        if found and not found[1]:
            raise altered(f"the folder's {name}")
        return found[0] if found else None

    return operation


def snapshot(db: sqlite3.Connection) -> tuple[str | None, str | None]:
    """(id, SHA-256) of the snapshot that sheet rows are numbers of; None before the first run."""
    return meta(SNAPSHOT)(db), meta(SNAPSHOT_SHA256)(db)


def counts(db: sqlite3.Connection) -> Counts:
    """Where the rows of the sheet stand, and what was or may have been paid."""
    states: Counter[State] = Counter()
    codes: Counter[str] = Counter()
    given_up = 0
    # The answered rows are counted apart: grouping sorts, and they are most of a million.
    for state, code, gave_up, count in db.execute(
        "SELECT state, code, given_up, count(*) FROM (SELECT state, code, given_up FROM rows"
        " WHERE state <> 'ok' AND sheet_row IS NOT NULL UNION ALL"
        f" SELECT state, code, given_up FROM {_DUPLICATES}) WHERE state <> 'ok' GROUP BY 1, 2, 3"
        " UNION ALL SELECT 'ok', NULL, 0, count(*) FROM (SELECT state FROM rows"
        f" WHERE sheet_row IS NOT NULL UNION ALL SELECT state FROM {_DUPLICATES})"
        " WHERE state = 'ok'"
    ):
        states[_state(state)] += count
        if state != State.SENDING and code is not None:
            codes[code] += count
        if state == State.FAILED and gave_up:
            given_up += count
    by_code = dict(sorted(codes.items(), key=lambda found: (-found[1], found[0])))
    paid_min, paid_max = db.execute(
        "SELECT coalesce(sum(verdict = 'ok'), 0), coalesce(sum(maybe_paid), 0) FROM attempts"
    ).fetchone()
    last = db.execute("SELECT rows, skipped, run_id FROM runs ORDER BY run DESC LIMIT 1").fetchone()
    rows, skipped, run_id = last or (0, 0, "")
    ended = "SELECT stopped FROM runs WHERE finished_at IS NOT NULL ORDER BY run DESC LIMIT 1"
    [last_stopped] = db.execute(ended).fetchone() or (None,)
    return Counts(
        states,
        by_code,
        paid_min,
        paid_max,
        rows,
        skipped,
        given_up,
        run_id,
        last_stopped,
    )


def codes_seen(db: sqlite3.Connection) -> frozenset[str]:
    """Every error code that an attempt of this folder ended with."""
    found = db.execute("SELECT DISTINCT code FROM attempts WHERE code IS NOT NULL")
    return frozenset(code for (code,) in found)


def reached(db: sqlite3.Connection) -> bool:
    """Whether any request of this folder left for its host, as far as is known."""
    found = db.execute(
        "SELECT EXISTS (SELECT 1 FROM attempts WHERE code IS NULL OR code NOT IN (?, ?))",
        (ErrorCode.NOT_SENT, ErrorCode.TLS),
    )
    return bool(found.fetchone()[0])


def lost_lately(in_a_row: int) -> Callable[[sqlite3.Connection], bool]:
    """Whether one row should be tried before others are sent, as the last answers were lost.

    Either a run ended for that reason, and no later run got an answer that can be read: runs that
    sent nothing change nothing. Or the last `in_a_row` answers were all lost, also where the run
    was killed before it could write down why it ended. Rows that a kill cut off say nothing.
    """

    def operation(db: sqlite3.Connection) -> bool:
        [stopped_in] = db.execute(
            "SELECT max(run) FROM runs WHERE stopped = ?", (StopCode.AMBIGUOUS,)
        ).fetchone()
        readable = "SELECT EXISTS (SELECT 1 FROM attempts WHERE run > ? AND verdict IN (?, ?))"
        later = (stopped_in, Verdict.OK, Verdict.FAILED)
        if stopped_in is not None and not db.execute(readable, later).fetchone()[0]:
            return True
        last = db.execute(
            "SELECT verdict FROM attempts WHERE verdict <> ? AND coalesce(code, '') <> ?"
            " ORDER BY run DESC, finished_at DESC LIMIT ?",
            (Verdict.REFUSED, ErrorCode.INTERRUPTED, in_a_row),
        ).fetchall()
        return last == [(Verdict.AMBIGUOUS,)] * in_a_row

    return operation


def answered_in(most: int) -> Callable[[sqlite3.Connection], list[float]]:
    """How many seconds the last requests that were worked on took, at most `most` of them, in
    their order."""

    def operation(db: sqlite3.Connection) -> list[float]:
        found = db.execute(
            "SELECT latency_s FROM attempts WHERE verdict IN ('ok', 'failed', 'ambiguous')"
            " AND latency_s IS NOT NULL AND coalesce(code, '') <> ?"
            " ORDER BY attempt_id DESC LIMIT ?",
            (ErrorCode.INTERRUPTED, most),
        ).fetchall()
        return [latency_s for (latency_s,) in reversed(found)]

    return operation


def unfinished(db: sqlite3.Connection, *, believing: bool = False) -> Iterator[Unfinished]:
    """The sheet's rows that were attempted and are not ok, in the sheet's order.

    A row that waits for another version and has not been sent for it is not among them. A
    duplicate is, with the attempt that was made for it. `believing` is for who has the whole ledger
    looked through (see `paid.check_ledger`): the checksums take three times as long as the rows.

    Raises:
        StorageFailed: when one of them is not what was written.
    """
    for (
        whole,
        row_id,
        sheet_row,
        state,
        code,
        message,
        status,
        attempts,
        paid,
        sent_at,
        given_up,
        answered,
        in_last_run,
    ) in db.execute(_UNFINISHED_BELIEVED if believing else _UNFINISHED):
        if not whole:
            raise altered("how an attempt ended", sheet_row)
        yield Unfinished(
            row_id,
            sheet_row,
            _state(state),
            code,
            message,
            status,
            attempts,
            paid != 0,
            sent_at,
            given_up != 0,
            answered != 0,
            in_last_run != 0,
        )


def unread(db: sqlite3.Connection) -> Iterator[Unread]:
    """Answers that came whole and that the release which got them could not read.

    Raises:
        StorageFailed: when one of them is not what was received.
    """
    sources = (("fragments", "f"), ("attempts", "a"), ("rows", "r"), ("requests", "q"))
    checks = " AND ".join(intact(table, alias) for table, alias in sources)
    for *found, whole in db.execute(
        f"SELECT r.row_id, a.attempt_id, a.http_status, f.body, {checks} FROM fragments f"
        " JOIN attempts a USING (attempt_id) JOIN requests q USING (row_id) JOIN rows r"
        " ON r.row_id = a.row_id AND r.last_attempt = a.attempt_id"
        " WHERE f.whole AND r.state = 'ambiguous' AND a.http_status BETWEEN 200 AND 299"
    ):
        if not whole:
            raise altered("an answer that could not be read")
        yield Unread(*found)


def answered(db: sqlite3.Connection) -> Iterator[Answered]:
    """Where the answers of the sheet's rows are. Believes the ledger: see `paid.check_ledger`.

    Raises:
        StorageFailed: when the attempt that was answered is not there.
    """
    for sheet_row, run_id, sent_row in db.execute(_ANSWERED):
        if run_id is None:
            raise altered("where an answer is", sheet_row)
        yield Answered(sheet_row, run_id, sent_row)


def check_structure(db: sqlite3.Connection) -> None:
    """Has SQLite look for tables and indexes that lost something.

    Raises:
        StorageFailed: when they did.
    """
    said = db.execute("PRAGMA integrity_check(1)").fetchone()[0]
    if said != "ok":
        raise altered(f"its structure ({said})")


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
    """The answers not sealed yet in a range, in their order.

    Raises:
        StorageFailed: from the operation, when one of them is not what was written.
    """
    sources = (("payloads", "p"), ("requests", "q"), ("attempts", "a"), ("rows", "r"))
    checks = " AND ".join(intact(table, alias) for table, alias in (*sources, ("runs", "runs")))

    def operation(db: sqlite3.Connection) -> list[Finished]:
        answers = []
        for *found, whole in db.execute(
            "SELECT a.sheet_row, r.id, r.row_key, a.version, runs.run_id, q.body, p.body,"
            f" a.http_status, r.attempts, a.latency_s, a.sent_at, a.finished_at, {checks}"
            " FROM payloads p JOIN attempts a USING (attempt_id)"
            " JOIN rows r USING (row_id) JOIN requests q USING (row_id)"
            " JOIN runs USING (run) WHERE p.seq BETWEEN ? AND ? ORDER BY p.seq",
            (first_seq, last_seq),
        ):
            if not whole:
                raise altered("an answer that is not in the results yet", found[0])
            answers.append(Finished(*found))
        return answers

    return operation


def unsealed_range(db: sqlite3.Connection) -> tuple[int, int]:
    """(first, last) of the answers that are not sealed yet; the first is after the last where
    there are none."""
    first, last = db.execute("SELECT min(seq), max(seq) FROM payloads").fetchone()
    return (1, 0) if first is None else (first, last)


@dataclass(frozen=True, slots=True)
class Sealed:
    """A part that is whole: its file's name and checksum, and how many answers it holds."""

    name: str
    sha256: str
    rows: int


def sealed_parts(db: sqlite3.Connection) -> list[Sealed]:
    """The parts that are whole, in their order."""
    found = db.execute(
        f"SELECT name, sha256, last_seq - first_seq + 1, {intact('parts', 'p')}"
        " FROM parts p WHERE sealed ORDER BY part"
    ).fetchall()
    if not all(whole for *_, whole in found):
        raise altered("what it says of a part")
    return [Sealed(name, sha256, rows) for name, sha256, rows, _ in found]


# A duplicate stands where the row stands that is sent for it. CROSS: without duplicates nothing of
# the rows is looked at.
_DUPLICATES = "duplicates d CROSS JOIN rows r ON r.sheet_row = d.first_row"

_UNFINISHED_OF = (
    "SELECT {whole}, r.row_id, {place} AS place, r.state, r.code, coalesce(a.message, ''),"
    " a.http_status, r.attempts, a.maybe_paid, a.sent_at, r.given_up, r.ok_attempt IS NOT NULL,"
    " a.run = (SELECT max(run) FROM runs)"
    " FROM {rows} JOIN attempts a ON a.attempt_id = r.last_attempt"
    " WHERE r.state <> 'ok' AND r.sheet_row IS NOT NULL"
    " AND NOT (r.state = 'pending' AND r.code IS NULL)"
)


def _unfinished(row_whole: str, duplicate_whole: str) -> str:
    return (
        _UNFINISHED_OF.format(place="r.sheet_row", whole=row_whole, rows="rows r")
        + " UNION ALL "
        + _UNFINISHED_OF.format(place="d.sheet_row", whole=duplicate_whole, rows=_DUPLICATES)
        + " ORDER BY place"
    )


_WHOLE = f"{intact('rows', 'r')} AND {intact('attempts', 'a')}"
_UNFINISHED = _unfinished(_WHOLE, f"{_WHOLE} AND {intact('duplicates', 'd')}")
_UNFINISHED_BELIEVED = _unfinished("1", "1")

_ANSWERED_OF = (
    "SELECT {place}, runs.run_id, a.sheet_row"
    " FROM {rows} LEFT JOIN attempts a ON a.attempt_id = r.ok_attempt"
    " LEFT JOIN runs ON runs.run = a.run"
    " WHERE r.sheet_row IS NOT NULL AND r.ok_attempt IS NOT NULL"
)
_ANSWERED = (
    _ANSWERED_OF.format(place="r.sheet_row", rows="rows r NOT INDEXED")
    + " UNION ALL "
    + _ANSWERED_OF.format(place="d.sheet_row", rows=_DUPLICATES)
)

_STATES = {str(state): state for state in State}


def _state(text: str) -> State:
    state = _STATES.get(text)
    if state is None:
        raise altered("the state of a row")
    return state
