"""Checks the files next to the ledger: the copy of the sheet, summary.json and failures.csv.

The ledger records the end of a run only after the run has written its files. So if the last run was
killed, these files may belong to the run before, and are compared with that one.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pipeline.core.errors import StorageFailed
from pipeline.core.model import ROW_COUNTS, JsonObject, Summary
from pipeline.inputs.stored import stored_row_keys, whole_snapshot
from pipeline.job.run_folder import RunFolder
from pipeline.ledger import queries
from pipeline.results.failures_csv import failures_csv
from pipeline.system.opening import NOTE_BYTES, HeldFile, as_object, open_file, read_file
from pipeline.verify.findings import KEEP_LEDGER, LEDGER, Findings

_RUN_AGAIN = (
    "Run `pipeline run`: it makes a new copy of the sheet, and sends nothing if the sheet has no "
    "new rows"
)
_REPORT = "Run `pipeline report`: it writes the file again"
_NEXT_RUN = "The next run writes it again; `pipeline status` shows the same numbers from the ledger"
# `settle` moves rows from ambiguous to failed after the summary was written.
_COUNTED = ("rows", "ok", "pending", "skipped", "paid_min", "paid_max")


def check_snapshot(
    folder: RunFolder, db: sqlite3.Connection, findings: Findings
) -> HeldFile | None:
    """Compares the copy of the sheet with its checksum, and the ledger's rows with the copy.

    Returns the copy, or None if it is missing or altered.
    """
    snapshot_id, sha256 = queries.snapshot(db)
    if snapshot_id is None:
        return None
    name = folder.snapshot.name
    try:
        copy = whole_snapshot(folder.snapshots, snapshot_id, sha256)
        if copy is None:
            findings.add(name, "the file is missing", _RUN_AGAIN)
        else:
            _check_rows(copy, db, findings)
        return copy
    except StorageFailed:
        findings.add(name, "it is not the file that the last run wrote", _RUN_AGAIN)
        return None


def check_summary(
    folder: RunFolder, db: sqlite3.Connection, now: Summary | None, findings: Findings
) -> None:
    """Compares summary.json with its checksum and with `now`, the ledger's own summary."""
    ended = _last_ended(db)
    if ended is None:
        return
    name = folder.summary.name
    try:
        content = read_file(folder.summary, NOTE_BYTES)
    except OSError as error:
        findings.add(name, f"it cannot be read ({error.strerror or error})", _NEXT_RUN)
        return
    last = queries.last_run(db)
    over = last is not None and last.finished_at is not None
    if hashlib.sha256(content).hexdigest() != ended[1]:
        # Not damage: a kill between writing summary.json and recording its checksum.
        if (
            (over and ended[1] is not None)
            or last is None
            or _object(content).get("run_id") != last.run_id
        ):
            findings.add(name, "it is not the file that the last run wrote", _NEXT_RUN)
        return
    then = _object(content)
    counted = sum(then[n] for n in ROW_COUNTS)
    if counted != then["rows"] or (over and now is not None and _differs(then, asdict(now), db)):
        findings.add(LEDGER, "its counts differ from those in summary.json", KEEP_LEDGER)


def _differs(then: JsonObject, now: JsonObject, db: sqlite3.Connection) -> bool:
    """Tells whether the counts in `now` differ from `then`, those in summary.json.

    Stored responses that the runner has read since then are ok and paid.
    """
    (most,) = db.execute("SELECT count(*) FROM decisions WHERE decision = 'reread'").fetchone()
    read = now["ok"] - then["ok"]
    if 0 < read <= most:
        then = then | {"ok": now["ok"], "paid_min": then["paid_min"] + read}
    return any(then[name] != now[name] for name in _COUNTED)


def check_failures(
    folder: RunFolder, snapshot: HeldFile | None, db: sqlite3.Connection, findings: Findings
) -> None:
    """Compares failures.csv with the file that the ledger and the copy of the sheet give."""
    last = queries.last_run(db)
    if snapshot is None or last is None or last.finished_at is None:
        return
    expected = failures_csv(snapshot, queries.unfinished(db))
    try:
        as_written = _holds(folder.failures, expected)
    except OSError as error:
        problem = f"it cannot be read ({error.strerror or error})"
        findings.add(folder.failures.name, problem, _REPORT)
        return
    if not as_written:
        problem = "it does not match the rows that are not ok in the ledger"
        findings.add(folder.failures.name, problem, _REPORT)


def _holds(path: Path, pieces: Iterator[bytes]) -> bool:
    """Tells whether a file consists of exactly these pieces."""
    with open_file(path) as file:
        return all(file.read(len(piece)) == piece for piece in pieces) and not file.read(1)


def _check_rows(copy: HeldFile, db: sqlite3.Connection, findings: Findings) -> None:
    """Checks that the ledger's rows are at their places in the copy of the sheet."""
    known = db.execute(
        "SELECT sheet_row AS place, row_key FROM rows WHERE sheet_row IS NOT NULL UNION ALL"
        " SELECT d.sheet_row, r.row_key FROM duplicates d CROSS JOIN rows r"
        " ON r.sheet_row = d.first_row ORDER BY place"
    )
    row, key = known.fetchone() or (None, None)
    rows = skipped = 0
    kept = queries.kept_rows(db)
    for number, found in stored_row_keys(copy):
        # A changed row that keeps a reviewed answer is not skipped in the copy of the sheet.
        rows, skipped = number, skipped + (found is None or number in kept)
        while row is not None and row <= number:
            if row != number or bytes(key or b"").hex() != found:
                problem = "a row is not the row at its place in the copy of the sheet"
                findings.add(LEDGER, problem, KEEP_LEDGER, row)
            row, key = known.fetchone() or (None, None)
    counts = queries.counts(db)
    if row is not None or (rows, skipped) != (counts.sheet_rows, counts.skipped + len(kept)):
        findings.add(
            LEDGER, "it belongs to another sheet than the copy of the sheet does", KEEP_LEDGER
        )


def _last_ended(db: sqlite3.Connection) -> tuple[int, str | None] | None:
    found: tuple[int, str | None] | None = db.execute(
        "SELECT run, summary_sha256 FROM runs WHERE finished_at IS NOT NULL"
        " ORDER BY run DESC LIMIT 1"
    ).fetchone()
    return found


def _object(content: bytes) -> dict[str, Any]:
    try:
        return as_object(content)
    except ValueError:
        return {}
