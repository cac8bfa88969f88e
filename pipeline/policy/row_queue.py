"""The rows of a run in the order in which they go: what may go again first, then the next ones.

The next row is read only when it is asked for. Pure: time is passed in.
"""

from __future__ import annotations

import heapq
from collections import Counter, deque
from collections.abc import Iterable
from itertools import count

from pipeline.core.model import Row


class RowQueue:
    """Rows that are to be sent, new ones from `rows` and those that go again.

    Also counts how often each of the latter has failed, and how often it was refused, in this run.
    """

    def __init__(self, rows: Iterable[Row] = ()) -> None:
        self._rows = iter(rows)
        self._ahead: Row | None = None
        self._front: deque[Row] = deque()
        self._later: list[tuple[float, int, Row]] = []
        self._order = count()
        self._failures: Counter[int] = Counter()
        self._refusals: Counter[int] = Counter()

    def ready(self, now: float) -> bool:
        """Whether `take` has a row to give."""
        self._bring_forward(now)
        if self._ahead is None and not self._front:
            self._ahead = next(self._rows, None)
        return bool(self._front) or self._ahead is not None

    @property
    def due_at(self) -> float | None:
        """When the next row is due that waits to go again."""
        return self._later[0][0] if self._later else None

    @property
    def holds_any(self) -> bool:
        """Whether a row was read that is not taken; those that were not read do not count."""
        return self._ahead is not None or bool(self._front) or bool(self._later)

    def take(self, now: float) -> Row:
        """The row that is next. Only after `ready` said that there is one."""
        self._bring_forward(now)
        if self._front:
            return self._front.popleft()
        row, self._ahead = self._ahead, None
        assert row is not None
        return row

    def failures(self, row: Row) -> int:
        return self._failures[row.number]

    def refusals(self, row: Row) -> int:
        return self._refusals[row.number]

    def refused(self, row: Row, due_at: float) -> None:
        """Puts a row back that the server turned away before any work, until `due_at`."""
        self._refusals[row.number] += 1
        self._put_back(row, due_at)

    def failed(self, row: Row, due_at: float) -> None:
        """Puts a row back whose attempt failed, until `due_at`."""
        self._failures[row.number] += 1
        self._put_back(row, due_at)

    def finished(self, row: Row) -> None:
        """The row does not come back in this run."""
        del self._failures[row.number]
        del self._refusals[row.number]

    def _bring_forward(self, now: float) -> None:
        while self._later and self._later[0][0] <= now:
            self._front.append(heapq.heappop(self._later)[2])

    def _put_back(self, row: Row, due_at: float) -> None:
        heapq.heappush(self._later, (due_at, next(self._order), row))
