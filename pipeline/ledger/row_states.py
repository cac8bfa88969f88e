"""The state of every row in the ledger, read in pieces, and the rows that changed since.

A view that stays open while a million rows are read would stop SQLite's checkpoints. So a reader
takes a mark, reads ranges of rows in a view for each range, and then the rows that changed since
the mark. A row only changes through a new attempt, the outcome of an attempt, a decision of the
user, or the beginning of a run.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import NamedTuple

from pipeline.core.model import State
from pipeline.ledger.queries import (
    UNFINISHED_OF_ROWS,
    Unfinished,
    attempted_row,
    known_code,
    known_state,
    last_change,
)
from pipeline.ledger.schema import altered, intact


class Mark(NamedTuple):
    """A moment of the ledger. `sending` are the ids of the rows in flight, and `last_row` is the
    greatest id of a row. Another `run` may have moved every row."""

    run: int
    attempt: int
    decision: int
    sending: tuple[int, ...]
    last_row: int


class RowState(NamedTuple):
    """A row of the ledger. `sheet_row` is 0 if the last sheet does not have it. The answer that it
    has came with `ok_attempt`, for row `sent_row` of the run with the number `run`; all three are 0
    without an answer."""

    row_id: int
    sheet_row: int
    state: State
    code: str | None
    ok_attempt: int
    run: int
    sent_row: int


def mark(db: sqlite3.Connection) -> Mark:
    """Returns the moment of this view."""
    run, last_row = db.execute(
        "SELECT (SELECT coalesce(max(run), 0) FROM runs), coalesce(max(row_id), 0) FROM rows"
    ).fetchone()
    sending = db.execute(
        "SELECT row_id FROM rows WHERE state <> 'ok' AND state = 'sending' ORDER BY row_id"
    )
    return Mark(run, *last_change(db), tuple(row for (row,) in sending), last_row)


def states_between(first: int, last: int) -> Callable[[sqlite3.Connection], list[RowState]]:
    """Returns the rows with an id from `first` to `last`."""
    return lambda db: _states(
        db.execute(f"{_STATES} WHERE r.row_id BETWEEN ? AND ?", (first, last))
    )


def changed_since(before: Mark) -> Callable[[sqlite3.Connection], tuple[set[int], list[RowState]]]:
    """Returns the ids of the rows that may have changed since a mark of the same run, and those of
    them that the ledger still has."""

    def operation(db: sqlite3.Connection) -> tuple[set[int], list[RowState]]:
        found = db.execute(
            "SELECT row_id FROM attempts WHERE attempt_id > ?"
            " UNION SELECT row_id FROM decisions WHERE decision_id > ?",
            (before.attempt, before.decision),
        )
        ids = {*before.sending, *(row_id for (row_id,) in found)}
        wanted = json.dumps(sorted(ids))
        query = f"{_STATES} WHERE r.row_id IN (SELECT value FROM json_each(?))"
        return ids, _states(db.execute(query, (wanted,)))

    return operation


def answers_of(
    attempts: Iterable[int],
) -> Callable[[sqlite3.Connection], list[tuple[int, int, int, int]]]:
    """Returns (row id, attempt, run, row of the sheet in that run) of those with an answer, in
    their order."""
    wanted = json.dumps(sorted(attempts))
    return lambda db: db.execute(
        "SELECT a.row_id, a.attempt_id, a.run, a.sheet_row FROM json_each(?) w"
        " CROSS JOIN attempts a ON a.attempt_id = w.value WHERE a.verdict = 'ok' ORDER BY w.key",
        (wanted,),
    ).fetchall()


def paid_answers_of(row_id: int) -> Callable[[sqlite3.Connection], int]:
    """Counts the answers to a row, those of earlier versions too."""
    return lambda db: int(
        db.execute(
            "SELECT coalesce(sum(verdict = 'ok'), 0) FROM attempts WHERE row_id = ?", (row_id,)
        ).fetchone()[0]
    )


def run_ids(db: sqlite3.Connection) -> dict[str, int]:
    """Returns the number of each run by its id."""
    return dict(db.execute("SELECT run_id, run FROM runs"))


def shared_answers(
    db: sqlite3.Connection,
) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """Returns (row, first row) of the duplicates in the sheet, and (row, row id) of the rows that
    are not sent now and keep an answer."""
    return (
        db.execute("SELECT sheet_row, first_row FROM duplicates").fetchall(),
        db.execute("SELECT sheet_row, row_id FROM skipped_answers").fetchall(),
    )


def refuse_altered(row_ids: Iterable[int]) -> Callable[[sqlite3.Connection], None]:
    """Checks the records of some rows and of the attempts that brought their answers.

    Raises:
        StorageFailed: from the operation, when one of them was altered.
    """
    wanted = json.dumps(list(row_ids))

    def operation(db: sqlite3.Connection) -> None:
        found = db.execute(_ALTERED, (wanted,)).fetchone()
        if found:
            raise altered("the record of a row", found[0])

    return operation


def unfinished_of(
    rows: Mapping[int, list[int]],
) -> Callable[[sqlite3.Connection], Iterator[Unfinished]]:
    """Yields the attempted rows that are not ok among some, in the order of the sheet. `rows` has
    the rows of the sheet by row id: more than one if they are equal.

    Raises:
        StorageFailed: when one of them was altered.
    """

    def operation(db: sqlite3.Connection) -> Iterator[Unfinished]:
        rows_found = map(attempted_row, db.execute(UNFINISHED_OF_ROWS, (json.dumps(list(rows)),)))
        found = [
            row._replace(sheet_row=sheet_row)
            for row in rows_found
            for sheet_row in rows[row.row_id]
        ]
        yield from sorted(found, key=lambda one: one.sheet_row)

    return operation


def _states(found: Iterable[tuple[int, int, str, str | None, int, int, int]]) -> list[RowState]:
    return [
        RowState(row_id, sheet_row, known_state(state), known_code(code), *answer)
        for row_id, sheet_row, state, code, *answer in found
    ]


_STATES = (
    "SELECT r.row_id, coalesce(r.sheet_row, 0), r.state, r.code, coalesce(r.ok_attempt, 0),"
    " coalesce(a.run, 0), coalesce(a.sheet_row, 0)"
    " FROM rows r LEFT JOIN attempts a ON a.attempt_id = r.ok_attempt"
)
_ALTERED = (
    "SELECT r.sheet_row FROM json_each(?) w CROSS JOIN rows r ON r.row_id = w.value"
    " LEFT JOIN attempts a ON a.attempt_id = r.ok_attempt"
    f" WHERE NOT ({intact('rows', 'r')} AND (r.ok_attempt IS NULL OR {intact('attempts', 'a')}))"
    " LIMIT 1"
)
