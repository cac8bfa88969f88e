"""failures.csv: the sheet's rows that are not ok, with what became of each."""

from __future__ import annotations

import csv
import io
import sqlite3
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path

from pipeline import records
from pipeline.folder import RunFolder, write_durably
from pipeline.inputs.snapshot import stored_cells, stored_columns, whole_snapshot
from pipeline.records import Read, Unfinished

ADDED_COLUMNS = (
    "_row",
    "_status",
    "_error_code",
    "_error_message",
    "_http_status",
    "_attempts",
    "_maybe_paid",
    "_last_sent_at",
)


def rewrite_failures(
    folder: RunFolder, read: Read, seen: Callable[[Unfinished], None] = lambda row: None
) -> None:
    """Writes failures.csv as the ledger is now. `seen` is told of each of its rows, in the order of
    the sheet; none of them is kept, as there may be a million.

    Raises:
        StorageFailed: when the ledger or the sheet's copy is damaged, or nothing can be written.
    """
    snapshot = whole_snapshot(folder.snapshots, *read(records.snapshot))

    def operation(db: sqlite3.Connection) -> bytes | None:
        rows = _told(records.unfinished(db), seen)
        if snapshot is not None:
            return failures_csv(snapshot, rows)
        deque(rows, maxlen=0)
        return None

    content = read(operation)
    if content is not None:
        write_durably(folder.failures, content)


def write_failures(path: Path, snapshot: Path, unfinished: Iterable[Unfinished]) -> None:
    """Writes `unfinished` (in the order of the sheet) beside the cells of `snapshot`."""
    write_durably(path, failures_csv(snapshot, unfinished))


def failures_csv(snapshot: Path, unfinished: Iterable[Unfinished]) -> bytes:
    """The whole file, of rows in the order of the sheet; each of them is taken, and let go."""
    rows = iter(unfinished)
    columns = stored_columns(snapshot)
    shown = [place for place, name in enumerate(columns) if name not in ADDED_COLUMNS]
    content = io.BytesIO()
    # StringIO would take four bytes for each character.
    text = io.TextIOWrapper(content, encoding="utf-8", newline="")
    writer = csv.writer(text)
    writer.writerow([columns[place] for place in shown] + list(ADDED_COLUMNS))
    row = next(rows, None)
    for number, cells in stored_cells(snapshot) if row else ():
        while row is not None and row.sheet_row <= number:
            if row.sheet_row == number:
                writer.writerow([cells[place] for place in shown] + _added(row))
            row = next(rows, None)
        if row is None:
            break
    deque(rows, maxlen=0)
    text.flush()
    return content.getvalue()


def _told(rows: Iterable[Unfinished], seen: Callable[[Unfinished], None]) -> Iterator[Unfinished]:
    for row in rows:
        seen(row)
        yield row


def _added(row: Unfinished) -> list[str]:
    return [
        str(row.sheet_row),
        row.state,
        row.code or "",
        _unformulaic(row.message),
        "" if row.http_status is None else str(row.http_status),
        str(row.attempts),
        "yes" if row.maybe_paid else "no",
        datetime.fromtimestamp(row.sent_at, UTC).isoformat(timespec="milliseconds"),
    ]


def _unformulaic(message: str) -> str:
    """A server's text that a spreadsheet would run as a formula is kept from it."""
    return f"'{message}" if message.startswith(("=", "+", "-", "@", "\t", "\r")) else message
