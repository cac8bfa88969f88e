"""Which rows of the sheet are shown."""

from __future__ import annotations

import random
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from pipeline.core.added_columns import ANSWER, STATUS, part_of
from pipeline.core.errors import Refused
from pipeline.core.model import State
from pipeline.core.review import Decision
from pipeline.core.wording import few_words, nearest, one_line
from pipeline.inputs.row_names import no_such_row
from pipeline.inputs.stored import Copy, stored_columns, stored_rows_with
from pipeline.ledger import queries
from pipeline.ledger.attempts import newer_versions
from pipeline.planning.consent import refuse_unknown_codes
from pipeline.planning.selection import RowNumbers, Selection
from pipeline.results.answered_sheet import AnsweredSheet, answered_pieces
from pipeline.results.flags import known_flags
from pipeline.show import SEED

STATUSES = (State.OK, State.FAILED, State.AMBIGUOUS, State.PENDING, "skipped")
REVIEWS = (Decision.APPROVED, Decision.EDITED, Decision.REJECTED)
_ID_CHARACTERS = 40

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """The rows to show. A row must fit each of these that is given: its number, its id, its status,
    its error code, a flag and the decision of a person. `find` has to be in the answer or in a cell
    of the sheet, or in the column `find_in`, in capital or small letters. Of the rows that
    fit, `sample` chooses so many at random, and `limit` the first ones."""

    rows: RowNumbers | None = None
    ids: Collection[str] = ()
    statuses: Collection[str] = ()
    codes: Collection[str] = ()
    flags: Collection[str] = ()
    reviews: Collection[str] = ()
    find: str | None = None
    find_in: str | None = None
    sample: int | None = None
    seed: int = SEED
    limit: int | None = None


def chosen_rows(source: AnsweredSheet, id_column: str | None, choice: Choice) -> Mask:
    """Returns one flag for each row of the sheet. `id_column` has the ids.

    Raises:
        Refused: for a row, an id, a status, a code, a flag or a column that the job does not have.
    """
    refuse_unknown(source, choice)
    mask = Selection(rows=choice.rows).named(source.rows)
    if choice.ids:
        mask &= with_ids(source, id_column, choice.ids)
    if choice.flags:
        mask &= _flagged(source, choice.flags)
    if choice.reviews:
        mask &= _reviewed(source, choice.reviews)
    if choice.statuses or choice.codes:
        mask &= _ended(source, mask, choice)
    if choice.find:
        mask &= _containing(source, mask, choice)
    return _first(_sampled(mask, choice), choice.limit)


def refuse_unknown(source: AnsweredSheet, choice: Choice) -> None:
    """Refuses a choice with a word that this job does not have.

    Raises:
        Refused: as `chosen_rows` does, except for ids.
    """
    if choice.rows is not None and choice.rows.last > source.rows:
        sheet = "the last run's sheet"
        raise Refused(no_such_row(choice.rows.last, sheet, source.rows, source.snapshot))
    for status in choice.statuses:
        _refuse_other(status, "status", STATUSES)
    for review in choice.reviews:
        _refuse_other(review, "review", REVIEWS)
    for flag in choice.flags:
        _refuse_other(flag, "flag", known_flags(source.columns.columns))
    if choice.find_in is not None:
        _refuse_other(choice.find_in, "column", searched_columns(source.snapshot, source.kinds))
    if choice.codes:
        here = {ending.code for ending in source.read(queries.counts).endings if ending.code}
        skipped = source.unknown.codes if source.unknown else set()
        refuse_unknown_codes(choice.codes, here | skipped, source.read)


def _refuse_other(word: str, noun: str, known: Collection[str]) -> None:
    if word not in known:
        raise Refused(
            f'There is no {noun} "{word}".{nearest(word, known)} This job can have: '
            f"{few_words(known)}."
        )


def with_ids(source: AnsweredSheet, column: str | None, ids: Collection[str]) -> Mask:
    """Returns the rows with one of `ids` in the sheet's `column`.

    Raises:
        Refused: for an id that no row has, and without a column.
    """
    if column is None:
        raise Refused(
            "The rows of this job have no ids, because the job file has no `id:`. Choose them by "
            "number instead, such as --rows 3,7-9."
        )
    found = stored_rows_with(source.snapshot, column, ids)
    mask = np.zeros(source.rows, bool)
    for rows in found.values():
        mask[np.array(rows, np.int64) - 1] = True
    missing = [text for text, rows in found.items() if not rows]
    if missing:
        name = one_line(min(missing), _ID_CHARACTERS)
        raise Refused(
            f"The sheet of the last run has no row with the {one_line(column, _ID_CHARACTERS)} "
            f'"{name}".'
        )
    return mask


def _flagged(source: AnsweredSheet, flags: Collection[str]) -> Mask:
    mask = np.zeros(source.rows, bool)
    for flag in flags:
        if flag in source.answers.flagged:
            mask[source.answers.flagged[flag] - 1] = True
    return mask


def _reviewed(source: AnsweredSheet, reviews: Collection[str]) -> Mask:
    """The rows whose answers have one of the decisions."""
    if source.attempts is None:
        return np.zeros(source.rows, bool)
    standing = source.reviews.standing
    decided = [number for number, one in standing.items() if one.decision in reviews]
    return np.isin(source.attempts[1:], decided)


def _ended(source: AnsweredSheet, mask: Mask, choice: Choice) -> Mask:
    """The rows with one of the statuses and one of the codes. Reads no answer."""
    found, newer = np.zeros(source.rows, bool), source.read(newer_versions(source.in_use))
    for first, statuses, codes in _endings(source, mask):
        for place, (status, code) in enumerate(zip(statuses, codes, strict=True), first - 1):
            ended = {status, newer.get(place + 1)}
            found[place] = (not choice.statuses or not ended.isdisjoint(choice.statuses)) and (
                not choice.codes or code in choice.codes
            )
    return found


def _endings(
    source: AnsweredSheet, mask: Mask
) -> Iterator[tuple[int, list[str | None], list[str | None]]]:
    """(first row, statuses, error codes) of each piece, up to the last row of `mask`."""
    last = int(np.flatnonzero(mask)[-1]) + 1 if mask.any() else 0
    without = replace(source, answers=source.answers.only(np.zeros(source.rows, bool)))
    for piece, _, added in answered_pieces(without):
        if piece.first > last:
            return
        yield piece.first, added[STATUS].to_pylist(), added["error_code"].to_pylist()


def searched_columns(snapshot: Copy, kinds: Mapping[str, str]) -> tuple[str, ...]:
    """Returns the columns where a text can be looked for: those of the sheet, the answer and its
    own columns, as an export names them. `kinds` has the kinds of the added columns by name."""
    of_answers = (name for name, kind in kinds.items() if kind == ANSWER or part_of(kind))
    return tuple(dict.fromkeys((*stored_columns(snapshot), *of_answers)))


def searched_places(
    snapshot: Copy, kinds: Mapping[str, str], column: str | None
) -> tuple[list[int], list[str]]:
    """Returns where the text of a choice has to be: one of these places in the sheet, or one of
    these kinds of columns of the answers."""
    own = stored_columns(snapshot)
    if column is None:
        return list(range(len(own))), [ANSWER]
    return ([own.index(column)], []) if column in own else ([], [kinds[column]])


def _containing(source: AnsweredSheet, mask: Mask, choice: Choice) -> Mask:
    """The rows of `mask` with the text. Reads the whole sheet and the answers of these rows."""
    wanted, found = (choice.find or "").casefold(), np.zeros(source.rows, bool)
    places, kinds = searched_places(source.snapshot, source.kinds, choice.find_in)
    only = replace(source, answers=source.answers.only(mask))
    for piece, _, added in answered_pieces(only):
        here = found[piece.first - 1 : piece.first - 1 + len(piece.skipped)]
        for column in [*(piece.columns[n] for n in places), *(added[kind] for kind in kinds)]:
            texts = column.to_pylist()
            here |= np.fromiter((t is not None and wanted in t.casefold() for t in texts), bool)
    return found & mask


def _sampled(mask: Mask, choice: Choice) -> Mask:
    rows = np.flatnonzero(mask)
    if choice.sample is None or choice.sample >= len(rows):
        return mask
    places = random.Random(choice.seed).sample(range(len(rows)), choice.sample)
    sampled = np.zeros(len(mask), bool)
    sampled[rows[places]] = True
    return sampled


def _first(mask: Mask, limit: int | None) -> Mask:
    if limit is not None:
        mask[np.flatnonzero(mask)[limit:]] = False
    return mask
