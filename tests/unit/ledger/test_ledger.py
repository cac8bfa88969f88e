"""The ledger's record of attempts, on a real file."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.core.clock import SystemClock
from pipeline.core.errors import Refused, StorageFailed
from pipeline.core.model import (
    MOVES,
    Attempt,
    Failure,
    Move,
    Outcome,
    Reply,
    Row,
    State,
    StopCode,
    Verdict,
)
from pipeline.job.traces import Trace
from pipeline.ledger import matching, queries
from pipeline.ledger.ledger import SqliteLedger, open_ledger
from pipeline.ledger.queries import BY_ROWS, Part, Unread
from pipeline.ledger.reader import reading
from pipeline.status.next_step import stand

PAID = Outcome(Verdict.OK, http_status=200, maybe_paid=True)
LOST = Outcome(Verdict.AMBIGUOUS, "gateway", "Bad gateway", 502, maybe_paid=True)
BLOCKED = Outcome(Verdict.FAILED, "request_blocked", "no", 400)
REFUSED = Outcome(Verdict.REFUSED, "rate_limited", "slower", 429)
UNREAD = Outcome(Verdict.AMBIGUOUS, "bad_response", "no result", 200, maybe_paid=True)
SETTLED = {
    PAID: State.OK,
    LOST: State.AMBIGUOUS,
    UNREAD: State.AMBIGUOUS,
    BLOCKED: State.FAILED,
    REFUSED: State.PENDING,
}


def row(number: int, name: bytes = b"", occurrence: int = 0) -> Row:
    identity = (name or b"%d" % number).ljust(16, b".")
    return Row(number, identity, identity, occurrence, b'{"n":"%d"}' % number)


def reply(body: bytes = b'{"result":"x"}') -> Reply:
    return Reply(1.0, 2.0, 200, {}, body)


class Stopped:
    """A clock that always shows the same time."""

    def wall(self) -> float:
        return 1234.5

    def monotonic(self) -> float:
        return 6.0


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.sqlite"


@pytest.fixture
def ledger(path: Path) -> Iterator[SqliteLedger]:
    with open_ledger(path, SystemClock()) as opened:
        begin(opened, [])
        yield opened


def begin(ledger: SqliteLedger, sheet: list[Row], snapshot: str = "s") -> list:
    """Matches a sheet and begins a run with it. Returns what the ledger had for its rows."""
    ledger.read(matching.begin)
    wanted = [(r.number, r.identity, r.occurrence) for r in sheet]
    held = ledger.read(matching.look_up(wanted))
    ledger.begin_run("run", snapshot, len(sheet), 0)
    by_number = {int(number): alike.held for alike in held for number in alike.numbers}
    return [by_number[number] for number in sorted(by_number)]


def attempt(
    ledger: SqliteLedger, one: Row, outcome: Outcome | None, came: Reply | None = None
) -> Attempt:
    async def go() -> Attempt:
        made = await ledger.intend(one)
        if outcome is not None:
            await ledger.conclude(made, outcome, came or reply(), SETTLED[outcome])
        return made

    return asyncio.run(go())


def asked(ledger: SqliteLedger, query: str) -> list:
    return ledger.read(lambda db: db.execute(query).fetchall())


def alter(path: Path, statement: str) -> None:
    """Alters the ledger. The old checksums stay and no longer fit."""
    db = sqlite3.connect(path)
    db.create_function("row_sum", -1, lambda *values: b"no such sum", deterministic=True)
    db.execute("PRAGMA trusted_schema = ON")
    with db:
        db.execute(statement)
    db.close()


def unfinished(ledger: SqliteLedger) -> list[queries.Unfinished]:
    return ledger.read(lambda db: list(queries.unfinished(db)))


def test_an_attempt_without_an_outcome_is_ambiguous_after_a_restart(path):
    """It is interrupted and counts as maybe paid, with the time of its intent."""
    with open_ledger(path, Stopped()) as ledger:
        begin(ledger, [row(1), row(2)])
        attempt(ledger, row(1), PAID)
        attempt(ledger, row(2), None)
    with open_ledger(path, SystemClock()) as ledger:
        assert len(ledger.recover()) == 1
        assert ledger.recover() == frozenset()
        counts = ledger.read(queries.counts)
        [cut] = unfinished(ledger)
        verdicts = asked(ledger, "SELECT verdict FROM attempts ORDER BY attempt_id")
    assert counts.states == {State.OK: 1, State.AMBIGUOUS: 1}
    assert stand(counts, in_use=False).by_code == {"interrupted": 1}
    assert (counts.paid_min, counts.paid_max) == (1, 2)
    assert (cut.message, cut.sent_at) == ("The runner ended before the answer came.", 1234.5)
    assert verdicts == [("ok",), ("ambiguous",)]


@pytest.mark.parametrize(
    "statement",
    ["UPDATE rows SET version = 7", "UPDATE attempts SET maybe_paid = 0", "DELETE FROM attempts"],
)
def test_an_interrupted_attempt_that_was_altered_since_is_not_overwritten(path, statement):
    """A new checksum would hide the damage."""
    with open_ledger(path, SystemClock()) as ledger:
        begin(ledger, [row(1)])
        attempt(ledger, row(1), None)
    alter(path, statement)
    with open_ledger(path, SystemClock()) as ledger:
        with pytest.raises(StorageFailed, match=r"an interrupted attempt \(row 1 of the sheet"):
            ledger.recover()


@pytest.mark.parametrize("table", ["attempts", "payloads", "parts"])
def test_a_ledger_with_a_damaged_page_is_refused_when_it_is_opened(path, table):
    """It is asked for its largest numbers then, which reads one page of each of these tables."""
    with open_ledger(path, SystemClock()):
        pass
    with contextlib.closing(sqlite3.connect(path)) as db:
        query = "SELECT rootpage FROM sqlite_schema WHERE name = ?"
        [root] = db.execute(query, (table,)).fetchone()
        [size] = db.execute("PRAGMA page_size").fetchone()
    with path.open("r+b") as file:
        file.seek((root - 1) * size)
        file.write(b"\xff" * size)
    with (
        pytest.raises(StorageFailed, match="damaged: the structure of its pages"),
        open_ledger(path, SystemClock()),
    ):
        pass


def test_a_withdrawn_intent_leaves_no_trace(ledger):
    """Neither for a new row nor for a failed one."""
    begin(ledger, [row(1), row(2), row(3)])
    attempt(ledger, row(2), REFUSED)
    attempt(ledger, row(2), BLOCKED)
    attempt(ledger, row(3), PAID)
    for number in (1, 2):
        made = attempt(ledger, row(number), None)
        asyncio.run(ledger.withdraw(made))
    assert asked(ledger, "SELECT count(*) FROM attempts") == [(3,)]
    assert asked(ledger, "SELECT row_id FROM requests") == [(1,), (2,)]
    [left] = unfinished(ledger)
    assert (left.state, left.code, left.attempts) == (State.FAILED, "request_blocked", 2)
    assert left.message == "no"


def test_an_attempt_after_a_withdrawn_one_has_a_new_number(path):
    """Also after a restart, when the numbers have a gap."""
    with open_ledger(path, SystemClock()) as ledger:
        begin(ledger, [row(1), row(2)])
        made = attempt(ledger, row(1), None)
        attempt(ledger, row(2), LOST)
        asyncio.run(ledger.withdraw(made))
    with open_ledger(path, SystemClock()) as ledger:
        begin(ledger, [row(1), row(2)])
        assert attempt(ledger, row(1), PAID).attempt_id == 3


def test_intents_and_outcomes_are_on_disk_before_they_count(ledger):
    """This test reads SQLite's settings. `test_power_loss.py` cuts the power."""
    assert asked(ledger, "PRAGMA synchronous") == [(2,)]
    assert asked(ledger, "PRAGMA journal_mode") == [("wal",)]


@pytest.mark.parametrize("outcome", [PAID, None])
def test_a_row_that_is_ok_or_in_flight_is_never_sent_again(ledger, outcome):
    """This is the last defence against a second bill, whatever the plan contains."""
    begin(ledger, [row(1)])
    attempt(ledger, row(1), outcome)
    with pytest.raises(AssertionError, match="pay for a row twice"):
        attempt(ledger, row(1), PAID)


def concluded(ledger: SqliteLedger, made: Attempt, state: State) -> None:
    outcome = {of: outcome for outcome, of in SETTLED.items()}.get(state, REFUSED)
    asyncio.run(ledger.conclude(made, outcome, reply(), state))


def put(ledger: SqliteLedger, state: State) -> Attempt:
    """Creates a row in `state`. Returns its last attempt."""
    begin(ledger, [row(1)])
    made = attempt(ledger, row(1), None)
    if state is not State.SENDING:
        concluded(ledger, made, state)
    return made


def moved(ledger: SqliteLedger, move: Move, to: State, made: Attempt) -> None:
    if move is Move.INTEND:
        attempt(ledger, row(1), None)
    elif move is Move.WITHDRAW:
        asyncio.run(ledger.withdraw(made._replace(was=to)))
    elif move is Move.CONCLUDE:
        concluded(ledger, made, to)
    elif move is Move.AGAIN:
        ledger.mark_again({made.row_id: BY_ROWS})
    elif move is Move.READ_AGAIN:
        ledger.read_again([Unread(made.row_id, made.attempt_id, 200, b"")])


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize(
    "move", [move for move in Move if move not in (Move.SETTLE, Move.RECOVER, Move.KEEP)]
)
def test_the_ledger_writes_only_the_moves_in_the_table(path, move, state):
    """Above all, it writes no second outcome for one attempt: that could make a paid row pending,
    and the runner would send it again."""
    before, after = MOVES[move]
    for to in sorted(after):
        # A row that was never sent leaves the ledger.
        moved_to = [] if move is Move.WITHDRAW else [to]
        path.unlink(missing_ok=True)
        with open_ledger(path, SystemClock()) as ledger:
            made = put(ledger, state)
            if state in before:
                moved(ledger, move, to, made)
                assert ledger.read(states) == moved_to
            else:
                with pytest.raises(AssertionError, match="pay for a row twice"):
                    moved(ledger, move, to, made)
        with reading(path) as read:
            assert read(states) == (moved_to if state in before else [state])


def test_settling_and_recovering_do_not_change_rows_in_other_states(path):
    """`settle` gets rows of several states and `recover` reads them; each picks its own."""
    for state in (State.OK, State.FAILED, State.PENDING, State.AMBIGUOUS):
        path.unlink(missing_ok=True)
        with open_ledger(path, SystemClock()) as ledger:
            put(ledger, state)
            assert ledger.recover() == frozenset()
            ledger.settle(ledger.read(lambda db: list(queries.unfinished(db))))
            after = State.FAILED if state is State.AMBIGUOUS else state
            assert ledger.read(states) == [after]


def states(db: sqlite3.Connection) -> list[str]:
    return [state for (state,) in db.execute("SELECT state FROM rows")]


def test_the_outcome_of_an_attempt_is_stored_with_its_times(ledger):
    """The time between sending and the end is the latency. A refused row is pending again."""
    begin(ledger, [row(1), row(2)])
    made = attempt(ledger, row(1), BLOCKED)
    assert made == Attempt(1, 1, row(1), State.PENDING, None)
    attempt(ledger, row(2), REFUSED)
    failed, refused = unfinished(ledger)
    attempt(ledger, row(2), LOST, reply(b""))
    assert [(one.message, one.attempts) for one in unfinished(ledger)] == [
        ("no", 1),
        ("Bad gateway", 2),
    ]
    assert asked(ledger, "SELECT * FROM fragments") == []
    assert (failed.state, failed.code, failed.message) == (State.FAILED, "request_blocked", "no")
    assert (failed.http_status, failed.maybe_paid, failed.in_last_run) == (400, False, True)
    assert (refused.state, refused.code, refused.attempts) == (State.PENDING, "rate_limited", 1)
    times = asked(ledger, "SELECT finished_at - sent_at, latency_s FROM attempts")
    assert times == [(pytest.approx(1.0), 1.0)] * 3


def test_settling_changes_ambiguous_and_failed_rows_and_no_others(ledger):
    """A row and its duplicates get one decision. A pending row does not change."""
    sheet = [row(n) for n in range(1, 5)]
    begin(ledger, sheet)
    for one, outcome in zip(sheet, (LOST, BLOCKED, REFUSED, LOST), strict=True):
        attempt(ledger, one, outcome)
    first_three = unfinished(ledger)[:3]
    ledger.settle(first_three + first_three)
    assert [(one.state, one.given_up) for one in unfinished(ledger)] == [
        (State.FAILED, False),
        (State.FAILED, True),
        (State.PENDING, False),
        (State.AMBIGUOUS, False),
    ]
    assert asked(ledger, "SELECT row_id, decision FROM decisions ORDER BY decision_id") == [
        (1, "settled"),
        (2, "given_up"),
    ]
    assert ledger.read(queries.counts).paid_max == 2
    attempt(ledger, sheet[1], BLOCKED)
    assert not unfinished(ledger)[1].given_up  # sending it again ends that decision


def test_a_row_that_was_given_up_still_is_after_a_withdrawn_attempt(ledger):
    """A stop between the intent and the request changes nothing."""
    begin(ledger, [row(1)])
    attempt(ledger, row(1), BLOCKED)
    ledger.settle(unfinished(ledger))
    made = attempt(ledger, row(1), None)
    asyncio.run(ledger.withdraw(made))
    assert [one.given_up for one in unfinished(ledger)] == [True]


def test_a_row_with_an_answer_gets_another_version(ledger):
    """The first answer is not hidden while the new version is ambiguous."""
    begin(ledger, [row(1), row(2)])
    ids = [attempt(ledger, row(1), PAID).row_id, attempt(ledger, row(2), LOST).row_id]
    ledger.mark_again({ids[0]: BY_ROWS})
    assert asked(ledger, "SELECT version, state, code FROM rows ORDER BY row_id") == [
        (2, "pending", None),
        (1, "ambiguous", "gateway"),
    ]
    assert asked(ledger, "SELECT decision FROM decisions") == [("again",)]
    attempt(ledger, row(1), LOST)
    [place] = ledger.read(lambda db: list(queries.answered(db)))
    assert (place.sheet_row, place.sent_row, place.row_id) == (1, 1, ids[0])


def test_the_ledger_keeps_why_the_user_asked_for_the_last_version(path):
    """Rows, or flags. Release 0.1 wrote no reason. An altered reason is found."""
    rows = [row(1), row(2), row(3)]
    with open_ledger(path, SystemClock()) as ledger:
        begin(ledger, rows)
        one, two, three = (attempt(ledger, each, PAID).row_id for each in rows)
        ledger.mark_again({one: "refusal", two: "empty\nmissing:a b", three: "empty"})
        for each in rows:
            attempt(ledger, each, PAID)
        ledger.mark_again({one: BY_ROWS})
        wanted = {one: {BY_ROWS}, two: {"empty", "missing:a b"}, three: {"empty"}}
        assert ledger.read(queries.again_reasons) == wanted
        ledger.read(lambda db: db.execute("DELETE FROM asked_again WHERE reason = 'empty'"))
        assert not ledger.read(queries.again_reasons)[three] - {""}
    alter(path, "UPDATE asked_again SET reason = 'other'")
    with reading(path) as read, pytest.raises(StorageFailed, match="why a row was asked for"):
        read(queries.again_reasons)


def test_each_of_several_equal_rows_has_its_own_attempts(ledger):
    """The first one is sent although the second has an answer."""
    two = [row(n, b"same", n - 1) for n in (1, 2)]
    begin(ledger, two)
    second = attempt(ledger, two[1], PAID)
    first = attempt(ledger, two[0], PAID)
    assert first.row_id != second.row_id
    assert ledger.read(queries.counts).states == {State.OK: 2}


def test_a_response_that_a_later_release_can_read_becomes_ok_without_another_request(ledger):
    """This needs a complete response; a cut one stays ambiguous. Later answers come after it."""
    whole, cut = reply(b"whole"), Reply(1.0, 2.0, 200, {}, b"cu", Failure.CUT)
    begin(ledger, [row(n) for n in range(1, 5)])
    attempt(ledger, row(1), PAID)
    attempt(ledger, row(2), UNREAD, whole)
    attempt(ledger, row(3), UNREAD, cut)
    found = ledger.read(lambda db: list(queries.unread(db)))
    assert [one.body for one in found] == [b"whole"]
    ledger.read_again(found)
    attempt(ledger, row(4), PAID)
    assert ledger.read(queries.counts).states == {State.OK: 3, State.AMBIGUOUS: 1}
    assert asked(ledger, "SELECT count(*) FROM attempts WHERE verdict = 'ok'") == [(3,)]
    assert asked(ledger, "SELECT code, message FROM attempts WHERE attempt_id = 2") == [
        (None, None)
    ]
    assert asked(ledger, "SELECT attempt_id FROM fragments") == [(3,)]
    assert asked(ledger, "SELECT code FROM rows WHERE state = 'ok'") == [(None,)] * 3
    answers = ledger.read(queries.finished(1, 9))
    assert [(one.sheet_row, one.answer) for one in answers] == [
        (1, reply().body),
        (2, b"whole"),
        (4, reply().body),
    ]
    places = ledger.read(lambda db: list(queries.answered(db)))
    assert [one.sent_row for one in places] == [1, 2, 4]


def test_facts_of_the_folder_and_the_end_of_a_run_are_stored(path):
    """The last value of a fact counts. The end of a run is stored only for that run."""
    with open_ledger(path, SystemClock()) as ledger:
        begin(ledger, [])
        ledger.end_run(4, StopCode.MAX_PAID, "a" * 64)
        begin(ledger, [])
        ledger.set_meta("host", "one")
        ledger.set_meta("host", "other")
    with open_ledger(path, SystemClock()) as ledger:
        assert ledger.read(queries.meta("host")) == "other"
        last = ledger.read(queries.last_run)
        assert (last.finished_at, last.exit_code) == (None, None)
        assert ledger.read(queries.counts).last_stopped == "max_paid"
        ended = asked(ledger, "SELECT exit_code, stopped, summary_sha256 FROM runs")
        assert ended == [(4, "max_paid", "a" * 64), (None, None, None)]
        [(begun, over)] = asked(ledger, "SELECT started_at, finished_at FROM runs WHERE run = 1")
        assert None not in (begun, over)


def lost(ledger: SqliteLedger) -> bool:
    return ledger.read(queries.lost_lately(3))


def test_lost_responses_are_remembered_until_a_run_gets_a_readable_one(ledger):
    """Runs that send nothing, or whose requests are all refused, change nothing."""
    sheet = [row(n) for n in range(1, 9)]
    begin(ledger, sheet)
    attempt(ledger, sheet[0], LOST)
    assert not lost(ledger)
    ledger.end_run(5, StopCode.AMBIGUOUS, "a" * 64)
    assert lost(ledger)
    begin(ledger, sheet)
    ledger.end_run(0, None, "a" * 64)
    assert lost(ledger)
    begin(ledger, sheet)
    attempt(ledger, sheet[1], REFUSED)
    ledger.end_run(75, StopCode.NOT_SENT, "a" * 64)
    assert lost(ledger)
    begin(ledger, sheet)
    attempt(ledger, sheet[2], PAID, reply(b"{}"))
    assert not lost(ledger)


def test_the_lost_responses_of_a_killed_run_are_remembered(ledger):
    """The run could not record why it ended. Attempts that the kill interrupted do not count."""
    sheet = [row(n) for n in range(1, 9)]
    begin(ledger, sheet)
    attempt(ledger, sheet[0], PAID, reply(b"{}"))
    for one in sheet[1:4]:
        assert not lost(ledger)
        attempt(ledger, one, LOST)
    attempt(ledger, sheet[4], None)
    assert lost(ledger)
    ledger.recover()
    begin(ledger, sheet)
    assert lost(ledger)
    attempt(ledger, sheet[5], PAID, reply(b"{}"))
    assert not lost(ledger)


def test_a_part_has_as_many_answers_as_fit_and_at_least_one(ledger):
    """The limits are a number and a size in bytes. Answers in a named or sealed part are not named
    again."""
    begin(ledger, [row(n) for n in range(1, 5)])
    assert ledger.next_part(10, 100) is None
    attempt(ledger, row(1), PAID, reply(b"x" * 10))
    assert ledger.next_part(10, 5) == (1, 1, 1)
    for number in (2, 3):
        attempt(ledger, row(number), PAID, reply(b"x" * 10))
    assert ledger.next_part(10, 20) == (1, 1, 2)
    assert ledger.next_part(10, 19) == (1, 1, 1)
    assert ledger.next_part(1, 100) == (1, 1, 1)
    assert ledger.next_part(10, 100) == (1, 1, 3)
    part = Part(1, "part-00001.parquet", 1, 2, "b" * 64)
    ledger.name_part(part)
    assert ledger.unsealed_part() == part
    ledger.seal(part)
    assert ledger.unsealed_part() is None
    assert ledger.next_part(10, 100) == (2, 3, 3)
    assert asked(ledger, "SELECT row_id FROM requests") == [(3,)]


def test_answers_of_a_run_whose_record_was_altered_are_not_sealed(path):
    """A part has the id of the run in each row, so one altered record would change all of them."""
    with open_ledger(path, SystemClock()) as ledger:
        begin(ledger, [row(1), row(2)])
        attempt(ledger, row(1), PAID)
        attempt(ledger, row(2), PAID)
        assert [one.run_id for one in ledger.read(queries.finished(1, 2))] == ["run", "run"]
    alter(path, "UPDATE runs SET run_id = 'another'")
    with open_ledger(path, SystemClock()) as ledger:
        with pytest.raises(StorageFailed, match="the record of a run"):
            ledger.read(queries.finished(1, 2))


@pytest.mark.parametrize("sealed", [True, False])
def test_answer_numbers_continue_after_a_restart_whether_sealed_or_not(path, sealed):
    """With the same number twice, an answer could be in two parts or replace another one."""
    sheet = [row(n) for n in range(1, 6)]
    with open_ledger(path, SystemClock()) as ledger:
        begin(ledger, sheet)
        for number, one in enumerate(sheet[:4], start=1):
            attempt(ledger, one, PAID)
            if sealed:
                part = Part(number, f"part-{number:05d}.parquet", number, number, "b" * 64)
                ledger.name_part(part)
                ledger.seal(part)
    with open_ledger(path, SystemClock()) as ledger:
        begin(ledger, sheet)
        assert attempt(ledger, sheet[4], PAID).attempt_id == 5
        assert ledger.next_part(10, 100) == ((5, 5, 5) if sealed else (1, 1, 5))


def test_an_altered_part_name_stops_the_reading_but_not_the_writing(path):
    """The answers to requests in flight are paid and must be saved."""
    with open_ledger(path, SystemClock()) as ledger:
        ledger.name_part(Part(1, "part-00001.parquet", 1, 1, "b" * 64))
    alter(path, "UPDATE parts SET name = 'part-00007.parquet'")
    with open_ledger(path, SystemClock()) as ledger:
        with pytest.raises(StorageFailed, match="the record of a part is not"):
            ledger.unsealed_part()
        begin(ledger, [row(1)])
        attempt(ledger, row(1), PAID)
        assert ledger.read(queries.counts).states == {State.OK: 1}


def test_equal_rows_get_the_best_outcomes_in_the_order_of_the_sheet(ledger):
    """One of three equal rows leaves the sheet. The ledger drops one without an answer."""
    three = [row(n, b"same", n - 1) for n in (1, 2, 3)]
    begin(ledger, three)
    for one, outcome in zip(three, (BLOCKED, LOST, PAID), strict=True):
        attempt(ledger, one, outcome)
    held = begin(ledger, three[:2])
    assert [h.state for h in held] == [State.OK, State.AMBIGUOUS]
    assert ledger.read(queries.counts).states == {State.OK: 1, State.AMBIGUOUS: 1}
    held = begin(ledger, three)
    assert [h.state for h in held] == [State.OK, State.AMBIGUOUS, State.FAILED]


def test_a_row_that_waits_for_a_second_version_is_not_the_first_to_leave_the_sheet(ledger):
    """It has an answer, although its state is pending."""
    two = [row(n, b"same", n - 1) for n in (1, 2)]
    begin(ledger, two)
    attempt(ledger, two[0], LOST)
    made = attempt(ledger, two[1], PAID)
    ledger.mark_again({made.row_id: BY_ROWS})
    [held] = begin(ledger, two[:1])
    assert (held.state, held.answered) == (State.PENDING, True)
    assert ledger.read(queries.unsettled_reruns) == 1


def test_matching_a_sheet_does_not_change_the_places_of_rows(path):
    """Not from another process either, while the ledger is open."""
    with open_ledger(path, SystemClock()) as ledger:
        same = [row(n, b"same", n - 1) for n in (1, 2)]
        begin(ledger, same)
        attempt(ledger, same[0], BLOCKED)
        attempt(ledger, same[1], PAID)
        with reading(path) as read:
            read(matching.begin)
            [alike] = read(matching.look_up([(7, same[0].identity, 0)]))
            assert (alike.held.state, list(alike.numbers)) == (State.OK, [7])
        assert [one.sheet_row for one in unfinished(ledger)] == [1]


def test_after_a_failed_write_the_ledger_writes_nothing_more(path):
    """A second fsync after a failed one would report success wrongly. SQLite's own limit fills the
    disk."""
    with open_ledger(path, SystemClock()) as ledger:
        begin(ledger, [row(n) for n in range(1, 9)])
        ledger.read(lambda db: db.execute("PRAGMA max_page_count = 1").fetchone())
        big = Row(1, b"1" * 16, b"1" * 16, 0, b"x" * 1_000_000)
        with pytest.raises(StorageFailed, match="full"):
            attempt(ledger, big, PAID)
        ledger_says = "cannot write to ledger.sqlite"
        with pytest.raises(StorageFailed, match=ledger_says):
            attempt(ledger, row(2), PAID)
        with pytest.raises(StorageFailed, match=ledger_says):
            ledger.set_meta("a", "b")


def test_a_full_disk_saves_paid_answers_once_there_is_room_and_sends_no_more_rows(path):
    """SQLite's own limit fills the disk. The ledger asks for room once."""
    opened: list[sqlite3.Connection] = []
    asked_for: list[bool] = []

    def make_room() -> bool:
        asked_for.append(True)
        opened[0].execute("PRAGMA max_page_count = 100000")
        return True

    with open_ledger(path, SystemClock(), make_room) as ledger:
        begin(ledger, [row(n) for n in range(1, 6)])
        ledger.read(opened.append)
        made = [attempt(ledger, row(n), None) for n in (1, 2, 3)]
        ledger.read(lambda db: db.execute("PRAGMA max_page_count = 1").fetchone())
        big = reply(b"x" * 1_000_000)

        async def go() -> None:
            await ledger.conclude(made[0], PAID, big, State.OK)
            with pytest.raises(StorageFailed, match="full"):
                await ledger.intend(row(4))
            await ledger.withdraw(made[1])
            await ledger.conclude(made[2], PAID, big, State.OK)

        asyncio.run(go())
        with pytest.raises(StorageFailed, match="full"):
            ledger.set_meta("a", "b")
    assert asked_for == [True]
    with reading(path) as read:
        assert read(queries.counts).states == {State.OK: 2}


@pytest.mark.parametrize("made", ["nothing", "an empty file", "tables"])
def test_a_ledger_without_a_record_of_an_earlier_run_is_refused(path, made):
    """With it, the runner would pay for every row again. No new ledger replaces it."""
    if made == "an empty file":
        path.touch()
    elif made == "tables":
        with open_ledger(path, SystemClock()):
            pass
    before = path.read_bytes() if path.exists() else None
    trace = Trace("summary.json", None)
    says = "missing or empty, .* pay for every row again. Restore .* Nothing was sent"
    with pytest.raises(StorageFailed, match=says):
        with open_ledger(path, SystemClock(), trace=trace):
            pass
    assert (path.read_bytes() if path.exists() else None) == before
    with open_ledger(path, SystemClock()) as ledger:
        begin(ledger, [row(1)])
    with open_ledger(path, SystemClock(), trace=trace) as ledger:
        assert ledger.recover() == frozenset()


def test_a_ledger_that_is_older_than_run_json_is_refused(path):
    """As after restoring an old copy: rows sent since then would be paid for again."""
    with open_ledger(path, SystemClock()) as ledger:
        begin(ledger, [row(1)])
    with reading(path) as read:
        run_id = read(queries.last_run).run_id
    with open_ledger(path, SystemClock(), trace=Trace("run.json", run_id)):
        pass
    with pytest.raises(StorageFailed, match=r"no record of run later, but run\.json shows"):
        with open_ledger(path, SystemClock(), trace=Trace("run.json", "later")):
            pass


def test_damaged_commits_in_the_log_are_not_ignored(path, tmp_path):
    """After a kill only the log has the last commits. With one altered byte, SQLite would silently
    ignore them."""
    killed = tmp_path / "killed.sqlite"
    with open_ledger(path, SystemClock()) as ledger:
        for number in range(3):
            begin(ledger, [row(number + 1)])
        for end in ("", "-wal"):
            shutil.copy(f"{path}{end}", f"{killed}{end}")
    log = Path(f"{killed}-wal")
    altered = bytearray(log.read_bytes())
    altered[100] ^= 1
    log.write_bytes(altered)
    with pytest.raises(StorageFailed, match="the log of its last writes"):
        with open_ledger(killed, SystemClock()):
            pass


def test_stored_text_that_is_not_valid_utf_8_ends_the_writing_and_every_wait(path):
    """SQLite returns the bytes, and Python cannot decode them. Every later write raises the same
    error."""
    with open_ledger(path, SystemClock()) as ledger:
        begin(ledger, [row(1), row(2)])
        attempt(ledger, row(1), BLOCKED)
    path.write_bytes(path.read_bytes().replace(b"request_blocked", b"request_block\xff\xff"))
    with open_ledger(path, SystemClock()) as ledger:
        for number in (1, 2):
            with pytest.raises(StorageFailed, match="Could not decode"):
                asyncio.run(asyncio.wait_for(ledger.intend(row(number)), 30))


def test_a_ledger_of_a_newer_release_is_refused(path):
    """An older release could misread it."""
    with open_ledger(path, SystemClock()):
        pass
    db = sqlite3.connect(path)
    db.execute("PRAGMA user_version = 99")
    db.close()
    with pytest.raises(Refused, match="newer release"), open_ledger(path, SystemClock()):
        pass
    with pytest.raises(Refused, match="newer release"), reading(path):
        pass


def test_a_file_that_is_not_a_ledger_is_reported_as_damage(path):
    """The message tells the user not to delete it."""
    path.write_bytes(b"garbage" * 5000)
    with (
        pytest.raises(StorageFailed, match="Do not delete the ledger"),
        open_ledger(path, SystemClock()),
    ):
        pass


def test_many_writes_share_a_commit_and_keep_their_order(ledger):
    """Two thousand writes at once need far fewer commits."""
    commits = 0

    def count(statement: str) -> None:
        nonlocal commits
        commits += statement == "COMMIT"

    begin(ledger, [])
    ledger.read(lambda db: db.set_trace_callback(count))

    async def crowd() -> None:
        await asyncio.gather(*(ledger.intend(row(n)) for n in range(1, 2001)))

    asyncio.run(crowd())
    ledger.read(lambda db: db.set_trace_callback(None))
    assert commits < 200
    numbers = ledger.read(
        lambda db: [n for (n,) in db.execute("SELECT sheet_row FROM attempts ORDER BY attempt_id")]
    )
    assert numbers == list(range(1, 2001))
