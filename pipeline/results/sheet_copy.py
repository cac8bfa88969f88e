"""Reads the run folder's copy of the sheet without the folder's lock."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from pipeline.core.errors import Locked, StorageFailed
from pipeline.inputs.stored import whole_snapshot
from pipeline.job.run_folder import RunFolder
from pipeline.ledger import queries
from pipeline.ledger.reader import Read, reading
from pipeline.system.opening import HeldFile

_TRIES = 5


@contextmanager
def reading_with_copy(folder: RunFolder) -> Iterator[tuple[Read, HeldFile | None]]:
    """Opens one view of the ledger and the copy of the sheet that this view refers to, None if it
    is missing. Both stay the same if a run begins.

    Raises:
        StorageFailed: if the copy was altered, or SQLite cannot read the ledger.
        Locked: if runs begin one after the other, each with another copy.
    """
    for _ in range(_TRIES):
        with reading(folder.ledger) as read:
            named = read(queries.snapshot)
            copy, damaged = None, None
            try:
                copy = whole_snapshot(folder.snapshots, *named)
            except StorageFailed as error:
                damaged = error
            if copy is None and _named_now(folder) != named:
                continue  # a run has begun since the view, and its copy has the name now
            if damaged is not None:
                raise damaged
            yield read, copy
            return
    raise Locked(f"{folder.path}: runs begin one after the other in this folder. Try again.")


def _named_now(folder: RunFolder) -> tuple[str | None, str | None]:
    with reading(folder.ledger) as read:
        return read(queries.snapshot)
