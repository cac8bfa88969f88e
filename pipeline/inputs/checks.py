"""Checks every row before anything is sent, and finds the rows that are never sent.

The checks work column by column and batch by batch, because a sheet may have a million rows.
"""

from __future__ import annotations

from collections import Counter
from enum import IntEnum

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline.core.added_columns import TEXT_ASIDE, status_columns
from pipeline.core.errors import Refused
from pipeline.core.model import State
from pipeline.inputs.arrow import as_numpy, call, matches, text_scalar
from pipeline.inputs.formats import open_table
from pipeline.inputs.identity import KEY_BYTES, identity, occurrences
from pipeline.inputs.mapping import Variables
from pipeline.inputs.table import NO_ROWS, Batch, Table
from pipeline.inputs.unseen import SheetFacts, Unseen, first_bytes
from pipeline.inputs.where import wanted
from pipeline.job.spec import JobSpec

_CELLS_NAMED = 5
_ID_CHARACTERS = 40

Reasons = npt.NDArray[np.int8]


class Skip(IntEnum):
    """The reason why a row of the sheet is not sent. If several apply, it is the first one of
    totals, hidden, where, source, ambiguous and empty."""

    NOT = 0
    WHERE = 1
    AMBIGUOUS = 2
    EMPTY = 3
    HIDDEN = 4
    TOTALS = 5
    SOURCE = 6


SKIP_NAMES: dict[Skip, str] = {
    Skip.WHERE: "where",
    Skip.AMBIGUOUS: "ambiguous",
    Skip.EMPTY: "empty",
    Skip.HIDDEN: "hidden",
    Skip.TOTALS: "totals",
    Skip.SOURCE: "source",
}
"""The names of the reasons in `input.parquet` and in JSON."""

SKIP_REASONS: dict[str, str] = {
    "where": "`where:` in the job file leaves it out",
    "ambiguous": "the sheet says that another run left it ambiguous: it may have been paid",
    "empty": "a cell that would be sent is empty, and `empty:` says `skip`",
    "hidden": "the sheet hides it, and `hidden:` says `skip`",
    "totals": "it is the totals row of a table",
    "source": "the job that it comes from has no answer for it yet",
}
"""The reasons in words, for messages and exports."""


class RowChecks:
    """The checks of one sheet. Call `batch` for each batch in turn, then `finish`.

    `empty_cells` counts empty cells by mapped column, and `skips` counts skipped rows by reason.
    """

    def __init__(
        self, spec: JobSpec, table: Table, variables: Variables, skip_ambiguous: bool
    ) -> None:
        self.empty_cells: Counter[str] = Counter()
        self.skips: Counter[Skip] = Counter()
        self._spec = spec
        self._table = table
        choices = {place: spec.empty_in(table.columns[place]) for place in variables.mapped}
        # First the columns that skip a row: the empty cells of a skipped row do not matter.
        self._choices = sorted(choices.items(), key=lambda pair: pair[1] != "skip")
        self._refused = 0
        self._unseen = Unseen(table, variables.mapped)
        self._id = None if spec.id is None else table.columns.index(spec.id)
        # By the names as the sheet writes them: it may have two columns of one name.
        guards = status_columns(table.headers or table.columns) if skip_ambiguous else ()
        self._statuses = [place for place in guards if place not in variables.mapped]
        self._empty: list[str] = []
        self._ids = bytearray()
        self._id_places: list[npt.NDArray[np.int64]] = []

    def batch(self, batch: Batch, arrays: list[pa.Array]) -> Reasons:
        """Returns for each row of the batch why it is not sent. `arrays` has the same columns as
        Arrow arrays.

        Raises:
            Refused: for a blank id, with its place.
        """
        reasons = np.zeros(len(batch), dtype=np.int8)
        hidden, totals = self._unseen.add(batch, arrays)
        if self._spec.hidden == "skip":
            reasons[hidden] = Skip.HIDDEN
        reasons[totals] = Skip.TOTALS
        if self._spec.where:
            by_name = dict(zip(self._table.columns, arrays, strict=True))
            reasons[~wanted(self._spec.where, by_name) & (reasons == Skip.NOT)] = Skip.WHERE
        if batch.origins is not None:
            waits = np.array([one.waits is not None for one in batch.origins], dtype=np.bool_)
            reasons[waits & (reasons == Skip.NOT)] = Skip.SOURCE
        for status in self._statuses:
            said = call("utf8_lower", call("utf8_trim_whitespace", arrays[status]))
            ambiguous = as_numpy(call("equal", said, text_scalar(State.AMBIGUOUS, said.type)))
            reasons[ambiguous & (reasons == Skip.NOT)] = Skip.AMBIGUOUS
        self._refuse_names_of_files(batch, arrays, reasons)
        for position, choice in self._choices:
            empty = (first_bytes(arrays[position]) < 0) & (reasons == Skip.NOT)
            if empty.any():
                self.empty_cells[self._table.columns[position]] += int(empty.sum())
                if choice == "skip":
                    reasons[empty] = Skip.EMPTY
                elif choice == "refuse":
                    self._note_empty(position, batch, np.flatnonzero(empty))
        if self._id is not None:
            self._note_ids(batch, reasons == Skip.NOT)
        counts = np.bincount(reasons, minlength=len(Skip)).tolist()
        self.skips.update({reason: counts[reason] for reason in SKIP_NAMES})
        return reasons

    def _refuse_names_of_files(
        self, batch: Batch, arrays: list[pa.Array], reasons: Reasons
    ) -> None:
        """Refuses a cell that names a file instead of a text: an export to .xlsx wrote it, and it
        would be sent and paid for as it is."""
        if self._table.sheet is None:
            return
        for position, _ in self._choices:
            found = as_numpy(matches(arrays[position], TEXT_ASIDE))
            found = found & (reasons == Skip.NOT)
            if found.any():
                cell = self._table.cell_at(position, batch.places[int(found.argmax())])
                raise Refused(
                    f"{self._table.input} {cell}: the text of this cell is in the file that the "
                    "cell names, because it is too long for a workbook. Use the sheet as it was "
                    "before the export, or export to .csv."
                )

    def finish(self, rows: int) -> None:
        """Makes the checks that need the whole sheet, which had `rows` rows.

        Raises:
            Refused: for empty cells in columns under `empty: refuse`, a repeated id, or no rows.
        """
        if rows == 0:
            raise Refused(f"{self._table.input}: {NO_ROWS}")
        if count := self._refused:
            more = count - len(self._empty)
            named = "; ".join(self._empty) + (f"; and {more} more" if more else "")
            cells = "cell that would be sent is" if count == 1 else "cells that would be sent are"
            them = "it" if count == 1 else "them"
            raise Refused(
                f"{self._table.input}: {count} {cells} empty: {named}. "
                f"Fill {them}, or set `empty: skip` or `empty: send` in the job file, or such a "
                "word for each column: `empty: {COLUMN: send}`."
            )
        self._refuse_repeated_ids()

    @property
    def facts(self) -> SheetFacts:
        """What the user of the sheet may not see, after the last batch."""
        return self._unseen.facts(self._spec.separator)

    def _note_empty(self, position: int, batch: Batch, offsets: npt.NDArray[np.int64]) -> None:
        self._refused += len(offsets)
        for offset in offsets[: _CELLS_NAMED - len(self._empty)]:
            self._empty.append(self._table.cell_at(position, batch.places[offset]))

    def _note_ids(self, batch: Batch, kept: npt.NDArray[np.bool_]) -> None:
        assert self._id is not None
        ids = list(batch.columns[self._id])
        offsets = np.flatnonzero(kept)
        for offset in offsets:
            if not ids[offset].strip():
                cell = self._table.cell_at(self._id, batch.places[int(offset)])
                raise Refused(
                    f"{self._table.input} {cell}: the id is blank. Give the row an id, or remove "
                    "`id:` from the job file."
                )
        self._ids += b"".join([identity(b"", ids[offset]) for offset in offsets])
        self._id_places.append(np.array(batch.places, dtype=np.int64)[offsets])

    def _refuse_repeated_ids(self) -> None:
        repeated = np.flatnonzero(occurrences(bytes(self._ids)))
        if not len(repeated):
            return
        assert self._id is not None
        names = np.frombuffer(self._ids, dtype=f"V{KEY_BYTES}")
        places = np.concatenate(self._id_places)
        again = {int(places[n]): int(places[names == names[n]][0]) for n in repeated[:_CELLS_NAMED]}
        texts = self._texts_at(set(again))
        named = [
            f'"{texts.get(place, "?")}" in {self._table.cell_at(self._id, place)} is also in '
            f"{self._table.cell_at(self._id, first)}"
            for place, first in again.items()
        ]
        named += [f"and {more} more"] if (more := len(repeated) - len(named)) else []
        raise Refused(
            f'{self._table.input}: column "{self._spec.id}" is the id of each row, but it has the '
            f"same id more than once: {'; '.join(named)}. Give each row a different id, or remove "
            "`id:` from the job file."
        )

    def _texts_at(self, places: set[int]) -> dict[int, str]:
        """Returns the ids at some places, shortened. Only their hashes are in memory, so this reads
        the sheet again. If the sheet changed in the meantime, an id may be missing."""
        assert self._id is not None
        return {
            place: text if len(text) <= _ID_CHARACTERS else f"{text[:_ID_CHARACTERS]}…"
            for batch in open_table(self._spec).batches()
            for place, text in zip(batch.places, batch.columns[self._id], strict=True)
            if place in places
        }
