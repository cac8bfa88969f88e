"""The exit code of a run, and whether a person has to look at it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

from pipeline.core.model import State, StopCode, Stopped, Summary
from pipeline.ledger.queries import Unfinished

if TYPE_CHECKING:  # `status` needs no numpy
    import numpy as np
    import numpy.typing as npt

_EXIT_STORAGE, _EXIT_INTERRUPTED, _EXIT_TERMINATED, _EXIT_STOPPED = 6, 130, 143, 4
_EXIT_REFUSED = 2
_EXIT_AWAY, _EXIT_AMBIGUOUS, _EXIT_FAILED = 75, 5, 3
_EXIT_OF_STOP = {
    StopCode.STORAGE: _EXIT_STORAGE,
    StopCode.INTERRUPTED: _EXIT_INTERRUPTED,
    StopCode.NOT_SENT: _EXIT_AWAY,
    StopCode.UNTIL: _EXIT_AWAY,
    StopCode.AMBIGUOUS: _EXIT_AMBIGUOUS,
}


GOES_ON = (0, _EXIT_FAILED, _EXIT_AMBIGUOUS)
"""The exit codes of a run after which the next stage starts: it sent what it could."""
_OF_STAGES = (
    _EXIT_STORAGE,
    _EXIT_INTERRUPTED,
    _EXIT_TERMINATED,
    _EXIT_STOPPED,
    _EXIT_AWAY,
    _EXIT_REFUSED,
    _EXIT_AMBIGUOUS,
    _EXIT_FAILED,
)


class FailOn(StrEnum):
    """The rows that can make the exit code 3 or 5."""

    ANY = "any"
    NEW = "new"
    """Rows that the run itself sent. Meant for nightly runs."""
    NONE = "none"


@dataclass(frozen=True, slots=True)
class RowsForExitCode:
    """Counts, by state, the unfinished rows that matter for the exit code. Keeps only the counts.

    `covered` has one flag per row of the sheet; rows that the command left out do not count.
    `interrupted_row_ids` are the ledger rows that this run found interrupted by a crash. They count
    as new in this run, because the run that sent them could not report them.
    """

    covered: npt.NDArray[np.bool_]
    fail_on: FailOn
    interrupted_row_ids: frozenset[int] = frozenset()
    states: Counter[State] = field(default_factory=Counter)

    def add(self, row: Unfinished) -> None:
        """Counts one row, if it matters for the exit code."""
        if self.fail_on is FailOn.NONE or not self.covered[row.sheet_row - 1]:
            return
        if self.fail_on is FailOn.ANY or row.in_last_run or row.row_id in self.interrupted_row_ids:
            self.states[row.state] += 1


def needs_person(summary: Summary) -> bool:
    """Whether a person has to look. False for a run that only `--until` ended, if no row failed or
    is ambiguous."""
    in_time = summary.stopped == StopCode.UNTIL and summary.exit_code == _EXIT_AWAY
    if in_time and not summary.failed and not summary.ambiguous:
        return False
    return summary.exit_code != 0


def exit_code_of(stopped: Stopped | None, states: Counter[State], signal_exit: int | None) -> int:
    """The exit code of a run: the first that applies of 6, 130 or 143, 4, 75, 5, 3; else 0."""
    interrupted = _EXIT_INTERRUPTED if signal_exit is None else signal_exit
    found = {
        _EXIT_AMBIGUOUS: states[State.AMBIGUOUS] > 0,
        _EXIT_FAILED: states[State.FAILED] > 0,
    }
    if signal_exit is not None:
        found[interrupted] = True
    if stopped is not None:
        found[_EXIT_OF_STOP.get(stopped.code, _EXIT_STOPPED)] = True
    order = (_EXIT_STORAGE, interrupted, _EXIT_STOPPED, _EXIT_AWAY, _EXIT_AMBIGUOUS, _EXIT_FAILED)
    return next((code for code in order if found.get(code)), 0)


def first_of(codes: Sequence[int]) -> int:
    """Returns the exit code of several runs together: the first of `codes` in the order 6, 130,
    143, 4, 75, 2, 5, 3; else 0."""
    return next((code for code in _OF_STAGES if code in codes), 0)
