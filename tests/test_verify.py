"""Whatever is altered, lost, doubled or foreign in a run folder is found, and never served."""

from __future__ import annotations

import json
import shutil
import signal
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import pipeline
from pipeline import Finding, Verified, verify_job
from pipeline.folder import RunFolder
from tests.conftest import Job, SandboxProcess, StartSandbox, ended

SHEET = [
    ["a-1", "a plain story"],
    ["a-2", "another story, with \u00e9 and \u2028"],
    ["a-3", "#fault:blocked"],
    ["a-4", "#fault:html-504-billed"],
    ["a-5", "a third story"],
    ["a-6", ""],
    ["a-7", "a fourth story"],
    ["a-8", "a story for later"],
]


def verify(folder: Path) -> Verified:
    """As the command does, on a run folder or a copy of one."""
    return verify_job(pipeline.Job("job", RunFolder(folder), None, False, (str(folder),)))


def files_found(folder: Path) -> set[str]:
    return {finding.file for finding in verify(folder).findings}


def only(folder: Path) -> Finding:
    [finding] = verify(folder).findings
    return finding


@pytest.fixture
def finished(sandbox: SandboxProcess, make_job: Callable[..., Job]) -> Job:
    """Two parts; rows that are ok, failed, ambiguous, skipped and pending."""
    job = make_job(sandbox.url, ["sku", "story"], SHEET, id="sku", empty="skip", retries=0)
    job.write_spec(id="sku", empty="skip", retries=0, variables={"story": "story"})
    job.run("--limit", "4", expect=5)
    job.run("--limit", "7", expect=5)
    return job


@pytest.fixture
def killed(start_sandbox: StartSandbox, make_job: Callable[..., Job]) -> Path:
    """A run folder after `kill -9`: answers in the ledger only, cut off attempts, and a WAL."""
    sandbox = start_sandbox(latency="30ms")
    job = make_job(sandbox.url, rows=[[f"story {n}"] for n in range(400)], concurrency=8)
    process = job.start(rate="60")
    with ended(process):
        while sandbox.received() < 24:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    return job.output


def copied(folder: Path, place: Path) -> Path:
    shutil.rmtree(place, ignore_errors=True)
    return Path(shutil.copytree(folder, place))


def checkpointed(folder: Path) -> Path:
    """Moves what is in the WAL to where it stays, as the next run would."""
    db = sqlite3.connect(folder / "ledger.sqlite")
    db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    db.close()
    return folder


def values(folder: Path) -> list[Any]:
    """Every value of every table, Parquet file and JSON file; an error stands for itself."""
    return [
        _values_of(_ledger_values, folder / "ledger.sqlite"),
        *(_values_of(_parquet_values, p) for p in sorted((folder / "results").iterdir())),
        _values_of(_parquet_values, folder / "input.parquet"),
        _values_of(lambda path: json.loads(path.read_bytes()), folder / "summary.json"),
        _values_of(Path.read_bytes, folder / "failures.csv"),
    ]


def _values_of(read: Callable[[Path], Any], path: Path) -> Any:
    try:
        return read(path)
    except (OSError, ValueError, sqlite3.Error, pa.ArrowException) as error:
        return str(error)


def _ledger_values(path: Path) -> list[Any]:
    db = sqlite3.connect(path)
    db.text_factory = bytes
    try:
        tables = db.execute("SELECT name, sql FROM sqlite_schema ORDER BY name").fetchall()
        names = [name.decode() for name, sql in tables if sql and sql.startswith(b"CREATE TABLE")]
        return [
            tables,
            db.execute("PRAGMA user_version").fetchone(),
            *(sorted(map(repr, db.execute(f"SELECT * FROM {name}"))) for name in names),
        ]
    finally:
        db.close()


def _parquet_values(path: Path) -> Any:
    table = pq.read_table(path)
    return table.schema.metadata, table.schema.names, table.to_pylist()


def flip(path: Path, place: int, bit: int = 0) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1 << bit
    path.write_bytes(content)


def flip_in(path: Path, text: str) -> None:
    """Alters the first byte of the last place where `text` stands."""
    flip(path, path.read_bytes().rindex(text.encode()))
