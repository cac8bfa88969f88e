"""What only the user can allow: whatever may be paid twice."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from pipeline import records
from pipeline.errors import Refused
from pipeline.inputs.checks import Skip
from pipeline.job import Job
from pipeline.model import State
from pipeline.pins import refuse_repaying
from pipeline.plan import Plan, Selection
from pipeline.prepare import Prepared
from pipeline.records import Read
from pipeline.spec import nearest
from pipeline.wording import counted, listed

Ask = Callable[[str], bool]


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
    if not consent.accept_changes:
        refuse_repaying(job.to_run(), prepared.pins, prepared.repaid)
    if selection.again:
        _permit_again(job, prepared.plan, read)
    question = _worst_case(prepared.plan)
    if question is None or consent.yes:
        return
    if consent.ask is None:
        raise Refused(f"{question} Say --yes to mean it. Nothing was sent.")
    if not consent.ask(question):
        raise Refused("Not confirmed. Nothing was sent.")


def notices(job: Job, prepared: Prepared, selection: Selection) -> Iterator[str]:
    """What a person should know of a plan that needs no consent."""
    plan = prepared.plan
    left = plan.new - int(plan.send.sum())
    if prepared.pins.changed and prepared.repaid and left > 0:
        yield (
            "The changed spec is accepted for the whole sheet: the next run sends and pays for "
            f"{counted(left, 'more row')}."
        )
    yield from _left_out(plan, selection)
    failed = prepared.plan.risky[State.FAILED]
    if failed:
        yield (
            f"Of the failed rows that are sent again, {len(failed)} may have been paid: "
            f"{listed(failed)}."
        )
    elsewhere = prepared.snapshot.skips[Skip.AMBIGUOUS]
    if elsewhere:
        yield (
            f"{counted(elsewhere, 'row')} skipped, as the sheet itself says that another run left "
            f"them ambiguous. To send them too: {job.command('resume', '--ambiguous')}"
        )


def _left_out(plan: Plan, selection: Selection) -> Iterator[str]:
    """Why a selection may send less than one thinks."""
    for code in sorted((selection.only or frozenset()) | (selection.excluded or frozenset())):
        if code not in plan.codes:
            codes = ", ".join(sorted(plan.codes)) or "none"
            yield f'No row has the error code "{code}".{nearest(code, plan.codes)} Here: {codes}.'
    if plan.ambiguous_left and State.FAILED in selection.states:
        yield (
            f"{counted(plan.ambiguous_left, 'ambiguous row')} left out; --ambiguous sends such "
            "rows too."
        )


def _permit_again(job: Job, plan: Plan, read: Read) -> None:
    marked = read(records.open_marks)
    if marked:
        raise Refused(
            f"{counted(marked, 'row')} marked by the last --again and not answered yet. Finish "
            f"that first: {job.command('run')}. Nothing was sent."
        )
    if not plan.to_send:
        raise Refused(
            "None of the chosen rows has an answer, so there is none to ask for again. Failed "
            f"rows are sent by: {job.command('resume')}. Nothing was sent."
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
            f"{counted(len(ambiguous), 'ambiguous row')} ({listed(ambiguous)}) would be sent "
            "again, and may have been paid already: at worst paid twice for "
            f"{counted(len(ambiguous), 'request')}."
        )
    return None
