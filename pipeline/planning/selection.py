"""The rows that a command chooses. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from numbers import Integral
from types import NoneType

import numpy as np
import numpy.typing as npt

from pipeline.core.errors import Refused, refuse_other
from pipeline.core.model import Held, State

_SPAN = re.compile(r"(\d{1,12})(?:\s*-\s*(\d{1,12}))?")


@dataclass(frozen=True, slots=True)
class RowNumbers:
    """Rows of the sheet, as a person lists them: ``3,7-9``."""

    spans: tuple[tuple[int, int], ...]

    def __contains__(self, number: int) -> bool:
        return any(first <= number <= last for first, last in self.spans)

    @property
    def last(self) -> int:
        return max(last for _, last in self.spans)


def parse_rows(text: str) -> RowNumbers:
    """Parses a list of rows. Row 1 is the first row below the header.

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
    """The rows that a command sends.

    `states` are the states whose rows are sent (a row that is not in the ledger is pending). `only`
    and `excluded` are error codes. `rows` and `limit` narrow the sheet. Rows that the user gave up
    are sent only if `rows` names them. `again` asks for another version of ok rows: of all, or of
    those whose answer has one of the `flags`.
    """

    states: frozenset[State] = frozenset({State.PENDING})
    only: frozenset[str] | None = None
    excluded: frozenset[str] | None = None
    rows: RowNumbers | None = None
    limit: int | None = None
    again: bool = False
    flags: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        codes = "a set of texts, or None"
        sets = (frozenset, set, list, tuple, NoneType)
        refuse_other(sets, codes, only=self.only, excluded=self.excluded)
        refuse_other((RowNumbers, NoneType), "`pipeline.parse_rows(…)`, or None", rows=self.rows)
        refuse_other((Integral, NoneType), "a whole number, or None", limit=self.limit)
        if self.limit is not None and self.limit < 0:  # it would count from the end
            raise Refused("`limit` must not be negative.")

    def named(
        self, rows: int, numbers: npt.NDArray[np.int64] | None = None
    ) -> npt.NDArray[np.bool_]:
        """Returns one flag per row of the sheet: whether `rows` and `limit` let the row in.

        `numbers` are the rows that are not skipped, in the order of the sheet; the default is all
        rows. `limit` chooses the first of these, whether they are done or not, so a second run with
        the same limit sends nothing more. It counts rows and not requests: with `dedupe: true`
        duplicates count too.
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
        """Whether the command is about rows with this code. Other rows do not affect the exit
        code."""
        if self.only is not None and code not in self.only:
            return False
        return self.excluded is None or code not in self.excluded

    def chooses(self, held: Held | None) -> bool:
        """Whether a row with this state in the ledger is sent, if `named` lets it in. `held` is
        None for a row that is not in the ledger."""
        if not self.regards(held):
            return False
        return held is None or not held.given_up or self.rows is not None

    def regards(self, held: Held | None) -> bool:
        """Like `chooses`, but as if the user had given up no row."""
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
    """Returns the rows that `resume` sends: pending and failed rows, or with codes only failed
    ones. Ambiguous rows are sent only with `ambiguous`."""
    states = {State.FAILED}
    if only is None and excluded is None:
        states.add(State.PENDING)
    if ambiguous:
        states.add(State.AMBIGUOUS)
    return Selection(frozenset(states), only, excluded, rows, limit)


def select_again(
    rows: RowNumbers | None = None, limit: int | None = None, *, flags: Iterable[str] | None = None
) -> Selection:
    """Returns the rows that `run --again` sends: ok rows, as their next version.

    With `flags`, only rows whose answer has one of them. A row that was asked for again because of
    a flag, and whose answer has it again, is left out unless `rows` names it.

    Raises:
        Refused: if `flags` is empty. A program without a flag must not pay for every row again.
    """
    chosen = frozenset([flags] if isinstance(flags, str) else flags or ())
    if flags is not None and not chosen:
        raise Refused("`flags` is empty. Name a flag, or leave `flags` out to choose all rows.")
    return Selection(frozenset({State.OK}), rows=rows, limit=limit, again=True, flags=chosen)


@dataclass(frozen=True, slots=True)
class Flagged:
    """The rows whose answers have flags of a selection, by their ids in the ledger.

    A row id follows the answer wherever its row stands in the sheet now. `reasons` has the chosen
    `flags` of each row, one a line. `tried` are those of the rows whose last version the user asked
    for because of the same flags. `answers` counts all answers of the sheet, and `computed` those
    with flags of `columns:`, which a changed job file may remove without a request.
    """

    flags: frozenset[str]
    reasons: Mapping[int, str]
    tried: frozenset[int] = frozenset()
    answers: int = 0
    computed: int = 0
