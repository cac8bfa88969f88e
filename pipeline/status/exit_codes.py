"""Which exit code a run ends with, and whether somebody should look."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np
import numpy.typing as npt

from pipeline.core.model import State, StopCode, Stopped, Summary
from pipeline.ledger.queries import Unfinished

_EXIT_STORAGE, _EXIT_INTERRUPTED, _EXIT_STOPPED = 6, 130, 4
_EXIT_AWAY, _EXIT_AMBIGUOUS, _EXIT_FAILED = 75, 5, 3
_EXIT_OF_STOP = {
    StopCode.STORAGE: _EXIT_STORAGE,
    StopCode.INTERRUPTED: _EXIT_INTERRUPTED,
    StopCode.NOT_SENT: _EXIT_AWAY,
    StopCode.UNTIL: _EXIT_AWAY,
    StopCode.AMBIGUOUS: _EXIT_AMBIGUOUS,
}


class FailOn(StrEnum):
    """Which rows raise the exit code to 3 or 5."""

    ANY = "any"
    NEW = "new"
    """Those that the run itself sent: for nights."""
    NONE = "none"


@dataclass(frozen=True, slots=True)
class RowsForExitCode:
    """Counts by state the unfinished rows that the exit code speaks of; none of them is kept.

    `covered` holds one flag a row of the sheet; rows that the command left out do not count.
    `interrupted_row_ids` are ledger rows that this run found cut off by a crash: they are news of
    this run, as the one that sent them could tell nobody.
    """

    covered: npt.NDArray[np.bool_]
    fail_on: FailOn
    interrupted_row_ids: frozenset[int] = frozenset()
    states: Counter[State] = field(default_factory=Counter)

    def add(self, row: Unfinished) -> None:
        """Counts one row, if it is of concern."""
        if self.fail_on is FailOn.NONE or not self.covered[row.sheet_row - 1]:
            return
        if self.fail_on is FailOn.ANY or row.in_last_run or row.row_id in self.interrupted_row_ids:
            self.states[row.state] += 1


def needs_person(summary: Summary) -> bool:
    """Whether somebody should look: not at a night that its `--until` ended, with all rows well."""
    in_time = summary.stopped == StopCode.UNTIL and summary.exit_code == _EXIT_AWAY
    if in_time and not summary.failed and not summary.ambiguous:
        return False
    return summary.exit_code != 0


def exit_code_of(stopped: Stopped | None, states: Counter[State], signal_exit: int | None) -> int:
    """The first that applies of 6, 130 or 143, 4, 75, 5, 3."""
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
