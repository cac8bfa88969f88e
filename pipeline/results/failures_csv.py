"""Writes failures.csv: the rows of the sheet that are not ok, each with its outcome.

There may be a million of them. They are read, joined with their cells and written a few thousand at
a time, so memory does not grow with their number.
"""

from __future__ import annotations

import csv
import io
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import SpooledTemporaryFile
from typing import IO

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline.inputs.arrow import at
from pipeline.inputs.stored import (
    Copy,
    stored_batches,
    stored_columns,
    stored_places,
    whole_snapshot,
)
from pipeline.job.run_folder import RunFolder
from pipeline.ledger import queries
from pipeline.ledger.queries import Unfinished
from pipeline.ledger.reader import Read
from pipeline.ledger.shown import shown_row
from pipeline.results.formulas import unformulaic
from pipeline.system.files import copy_durably, storing

ADDED_COLUMNS = (
    "_row",
    "_status",
    "_error_code",
    "_error_message",
    "_http_status",
    "_attempts",
    "_maybe_paid",
    "_last_sent_at",
    "_place",
)

Seen = Callable[[Unfinished], None]

# Of most jobs the file is smaller and needs no temporary one.
_IN_MEMORY_BYTES = 1024 * 1024


class Draft:
    """The next failures.csv, until it is known whether it may take the place of the last one."""

    def __init__(self, path: Path, file: IO[bytes]) -> None:
        self._path = path
        self._file = file
        self._whole = False

    def write(
        self,
        snapshot: Copy | None,
        read: Read,
        seen: Seen = lambda row: None,
        *,
        verified_elsewhere: bool = False,
        in_use: bool = False,
    ) -> None:
        """Writes the unfinished rows, each with its cells from `snapshot`. Without a snapshot it
        writes no file. Calls `seen` with each row, in the order of the sheet. `queries.unfinished`
        explains `verified_elsewhere`, and `shown.shown_row` explains `in_use`.

        Raises:
            StorageFailed: when the ledger or the snapshot is damaged, or the disk refuses.
        """
        unfinished = partial(queries.unfinished, verified_elsewhere=verified_elsewhere)
        read(lambda db: self._write(snapshot, _told(unfinished(db), seen, in_use)))

    def _write(self, snapshot: Copy | None, rows: Iterator[Unfinished]) -> None:
        if snapshot is None:
            deque(rows, maxlen=0)
            return
        for piece in failures_csv(snapshot, rows):
            with storing(self._path):
                self._file.write(piece)
        self._whole = True

    def keep(self) -> None:
        """Makes it failures.csv, durably, if it is whole.

        Raises:
            StorageFailed: when the disk refuses.
        """
        if self._whole:
            self._file.seek(0)
            copy_durably(self._path, self._file)


@contextmanager
def drafted(path: Path) -> Iterator[Draft]:
    """Yields a draft of the file at `path`. The draft becomes the file at the end of the block,
    unless the block raises.

    A long draft is in a temporary file without a name, which ends with the process: a run that ends
    and a report may both write this file at the same time.

    Raises:
        StorageFailed: when the disk refuses.
    """
    with SpooledTemporaryFile(_IN_MEMORY_BYTES, dir=str(path.parent)) as file:
        draft = Draft(path, file)
        yield draft
        draft.keep()


def rewrite_failures(folder: RunFolder, read: Read) -> None:
    """Writes failures.csv as the ledger is now.

    Raises:
        StorageFailed: when the ledger or the sheet's copy is damaged, or nothing can be written.
    """
    with drafted(folder.failures) as draft:
        draft.write(whole_snapshot(folder.snapshots, *read(queries.snapshot)), read)


def failures_csv(snapshot: Copy, unfinished: Iterable[Unfinished]) -> Iterator[bytes]:
    """The whole file in pieces, of rows in the order of the sheet; each of them is taken, and let
    go."""
    rows = iter(unfinished)
    columns, places = stored_columns(snapshot), stored_places(snapshot)
    shown = [place for place, name in enumerate(columns) if name not in ADDED_COLUMNS]
    yield _lines([[*(columns[place] for place in shown), *ADDED_COLUMNS]])
    row = next(rows, None)
    for first, cells, keys, *_ in stored_batches(snapshot) if row else ():
        beside: list[Unfinished] = []
        while row is not None and row.sheet_row < first + len(keys):
            if row.sheet_row >= first:
                beside.append(row)
            row = next(rows, None)
        if beside:
            found = _beside([cells[place] for place in shown], first, beside)
            named = _places(places, [row.sheet_row for row in beside])
            yield _lines((*row, place) for row, place in zip(found, named, strict=True))
        if row is None:
            break
    deque(rows, maxlen=0)


def _beside(
    columns: list[pa.Array], first: int, rows: list[Unfinished]
) -> Iterator[tuple[object, ...]]:
    """Each of `rows` with its cells, of columns that begin at row `first`."""
    places = [row.sheet_row - first for row in rows]
    cells = [at(column, places) for column in columns]
    added = zip(*map(_added, rows), strict=True)
    return zip(*cells, *added, _times([row.sent_at for row in rows]), strict=True)


def _places(
    known: tuple[str, npt.NDArray[np.int64]] | None, rows: list[int]
) -> Iterable[str | None]:
    """Where the user finds each row: `line 26` or `Sheet1 row 25`."""
    if known is None:
        return [None] * len(rows)
    word, places = known
    return [unformulaic(f"{word} {place}") for place in places[np.array(rows) - 1].tolist()]


def _lines(rows: Iterable[Iterable[object]]) -> bytes:
    text = io.StringIO(newline="")
    csv.writer(text).writerows(rows)
    return text.getvalue().encode()


def _told(rows: Iterable[Unfinished], seen: Seen, in_use: bool) -> Iterator[Unfinished]:
    for row in rows:
        shown = shown_row(row, in_use)
        if shown is not None:
            seen(shown)
            yield shown


def _added(row: Unfinished) -> tuple[object, ...]:
    """All of `ADDED_COLUMNS` except the time and the place. None is an empty cell."""
    return (
        row.sheet_row,
        row.state,
        row.code and unformulaic(row.code),
        unformulaic(row.message),
        row.http_status,
        row.attempts,
        "yes" if row.maybe_paid else "no",
    )


def _times(seconds: list[float]) -> list[str]:
    """Seconds since 1970 as `datetime.isoformat` has them, in a seventh of its time: rounded to
    microseconds, then cut to milliseconds."""
    parts, wholes = np.modf(np.array(seconds, np.float64))
    microseconds = wholes.astype(np.int64) * 1_000_000 + np.rint(parts * 1e6).astype(np.int64)
    times = np.datetime_as_string((microseconds // 1000).astype("datetime64[ms]"))
    return [f"{time}+00:00" for time in times.tolist()]
