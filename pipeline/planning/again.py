"""The words for `run --again`: what it asks, what it leaves out, and when it is refused."""

from __future__ import annotations

from collections.abc import Iterable

from pipeline.core.errors import Refused
from pipeline.core.model import State
from pipeline.core.review import REJECTED
from pipeline.core.wording import counted, few_words, shortened
from pipeline.inputs.row_names import RowNames
from pipeline.job.job import Job
from pipeline.ledger import queries
from pipeline.ledger.reader import Read
from pipeline.ledger.reviews import parsed_answer_id
from pipeline.planning.plan import Plan
from pipeline.planning.prepared import Prepared
from pipeline.planning.selection import Flagged, Selection

# The most row numbers in a command to paste, and the most flags in a sentence.
_PASTED, _NAMED = 10, 5


def ask_again(prepared: Prepared, paid: str) -> str | None:
    """Returns the question before rows with an answer are sent again, None if there are none.
    `paid` is the word for paid."""
    rows, flagged = sorted(prepared.plan.risky[State.OK]), prepared.flagged
    if not rows:
        return None
    first = "" if flagged is None else _columns_first(flagged)
    which = "with an answer" if flagged is None else f"whose answer {_has(flagged.flags)}"
    left = len(prepared.plan.tried_left)
    more = f" {counted(left, 'row')} left out that got the same flag again." if left else ""
    reviewed = len(prepared.plan.reviewed_left)
    more += f" {counted(reviewed, 'reviewed row')} left out." if reviewed else ""
    return (
        f"{first}{counted(len(rows), 'row')} {which} would be sent and {paid} again: "
        f"{prepared.names.rows(rows)}. That is at most {counted(len(rows), 'request')}. The "
        f"answers that you have stay in the results.{more}"
    )


def left_out_again(job: Job, plan: Plan, selection: Selection, names: RowNames) -> str:
    """Returns which flagged rows are left out, and the commands to read and to send them."""
    rows = sorted(plan.tried_left)
    first = ",".join(map(str, rows[:_PASTED]))
    flags = [word for flag in sorted(selection.flags) for word in ("--again", flag)]
    return (
        f"{counted(len(rows), 'row')} left out: {names.rows(rows)}. You asked for the last version "
        "of each because of the same flag, and it has that flag again. To read the answers: "
        f"`{job.command('show', '--rows', first)}`. To send the rows anyway, name them with "
        f"--rows: {job.command('run', *flags, '--rows', first)}"
        f"{'' if len(rows) <= _PASTED else ' and so on'}"
    )


def refuse_again(job: Job, prepared: Prepared, selection: Selection, read: Read) -> None:
    """Raises if `--again` has nothing to send.

    Raises:
        Refused: also while rows of an earlier `--again` are not finished.
    """
    marked = read(queries.unsettled_reruns)
    if marked:
        raise Refused(
            f"The last --again is not finished: {counted(marked, 'row')} still without a new "
            f"answer. Nothing was sent. To finish it first: {job.command('run')}"
        )
    if prepared.plan.to_send:
        return
    if prepared.flagged is not None:
        raise Refused(_nothing_flagged(job, prepared, prepared.flagged, selection))
    if prepared.plan.reviewed_left:
        raise Refused(
            "Every chosen row with an answer is approved or edited, so none is sent again. Nothing "
            f"was sent. To see the reviews: {job.command('review')}"
        )
    ambiguous = prepared.plan.counts[State.AMBIGUOUS]
    more = f". To send ambiguous rows: {job.command('resume', '--ambiguous')}" if ambiguous else ""
    raise Refused(
        "None of the chosen rows is ok, and --again sends only rows that are. Nothing was sent. "
        f"To send failed rows: {job.command('resume')}{more}"
    )


def _nothing_flagged(job: Job, prepared: Prepared, flagged: Flagged, selection: Selection) -> str:
    if prepared.plan.tried_left:
        names = prepared.names
        return f"Nothing was sent. {left_out_again(job, prepared.plan, selection, names)}"
    flags = _listed(flagged.flags)
    if not flagged.reasons:
        return (
            f"No answer {_has(flagged.flags)} now. Nothing was sent. To see which flags there are: "
            f"{job.command('report')}"
        )
    return (
        f"{counted(len(flagged.reasons), 'answer')} with {flags} left out: the row is skipped, "
        "edited, failed, ambiguous, reviewed or no longer in the sheet, or --rows or --limit "
        "excludes it."
    )


def _columns_first(flagged: Flagged) -> str:
    """If most answers do not fit `columns:`, the job file is probably wrong and not the answers."""
    if 2 * flagged.computed <= flagged.answers:
        return ""
    return (
        "Changing `columns:` in the job file costs nothing, so check its paths and types first: "
        f"{flagged.computed} of {counted(flagged.answers, 'answer')} do not fit them. "
    )


def _has(flags: Iterable[str]) -> str:
    if all(map(parsed_answer_id, flags)):
        return "is one that you named"
    return "is rejected" if set(flags) == {REJECTED} else f"has {_listed(flags)}"


def _listed(flags: Iterable[str]) -> str:
    words = [f'"{shortened(flag)}"' for flag in sorted(flags)]
    if len(words) == 1:
        return f"the flag {words[0]}"
    return f"one of the flags {few_words(words, _NAMED)}"
