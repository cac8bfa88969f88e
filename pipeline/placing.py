"""A sheet laid over what a ledger holds: which of its rows are known, and where each one stands.

Equal rows take the best outcomes that are held, in the order of the sheet. All of it happens in
temporary tables, so that it can be looked at without changing anything; `adopt` makes it last.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence

from pipeline.model import Held, State
from pipeline.records import SNAPSHOT, SNAPSHOT_SHA256
from pipeline.schema import altered, intact

# For equal rows: an answered row first, then by state. A row that waits for a second version has
# an answer already, and must not leave the sheet before one that has none.
_BEST_FIRST = (
    "(ok_attempt IS NULL), CASE state "
    + " ".join(f"WHEN '{state}' THEN {rank}" for rank, state in enumerate(State))
    + " END, occurrence"
)


def begin(db: sqlite3.Connection) -> None:
    """Starts the comparison, and ranks equal rows whose best outcome is not the first."""
    db.execute("CREATE TEMP TABLE placed (row_id INTEGER PRIMARY KEY, sheet_row INTEGER)")
    db.execute(
        "CREATE TEMP TABLE wanted"
        " (sheet_row INTEGER PRIMARY KEY, identity BLOB, occurrence INTEGER)"
    )
    db.execute(
        "CREATE TEMP TABLE moved"
        " (identity BLOB, occurrence INTEGER, row_id INTEGER, PRIMARY KEY (identity, occurrence))"
    )
    db.execute(
        "INSERT INTO moved SELECT identity, row_number() OVER"
        f" (PARTITION BY identity ORDER BY {_BEST_FIRST}) - 1, row_id FROM rows"
        " WHERE identity IN (SELECT identity FROM rows WHERE occurrence > 0)"
    )


def look_up(
    wanted: Sequence[tuple[int, bytes, int]],
) -> Callable[[sqlite3.Connection], list[Held | None]]:
    """What is held for each (sheet row, identity, occurrence) of a batch, in its order.

    Raises:
        StorageFailed: from the operation, when the ledger's row is not what was written.
    """

    def operation(db: sqlite3.Connection) -> list[Held | None]:
        db.execute("DELETE FROM wanted")
        db.executemany("INSERT INTO wanted VALUES (?, ?, ?)", wanted)
        found = {}
        for number, whole, row_id, state, code, *flags in db.execute(_LOOK_UP):
            if not whole:
                raise altered("what is known of a row", number)
            found[number] = Held(row_id, State(state), code, *map(bool, flags))
        db.executemany(
            "INSERT INTO placed VALUES (?, ?)",
            [(held.row_id, number) for number, held in found.items()],
        )
        return [found.get(number) for number, _, _ in wanted]

    return operation


def leaving(db: sqlite3.Connection) -> int:
    """Rows of the last run's sheet that are or may be paid and that this sheet does not have."""
    return int(
        db.execute(
            "SELECT count(*) FROM rows r WHERE r.sheet_row IS NOT NULL"
            " AND r.row_id NOT IN (SELECT row_id FROM placed) AND (r.ok_attempt IS NOT NULL OR"
            " (SELECT maybe_paid FROM attempts WHERE attempt_id = r.last_attempt))"
        ).fetchone()[0]
    )


def check_absent(db: sqlite3.Connection) -> None:
    """Checks the rows that the sheet does not have, once all of it was looked up.

    A row whose identity was altered looks like one that has left the sheet, and its row in the
    sheet like a new one: it would be sent and paid again.

    Raises:
        StorageFailed: when a row is not what was written, or is not found by its own identity.
    """
    for sheet_row, whole, findable in db.execute(_ABSENT):
        if not (whole and findable):
            raise altered("what is known of a row that looks like it left the sheet", sheet_row)


def adopt(snapshot_id: str, sha256: str) -> Callable[[sqlite3.Connection], None]:
    """Makes the sheet that was looked up the one that counts are about."""

    def operation(db: sqlite3.Connection) -> None:
        # Through negative numbers, as no two rows may share an occurrence on the way.
        for shift in ("-1 - ", ""):
            db.execute(
                f"UPDATE rows SET occurrence = {shift}moved.occurrence FROM moved"
                " WHERE rows.row_id = moved.row_id AND rows.occurrence <> moved.occurrence"
            )
        db.execute(
            "UPDATE rows SET sheet_row = placed.sheet_row FROM placed"
            " WHERE rows.row_id = placed.row_id AND rows.sheet_row IS NOT placed.sheet_row"
        )
        db.execute(
            "UPDATE rows SET sheet_row = NULL WHERE sheet_row IS NOT NULL"
            " AND row_id NOT IN (SELECT row_id FROM placed)"
        )
        db.executemany(
            "REPLACE INTO meta VALUES (?, ?)",
            [(SNAPSHOT, snapshot_id), (SNAPSHOT_SHA256, sha256)],
        )
        for table in ("placed", "wanted", "moved"):
            db.execute(f"DROP TABLE temp.{table}")

    return operation


# A group of equal rows that was ranked is found by its ranks alone.
_HELD = (
    f"w.sheet_row, {intact('rows', 'r')}, r.row_id, r.state, r.code,"
    " r.ok_attempt IS NOT NULL, r.given_up,"
    " CASE r.state WHEN 'failed' THEN"
    " (SELECT maybe_paid FROM attempts WHERE attempt_id = r.last_attempt)"
    " ELSE r.state <> 'pending' END"
)
_LOOK_UP = (
    f"SELECT {_HELD} FROM wanted w JOIN moved m USING (identity, occurrence)"
    " JOIN rows r ON r.row_id = m.row_id"
    f" UNION ALL SELECT {_HELD} FROM wanted w CROSS JOIN rows r"
    " ON r.identity = w.identity AND r.occurrence = w.occurrence"
    " WHERE NOT EXISTS (SELECT 1 FROM moved m WHERE m.identity = w.identity)"
)
_ABSENT = (
    f"SELECT r.sheet_row, {intact('rows', 'r')}, EXISTS (SELECT 1 FROM rows k"
    " INDEXED BY rows_known WHERE k.identity = r.identity AND k.occurrence = r.occurrence"
    " AND k.row_id = r.row_id)"
    " FROM rows r NOT INDEXED WHERE r.row_id NOT IN (SELECT row_id FROM placed)"
)
