"""One unchanging view of a ledger that another process may be writing to."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Protocol, TypeVar

from pipeline.core.errors import (
    Refused,
)
from pipeline.job.job import Job
from pipeline.job.run_folder import RunFolder
from pipeline.job.traces import Trace
from pipeline.ledger import queries, reader
from pipeline.ledger.queries import last_run
from pipeline.ledger.schema import (
    add_missing,
    bound,
    check_version,
    connect,
    empty,
    lost,
    undamaged,
    unusable,
)

T = TypeVar("T")
Operation = Callable[[sqlite3.Connection], T]
"""What is done with a ledger in one step. Outside of this room nobody has a connection."""


class Read(Protocol):
    """Runs one reading operation on a ledger."""

    def __call__(self, operation: Operation[T], /) -> T: ...


@contextmanager
def reading(path: Path) -> Iterator[Read]:
    """One view of a ledger that another process may be writing to; it does not change meanwhile.

    Where there is no ledger yet it is an empty one; a kill may have come before its first table.

    Raises:
        Refused: when it was written by a newer release.
        StorageFailed: when it cannot be read.
    """

    def read(operation: Operation[T], /) -> T:
        return undamaged(operation, connection)

    with ExitStack() as stack:
        try:
            connection = _view(path, stack)
            yield read
        except sqlite3.Error as error:
            raise unusable(path, error) from error


def _view(path: Path, stack: ExitStack) -> sqlite3.Connection:
    """A connection that shows the ledger as it is now, until `stack` ends."""
    if path.exists():
        try:
            connection = stack.enter_context(closing(connect(path, read_only=True)))
            if _is_made(path, connection):
                return connection
        except sqlite3.OperationalError:
            # SQLite makes a file for its readers (-shm). A full or read-only disk has no room for
            # it, and a ledger that nobody can write to needs none.
            if not stack.enter_context(RunFolder(path.parent).resting()):
                raise
            connection = stack.enter_context(closing(connect(path, read_only=True, resting=True)))
            if _is_made(path, connection):
                return connection
    return stack.enter_context(closing(empty()))


def refuse_lost(path: Path, trace: Trace | None) -> None:
    """Refuses a ledger that does not know of the run that left `trace`. Changes nothing.

    The trace must have been looked for first: a run records itself before it leaves any.

    Raises:
        StorageFailed: when the ledger at `path` is gone, empty, or older than the trace.
    """
    if trace is not None and not knows(path, trace):
        with reading(path) as read:
            raise lost(path, trace, empty=read(last_run) is None)


def knows(path: Path, trace: Trace | None) -> bool:
    """Whether the ledger at `path` knows of the run that left `trace`; always, where there is none.

    Raises:
        StorageFailed: when it cannot be read.
    """
    if trace is None:
        return True
    query = "SELECT EXISTS (SELECT 1 FROM runs WHERE run_id = coalesce(?, run_id))"
    with reading(path) as read:
        return bool(read(lambda db: db.execute(query, (trace.run_id,)).fetchone()[0]))


def _is_made(path: Path, db: sqlite3.Connection) -> bool:
    """Begins the view; whether the ledger has its tables.

    A rollback journal is there only while the file is being made: from its first table on, the
    ledger has a write-ahead log instead. A reader cannot take back what a kill left in it, and
    there is nothing in it to read.
    """
    try:
        db.execute("BEGIN")
        version = check_version(path, db)
        if version:
            add_missing(db, version)
            bound(db, path)
        return version > 0
    except sqlite3.OperationalError as error:
        if getattr(error, "sqlite_errorcode", 0) == sqlite3.SQLITE_READONLY_ROLLBACK:
            return False
        raise


def refuse_before_first_run(job: Job, read: reader.Read) -> None:
    """Raises where there is nothing to look at yet.

    Raises:
        Refused: with the command that changes that.
        StorageFailed: where there was a run, and the ledger does not know of it.
    """
    reader.refuse_lost(job.folder.ledger, job.folder.trace)
    if read(queries.last_run) is None:
        raise no_run_yet(job)


def no_run_yet(job: Job) -> Refused:
    """What to raise where there is nothing to look at yet. The command ends it, to be pasted."""
    rehearsed = "There is a rehearsal: add --sandbox to see it. " if job.rehearsed else ""
    return Refused(
        f"{job.folder.path}: no run yet. Nothing was sent. {rehearsed}"
        f"Start it with: {job.command('run')}"
    )
