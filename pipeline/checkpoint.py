"""Finished rows become Parquet parts that are never rewritten.

The order makes every crash harmless: the part's bytes are made in memory; the ledger records its
name, its fixed range of answers and its SHA-256; the file is written under a name that begins with
a dot (readers of the folder pass over those), fsynced, read back and renamed; the folder is
fsynced; only then does the ledger mark it sealed and drop the payloads. Recovery makes the same
part again under the same name. "Rename, then record" would let a crash put rows into two parts.
"""

from __future__ import annotations

import hashlib
import io
import os
import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.answer import read_answer
from pipeline.errors import StorageFailed
from pipeline.folder import open_private, storing, sync_folder
from pipeline.ledger import Part, SqliteLedger
from pipeline.marks import marks_of
from pipeline.records import Finished, finished

PART_ROWS = 2000
PART_BYTES = 16 * 1024 * 1024
EMPTY_PART = "part-00000.parquet"

_TIME = pa.timestamp("us", tz="UTC")
RESULTS_SCHEMA = pa.schema(
    [
        pa.field("row", pa.int64(), nullable=False),
        pa.field("id", pa.string()),
        pa.field("row_key", pa.string(), nullable=False),
        pa.field("version", pa.int32(), nullable=False),
        pa.field("run_id", pa.string(), nullable=False),
        pa.field("workflow", pa.string(), nullable=False),
        pa.field("variables", pa.string(), nullable=False),
        pa.field("result", pa.string(), nullable=False),
        pa.field(
            "citations",
            pa.list_(pa.struct([("title", pa.string()), ("url", pa.string())])),
            nullable=False,
        ),
        pa.field("citations_raw", pa.string()),
        pa.field("extra", pa.string()),
        pa.field("flags", pa.list_(pa.string()), nullable=False),
        pa.field("http_status", pa.int32(), nullable=False),
        pa.field("attempts", pa.int32(), nullable=False),
        pa.field("latency_s", pa.float64(), nullable=False),
        pa.field("sent_at", _TIME, nullable=False),
        pa.field("finished_at", _TIME, nullable=False),
    ]
)


class Sealer:
    """Moves answers from the ledger into parts. One at a time, from any thread."""

    def __init__(self, ledger: SqliteLedger, folder: Path, workflow: str) -> None:
        self._ledger = ledger
        self._folder = folder
        self._workflow = workflow
        self._one_at_a_time = threading.Lock()

    def recover(self) -> None:
        """Finishes what a crash interrupted, and sees that the folder reads as a table.

        Raises:
            StorageFailed: when a part cannot be written.
        """
        with self._one_at_a_time:
            for draft in self._folder.glob(".part-*"):
                with storing(draft):
                    draft.unlink()
            if not (self._folder / EMPTY_PART).exists():
                self._write(EMPTY_PART, _parquet([], self._workflow))
            part = self._ledger.unsealed_part()
            if part is not None:
                self._finish(part)

    def seal_all(self) -> int:
        """Seals everything that is finished. How many parts that made."""
        made = 0
        while self._seal_next():
            made += 1
        return made

    def _seal_next(self) -> bool:
        with self._one_at_a_time:
            found = self._ledger.next_part(PART_ROWS, PART_BYTES)
            if found is None:
                return False
            number, first_seq, last_seq = found
            content = self._content(first_seq, last_seq)
            part = Part(number, f"part-{number:05d}.parquet", first_seq, last_seq, _sha256(content))
            self._ledger.name_part(part)
            self._write(part.name, content)
            self._ledger.seal(part)
            return True

    def _finish(self, part: Part) -> None:
        """The crash came between naming and sealing: the file is there whole, or not at all."""
        path = self._folder / part.name
        if not path.exists() or _sha256(path.read_bytes()) != part.sha256:
            content = self._content(part.first_seq, part.last_seq)
            # Another release of the Parquet library may make other bytes of the same rows.
            part = Part(part.part, part.name, part.first_seq, part.last_seq, _sha256(content))
            self._ledger.name_part(part)
            self._write(part.name, content)
        self._ledger.seal(part)

    def _content(self, first_seq: int, last_seq: int) -> bytes:
        rows = self._ledger.read(finished(first_seq, last_seq))
        if len(rows) != last_seq - first_seq + 1:
            raise StorageFailed(
                f"{self._folder.parent}: the ledger holds {len(rows)} of the "
                f"{last_seq - first_seq + 1} answers that it counts in one part. Sending has "
                "stopped. Keep the folder as it is: what is missing was paid."
            )
        return _parquet(rows, self._workflow)

    def _write(self, name: str, content: bytes) -> None:
        draft = self._folder / f".{name}"
        with storing(self._folder / name):
            with open_private(draft) as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            if _sha256(draft.read_bytes()) != _sha256(content):
                raise OSError("what was read back is not what was written")
            draft.rename(self._folder / name)
            sync_folder(self._folder)


def _parquet(rows: list[Finished], workflow: str) -> bytes:
    sink = io.BytesIO()
    pq.write_table(
        results_table(rows, workflow), sink, compression="zstd", write_page_checksum=True
    )
    return sink.getvalue()


def results_table(rows: list[Finished], workflow: str) -> pa.Table:
    """Answers as they stand in a part."""
    columns: dict[str, list[Any]] = {name: [] for name in RESULTS_SCHEMA.names}
    for row in rows:
        answer = read_answer(row.answer)
        request = row.request.decode()
        values = {
            "row": row.sheet_row,
            "id": row.id,
            "row_key": row.row_key.hex(),
            "version": row.version,
            "run_id": row.run_id,
            "workflow": workflow,
            "variables": request,
            "result": answer.result,
            "citations": [{"title": c.title, "url": c.url} for c in answer.citations],
            "citations_raw": answer.citations_raw,
            "extra": answer.extra or None,
            "flags": [*answer.flags, *marks_of(answer.result, request)],
            "http_status": row.http_status,
            "attempts": row.attempts,
            "latency_s": row.latency_s,
            "sent_at": datetime.fromtimestamp(row.sent_at, UTC),
            "finished_at": datetime.fromtimestamp(row.finished_at, UTC),
        }
        for name, column in columns.items():
            column.append(values[name])
    return pa.table(columns, schema=RESULTS_SCHEMA)


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
