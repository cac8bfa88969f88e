"""The durable life of attempts, on a real file."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline import placing, records
from pipeline.clock import SystemClock
from pipeline.errors import Refused, StorageFailed
from pipeline.ledger import SqliteLedger, open_ledger
from pipeline.model import Attempt, Outcome, Reply, Row, State, Verdict

PAID = Outcome(Verdict.OK, http_status=200, maybe_paid=True)
LOST = Outcome(Verdict.AMBIGUOUS, "gateway", "Bad gateway", 502, maybe_paid=True)
BLOCKED = Outcome(Verdict.FAILED, "request_blocked", "no", 400)
SETTLED = {PAID: State.OK, LOST: State.AMBIGUOUS, BLOCKED: State.FAILED}


def row(number: int, name: bytes = b"", occurrence: int = 0) -> Row:
    identity = (name or b"%d" % number).ljust(16, b".")
    return Row(number, identity, identity, occurrence, b'{"n":"%d"}' % number)


def reply(body: bytes = b'{"result":"x"}') -> Reply:
    return Reply(1.0, 2.0, 200, {}, body)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.sqlite"


@pytest.fixture
def ledger(path: Path) -> Iterator[SqliteLedger]:
    with open_ledger(path, SystemClock()) as opened:
        begin(opened, [])
        yield opened


def begin(ledger: SqliteLedger, sheet: list[Row], snapshot: str = "s") -> list:
    """Lays a sheet over the ledger and makes it the one of a new run; what was held."""
    ledger.read(placing.begin)
    wanted = [(r.number, r.identity, r.occurrence) for r in sheet]
    held = ledger.read(placing.look_up(wanted))
    ledger.begin_run("run", snapshot, len(sheet), 0)
    by_number = {int(number): alike.held for alike in held for number in alike.numbers}
    return [by_number[number] for number in sorted(by_number)]


def attempt(ledger: SqliteLedger, one: Row, outcome: Outcome | None) -> Attempt:
    async def go() -> Attempt:
        made = await ledger.intend(one)
        if outcome is not None:
            await ledger.conclude(made, outcome, reply(), SETTLED[outcome])
        return made

    return asyncio.run(go())


def test_an_attempt_without_an_outcome_is_ambiguous_after_a_restart(path):
    """Interrupted, maybe paid, and counted as such."""
    with open_ledger(path, SystemClock()) as ledger:
        begin(ledger, [row(1), row(2)])
        attempt(ledger, row(1), PAID)
        attempt(ledger, row(2), None)
    with open_ledger(path, SystemClock()) as ledger:
        assert len(ledger.recover()) == 1
        assert ledger.recover() == frozenset()
        counts = ledger.read(records.counts)
    assert counts.states == {State.OK: 1, State.AMBIGUOUS: 1}
    assert counts.by_code == {"interrupted": 1}
    assert (counts.paid_min, counts.paid_max) == (1, 2)


def test_an_intent_that_was_not_sent_leaves_no_trace(ledger):
    """Neither of a new row nor of one that had failed."""
    begin(ledger, [row(1), row(2)])
    attempt(ledger, row(2), BLOCKED)
    for number in (1, 2):
        made = attempt(ledger, row(number), None)
        asyncio.run(ledger.withdraw(made))
    assert ledger.read(lambda db: db.execute("SELECT count(*) FROM attempts").fetchone()) == (1,)
    [left] = ledger.read(lambda db: list(records.unfinished(db)))
    assert (left.state, left.code, left.attempts) == (State.FAILED, "request_blocked", 1)


@pytest.mark.parametrize("outcome", [PAID, None])
def test_a_row_that_is_ok_or_on_its_way_is_never_intended_again(ledger, outcome):
    """The last line of defence against a second bill, whatever the plan says."""
    begin(ledger, [row(1)])
    attempt(ledger, row(1), outcome)
    with pytest.raises(AssertionError, match="pay twice"):
        attempt(ledger, row(1), PAID)


def test_equal_rows_take_the_best_outcomes_in_the_order_of_the_sheet(ledger):
    """Of three, one leaves the sheet: it is the one without an answer."""
    three = [row(n, b"same", n - 1) for n in (1, 2, 3)]
    begin(ledger, three)
    for one, outcome in zip(three, (BLOCKED, LOST, PAID), strict=True):
        attempt(ledger, one, outcome)
    held = begin(ledger, three[:2])
    assert [h.state for h in held] == [State.OK, State.AMBIGUOUS]
    assert ledger.read(records.counts).states == {State.OK: 1, State.AMBIGUOUS: 1}
    held = begin(ledger, three)
    assert [h.state for h in held] == [State.OK, State.AMBIGUOUS, State.FAILED]


def test_an_answered_row_that_waits_for_a_second_version_does_not_leave_first(ledger):
    """It has an answer, whatever its state says."""
    two = [row(n, b"same", n - 1) for n in (1, 2)]
    begin(ledger, two)
    attempt(ledger, two[0], LOST)
    made = attempt(ledger, two[1], PAID)
    ledger.mark_again([made.row_id])
    [held] = begin(ledger, two[:1])
    assert (held.state, held.answered) == (State.PENDING, True)
    assert ledger.read(records.open_marks) == 1


def test_a_sheet_is_looked_at_without_changing_where_rows_stand(path):
    """From another process too, while the ledger is open."""
    with open_ledger(path, SystemClock()) as ledger:
        same = [row(n, b"same", n - 1) for n in (1, 2)]
        begin(ledger, same)
        attempt(ledger, same[0], BLOCKED)
        attempt(ledger, same[1], PAID)
        with records.reading(path) as read:
            read(placing.begin)
            [alike] = read(placing.look_up([(7, same[0].identity, 0)]))
            assert (alike.held.state, list(alike.numbers)) == (State.OK, [7])
            assert read(placing.leaving) == 0
        assert [u.sheet_row for u in ledger.read(lambda db: list(records.unfinished(db)))] == [1]


def test_paid_rows_that_a_sheet_no_longer_has_are_counted(ledger):
    """Ok and ambiguous ones, not those that were refused or failed unpaid."""
    sheet = [row(n) for n in range(1, 4)]
    begin(ledger, sheet)
    for one, outcome in zip(sheet, (PAID, LOST, BLOCKED), strict=True):
        attempt(ledger, one, outcome)
    ledger.read(placing.begin)
    ledger.read(placing.look_up([(1, row(9).identity, 0)]))
    assert ledger.read(placing.leaving) == 2


def test_after_a_failed_write_nothing_is_written_any_more(path):
    """A second fsync after a failed one would lie. The disk is full by SQLite's own limit."""
    with open_ledger(path, SystemClock()) as ledger:
        begin(ledger, [row(n) for n in range(1, 9)])
        ledger.read(lambda db: db.execute("PRAGMA max_page_count = 1").fetchone())
        big = Row(1, b"1" * 16, b"1" * 16, 0, b"x" * 1_000_000)
        with pytest.raises(StorageFailed, match="full"):
            attempt(ledger, big, PAID)
        ledger_says = "cannot be written"
        with pytest.raises(StorageFailed, match=ledger_says):
            attempt(ledger, row(2), PAID)
        with pytest.raises(StorageFailed, match=ledger_says):
            ledger.set_meta("a", "b")


def test_a_text_that_is_none_any_more_ends_the_writing_and_leaves_nobody_waiting(path):
    """SQLite hands it over, Python refuses it: every later write is told of it too."""
    with open_ledger(path, SystemClock()) as ledger:
        begin(ledger, [row(1), row(2)])
        attempt(ledger, row(1), BLOCKED)
    path.write_bytes(path.read_bytes().replace(b"request_blocked", b"request_block\xff\xff"))
    with open_ledger(path, SystemClock()) as ledger:
        for number in (1, 2):
            with pytest.raises(StorageFailed, match="Could not decode"):
                asyncio.run(asyncio.wait_for(ledger.intend(row(number)), 30))


def test_a_ledger_of_a_newer_release_is_refused(path):
    """Never half understood."""
    with open_ledger(path, SystemClock()):
        pass
    db = sqlite3.connect(path)
    db.execute("PRAGMA user_version = 99")
    db.close()
    with pytest.raises(Refused, match="newer release"), open_ledger(path, SystemClock()):
        pass
    with pytest.raises(Refused, match="newer release"), records.reading(path):
        pass


def test_a_file_that_is_no_ledger_is_a_damaged_disk(path):
    """And says that it must not be deleted."""
    path.write_bytes(b"garbage" * 5000)
    with pytest.raises(StorageFailed, match="Do not delete it"), open_ledger(path, SystemClock()):
        pass


def test_many_writes_share_a_commit_and_keep_their_order(ledger):
    """Two thousand at once: far fewer commits than writes."""
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
