"""Compares the parts with the ledger: every byte of each, and each answer in exactly one place."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.inputs.identity import key_of
from pipeline.job.run_folder import RunFolder
from pipeline.ledger.schema import part_name
from pipeline.results.schema import EMPTY_PART, PART_FILE_BYTES, RESULTS_SCHEMA
from pipeline.system.opening import NOTE_BYTES, read_file
from pipeline.verify.findings import KEEP_LEDGER, LEDGER, RESTORE, RESULTS, Findings

_BATCH_ROWS = 2000
_COMPARED = ("run_id", "row", "id", "row_key", "version", "workflow", "variables")
_MAKE_EMPTY = (
    "Move the file away if it is there. Then run `pipeline run`: it makes the file again, and "
    "sends nothing if the sheet has no new rows"
)


@dataclass(frozen=True, slots=True)
class _Named:
    """The ledger's record of a part."""

    name: str
    rows: int
    sha256: str
    sealed: bool


def listed(folder: RunFolder) -> frozenset[str]:
    """Returns the names of the files that a reader of the results sees.

    List them before reading the ledger: a run records a part there before its file exists.
    """
    try:
        return frozenset(p.name for p in folder.results.iterdir() if not p.name.startswith("."))
    except OSError:
        return frozenset()


def check_results(
    folder: RunFolder, names: frozenset[str], db: sqlite3.Connection, findings: Findings
) -> tuple[int, int]:
    """Checks all parts. Returns (parts, answers): how many. `names` is the result of `listed`."""
    db.execute(
        "CREATE TEMP TABLE sealed (run_id TEXT, row INTEGER, id TEXT, row_key TEXT,"
        " version INTEGER, name TEXT)"
    )
    parts = [
        _Named(part_name(name), *found)
        for name, *found in db.execute(
            "SELECT name, last_seq - first_seq + 1, sha256, sealed FROM parts ORDER BY part"
        )
    ]
    for part in parts:
        if part.sealed:
            _check_part(folder.results / part.name, part, db, findings)
        elif part.name in names and _read(folder.results / part.name, part.sha256) is None:
            findings.add(f"{RESULTS}/{part.name}", _ALTERED, _MAKE_EMPTY)
    _check_empty(folder, db, findings)
    for name in sorted(names - {part.name for part in parts} - {EMPTY_PART}):
        findings.add(
            f"{RESULTS}/{name}",
            "the ledger has no record of this file, but readers of the folder take it for results",
            "Move the file away. If you restored an older ledger, put the newer one back instead",
        )
    return len(parts), _check_answers(db, findings)


_ALTERED = "it is not as the runner wrote it"


def _check_part(path: Path, part: _Named, db: sqlite3.Connection, findings: Findings) -> None:
    name = f"{RESULTS}/{part.name}"
    if not path.exists():
        findings.add(name, "the file is missing", RESTORE)
        return
    content = _read(path, part.sha256)
    if content is None:
        findings.add(name, _ALTERED, RESTORE)
        return
    try:
        rows = _load(content, part.name, db, findings)
    except (OSError, pa.ArrowException, ValueError) as error:
        findings.add(name, f"it cannot be read ({error})", RESTORE)
        return
    if rows != part.rows:
        findings.add(name, f"it contains {rows} answers instead of {part.rows}", RESTORE)


def _read(path: Path, sha256: str) -> bytes | None:
    """Returns the file's bytes, or None if their checksum is not `sha256`."""
    try:
        content = read_file(path, PART_FILE_BYTES)
    except OSError:
        return None
    return content if hashlib.sha256(content).hexdigest() == sha256 else None


def _load(content: bytes, name: str, db: sqlite3.Connection, findings: Findings) -> int:
    """Reads a whole part, and stores the keys of its answers in the table `sealed`. Returns how
    many answers the part has."""
    rows = 0
    file = pq.ParquetFile(pa.BufferReader(content), page_checksum_verification=True)
    if not _same_schema(file.schema_arrow):
        findings.add(f"{RESULTS}/{name}", "its columns are not those of a part", RESTORE)
        return int(file.metadata.num_rows)
    for batch in file.iter_batches(batch_size=_BATCH_ROWS):
        columns = {name: batch[name].to_pylist() for name in _COMPARED}
        for row, key, workflow, variables in zip(
            *(columns[c] for c in ("row", "row_key", "workflow", "variables")), strict=True
        ):
            if key_of(workflow, json.loads(variables)).hex() != key:
                problem = "the variables of an answer do not match its row key"
                findings.add(f"{RESULTS}/{name}", problem, RESTORE, row)
        kept = [columns[c] for c in ("run_id", "row", "id", "row_key", "version")]
        db.executemany(
            "INSERT INTO temp.sealed VALUES (?, ?, ?, ?, ?, ?)",
            zip(*kept, [name] * batch.num_rows, strict=True),
        )
        rows += batch.num_rows
    return rows


def _check_empty(folder: RunFolder, db: sqlite3.Connection, findings: Findings) -> None:
    """Checks the empty part, which makes the folder a table before the first answer.

    Each run makes it at its start if it is missing. The ledger has no record of it.
    """
    path, name = folder.results / EMPTY_PART, f"{RESULTS}/{EMPTY_PART}"
    if not path.exists():
        if db.execute("SELECT 1 FROM runs").fetchone():
            findings.add(name, "the file is missing", _MAKE_EMPTY)
        return
    try:
        content = read_file(path, NOTE_BYTES)
        table = pq.ParquetFile(pa.BufferReader(content), page_checksum_verification=True).read()
        whole = len(table) == 0 and _same_schema(table.schema)
    except (OSError, pa.ArrowException, ValueError):
        whole = False
    if not whole:
        findings.add(name, "it is not the empty part that the runner makes", _MAKE_EMPTY)


def _same_schema(schema: pa.Schema) -> bool:
    return bool(schema.equals(RESULTS_SCHEMA)) and not schema.metadata


def _check_answers(db: sqlite3.Connection, findings: Findings) -> int:
    """Checks that each answer in the ledger is in exactly one place, and that there are no others.
    Returns how many answers there are."""
    db.execute("CREATE INDEX temp.sealed_place ON sealed (run_id, row)")
    for row, places, same in db.execute(_PLACES):
        if places == 0:
            findings.add(RESULTS, "an answer is in no intact part", RESTORE, row)
        elif places > 1:
            findings.add(RESULTS, "the same answer is there twice", KEEP_LEDGER, row)
        elif not same:
            findings.add(RESULTS, "an answer does not match its row", KEEP_LEDGER, row)
    for row, name in db.execute(_UNKNOWN):
        problem = f"it has no record of an answer in {RESULTS}/{name}"
        findings.add(LEDGER, problem, KEEP_LEDGER, row)
    found = db.execute(
        "SELECT (SELECT count(*) FROM temp.sealed) + (SELECT coalesce(sum(1), 0) FROM payloads)"
    )
    return int(found.fetchone()[0])


_PLACES = (
    "SELECT coalesce(r.sheet_row, a.sheet_row), count(DISTINCT p.seq) + count(DISTINCT s.rowid),"
    " count(s.rowid) = 0 OR min(s.row_key = lower(hex(r.row_key)) AND s.version = a.version"
    " AND s.id IS r.id)"
    " FROM attempts a JOIN runs USING (run) LEFT JOIN rows r USING (row_id)"
    " LEFT JOIN (SELECT seq, attempt_id FROM payloads) p USING (attempt_id)"
    " LEFT JOIN temp.sealed s ON s.run_id = runs.run_id AND s.row = a.sheet_row"
    " WHERE a.verdict = 'ok' GROUP BY a.attempt_id"
)
_UNKNOWN = (
    "SELECT s.row, s.name FROM temp.sealed s LEFT JOIN (SELECT runs.run_id, a.sheet_row"
    " FROM attempts a JOIN runs USING (run) WHERE a.verdict = 'ok') k"
    " ON k.run_id = s.run_id AND k.sheet_row = s.row WHERE k.run_id IS NULL"
)
