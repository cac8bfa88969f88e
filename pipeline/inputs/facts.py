"""Describes the texts of a sheet, variable by variable, before the user pays for them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline.inputs.arrow import as_numpy, call, filled, matches, taken
from pipeline.inputs.mapping import VariableSource
from pipeline.inputs.stored import stored_batches, stored_columns

# A server that fills a template by replacing text may expand these in a value: the placeholder of
# another variable, and what some replacement functions make of `$` ("$$" becomes "$", and "$&"
# becomes the placeholder).
_MARKERS = r"\{\{[^{}]*\}\}|\$[$&]"


@dataclass(frozen=True, slots=True)
class VariableFacts:
    """The texts of one mapped variable in the rows that are not skipped.

    Lengths are in characters. Each row number is the first row that qualifies, or None. `shortest`
    is the length of the shortest text that is not empty. `marked` counts the texts that contain
    ``{{…}}``, ``$$`` or ``$&``, which the workflow's template may expand.
    """

    name: str
    column: str
    empty: int = 0
    shortest: int | None = None
    shortest_row: int | None = None
    longest: int | None = None
    longest_row: int | None = None
    marked: int = 0
    marked_row: int | None = None


def describe(path: Path, sources: Sequence[VariableSource]) -> list[VariableFacts]:
    """Returns the facts of each variable that has a column, from the snapshot at `path`.

    A million rows of 180 bytes take 1.5 s.

    Raises:
        StorageFailed: if the snapshot cannot be read.
    """
    mapped = [(_Facts(), s.column, s) for s in sources if s.column is not None]
    columns = stored_columns(path)
    for first, arrays, keys, *_ in stored_batches(path):
        kept = np.flatnonzero(filled(keys))
        if not len(kept):
            continue
        whole = len(kept) == len(keys)
        for facts, column, _ in mapped:
            texts = arrays[column] if whole else taken(arrays[column], kept)
            facts.add(texts, kept + first)
    return [facts.as_value(source.name, columns[column]) for facts, column, source in mapped]


class _Facts:
    """The facts of one variable, collected batch by batch."""

    def __init__(self) -> None:
        self.empty = self.marked = 0
        self.shortest: tuple[int, int] | None = None
        self.longest: tuple[int, int] | None = None
        self.marked_row: int | None = None

    def add(self, texts: pa.Array, rows: npt.NDArray[np.int64]) -> None:
        sizes = as_numpy(call("utf8_length", texts))
        filled = np.flatnonzero(sizes)
        self.empty += len(sizes) - len(filled)
        if not len(filled):
            return
        most, least = sizes.argmax(), filled[sizes[filled].argmin()]
        if self.longest is None or sizes[most] > self.longest[0]:
            self.longest = int(sizes[most]), int(rows[most])
        if self.shortest is None or sizes[least] < self.shortest[0]:
            self.shortest = int(sizes[least]), int(rows[least])
        found = as_numpy(matches(texts, _MARKERS))
        if found.any():
            self.marked += int(found.sum())
            self.marked_row = self.marked_row or int(rows[found.argmax()])

    def as_value(self, name: str, column: str) -> VariableFacts:
        shortest, shortest_row = self.shortest or (None, None)
        longest, longest_row = self.longest or (None, None)
        return VariableFacts(
            name,
            column,
            self.empty,
            shortest,
            shortest_row,
            longest,
            longest_row,
            self.marked,
            self.marked_row,
        )
