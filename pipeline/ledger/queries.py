"""The reading operations on a ledger, and the values that they return.

Each operation takes a connection and changes nothing permanent. The process that writes the ledger
calls them through `SqliteLedger.read`, on the writer's thread. Other processes call them through
`reader.reading`, in one unchanging view, also while a run is active.
"""

from __future__ import annotations

import json
import re
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

from pipeline.core.model import ErrorCode, State, StopCode, Verdict
from pipeline.ledger.schema import (
    altered,
    intact,
    part_name,
    typed,
)

SNAPSHOT = "snapshot"
"""The name in `meta` of the current snapshot's id. Row numbers are numbers of its rows."""
SNAPSHOT_SHA256 = "snapshot_sha256"
"""The name in `meta` of the SHA-256 of that snapshot's file."""

FOLDER_ID = "folder_id"
"""The name in `meta` of the folder's id: 32 random hex digits."""
BEGAN_WITH_SCHEMA_1 = "began_with_schema_1"
"""The name in `meta` of the note that the first release made this folder."""
PINNED = "pinned"
"""The name in `meta` of the pins of the last run, as JSON."""

KEPT_BY_REVIEW = "kept_by_review"
"""The name in `meta` of the changed rows that are not sent because of a review: JSON with the row
ids of the reviewed answers, by the name of the changed row in hex."""

BY_ROWS = "rows"
"""The reason for another version if the user named rows, or all. Else the reason is flags."""


class Finished(NamedTuple):
    """One answered row that is not in a part yet."""

    run_id: str
    sheet_row: int
    id: str | None
    row_key: bytes
    version: int
    request: bytes
    answer: bytes
    http_status: int
    attempts: int
    latency_s: float
    sent_at: float
    finished_at: float


class Unfinished(NamedTuple):
    """One attempted row of the sheet that is not ok, with its last attempt.

    `answered`: an earlier version of the row is ok. `in_last_run`: the last run made the attempt.
    """

    # There may be a million of these. A frozen dataclass takes three times as long to make.

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
    """A complete 2xx response, maybe paid, that the runner could not read when it came."""

    row_id: int
    attempt_id: int
    http_status: int
    body: bytes


class Answered(NamedTuple):
    """The place of a sheet row's last finished answer: (`run_id`, `sent_row`) is unique. `row_id`
    is the ledger's row that has it, and `attempt_id` the request that brought it."""

    sheet_row: int
    run_id: str
    sent_row: int
    row_id: int
    attempt_id: int


@dataclass(frozen=True, slots=True)
class LastRun:
    """The start and end of a run. Times are seconds since 1970. The last three fields are None
    while the run is active, and after it was killed."""

    run_id: str
    started_at: float
    finished_at: float | None
    exit_code: int | None
    stopped: str | None


class Ending(NamedTuple):
    """What rows that ended alike have in common.

    `repeated`: attempts of two or more runs ended with this code. `maybe_paid`: the last attempt
    was or may have been billed.
    """

    state: State
    code: str | None = None
    given_up: bool = False
    maybe_paid: bool = False
    repeated: bool = False


@dataclass(frozen=True, slots=True)
class Counts:
    """The rows of the sheet by how they ended, and the requests of all runs of the folder.

    Rows that were never attempted are only in `sheet_rows`. `cut_short`: the last run ended before
    all its rows did, or is active. `last_stopped` tells why the last run that was not killed ended
    early. `last_failed` is the code of most of the last ten failed attempts of the last run that
    sent something.
    """

    endings: Counter[Ending]
    paid_min: int
    paid_max: int
    sheet_rows: int
    skipped: int
    last_run_id: str
    last_stopped: str | None
    last_failed: str | None = None
    cut_short: bool = False

    @property
    def states(self) -> Counter[State]:
        """The number of rows by their state in the ledger."""
        states: Counter[State] = Counter()
        for ending, rows in self.endings.items():
            states[ending.state] += rows
        return states


def meta(name: str) -> Callable[[sqlite3.Connection], str | None]:
    """Returns the entry `name` about the run folder, such as the pinned settings, or None.

    Raises:
        StorageFailed: from the operation, when the entry was altered.
    """

    def operation(db: sqlite3.Connection) -> str | None:
        found = db.execute(
            f"SELECT value, {intact('meta', 'm')} FROM meta m WHERE name = ?", (name,)
        ).fetchone()
        if found and not found[1]:
            raise altered(f"the entry `{name}` about the run folder")
        return found[0] if found else None

    return operation


def pin_sets(db: sqlite3.Connection) -> dict[int, str]:
    """Returns every set of pins that a run of the folder had, as JSON by its number.

    Raises:
        StorageFailed: when one of them was altered.
    """
    found = db.execute(f"SELECT pins, settings, {intact('pins', 'p')} FROM pins p").fetchall()
    if not all(whole for *_, whole in found):
        raise altered("the record of the pinned settings")
    return {number: settings for number, settings, _ in found}


def snapshot(db: sqlite3.Connection) -> tuple[str | None, str | None]:
    """Returns (id, SHA-256) of the current snapshot; (None, None) before the first run."""
    return meta(SNAPSHOT)(db), meta(SNAPSHOT_SHA256)(db)


def counts(db: sqlite3.Connection) -> Counts:
    """Counts the rows of the sheet by how they ended, and the requests that are or may be paid.

    Raises:
        StorageFailed: when a state, a code or the last run's record has a value that no run writes.
    """
    endings: Counter[Ending] = Counter()
    for state, code, *flags, rows in db.execute(_ENDINGS):
        endings[Ending(known_state(state), known_code(code), *(flag == 1 for flag in flags))] += (
            rows
        )
    paid_min, paid_max = paid(db)
    last = db.execute(
        "SELECT rows, skipped, run_id, finished_at IS NULL OR stopped IS NOT NULL,"
        f" {typed('runs', 'r')} AND rows BETWEEN 0 AND ? FROM runs r ORDER BY run DESC LIMIT 1",
        (_MOST_ROWS,),
    ).fetchone()
    rows, skipped, run_id, cut_short, of_a_run = last or (0, 0, "", 0, 1)
    if not of_a_run:
        raise altered("the record of a run")
    # A row that is skipped now keeps its answer.
    kept = db.execute("SELECT coalesce(sum(1), 0) FROM skipped_answers").fetchone()[0]
    endings[Ending(State.OK)] += kept
    skipped -= kept
    ended = "SELECT stopped FROM runs WHERE finished_at IS NOT NULL ORDER BY run DESC LIMIT 1"
    [last_stopped] = db.execute(ended).fetchone() or (None,)
    [last_failed] = db.execute(_LAST_FAILED).fetchone() or (None,)
    return Counts(
        endings,
        paid_min,
        paid_max,
        rows,
        skipped,
        run_id,
        last_stopped,
        last_failed,
        cut_short != 0,
    )


def paid(db: sqlite3.Connection) -> tuple[int, int]:
    """Returns (requests that were paid, requests that were or may have been paid)."""
    found: tuple[int, int] = db.execute(
        "SELECT coalesce(sum(verdict = 'ok'), 0), coalesce(sum(maybe_paid), 0) FROM attempts"
    ).fetchone()
    return found


def last_change(db: sqlite3.Connection) -> tuple[int, int]:
    """Returns (id of the last attempt, id of the last decision). They grow with each attempt and
    decision, and are 0 before the first."""
    found: tuple[int, int] = db.execute(
        "SELECT (SELECT coalesce(max(attempt_id), 0) FROM attempts),"
        " (SELECT coalesce(max(decision_id), 0) FROM decisions)"
    ).fetchone()
    return found


def last_review_read(db: sqlite3.Connection) -> int:
    """Returns the id of the last review that a run had read when it planned, 0 before the first.

    Raises:
        StorageFailed: when a record of this was altered.
    """
    last = 0
    for review, whole in db.execute(
        f"SELECT last_review, {intact('reviews_read', 'r')} FROM reviews_read r"
    ):
        if not whole:
            raise altered("the record of the reviews that a run had read")
        last = max(last, review)
    return last


def kept_by_review(db: sqlite3.Connection) -> dict[str, list[int]]:
    """Returns the entry `KEPT_BY_REVIEW`.

    Raises:
        StorageFailed: when it was altered.
    """
    found = meta(KEPT_BY_REVIEW)(db)
    return {} if found is None else json.loads(found)


def carried_out(token: str) -> Callable[[sqlite3.Connection], str | None]:
    """Returns the id of the run that carried out the plan `token`, or None.

    The ledger records only plans that may have paid twice.
    """

    def operation(db: sqlite3.Connection) -> str | None:
        found = db.execute(
            "SELECT run_id FROM spent_tokens JOIN runs USING (run) WHERE token = ?", (token,)
        ).fetchone()
        return found[0] if found else None

    return operation


def codes_seen(db: sqlite3.Connection) -> frozenset[str]:
    """Returns every error code that an attempt of this folder ended with."""
    found = db.execute("SELECT DISTINCT code FROM attempts WHERE code IS NOT NULL")
    return frozenset(code for (code,) in found)


def reached(db: sqlite3.Connection) -> bool:
    """Tells whether any request of this folder may have reached its host."""
    found = db.execute(
        "SELECT EXISTS (SELECT 1 FROM attempts WHERE code IS NULL OR code NOT IN (?, ?))",
        (ErrorCode.NOT_SENT, ErrorCode.TLS),
    )
    return bool(found.fetchone()[0])


def lost_lately(in_a_row: int) -> Callable[[sqlite3.Connection], bool]:
    """Tells whether the next run should send one row first, because the last responses were lost.

    True in two cases. Either a run stopped for that reason, and no later run got a readable
    response; a run that sent nothing does not change that. Or the last `in_a_row` responses were
    all ambiguous, also if the run was killed before it recorded why it ended. Attempts that a kill
    interrupted do not count.
    """

    def operation(db: sqlite3.Connection) -> bool:
        [stopped_in] = db.execute(
            "SELECT max(run) FROM runs WHERE stopped = ?", (StopCode.AMBIGUOUS,)
        ).fetchone()
        readable = "SELECT EXISTS (SELECT 1 FROM attempts WHERE run > ? AND verdict IN (?, ?))"
        later = (stopped_in, Verdict.OK, Verdict.FAILED)
        if stopped_in is not None and not db.execute(readable, later).fetchone()[0]:
            return True
        lost = "verdict = 'ambiguous' AND code IS NOT 'interrupted' LIMIT 1 OFFSET ?"
        if not db.execute(f"SELECT 1 FROM attempts WHERE {lost}", (in_a_row - 1,)).fetchone():
            return False  # this spares nearly every ledger the sorting of all its attempts
        last = db.execute(
            "SELECT verdict FROM attempts WHERE verdict <> ? AND coalesce(code, '') <> ?"
            " ORDER BY run DESC, finished_at DESC LIMIT ?",
            (Verdict.REFUSED, ErrorCode.INTERRUPTED, in_a_row),
        ).fetchall()
        return last == [(Verdict.AMBIGUOUS,)] * in_a_row

    return operation


def answered_in(most: int) -> Callable[[sqlite3.Connection], list[float]]:
    """Returns how many seconds the last requests took, at most `most` of them, the oldest first.

    Refused and interrupted requests do not count.
    """

    def operation(db: sqlite3.Connection) -> list[float]:
        found = db.execute(
            "SELECT latency_s FROM attempts WHERE verdict IN ('ok', 'failed', 'ambiguous')"
            " AND latency_s IS NOT NULL AND coalesce(code, '') <> ?"
            " ORDER BY attempt_id DESC LIMIT ?",
            (ErrorCode.INTERRUPTED, most),
        ).fetchall()
        return [latency_s for (latency_s,) in reversed(found)]

    return operation


def unfinished(db: sqlite3.Connection, *, verified_elsewhere: bool = False) -> Iterator[Unfinished]:
    """Yields the sheet's rows that were attempted and are not ok, in the sheet's order.

    This includes duplicates, each with the attempt that was made for it. It does not include a row
    that waits for another version and was not sent for it yet. `verified_elsewhere`: the caller has
    the whole ledger checked (see `integrity.check_ledger`), so this skips the checksums. They would
    take three times as long as the rows.

    Raises:
        StorageFailed: when one of them was altered.
    """
    query = _UNFINISHED_UNCHECKED if verified_elsewhere else _UNFINISHED
    return map(attempted_row, db.execute(query))


def attempted_row(found: Sequence[Any]) -> Unfinished:
    """Returns the row in one result of `UNFINISHED_OF_ROWS`.

    Raises:
        StorageFailed: when it was altered.
    """
    # There may be a million of these. A starred target takes four times as long.
    (
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
    ) = found
    if not whole:
        raise altered("the record of an attempt", sheet_row)
    return Unfinished(
        row_id,
        sheet_row,
        known_state(state),
        known_code(code),
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
    """Yields complete 2xx responses of ambiguous rows that the runner could not read so far.

    Raises:
        StorageFailed: when one of them was altered.
    """
    sources = (("fragments", "f"), ("attempts", "a"), ("rows", "r"), ("requests", "q"))
    checks = " AND ".join(intact(table, alias) for table, alias in sources)
    for *found, whole in db.execute(
        f"SELECT r.row_id, a.attempt_id, a.http_status, f.body, {checks} FROM fragments f"
        " CROSS JOIN attempts a USING (attempt_id) CROSS JOIN requests q USING (row_id)"
        " CROSS JOIN rows r ON r.row_id = a.row_id AND r.last_attempt = a.attempt_id"
        " WHERE f.whole AND r.state = 'ambiguous' AND a.http_status BETWEEN 200 AND 299"
    ):
        if not whole:
            raise altered("a stored response that could not be read")
        yield Unread(*found)


def bodies(db: sqlite3.Connection) -> Iterator[tuple[int, bytes]]:
    """Yields (row of the sheet, received bytes) of responses that may have been paid and contain no
    answer, in the order of the sheet and of the requests.

    Raises:
        StorageFailed: when one of them was altered.
    """
    sources = (("fragments", "f"), ("attempts", "a"), ("rows", "r"))
    checks = " AND ".join(intact(table, alias) for table, alias in sources)
    for sheet_row, body, whole in db.execute(
        f"SELECT r.sheet_row, f.body, {checks} FROM fragments f"
        " JOIN attempts a USING (attempt_id) JOIN rows r USING (row_id)"
        " WHERE r.sheet_row IS NOT NULL ORDER BY r.sheet_row, f.attempt_id"
    ):
        if not whole:
            raise altered("a stored response without an answer", sheet_row)
        yield sheet_row, body


class Absent(NamedTuple):
    """A row that may be paid and that the last run did not find among the rows to send."""

    row_id: int
    code: str | None


def ambiguous_and_absent(
    *,
    deduped: bool,
) -> Callable[[sqlite3.Connection], dict[bytes, Absent]]:
    """Returns each row that may be paid and that the last run did not find among the rows to send,
    by its identity (`deduped`: by its row key)."""
    name = "row_key" if deduped else "identity"
    return lambda db: {
        name: Absent(row_id, code)
        for name, row_id, code in db.execute(
            f"SELECT {name}, row_id, code FROM rows"
            " WHERE sheet_row IS NULL AND state IN ('ambiguous', 'sending')"
        )
    }


def answered(db: sqlite3.Connection) -> Iterator[Answered]:
    """Yields the places of the answers to the sheet's rows. Does not test checksums: the caller has
    the ledger checked (see `integrity.check_ledger`).

    Raises:
        StorageFailed: when the attempt with the answer is missing.
    """
    for found in map(Answered._make, db.execute(_ANSWERED)):
        if found.run_id is None:
            raise altered("the record of where an answer is", found.sheet_row)
        yield found


class AnswerOrigin(NamedTuple):
    """Where the answer of a sheet row is: the ledger's row, and its last attempt that was ok, None
    if there is none. `open`: a newer version is not finished."""

    sheet_row: int
    row_id: int
    attempt_id: int | None
    open: bool


def answer_origins(db: sqlite3.Connection) -> Iterator[AnswerOrigin]:
    """Yields the origin of each row of the sheet that was ever attempted. Does not test checksums:
    the caller has the ledger checked (see `integrity.check_ledger`)."""
    for sheet_row, row_id, attempt_id, is_open in db.execute(_ORIGINS):
        yield AnswerOrigin(sheet_row, row_id, attempt_id, bool(is_open))


def answered_after_review(
    protected: Iterable[int],
) -> Callable[[sqlite3.Connection], Iterator[Answered]]:
    """Returns `answered`, with an approved or edited answer also where a newer one was in flight
    when a person decided. `protected` are the attempts of such answers."""
    wanted = json.dumps(sorted(protected))

    def operation(db: sqlite3.Connection) -> Iterator[Answered]:
        of_row = {
            row_id: tuple(found)
            for row_id, *found in db.execute(_PLACES_OF_ROWS, (wanted,)).fetchall()
        }
        for one in answered(db):
            if one.row_id in of_row:
                run_id, sent_row, attempt_id = of_row[one.row_id]
                one = one._replace(run_id=run_id, sent_row=sent_row, attempt_id=attempt_id)
            yield one

    return operation


def again_reasons(db: sqlite3.Connection) -> dict[int, frozenset[str]]:
    """Returns why the user asked for the last version of each row that has more than one, by row
    id: `BY_ROWS`, or flags of the earlier answer. A row that release 0.1 marked has no reason.

    Raises:
        StorageFailed: when one of the records was altered.
    """
    reasons = {}
    for row_id, reason, whole in db.execute(_AGAIN_REASONS):
        if not whole:
            raise altered("the record of why a row was asked for again")
        reasons[row_id] = frozenset((reason or "").split("\n"))
    return reasons


def places_of(
    attempts: Iterable[int],
) -> Callable[[sqlite3.Connection], list[tuple[int, str, int]]]:
    """Returns (attempt, run id, row of the sheet in that run) of those that are in the ledger. The
    caller has it checked (see `integrity.check_ledger`)."""
    wanted = json.dumps(list(attempts))
    return lambda db: db.execute(
        "SELECT a.attempt_id, runs.run_id, a.sheet_row FROM json_each(?) w"
        " CROSS JOIN attempts a ON a.attempt_id = w.value JOIN runs USING (run)",
        (wanted,),
    ).fetchall()


def current_answers(
    attempts: Iterable[int],
) -> Callable[[sqlite3.Connection], dict[int, bool]]:
    """Returns whether each of `attempts` with an answer brought the last answer of its row. Other
    attempts are left out."""
    wanted = json.dumps(list(attempts))
    return lambda db: {
        attempt_id: last == attempt_id
        for attempt_id, last in db.execute(
            "SELECT a.attempt_id, r.ok_attempt FROM json_each(?) w CROSS JOIN attempts a"
            " ON a.attempt_id = w.value JOIN rows r USING (row_id) WHERE a.verdict = 'ok'",
            (wanted,),
        )
    }


def answers_by_attempt(db: sqlite3.Connection, attempts: Sequence[int]) -> Iterator[Answered]:
    """Yields the places of the answers that `attempts` brought. `sheet_row` is the number of each
    in `attempts`, from 1 on."""
    for place, *found in db.execute(
        "SELECT w.key + 1, runs.run_id, a.sheet_row, a.row_id, a.attempt_id FROM json_each(?) w"
        " CROSS JOIN attempts a ON a.attempt_id = w.value JOIN runs USING (run)"
        " WHERE a.verdict = 'ok'",
        (json.dumps(list(attempts)),),
    ):
        yield Answered(place, *found)


class ReviewedRow(NamedTuple):
    """The row in the ledger of a reviewed answer. `last`: the answer is the row's newest. `rows` is
    how many rows of the sheet have the row's answer."""

    attempt_id: int
    row_id: int
    last: bool
    rows: int


def reviewed_rows(
    attempts: Iterable[int],
) -> Callable[[sqlite3.Connection], list[ReviewedRow]]:
    """Returns the rows of these attempts, the oldest attempt first."""
    wanted = json.dumps(sorted(attempts))
    return lambda db: [
        ReviewedRow(attempt, row, last == 1, rows)
        for attempt, row, last, rows in db.execute(_REVIEWED_ROWS, (wanted,))
    ]


def kept_rows(db: sqlite3.Connection) -> frozenset[int]:
    """Returns the rows of the sheet that are not sent now and keep an earlier answer."""
    return frozenset(row for (row,) in db.execute("SELECT sheet_row FROM skipped_answers"))


def rows_of_answers(
    answers: Sequence[tuple[str, int]],
) -> Callable[[sqlite3.Connection], list[tuple[int, int]]]:
    """Returns (place in `answers`, current row of the sheet) of each that is a row's last answer.

    `answers` names each answer by (run id, row of the sheet in that run).

    Raises:
        StorageFailed: from the operation, when one of the records was altered.
    """

    def operation(db: sqlite3.Connection) -> list[tuple[int, int]]:
        db.execute("CREATE TEMP TABLE candidates (run_id TEXT, sent_row INTEGER, place INTEGER)")
        db.executemany(
            "INSERT INTO candidates VALUES (?, ?, ?)",
            [(*answer, place) for place, answer in enumerate(answers)],
        )
        found = db.execute(_ROWS_OF_ANSWERS).fetchall()
        db.execute("DROP TABLE temp.candidates")
        for *_, sheet_row, whole in found:
            if not whole:
                raise altered("the record of where an answer is", sheet_row)
        return [(place, sheet_row) for place, sheet_row, _ in found]

    return operation


def bodies_sent(rows: Iterable[int]) -> Callable[[sqlite3.Connection], dict[int, str]]:
    """Returns the stored request bodies of some rows of the sheet, by row.

    Raises:
        StorageFailed: from the operation, when one of them was altered.
    """
    wanted = json.dumps(list(rows))

    def operation(db: sqlite3.Connection) -> dict[int, str]:
        sent = {}
        for row, body, whole in db.execute(
            f"SELECT r.sheet_row, q.body, {intact('requests', 'q')}"
            " FROM rows r JOIN requests q USING (row_id)"
            " WHERE r.sheet_row IN (SELECT value FROM json_each(?))",
            (wanted,),
        ):
            if not whole:
                raise altered("the stored request", row)
            sent[row] = bytes(body).decode(errors="replace")
        return sent

    return operation


def check_structure(db: sqlite3.Connection) -> None:
    """Runs SQLite's own check for tables and indexes that lost something.

    Raises:
        StorageFailed: when SQLite finds damage.
    """
    problem = db.execute("PRAGMA integrity_check(1)").fetchone()[0]
    if problem != "ok":
        raise altered(f"its structure ({problem})")


def last_run(db: sqlite3.Connection) -> LastRun | None:
    """Returns the run that began last; None before the first.

    Raises:
        StorageFailed: when its record has values that no run writes.
    """
    found = db.execute(
        f"SELECT {typed('runs', 'r')}, run_id, started_at, finished_at, exit_code, stopped"
        " FROM runs r ORDER BY run DESC LIMIT 1"
    ).fetchone()
    if found and not found[0]:
        raise altered("the record of a run")
    return LastRun(*found[1:]) if found else None


def unsettled_reruns(db: sqlite3.Connection) -> int:
    """Counts the rows of the sheet that wait for another version, or are in flight for it."""
    return int(
        db.execute(
            "SELECT count(*) FROM rows WHERE state <> 'ok' AND state IN ('pending', 'sending')"
            " AND ok_attempt IS NOT NULL AND sheet_row IS NOT NULL"
        ).fetchone()[0]
    )


def finished(first_seq: int, last_seq: int) -> Callable[[sqlite3.Connection], list[Finished]]:
    """Returns the unsealed answers from `first_seq` to `last_seq`, in their order.

    Raises:
        StorageFailed: from the operation, when one of them was altered.
    """
    sources = (("payloads", "p"), ("requests", "q"), ("attempts", "a"), ("rows", "r"))
    checks = " AND ".join(intact(table, alias) for table, alias in sources)

    def operation(db: sqlite3.Connection) -> list[Finished]:
        answers = []
        run_ids: dict[int, str] = {}
        for whole, run, *found in db.execute(
            f"SELECT {checks}, a.run, a.sheet_row, r.id, r.row_key, a.version, q.body, p.body,"
            " a.http_status, r.attempts, a.latency_s, a.sent_at, a.finished_at"
            " FROM payloads p JOIN attempts a USING (attempt_id)"
            " JOIN rows r USING (row_id) JOIN requests q USING (row_id)"
            " WHERE p.seq BETWEEN ? AND ? ORDER BY p.seq",
            (first_seq, last_seq),
        ):
            if not whole:
                raise altered("an answer that is not in results/ yet", found[0])
            if run not in run_ids:
                run_ids[run] = _run_id(db, run)
            answers.append(Finished(run_ids[run], *found))
        return answers

    return operation


def _run_id(db: sqlite3.Connection, run: int) -> str:
    found = db.execute(
        f"SELECT run_id, {intact('runs', 'r')} FROM runs r WHERE run = ?", (run,)
    ).fetchone()
    if not found or not found[1]:
        raise altered("the record of a run")
    return str(found[0])


def unsealed_range(db: sqlite3.Connection) -> tuple[int, int]:
    """Returns (first, last) of the answers that are not sealed yet, or (1, 0) if there are none."""
    first, last = db.execute("SELECT min(seq), max(seq) FROM payloads").fetchone()
    return (1, 0) if first is None else (first, last)


@dataclass(frozen=True, slots=True)
class Part:
    """A fixed range of answers, with the name and the SHA-256 of their file."""

    number: int
    name: str
    first_seq: int
    last_seq: int
    sha256: str

    @property
    def rows(self) -> int:
        """The number of answers in the part."""
        return self.last_seq - self.first_seq + 1


def sealed_parts(db: sqlite3.Connection) -> list[Part]:
    """Returns the sealed parts, in their order. Their files are complete.

    Raises:
        StorageFailed: when the record of a part was altered.
    """
    found = db.execute(
        f"SELECT {intact('parts', 'p')}, part, name, first_seq, last_seq, sha256"
        " FROM parts p WHERE sealed ORDER BY part"
    ).fetchall()
    if not all(whole for whole, *_ in found):
        raise altered("the record of a part")
    parts = [Part(*facts) for _, *facts in found]
    for part in parts:
        part_name(part.name)
    return parts


# A duplicate has the state of the row that is sent for it. CROSS JOIN: without duplicates SQLite
# reads no row.
_DUPLICATES = "duplicates d CROSS JOIN rows r ON r.sheet_row = d.first_row"

# The query counts ok rows separately: grouping sorts, and most of a million rows are ok. It reads
# attempts of earlier runs only if there was an earlier run.
_OPEN = "SELECT r.row_id, r.state, r.code, r.given_up, r.last_attempt FROM "
_ENDINGS = (
    "WITH repeated AS (SELECT row_id, code FROM attempts WHERE verdict IN ('failed', 'ambiguous')"
    " AND EXISTS (SELECT 1 FROM runs LIMIT 1 OFFSET 1)"
    " GROUP BY row_id, code HAVING min(run) < max(run)),"
    f" open AS ({_OPEN} rows r WHERE r.state <> 'ok' AND r.sheet_row IS NOT NULL"
    f" UNION ALL {_OPEN} {_DUPLICATES} WHERE r.state <> 'ok')"
    " SELECT o.state, o.code, o.given_up, coalesce(a.maybe_paid, 0), p.row_id IS NOT NULL, count(*)"
    " FROM open o LEFT JOIN attempts a ON a.attempt_id = o.last_attempt"
    " LEFT JOIN repeated p ON p.row_id = o.row_id AND p.code = o.code GROUP BY 1, 2, 3, 4, 5"
    " UNION ALL SELECT 'ok', NULL, 0, 0, 0, count(*) FROM (SELECT state FROM rows"
    f" WHERE sheet_row IS NOT NULL UNION ALL SELECT state FROM {_DUPLICATES}) WHERE state = 'ok'"
)
_LAST_FAILED = (
    "SELECT code FROM (SELECT code FROM attempts WHERE verdict = 'failed'"
    " AND run = (SELECT max(run) FROM attempts) ORDER BY attempt_id DESC LIMIT 10)"
    " GROUP BY code ORDER BY count(*) DESC LIMIT 1"
)

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
_UNFINISHED_UNCHECKED = _unfinished("1", "1")
UNFINISHED_OF_ROWS = (
    _UNFINISHED_OF.format(place="r.sheet_row", whole=_WHOLE, rows="rows r")
    + " AND r.row_id IN (SELECT value FROM json_each(?))"
)
"""The SQL of `unfinished` for the rows with the ids in a JSON list, without duplicates."""

_PLACES_OF_ROWS = (
    "SELECT a.row_id, runs.run_id, a.sheet_row, a.attempt_id FROM json_each(?) w"
    " CROSS JOIN attempts a ON a.attempt_id = w.value JOIN runs USING (run)"
    " WHERE a.verdict = 'ok' ORDER BY w.key"
)
_ANSWERED_OF = (
    "SELECT {place}, runs.run_id, a.sheet_row, r.row_id, a.attempt_id"
    " FROM {rows} LEFT JOIN attempts a ON a.attempt_id = r.ok_attempt"
    " LEFT JOIN runs ON runs.run = a.run"
    " WHERE r.sheet_row IS NOT NULL AND r.ok_attempt IS NOT NULL"
)
_ANSWERED = (
    _ANSWERED_OF.format(place="r.sheet_row", rows="rows r NOT INDEXED")
    + " UNION ALL "
    + _ANSWERED_OF.format(place="d.sheet_row", rows=_DUPLICATES)
    + " UNION ALL "
    + _ANSWERED_OF.format(
        place="s.sheet_row", rows="skipped_answers s CROSS JOIN rows r ON r.row_id = s.row_id"
    ).replace("r.sheet_row IS NOT NULL AND ", "")
)

_ORIGIN_OF = "SELECT {}, r.row_id, r.ok_attempt, r.state <> 'ok' FROM "
_ORIGINS = (
    f"{_ORIGIN_OF.format('r.sheet_row')} rows r WHERE r.sheet_row IS NOT NULL"
    f" UNION ALL {_ORIGIN_OF.format('d.sheet_row')} {_DUPLICATES}"
    f" UNION ALL {_ORIGIN_OF.format('s.sheet_row')} skipped_answers s JOIN rows r USING (row_id)"
)

_REVIEWED_ROWS = (
    "WITH dups AS MATERIALIZED (SELECT first_row, count(*) AS n FROM duplicates"
    " GROUP BY first_row), former AS MATERIALIZED"
    " (SELECT row_id, count(*) AS n FROM skipped_answers GROUP BY row_id)"
    " SELECT a.attempt_id, r.row_id, r.ok_attempt = a.attempt_id, (r.sheet_row IS NOT NULL)"
    " + coalesce(d.n, 0) + coalesce(f.n, 0) FROM json_each(?) w"
    " CROSS JOIN attempts a ON a.attempt_id = w.value CROSS JOIN rows r USING (row_id)"
    " LEFT JOIN dups d ON d.first_row = r.sheet_row LEFT JOIN former f ON f.row_id = r.row_id"
    " ORDER BY w.key"
)

# In the order of the decisions, so that the last one of a row counts.
_AGAIN_REASONS = (
    f"SELECT d.row_id, g.reason, {intact('decisions', 'd')}"
    f" AND (g.decision_id IS NULL OR {intact('asked_again', 'g')})"
    " FROM decisions d LEFT JOIN asked_again g USING (decision_id)"
    " WHERE d.decision IN ('again', 'kept') ORDER BY d.decision_id"
)

_ROWS_OF_ANSWERS = (
    "SELECT c.place, r.sheet_row,"
    f" {intact('rows', 'r')} AND {intact('attempts', 'a')} AND {intact('runs', 'runs')}"
    " FROM attempts a CROSS JOIN runs USING (run) JOIN candidates c"
    " ON c.run_id = runs.run_id AND c.sent_row = a.sheet_row"
    " JOIN rows r ON r.row_id = a.row_id AND r.ok_attempt = a.attempt_id"
    " WHERE r.sheet_row IS NOT NULL ORDER BY r.sheet_row"
)

_STATES = {str(state): state for state in State}


# Tables for this many rows take a gigabyte. The runner is made for a million.
_MOST_ROWS = 50_000_000
_A_CODE = re.compile(r"[A-Za-z0-9_.-]{1,64}")


@lru_cache(1000)
def known_code(code: object) -> str | None:
    """Returns `code` if it can be the error code of a row, or None.

    Raises:
        StorageFailed: for anything that no run writes.
    """
    if code is None or (isinstance(code, str) and _A_CODE.fullmatch(code)):
        return code
    raise altered("the error code of a row")


def known_state(text: str) -> State:
    """Returns the state that `text` names.

    Raises:
        StorageFailed: for anything that no run writes.
    """
    state = _STATES.get(text)
    if state is None:
        raise altered("the state of a row")
    return state
