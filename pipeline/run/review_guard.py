"""Looks for new reviews before each row that is sent for another answer.

People review while a run is active. A row whose answer somebody has just approved or edited is not
sent. All other rows of the run are sent as planned, because their decision came too late.
"""

from __future__ import annotations

import os
from array import array
from bisect import bisect_left
from pathlib import Path

import numpy as np

from pipeline.core.errors import PipelineError
from pipeline.core.model import Row
from pipeline.ledger import matching
from pipeline.ledger.reader import Read
from pipeline.ledger.reviews import Reviews
from pipeline.planning.prepared import Prepared

_Facts = tuple[tuple[int, int, int], ...]


class ReviewGuard:
    """Says of each row of a run whether it may still be sent.

    `kept` are the ledger's rows that were not sent because of a new review. Make this before
    `begin_run`, which forgets the match of the sheet.
    """

    def __init__(self, prepared: Prepared, read: Read) -> None:
        self.kept: set[int] = set()
        self._reviews: Reviews | None = prepared.reviews
        self._path = prepared.reviews.path
        self._facts: _Facts | None = None
        plan, send = prepared.plan, prepared.plan.send
        finished = bool(plan.chosen_ids)  # otherwise no row is sent that is ok
        answered = read(matching.answered_rows(finished=finished)) if plan.to_send else []
        wanted = [found for found in answered if send[found[0] - 1]]
        self._answers = np.array(sorted(wanted), dtype=np.int64).reshape(-1, 3)
        self._numbers = array("q", self._answers[:, 0].tobytes())

    def allows(self, row: Row) -> bool:
        """Whether the row may be sent. A row without an answer always may.

        If the reviews cannot be read now, rows with an answer wait for the next run.
        """
        # A fifth of the time of a search by numpy, which is made for many numbers at once.
        place = bisect_left(self._numbers, row.number)
        if place == len(self._numbers) or self._numbers[place] != row.number:
            return True
        _, row_id, attempt_id = self._answers[place].tolist()
        self._look()
        if self._reviews is not None and attempt_id not in self._reviews.protected:
            return True
        if self._reviews is not None:
            self.kept.add(row_id)
        return False

    def _look(self) -> None:
        facts = _facts(self._path)
        if facts == self._facts or self._reviews is None:
            return
        try:
            self._reviews, self._facts = self._reviews.newer(), facts
        except PipelineError:  # of the file of reviews: the next run says what is wrong with it
            self._reviews = None


def _facts(path: Path) -> _Facts:
    """Returns what changes with each review, without opening the file."""
    found = []
    for name in (path, path.with_name(f"{path.name}-wal")):
        try:
            about = os.stat(name)
            found.append((about.st_ino, about.st_size, about.st_mtime_ns))
        except OSError:
            found.append((0, 0, 0))
    return tuple(found)
