"""The sheet as it was read for one run: validated once, written once, and the only thing sent from.

`input.parquet` holds every column as text, then `row` (from 1) and `row_key` (hex; null for a row
that `empty: skip` leaves out). A sheet that is saved again during the run mixes no versions.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.errors import Refused, StorageFailed
from pipeline.folder import open_private, sync_file
from pipeline.inputs.table import Batch, Table
from pipeline.model import Row
from pipeline.plan import KEY_BYTES, Variables, identity, occurrences
from pipeline.spec import JobSpec

_METADATA = b"pipeline"
_CELLS_NAMED = 5


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A written snapshot. `numbers`, `identities` and `occurrences` leave out skipped rows."""

    path: Path
    columns: tuple[str, ...]
    rows: int
    skipped: int
    numbers: npt.NDArray[np.int64]
    identities: bytes
    occurrences: npt.NDArray[np.int32]

    def identity_at(self, position: int) -> bytes:
        return self.identities[position * KEY_BYTES : (position + 1) * KEY_BYTES]

    def selected(
        self, spec: JobSpec, variables: Variables, send: npt.NDArray[np.bool_]
    ) -> Iterator[Row]:
        """The rows whose flag is set in `send` (one a sheet row), read batch by batch."""
        id_column = _id_position(spec, self.columns)
        position = 0
        for first, columns, keys in _stored_batches(self.path, len(self.columns)):
            size = len(keys)
            if not send[first - 1 : first - 1 + size].any():
                position += size - keys.null_count
                continue
            requests = variables.requests([c.to_pylist() for c in columns])
            ids = columns[id_column].to_pylist() if id_column is not None else [None] * size
            kept = pc.is_valid(keys).to_pylist()
            for offset, (request, row_id) in enumerate(zip(requests, ids, strict=True)):
                if not kept[offset]:
                    continue
                if send[first - 1 + offset]:
                    yield Row(
                        number=first + offset,
                        row_key=request.row_key,
                        identity=self.identity_at(position),
                        occurrence=int(self.occurrences[position]),
                        body=request.body,
                        id=row_id,
                    )
                position += 1


def take_snapshot(spec: JobSpec, table: Table, variables: Variables, path: Path) -> Snapshot:
    """Reads `table` to its end, refuses what cannot be sent, and writes `path` durably.

    Raises:
        Refused: for an empty mapped cell (under `empty: refuse`), a blank or repeated id, or a
            table without rows, naming the places.
        StorageFailed: when the file cannot be written.
    """
    schema = _schema(table.columns)
    check = _Checks(spec, table, variables)
    identities = bytearray()
    numbers: list[npt.NDArray[np.int64]] = []
    id_column = _id_position(spec, table.columns)
    rows = 0
    try:
        with (
            open_private(path) as sink,
            pq.ParquetWriter(sink, schema, compression="zstd", use_dictionary=False) as writer,
        ):
            for batch in table.batches():
                skip = check.batch(batch)
                ids = batch.columns[id_column] if id_column is not None else [None] * len(batch)
                keys: list[str | None] = []
                for offset, request in enumerate(variables.requests(batch.columns)):
                    keys.append(None if skip[offset] else request.row_key.hex())
                    if not skip[offset]:
                        identities += identity(request.row_key, ids[offset])
                first = rows + 1
                rows += len(batch)
                span = np.arange(first, rows + 1, dtype=np.int64)
                numbers.append(span[~np.array(skip, dtype=bool)])
                writer.write_batch(
                    pa.record_batch(
                        [*map(_texts, batch.columns), pa.array(span), pa.array(keys, pa.string())],
                        schema=schema,
                    )
                )
    except OSError as error:
        raise StorageFailed(
            f"{path}: the sheet's copy cannot be written ({error.strerror or error}). "
            "Nothing was sent."
        ) from None
    check.finish(rows)
    sync_file(path)
    kept = np.concatenate(numbers)
    return Snapshot(
        path,
        table.columns,
        rows,
        rows - len(kept),
        kept,
        bytes(identities),
        occurrences(bytes(identities)),
    )


def stored_columns(path: Path) -> tuple[str, ...]:
    """The sheet's own column names, in order, of a snapshot on disk."""
    metadata = pq.read_schema(path).metadata or {}
    return tuple(json.loads(metadata[_METADATA])["columns"])


def stored_cells(path: Path) -> Iterator[tuple[int, tuple[str, ...]]]:
    """(row number, cells) of every row of a snapshot on disk."""
    for first, columns, _ in _stored_batches(path, len(stored_columns(path))):
        rows = zip(*(c.to_pylist() for c in columns), strict=True)
        yield from enumerate(rows, start=first)


class _Checks:
    """What must hold of every row before anything is sent."""

    def __init__(self, spec: JobSpec, table: Table, variables: Variables) -> None:
        self._spec = spec
        self._table = table
        self._mapped = variables.mapped
        self._id = _id_position(spec, table.columns)
        self._empty: list[str] = []
        self._empty_count = 0
        self._ids = bytearray()
        self._id_places: list[int] = []

    def batch(self, batch: Batch) -> list[bool]:
        """Which rows of the batch `empty: skip` leaves out."""
        skip = [False] * len(batch)
        if self._spec.empty != "send":
            for position in self._mapped:
                for offset, text in enumerate(batch.columns[position]):
                    if not text:
                        skip[offset] = True
                        self._note_empty(position, batch.places[offset])
        if self._id is not None:
            self._note_ids(batch, skip)
        return skip if self._spec.empty == "skip" else [False] * len(batch)

    def finish(self, rows: int) -> None:
        if rows == 0:
            raise Refused(f"{self._table.path}: a header and no rows under it. Nothing was sent.")
        if self._empty_count and self._spec.empty == "refuse":
            more = self._empty_count - len(self._empty)
            named = "; ".join(self._empty) + (f"; and {more} more" if more else "")
            cells = "cell is" if self._empty_count == 1 else "cells are"
            raise Refused(
                f"{self._table.path}: {self._empty_count} mapped {cells} empty: {named}. "
                "Fill them, or say `empty: skip` or `empty: send` in the spec. Nothing was sent."
            )
        self._refuse_repeated_ids()

    def _note_empty(self, position: int, place: int) -> None:
        self._empty_count += 1
        if len(self._empty) < _CELLS_NAMED:
            column = self._table.columns[position]
            self._empty.append(f'{self._table.place_word} {place}, column "{column}"')

    def _note_ids(self, batch: Batch, skip: list[bool]) -> None:
        assert self._id is not None
        for text, place, skipped in zip(batch.columns[self._id], batch.places, skip, strict=True):
            if skipped and self._spec.empty == "skip":
                continue
            if not text.strip():
                raise Refused(
                    f"{self._table.path} {self._table.place_word} {place}: the id in column "
                    f'"{self._spec.id}" is blank. Give the row an id, or remove `id:`. '
                    "Nothing was sent."
                )
            self._ids += identity(b"", text)
            self._id_places.append(place)

    def _refuse_repeated_ids(self) -> None:
        if not self._id_places:
            return
        repeated = np.flatnonzero(occurrences(bytes(self._ids)))
        if len(repeated):
            places = [str(self._id_places[i]) for i in repeated[:_CELLS_NAMED]]
            raise Refused(
                f'{self._table.path}: column "{self._spec.id}" is to name each row, but '
                f"{len(repeated)} rows repeat an id: {self._table.place_word} "
                f"{', '.join(places)}. Nothing was sent."
            )


def _id_position(spec: JobSpec, columns: tuple[str, ...]) -> int | None:
    return None if spec.id is None else columns.index(spec.id)


def _texts(column: list[str]) -> pa.Array:
    return pa.array(column, pa.large_string())


def _schema(columns: tuple[str, ...]) -> pa.Schema:
    taken = {"row", "row_key"}
    fields = []
    for name in columns:
        stored = name
        while stored in taken:
            stored = f"sheet.{stored}"
        taken.add(stored)
        fields.append(pa.field(stored, pa.large_string(), nullable=False))
    fields += [pa.field("row", pa.int64(), nullable=False), pa.field("row_key", pa.string())]
    return pa.schema(fields, metadata={_METADATA: json.dumps({"columns": columns}).encode()})


def _stored_batches(path: Path, width: int) -> Iterator[tuple[int, list[pa.Array], pa.Array]]:
    """(number of the first row, the sheet's columns, the row keys) batch by batch."""
    first = 1
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(batch_size=2000):
            yield first, batch.columns[:width], batch.columns[width + 1]
            first += batch.num_rows
