"""Finds the rows whose answers have a flag, for `run --again FLAG`.

The flags are those that `report` counts, in the sheet of the last run. The rows are named by their
ids in the ledger, so a sheet that was sorted or edited since then does not change which answers are
asked for again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from pipeline.core.errors import Refused
from pipeline.core.review import REJECTED, Decision
from pipeline.core.wording import few_words, nearest, shortened
from pipeline.job.answer_columns import flags_of_columns
from pipeline.job.job import Job
from pipeline.ledger import queries
from pipeline.ledger.reader import Read
from pipeline.ledger.reviews import Reviews, parsed_answer_id
from pipeline.planning.selection import Flagged
from pipeline.results.flags import known_flags
from pipeline.results.lookup import Rows, find_flagged_answers


def find_flagged(job: Job, flags: frozenset[str], read: Read, reviews: Reviews) -> Flagged:
    """Returns the rows whose answers have one of `flags`. Of these, `REJECTED` is the decision of a
    person. A flag can also be the name of an answer, as in a review sheet: then it is that answer,
    as long as no newer one has come.

    Does not verify the ledger's checksums: the caller does that with `integrity.check_ledger`.

    Raises:
        Refused: for a flag that no answer of this job can have.
        StorageFailed: when an answer is missing or damaged.
    """
    columns = job.to_run().columns
    named = _named_answers(flags, reviews)
    _refuse_unknown(flags - set(named.values()), (*known_flags(columns), REJECTED))
    answers = find_flagged_answers(job, read, reviews)
    rows = {flag: answers.flagged[flag] for flag in sorted(flags - {REJECTED, *named.values()})}
    rejected = reviews.with_decision(Decision.REJECTED) if REJECTED in flags else frozenset()
    flags_at = _flags_at(rows)
    reasons = read(
        lambda db: {
            one.row_id: "\n".join(filter(None, (flags_at.get(one.sheet_row), word, answer)))
            for one in queries.answered_after_review(reviews.protected)(db)
            for word in [REJECTED if one.attempt_id in rejected else None]
            for answer in [named.get(one.attempt_id)]
            if word or answer or one.sheet_row in flags_at
        }
    )
    asked_for = read(queries.again_reasons)
    tried = (
        row_id
        for row_id, earlier in asked_for.items()
        if row_id in reasons
        and earlier.issuperset(reasons[row_id].split("\n"))
        # A person who rejects the next answer too wants another one.
        and REJECTED not in reasons[row_id].split("\n")
    )
    computed = [rows[flag] for flag in flags.intersection(flags_of_columns(columns))]
    return Flagged(flags, reasons, frozenset(tried), answers.answered, _number(computed))


def _named_answers(flags: Iterable[str], reviews: Reviews) -> dict[int, str]:
    """Returns those of `flags` that name an answer of this folder, by its attempt."""
    found = ((parsed_answer_id(flag), flag) for flag in flags)
    return {
        answer.attempt_id: flag
        for answer, flag in found
        if answer is not None and answer.folder_id == reviews.folder_id
    }


def _refuse_unknown(flags: Iterable[str], known: tuple[str, ...]) -> None:
    for flag in sorted(set(flags) - set(known)):
        raise Refused(
            f'There is no flag "{shortened(flag)}".{nearest(flag, [*known, "all"])} The flags of '
            f"this job are: {few_words(known)}. Rows are numbers such as 3,7-9."
        )


def _flags_at(rows: Mapping[str, Rows]) -> dict[int, str]:
    """Returns the flags of each row of the sheet, one a line."""
    flags: dict[int, str] = {}
    for flag, numbers in rows.items():
        for number in numbers.tolist():
            flags[number] = f"{flags[number]}\n{flag}" if number in flags else flag
    return flags


def _number(rows: list[Rows]) -> int:
    return len(np.unique(np.concatenate(rows))) if rows else 0
