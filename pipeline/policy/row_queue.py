"""The rows of a run in the order of sending: rows that are due again first, then new ones.

Rows are read one by one, when needed. Pure: the caller passes the time in.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterable
from itertools import count

from pipeline.core.model import Row


class RowQueue:
    """The rows to be sent: new ones from `rows`, and those that are sent again.

    Also counts how often each of the latter has failed and was refused in this run.
    """

    def __init__(self, rows: Iterable[Row] = ()) -> None:
        self._rows = iter(rows)
        self._ahead: Row | None = None
        self._front: deque[Row] = deque()
        self._later: list[tuple[float, int, Row]] = []
        self._order = count()
        self._failures: dict[int, int] = {}
        self._refusals: dict[int, int] = {}

    def ready(self, now: float) -> bool:
        """Whether `take` can return a row now."""
        self._bring_forward(now)
        if self._ahead is None and not self._front:
            self._ahead = next(self._rows, None)
        return bool(self._front) or self._ahead is not None

    @property
    def due_at(self) -> float | None:
        """When the next waiting row is due; None if no row waits."""
        return self._later[0][0] if self._later else None

    @property
    def holds_any(self) -> bool:
        """Whether a row was read that `take` has not returned. Unread rows do not count."""
        return self._ahead is not None or bool(self._front) or bool(self._later)

    def take(self, now: float) -> Row:
        """Returns the next row. Call it only after `ready` returned True."""
        self._bring_forward(now)
        if self._front:
            return self._front.popleft()
        row, self._ahead = self._ahead, None
        assert row is not None
        return row

    def failures(self, row: Row) -> int:
        return self._failures.get(row.number, 0)

    def refusals(self, row: Row) -> int:
        return self._refusals.get(row.number, 0)

    def refused(self, row: Row, due_at: float) -> None:
        """Puts back a row that the server refused before any work. It waits until `due_at`."""
        self._refusals[row.number] = self.refusals(row) + 1
        self._put_back(row, due_at)

    def failed(self, row: Row, due_at: float) -> None:
        """Puts back a row whose attempt failed. It waits until `due_at`."""
        self._failures[row.number] = self.failures(row) + 1
        self._put_back(row, due_at)

    def finished(self, row: Row) -> None:
        """Forgets the counts of a row that this run does not send again."""
        self._failures.pop(row.number, None)
        self._refusals.pop(row.number, None)

    def _bring_forward(self, now: float) -> None:
        while self._later and self._later[0][0] <= now:
            self._front.append(heapq.heappop(self._later)[2])

    def _put_back(self, row: Row, due_at: float) -> None:
        heapq.heappush(self._later, (due_at, next(self._order), row))
