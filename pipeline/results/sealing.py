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
import threading
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.core.errors import StorageFailed
from pipeline.inputs.arrow import lists, numbers, texts
from pipeline.ledger.ledger import Part, SqliteLedger
from pipeline.ledger.queries import Finished, finished
from pipeline.policy.answer import read_answer
from pipeline.results.flags import marks_of
from pipeline.system.files import open_private, sha256_of, storing, sync, sync_file, sync_folder

PART_ROWS = 2000
PART_BYTES = 16 * 1024 * 1024
EMPTY_PART = "part-00000.parquet"
PART_FILE_BYTES = 1 << 30
"""The most that a part's file may have: its answers are some 16 MB, its requests may be longer."""
_LONG_COLUMNS = ("variables", "result", "citations", "citations_raw", "extra")

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
            part = self._ledger.unsealed_part()
            if part is not None:  # its seal failed: its answers must not go into another part too
                self._finish(part)
                return True
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
        if _is_part(path, part.sha256):
            with storing(path):  # the kill may have come before the sync of its rename
                sync_file(path)
                sync_folder(self._folder)
        else:
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
                sync(file.fileno())
            if _sha256(draft.read_bytes()) != _sha256(content):
                raise OSError("what was read back is not what was written")
            draft.rename(self._folder / name)
            sync_folder(self._folder)


def _is_part(path: Path, sha256: str) -> bool:
    """Whether the file at `path` is the part with this checksum."""
    try:
        return sha256_of(path) == sha256
    except OSError:
        return False


def _parquet(rows: list[Finished], workflow: str) -> bytes:
    table = results_table(rows, workflow)
    short = [name for name in table.column_names if name not in _LONG_COLUMNS]
    sink = io.BytesIO()
    pq.write_table(
        table,
        sink,
        compression="zstd",
        write_page_checksum=True,
        # Of long texts both take copies, three and more of an answer of 60 MB.
        write_statistics=short,
        use_dictionary=short if table.nbytes > PART_BYTES else True,
    )
    return sink.getvalue()


def results_table(rows: list[Finished], workflow: str) -> pa.Table:
    """Answers as they stand in a part."""
    answers = [read_answer(row.answer) for row in rows]
    citations = [citation for answer in answers for citation in answer.citations]
    cited = pa.StructArray.from_arrays(
        [texts([c.title for c in citations]), texts([c.url for c in citations])],
        fields=list(RESULTS_SCHEMA.field("citations").type.value_type),
    )
    requests = [row.request.decode() for row in rows]
    flags = [
        [*answer.flags, *marks_of(answer.result, request)]
        for answer, request in zip(answers, requests, strict=True)
    ]
    columns = {
        "row": numbers([row.sheet_row for row in rows], pa.int64()),
        "id": texts([row.id for row in rows]),
        "row_key": texts([row.row_key.hex() for row in rows]),
        "version": numbers([row.version for row in rows], pa.int32()),
        "run_id": texts([row.run_id for row in rows]),
        "workflow": texts([workflow] * len(rows)),
        "variables": texts(requests),
        "result": texts([answer.result for answer in answers]),
        "citations": lists([len(answer.citations) for answer in answers], cited),
        "citations_raw": texts([answer.citations_raw for answer in answers]),
        "extra": texts([answer.extra or None for answer in answers]),
        "flags": lists(
            [len(some) for some in flags], texts([flag for some in flags for flag in some])
        ),
        "http_status": numbers([row.http_status for row in rows], pa.int32()),
        "attempts": numbers([row.attempts for row in rows], pa.int32()),
        "latency_s": numbers([row.latency_s for row in rows], pa.float64()),
        "sent_at": numbers([_microseconds(row.sent_at) for row in rows], _TIME),
        "finished_at": numbers([_microseconds(row.finished_at) for row in rows], _TIME),
    }
    return pa.Table.from_arrays(list(columns.values()), schema=RESULTS_SCHEMA)


def _microseconds(since_1970_s: float) -> int:
    return round(since_1970_s * 1_000_000)


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
