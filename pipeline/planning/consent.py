"""Asks for what only the user can allow: requests that may be paid twice."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from types import NoneType

from pipeline.core.errors import Refused, refuse_other
from pipeline.core.model import API_CODES, ErrorCode, State
from pipeline.core.money import paid_word
from pipeline.core.wording import counted, few_words, nearest
from pipeline.inputs.checks import SKIP_NAMES, SKIP_REASONS, Skip
from pipeline.inputs.row_names import RowNames
from pipeline.inputs.unseen import unseen_lines
from pipeline.job.job import Job
from pipeline.ledger import queries
from pipeline.ledger.reader import Read
from pipeline.planning.again import ask_again, left_out_again, refuse_again
from pipeline.planning.changes import MovedRow
from pipeline.planning.plan import Plan
from pipeline.planning.plan_token import plan_token
from pipeline.planning.prepared import Prepared
from pipeline.planning.repaid import refuse_repaying
from pipeline.planning.reviewed import (
    kept_line,
    left_line,
    refuse_paying_reviewed,
    refuse_reviewed,
)
from pipeline.planning.selection import Selection

Ask = Callable[[str], bool]

_HTTP_CODE = re.compile(r"http_\d{3}")
# The most row numbers in a command to paste.
_PASTED = 10
_NAMED = 5
_YES, _ACCEPT = "--yes", "--accept-changes"


@dataclass(frozen=True, slots=True)
class Consent:
    """What the user agreed to in advance, and how to ask about the rest.

    `accept_changes` allows the run to pay again for finished rows that a change made new. `yes`
    allows all other requests that may be paid twice. `plan` is the token of a plan that `check`
    showed: the run carries out exactly that plan. Without them, `ask` gets each question and
    returns whether the user agrees. If `ask` is None, the run is refused. `ask` also gets a
    question before the first paid run of a folder that no limit covers; without it, that run
    begins.
    """

    accept_changes: bool = False
    yes: bool = False
    ask: Ask | None = None
    plan: str | None = None

    def __post_init__(self) -> None:
        # Any text is true, so `yes="no"` would allow to pay twice.
        refuse_other(bool, "True or False", accept_changes=self.accept_changes, yes=self.yes)
        refuse_other((str, NoneType), "a token of `check`, or None", plan=self.plan)


@dataclass(frozen=True, slots=True)
class Question:
    """A question about requests that may be paid twice, and the option that allows them in
    advance."""

    text: str
    option: str


def permit(
    job: Job, prepared: Prepared, selection: Selection, read: Read, consent: Consent
) -> str | None:
    """Returns if the user allows the plan.

    The result is the plan's token if the plan must not be carried out twice, else None.

    Raises:
        Refused: if the user does not allow it. Nothing was sent.
    """
    if consent.plan is not None:
        _refuse_spent(job, read, consent.plan)
    refuse_impossible(job, prepared, selection, read)
    if consent.accept_changes or consent.plan is not None:
        refuse_paying_reviewed(job, prepared, read, accepting=consent.accept_changes)
    found = questions(job, prepared)
    if consent.plan is not None:
        if consent.plan != plan_of(job, prepared, selection, read):
            raise _other_plan(job)
        return consent.plan if found or prepared.repaid.requests else None
    if not consent.accept_changes:
        refuse_repaying(job.to_run(), prepared.repaid, rehearsal=job.sandbox)
    for question in found:
        if consent.accept_changes if question.option == _ACCEPT else consent.yes:
            continue
        if consent.ask is None:
            raise Refused(f"{question.text} Add {question.option} to confirm.")
        if not consent.ask(question.text):
            raise Refused("You did not confirm.")
    if consent.ask is not None and not consent.yes and not found:
        first = _first_bill(job, prepared, selection, read)
        if first is not None and not consent.ask(first):
            raise Refused("You did not confirm.")
    return None


def _first_bill(job: Job, prepared: Prepared, selection: Selection, read: Read) -> str | None:
    """What to ask before the first requests of a run folder that may be billed, if nothing limits
    their number. It pays nothing twice, so without a person there is no question."""
    number = prepared.plan.to_send
    if job.sandbox or not number or selection.limit is not None or selection.rows is not None:
        return None
    _, paid_max = read(queries.paid)
    if job.to_run().budget(paid_max) is not None or paid_max:
        return None
    return (
        f"This is the first paid run of {job.name}, and no `max_paid:` limits it. At most "
        f"{counted(number, 'request')} may be billed. To try a few rows first, use --limit 5."
    )


def questions(job: Job, prepared: Prepared) -> list[Question]:
    """Returns the questions to ask the user before the plan is carried out. A changed spec is not
    among them: `refuse_repaying` refuses it."""
    word = paid_word(job.sandbox)
    found = (
        _moved(prepared),
        _paid_elsewhere(prepared),
        _mass_change(prepared, word, job.of_frame),
        _again(prepared, word) or _twice(prepared, word),
    )
    return [question for question in found if question is not None]


def plan_of(job: Job, prepared: Prepared, selection: Selection, read: Read) -> str:
    """Returns the token with which `run --plan` carries out this plan."""
    asked = [question.text for question in questions(job, prepared)]
    return plan_token(job, prepared, selection, asked, read)


def refuse_impossible(job: Job, prepared: Prepared, selection: Selection, read: Read) -> None:
    """Raises for a selection that is impossible even if the user confirms it.

    Raises:
        Refused: for error codes that no row can have, and for --again without rows to send again.
    """
    _refuse_wrong_codes(job, prepared.plan, selection, read)
    if selection.rows is not None:
        kept = [n for n in prepared.by_review.rows if prepared.plan.named[n - 1]]
        rows = sorted([*prepared.plan.reviewed_left, *kept])
        refuse_reviewed(job, rows, prepared.names, "a command that names such rows")
    if selection.again:
        refuse_again(job, prepared, selection, read)


def _refuse_spent(job: Job, read: Read, token: str) -> None:
    run_id = read(queries.carried_out(token))
    if run_id is not None:
        raise Refused(
            f"The run {run_id} has already carried out this plan. Nothing was sent. To make a new "
            f"plan: {job.command('check', '--json')}"
        )


def _other_plan(job: Job) -> Refused:
    return Refused(
        "This is no longer the plan that `check` showed: since then the sheet, the job file, the "
        "options or the run folder changed. Nothing was sent. To make a new plan, use the same "
        f"options with: {job.command('check', '--json')}"
    )


def refuse_unknown_codes(codes: Iterable[str], here: Iterable[str], read: Read) -> None:
    """Raises for a code that no row can have: a typo would silently choose no row.

    `here` are the codes that rows have now. Codes that rows had earlier, or that the runner and the
    API can give, are accepted too: a command that is pasted a second time has nothing left to do,
    and that is not a mistake.

    Raises:
        Refused: with the codes that rows have now.
    """
    here = sorted(here)
    known = {*here, *ErrorCode, *API_CODES, *read(queries.codes_seen)}
    for code in sorted(codes):
        if code not in known and not _HTTP_CODE.fullmatch(code):
            shown = f"The codes here are: {few_words(here)}." if here else "No row here has one."
            raise Refused(f'There is no error code "{code}".{nearest(code, known)} {shown}')


def _refuse_wrong_codes(job: Job, plan: Plan, selection: Selection, read: Read) -> None:
    if selection.only is None and selection.excluded is None:
        return
    refuse_unknown_codes(_named(selection), plan.codes, read)
    if read(queries.last_run) is None:
        raise Refused(
            f"{job.folder.path}: no run yet, so no row has an error code. Nothing was sent. Start "
            f"it with: {job.command('run')}"
        )


def _named(selection: Selection) -> frozenset[str]:
    return (selection.only or frozenset()) | (selection.excluded or frozenset())


def notices(job: Job, prepared: Prepared, selection: Selection) -> Iterator[str]:
    """Yields facts that the user should know about a plan and that need no consent."""
    # Without ids, because notices are logged, and the log has no texts of the sheet.
    plan, names = prepared.plan, prepared.names.without_ids()
    if prepared.repaid.requests:
        rows = counted(prepared.repaid.requests, "finished row")
        yield f"Because of --accept-changes, {rows} will be {paid_word(job.sandbox)} again."
    if prepared.pins.before is None:
        yield from unseen_lines(prepared.snapshot.facts, job.to_run().hidden)
    yield from _skipped(prepared)
    if prepared.paid_source:
        yield paid_source_line(job.to_run().input.name)
    if prepared.stale:
        yield stale_line(prepared.stale, job.to_run().input.name, paid_word(job.sandbox))
    yield from _left_out(job, plan, selection, names)
    if plan.reviewed_left:
        yield left_line(sorted(plan.reviewed_left), names)
    if prepared.by_review.rows:
        yield kept_line(job, sorted(prepared.by_review.rows), names)
    if plan.tried_left:
        yield left_out_again(job, plan, selection, names)
    if State.FAILED in selection.states and plan.to_send and plan.new_to_send == plan.to_send:
        yield "None of these rows was sent before, so `resume` sends the same rows as `run`."
    failed = prepared.plan.risky[State.FAILED]
    if failed:
        yield failed_line(sorted(failed), names, paid_word(job.sandbox))
    elsewhere = prepared.snapshot.skips[Skip.AMBIGUOUS]
    if elsewhere:
        yield (
            f"{counted(elsewhere, 'row')} skipped: in the sheet, `_status` says that another run "
            "left them ambiguous, so they may have been paid. To send them too: "
            f"{job.command('resume', '--ambiguous')}"
        )


def failed_line(rows: list[int], names: RowNames, paid: str) -> str:
    """Says which failed rows to send again may have been paid."""
    return (
        f"{len(rows)} of the failed rows to send again may have been {paid} already: "
        f"{names.rows(rows)}."
    )


def paid_source_line(source: str) -> str:
    """Says that a rehearsal reads paid answers."""
    return (
        f"There is no rehearsal of {source}, so this one reads its paid answers. It pays nothing."
    )


def stale_line(stale: int, source: str, paid: str) -> str:
    """Says how many rows have a paid answer to an earlier text of their source."""
    their, are = ("its", "is") if stale == 1 else ("their", "are")
    return (
        f"{counted(stale, 'finished row')} {are} stale: {their} text in {source} is another one "
        f"now. A run sends such a row like an edited one, and it is {paid}."
    )


def _skipped(prepared: Prepared) -> Iterator[str]:
    """Yields how many rows the first run skips, and why. For ambiguous rows, `notices` says more
    in each run."""
    rows = prepared.skips.total() - prepared.skips[Skip.AMBIGUOUS]
    if rows and prepared.pins.before is None:
        reasons = [
            f"{prepared.skips[reason]} because {SKIP_REASONS[name]}"
            for reason, name in SKIP_NAMES.items()
            if prepared.skips[reason] and reason is not Skip.AMBIGUOUS
        ]
        yield f"{counted(rows, 'row')} skipped: {'; '.join(reasons)}."


def _left_out(job: Job, plan: Plan, selection: Selection, names: RowNames) -> Iterator[str]:
    """Yields reasons why a selection may send fewer rows than the user expects."""
    for code in sorted(_named(selection)):
        if code not in plan.codes:
            here = f"The codes here are: {', '.join(sorted(plan.codes))}." if plan.codes else ""
            yield f'No row has the error code "{code}" now. {here or "No row has an error code."}'
    if plan.given_up_left:
        number = len(plan.given_up_left)
        first = ",".join(map(str, plan.given_up_left[:_PASTED]))
        yield (
            f"{counted(number, 'row')} left out that you gave up with `settle`: "
            f"{names.rows(sorted(plan.given_up_left))}. To send them, name them with --rows: "
            f"{job.command('resume', '--rows', first)}"
            f"{'' if number <= _PASTED else ' and so on'}"
        )
    if plan.ambiguous_left and State.FAILED in selection.states:
        yield (
            f"{counted(plan.ambiguous_left, 'ambiguous row')} left out, which may have been paid. "
            "To send them too, add --ambiguous."
        )


def _again(prepared: Prepared, paid: str) -> Question | None:
    text = ask_again(prepared, paid)
    return None if text is None else Question(text, _YES)


def _twice(prepared: Prepared, paid: str) -> Question | None:
    risky, names = prepared.plan.risky, prepared.names
    ambiguous = risky[State.AMBIGUOUS]
    if ambiguous:
        twice = sorted({*ambiguous, *risky[State.FAILED]})
        return Question(
            f"{counted(len(twice), 'row')} may have been {paid} already and would be sent again: "
            f"{names.rows(twice)}. At worst, {counted(len(twice), 'request')} would be {paid} "
            "twice.",
            _YES,
        )
    return None


def _moved(prepared: Prepared) -> Question | None:
    moved = prepared.moved
    if not moved:
        return None
    words = moved_words(moved, prepared.names)
    return Question(f"{words} The run would send the rows as the sheet has them now.", _YES)


def moved_words(moved: Sequence[MovedRow], names: RowNames) -> str:
    """Returns which row numbers mean other rows than at the last run."""
    names = names.without_ids()  # before and now are the ids
    named = [f"{names.row(row.number)} was {row.before} and is {row.now}" for row in moved[:_NAMED]]
    more = [f"and {len(moved) - _NAMED} more"] if len(moved) > _NAMED else []
    return (
        "The sheet changed since the last run, and these row numbers now mean other rows: "
        f"{'; '.join([*named, *more])}."
    )


def _paid_elsewhere(prepared: Prepared) -> Question | None:
    if not prepared.neighbours.paid:
        return None
    first, *rest = prepared.neighbours.paid
    others = f" (and some in {counted(len(rest), 'other run folder')})" if rest else ""
    return Question(
        f"{first.rows} of these {counted(prepared.plan.to_send, 'row')} are already paid or maybe "
        f"paid in another run folder, {first.path}{others}. This run folder does not contain "
        "those answers, so you would pay for these rows again. To use the answers that "
        "you have, set `name:` or `output:` back to that folder.",
        _YES,
    )


def locked_line(folders: Sequence[object]) -> str:
    """Says that the runner could not ask these run folders whether they have paid for the rows."""
    return (
        f"Another program has locked the ledger of {few_words(map(str, folders))}. So the runner "
        "could not look whether these rows are already paid there. Close the file there to let "
        "the next command look."
    )


def _mass_change(prepared: Prepared, paid: str, of_frame: bool) -> Question | None:
    change = prepared.mass_change
    if change is None:
        return None
    same = "under the same id" if change.by_id else "in the same place"
    shown = "" if of_frame else " `pipeline check` shows the first requests."
    return Question(
        f"{change.changed} of {counted(change.finished, 'finished row')} have another text {same}, "
        f"so they count as new: {counted(prepared.plan.new_to_send, 'request')} would be {paid}. "
        f"Did a program rewrite the sheet?{shown}",
        _ACCEPT,
    )
