"""Reads a ledger in one unchanging view, while another process may write to it."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Protocol, TypeVar

from pipeline.core.errors import Refused
from pipeline.job.job import Job
from pipeline.job.run_folder import RunFolder
from pipeline.job.traces import Trace
from pipeline.ledger.queries import last_run
from pipeline.ledger.schema import (
    PATIENCE_S,
    add_missing,
    bound,
    check_version,
    connect,
    empty,
    is_busy,
    lost,
    undamaged,
    unusable,
)

T = TypeVar("T")
Operation = Callable[[sqlite3.Connection], T]
"""One step with a ledger. Code outside this room gets a connection only as its argument."""


class Read(Protocol):
    """Runs one reading operation on a ledger."""

    def __call__(self, operation: Operation[T], /) -> T: ...


@contextmanager
def reading(path: Path, patience_s: float = PATIENCE_S) -> Iterator[Read]:
    """Opens one view of a ledger. The view does not change while another process writes.

    If there is no ledger yet, or a kill left it without tables, the view is an empty ledger. Waits
    for another program's lock for `patience_s` seconds.

    Raises:
        Refused: when a newer release wrote the ledger.
        LedgerBusy: when another program keeps it locked.
        StorageFailed: when SQLite cannot read it, or it is damaged.
    """

    def read(operation: Operation[T], /) -> T:
        return undamaged(operation, connection)

    with ExitStack() as stack:
        try:
            connection = _view(path, stack, patience_s)
            yield read
        except sqlite3.Error as error:
            raise unusable(path, error) from error


def _view(path: Path, stack: ExitStack, patience_s: float) -> sqlite3.Connection:
    """Returns a connection that shows the ledger as it is now, until `stack` ends."""
    if path.exists():
        try:
            connection = stack.enter_context(closing(connect(path, read_only=True)))
            connection.execute(f"PRAGMA busy_timeout = {round(patience_s * 1000)}")
            if _is_made(path, connection):
                return connection
        except sqlite3.OperationalError as error:
            # SQLite makes a file for its readers (-shm). A full or read-only disk has no room for
            # it, and a ledger that no process writes to needs none. A program that has locked the
            # ledger may write to it.
            if is_busy(error) or not stack.enter_context(RunFolder(path.parent).resting()):
                raise
            connection = stack.enter_context(closing(connect(path, read_only=True, resting=True)))
            if _is_made(path, connection):
                return connection
    return stack.enter_context(closing(empty()))


def refuse_lost(path: Path, trace: Trace | None) -> None:
    """Refuses a ledger that has no record of the run that left `trace`. Changes nothing.

    Look for the trace before this call: a run records itself in the ledger before it leaves a
    trace.

    Raises:
        StorageFailed: when the ledger at `path` is gone, empty, or older than the trace.
    """
    if trace is not None and not knows(path, trace):
        with reading(path) as read:
            raise lost(path, trace, empty=read(last_run) is None)


def knows(path: Path, trace: Trace | None) -> bool:
    """Tells whether the ledger at `path` has a record of the run that left `trace`. True if there
    is no trace.

    Raises:
        StorageFailed: when SQLite cannot read the ledger.
    """
    if trace is None:
        return True
    query = "SELECT EXISTS (SELECT 1 FROM runs WHERE run_id = coalesce(?, run_id))"
    with reading(path) as read:
        return bool(read(lambda db: db.execute(query, (trace.run_id,)).fetchone()[0]))


def _is_made(path: Path, db: sqlite3.Connection) -> bool:
    """Begins the view. Returns whether the ledger has its tables.

    The ledger has a rollback journal only until its first table exists, and a write-ahead log from
    then on. A reader cannot roll back the journal that a kill left, and such a ledger has nothing
    to read.
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


def refuse_before_first_run(job: Job, read: Read) -> None:
    """Checks that the job has had a run.

    Raises:
        Refused: when it has not. The message names the command that starts one.
        StorageFailed: when there was a run, and the ledger has no record of it.
    """
    refuse_lost(job.folder.ledger, job.folder.trace)
    if read(last_run) is None:
        raise no_run_yet(job)


def has_run(job: Job) -> bool:
    """Whether the job has had a run. A kill may leave a ledger without one."""
    with reading(job.folder.ledger) as read:
        return read(last_run) is not None


def no_run_yet(job: Job) -> Refused:
    """Returns the exception for a job without a run. Its message ends with the command to paste."""
    rehearsed = "There is a rehearsal: add --sandbox to see it. " if job.rehearsed else ""
    return Refused(
        f"{job.folder.path}: no run yet. Nothing was sent. {rehearsed}"
        f"Start it with: {job.command('run')}"
    )
