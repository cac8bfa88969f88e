"""Which rows a command chooses. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.core.errors import Refused
from pipeline.core.model import Held, State

_SPAN = re.compile(r"(\d{1,12})(?:\s*-\s*(\d{1,12}))?")


@dataclass(frozen=True, slots=True)
class RowNumbers:
    """Some rows of the sheet, as a person lists them: ``3,7-9``."""

    spans: tuple[tuple[int, int], ...]

    def __contains__(self, number: int) -> bool:
        return any(first <= number <= last for first, last in self.spans)

    @property
    def last(self) -> int:
        return max(last for _, last in self.spans)


def parse_rows(text: str) -> RowNumbers:
    """The rows that `text` lists, counted from 1 without the header.

    Raises:
        Refused: when it is not a list such as ``3,7-9``.
    """
    spans = []
    for piece in text.split(","):
        found = _SPAN.fullmatch(piece.strip())
        first, last = (int(found[1]), int(found[2] or found[1])) if found else (0, 0)
        if not 1 <= first <= last:
            raise Refused(
                f'"{text}" is not a list of rows. Write row numbers such as 3,7-9. Row 1 is the '
                "first row below the column names."
            )
        spans.append((first, last))
    return RowNumbers(tuple(spans))


@dataclass(frozen=True, slots=True)
class Selection:
    """Which rows a command sends.

    `states` are the held states that are sent (a row that is not held is pending). `only` and
    `excluded` are error codes; `rows` and `limit` narrow the sheet. Rows that the user gave up are
    sent only when `rows` names them. `again` asks for another version of ok rows.
    """

    states: frozenset[State] = frozenset({State.PENDING})
    only: frozenset[str] | None = None
    excluded: frozenset[str] | None = None
    rows: RowNumbers | None = None
    limit: int | None = None
    again: bool = False

    def named(
        self, rows: int, numbers: npt.NDArray[np.int64] | None = None
    ) -> npt.NDArray[np.bool_]:
        """Which of a sheet's rows `rows` and `limit` leave in, one flag a row.

        `numbers` are the rows that are not skipped, by default all of them, in the order of the
        sheet. `limit` takes the first of these, done or not: a second run with the same limit sends
        nothing more. It counts rows and not requests: under `dedupe: true` duplicates count too.
        """
        named = np.ones(rows, dtype=np.bool_)
        if self.limit is not None:
            within = np.arange(1, rows + 1) if numbers is None else numbers
            named[within[self.limit :] - 1] = False
        if self.rows is not None:
            listed = np.zeros(rows, dtype=np.bool_)
            for first, last in self.rows.spans:
                listed[first - 1 : last] = True
            named &= listed
        return named

    def covers(self, code: str | None) -> bool:
        """Whether the command is about rows with this code at all; others do not raise the exit
        code."""
        if self.only is not None and code not in self.only:
            return False
        return self.excluded is None or code not in self.excluded

    def chooses(self, held: Held | None) -> bool:
        """Whether a row of which this is held is sent, if it is named."""
        if not self.regards(held):
            return False
        return held is None or not held.given_up or self.rows is not None

    def regards(self, held: Held | None) -> bool:
        """The same, as if no row had been given up."""
        state = held.state if held else State.PENDING
        return state in self.states and self.covers(held.code if held else None)


def select_resume(
    *,
    only: frozenset[str] | None = None,
    excluded: frozenset[str] | None = None,
    rows: RowNumbers | None = None,
    ambiguous: bool = False,
    limit: int | None = None,
) -> Selection:
    """What `resume` sends: pending and failed rows; with codes failed ones alone; ambiguous ones
    only when asked for."""
    states = {State.FAILED}
    if only is None and excluded is None:
        states.add(State.PENDING)
    if ambiguous:
        states.add(State.AMBIGUOUS)
    return Selection(frozenset(states), only, excluded, rows, limit)


def select_again(rows: RowNumbers | None, limit: int | None = None) -> Selection:
    """What `run --again` sends: ok rows, as their next version."""
    return Selection(frozenset({State.OK}), rows=rows, limit=limit, again=True)
