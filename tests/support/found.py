"""Compares the answers of a `Finder` with those of `show_job`, which reads everything."""

from __future__ import annotations

import random
from typing import Any

import pipeline
from pipeline.core.errors import Refused
from pipeline.job.job import Job
from pipeline.show.choice import REVIEWS, STATUSES, Choice
from pipeline.show.finder import Finder
from pipeline.show.found import Found

FIELDS = ("row", "name", "status", "error_code", "answer", "columns", "flags", "review")


def found(finder: Finder, first: int = 0, count: int = 1_000_000, **choice: Any) -> Found:
    """Waits for the index."""
    while not isinstance(shown := finder.find(Choice(**choice), first, count), Found):
        pass
    return shown


def compare(finder: Finder, job: Job, chance: random.Random) -> None:
    """Compares every filter that some row of the job fits, and pages of rows."""
    try:
        rows = list(pipeline.show_job(job))
    except Refused:
        return
    same(finder, job)
    for status in STATUSES:
        same(finder, job, statuses=(status,))
    for review in REVIEWS:
        same(finder, job, reviews=(review,))
    for code in sorted({row.error_code for row in rows if row.error_code}):
        same(finder, job, codes=(code,))
        same(finder, job, codes=(code,), statuses=("ambiguous",))
    for flag in sorted({flag for row in rows for flag in row.flags} | {"repeated"}):
        same(finder, job, flags=(flag,))
    for row in chance.sample(rows, min(3, len(rows))):
        for text in (row.answer, *row.variables.values()):
            if text:
                begin = chance.randrange(len(text))
                same(finder, job, find=text[begin : begin + chance.randint(1, 9)].swapcase())
        if row.id is not None:
            same(finder, job, ids=(row.id,))
    every = found(finder)
    for first in range(0, len(rows), 5):
        assert found(finder, first, 5).rows == every.rows[first : first + 5]


def same(finder: Finder, job: Job, **choice: Any) -> int:
    """Compares one filter. Returns how many rows fit it."""
    expected = list(pipeline.show_job(job, **choice))
    shown = found(finder, **choice)
    assert shown.total == len(expected), (choice, shown, expected)
    for one, other in zip(shown.rows, expected, strict=True):
        for name in FIELDS:
            assert getattr(one, name) == getattr(other, name), (choice, name, one, other)
    return shown.total
