"""Compares the ledger with its checksums and with itself.

A checksum shows that a row is as it was written. It does not show that no row is missing, nor that
two rows agree. The second half of this module checks that.
"""

from __future__ import annotations

import sqlite3

from pipeline.inputs.identity import identity
from pipeline.ledger.checksums import row_sum
from pipeline.ledger.schema import COLUMNS, typed
from pipeline.verify.findings import KEEP_LEDGER, LEDGER, Findings


def check_structure(db: sqlite3.Connection, findings: Findings) -> None:
    """Runs SQLite's own check. Opening the ledger has already compared the tables' definitions."""
    problems = [text for (text,) in db.execute("PRAGMA integrity_check") if text != "ok"]
    for _ in problems:
        findings.add(LEDGER, f"its structure is damaged ({problems[0]})", KEEP_LEDGER)


def check_sums(db: sqlite3.Connection, findings: Findings) -> int:
    """Compares each row of each table with its checksum. Returns how many rows there are."""
    checked = 0
    db.text_factory = _readable
    try:
        for table, columns in COLUMNS.items():
            # Not from an index, because an index contains copies of the values.
            kind = typed(table, table)
            query = f"SELECT {', '.join(columns)}, sum, {kind} FROM {table} NOT INDEXED"
            for *values, stored, of_its_kind in db.execute(query):
                checked += 1
                if row_sum(*values) != stored or not of_its_kind:
                    row = _sheet_row(db, table, values[0])
                    problem = f"an entry in its table `{table}` is not as the runner wrote it"
                    findings.add(LEDGER, problem, KEEP_LEDGER, row)
    finally:
        db.text_factory = str
    return checked


def check_sense(db: sqlite3.Connection, findings: Findings) -> None:
    """Checks that the tables agree with each other, as far as the ledger alone can show it."""
    for problem, query in _DISAGREEMENTS.items():
        for (row,) in db.execute(query):
            findings.add(LEDGER, problem, KEEP_LEDGER, row)
    for row, known, key, row_id in db.execute("SELECT sheet_row, identity, row_key, id FROM rows"):
        if known != identity(key, row_id):
            findings.add(
                LEDGER, "the identity of a row does not match its key and id", KEEP_LEDGER, row
            )


def _readable(raw: bytes) -> str:
    """Decodes any bytes: altered text may no longer be valid UTF-8."""
    return raw.decode("utf-8", "surrogateescape")


def _sheet_row(db: sqlite3.Connection, table: str, key: object) -> object:
    query = _SHEET_ROW.get(table)
    found = db.execute(query, (key,)).fetchone() if query else None
    return found[0] if found else None


# For each table, the SQL for the sheet row that an entry belongs to, by the entry's first column.
_OF_ATTEMPT = (
    "SELECT coalesce(r.sheet_row, a.sheet_row) FROM attempts a LEFT JOIN rows r USING (row_id)"
    " WHERE a.attempt_id = "
)
_SHEET_ROW = {
    "rows": "SELECT sheet_row FROM rows WHERE row_id = ?",
    "duplicates": "SELECT sheet_row FROM duplicates WHERE sheet_row = ?",
    "attempts": f"{_OF_ATTEMPT} ?",
    "requests": "SELECT sheet_row FROM rows WHERE row_id = ?",
    "payloads": f"{_OF_ATTEMPT} (SELECT attempt_id FROM payloads WHERE seq = ?)",
    "fragments": f"{_OF_ATTEMPT} ?",
    "decisions": (
        "SELECT sheet_row FROM rows"
        " WHERE row_id = (SELECT row_id FROM decisions WHERE decision_id = ?)"
    ),
}

_DECIDED = "EXISTS (SELECT 1 FROM decisions d WHERE d.row_id = r.row_id AND d.decision ="
# Each problem, with a query for the rows of the sheet that have it.
_DISAGREEMENTS = {
    "the record of a row does not match its attempts": (
        "SELECT r.sheet_row FROM rows r LEFT JOIN (SELECT row_id, count(*) AS made,"
        " max(attempt_id) AS latest, max(CASE WHEN verdict = 'ok' THEN attempt_id END) AS latest_ok"
        " FROM attempts GROUP BY row_id) a USING (row_id)"
        " WHERE r.attempts IS NOT a.made OR r.last_attempt IS NOT a.latest"
        " OR r.ok_attempt IS NOT a.latest_ok"
    ),
    "the state of a row does not follow from its last attempt": (
        "SELECT r.sheet_row FROM rows r JOIN attempts a ON a.attempt_id = r.last_attempt"
        # An order for another answer that a review of the present one took back, or outlived.
        " WHERE NOT (r.state = 'ok' AND r.code IS NULL AND r.ok_attempt IS NOT NULL"
        " AND (coalesce(a.verdict, '') IN ('ok', 'refused', 'failed') OR"
        f" a.verdict = 'ambiguous' AND {_DECIDED} 'settled')) AND {_DECIDED} 'kept'))"
        " AND NOT CASE coalesce(a.verdict, '')"
        " WHEN '' THEN r.state = 'sending'"
        " WHEN 'ok' THEN r.code IS NULL AND (r.state = 'ok' AND a.version = r.version"
        " OR r.state = 'pending' AND a.version < r.version)"
        " WHEN 'ambiguous' THEN r.code IS a.code AND (r.state = 'ambiguous'"
        f" OR r.state = 'failed' AND {_DECIDED} 'settled'))"
        " WHEN 'failed' THEN r.code IS a.code AND r.state IN ('failed', 'pending')"
        " WHEN 'refused' THEN r.code IS a.code AND r.state = 'pending' ELSE 0 END"
    ),
    "the version of a row does not match the decisions about it": (
        "SELECT r.sheet_row FROM rows r LEFT JOIN (SELECT row_id, count(*) AS times FROM decisions"
        " WHERE decision = 'again' GROUP BY row_id) d USING (row_id)"
        " WHERE r.version <> 1 + coalesce(d.times, 0)"
    ),
    "an attempt belongs to no row or to no run, or contradicts itself": (
        "SELECT a.sheet_row FROM attempts a LEFT JOIN rows r USING (row_id)"
        " LEFT JOIN runs USING (run) WHERE r.row_id IS NULL OR runs.run IS NULL"
        " OR a.version NOT BETWEEN 1 AND r.version OR a.maybe_paid <> CASE a.verdict"
        " WHEN 'refused' THEN 0 WHEN 'failed' THEN a.maybe_paid ELSE 1 END"
    ),
    "two rows have the same place in the sheet": (
        "SELECT sheet_row FROM rows WHERE sheet_row IS NOT NULL"
        " GROUP BY sheet_row HAVING count(*) > 1"
    ),
    "a duplicate has the place of another row, or copies another duplicate": (
        "SELECT sheet_row FROM duplicates WHERE sheet_row <= first_row"
        " OR first_row IN (SELECT sheet_row FROM duplicates)"
        " OR sheet_row IN (SELECT sheet_row FROM rows WHERE sheet_row IS NOT NULL)"
    ),
    "one run sent two rows from the same place in the sheet": (
        "SELECT sheet_row FROM attempts GROUP BY run, sheet_row HAVING min(row_id) <> max(row_id)"
    ),
    "a skipped row keeps an answer that does not exist": (
        "SELECT s.sheet_row FROM skipped_answers s LEFT JOIN rows r USING (row_id)"
        " WHERE r.ok_attempt IS NULL"
    ),
    "a run has pinned settings that are not in the ledger": (
        "SELECT NULL FROM run_pins LEFT JOIN pins USING (pins) WHERE pins.settings IS NULL"
    ),
    "a decision belongs to no row": (
        "SELECT NULL FROM decisions LEFT JOIN rows USING (row_id) WHERE rows.row_id IS NULL"
    ),
    "an answer that is not in results/ yet has no request": (
        "SELECT a.sheet_row FROM payloads p LEFT JOIN attempts a USING (attempt_id)"
        " LEFT JOIN requests q USING (row_id) WHERE a.verdict IS NOT 'ok' OR q.row_id IS NULL"
    ),
    "two parts contain the same answers": (
        "SELECT NULL FROM parts p JOIN parts o ON o.part < p.part"
        " WHERE o.last_seq >= p.first_seq AND p.last_seq >= o.first_seq"
    ),
}
