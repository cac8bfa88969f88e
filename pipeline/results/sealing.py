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
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq

from pipeline.core.errors import StorageFailed
from pipeline.ledger.ledger import SqliteLedger
from pipeline.ledger.queries import Finished, Part, finished
from pipeline.results.schema import EMPTY_PART, results_table
from pipeline.system.files import open_private, sha256_of, storing, sync, sync_file, sync_folder

PART_ROWS = 2000
PART_BYTES = 16 * 1024 * 1024
_LONG_COLUMNS = ("variables", "result", "citations", "citations_raw", "extra")


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
            part = replace(part, sha256=_sha256(content))
            self._ledger.name_part(part)
            self._write(part.name, content)
        self._ledger.seal(part)

    def _content(self, first_seq: int, last_seq: int) -> bytes:
        rows = self._ledger.read(finished(first_seq, last_seq))
        if len(rows) != last_seq - first_seq + 1:
            raise StorageFailed(
                f"{self._folder.parent}: the ledger has only {len(rows)} of the "
                f"{last_seq - first_seq + 1} answers that belong to one part. The runner has "
                "stopped sending. Keep the run folder unchanged: the missing answers were paid."
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
                raise OSError("the bytes read back are not the bytes written")
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


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
