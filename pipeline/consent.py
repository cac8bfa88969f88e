"""What only the user can allow: whatever may be paid twice."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from pipeline import records
from pipeline.errors import Refused
from pipeline.inputs.checks import Skip
from pipeline.job import Job
from pipeline.model import API_CODES, ErrorCode, State
from pipeline.plan import Plan, Selection
from pipeline.prepare import Prepared
from pipeline.records import Read
from pipeline.repaid import refuse_repaying
from pipeline.wording import counted, listed, nearest

Ask = Callable[[str], bool]

_HTTP_CODE = re.compile(r"http_\d{3}")
# Row numbers in a command to paste.
_PASTED = 10


@dataclass(frozen=True, slots=True)
class Consent:
    """What the user agreed to beforehand, and how to ask for the rest.

    `accept_changes`: a changed spec may pay for finished rows again. `yes`: ambiguous rows and
    answered ones may be sent again. Without it `ask` is asked, and where there is nobody to ask
    the run is refused.
    """

    accept_changes: bool = False
    yes: bool = False
    ask: Ask | None = None


def permit(
    job: Job, prepared: Prepared, selection: Selection, read: Read, consent: Consent
) -> None:
    """Returns if the user allows what is planned.

    Raises:
        Refused: when not. Nothing was sent.
    """
    _refuse_wrong_codes(job, prepared.plan, selection, read)
    if not consent.accept_changes:
        refuse_repaying(job.to_run(), prepared.repaid)
    if selection.again:
        _permit_again(job, prepared.plan, read)
    question = _worst_case(prepared.plan)
    if question is None or consent.yes:
        return
    if consent.ask is None:
        raise Refused(f"{question} Say --yes to mean it. Nothing was sent.")
    if not consent.ask(question):
        raise Refused("Not confirmed. Nothing was sent.")


def refuse_unknown_codes(codes: Iterable[str], here: Iterable[str], read: Read) -> None:
    """Raises for a code that no row can have: a typo would quietly choose no row at all.

    `here` are the codes that rows have now. One that they once had, or that is known to come, is a
    code: a command that was pasted a second time has nothing left to do, and that is no mistake.

    Raises:
        Refused: with the codes that there are.
    """
    here = sorted(here)
    known = {*here, *ErrorCode, *API_CODES, *read(records.codes_seen)}
    for code in sorted(codes):
        if code not in known and not _HTTP_CODE.fullmatch(code):
            shown = f"The codes here are: {', '.join(here)}." if here else "No row has one here."
            raise Refused(
                f'There is no error code "{code}".{nearest(code, known)} {shown} Nothing was sent.'
            )


def _refuse_wrong_codes(job: Job, plan: Plan, selection: Selection, read: Read) -> None:
    if selection.only is None and selection.excluded is None:
        return
    refuse_unknown_codes(_named(selection), plan.codes, read)
    if read(records.last_run) is None:
        raise Refused(
            f"{job.folder.path}: no run yet, so no row has an error code. Nothing was sent. Start "
            f"it with: {job.command('run')}"
        )


def _named(selection: Selection) -> frozenset[str]:
    return (selection.only or frozenset()) | (selection.excluded or frozenset())


def notices(job: Job, prepared: Prepared, selection: Selection) -> Iterator[str]:
    """What a person should know of a plan that needs no consent."""
    plan = prepared.plan
    if prepared.repaid.requests:
        rows = counted(prepared.repaid.requests, "finished row")
        yield f"Paying again for {rows}, as --accept-changes allows."
    yield from _left_out(job, plan, selection)
    if State.FAILED in selection.states and plan.to_send and plan.new_to_send == plan.to_send:
        yield "None of these rows was sent before: `resume` sends them as `run` does."
    failed = prepared.plan.risky[State.FAILED]
    if failed:
        yield (
            f"Of the failed rows that are sent again, {len(failed)} may have been paid: "
            f"{listed(sorted(failed))}."
        )
    elsewhere = prepared.snapshot.skips[Skip.AMBIGUOUS]
    if elsewhere:
        yield (
            f"{counted(elsewhere, 'row')} skipped, as the sheet itself says that another run left "
            f"them ambiguous. To send them too: {job.command('resume', '--ambiguous')}"
        )


def _left_out(job: Job, plan: Plan, selection: Selection) -> Iterator[str]:
    """Why a selection may send less than one thinks."""
    for code in sorted(_named(selection)):
        if code not in plan.codes:
            here = f"The codes here are: {', '.join(sorted(plan.codes))}." if plan.codes else ""
            yield f'No row has the error code "{code}" now. {here or "None has any."}'
    if plan.given_up_left:
        number = len(plan.given_up_left)
        first = ",".join(map(str, plan.given_up_left[:_PASTED]))
        yield (
            f"{counted(number, 'row')} left out that `settle` gave up: "
            f"{listed(plan.given_up_left)}. Only --rows sends such rows: "
            f"{job.command('resume', '--rows', first)}"
            f"{'' if number <= _PASTED else ' and so on'}"
        )
    if plan.ambiguous_left and State.FAILED in selection.states:
        yield (
            f"{counted(plan.ambiguous_left, 'ambiguous row')} left out; --ambiguous sends such "
            "rows too."
        )


def _permit_again(job: Job, plan: Plan, read: Read) -> None:
    marked = read(records.open_marks)
    if marked:
        raise Refused(
            f"{counted(marked, 'row')} marked by the last --again and not answered yet. Nothing "
            f"was sent. Finish that first: {job.command('run')}"
        )
    if not plan.to_send:
        raise Refused(
            "None of the chosen rows has an answer, so there is none to ask for again. Nothing "
            f"was sent. Failed rows are sent by: {job.command('resume')}"
        )


def _worst_case(plan: Plan) -> str | None:
    """What a person has to agree to, if anything."""
    again, ambiguous = plan.risky[State.OK], plan.risky[State.AMBIGUOUS]
    if again:
        return (
            f"{counted(len(again), 'row')} with an answer ({listed(again)}) would be sent and paid "
            f"again: at most {counted(len(again), 'request')}. The present answers stay in the "
            "results."
        )
    if ambiguous:
        return (
            f"{counted(len(ambiguous), 'row')} ({listed(sorted(ambiguous))}) may have been paid "
            "already and would be sent again: at worst paid twice for "
            f"{counted(len(ambiguous), 'request')}."
        )
    return None
