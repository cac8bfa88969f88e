"""The sheet as it was read for one run: validated once, written once, and the only thing sent from.

`input.parquet` holds every column as text, then `row` (from 1) and `row_key` (hex; null for a row
that is skipped). A sheet that is saved again during the run mixes no versions.

A row is skipped where `empty: skip` says so, and where the sheet is another folder's failures.csv
or export that calls the row ambiguous: there, too, it may have been paid.
"""

from __future__ import annotations

import json
import secrets
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.errors import Refused, StorageFailed
from pipeline.folder import open_private, sha256_of, storing, sync_file
from pipeline.inputs.table import Batch, Table
from pipeline.model import JsonObject, Row, State
from pipeline.plan import KEY_BYTES, SheetKeys, Variables, digests, identity, occurrences
from pipeline.spec import JobSpec
from pipeline.wording import counted

_METADATA = b"pipeline"
_STATUS = "_status"
_CELLS_NAMED = 5


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A written snapshot. `numbers`, `identities` and `occurrences` leave out skipped rows.

    `snapshot_id` tells it from every other one, `sha256` is that of its file. `empty_cells` counts
    them by mapped column; `ambiguous_elsewhere` counts the rows that are skipped because another
    folder's run left them ambiguous.
    """

    path: Path
    snapshot_id: str
    sha256: str
    columns: tuple[str, ...]
    rows: int
    skipped: int
    numbers: npt.NDArray[np.int64]
    identities: bytes
    occurrences: npt.NDArray[np.int32]
    empty_cells: Counter[str] = field(default_factory=Counter)
    ambiguous_elsewhere: int = 0

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


def take_snapshot(
    spec: JobSpec,
    table: Table,
    variables: Variables,
    path: Path,
    *,
    skip_ambiguous: bool = True,
) -> Snapshot:
    """Reads `table` to its end, refuses what cannot be sent, and writes `path` durably.

    `skip_ambiguous` leaves out the rows that the sheet itself calls ambiguous.

    Raises:
        Refused: for an empty mapped cell (under `empty: refuse`), a blank or repeated id, or a
            table without rows, naming the places.
        StorageFailed: when the file cannot be written.
    """
    snapshot_id = secrets.token_hex(8)
    mapped = [table.columns[position] for position in variables.mapped]
    about: JsonObject = {
        "snapshot_id": snapshot_id,
        "columns": table.columns,
        "mapped": mapped,
        "delimiter": table.delimiter,
    }
    schema = _schema(table.columns, about)
    check = _Checks(spec, table, variables, skip_ambiguous)
    identities = bytearray()
    numbers: list[npt.NDArray[np.int64]] = []
    id_column = _id_position(spec, table.columns)
    rows = 0
    try:
        with (
            open_private(path) as sink,
            pq.ParquetWriter(
                sink, schema, compression="zstd", use_dictionary=False, write_page_checksum=True
            ) as writer,
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
            check.finish(rows)
    except Refused:
        path.unlink(missing_ok=True)
        raise
    except OSError as error:
        raise StorageFailed(
            f"{path}: the sheet's copy cannot be written ({error.strerror or error}). "
            "Nothing was sent."
        ) from None
    with storing(path):
        sync_file(path)
        sha256 = sha256_of(path)
    kept = np.concatenate(numbers)
    return Snapshot(
        path,
        snapshot_id,
        sha256,
        table.columns,
        rows,
        rows - len(kept),
        kept,
        bytes(identities),
        occurrences(bytes(identities)),
        check.empty_cells,
        check.ambiguous_elsewhere,
    )


def find_snapshot(candidates: tuple[Path, ...], snapshot_id: str | None) -> Path | None:
    """The one of `candidates` that has this id; a crash may have left another beside it."""
    for path in candidates:
        try:
            if _stored(path)["snapshot_id"] == snapshot_id:
                return path
        except (OSError, pa.ArrowException, KeyError, ValueError):
            continue
    return None


def whole_snapshot(
    candidates: tuple[Path, ...], snapshot_id: str | None, sha256: str | None
) -> Path | None:
    """The same, once every byte of it was found to be what was written. None where no file is.

    Raises:
        StorageFailed: when it was altered.
    """
    found = find_snapshot(candidates, snapshot_id)
    if found is None and snapshot_id is not None and candidates[0].exists():
        raise _damaged(candidates[0], "it cannot be read, or is not the ledger's")
    if found is not None and sha256_of(found) != sha256:
        raise _damaged(found, "it is not what was written")
    return found


def stored_columns(path: Path) -> tuple[str, ...]:
    """The sheet's own column names, in order, of a snapshot on disk."""
    return tuple(_stored(path)["columns"])


def stored_mapped(path: Path) -> tuple[str, ...]:
    """The columns that were sent, of a snapshot on disk."""
    return tuple(_stored(path)["mapped"])


def stored_delimiter(path: Path) -> str:
    """What the sheet of a snapshot on disk separates its cells by, if it is text."""
    return str(_stored(path)["delimiter"])


def stored_keys(path: Path, id_column: str | None) -> SheetKeys:
    """What the rows of a snapshot on disk are; without ids where it has no such column."""
    columns = stored_columns(path)
    place = columns.index(id_column) if id_column in columns else None
    identities, ids, numbers = bytearray(), bytearray(), []
    for first, texts, keys in _stored_batches(path, len(columns)):
        kept = keys.to_pylist()
        named = texts[place].to_pylist() if place is not None else [None] * len(kept)
        for number, (key, row_id) in enumerate(zip(kept, named, strict=True), start=first):
            if key is not None:
                numbers.append(number)
                identities += identity(bytes.fromhex(key), row_id)
                ids += identity(b"", row_id) if row_id is not None else b""
    return SheetKeys(
        np.array(numbers, dtype=np.int64),
        digests(bytes(identities)),
        digests(bytes(ids)) if place is not None else None,
    )


def stored_cells(path: Path) -> Iterator[tuple[int, tuple[str, ...]]]:
    """(row number, cells) of every row of a snapshot on disk."""
    for first, columns, _ in _stored_batches(path, len(stored_columns(path))):
        rows = zip(*(c.to_pylist() for c in columns), strict=True)
        yield from enumerate(rows, start=first)


def stored_row_keys(path: Path) -> Iterator[tuple[int, str | None]]:
    """(row number, row key in hex) of every row of a snapshot on disk; None for skipped rows."""
    for first, _, keys in _stored_batches(path, len(stored_columns(path))):
        yield from enumerate(keys.to_pylist(), start=first)


class _Checks:
    """What must hold of every row before anything is sent."""

    def __init__(
        self, spec: JobSpec, table: Table, variables: Variables, skip_ambiguous: bool
    ) -> None:
        self.empty_cells: Counter[str] = Counter()
        self.ambiguous_elsewhere = 0
        self._spec = spec
        self._table = table
        self._mapped = variables.mapped
        self._id = _id_position(spec, table.columns)
        known = _STATUS if skip_ambiguous and _STATUS in table.columns else None
        self._status = table.columns.index(known) if known else None
        self._empty: list[str] = []
        self._ids = bytearray()
        self._id_places: list[int] = []

    def batch(self, batch: Batch) -> list[bool]:
        """Which rows of the batch are skipped."""
        skip = [False] * len(batch)
        if self._status is not None:
            skip = [status == State.AMBIGUOUS for status in batch.columns[self._status]]
            self.ambiguous_elsewhere += sum(skip)
        for position in self._mapped:
            for offset, text in enumerate(batch.columns[position]):
                if not text and not skip[offset]:
                    self._note_empty(position, batch.places[offset])
                    skip[offset] = self._spec.empty == "skip"
        if self._id is not None:
            self._note_ids(batch, skip)
        return skip

    def finish(self, rows: int) -> None:
        if rows == 0:
            raise Refused(f"{self._table.path}: a header and no rows under it. Nothing was sent.")
        count = self.empty_cells.total()
        if count and self._spec.empty == "refuse":
            more = count - len(self._empty)
            named = "; ".join(self._empty) + (f"; and {more} more" if more else "")
            cells = "cell is" if count == 1 else "cells are"
            them = "it" if count == 1 else "them"
            raise Refused(
                f"{self._table.path}: {count} mapped {cells} empty: {named}. "
                f"Fill {them}, or say `empty: skip` or `empty: send` in the spec. Nothing was sent."
            )
        self._refuse_repeated_ids()

    def _note_empty(self, position: int, place: int) -> None:
        self.empty_cells[self._table.columns[position]] += 1
        if len(self._empty) < _CELLS_NAMED:
            self._empty.append(self._table.cell_at(position, place))

    def _note_ids(self, batch: Batch, skip: list[bool]) -> None:
        assert self._id is not None
        for text, place, skipped in zip(batch.columns[self._id], batch.places, skip, strict=True):
            if skipped:
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
                f"{counted(len(repeated), 'time')} an earlier row's id stands again: "
                f"{self._table.place_word} {', '.join(places)}. Nothing was sent."
            )


def _id_position(spec: JobSpec, columns: tuple[str, ...]) -> int | None:
    return None if spec.id is None else columns.index(spec.id)


def _texts(column: list[str]) -> pa.Array:
    return pa.array(column, pa.large_string())


def _schema(columns: tuple[str, ...], about: JsonObject) -> pa.Schema:
    taken = {"row", "row_key"}
    fields = []
    for name in columns:
        stored = name
        while stored in taken:
            stored = f"sheet.{stored}"
        taken.add(stored)
        fields.append(pa.field(stored, pa.large_string(), nullable=False))
    fields += [pa.field("row", pa.int64(), nullable=False), pa.field("row_key", pa.string())]
    return pa.schema(fields, metadata={_METADATA: json.dumps(about).encode()})


def _stored(path: Path) -> JsonObject:
    found: JsonObject = json.loads((pq.read_schema(path).metadata or {})[_METADATA])
    return found


def _stored_batches(path: Path, width: int) -> Iterator[tuple[int, list[pa.Array], pa.Array]]:
    """(number of the first row, the sheet's columns, the row keys) batch by batch."""
    first = 1
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            for batch in file.iter_batches(batch_size=2000):
                yield first, batch.columns[:width], batch.columns[width + 1]
                first += batch.num_rows
    except (OSError, pa.ArrowException) as error:
        raise _damaged(path, str(error)) from None


def _damaged(path: Path, what: str) -> StorageFailed:
    return StorageFailed(
        f"{path}: the sheet's copy is damaged ({what}). Nothing more was sent, and nothing "
        "altered is used. `pipeline run` copies the sheet anew."
    )
