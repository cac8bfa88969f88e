"""The copy of the sheet for one run. It is validated once and written once, and the run sends only
from it.

`input.parquet` has every column as text, then `row` (from 1), `row_key` (hex, null for a skipped
row), `skipped` (the reason, null for other rows) and `place` (the line of a text file, or the row
of a worksheet). Rows that come from another job also have `origin`, the answer there. If the user
saves the sheet during the run, the run does not mix the two versions.

A row is skipped if `where:`, `empty:` or `hidden:` leaves it out, or if it is the totals row of a
table. It is also skipped if the job that it comes from has no answer for it yet, and if the sheet
is another folder's failures.csv or export in which the row is ambiguous, because it may have been
paid there.
"""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.core.errors import DiskRefused, Refused
from pipeline.core.model import AnswerSource, JsonObject, Row
from pipeline.inputs.arrow import (
    array_of,
    filled,
    hexes,
    large_texts,
    numbers,
    texts,
    unhexed,
)
from pipeline.inputs.checks import SKIP_NAMES, Reasons, RowChecks, Skip
from pipeline.inputs.identity import (
    KEY_BYTES,
    Duplicates,
    find_duplicates,
    identity,
    no_duplicates,
    occurrences,
)
from pipeline.inputs.mapping import Variables
from pipeline.inputs.stored import (
    ORIGIN_TYPE,
    PLACE,
    snapshot_schema,
    stored_batches,
    stored_source,
)
from pipeline.inputs.table import BATCH_ROWS, Batch, Origin, Table
from pipeline.inputs.unseen import SheetFacts
from pipeline.job.spec import JobSpec
from pipeline.system.files import open_private, sha256_of, storing, sync_file
from pipeline.system.opening import HeldFile

# These columns take a seventh less room and a quarter less time than as plain values.
_ENCODINGS = {
    "row": "DELTA_BINARY_PACKED",
    "row_key": "DELTA_LENGTH_BYTE_ARRAY",
    PLACE: "DELTA_BINARY_PACKED",
}


class SkippedRow(NamedTuple):
    """A row of the sheet that is not sent now, with the name that the ledger would give it: its
    identity, or its row key if equal rows are sent once."""

    number: int
    name: bytes
    reason: Skip


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A written snapshot. `numbers`, `identities` and `occurrences` leave out skipped rows.

    `snapshot_id` is unique, and `sha256` is the checksum of the file. `equal_rows` counts the rows
    with the same variables as an earlier row (and the same id, unless equal rows are sent once).
    `duplicates` are those of them for which another row is sent. `empty_cells` counts empty cells
    by mapped column, and `skips` the skipped rows by reason. `skipped_rows` lists the skipped rows
    in the order of the sheet. `facts` are those that the user of the sheet may not see.
    """

    path: Path
    snapshot_id: str
    sha256: str
    columns: tuple[str, ...]
    rows: int
    skipped: int
    numbers: npt.NDArray[np.int64]
    identities: bytearray
    row_keys: bytearray
    occurrences: npt.NDArray[np.int32]
    equal_rows: int
    duplicates: Duplicates
    empty_cells: Counter[str] = field(default_factory=Counter)
    skips: Counter[Skip] = field(default_factory=Counter)
    skipped_rows: list[SkippedRow] = field(default_factory=list)
    facts: SheetFacts = field(default_factory=SheetFacts)

    def identity_at(self, position: int) -> bytes:
        return bytes(self.identities[position * KEY_BYTES : (position + 1) * KEY_BYTES])

    def row_key_at(self, position: int) -> bytes:
        """Returns a row key. Only sheets whose equal rows are sent once have row keys in memory."""
        return bytes(self.row_keys[position * KEY_BYTES : (position + 1) * KEY_BYTES])

    def rename(self, position: int, identity: bytes, occurrence: int) -> None:
        """Gives a row the name that it has in the ledger, where an equal row with another id was
        sent for it."""
        self.identities[position * KEY_BYTES : (position + 1) * KEY_BYTES] = identity
        self.occurrences[position] = occurrence

    def selected(
        self, spec: JobSpec, variables: Variables, send: npt.NDArray[np.bool_]
    ) -> Iterator[Row]:
        """Yields the rows whose flag is set in `send` (one flag per row of the sheet). Reads the
        file batch by batch, and only the parts with such rows."""
        id_column = _id_position(spec, self.columns)
        folder = stored_source(self.path)
        for first, columns, keys, _, origins, _ in stored_batches(self.path, _parts_with(send)):
            size = len(keys)
            position = int(np.searchsorted(self.numbers, first))
            bodies = variables.bodies([c.to_pylist() for c in columns])
            ids = columns[id_column].to_pylist() if id_column is not None else [None] * size
            sent = send[first - 1 : first - 1 + size].tolist()
            rows = zip(keys.to_pylist(), bodies, ids, sent, strict=True)
            for offset, (key, body, row_id, is_sent) in enumerate(rows):
                if key is None:  # a skipped row
                    continue
                if is_sent:
                    yield Row(
                        number=first + offset,
                        row_key=bytes.fromhex(key),
                        identity=self.identity_at(position),
                        occurrence=self.occurrences.item(position),
                        body=body,
                        id=row_id,
                        source=_source(folder, origins, offset),
                    )
                position += 1


def _parts_with(send: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
    """Returns the numbers of all rows in the parts of the sheet that have a row to send. Single
    rows would be read one by one."""
    parts = np.flatnonzero(send) // BATCH_ROWS
    parts = parts[np.diff(parts, prepend=-1) > 0]  # `np.unique` would import numpy.ma
    rows = (parts[:, None] * BATCH_ROWS + np.arange(1, BATCH_ROWS + 1)).ravel()
    return rows[rows <= len(send)]


def _source(folder: str | None, origins: pa.Array | None, offset: int) -> AnswerSource | None:
    if folder is None or origins is None:
        return None
    one = origins[offset].as_py()
    return AnswerSource(folder, one["row"], one["attempt"], one["edit"])


def take_snapshot(
    spec: JobSpec,
    table: Table,
    variables: Variables,
    path: Path,
    *,
    skip_ambiguous: bool = True,
    last: HeldFile | None = None,
) -> Snapshot:
    """Reads `table` to its end, refuses a sheet that cannot be sent, and writes `path` durably.

    `skip_ambiguous` leaves out the rows that a status column of the sheet calls ambiguous. `last`
    is the snapshot of the last run, which may save work: see `beginning`.

    Raises:
        Refused: for an empty mapped cell (under `empty: refuse`), a blank or repeated id, or a
            table without rows. The message names the places.
        StorageFailed: if the file cannot be written.
    """
    snapshot_id = secrets.token_hex(8)
    about: JsonObject = {
        "snapshot_id": snapshot_id,
        "columns": table.columns,
        "headers": table.headers or table.columns,
        "mapped": [table.columns[position] for position in variables.mapped],
        "skip_if_empty": [
            name
            for name in (table.columns[position] for position in variables.mapped)
            if spec.empty_in(name) == "skip"
        ],
        "delimiter": table.delimiter,
        "place_word": table.place_word,
        "id_column": spec.id,
    }
    if table.source is not None:
        source = table.source
        about["source"] = {
            "job": source.name,
            "folder": source.folder_id,
            "columns": dict(source.columns),
            "types": dict(source.types),
            "kinds": dict(source.kinds),
        }
    check = RowChecks(spec, table, variables, skip_ambiguous)
    names = _Names(spec, table, variables)
    beginning = table.beginning
    if beginning and last:
        beginning.recall(last, variables)
    try:
        rows = _write(path, table, snapshot_schema(table.columns, about), check, names)
    except Refused:
        path.unlink(missing_ok=True)
        raise
    except OSError as error:
        raise DiskRefused(
            f"{path}: the runner cannot write its copy of the sheet ({error.strerror or error}). "
            "Nothing was sent."
        ) from None
    with storing(path):
        sync_file(path)
        sha256 = sha256_of(path)
    if beginning:
        beginning.remember(sha256, variables)
    kept = names.numbers
    ranks = occurrences(names.row_keys if spec.dedupe else names.identities)
    return Snapshot(
        path,
        snapshot_id,
        sha256,
        table.columns,
        rows,
        rows - len(kept),
        kept,
        names.identities,
        names.row_keys,
        ranks,
        int((ranks > 0).sum()),
        find_duplicates(names.row_keys, kept) if spec.dedupe else no_duplicates(),
        check.empty_cells,
        check.skips,
        names.skipped,
        check.facts,
    )


def _write(path: Path, table: Table, schema: pa.Schema, check: RowChecks, names: _Names) -> int:
    """Copies `table` to `path`, and checks and names each batch. Returns the number of rows.

    Another thread compresses and writes a batch while this one reads the next.
    """
    rows, made, writing = 0, None, None
    with (
        open_private(path) as sink,
        pq.ParquetWriter(
            sink,
            schema,
            compression="zstd",
            use_dictionary=False,
            column_encoding=_ENCODINGS,
            write_page_checksum=True,
        ) as writer,
        ThreadPoolExecutor(1) as beside,
    ):
        for batch in table.batches():
            arrays = [large_texts(column) for column in batch.columns]
            reasons = check.batch(batch, arrays)
            keys = names.add(batch, reasons, rows + 1)
            rows += len(batch)
            span = numbers(np.arange(rows - len(batch) + 1, rows + 1), pa.int64())
            places = numbers(np.array(batch.places, dtype=np.int64), pa.int64())
            arrays += [span, keys, _skipped(reasons, batch.origins), places]
            if batch.origins is not None:
                arrays.append(array_of([one._asdict() for one in batch.origins], ORIGIN_TYPE))
            if made is not None:
                if writing is not None:
                    writing.result()
                writing = beside.submit(writer.write_batch, made)
            made = pa.record_batch(arrays, schema=schema)
        if writing is not None:
            writing.result()
        if made is not None:  # of most sheets the only batch, which needs no thread
            writer.write_batch(made)
        if table.beginning and made is not None:
            writer.add_key_value_metadata(table.beginning.marks_before(int(batch.places[-1])))
        check.finish(rows)
    return rows


class _Names:
    """The identities and row keys of a sheet's rows, collected batch by batch. Skipped rows are
    only in `skipped`.

    `row_keys` is empty unless equal rows are sent once.
    """

    def __init__(self, spec: JobSpec, table: Table, variables: Variables) -> None:
        self.identities = bytearray()
        self.row_keys = bytearray()
        self.skipped: list[SkippedRow] = []
        self._spec = spec
        self._variables = variables
        self._id = _id_position(spec, table.columns)
        self._numbers: list[npt.NDArray[np.int64]] = []

    @property
    def numbers(self) -> npt.NDArray[np.int64]:
        return np.concatenate(self._numbers)

    def add(self, batch: Batch, reasons: Reasons, first: int) -> pa.Array:
        """Adds a batch whose first row is the sheet's row `first`. Returns the row keys in hex,
        null for skipped rows."""
        row_keys = self._row_keys(batch)
        kept = reasons == Skip.NOT
        offsets = np.flatnonzero(kept)
        self._numbers.append(offsets + first)
        if len(offsets) < len(row_keys):
            self._add_skipped(batch, row_keys.tolist(), reasons, first)
            row_keys = row_keys[offsets]
        content = row_keys.tobytes()
        if self._id is None:
            self.identities += content
        else:
            ids = list(batch.columns[self._id])
            named = zip(row_keys.tolist(), offsets, strict=True)
            self.identities += b"".join([identity(key, ids[offset]) for key, offset in named])
        if self._spec.dedupe:
            self.row_keys += content
        return hexes(content, KEY_BYTES, kept)

    def _row_keys(self, batch: Batch) -> npt.NDArray[np.void]:
        """Returns the row keys, of which the copy of the last run may have most."""
        found = np.zeros(len(batch), dtype=f"V{KEY_BYTES}")
        known = np.zeros(len(batch), dtype=np.bool_) if batch.keys is None else filled(batch.keys)
        if batch.keys is not None:
            found[known] = np.frombuffer(unhexed(batch.keys), found.dtype)
        keys = self._variables.keys(batch.without(known).columns)
        found[~known] = np.frombuffer(b"".join(keys), found.dtype)
        return found

    def _add_skipped(
        self, batch: Batch, row_keys: list[bytes], reasons: Reasons, first: int
    ) -> None:
        ids = None if self._id is None or self._spec.dedupe else batch.columns[self._id]
        for offset in np.flatnonzero(reasons != Skip.NOT).tolist():
            name = identity(row_keys[offset], None if ids is None else ids[offset])
            self.skipped.append(SkippedRow(first + offset, name, Skip(reasons[offset])))


def _id_position(spec: JobSpec, columns: tuple[str, ...]) -> int | None:
    return None if spec.id is None else columns.index(spec.id)


def _skipped(reasons: Reasons, origins: Sequence[Origin] | None) -> pa.Array:
    if not reasons.any():
        return pa.nulls(len(reasons), pa.string())
    words = [SKIP_NAMES.get(Skip(reason)) for reason in reasons]
    for place, origin in enumerate(origins or ()):
        if reasons[place] == Skip.SOURCE:
            words[place] = f"{words[place]}: {origin.waits}"
    return texts(words)
