"""Stores one decision about the answers of some rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from types import NoneType

import numpy as np

from pipeline.core.added_columns import ALL_KINDS, ANSWER_ID
from pipeline.core.clock import SystemClock
from pipeline.core.errors import Refused, refuse_other
from pipeline.core.model import Clock
from pipeline.core.review import Decision, Review
from pipeline.core.wording import NAMED, counted, few_words, nearest
from pipeline.inputs.row_names import row_names
from pipeline.job.answer_columns import canonical
from pipeline.job.job import Job
from pipeline.ledger import queries
from pipeline.ledger.reader import reading, refuse_before_first_run
from pipeline.ledger.reviews import AnswerId, add_reviews, parsed_answer_id
from pipeline.planning.consent import Ask, moved_words
from pipeline.planning.selection import RowNumbers
from pipeline.results.answered_sheet import answered_pieces
from pipeline.review.moved import moved_rows
from pipeline.show import SEED
from pipeline.show.choice import Choice
from pipeline.show.rows import Shown, ShownRow, showing

MAX_EDIT_CHARACTERS = 4_000_000
"""A longer text is no edit of an answer, but probably another file."""
_NOTHING_SAVED = "Nothing was saved."


@dataclass(frozen=True, slots=True)
class Reviewed:
    """The result of a review. `rows` are the chosen rows whose answers have the decision now,
    `unanswered` counts those without an answer, and `shared` are other rows with the same answers.
    `named` names `rows` as messages do."""

    decision: Decision
    rows: tuple[int, ...]
    unanswered: int = 0
    shared: tuple[int, ...] = ()
    named: str = ""


def review_job(
    job: Job,
    decision: Decision | str,
    *,
    rows: RowNumbers | None = None,
    ids: Collection[str] = (),
    statuses: Collection[str] = (),
    codes: Collection[str] = (),
    flags: Collection[str] = (),
    sample: int | None = None,
    seed: int = SEED,
    limit: int | None = None,
    text: str | None = None,
    column: str | None = None,
    answer: str | None = None,
    ask: Ask | None = None,
    yes: bool = False,
) -> Reviewed:
    """Stores a decision about the answers of some rows: "approved", "edited", "rejected" or
    "reset". Returns once it is on the disk. Sends nothing, and works while a run is active.

    The rows are chosen as by `show_job`. An approved or edited answer is never asked for again.
    `text` is that of an edit, of the whole answer or of one `column` of `columns:`. "reset" undoes
    the decisions before, with `column` only the edit of that column. `ask` gets a question, or
    `yes` allows it, if other rows with other ids share one of the answers, and if `rows` are other
    rows in the sheet by now.

    Raises:
        Refused: if no chosen row has an answer, for an edit of several answers, and for a text that
            does not fit the type of its column. Nothing was saved.
        StorageFailed: if the reviews are damaged, or the disk refuses the write.
        Locked: if another process keeps the reviews locked.
    """
    with nothing_saved():
        refuse_other((str, NoneType), "a text, or None", text=text, column=column)
        refuse_other((RowNumbers, NoneType), "`pipeline.parse_rows(…)`, or None", rows=rows)
    choice = Choice(
        rows=rows,
        ids=ids,
        statuses=statuses,
        codes=codes,
        flags=flags,
        sample=sample,
        seed=seed,
        limit=limit,
    )
    return decide(job, _decision(decision), choice, text, column, answer=answer, ask=ask, yes=yes)


def _decision(word: Decision | str) -> Decision:
    if word not in list(Decision):
        raise Refused(
            f'There is no decision "{word}".{nearest(str(word), Decision)} Use one of '
            f"{', '.join(Decision)}.",
            closing="Nothing was saved.",
        )
    return Decision(word)


def decide(
    job: Job,
    decision: Decision,
    choice: Choice,
    text: str | None = None,
    column: str | None = None,
    *,
    answer: str | None = None,
    ask: Ask | None = None,
    yes: bool = False,
    clock: Clock | None = None,
) -> Reviewed:
    """Does the same for a `choice` of rows."""
    with nothing_saved():
        return _decide(
            job, decision, choice, text, column, answer, ask, yes, clock or SystemClock()
        )


@contextmanager
def nothing_saved() -> Iterator[None]:
    """A refusal of this block says that nothing was saved, instead of that nothing was sent."""
    try:
        yield
    except Refused as error:
        said = str(error).replace(Refused.closing, _NOTHING_SAVED)
        raise Refused(said, closing=_NOTHING_SAVED) from None


def _decide(
    job: Job,
    decision: Decision,
    choice: Choice,
    text: str | None,
    column: str | None,
    answer: str | None,
    ask: Ask | None,
    yes: bool,
    clock: Clock,
) -> Reviewed:
    with_text = decision is Decision.EDITED
    if with_text != (text is not None):
        raise Refused("An edit needs a text, and no other decision has one.")
    if column is not None and with_text:  # the edit of a column that is gone can be reset
        _check_column(job, column, text)
    if text is not None:
        _check_text(text)
    with_folder_id(job)

    with showing(job, choice, kinds=ALL_KINDS) as shown:
        answers = list(_answers(shown))
        _check_answers(answers, with_text)
        _check_shown(answers, answer)
        found = _result(shown, decision, answers)
        if not yes:
            if answer is None:
                _ask_about(_moved_words(shown, choice), ask)
            _ask_about(_shared_words(shown, found), ask)
        digests = {one.attempt_id: one.digest for _, one in answers}
        reviews = [Review(n, digest, decision, column, text) for n, digest in digests.items()]
        add_reviews(job.folder, shown.source.read, reviews, clock)
        return found


def with_folder_id(job: Job) -> None:
    """Gives the ledger of a folder of the first release its id, as its next run does.

    Raises:
        Refused: before the first run.
        Locked: if a run of that release works in the folder.
    """
    with reading(job.folder.ledger) as read:
        refuse_before_first_run(job, read)
        if read(queries.meta(queries.FOLDER_ID)) is not None:
            return
    from pipeline.ledger.ledger import open_ledger  # only an old folder needs the writer

    with job.folder.locked(), open_ledger(job.folder.ledger, SystemClock()):
        pass


def _answers(shown: Shown) -> Iterator[tuple[int, AnswerId]]:
    """Yields (row, its answer) for the chosen rows with an answer."""
    if not shown.mask.any():
        return
    last = int(np.flatnonzero(shown.mask)[-1]) + 1
    only = replace(shown.source, answers=shown.source.answers.only(shown.mask))
    for piece, _, added in answered_pieces(only):
        if piece.first > last:
            return
        for offset, text in enumerate(added[ANSWER_ID].to_pylist()):
            answer = parsed_answer_id(text) if text else None
            if answer is not None and shown.mask[piece.first - 1 + offset]:
                yield piece.first + offset, answer


def _check_answers(answers: list[tuple[int, AnswerId]], edit: bool) -> None:
    if not answers:
        raise Refused("No chosen row has an answer, so there is nothing to review.")
    different = len({answer.attempt_id for _, answer in answers})
    if edit and different > 1:
        raise Refused(
            f"An edit is the text of one answer, and these are {different} answers. Choose one "
            "row, or edit several in a review sheet (`pipeline export --review FILE`)."
        )


def _check_shown(answers: list[tuple[int, AnswerId]], answer: str | None) -> None:
    shown = None if answer is None else parsed_answer_id(answer)
    if answer is not None and any(shown is None or one[:3] != shown[:3] for _, one in answers):
        raise Refused("The row has another answer by now than the one that was shown.")


def _result(shown: Shown, decision: Decision, answers: list[tuple[int, AnswerId]]) -> Reviewed:
    attempts = shown.source.attempts
    assert attempts is not None
    of_these = np.isin(attempts[1:], [answer.attempt_id for _, answer in answers])
    shared = (np.flatnonzero(of_these & ~shown.mask) + 1).tolist()
    rows = tuple(row for row, _ in answers)
    named = shown.names_of(rows)
    return Reviewed(decision, rows, shown.count - len(answers), tuple(shared), named)


def _ask_about(question: str | None, ask: Ask | None) -> None:
    if question is None:
        return
    if ask is None:
        raise Refused(f"{question} Add --yes to confirm.")
    if not ask(question):
        raise Refused("You did not confirm.")


def _shared_words(shown: Shown, found: Reviewed) -> str | None:
    """What to ask before a decision about an answer that rows with other ids share."""
    if not found.shared or shown.names.id_column is None:
        return None
    return (
        f"{counted(len(found.shared), 'other row')} with other ids "
        f"{'has' if len(found.shared) == 1 else 'have'} the same answer, because `dedupe: true` "
        f"sends equal rows once: {shown.names_of(found.shared)}. The decision is about the answer, "
        "so it counts for these rows too."
    )


def _moved_words(shown: Shown, choice: Choice) -> str | None:
    """What to ask before a decision about row numbers that mean other rows in the sheet by now."""
    moved = moved_rows(shown.job, shown.source, choice.rows)
    if not moved:
        return None
    names = row_names(shown.source.snapshot, [one.number for one in moved[:NAMED]])
    words = moved_words(moved, names)
    return f"{words} The decision would be about the rows as the last run read them."


def _check_column(job: Job, name: str, text: str | None) -> None:
    columns = {one.name: one for one in (job.spec.columns if job.spec else ())}
    if name not in columns:
        known = f" The columns are: {few_words(columns)}." if columns else ""
        raise Refused(
            f'`columns:` of the job file has no column "{name}".{nearest(name, columns)}{known}'
        )
    if text is not None and canonical(text, columns[name].type) is None:
        raise Refused(
            f'The text does not fit the column "{name}", which has the type {columns[name].type}.'
        )


def _check_text(text: str) -> None:
    if len(text) > MAX_EDIT_CHARACTERS:
        raise Refused(f"An edit can have {MAX_EDIT_CHARACTERS:,} characters at most.")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise Refused("The text has a half character, which no file can contain.") from None


@contextmanager
def reviewed_rows(job: Job, choice: Choice) -> Iterator[tuple[Shown, Counter[str]]]:
    """Opens the chosen rows whose answers have a decision, and counts them by their decision."""
    with showing(job, choice) as shown:
        counts: Counter[str] = Counter()
        for row in (np.flatnonzero(shown.mask) + 1).tolist():
            standing = shown.source.standing_of(row)
            if standing is None or standing.decision is None:
                shown.mask[row - 1] = False
            else:
                counts[standing.decision] += 1
        yield shown, counts


def read_reviews(job: Job) -> Iterator[ShownRow]:
    """Yields the rows of the last run's sheet whose answers a person approved, edited or rejected.

    Raises:
        Refused: before the first run.
        StorageFailed: if the reviews or an answer are damaged.
    """
    with reviewed_rows(job, Choice()) as (shown, _):
        yield from shown.rows()
