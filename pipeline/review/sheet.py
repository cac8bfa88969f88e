"""Reads the decisions in a review sheet that `export --review` wrote and a person filled in.

Only the columns `_answer`, `_review` and `_edit` are read, never the answer that the sheet shows. A
line belongs to the answer that it names, wherever its row stands now. The sheet is taken as a whole
or not at all.
"""

from __future__ import annotations

import re
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

from pipeline.core.added_columns import ANSWER, REVIEWED, TEXT_ASIDE, column_names
from pipeline.core.clock import SystemClock
from pipeline.core.errors import Refused
from pipeline.core.model import Clock
from pipeline.core.review import Decision, Review, Standing
from pipeline.core.wording import few_words, nearest, shortened
from pipeline.inputs.formats import open_table
from pipeline.inputs.table import Table
from pipeline.job.job import Job
from pipeline.job.spec import JobSpec
from pipeline.ledger import queries
from pipeline.ledger.reader import Read, reading, refuse_before_first_run
from pipeline.ledger.reviews import (
    AnswerId,
    Reviews,
    add_reviews,
    digest_of,
    parsed_answer_id,
    read_reviews,
)
from pipeline.results.formulas import unformulaic
from pipeline.results.lookup import find_answers
from pipeline.review.decide import MAX_EDIT_CHARACTERS, nothing_saved, with_folder_id

_ASIDE = re.compile(TEXT_ASIDE)
_NAMED = 5
_NOT_WRITTEN = {".ods", ".xls", ".xlsb"}


@dataclass(frozen=True, slots=True)
class Imported:
    """The decisions of a review sheet: how many of each kind were stored, and how many lines say
    nothing new."""

    stored: Counter[Decision]
    unchanged: int


class _Line(NamedTuple):
    place: int
    answer: str
    word: str
    edit: str


class _Action(NamedTuple):
    place: int
    answer: AnswerId
    decision: Decision
    text: str | None


def review_from(job: Job, path: Path, clock: Clock | None = None) -> Imported:
    """Stores the decisions of the review sheet at `path`. Returns once they are on the disk.

    A line without a decision, and one that says what the sheet said when it was written, changes
    nothing. Sends nothing, and works while a run is active.

    Raises:
        Refused: if the sheet is not a review sheet of this run folder, an answer has changed since
            it was written, or lines contradict each other. The message names the lines. Nothing
            was saved.
        StorageFailed: if the reviews are damaged, or the disk refuses the write.
    """
    with nothing_saved():
        return _review_from(job, path, clock or SystemClock())


def _review_from(job: Job, path: Path, clock: Clock) -> Imported:
    with_folder_id(job)
    table, names = _opened(job, path)
    places = [table.columns.index(name) for name in names]
    with reading(job.folder.ledger) as read:
        refuse_before_first_run(job, read)
        reading_sheet = _Sheet(job, table, places, read, read_reviews(job.folder, read))
        actions = reading_sheet.actions()
        reading_sheet.check_answers(actions)
        if reading_sheet.problems:
            raise _refused(path, table.place_word, reading_sheet.problems)
        reviews = [
            Review(a.answer.attempt_id, a.answer.digest, a.decision, None, a.text) for a in actions
        ]
        if reviews:
            add_reviews(job.folder, read, reviews, clock, reading_sheet.reviews)
    stored = Counter(action.decision for action in actions)
    return Imported(stored, reading_sheet.lines - len(actions))


def _opened(job: Job, path: Path) -> tuple[Table, list[str]]:
    """Returns the sheet, and the names of the columns that are read. A cell of them that has no
    certain value is refused, as in a column that is sent."""
    if path.suffix.lower() in _NOT_WRITTEN:
        raise Refused(f"{path}: save the review sheet as .xlsx or .csv.")
    name = job.spec.name if job.spec else "review"
    workflow = job.spec.workflow if job.spec else "review"
    spec, names = _located(job, JobSpec(None, name, workflow, path.absolute(), path, variables=()))
    return open_table(replace(spec, variables=tuple(zip(names, names, strict=True)))), names


def _located(job: Job, spec: JobSpec) -> tuple[JobSpec, list[str]]:
    """Returns `spec` with the place of the column names, and the names of the columns.

    A review sheet of a workbook is a copy of all its worksheets, with lines above the column names.
    A person may have renamed them, or added one with notes.
    """
    found, refusals = [], []
    worksheets = _worksheets(spec.file)
    for sheet in worksheets:
        for header_row in dict.fromkeys((None, job.spec.header_row if job.spec else None)):
            place = replace(spec, sheet=sheet, header_row=header_row)
            try:
                found.append((place, _names(job, open_table(place))))
                break
            except Refused as error:
                refusals.append(error)
    if len(found) > 1:
        raise Refused(
            f"{spec.file}: the worksheets {few_words(str(one.sheet) for one, _ in found)} have the "
            "same columns of decisions. Delete all of them but one."
        )
    if not found:
        raise refusals[0] if len(worksheets) == 1 else _no_review_sheet(job, spec.file)
    return found[0]


def _worksheets(path: Path) -> list[str | None]:
    if path.suffix.lower() not in (".xlsx", ".xlsm") or not path.is_file():
        return [None]
    from pipeline.inputs.xlsx.workbook import open_workbook  # only for workbooks

    with open_workbook(path) as workbook:
        return [one.name for one in workbook.sheets] or [None]


def _names(job: Job, table: Table) -> list[str]:
    """Returns the names of the three columns, in the order of `REVIEWED`."""
    as_name = job.spec.answer_column if job.spec else None
    for number in range(len(table.columns), 0, -1):
        kind_of = column_names(REVIEWED, as_name, number)
        if kind_of.keys() <= set(table.columns):
            name_of = {kind: name for name, kind in kind_of.items()}
            return [name_of[kind] for kind in REVIEWED]
    raise _no_review_sheet(job, table.input)


def _no_review_sheet(job: Job, path: object) -> Refused:
    as_name = job.spec.answer_column if job.spec else None
    return Refused(
        f"{path}: this is not a review sheet of this job: it needs the columns "
        f"{', '.join(column_names(REVIEWED, as_name))}. To write one: "
        f"{job.command('export', '--review', 'review.xlsx')}"
    )


def _refused(path: Path, word: str, problems: dict[str, list[int]]) -> Refused:
    said = []
    for problem, places in problems.items():
        first = ", ".join(map(str, places[:_NAMED]))
        more = f" and {len(places) - _NAMED} more" if len(places) > _NAMED else ""
        end = "" if problem.endswith("?") else "."
        said.append(f"{word[:1].upper()}{word[1:]} {first}{more}: {problem}{end}")
    return Refused(f"{path}: the runner cannot use this review sheet. {' '.join(said[:_NAMED])}")


class _Wrong(Exception):
    """A line cannot be used. The message says why."""


@dataclass
class _Sheet:
    job: Job
    table: Table
    places: list[int]
    read: Read
    reviews: Reviews
    problems: dict[str, list[int]] = field(default_factory=dict)
    lines: int = 0

    def actions(self) -> list[_Action]:
        """Returns the decision about each answer that the sheet decides about."""
        found: dict[int, _Action] = {}
        for line in self._lines():
            self.lines += 1
            try:
                action = self._action(line)
            except _Wrong as error:
                self._problem(str(error), line)
                continue
            if action is None:
                continue
            before = found.setdefault(action.answer.attempt_id, action)
            if before[1:] != action[1:]:
                place = f"{self.table.place_word} {before.place}"
                self._problem(f"another decision than {place} about one answer", line)
        return list(found.values())

    def check_answers(self, actions: list[_Action]) -> None:
        """Checks that each answer is in the folder, is as the sheet showed it, and is the last."""
        by_attempt = {action.answer.attempt_id: action for action in actions}
        last = self.read(queries.current_answers(by_attempt))
        digests = self._digests([attempt for attempt in by_attempt if attempt in last])
        for attempt, action in by_attempt.items():
            if attempt not in last:
                self._problem("the run folder has no such answer", action)
            elif digests[attempt] != action.answer.digest or not (
                last[attempt] or attempt in self.reviews.protected
            ):
                self._problem("the answer has changed since the sheet was written", action)

    def _digests(self, attempts: list[int]) -> dict[int, str]:
        """Returns the digests of the paid texts of these attempts."""
        if not attempts:
            return {}
        which = partial(queries.answers_by_attempt, attempts=attempts)
        answers = find_answers(self.job.folder, self.read, len(attempts), which=which)
        found: dict[int, str] = {}
        for stretch in answers.stretches(Path(tempfile.gettempdir())):
            texts = stretch.answers[ANSWER].to_pylist()
            for number, text in zip(stretch.rows.tolist(), texts, strict=True):
                found[attempts[number - 1]] = digest_of(text)
        return found

    def _lines(self) -> Iterator[_Line]:
        answer, word, edit = self.places
        for batch in self.table.batches():
            for place, *cells in zip(
                batch.places,
                batch.columns[answer],
                batch.columns[word],
                batch.columns[edit],
                strict=True,
            ):
                yield _Line(place, *cells)

    def _action(self, line: _Line) -> _Action | None:
        word = line.word.strip().lower()
        if not line.answer.strip():
            if word or line.edit.strip():
                raise _Wrong("a decision about a row without an answer")
            return None
        answer = parsed_answer_id(line.answer)
        if answer is None:
            raise _Wrong("the text in the column of the answers is not as it was written")
        if answer.folder_id != self.reviews.folder_id:
            raise _Wrong("the answer belongs to another run folder")
        now = self.reviews.standing.get(answer.attempt_id, Standing(answer.digest))
        then = self.reviews.at(answer.attempt_id, answer.last)
        changed_word = word not in ("", str(then.decision))
        changed_edit = self._is_other_text(line.edit, then)
        if not changed_word and not changed_edit:
            return None
        wanted = Decision.EDITED if changed_edit and word == Decision.APPROVED else word
        same_text = not (changed_edit and self._is_other_text(line.edit, now))
        if same_text and wanted in ("", now.decision or Decision.RESET):
            return None  # the sheet was read before
        if now.last != answer.last:
            raise _Wrong("a newer decision about this answer than the sheet knows")
        return self._decided(line, answer, word if changed_word else "", changed_edit)

    def _decided(self, line: _Line, answer: AnswerId, word: str, edited: bool) -> _Action | None:
        if word and word not in list(Decision):
            hint = nearest(word, Decision)
            raise _Wrong(f'"{shortened(word)}" is not one of {", ".join(Decision)}.{hint}')
        if edited and word in (Decision.REJECTED, Decision.RESET):
            raise _Wrong(f"{word} and an edit at once")
        if edited and len(line.edit) > MAX_EDIT_CHARACTERS:
            raise _Wrong(f"an edit of more than {MAX_EDIT_CHARACTERS:,} characters")
        if edited:
            return _Action(line.place, answer, Decision.EDITED, line.edit)
        if word == Decision.EDITED:
            raise _Wrong("edited, but without a text in the column of the edits")
        return _Action(line.place, answer, Decision(word), None)

    def _is_other_text(self, edit: str, then: Standing) -> bool:
        """Whether the cell has another text than the export wrote. A long text is in a file next to
        a workbook, and a cell that looks like a formula got a ' in a text file. Nobody sees that a
        cell has only spaces, so it counts as empty."""
        if not edit.strip() or _ASIDE.fullmatch(edit):
            return False
        if None not in then.edits:
            return True
        written = self.reviews.texts([then.edits[None]])[then.edits[None]]
        same = {written, unformulaic(written, self.table.delimiter)}
        return _plain(edit) not in map(_plain, same)

    def _problem(self, problem: str, line: _Line | _Action) -> None:
        self.problems.setdefault(problem, []).append(line.place)


def _plain(text: str) -> str:
    """A text with the line ends that every program keeps."""
    return text.replace("\r\n", "\n").replace("\r", "\n")
