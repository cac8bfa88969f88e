"""What a sheet has that its user may not see: hidden rows, totals, cells that only look empty.

The facts are counted while the sheet is read, and shown by `init`, `check` and the first run.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from pipeline.core.wording import UNSEEN, counted, few_words, shortened
from pipeline.inputs.table import Batch, Table, Tally

if TYPE_CHECKING:
    import pyarrow as pa

_UNSEEN = re.compile(UNSEEN)
_CANDIDATES = "".join(map(chr, (*range(0x3200), *range(0xFE00, 0x10000), *range(0xE0000, 0xE1000))))
_BLANKS = frozenset(filter(str.isspace, _CANDIDATES)).union(_UNSEEN.findall(_CANDIDATES))
# By the first byte of a text, -1 for an empty one.
_MAY_BE_BLANK = np.zeros(257, dtype=np.bool_)
_MAY_BE_BLANK[[blank.encode()[0] for blank in _BLANKS]] = True
USUAL_DELIMITERS = {".tsv": "\t"}
DELIMITER_NAMES = {",": "commas", ";": "semicolons", "\t": "tabs"}


@dataclass(frozen=True, slots=True)
class SheetFacts:
    """What the user of a sheet may not see. Each list names the first cells or rows.

    `hidden_rows` includes the rows that a filter hides. `hidden_columns` are those of the table.
    `totals_rows` are never sent. `blank_looking` cells contain only spaces or unseen characters,
    and are sent. `strays` are cells in columns without a name, and are not sent. `separator` is
    that of a text file if it was found and is not the usual one.
    """

    hidden_rows: int = 0
    first_hidden_rows: list[str] = field(default_factory=list)
    hidden_columns: list[str] = field(default_factory=list)
    filtered: bool = False
    totals_rows: list[str] = field(default_factory=list)
    blank_looking: int = 0
    first_blank_looking: list[str] = field(default_factory=list)
    strays: int = 0
    first_strays: list[str] = field(default_factory=list)
    separator: str | None = None


def looks_blank(text: str) -> bool:
    """Whether every character is a space of any kind, or prints nothing."""
    return _BLANKS.issuperset(text)


def first_bytes(texts: pa.Array) -> npt.NDArray[np.int16]:
    """Returns the first byte of each large string in UTF-8, -1 for an empty one."""
    _, offsets, content = texts.buffers()
    ends = np.frombuffer(offsets, np.int64, len(texts) + 1, 8 * texts.offset)
    found = np.full(len(texts), -1, dtype=np.int16)
    there = ends[1:] > ends[:-1]
    if there.any():  # else there may be no content
        found[there] = np.frombuffer(content, np.uint8)[ends[:-1][there]]
    return found


class Unseen:
    """Counts these facts. Call `add` for each batch of the table in turn, then `facts`."""

    def __init__(self, table: Table, columns: Sequence[int]) -> None:
        """`columns` are the positions in which cells that look empty are counted."""
        self._table = table
        self._columns = columns
        self._hidden, self._totals, self._blank = Tally(), Tally(), Tally()

    def add(
        self, batch: Batch, arrays: Sequence[pa.Array] | None = None
    ) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
        """Counts a batch. Returns for each of its rows whether it is hidden, and whether it is the
        totals row of a table. `arrays` has the columns as Arrow arrays, and saves time."""
        places = np.array(batch.places, dtype=np.int64)
        hidden = self._table.found.hidden_at(places)
        totals = self._table.found.totals_at(places)
        for tally, rows in ((self._hidden, hidden), (self._totals, totals)):
            for place in places[rows].tolist():
                tally.add(partial(self._row, place))
        for position in self._columns:
            texts = batch.columns[position]
            if arrays is None:
                begins = np.array([text != "" and text[0] in _BLANKS for text in texts], dtype=bool)
            else:
                begins = _MAY_BE_BLANK[first_bytes(arrays[position])]
            found = np.flatnonzero(begins).tolist()
            if len(found) > len(texts) / 4:  # as in Japanese
                texts = list(texts)  # one text of an array costs as much as four of all
            for offset in found:
                if looks_blank(texts[offset]):  # a call takes time
                    place = batch.places[offset]
                    self._blank.add(partial(self._table.cell_at, position, place))
        return hidden, totals

    def _row(self, place: int) -> str:
        return f"{self._table.place_word} {place}"

    def facts(self, separator: str | None) -> SheetFacts:
        """Returns the facts after the last batch. `separator` is the one that the user named."""
        table = self._table
        found = table.found
        usual = USUAL_DELIMITERS.get(Path(table.input.name).suffix.lower(), ",")
        said = separator is not None or table.delimiter == usual
        return SheetFacts(
            self._hidden.count,
            self._hidden.first,
            [table.columns[position] for position in sorted(found.hidden_columns)],
            found.filtered,
            self._totals.first,
            self._blank.count,
            self._blank.first,
            found.strays.count,
            found.strays.first,
            None if said else table.delimiter,
        )


def unseen_lines(facts: SheetFacts, hidden: str) -> Iterator[str]:
    """Yields one sentence or two for each fact. `hidden` is what happens to hidden rows."""
    if facts.hidden_rows:
        by = ", by a filter or by hand" if facts.filtered else ""
        what = "sent like the others. To leave them out, write `hidden: skip` into the job file"
        what = "skipped (`hidden: skip`)" if hidden == "skip" else what
        them = "is hidden" if facts.hidden_rows == 1 else "are hidden"
        first = _first(facts.first_hidden_rows, facts.hidden_rows)
        yield f"{counted(facts.hidden_rows, 'row')} {them} in the sheet{by} ({first}): {what}."
    if facts.hidden_columns:
        names = few_words([f'"{shortened(name)}"' for name in facts.hidden_columns])
        yield f"Hidden columns, which are sent if `variables:` names them: {names}."
    if facts.totals_rows:
        yield f"The totals row of a table is never sent: {few_words(facts.totals_rows)}."
    if facts.blank_looking:
        cells = "cell looks" if facts.blank_looking == 1 else "cells look"
        first = _first(facts.first_blank_looking, facts.blank_looking)
        yield (
            f"{facts.blank_looking} {cells} empty, but with a space or an unseen character inside "
            f"({first}): sent with it. Clear such cells if they should be empty."
        )
    if facts.strays:
        first = _first(facts.first_strays, facts.strays)
        yield f"{counted(facts.strays, 'cell')} in columns without a name ({first}): not sent."
    if facts.separator is not None:
        name = DELIMITER_NAMES.get(facts.separator, f"`{facts.separator}`")
        yield f"The cells of the file are separated by {name}. `separator:` can name another one."


def _first(named: list[str], count: int) -> str:
    more = count - len(named)
    return ", ".join(named) + (f" and {more} more" if more else "")
