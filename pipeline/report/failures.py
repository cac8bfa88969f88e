"""failures.csv: the sheet's rows that are not ok, with what became of each."""

from __future__ import annotations

import csv
import io
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


def rewrite_failures(folder: RunFolder, read: Read) -> list[Unfinished]:
    """Writes failures.csv as the ledger is now. The rows that it holds.

    Raises:
        StorageFailed: when the ledger or the sheet's copy is damaged, or nothing can be written.
    """
    rows = read(lambda db: list(records.unfinished(db)))
    snapshot = whole_snapshot(folder.snapshots, *read(records.snapshot))
    if snapshot is not None:
        write_failures(folder.failures, snapshot, rows)
    return rows


def write_failures(path: Path, snapshot: Path, unfinished: list[Unfinished]) -> None:
    """Writes `unfinished` (in the order of the sheet) beside the cells of `snapshot`."""
    write_durably(path, failures_csv(snapshot, unfinished))


def failures_csv(snapshot: Path, unfinished: list[Unfinished]) -> bytes:
    """The whole file."""
    wanted = {row.sheet_row: row for row in unfinished}
    columns = stored_columns(snapshot)
    shown = [place for place, name in enumerate(columns) if name not in ADDED_COLUMNS]
    content = io.BytesIO()
    text = io.TextIOWrapper(
        content, encoding="utf-8", newline=""
    )  # a quarter of what StringIO takes
    writer = csv.writer(text)
    writer.writerow([columns[place] for place in shown] + list(ADDED_COLUMNS))
    for number, cells in stored_cells(snapshot) if wanted else ():
        row = wanted.get(number)
        if row is not None:
            writer.writerow([cells[place] for place in shown] + _added(row))
    text.flush()
    return content.getvalue()


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
