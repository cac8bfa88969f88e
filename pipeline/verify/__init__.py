"""Checks that a run folder is complete and unaltered.

Checksums cover every byte that matters: every row of the ledger, every part, the copy of the sheet
and the summary. Counts and keys show what checksums cannot: that nothing is missing, doubled,
foreign, or from another time.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from pipeline.core.errors import StorageFailed
from pipeline.core.model import Summary
from pipeline.job.job import Job
from pipeline.ledger import queries, wal
from pipeline.ledger.reader import Read, knows, no_run_yet, reading
from pipeline.status.summary import summarize
from pipeline.verify.files import check_failures, check_snapshot, check_summary
from pipeline.verify.findings import KEEP_LEDGER, LEDGER, Finding, Findings, Verified
from pipeline.verify.ledger import check_sense, check_structure, check_sums
from pipeline.verify.results import check_results, listed
from pipeline.verify.reviews import check_reviews

__all__ = ["Finding", "Verified", "verify_job"]

T = TypeVar("T")

_LOOKS = 3
# Damage can also give values of a wrong type, such as bytes in place of text.
_DAMAGE = (sqlite3.Error, StorageFailed, ValueError, TypeError, KeyError, AttributeError)


def verify_job(job: Job) -> Verified:
    """Compares the ledger, the parts, the copy of the sheet, summary.json and failures.csv with
    their checksums and with each other.

    Changes nothing and sends nothing. Works while a run is active, and after any end of a run,
    `kill -9` included. Needs memory for one part, whatever the size of the run.

    Raises:
        Refused: when there was no run yet, or a newer release wrote the ledger.
    """
    found = _look(job)
    for _ in range(_LOOKS - 1):
        # An active run changes the ledger and the files one after the other. A finding from
        # between two changes disappears at the next look.
        if not (found.findings and job.folder.in_use):
            break
        found = _look(job)
    return found


def _look(job: Job) -> Verified:
    folder, findings, in_use = job.folder, Findings(), job.folder.in_use
    names, trace = listed(folder), folder.trace
    if wal.is_damaged(folder.ledger):
        findings.add(f"{LEDGER}-wal", "the last writes of a run are damaged", KEEP_LEDGER)
    elif not _begun(folder.ledger):
        if trace is None:
            raise no_run_yet(job)
        findings.add(LEDGER, "the file is missing or empty", KEEP_LEDGER)
        return Verified(None, 0, 0, 0, findings.all())
    summary: Summary | None = None
    entries, parts, answers = 0, 0, 0
    try:
        if not knows(folder.ledger, trace):
            findings.add(LEDGER, "it has no record of the last run", KEEP_LEDGER)
        with reading(folder.ledger) as read:
            look = _Look(read, findings)
            look(check_structure)
            entries = look(check_sums) or 0
            look(check_sense)
            parts, answers = look(lambda db, f: check_results(folder, names, db, f)) or (0, 0)
            summary = look(lambda db, _: summarize(job, queries.counts(db), in_use=in_use))
            snapshot = look(lambda db, f: check_snapshot(folder, db, f))
            look(lambda db, f: check_summary(folder, db, summary, f))
            look(lambda db, f: check_failures(folder, snapshot, db, f))
            check_reviews(folder, read, findings)
    except StorageFailed as error:
        findings.add(LEDGER, f"it cannot be read ({_why(error)})", KEEP_LEDGER)
    return Verified(summary, entries, answers, parts, findings.all())


def _begun(path: Path) -> bool:
    """Tells whether there is a ledger with tables. The first run makes an empty file first."""
    if not path.exists():
        return False
    try:
        with reading(path) as read:
            return bool(read(lambda db: db.execute("PRAGMA user_version").fetchone()[0]))
    except StorageFailed:
        return True


class _Look:
    """Runs one check after the other. A check that fails must not hide what the others find."""

    def __init__(self, read: Read, findings: Findings) -> None:
        self._read = read
        self._findings = findings

    def __call__(self, check: Callable[[sqlite3.Connection, Findings], T]) -> T | None:
        try:
            return self._read(lambda db: check(db, self._findings))
        except _DAMAGE as error:
            if not self._findings.about(LEDGER):
                problem = f"it cannot be read completely ({_why(error)})"
                self._findings.add(LEDGER, problem, KEEP_LEDGER)
            return None


def _why(error: Exception) -> str:
    """Returns the words of the disk or of SQLite. The finding itself has the advice."""
    cause = error.__cause__ or error
    has_words = isinstance(cause, (sqlite3.Error, StorageFailed))
    return str(cause) if has_words else "a value in it has the wrong type"
