"""Matches the rows of a sheet with the rows of a ledger, and tells the state of each.

Equal rows of the sheet get the best outcomes of their rows in the ledger, in the order of the
sheet. Under `dedupe: true` the first of them gets the best outcome of any ledger row with their
key, and the others, its duplicates, share it. All of this uses temporary tables, so a caller can
look without changing anything. `adopt` makes the match permanent.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.core.model import Alike, Held, State
from pipeline.ledger.queries import SNAPSHOT, SNAPSHOT_SHA256, known_code, known_state
from pipeline.ledger.schema import altered, intact

# For equal rows: rows with an answer first, of these the reviewed ones, then by state. A row that
# waits for a second version has an answer already. If the sheet now has fewer of these rows, one
# without an answer goes first.
_BEST_FIRST = (
    "(ok_attempt IS NULL), (row_id NOT IN (SELECT row_id FROM reviewed)), CASE state "
    + " ".join(f"WHEN '{state}' THEN {rank}" for rank, state in enumerate(State))
    + " END, occurrence"
)

_PAID = (
    "(r.ok_attempt IS NOT NULL OR"
    " (SELECT maybe_paid FROM attempts WHERE attempt_id = r.last_attempt))"
)
_NOT_ACCEPTED = (
    "NOT EXISTS (SELECT 1 FROM accepted c JOIN pins p USING (pins)"
    " WHERE c.row_id = r.row_id AND p.settings = ?)"
)


def protect(attempts: Iterable[int]) -> Callable[[sqlite3.Connection], None]:
    """Tells the match that follows which answers are approved or edited, by their attempts. A row
    is protected if any of its versions is: a newer one may have been in flight."""

    def operation(db: sqlite3.Connection) -> None:
        db.execute(_REVIEWED)
        db.execute("DELETE FROM reviewed")
        db.execute(
            "INSERT OR IGNORE INTO reviewed SELECT a.row_id FROM json_each(?) w"
            " CROSS JOIN attempts a ON a.attempt_id = w.value WHERE a.verdict = 'ok'",
            (json.dumps(list(attempts)),),
        )

    return operation


def begin(db: sqlite3.Connection) -> bool:
    """Starts a match, and ranks equal rows by outcome. Returns whether the ledger has any rows."""
    _create(db)
    db.execute(
        "INSERT INTO moved SELECT identity, row_number() OVER"
        f" (PARTITION BY identity ORDER BY {_BEST_FIRST}) - 1, row_id FROM rows"
        " WHERE identity IN (SELECT identity FROM rows INDEXED BY rows_equal WHERE occurrence > 0)"
    )
    return _holds_rows(db)


def begin_deduped(db: sqlite3.Connection) -> bool:
    """Starts a match under `dedupe: true`. Returns whether the ledger has rows.

    Finds the ledger's best row for each row key, whatever its id and occurrence. Changes no rank.
    """
    _create(db)
    db.execute("CREATE TEMP TABLE best (row_key BLOB PRIMARY KEY, row_id INTEGER) WITHOUT ROWID")
    db.execute(
        "INSERT INTO best SELECT row_key, row_id FROM (SELECT row_key, row_id, row_number() OVER"
        f" (PARTITION BY row_key ORDER BY {_BEST_FIRST}, row_id) AS place FROM rows)"
        " WHERE place = 1"
    )
    return _holds_rows(db)


def last_row(db: sqlite3.Connection) -> int:
    """Returns the largest row id of the ledger, 0 if it has no rows."""
    return int(db.execute("SELECT coalesce(max(row_id), 0) FROM rows").fetchone()[0])


def find_in_place(names: memoryview, row_ids: range) -> Callable[[sqlite3.Connection], Alike]:
    """Finds the finished rows that stand where they stood at the last run, among the ledger's rows
    `row_ids`.

    `names` has 16 bytes for each row of the sheet: its identity, or zeros for a row that is skipped
    or that has an equal row before it. `look_up` would find the same, but takes five times as long
    because it asks the index for each row. It has to find all others.
    """

    def operation(db: sqlite3.Connection) -> Alike:
        found = db.execute(_IN_PLACE, (row_ids.start, row_ids.stop - 1, names)).fetchone()
        alike = Alike(_FINISHED, *map(_listed, found))
        db.executemany("INSERT INTO stayed VALUES (?, ?)", _ranges(np.sort(alike.row_ids)))
        return alike

    return operation


def _ranges(ascending: npt.NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """Yields (first, last) of each run of consecutive numbers."""
    ends = np.diff(ascending) != 1
    firsts = ascending[np.append(True, ends)[: len(ascending)]]
    lasts = ascending[np.append(ends, True)[: len(ascending)]]
    return zip(firsts.tolist(), lasts.tolist(), strict=True)


def look_up(
    wanted: Sequence[tuple[int, bytes, int]], *, deduped: bool = False
) -> Callable[[sqlite3.Connection], list[Alike]]:
    """Looks up a batch of (sheet row, identity, occurrence). The operation returns the rows that
    the ledger has.

    `deduped`: the batch contains only the first of equal rows, with its row key as the identity.
    """

    def operation(db: sqlite3.Connection) -> list[Alike]:
        db.execute("DELETE FROM wanted")
        db.executemany("INSERT INTO wanted VALUES (?, ?, ?)", wanted)
        db.execute("DELETE FROM met")
        db.execute(f"INSERT INTO met {_LOOK_UP_BEST if deduped else _LOOK_UP}")
        db.execute("INSERT INTO placed SELECT row_id, sheet_row FROM met")
        return [
            Alike(_held(state, code, flags), _listed(numbers), _listed(row_ids))
            for state, code, *flags, numbers, row_ids in db.execute(_MET)
        ]

    return operation


def _held(state: str, code: object, flags: Iterable[object]) -> Held:
    return Held(known_state(state), known_code(code), *map(bool, flags))


def names(db: sqlite3.Connection) -> list[tuple[int, bytes, int]]:
    """Returns (sheet row, identity, occurrence in the ledger) of the rows that the last `look_up`
    found."""
    return db.execute(
        "SELECT m.sheet_row, r.identity, r.occurrence FROM met m JOIN rows r USING (row_id)"
    ).fetchall()


def _listed(numbers: str) -> npt.NDArray[np.int64]:
    return np.fromstring(numbers, dtype=np.int64, sep=",")


def keep_answers(
    skipped: Sequence[tuple[int, bytes]], *, deduped: bool = False
) -> Callable[[sqlite3.Connection], list[int]]:
    """Finds the skipped rows of the sheet that have a paid answer, and keeps these answers.

    `skipped` is (sheet row, identity) of each skipped row; `deduped`: (sheet row, row key). The
    operation returns the sheet rows that have an answer. Look up all other rows before: equal rows
    that are not skipped come first.
    """

    def operation(db: sqlite3.Connection) -> list[int]:
        db.execute("DELETE FROM kept")
        db.execute("CREATE TEMP TABLE skipped (sheet_row INTEGER PRIMARY KEY, name BLOB)")
        db.executemany("INSERT INTO skipped VALUES (?, ?)", skipped)
        db.execute(f"INSERT INTO kept {_KEPT_BEST if deduped else _KEPT}")
        db.execute("DROP TABLE temp.skipped")
        return [row for (row,) in db.execute("SELECT sheet_row FROM kept")]

    return operation


def share(pairs: Sequence[tuple[int, int]]) -> Callable[[sqlite3.Connection], None]:
    """Records duplicates, as (sheet row, sheet row of the first of its equal rows)."""
    return lambda db: _insert_shared(db, pairs)


class Protected(NamedTuple):
    """A row with an approved or edited answer. `place` is its row in the sheet that is matched,
    None if that sheet does not have it. `places` are its rows in the sheet of the last run."""

    row_id: int
    id: str | None
    place: int | None
    places: tuple[int, ...]


def protected_rows(db: sqlite3.Connection) -> list[Protected]:
    """Returns the rows whose answers are approved or edited. Those that the last sheet does not
    have come first, and then those with the newest row in the ledger last."""
    found = [
        Protected(
            row_id, name, place, tuple(sorted({*_places(dups), *_places(kept), *_places(own)}))
        )
        for row_id, name, place, own, dups, kept in db.execute(_PROTECTED)
    ]
    return sorted(found, key=lambda one: (bool(one.places), one.row_id))


def _places(listed: object) -> list[int]:
    return [] if listed is None else [int(place) for place in str(listed).split(",")]


def keep_reviewed(rows: Mapping[int, int]) -> Callable[[sqlite3.Connection], None]:
    """Gives changed rows of the sheet the answer of the ledger's row that a review protects."""
    return lambda db: _insert_kept(db, rows)


def answered_rows(*, finished: bool) -> Callable[[sqlite3.Connection], list[tuple[int, int, int]]]:
    """Returns (sheet row, row id, attempt of the last answer) of the sheet's rows that have an
    answer, without those that are ok unless `finished`."""
    which = "" if finished else " AND r.state <> 'ok'"
    query = (
        "SELECT coalesce(p.sheet_row, r.sheet_row), r.row_id, r.ok_attempt FROM rows r"
        f" LEFT JOIN placed p USING (row_id) WHERE r.ok_attempt IS NOT NULL{which}"
        f" AND r.row_id NOT IN ({_ABSENT})"
    )
    return lambda db: db.execute(query).fetchall()


def paid_before(
    names: Sequence[bytes], pins: str, *, deduped: bool = False
) -> Callable[[sqlite3.Connection], dict[bytes, list[int]]]:
    """Finds the ledger rows that were or may have been paid under `names`. The operation returns
    their ids by name.

    `names` are identities (`deduped`: row keys). Leaves out rows that the user allows to be paid
    for again under the pins `pins`.
    """

    def operation(db: sqlite3.Connection) -> dict[bytes, list[int]]:
        db.execute("DELETE FROM named")
        db.executemany("INSERT INTO named VALUES (?)", [(name,) for name in names])
        known = "best b ON b.row_key = n.name JOIN rows r USING (row_id)"
        rows = known if deduped else "rows r ON r.identity = n.name"
        found: dict[bytes, list[int]] = {}
        for name, row_id in db.execute(
            f"SELECT n.name, r.row_id FROM named n CROSS JOIN {rows}"
            f" WHERE {_PAID} AND {_NOT_ACCEPTED} ORDER BY r.occurrence",
            (pins,),
        ):
            found.setdefault(name, []).append(row_id)
        return found

    return operation


def paid_and_absent(
    pin_sets: Sequence[int], pins: str, *, unknown: bool
) -> Callable[[sqlite3.Connection], list[int]]:
    """Finds the rows that were or may have been paid under one of `pin_sets`, and that the sheet
    does not have. The operation returns their ids.

    `unknown`: also rows of a run of schema 1 whose pins are not known. Leaves out rows that the
    user allows to be paid for again under the pins `pins`.
    """

    def operation(db: sqlite3.Connection) -> list[int]:
        runs = [
            run
            for run, number in db.execute(
                "SELECT run, p.pins FROM runs LEFT JOIN run_pins p USING (run)"
            )
            if number in pin_sets or (number is None and unknown)
        ]
        if not runs:
            return []
        marks = ", ".join("?" * len(runs))
        found = db.execute(
            "SELECT r.row_id FROM rows r JOIN attempts a"
            " ON a.attempt_id = coalesce(r.ok_attempt, r.last_attempt)"
            f" WHERE a.run IN ({marks}) AND r.row_id IN ({_ABSENT})"
            f" AND {_PAID} AND {_NOT_ACCEPTED}",
            (*runs, pins),
        )
        return [row_id for (row_id,) in found]

    return operation


def finished_before(db: sqlite3.Connection) -> tuple[int, list[tuple[int, str | None]]]:
    """Counts the rows of the last run's sheet that were or may have been paid. Returns (their
    number, (sheet row, id) of those that this sheet does not have)."""
    gone = db.execute(
        f"SELECT r.sheet_row, r.id FROM rows r WHERE r.sheet_row IS NOT NULL AND {_PAID}"
        f" AND r.row_id IN ({_ABSENT}) ORDER BY r.sheet_row"
    ).fetchall()
    [finished] = db.execute(
        f"SELECT count(*) FROM rows r WHERE r.sheet_row IS NOT NULL AND {_PAID}"
    ).fetchone()
    return finished, gone


def sources_of_absent(folder: str) -> Callable[[sqlite3.Connection], set[int]]:
    """Returns the rows of another job, with the run folder `folder`, whose answers are the text of
    finished rows that this sheet does not have. They have another answer now.

    Raises:
        StorageFailed: from the operation, when a record of the source was altered.
    """

    def operation(db: sqlite3.Connection) -> set[int]:
        found = db.execute(
            f"SELECT l.source_row, {intact('lineage', 'l')} FROM rows r JOIN lineage l"
            " ON l.attempt_id = coalesce(r.ok_attempt, r.last_attempt)"
            f" WHERE r.sheet_row IS NOT NULL AND {_PAID} AND l.source_folder = ?"
            f" AND r.row_id IN ({_ABSENT})",
            (folder,),
        ).fetchall()
        if not all(whole for _, whole in found):
            raise altered("the record of where a text comes from")
        return {row for row, _ in found}

    return operation


def count_paid(keys: Iterable[bytes]) -> Callable[[sqlite3.Connection], int]:
    """Counts the row keys in `keys` that have an answer here, or that are maybe paid without one.

    A key that occurs twice, for equal rows, counts as often as it was paid. Rows that the API
    itself called failed do not count: `resume` sends those without a question, too.
    """

    def operation(db: sqlite3.Connection) -> int:
        db.execute("CREATE TEMP TABLE asked (row_key BLOB PRIMARY KEY, times) WITHOUT ROWID")
        db.executemany(
            "INSERT INTO asked VALUES (?, 1) ON CONFLICT DO UPDATE SET times = times + 1",
            ((key,) for key in keys),
        )
        # No index has the row keys. Reading every row takes a tenth of the time of counting them.
        found = db.execute(
            "SELECT coalesce(sum(min(a.times, p.times)), 0) FROM"
            " (SELECT row_key, count(*) AS times FROM rows r"
            " WHERE row_key IN (SELECT row_key FROM asked) AND (ok_attempt IS NOT NULL OR"
            " (SELECT coalesce(verdict, 'ambiguous') = 'ambiguous' FROM attempts"
            " WHERE attempt_id = r.last_attempt)) GROUP BY row_key) p"
            " CROSS JOIN asked a USING (row_key)"
        )
        return int(found.fetchone()[0])

    return operation


def check_absent(db: sqlite3.Connection) -> None:
    """Checks that the index finds each ledger row that the sheet does not have. Call it after all
    rows of the sheet were looked up.

    A row that the index does not find seems to have left the sheet, and the same row in the sheet
    seems to be new. It would be paid for again.

    Raises:
        StorageFailed: when the index does not find one of them.
    """
    lost = db.execute(_LOST).fetchone()
    if lost:
        raise altered("the record of a row that seems to have left the sheet", lost[0])


def adopt(snapshot_id: str, sha256: str) -> Callable[[sqlite3.Connection], None]:
    """Makes the matched sheet the current one: `queries.counts` counts it from then on."""

    def operation(db: sqlite3.Connection) -> None:
        # Through negative numbers, because two rows may not have the same occurrence meanwhile.
        for shift in ("-1 - ", ""):
            db.execute(
                f"UPDATE rows SET occurrence = {shift}moved.occurrence FROM moved"
                " WHERE rows.row_id = moved.row_id AND rows.occurrence <> moved.occurrence"
            )
        db.execute(
            # Without the plus, SQLite looks for each row of the ledger in `placed`.
            "UPDATE rows SET sheet_row = placed.sheet_row FROM placed"
            " WHERE rows.row_id = +placed.row_id AND rows.sheet_row IS NOT placed.sheet_row"
        )
        db.execute(
            "UPDATE rows SET sheet_row = NULL WHERE sheet_row IS NOT NULL"
            f" AND row_id IN ({_ABSENT})"
        )
        _adopt_duplicates(db)
        db.execute("DELETE FROM skipped_answers")
        db.execute("INSERT INTO skipped_answers SELECT sheet_row, row_id FROM kept")
        db.executemany(
            "REPLACE INTO meta VALUES (?, ?)",
            [(SNAPSHOT, snapshot_id), (SNAPSHOT_SHA256, sha256)],
        )
        for table in _TEMPORARY:
            db.execute(f"DROP TABLE IF EXISTS temp.{table}")

    return operation


def _create(db: sqlite3.Connection) -> None:
    db.execute(_REVIEWED)
    db.execute("CREATE TEMP TABLE stayed (first INTEGER PRIMARY KEY, last INTEGER)")
    db.execute("CREATE TEMP TABLE placed (row_id INTEGER PRIMARY KEY, sheet_row INTEGER)")
    db.execute(
        "CREATE TEMP TABLE wanted"
        " (sheet_row INTEGER PRIMARY KEY, identity BLOB, occurrence INTEGER)"
    )
    db.execute(
        "CREATE TEMP TABLE met (sheet_row INTEGER PRIMARY KEY, row_id INTEGER, state, code,"
        " answered, given_up, maybe_paid, settled, reviewed)"
    )
    db.execute(
        "CREATE TEMP TABLE moved"
        " (identity BLOB, occurrence INTEGER, row_id INTEGER, PRIMARY KEY (identity, occurrence))"
    )
    db.execute("CREATE TEMP TABLE shared (sheet_row INTEGER PRIMARY KEY, first_row INTEGER)")
    db.execute("CREATE TEMP TABLE kept (sheet_row INTEGER PRIMARY KEY, row_id INTEGER)")
    db.execute("CREATE TEMP TABLE named (name BLOB PRIMARY KEY) WITHOUT ROWID")


def _holds_rows(db: sqlite3.Connection) -> bool:
    return db.execute("SELECT 1 FROM rows LIMIT 1").fetchone() is not None


def _insert_kept(db: sqlite3.Connection, rows: Mapping[int, int]) -> None:
    db.executemany("INSERT INTO kept VALUES (?, ?)", rows.items())


def _insert_shared(db: sqlite3.Connection, pairs: Sequence[tuple[int, int]]) -> None:
    db.executemany("INSERT INTO shared VALUES (?, ?)", pairs)


def _adopt_duplicates(db: sqlite3.Connection) -> None:
    """Replaces the table of duplicates. It follows from the sheet alone, so an altered entry is
    simply written again."""
    db.execute("DELETE FROM duplicates WHERE sheet_row NOT IN (SELECT sheet_row FROM shared)")
    db.execute(
        "REPLACE INTO duplicates (sheet_row, first_row) SELECT s.sheet_row, s.first_row"
        " FROM shared s LEFT JOIN duplicates d USING (sheet_row)"
        f" WHERE d.first_row IS NOT s.first_row OR NOT ({intact('duplicates', 'd')})"
    )


_REVIEWED = "CREATE TEMP TABLE IF NOT EXISTS reviewed (row_id INTEGER PRIMARY KEY)"
_TEMPORARY = (
    *("stayed", "placed", "wanted", "met", "moved", "shared", "kept", "named", "best", "reviewed"),
)
_IS_REVIEWED = "r.row_id IN (SELECT row_id FROM reviewed)"

# Equal rows that `begin` ranked are found only by their rank, in `moved`. A row with a reviewed
# answer is ok, unless a newer request for it is ambiguous: see `SqliteLedger.begin_run`.
_HELD = (
    "w.sheet_row, r.row_id,"
    f" CASE WHEN r.state IN ('pending', 'failed') AND {_IS_REVIEWED} THEN 'ok' ELSE r.state END,"
    " r.code, r.ok_attempt IS NOT NULL, r.given_up,"
    " CASE r.state WHEN 'failed' THEN"
    " (SELECT maybe_paid FROM attempts WHERE attempt_id = r.last_attempt)"
    " ELSE r.state <> 'pending' END,"
    " r.state = 'failed' AND"
    " (SELECT verdict FROM attempts WHERE attempt_id = r.last_attempt) = 'ambiguous',"
    f" {_IS_REVIEWED}"
)
# Rows of which `_HELD` says the same. Equal rows are left out, because `begin` ranks them.
_FINISHED = Held(State.OK, None, answered=True, given_up=False, maybe_paid=True)
# The ledger's rows that the sheet does not have. Most rows of a long sheet stay in their places, so
# these are in the few gaps between the ranges of rows that stayed.
_ABSENT = (
    "SELECT r.row_id FROM (SELECT last + 1 AS first, lead(first) OVER (ORDER BY first) AS next"
    " FROM (SELECT first, last FROM stayed UNION ALL SELECT 0, 0)) g CROSS JOIN rows r NOT INDEXED"
    " ON r.row_id >= g.first AND r.row_id < coalesce(g.next, 9223372036854775807)"
    " WHERE r.row_id NOT IN (SELECT row_id FROM placed)"
)
_IN_PLACE = (
    "SELECT coalesce(group_concat(sheet_row), ''), coalesce(group_concat(row_id), '')"
    " FROM rows r NOT INDEXED WHERE row_id BETWEEN ? AND ?"
    " AND state = 'ok' AND code IS NULL AND ok_attempt IS NOT NULL AND NOT given_up"
    f" AND NOT ({_IS_REVIEWED}) AND identity NOT IN (SELECT identity FROM moved)"
    " AND identity = substr(?, 16 * sheet_row - 15, 16)"
)
_LOOK_UP = (
    f"SELECT {_HELD} FROM wanted w JOIN moved m USING (identity, occurrence)"
    " JOIN rows r ON r.row_id = m.row_id"
    f" UNION ALL SELECT {_HELD} FROM wanted w CROSS JOIN rows r"
    " ON r.identity = w.identity AND r.occurrence = w.occurrence"
    " WHERE NOT EXISTS (SELECT 1 FROM moved m WHERE m.identity = w.identity)"
)
_LOOK_UP_BEST = (
    f"SELECT {_HELD} FROM wanted w JOIN best b ON b.row_key = w.identity"
    " JOIN rows r ON r.row_id = b.row_id"
)
# The n-th of several equal skipped rows keeps the n-th answer that no other row of the sheet has.
_KEPT = (
    "SELECT s.sheet_row, a.row_id FROM (SELECT sheet_row, name, row_number() OVER"
    " (PARTITION BY name ORDER BY sheet_row) AS place FROM skipped) s"
    " JOIN (SELECT row_id, identity, row_number() OVER"
    " (PARTITION BY identity ORDER BY occurrence) AS place FROM rows"
    " WHERE identity IN (SELECT name FROM skipped) AND ok_attempt IS NOT NULL"
    f" AND +row_id IN ({_ABSENT})) a"  # without the plus, SQLite joins each row with each
    " ON a.identity = s.name AND a.place = s.place"
)
_KEPT_BEST = (
    "SELECT s.sheet_row, r.row_id FROM skipped s JOIN best b ON b.row_key = s.name"
    " JOIN rows r USING (row_id) WHERE r.ok_attempt IS NOT NULL"
)
# One result for all rows with the same facts: most of a million rows are ok and nothing else.
_FACTS = "state, code, answered, given_up, maybe_paid, settled, reviewed"
_MET = f"SELECT {_FACTS}, group_concat(sheet_row), group_concat(row_id) FROM met GROUP BY {_FACTS}"
_PROTECTED = (
    "WITH dups AS MATERIALIZED (SELECT first_row, group_concat(sheet_row) AS places"
    " FROM duplicates GROUP BY first_row), former AS MATERIALIZED"
    " (SELECT row_id, group_concat(sheet_row) AS places FROM skipped_answers GROUP BY row_id)"
    " SELECT r.row_id, r.id, p.sheet_row, r.sheet_row, d.places, f.places"
    " FROM reviewed v CROSS JOIN rows r USING (row_id) LEFT JOIN placed p USING (row_id)"
    " LEFT JOIN dups d ON d.first_row = r.sheet_row LEFT JOIN former f ON f.row_id = r.row_id"
    " WHERE r.row_id NOT IN (SELECT row_id FROM kept)"
)
_LOST = (
    f"SELECT r.sheet_row FROM rows r NOT INDEXED WHERE r.row_id IN ({_ABSENT})"
    " AND NOT EXISTS (SELECT 1 FROM rows k INDEXED BY rows_known"
    " WHERE k.identity = r.identity AND k.occurrence = r.occurrence AND k.row_id = r.row_id)"
    " LIMIT 1"
)
