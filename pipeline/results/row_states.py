"""The state of every row of the sheet, kept in memory and brought up to date from the ledger.

The first reading takes a few seconds for a million rows, in short views. After that, only the rows
that changed are read. A million rows need about 60 MB.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pipeline.core.model import ErrorCode, State
from pipeline.ledger.reader import Read, reading
from pipeline.ledger.row_states import (
    Mark,
    RowState,
    changed_since,
    mark,
    run_ids,
    shared_answers,
    states_between,
)
from pipeline.results.lookup import keys_of

_AT_ONCE = 50_000
_STATES = (State.OK, State.SENDING, State.AMBIGUOUS, State.FAILED, State.PENDING)
_OK, _SENDING, _AMBIGUOUS, _, _PENDING = range(5)
SKIPPED = "skipped"
WORDS = (*map(str, _STATES), SKIPPED)
"""The words of `Shown.status` and `Shown.newer`."""
NONE = len(WORDS)

Numbers = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]
Words = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Shown:
    """The rows of the sheet as they are shown, row 1 at 0.

    `status` and `newer` are places in `WORDS`. `newer` says how the newer version of an answered
    row ended, NONE without one. `code` is a place in `codes`. `key` and `attempt` name the answer
    of a row, -1 and 0 without one. `owner` is the row id in the ledger, 0 without one.
    """

    status: Words
    newer: Words
    code: npt.NDArray[np.int32]
    codes: tuple[str | None, ...]
    key: Numbers
    attempt: Numbers
    owner: Numbers

    @property
    def answered(self) -> Mask:
        return self.attempt > 0


@dataclass(slots=True)
class RowStates:
    """The rows of a ledger by row id."""

    moment: Mark | None = None
    run_numbers: Mapping[str, int] = field(default_factory=dict)
    _codes: dict[str | None, int] = field(default_factory=lambda: {None: 0})
    _table: Numbers = field(default_factory=lambda: np.zeros((5, 0), np.int64))
    """Sheet row, state, code, attempt and key of the answer, each by row id."""
    _duplicates: Numbers = field(default_factory=lambda: np.zeros((0, 2), np.int64))
    _kept: Numbers = field(default_factory=lambda: np.zeros((0, 2), np.int64))

    def load(self, ledger: Path) -> None:
        """Reads every row. Each view of the ledger is short.

        Raises:
            StorageFailed: when SQLite cannot read the ledger.
        """
        self.moment = None
        with reading(ledger) as read:
            begun = read(mark)
            self.run_numbers = read(run_ids)
            self._duplicates, self._kept = (
                np.array(pairs, np.int64).reshape(-1, 2) for pairs in read(shared_answers)
            )
        self._table = np.zeros((5, begun.last_row + 1), np.int64)
        for first in range(1, begun.last_row + 1, _AT_ONCE):
            with reading(ledger) as read:
                self._put(read(states_between(first, first + _AT_ONCE - 1)))
        self.moment = begun

    def catch_up(self, read: Read) -> bool:
        """Reads the rows that changed. Returns False if `load` has to read them all."""
        now = read(mark)
        if self.moment is None or now.run != self.moment.run:
            return False
        if now != self.moment:
            ids, found = read(changed_since(self.moment))
            missing = now.last_row + 1 - self._table.shape[1]
            if missing > 0:
                self._table = np.pad(self._table, ((0, 0), (0, missing + _AT_ONCE)))
            gone = np.array([n for n in ids if n < self._table.shape[1]], np.int64)
            self._table[:, gone] = 0
            self._put(found)
            self.moment = now
        return True

    def _put(self, found: Iterable[RowState]) -> None:
        rows = [
            (
                one.row_id,
                one.sheet_row,
                _STATES.index(one.state),
                self._codes.setdefault(one.code, len(self._codes)),
                one.ok_attempt,
                one.run,
                one.sent_row,
            )
            for one in found
        ]
        ids, sheet, state, code, attempt, run, sent = np.array(rows, np.int64).reshape(-1, 7).T
        key = np.where(attempt > 0, keys_of(run, sent), -1)
        self._table[:, ids] = sheet, state, code, attempt, key

    def shown(
        self,
        skipped: Mask,
        in_use: bool,
        absent: Mapping[int, str | None],
        protected: Mapping[int, tuple[int, int]],
    ) -> Shown:
        """Returns the rows of the sheet. `skipped` flags those that the last run left out.

        `absent` has the error codes of skipped rows that may be paid. `protected` has (attempt,
        key) of the answers that people approved or edited, by row id.
        """
        table = self._with(protected)
        owner = np.zeros(len(skipped), np.int64)
        there = np.flatnonzero((table[0] > 0) & (table[0] <= len(skipped)))
        owner[table[0, there] - 1] = there
        owner[self._duplicates[:, 0] - 1] = owner[self._duplicates[:, 1] - 1]
        _, state, code, attempt, key = table[:, owner]
        code, key = code.astype(np.int32), np.where(attempt > 0, key, -1)
        answered = attempt > 0
        open_ = (owner > 0) & (state != _OK) & ~((state == _PENDING) & (code == 0))
        flying = open_ & (state == _SENDING)
        if in_use:
            open_ &= ~flying
        else:
            state = np.where(flying, _AMBIGUOUS, state)
            cut_off = self._codes.setdefault(ErrorCode.INTERRUPTED, len(self._codes))
            code[flying] = cut_off
        code[~open_] = 0
        newer = np.where(open_ & answered, state, NONE).astype(np.uint8)
        attempt[self._kept[:, 0] - 1] = table[3, self._kept[:, 1]]
        key[self._kept[:, 0] - 1] = table[4, self._kept[:, 1]]
        status = np.where(skipped, len(_STATES), _PENDING)
        status[attempt > 0] = _OK
        for row, word in absent.items():
            if skipped[row - 1] and not attempt[row - 1]:
                status[row - 1] = _AMBIGUOUS
                code[row - 1] = self._codes.setdefault(word, len(self._codes))
        status = np.where(open_ & ~answered, state, status).astype(np.uint8)
        owner[self._kept[:, 0] - 1] = self._kept[:, 1]
        return Shown(status, newer, code, tuple(self._codes), key, attempt, owner)

    def _with(self, protected: Mapping[int, tuple[int, int]]) -> Numbers:
        if not protected:
            return self._table
        table = self._table.copy()
        for row_id, (attempt, key) in protected.items():
            table[3:, row_id] = attempt, key
        return table
