"""The requests that were made for some rows of the sheet, and the answers among them.

The ledger has no index from a row of the sheet to its attempts. So `choose` looks through it once
and keeps what it finds in temporary tables of the reader's connection. The other operations read
those, row by row, because a million rows and their requests do not fit into memory.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import NamedTuple

from pipeline.core.model import State, Verdict
from pipeline.ledger.queries import Answered, known_code, unfinished
from pipeline.ledger.schema import altered, intact
from pipeline.ledger.shown import shown_row


class AttemptRecord(NamedTuple):
    """One request for a row. `verdict` is None until its response came; `latency_s` then too, and
    if the runner ended before."""

    version: int
    sent_at: float
    latency_s: float | None
    verdict: Verdict | None
    code: str | None
    message: str
    http_status: int | None
    maybe_paid: bool


def choose(rows: Iterable[int], absent: Mapping[int, int]) -> Callable[[sqlite3.Connection], None]:
    """Finds the attempts for these rows of the sheet, for the other operations of this module.

    `absent` has the row ids of rows that the last run skipped, although an earlier one sent them.
    """

    def operation(db: sqlite3.Connection) -> None:
        for statement in _TABLES:
            db.execute(statement)
        db.executemany("INSERT INTO wanted VALUES (?)", ((row,) for row in rows))
        db.execute(_FIND_ROWS)
        db.executemany("INSERT OR IGNORE INTO chosen VALUES (?, ?)", absent.items())
        db.execute(_FIND_ATTEMPTS)

    return operation


def attempts_of(row: int) -> Callable[[sqlite3.Connection], list[AttemptRecord]]:
    """Returns the attempts for a chosen row, the oldest first. The caller has the ledger checked
    (see `integrity.check_ledger`)."""

    def operation(db: sqlite3.Connection) -> list[AttemptRecord]:
        found = map(AttemptRecord._make, db.execute(_ATTEMPTS, (row,)))
        return [
            one._replace(
                verdict=_verdict(one.verdict),
                code=known_code(one.code),
                maybe_paid=one.maybe_paid != 0,
            )
            for one in found
        ]

    return operation


def request_of(row: int) -> Callable[[sqlite3.Connection], bytes | None]:
    """Returns the stored request of a chosen row; None if there is none, as after its answer was
    sealed.

    Raises:
        StorageFailed: from the operation, when it was altered.
    """

    def operation(db: sqlite3.Connection) -> bytes | None:
        found = db.execute(_REQUEST, (row,)).fetchone()
        if found is None:
            return None
        if not found[1]:
            raise altered("the stored request", row)
        return bytes(found[0])

    return operation


def paid_versions(db: sqlite3.Connection) -> Iterator[Answered]:
    """Yields the places of all answers to the chosen rows, in the order of the sheet, the oldest of
    a row first. `sheet_row` is the number of the answer in this order, from 1 on."""
    for number, found in enumerate(db.execute(_PAID_VERSIONS), 1):
        yield Answered(number, *found)


def rows_of_versions(db: sqlite3.Connection) -> Iterator[tuple[int, int]]:
    """Yields (row of the sheet, attempt) of what `paid_versions` yields."""
    yield from db.execute(f"SELECT q.sheet_row, a.attempt_id {_ANSWERS} {_IN_ORDER}")


def count_versions(db: sqlite3.Connection) -> int:
    """Counts what `paid_versions` yields."""
    return int(db.execute(f"SELECT coalesce(sum(1), 0) {_ANSWERS}").fetchone()[0])


def _verdict(text: str | None) -> Verdict | None:
    try:
        return None if text is None else Verdict(text)
    except ValueError:
        raise altered("the record of an attempt") from None


_TABLES = (
    "CREATE TEMP TABLE wanted (sheet_row INTEGER PRIMARY KEY)",
    "CREATE TEMP TABLE chosen (sheet_row INTEGER PRIMARY KEY, row_id INTEGER NOT NULL)",
    "CREATE INDEX temp.chosen_by_id ON chosen (row_id)",
    "CREATE TEMP TABLE requested (sheet_row INTEGER, attempt_id INTEGER,"
    " PRIMARY KEY (sheet_row, attempt_id)) WITHOUT ROWID",
)
_FIND_ROWS = (
    "INSERT OR IGNORE INTO chosen"
    " SELECT r.sheet_row, r.row_id FROM rows r CROSS JOIN wanted USING (sheet_row)"
    # A duplicate under `dedupe: true` has the attempts of the row that is sent for it.
    " UNION ALL SELECT d.sheet_row, r.row_id FROM wanted CROSS JOIN duplicates d USING (sheet_row)"
    " CROSS JOIN rows r ON r.sheet_row = d.first_row"
    " UNION ALL SELECT s.sheet_row, s.row_id FROM skipped_answers s JOIN wanted USING (sheet_row)"
)
_FIND_ATTEMPTS = (
    "INSERT INTO requested SELECT c.sheet_row, a.attempt_id"
    " FROM attempts a CROSS JOIN chosen c ON c.row_id = a.row_id"
)
_ATTEMPTS = (
    "SELECT a.version, a.sent_at, a.latency_s, a.verdict, a.code, coalesce(a.message, ''),"
    " a.http_status, a.maybe_paid FROM requested q CROSS JOIN attempts a USING (attempt_id)"
    " WHERE q.sheet_row = ? ORDER BY q.attempt_id"
)
_REQUEST = (
    f"SELECT q.body, {intact('requests', 'q')} FROM chosen c JOIN requests q USING (row_id)"
    " WHERE c.sheet_row = ?"
)
_ANSWERS = (
    "FROM requested q CROSS JOIN attempts a USING (attempt_id) JOIN runs USING (run)"
    " WHERE a.verdict = 'ok'"
)
_IN_ORDER = "ORDER BY q.sheet_row, q.attempt_id"
_PAID_VERSIONS = f"SELECT runs.run_id, a.sheet_row, a.row_id, a.attempt_id {_ANSWERS} {_IN_ORDER}"


def newer_versions(in_use: bool) -> Callable[[sqlite3.Connection], dict[int, State]]:
    """Returns how the newer version ended of each row of the sheet that has an earlier answer, by
    row. `in_use`: a run is active. Does not test checksums: see `unfinished`."""

    def operation(db: sqlite3.Connection) -> dict[int, State]:
        rows = unfinished(db, verified_elsewhere=True)
        shown = (shown_row(row, in_use) for row in rows if row.answered)
        return {row.sheet_row: row.state for row in shown if row is not None}

    return operation
