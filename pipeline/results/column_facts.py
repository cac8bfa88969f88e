"""How well the columns of a job fit the answers that it has."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.job.answer_columns import MISSING, NOT_JSON, TYPE
from pipeline.job.job import Job
from pipeline.ledger.reader import Read
from pipeline.results.lookup import find_flagged_answers


@dataclass(frozen=True, slots=True)
class ColumnFacts:
    """One column of `columns:`, and how many answers fill it. The others are `missing` a value at
    its path, have a value of `another_type`, or are not JSON."""

    name: str
    path: str
    type: str
    filled: int
    missing: int
    another_type: int


@dataclass(frozen=True, slots=True)
class ColumnsFacts:
    """The answers of the sheet at the last run, those that are not JSON, and each column."""

    answers: int
    not_json: int
    columns: list[ColumnFacts]


def column_facts(job: Job, read: Read) -> ColumnsFacts | None:
    """Reads all answers. None if the job has no columns.

    Raises:
        StorageFailed: when an answer that the ledger counts is not in the results.
    """
    if job.spec is None or not job.spec.columns:
        return None
    found = find_flagged_answers(job, read)
    flagged = {flag: len(numbers) for flag, numbers in found.flagged.items()}
    not_json = flagged.get(NOT_JSON, 0)
    facts = []
    for column in job.spec.columns:
        missing = flagged.get(f"{MISSING}{column.name}", 0)
        another = flagged.get(f"{TYPE}{column.name}", 0)
        filled = found.answered - not_json - missing - another
        facts.append(ColumnFacts(column.name, column.path, column.type, filled, missing, another))
    return ColumnsFacts(found.answered, not_json, facts)
