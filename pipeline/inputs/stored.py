"""Reads a snapshot from disk, of this run or an earlier one."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.core.errors import StorageFailed
from pipeline.core.model import JsonObject
from pipeline.inputs.arrow import as_numpy, at, call, filled, text_scalar
from pipeline.inputs.identity import (
    KEY_BYTES,
    SheetKeys,
    digests,
    identity,
)
from pipeline.system.opening import HeldFile, as_object, open_file

Copy: TypeAlias = Path | HeldFile
"""A snapshot on disk. A run that begins gives the name to another file, so a process without the
folder's lock reads a held one."""
METADATA = b"pipeline"
_BATCH_ROWS = 2000
OWN_COLUMNS = ("row", "row_key", "skipped")
PLACE = "place"
ORIGIN = "origin"
ORIGIN_TYPE = pa.struct(
    [("row", pa.int64()), ("attempt", pa.int64()), ("edit", pa.string()), ("waits", pa.string())]
)
"""Where a row comes from, if another job's answers are the sheet: see `table.Origin`."""


def find_snapshot(paths: Iterable[Path], snapshot_id: str | None) -> HeldFile | None:
    """Returns the file of `paths` with this id. A crash may have left another snapshot next to
    it."""
    for path in paths:
        try:
            held = HeldFile(path)
            if _stored(held)["snapshot_id"] == snapshot_id:
                return held
        except (OSError, pa.ArrowException, KeyError, ValueError):
            continue
    return None


def whole_snapshot(
    paths: tuple[Path, ...], snapshot_id: str | None, sha256: str | None
) -> HeldFile | None:
    """Does the same, and compares the file with its checksum. None if there is no file.

    Raises:
        StorageFailed: if the file was altered.
    """
    found = find_snapshot(paths, snapshot_id)
    if found is None and snapshot_id is not None and paths[0].exists():
        raise _damaged(paths[0], "it cannot be read, or the ledger names another copy")
    if found is not None and sha256_of_copy(found) != sha256:
        raise _damaged(found, "its checksum is not the one in the ledger")
    return found


def sha256_of_copy(copy: HeldFile) -> str:
    """Returns the SHA-256 of a snapshot on disk."""
    with copy.open() as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def stored_columns(copy: Copy) -> tuple[str, ...]:
    """Returns the sheet's own column names, in order, from a snapshot on disk."""
    return tuple(_stored(copy)["columns"])


def stored_headers(copy: Copy) -> dict[str, str]:
    """Returns the name of each column as the sheet itself has it: two columns may have the same."""
    about = _stored(copy)
    columns = stored_columns(copy)
    return dict(zip(columns, about.get("headers") or columns, strict=True))


def stored_mapped(copy: Copy) -> tuple[str, ...]:
    """Returns the names of the mapped columns from a snapshot on disk."""
    return tuple(_stored(copy)["mapped"])


def stored_skip_if_empty(copy: Copy) -> tuple[str, ...]:
    """Returns the names of the columns whose empty cells skip a row. A snapshot of an earlier
    release has one choice for all mapped columns."""
    about = _stored(copy)
    return tuple(about["skip_if_empty"] if "skip_if_empty" in about else about["mapped"])


def stored_source(copy: Copy) -> str | None:
    """Returns the id of the run folder whose answers are the sheet, None for another sheet."""
    source = _stored(copy).get("source")
    return None if source is None else str(source["folder"])


def stored_types(copy: Copy) -> dict[str, str]:
    """Returns the types of columns that `columns:` of other jobs filled, by name. Their texts are
    canonical, and empty where there is no value."""
    return _of_source(copy, "types")


def stored_definitions(copy: Copy) -> dict[str, str]:
    """Returns what each column has that exports of other jobs add: see `table.SourceJob`."""
    return _of_source(copy, "columns")


def stored_kinds(copy: Copy) -> dict[str, str]:
    """Returns the kinds of the columns that exports of other jobs add, by name."""
    return _of_source(copy, "kinds")


def _of_source(copy: Copy, what: str) -> dict[str, str]:
    source = _stored(copy).get("source") or {}
    return {str(name): str(word) for name, word in source.get(what, {}).items()}


def stored_delimiter(copy: Copy) -> str:
    """Returns the delimiter of the sheet from a snapshot on disk. It matters only for text
    files."""
    return str(_stored(copy)["delimiter"])


def stored_keys(copy: Copy, id_column: str | None) -> SheetKeys:
    """Returns the digests of the rows of a snapshot on disk, without ids if it has no such
    column."""
    columns = stored_columns(copy)
    place = columns.index(id_column) if id_column in columns else None
    identities, ids = bytearray(), bytearray()
    rows: list[npt.NDArray[np.int64]] = []
    for first, cells, hexes, *_ in stored_batches(copy):
        kept = np.flatnonzero(filled(hexes))
        rows.append(kept + first)
        keys = bytes.fromhex("".join(filter(None, hexes.to_pylist())))
        if place is None:
            identities += keys
            continue
        for position, row_id in enumerate(at(cells[place], kept.tolist())):
            key = keys[position * KEY_BYTES : (position + 1) * KEY_BYTES]
            identities += identity(key, row_id)
            ids += identity(b"", row_id)
    return SheetKeys(
        np.concatenate([*rows, np.zeros(0, dtype=np.int64)]),
        digests(identities),
        digests(ids) if place is not None else None,
    )


class Stored(NamedTuple):
    """Consecutive rows of a snapshot on disk: the number of the first row, the sheet's columns, the
    row keys in hex (null for a skipped row), why a row is skipped (`SKIP_NAMES`, else null), where
    the rows come from if that is another job, and their places. A snapshot of an earlier release
    has no places."""

    first: int
    columns: list[pa.Array]
    keys: pa.Array
    skipped: pa.Array
    origins: pa.Array | None = None
    places: pa.Array | None = None


def stored_batches(copy: Copy, wanted: npt.NDArray[np.int64] | None = None) -> Iterator[Stored]:
    """Yields the rows of a snapshot on disk, in order. With `wanted`, only these rows, which
    ascend: it reads no other parts of the file.

    Raises:
        StorageFailed: if it cannot be read.
    """
    width = len(stored_columns(copy))
    try:
        with (
            _open(copy) as content,
            pq.ParquetFile(content, page_checksum_verification=True) as file,
        ):
            for first, batch in _batches(file, wanted):
                keys, skipped, places, origins = [*batch.columns[width + 1 :], None, None][:4]
                yield Stored(first, batch.columns[:width], keys, skipped, origins, places)
    except (OSError, pa.ArrowException) as error:
        raise _damaged(copy, str(error)) from None


def _batches(
    file: pq.ParquetFile, wanted: npt.NDArray[np.int64] | None
) -> Iterator[tuple[int, pa.RecordBatch]]:
    """Yields (first row, batch) of the whole file, or of each run of consecutive `wanted` rows.

    Reads one row group at a time: those of long texts have few rows, and 2,000 such rows may not
    fit into memory. Threads would take longer to hand over a batch than to decode it."""
    first = 1
    for group in range(file.num_row_groups):
        end = first + file.metadata.row_group(group).num_rows
        if wanted is None or np.diff(np.searchsorted(wanted, [first, end])).any():
            for batch in file.iter_batches(_BATCH_ROWS, [group], use_threads=False):
                yield from [(first, batch)] if wanted is None else _runs(first, batch, wanted)
                first += batch.num_rows
        first = end


def _runs(
    first: int, batch: pa.RecordBatch, wanted: npt.NDArray[np.int64]
) -> Iterator[tuple[int, pa.RecordBatch]]:
    low, high = np.searchsorted(wanted, [first, first + batch.num_rows])
    here = wanted[low:high]
    for run in np.split(here, np.flatnonzero(np.diff(here) != 1) + 1):
        if len(run):
            yield int(run[0]), batch.slice(int(run[0]) - first, len(run))


def stored_skipped(copy: Copy) -> npt.NDArray[np.bool_]:
    """Returns which rows of a snapshot on disk are skipped, row 1 at 0.

    Raises:
        StorageFailed: if it cannot be read.
    """
    found = [filled(array) for array in _one_column(copy, "skipped")]
    return np.concatenate([np.empty(0, bool), *found])


def stored_rows_with(copy: Copy, name: str, texts: Iterable[str]) -> dict[str, list[int]]:
    """Returns the rows of a snapshot on disk that have one of `texts` in the column `name`, by the
    text.

    Raises:
        StorageFailed: if it cannot be read.
    """
    found: dict[str, list[int]] = {text: [] for text in texts}
    wanted = {text: text_scalar(text, pa.large_string()) for text in found}
    stored, first = _stored_name(copy, stored_columns(copy).index(name)), 1
    for array in _one_column(copy, stored):
        for text, scalar in wanted.items():
            places = np.flatnonzero(as_numpy(call("equal", array, scalar)))
            found[text] += (places + first).tolist()
        first += len(array)
    return found


def _one_column(copy: Copy, stored: str) -> Iterator[pa.Array]:
    try:
        with (
            _open(copy) as content,
            pq.ParquetFile(content, page_checksum_verification=True) as file,
        ):
            for batch in file.iter_batches(columns=[stored], use_threads=False):
                yield batch.column(0)
    except (OSError, pa.ArrowException) as error:
        raise _damaged(copy, str(error)) from None


def stored_cells(copy: Copy) -> Iterator[tuple[int, tuple[str, ...]]]:
    """Yields (row number, cells) for every row of a snapshot on disk."""
    for first, columns, *_ in stored_batches(copy):
        rows = zip(*(c.to_pylist() for c in columns), strict=True)
        yield from enumerate(rows, start=first)


def stored_cells_at(copy: Copy, numbers: frozenset[int]) -> Iterator[tuple[int, tuple[str, ...]]]:
    """Yields (row number, cells) for the rows `numbers` of a snapshot on disk."""
    wanted = np.array(sorted(numbers), dtype=np.int64)
    for first, columns, *_ in stored_batches(copy, wanted):
        low, high = np.searchsorted(wanted, [first, first + len(columns[0])])
        for number in wanted[low:high].tolist():
            yield number, tuple(column[number - first].as_py() for column in columns)


def stored_column_at(copy: Copy, name: str, numbers: list[int]) -> Iterator[tuple[int, str]]:
    """Yields (row number, text in the column `name`) for the rows `numbers`, which ascend, of a
    snapshot on disk. Nothing if the snapshot has no such column."""
    if not numbers or name not in stored_columns(copy):
        return
    wanted, place = np.array(numbers, dtype=np.int64), stored_columns(copy).index(name)
    for first, columns, *_ in stored_batches(copy):
        low, high = np.searchsorted(wanted, [first, first + len(columns[place])])
        here = wanted[low:high]
        yield from zip(here.tolist(), at(columns[place], (here - first).tolist()), strict=True)


class StoredNames(NamedTuple):
    """How the user finds rows of a snapshot: by a place, of which `word` says what it counts, and
    by the text in `id_column`. Both are by row number. `word` is None in a snapshot of an earlier
    release, and `id_column` without an `id:` in the job file."""

    word: str | None
    places: dict[int, int]
    id_column: str | None
    ids: dict[int, str]


def stored_names(copy: Copy, wanted: Iterable[int]) -> StoredNames:
    """Returns the places and the ids of a few rows. Reads only the parts of the file that they are
    in.

    Raises:
        StorageFailed: if it cannot be read.
    """
    try:
        about = _stored(copy)
        word, id_column = about.get("place_word"), about.get("id_column")
        found = StoredNames(word, {}, id_column, {})
        columns: dict[str, dict[int, Any]] = {PLACE: found.places} if word is not None else {}
        if id_column is not None:
            position = list(about["columns"]).index(id_column)
            columns[_stored_name(copy, position)] = found.ids
        _read_at(copy, np.fromiter(wanted, np.int64), columns)
    except (OSError, pa.ArrowException, KeyError, ValueError) as error:
        raise _damaged(copy, str(error)) from None
    return found


def _stored_name(copy: Copy, position: int) -> str:
    with _open(copy) as file:
        return str(pq.read_schema(file).names[position])


def _read_at(copy: Copy, wanted: npt.NDArray[np.int64], columns: dict[str, dict[int, Any]]) -> None:
    """Reads the values of the rows `wanted` in the named columns."""
    with (
        _open(copy) as content,
        pq.ParquetFile(content, page_checksum_verification=True) as file,
    ):
        first = 1
        for group in range(file.num_row_groups if columns else 0):
            size = file.metadata.row_group(group).num_rows
            here = wanted[(wanted >= first) & (wanted < first + size)]
            if len(here):
                table = file.read_row_group(group, columns=list(columns))
                for name, values in columns.items():
                    cells = at(table[name], (here - first).tolist())
                    values.update(zip(here.tolist(), cells, strict=True))
            first += size


def stored_places(copy: Copy) -> tuple[str, npt.NDArray[np.int64]] | None:
    """Returns what a place counts, and the place of every row, 8 bytes each. None for a snapshot of
    an earlier release.

    Raises:
        StorageFailed: if it cannot be read.
    """
    try:
        word = _stored(copy).get("place_word")
        if not isinstance(word, str):
            return None
        with (
            _open(copy) as content,
            pq.ParquetFile(content, page_checksum_verification=True) as file,
        ):
            batches = file.iter_batches(columns=[PLACE], use_threads=False)
            places = [as_numpy(batch.column(0)) for batch in batches]
    except (OSError, pa.ArrowException, KeyError, ValueError) as error:
        raise _damaged(copy, str(error)) from None
    return word, np.concatenate([*places, np.zeros(0, dtype=np.int64)])


def stored_row_keys(copy: Copy) -> Iterator[tuple[int, str | None]]:
    """Yields (row number, row key in hex) for every row of a snapshot on disk. The key of a skipped
    row is None."""
    for first, _, keys, *_ in stored_batches(copy):
        yield from enumerate(keys.to_pylist(), start=first)


def _stored(copy: Copy) -> JsonObject:
    with _open(copy) as file:
        schema = pq.read_schema(file)
    about = as_object((schema.metadata or {})[METADATA])
    columns = about["columns"]
    if not isinstance(columns, list) or not all(isinstance(name, str) for name in columns):
        raise ValueError("its columns are no names")
    if not schema.equals(snapshot_schema(tuple(columns), about)):
        raise ValueError("it has other columns than it says")
    return about


def _open(copy: Copy) -> io.BufferedReader:
    return copy.open() if isinstance(copy, HeldFile) else open_file(copy)


def _damaged(copy: Copy, what: str) -> StorageFailed:
    return StorageFailed(
        f"{copy}: the run folder's copy of the sheet is damaged ({what}). Nothing more was sent, "
        "and no altered text is used. To make a new copy of the sheet, use `pipeline run`."
    )


def snapshot_schema(columns: tuple[str, ...], about: JsonObject) -> pa.Schema:
    """Returns the columns of a snapshot: the sheet's, then the runner's own. A snapshot of an
    earlier release has no places, and says no word for them."""
    placed, of_job = "place_word" in about, "source" in about
    taken = {*OWN_COLUMNS, *([PLACE] if placed else []), *([ORIGIN] if of_job else [])}
    fields = []
    for name in columns:
        stored = name
        while stored in taken:
            stored = f"sheet.{stored}"
        taken.add(stored)
        fields.append(pa.field(stored, pa.large_string(), nullable=False))
    fields += [pa.field("row", pa.int64(), nullable=False)]
    fields += [pa.field(name, pa.string()) for name in ("row_key", "skipped")]
    fields += [pa.field(PLACE, pa.int64(), nullable=False)] if placed else []
    fields += [pa.field(ORIGIN, ORIGIN_TYPE)] if of_job else []
    return pa.schema(fields, metadata={METADATA: json.dumps(about).encode()})
