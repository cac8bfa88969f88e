"""Checksums of the ledger's rows: in every table, after every statement, and for every value."""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.clock import SystemClock
from pipeline.core.model import Outcome, Reply, Row, State, Verdict
from pipeline.inputs.identity import key_of
from pipeline.inputs.mapping import Variables, VariableSource
from pipeline.ledger import checksums, matching, queries, schema
from pipeline.ledger.ledger import open_ledger
from pipeline.ledger.queries import Part
from pipeline.ledger.reader import reading

SCHEMA = """
CREATE TABLE odd (
    key INTEGER PRIMARY KEY, number INTEGER, exact REAL, words TEXT, raw BLOB, any
);
"""
VALUES = st.one_of(
    st.none(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False),
    st.text(st.characters(exclude_categories=["Cs"])),
    st.binary(),
)


@pytest.fixture(scope="module")
def db():
    opened = sqlite3.connect(":memory:", isolation_level=None)
    checksums.register(opened)
    opened.executescript(checksums.with_sums(SCHEMA))
    yield opened
    opened.close()


def all_intact(db: sqlite3.Connection, table: str, columns: tuple[str, ...]) -> bool:
    query = f"SELECT count(*), sum({checksums.intact(columns, 't')}) FROM {table} t"
    rows, whole = db.execute(query).fetchone()
    return rows == (whole or 0)


@given(st.tuples(*[VALUES] * 5), st.tuples(*[VALUES] * 5))
def test_any_value_of_a_row_reads_back_with_a_correct_checksum(db, first, second):
    """SQLite converts some values when it stores them (1 to 1.0, '7' to 7). The checksum is of the
    stored value."""
    [columns] = checksums.columns_of(SCHEMA).values()
    db.execute("DELETE FROM odd")
    key = db.execute(
        "INSERT INTO odd (number, exact, words, raw, any) VALUES (?, ?, ?, ?, ?)", first
    ).lastrowid
    assert all_intact(db, "odd", columns)
    db.execute("UPDATE odd SET (number, exact, words, raw, any) = (?, ?, ?, ?, ?)", second)
    assert all_intact(db, "odd", columns)
    [*values, stored] = db.execute("SELECT * FROM odd").fetchone()
    assert (values[0], checksums.row_sum(*values)) == (key, stored)


@given(st.lists(VALUES, max_size=4), st.lists(VALUES, max_size=4))
def test_two_different_rows_have_different_checksums(first, second):
    """Types and lengths count: 1 is not '1', and ('a', 'b') is not ('ab', '')."""
    same = [(type(v), v) for v in first] == [(type(v), v) for v in second]
    assert (checksums.row_sum(*first) == checksums.row_sum(*second)) == same


def test_a_checksum_never_changes_between_releases():
    """Ledgers outlive releases. The test compares with 8 known bytes."""
    values = (1, -2.5, "é\0", b"\xff", None)
    assert checksums.row_sum(*values).hex() == "180934dd176c8c0a"
    assert checksums.row_sum(0.0) == checksums.row_sum(-0.0)


def test_every_table_of_a_ledger_has_a_checksum_of_all_its_columns():
    """A new table or column gets it without further code."""
    db = schema.empty()
    tables = [n for (n,) in db.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")]
    assert set(tables) == set(schema.COLUMNS)
    for table in tables:
        named = [row[1] for row in db.execute(f"PRAGMA table_xinfo({table})")]
        assert named == [*schema.COLUMNS[table], "sum"]
    db.close()


def test_every_statement_of_a_run_writes_correct_checksums(tmp_path: Path):
    """Intents, outcomes, withdrawals, equal rows that move, decisions, parts and a crash."""
    path = tmp_path / "ledger.sqlite"
    rows = [Row(n, b"%016d" % n, b"same".ljust(16), n - 1, b"{}") for n in range(1, 6)]
    outcomes = [
        (Outcome(Verdict.FAILED, "x", "no", 400), State.FAILED),
        (Outcome(Verdict.AMBIGUOUS, "gateway", "é", 502, maybe_paid=True), State.AMBIGUOUS),
        (Outcome(Verdict.OK, http_status=200, maybe_paid=True), State.OK),
    ]

    async def send() -> None:
        for row, (outcome, state) in zip(rows, outcomes, strict=False):
            attempt = await ledger.intend(row)
            await ledger.conclude(attempt, outcome, Reply(1, 2.5, 200, {}, b"[1]"), state)
        await ledger.withdraw(await ledger.intend(rows[3]))
        await ledger.withdraw(await ledger.intend(rows[0]))
        await ledger.intend(rows[4])

    def lay(count: int) -> None:
        ledger.read(matching.begin)
        ledger.read(matching.look_up([(r.number, r.identity, r.occurrence) for r in rows[:count]]))
        ledger.read(matching.share([(6, 1), (7, 1)]))
        ledger.read(matching.check_absent)
        ledger.read(matching.keep_answers([(8, rows[2].identity)]))
        said = {"snapshot_sha256": "0", "pins": "{}", "accepted": [1], "token": f"token {count}"}
        ledger.begin_run("run", "s", count, 0, **said)

    with open_ledger(path, SystemClock()) as ledger:
        lay(5)
        asyncio.run(send())
        ledger.set_meta("a", "b")
        ledger.set_meta("a", "c")
        lay(2)
        ledger.name_part(Part(1, "part-00001.parquet", 1, 1, "0"))
        ledger.name_part(Part(1, "part-00001.parquet", 1, 1, "1"))
        ledger.end_run(3, None, "0")
        assert len(ledger.recover()) == 1
        ledger.settle(ledger.read(lambda db: list(queries.unfinished(db))))
        lay(0)
        answered = "SELECT row_id FROM rows WHERE state = 'ok'"
        ok = ledger.read(lambda db: db.execute(answered).fetchall())
        ledger.mark_again({row_id: queries.BY_ROWS for (row_id,) in ok})
    with reading(path) as read:
        filled = 0
        for table, columns in schema.COLUMNS.items():
            assert read(lambda db, t=table, c=columns: all_intact(db, t, c)), table
            query = f"SELECT EXISTS (SELECT 1 FROM {table})"
            filled += read(lambda db, q=query: db.execute(q).fetchone()[0])
        not_written_yet = {"lineage", "reviews_read"}
        assert filled == len(schema.COLUMNS.keys() - not_written_yet)


def test_a_program_without_the_checksum_function_cannot_write_to_a_ledger(tmp_path: Path):
    """Any SQLite shell can read it."""
    path = tmp_path / "ledger.sqlite"
    with open_ledger(path, SystemClock()) as ledger:
        ledger.set_meta("a", "b")
    db = sqlite3.connect(path)
    assert db.execute("SELECT name, value FROM meta").fetchall()[0] == ("a", "b")
    with pytest.raises(sqlite3.OperationalError, match="row_sum"):
        db.execute("UPDATE meta SET value = 'c'")
    db.close()


def test_the_variables_in_a_part_give_the_row_key_again():
    """`verify` computes it from them."""
    sources = (VariableSource("a", 0), VariableSource("b", None, "é"))
    [row_key] = Variables("wf_x", sources).keys([["text"]])
    assert key_of("wf_x", {"a": "text", "b": "é"}) == row_key
    assert key_of("wf_y", {"a": "text", "b": "é"}) != row_key
