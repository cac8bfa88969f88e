"""The tables of a ledger, and connections to them.

Each row of each table has a checksum (see `checksums`). A later schema adds tables and changes
none. A writer creates the missing tables in one transaction when it opens the ledger. A reader
treats missing tables as empty.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable
from functools import cache
from itertools import islice
from pathlib import Path
from typing import TypeVar

from pipeline.core.errors import DiskRefused, LedgerBusy, Refused, StorageFailed
from pipeline.job.traces import PART, Trace
from pipeline.ledger import checksums
from pipeline.system.opening import NotAFile, check_file

T = TypeVar("T")

PATIENCE_S = 30.0
"""How long a call waits for another program's lock. Nothing that was paid depends on such calls."""
_BUSY = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_PROTOCOL)
# Interrupted means too many steps for pages that are sound.
_OF_ITS_PAGES = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_INTERRUPT)
_OF_THE_DISK = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN)

SCHEMA_VERSION = 2

_TABLES_1 = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;

CREATE TABLE runs (
    run INTEGER PRIMARY KEY, run_id TEXT NOT NULL, started_at REAL NOT NULL, finished_at REAL,
    rows INTEGER, skipped INTEGER, exit_code INTEGER, stopped TEXT, summary_sha256 TEXT
);

-- One for each (identity, occurrence) that was ever attempted. sheet_row is its number in the sheet
-- of the last run, NULL if that sheet does not have it. version counts the answers that the user
-- asked for, from 1 on. ok_attempt is the last attempt that was ok, of any version, so that an
-- unfinished version does not hide a finished one.
CREATE TABLE rows (
    row_id INTEGER PRIMARY KEY, identity BLOB NOT NULL, occurrence INTEGER NOT NULL,
    row_key BLOB NOT NULL, id TEXT, version INTEGER NOT NULL DEFAULT 1,
    state TEXT NOT NULL, code TEXT, last_attempt INTEGER NOT NULL, ok_attempt INTEGER,
    given_up INTEGER NOT NULL DEFAULT 0, attempts INTEGER NOT NULL DEFAULT 1, sheet_row INTEGER
);
CREATE UNIQUE INDEX rows_known ON rows (identity, occurrence);
CREATE INDEX rows_open ON rows (state) WHERE state <> 'ok';
CREATE INDEX rows_gone ON rows (row_id) WHERE sheet_row IS NULL;
CREATE INDEX rows_equal ON rows (identity) WHERE occurrence > 0;

-- Under `dedupe: true`, the sheet's rows that are equal to an earlier row, the one at first_row.
-- The runner sends only that row, and its state is also theirs.
CREATE TABLE duplicates (sheet_row INTEGER PRIMARY KEY, first_row INTEGER NOT NULL);

-- verdict is NULL from the intent until the outcome.
CREATE TABLE attempts (
    attempt_id INTEGER PRIMARY KEY, row_id INTEGER NOT NULL, version INTEGER NOT NULL,
    run INTEGER NOT NULL, sheet_row INTEGER NOT NULL, sent_at REAL NOT NULL, finished_at REAL,
    latency_s REAL, verdict TEXT, code TEXT, message TEXT, http_status INTEGER,
    maybe_paid INTEGER NOT NULL DEFAULT 1
);

-- What the user decided about a row: 'settled' (ambiguous, now failed), 'given_up' or 'again'. And
-- 'reread': the runner could read a stored response that it could not read before.
CREATE TABLE decisions (
    decision_id INTEGER PRIMARY KEY, row_id INTEGER NOT NULL, decision TEXT NOT NULL,
    decided_at REAL NOT NULL
);

-- The request's body of each row, until the row's answer is sealed in a part.
CREATE TABLE requests (row_id INTEGER PRIMARY KEY, body BLOB NOT NULL);
-- The bytes of answers that are not sealed yet, numbered in the order in which they arrived.
CREATE TABLE payloads (seq INTEGER PRIMARY KEY, attempt_id INTEGER NOT NULL, body BLOB NOT NULL);
-- The bytes of responses that may have been paid and contain no answer. whole: the response came
-- completely, so a later release may be able to read it.
CREATE TABLE fragments (
    attempt_id INTEGER PRIMARY KEY, body BLOB NOT NULL, whole INTEGER NOT NULL
);

CREATE TABLE parts (
    part INTEGER PRIMARY KEY, name TEXT NOT NULL, first_seq INTEGER NOT NULL,
    last_seq INTEGER NOT NULL, sha256 TEXT NOT NULL, sealed INTEGER NOT NULL DEFAULT 0
);
"""

_TABLES_2 = """
-- Every set of pins that a run of this folder had. Pins are the settings that change an answer, as
-- JSON.
CREATE TABLE pins (pins INTEGER PRIMARY KEY, settings TEXT NOT NULL);
CREATE UNIQUE INDEX pins_known ON pins (settings);
-- The set of each run. The set of a run that is missing here is unknown: schema 1 did not store it.
CREATE TABLE run_pins (run INTEGER PRIMARY KEY, pins INTEGER NOT NULL);

-- Rows that were or may have been paid under other pins, and that the user allows to be paid for
-- again under the pins named here.
CREATE TABLE accepted (
    acceptance INTEGER PRIMARY KEY, row_id INTEGER NOT NULL, pins INTEGER NOT NULL,
    run INTEGER NOT NULL
);
CREATE UNIQUE INDEX accepted_known ON accepted (row_id, pins);

-- Rows of the sheet that are skipped now and have a paid answer. row_id is the row that has it.
CREATE TABLE skipped_answers (sheet_row INTEGER PRIMARY KEY, row_id INTEGER NOT NULL);

-- Plans that a run carried out and that may have paid twice. The runner carries none out again.
CREATE TABLE spent_tokens (
    token TEXT PRIMARY KEY, run INTEGER NOT NULL, spent_at REAL NOT NULL
) WITHOUT ROWID;

-- The answer that an 'again' decision replaces, and the reason: 'rows', or flags, one a line.
CREATE TABLE asked_again (
    decision_id INTEGER PRIMARY KEY, attempt_id INTEGER NOT NULL, reason TEXT NOT NULL
);

-- The source of a request's text, if another job's answers are its sheet: that job's folder, the
-- row there, and the attempt or the edit that the text comes from.
CREATE TABLE lineage (
    attempt_id INTEGER PRIMARY KEY, source_folder TEXT NOT NULL, source_row INTEGER NOT NULL,
    source_attempt INTEGER, source_edit TEXT
);

-- The last review that a run had read when it planned. An older file of reviews means damage.
CREATE TABLE reviews_read (run INTEGER PRIMARY KEY, last_review INTEGER NOT NULL);
"""

_ADDED = {1: _TABLES_1, 2: _TABLES_2}
"""The SQL of the tables that each schema adds."""

COLUMNS = checksums.columns_of("".join(_ADDED.values()))
"""The columns of each table that its checksum covers."""

_KINDS = checksums.kinds_of("".join(_ADDED.values()))


def tables_since(version: int) -> str:
    """Returns the SQL that upgrades a ledger of schema `version` (0: an empty file) to this one."""
    return "".join(
        checksums.with_sums(tables) for added, tables in _ADDED.items() if added > version
    )


def empty(version: int = SCHEMA_VERSION) -> sqlite3.Connection:
    """Returns an empty ledger in memory, as a release with schema `version` makes it."""
    connection = sqlite3.connect(":memory:", isolation_level=None)
    checksums.register(connection)
    for added, tables in _ADDED.items():
        if added <= version:
            connection.executescript(checksums.with_sums(tables))
    return connection


def add_missing(db: sqlite3.Connection, version: int) -> None:
    """Gives a reader of a ledger of schema `version` the later tables, as empty temporary ones."""
    for added, tables in _ADDED.items():
        if added > version:
            temporary = checksums.with_sums(tables).replace("CREATE TABLE", "CREATE TEMP TABLE")
            # Statement by statement, because `executescript` would end the reader's view.
            for statement in temporary.replace("UNIQUE INDEX ", "UNIQUE INDEX temp.").split(";\n"):
                db.execute(statement)


def connect(path: Path, *, read_only: bool, resting: bool = False) -> sqlite3.Connection:
    """Opens a connection without automatic transactions.

    `resting`: the file contains the whole ledger, and no process writes to it while the connection
    is open. SQLite then reads it without locks and without additional files.

    Raises:
        StorageFailed: when SQLite cannot open the file.
    """
    mode = "ro" if read_only else "rw"
    _refuse_odd_files(path)
    try:
        connection = sqlite3.connect(
            f"{path.absolute().as_uri()}?mode={mode}{'&immutable=1' if resting else ''}",
            uri=True,
            isolation_level=None,
            check_same_thread=False,
            timeout=PATIENCE_S,
        )
        checksums.register(connection)
    except sqlite3.Error as error:
        raise unusable(path, error) from error
    return connection


def _refuse_odd_files(path: Path) -> None:
    """Checks that the ledger's files are regular files. SQLite would wait for a FIFO.

    Raises:
        StorageFailed: when one of them is something else.
    """
    for end in ("", "-wal", "-shm", "-journal"):
        with contextlib.suppress(FileNotFoundError):
            try:
                check_file(path.with_name(path.name + end))
            except NotAFile as error:
                raise StorageFailed(
                    f"{error.filename}: the runner cannot use this file of the ledger, because it "
                    f"is {error.strerror}. Nothing was sent. Restore the file from a copy that "
                    "was made after the last run."
                ) from None


def undamaged(operation: Callable[[sqlite3.Connection], T], db: sqlite3.Connection) -> T:
    """Runs a reading operation and returns its result.

    Raises:
        StorageFailed: when the operation meets text that is no longer valid UTF-8.
    """
    try:
        return operation(db)
    except (sqlite3.Error, UnicodeError) as error:
        if isinstance(error, UnicodeError) or checksums.is_damage(error):
            raise altered("a stored text") from error
        raise


def altered(what: str, sheet_row: object = None) -> StorageFailed:
    """Returns the exception for altered data. `what` names the data, as a noun."""
    where = f" (row {sheet_row} of the sheet)" if isinstance(sheet_row, int) else ""
    return StorageFailed(
        f"The ledger (ledger.sqlite) is damaged: {what}{where} is not as the runner wrote it. The "
        "runner uses no altered data, and nothing more was sent. Keep the run folder unchanged; "
        "`pipeline verify` lists everything that is damaged."
    )


def part_name(name: object) -> str:
    """Returns `name` if a part can have that name. It becomes a path, and another person may have
    made the ledger.

    Raises:
        StorageFailed: for anything else.
    """
    if not isinstance(name, str) or not PART.fullmatch(name):
        raise altered("the name of a part")
    return name


def intact(table: str, alias: str) -> str:
    """Returns an SQL expression: whether a row of `table`, under `alias`, is as it was written."""
    return f"({checksums.intact(COLUMNS[table], alias)} AND {typed(table, alias)})"


def typed(table: str, alias: str) -> str:
    """Returns an SQL expression: whether a row has values of the types that a run writes."""
    return _KINDS[table].format(alias)


def check_version(path: Path, db: sqlite3.Connection) -> int:
    """Returns the schema's version, 0 for an empty file.

    Call it before any other statement, because another person may have made the ledger, and SQLite
    runs its triggers and views.

    Raises:
        Refused: when a newer release wrote it.
        StorageFailed: when it contains anything except the tables and indexes of that version.
    """
    version = int(db.execute("PRAGMA user_version").fetchone()[0])
    if version > SCHEMA_VERSION:
        raise Refused(
            f"{path}: a newer release wrote this ledger (its schema is {version}; this release "
            f"reads up to {SCHEMA_VERSION}). Upgrade the runner."
        )
    # This reads the definitions as texts and runs none of them.
    found = undamaged(lambda db: tuple(islice(db.execute(_OBJECTS), _MOST_OBJECTS)), db)
    if found != _made_by(version):
        raise StorageFailed(
            f"{path}: this ledger does not have the tables that the runner makes. Changed tables "
            "could make the runner pay for rows twice, so nothing was sent. Restore the ledger "
            "from a copy that was made after the last run."
        )
    return version


def bound(db: sqlite3.Connection, path: Path) -> None:
    """Limits the steps that SQLite may take on `db`, the ledger at `path`. Then SQLite interrupts.

    No operation on a sound ledger of that size takes so many. In a file made to do harm, pages can
    refer to each other a million times. A `count(*)` of a whole table is a single step, which this
    limit cannot interrupt, so no query of the runner does that.
    """
    left = _STEPS + _STEPS_PER_BYTE * sum(_bytes(path.with_name(path.name + e)) for e in _LOGS)

    def over() -> bool:
        nonlocal left
        left -= _LOOK_STEPS
        return left < 0

    db.set_progress_handler(over, _LOOK_STEPS)


def _bytes(path: Path) -> int:
    """Returns the size of a file, without its holes if the file system counts blocks."""
    try:
        facts = path.stat()
    except OSError:
        return 0
    return min(facts.st_size, facts.st_blocks * 512) if facts.st_blocks else facts.st_size


# Measured on a ledger of 10,000 rows: `verify` takes 2.4 steps of SQLite for each byte, and the
# other commands take less. So a million rows take 3 % of this limit.
_STEPS, _STEPS_PER_BYTE, _LOOK_STEPS = 20_000_000, 80, 100_000
_LOGS = ("", "-wal")
_OBJECTS = "SELECT type, name, tbl_name, coalesce(sql, '') FROM sqlite_schema ORDER BY type, name"
_MOST_OBJECTS = 1000


@cache
def _made_by(version: int) -> tuple[tuple[str, ...], ...]:
    """Returns the tables and indexes of a new ledger of schema `version`."""
    with contextlib.closing(empty(version)) as fresh:
        return tuple(fresh.execute(_OBJECTS))


def lost(path: Path, trace: Trace, empty: bool) -> StorageFailed:
    """Returns the exception for a ledger that has no record of the run that left `trace`."""
    problem = "is missing or empty" if empty else f"has no record of run {trace.run_id}"
    return StorageFailed(
        f"{path}: the ledger {problem}, but {trace.file} shows that a run used this folder. With "
        "this ledger the runner would pay for every row again. Restore the ledger from a copy that "
        "was made after the last run. Without a copy, set another `output:` in the job file: the "
        "next run then pays for every row. Nothing was sent."
    )


def is_busy(error: sqlite3.Error) -> bool:
    """Tells whether another program holds SQLite's lock, so that nothing was read or written."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in _BUSY


def unusable(path: Path, error: sqlite3.Error) -> StorageFailed:
    """Returns the exception for an error of SQLite."""
    problem = f"{path}: SQLite cannot use the ledger ({error}). Nothing more was sent."
    keep = "Do not delete the ledger: it is the only record of the requests that were sent."
    if is_busy(error):
        return LedgerBusy()
    if getattr(error, "sqlite_errorcode", 0) & 0xFF in _OF_ITS_PAGES:
        return altered("the structure of its pages")
    # SQLite reports a quota that is used up as "disk I/O error", and a folder that accepts no more
    # files as "unable to open database file". Python does not show the operating system's error.
    if getattr(error, "sqlite_errorcode", 0) & 0xFF in _OF_THE_DISK:
        fix = "Check whether the disk is full, over its quota or read-only, and make room on it."
        return DiskRefused(f"{problem} {fix} {keep}")
    return StorageFailed(f"{problem} {keep}")
