"""The sheet as it is now, with every row's answer beside it.

An answer is found by what the ledger says of its row, never by where the row stands: the sheet may
have been sorted since. Text stays in Arrow; pandas joins the keys.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import records, wal
from pipeline.checkpoint import RESULTS_SCHEMA, results_table
from pipeline.errors import Refused, StorageFailed
from pipeline.folder import RunFolder
from pipeline.inputs.snapshot import (
    stored_columns,
    stored_delimiter,
    stored_mapped,
    whole_snapshot,
)
from pipeline.job import Job
from pipeline.model import State
from pipeline.records import Answered, Read, Sealed, Unfinished
from pipeline.schema import altered
from pipeline.summary import refuse_before_first_run

ADDED = ("result", "citations", "_status", "_error_code", "_error_message")
_ANSWER_COLUMNS = ["run_id", "row", "result", "citations"]
_SKIPPED = "skipped"
_ALL = 2**62


@dataclass(frozen=True, slots=True)
class Exported:
    """The table that goes home. `added` are the names of the runner's own columns in it, and
    `delimiter` is what the sheet separates its cells by."""

    table: pa.Table
    added: tuple[str, ...]
    delimiter: str = ","


def export_table(job: Job) -> Exported:
    """The sheet's rows and columns in their order, then `ADDED`.

    A row whose newer version is not finished shows its last finished answer, with the code and
    message of the newer one. Works while a run goes on.

    Raises:
        Refused: before the first run.
        StorageFailed: when an answer that the ledger counts is not in the results, or anything
            that would be in the table is not what was written.
    """
    folder = job.folder
    if wal.is_damaged(folder.ledger):
        raise altered("what was last written to it")
    with records.reading(folder.ledger) as read:
        refuse_before_first_run(job, read)
        read(records.check_structure)
        snapshot = whole_snapshot(folder.snapshots, *read(records.snapshot))
        if snapshot is None:
            raise Refused(
                f"{folder.snapshot}: the copy of the sheet is missing, or not the one that the "
                "ledger speaks of. Give `pipeline run` once more: with nothing new in the sheet "
                "it sends nothing and makes it anew."
            )
        answers = _answers(folder, read)
        places = _places(read(lambda db: list(records.answered(db))), answers, folder)
        unfinished = read(lambda db: list(records.unfinished(db)))
    return _join(snapshot, answers, places, unfinished)


def _answers(folder: RunFolder, read: Read) -> pa.Table:
    """Every answer that is held: of sealed parts, and of the ledger itself."""
    parts = [_part(folder, part) for part in read(records.sealed_parts)]
    unsealed = results_table(read(records.finished(0, _ALL)), "")
    schema = pa.schema([RESULTS_SCHEMA.field(name) for name in _ANSWER_COLUMNS])
    tables = [table.select(_ANSWER_COLUMNS).cast(schema) for table in (*parts, unsealed)]
    return pa.concat_tables(tables)


def _part(folder: RunFolder, part: Sealed) -> pa.Table:
    """The answers of one part. Checked and read from the same bytes: a disk may give others."""
    path = folder.results / part.name
    try:
        content = path.read_bytes()
        if hashlib.sha256(content).hexdigest() != part.sha256:
            raise OSError("it is not what was written")
        return pq.read_table(pa.BufferReader(content), columns=_ANSWER_COLUMNS)
    except (OSError, pa.ArrowException) as error:
        raise StorageFailed(
            f"{path}: this part of the results cannot be used ({error}). Nothing was exported. "
            "Bring the file back from a copy of the folder; `pipeline verify` names all that is "
            "damaged."
        ) from None


def _places(answered: list[Answered], answers: pa.Table, folder: RunFolder) -> pd.Series[int]:
    """For each answered row of the sheet, the position of its answer."""
    held = pd.DataFrame(
        {
            "run_id": answers["run_id"].to_pandas(),
            "sent_row": answers["row"].to_pandas(),
            "position": np.arange(len(answers)),
        }
    )
    wanted = pd.DataFrame(
        [(a.sheet_row, a.run_id, a.sent_row) for a in answered],
        columns=["sheet_row", "run_id", "sent_row"],
    ).astype({"sheet_row": "int64", "sent_row": "int64", "run_id": held["run_id"].dtype})
    found = wanted.merge(held, on=["run_id", "sent_row"], how="left")
    lost = found["position"].isna()
    if lost.any():
        raise StorageFailed(
            f"{folder.results}: the answers of {int(lost.sum())} rows are not in the results "
            f"(row {int(found['sheet_row'][lost].iloc[0])} first). Was a part removed? Nothing "
            "was exported."
        )
    return found.set_index("sheet_row")["position"].astype("int64")


def _join(
    snapshot: Path, answers: pa.Table, places: pd.Series[int], unfinished: Iterable[Unfinished]
) -> Exported:
    columns = stored_columns(snapshot)
    sheet = pq.read_table(snapshot)
    rows = np.arange(1, len(sheet) + 1)
    position = places.reindex(rows)
    take = pa.array(position.to_numpy(dtype="float64"), from_pandas=True).cast(pa.int64())
    status, codes, messages = _states(sheet["row_key"], position.notna().to_numpy(), unfinished)
    added = [answers["result"].take(take), answers["citations"].take(take), status, codes, messages]
    kept, names = _names(columns, stored_mapped(snapshot))
    arrays = [sheet.column(columns.index(name)) for name in kept]
    table = pa.table([*arrays, *added], names=[*kept, *names])
    return Exported(table, names, stored_delimiter(snapshot))


def _states(
    keys: pa.ChunkedArray, answered: npt.NDArray[np.bool_], unfinished: Iterable[Unfinished]
) -> tuple[pa.Array, pa.Array, pa.Array]:
    """(status, error code, error message) of each row of the sheet."""
    skipped = keys.is_null().to_numpy()
    status = np.where(skipped, _SKIPPED, np.where(answered, State.OK, State.PENDING)).astype(object)
    codes = np.full(len(status), None, dtype=object)
    messages = codes.copy()
    for row in unfinished:
        place = row.sheet_row - 1
        codes[place], messages[place] = row.code, row.message or None
        if not row.answered:
            status[place] = State.AMBIGUOUS if row.state is State.SENDING else row.state
    texts = [
        pa.array([None if v is None else str(v) for v in values], pa.string())
        for values in (status, codes, messages)
    ]
    return texts[0], texts[1], texts[2]


def _names(columns: tuple[str, ...], mapped: tuple[str, ...]) -> tuple[list[str], tuple[str, ...]]:
    """(columns of the sheet that stay, names of the added ones).

    A sheet that is an earlier export gives up the columns that the runner added then. A column of
    the user's own of such a name stays, and the added one gets a `_` in front.
    """
    earlier = "_status" in columns
    kept = [n for n in columns if n not in ADDED or n in mapped or not earlier]
    names = []
    for name in ADDED:
        while name in kept:
            name = f"_{name}"
        names.append(name)
    return kept, tuple(names)
