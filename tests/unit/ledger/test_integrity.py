"""The check of a ledger before a run sends requests. A separate process checks a large ledger."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from pipeline.core.clock import SystemClock
from pipeline.core.errors import StorageFailed
from pipeline.core.model import Outcome, Reply, Row, State, Verdict
from pipeline.ledger import matching, queries
from pipeline.ledger.integrity import check_ledger, checked_beside
from pipeline.ledger.ledger import open_ledger
from pipeline.ledger.reader import reading
from pipeline.ledger.schema import connect

LOST = Outcome(Verdict.AMBIGUOUS, "gateway", "Bad gateway", 502, maybe_paid=True)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def write_ledger(path: Path, answer_bytes: int) -> None:
    """Writes a ledger with one ambiguous row and its stored response."""

    async def send() -> None:
        made = await ledger.intend(Row(7, b"key".ljust(16), b"key".ljust(16), 0, b"{}"))
        await ledger.conclude(
            made, LOST, Reply(1.0, 2.0, 502, {}, b"x" * answer_bytes), State.AMBIGUOUS
        )

    with open_ledger(path, SystemClock()) as ledger:
        ledger.read(matching.begin)
        ledger.begin_run("run", "s", 1, 0)
        asyncio.run(send())


@pytest.mark.parametrize("answer_bytes", [10, 20_000_000])
@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("UPDATE rows SET state = 'pending'", "the record of a row (row 7 of the sheet)"),
        ("UPDATE attempts SET maybe_paid = 0", "the record of an attempt (row 7 of the sheet)"),
    ],
)
def test_an_altered_record_is_found_and_named(tmp_path, answer_bytes, change, words):
    """The words are the same, whichever process finds it."""
    path = tmp_path / "ledger.sqlite"
    write_ledger(path, answer_bytes)
    check_ledger(path)
    with_sums = connect(path, read_only=False)
    kept = dict(
        with_sums.execute("SELECT 'rows', sum FROM rows UNION SELECT 'attempts', sum FROM attempts")
    )
    with_sums.close()
    forge(path, change, kept)
    with pytest.raises(StorageFailed) as raised:
        check_ledger(path)
    assert words in str(raised.value)


def test_damage_is_reported_instead_of_the_error_that_it_causes_in_a_reader(tmp_path):
    """An altered value may raise any exception in the code that uses it."""
    path = tmp_path / "ledger.sqlite"
    write_ledger(path, 10)
    with pytest.raises(ValueError, match="of its own"), checked_beside(path):
        raise ValueError("of its own")
    content = path.read_bytes()
    path.write_bytes(content.replace(b"Bad gateway", b"Bad GATEWAY"))
    with pytest.raises(StorageFailed, match="the record of an attempt"), checked_beside(path):
        raise ValueError("of the damage")


def forge(path: Path, change: str, sums: dict[str, bytes]) -> None:
    """Makes a change that keeps the old checksums: `row_sum` returns the ones in `sums`."""
    table = change.split()[1]
    db = connect(path, read_only=False)
    db.create_function("row_sum", -1, lambda *_: sums[table], deterministic=True)
    db.execute(change)
    db.close()


def test_a_ledger_that_does_not_exist_yet_is_sound(tmp_path):
    """There is nothing to pay twice."""
    check_ledger(tmp_path / "ledger.sqlite")
    with reading(tmp_path / "ledger.sqlite") as read:
        assert read(queries.counts).paid_max == 0
