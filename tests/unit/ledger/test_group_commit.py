"""The thread that commits for all callers, on a real file."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.core.errors import DiskRefused
from pipeline.ledger.group_commit import GroupCommit

INSERT = "INSERT INTO words VALUES (?)"
# On a full disk SQLite undoes this statement by itself, and leaves the transaction open.
BIG = "INSERT INTO words SELECT zeroblob(3000000 + value) FROM generate"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "words.sqlite"


@pytest.fixture
def db(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    connection.execute("CREATE TABLE words (word UNIQUE NOT NULL)")
    connection.execute("CREATE TABLE generate (value)")
    connection.executemany("INSERT INTO generate VALUES (?)", [(n,) for n in range(3)])
    return connection


@pytest.fixture
def commits(db: sqlite3.Connection) -> Iterator[GroupCommit]:
    made = GroupCommit(db)
    yield made
    made.close()


def words(commits: GroupCommit) -> set[str]:
    return {word for (word,) in commits.call(lambda db: db.execute("SELECT word FROM words"))}


def test_cancelling_the_wait_does_not_cancel_the_write(commits):
    """The operation is carried out, and the others in its commit get their results."""

    async def go() -> None:
        first = asyncio.create_task(commits.durably(lambda db: db.execute(INSERT, ("one",))))
        other = asyncio.create_task(commits.durably(lambda db: db.execute(INSERT, ("other",))))
        await asyncio.sleep(0)
        first.cancel()
        await asyncio.wait_for(other, 30)
        assert first.cancelled()

    asyncio.run(go())
    assert words(commits) == {"one", "other"}


def test_an_event_loop_that_ends_before_the_commit_does_not_end_the_thread(commits):
    """A second Ctrl-C ends the loop at once. The ledger still works after that."""
    held = threading.Event()
    holding = threading.Thread(target=commits.call, args=(lambda _: held.wait(30),))
    holding.start()

    async def leave() -> None:
        task = asyncio.create_task(commits.durably(lambda db: db.execute(INSERT, ("late",))))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        task.cancel()

    asyncio.run(leave())
    held.set()
    holding.join()
    assert words(commits) == {"late"}


def test_an_operation_after_the_end_is_refused_at_once(db):
    """The thread has ended and would never carry it out."""
    commits = GroupCommit(db)
    commits.close()
    with pytest.raises(RuntimeError, match="closed"):
        commits.call(lambda db: None)


def test_a_full_disk_refuses_operations_that_save_nothing_and_their_whole_commit(db, path):
    """Nothing of that commit is written, even if SQLite leaves its transaction open."""

    def make_room() -> bool:
        db.execute("PRAGMA max_page_count = 100000")
        return True

    commits = GroupCommit(db, make_room)
    commits.call(lambda db: db.execute("PRAGMA max_page_count = 900").fetchone())

    async def go() -> list[object]:
        return await asyncio.gather(
            commits.durably(lambda db: db.execute(INSERT, ("lost",))),
            commits.durably(lambda db: db.execute(BIG)),
            return_exceptions=True,
        )

    assert [type(result) for result in asyncio.run(go())] == [DiskRefused, DiskRefused]

    async def save() -> None:
        await commits.durably(lambda db: db.execute(INSERT, ("saved",)), saves=True)

    asyncio.run(save())
    commits.close()
    again = sqlite3.connect(path)
    assert again.execute("SELECT word FROM words").fetchall() == [("saved",)]
    again.close()
