"""The plan: the rows to send, and what the sheet looks like beside the ledger. Pure."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from pipeline.core.model import Alike, Held, State
from pipeline.inputs.identity import Duplicates
from pipeline.planning.selection import Selection


@dataclass(slots=True)
class Plan:
    """The rows to send, and what the sheet looks like beside the ledger.

    `send`, `sent_unpaid` and `covered` hold one flag a row of the sheet: what is sent, what of that
    has never been paid, and what the exit code speaks of. `named` are the rows that the selection
    names, `asked` the same where naming a duplicate names the first of its equal rows; `weights`
    says for how many rows each stands.
    `counts` are all rows, `kept` those that are not sent; `codes` counts the codes of those that
    are not ok. `to_send`, `new` (never attempted) and `new_to_send` count requests,
    `ambiguous_left` the rows that are covered and not sent, `given_up_left` names those that the
    selection would send had they not been given up. `chosen_ids` are ledger rows of the chosen ok
    ones; `risky` are the rows to be sent that may have been paid already, by their state; those
    that the user took as failed are ambiguous there.
    """

    send: npt.NDArray[np.bool_]
    covered: npt.NDArray[np.bool_]
    named: npt.NDArray[np.bool_]
    asked: npt.NDArray[np.bool_]
    weights: npt.NDArray[np.int32]
    sent_unpaid: npt.NDArray[np.bool_]
    counts: Counter[State] = field(default_factory=Counter)
    kept: Counter[State] = field(default_factory=Counter)
    to_send: int = 0
    new: int = 0
    new_to_send: int = 0
    ambiguous_left: int = 0
    given_up_left: list[int] = field(default_factory=list)
    codes: Counter[str] = field(default_factory=Counter)
    chosen_ids: list[int] = field(default_factory=list)
    risky: dict[State, list[int]] = field(default_factory=lambda: defaultdict(list))


def empty_plan(
    rows: int,
    selection: Selection,
    duplicates: Duplicates | None = None,
    numbers: npt.NDArray[np.int64] | None = None,
) -> Plan:
    """A plan for a sheet of `rows` rows that sends none of them. `numbers` are those that are not
    skipped, by default all."""
    named = selection.named(rows, numbers)
    asked, weights = named.copy(), np.ones(rows, dtype=np.int32)
    if duplicates is not None:
        asked[duplicates.firsts[named[duplicates.numbers - 1]] - 1] = True
        np.add.at(weights, duplicates.firsts - 1, 1)
    flags = np.zeros(rows, dtype=np.bool_)
    return Plan(flags, flags.copy(), named, asked, weights, flags.copy())


def add_batch(
    plan: Plan, numbers: npt.NDArray[np.int64], known: Iterable[Alike], selection: Selection
) -> None:
    """Adds the sheet rows `numbers` to `plan`, duplicates left out; those that are not `known`
    are new."""
    new = numbers
    for alike in known:
        held = alike.held
        new = np.setdiff1d(new, alike.numbers, assume_unique=True)
        chosen = _add_alike(plan, alike.numbers, held, selection)
        if held.state is State.OK:
            plan.chosen_ids += alike.row_ids[chosen].tolist()
        if held.maybe_paid and chosen.any():
            state = State.AMBIGUOUS if held.settled else held.state
            plan.risky[state] += alike.numbers[chosen].tolist()
    _add_alike(plan, new, None, selection)


def finish_plan(plan: Plan, duplicates: Duplicates | None = None) -> None:
    """Gives each duplicate what became of the row that is sent for it."""
    if duplicates is not None:
        plan.covered[duplicates.numbers - 1] = plan.covered[duplicates.firsts - 1]
    plan.covered &= plan.named


def _add_alike(
    plan: Plan, numbers: npt.NDArray[np.int64], found: Held | None, selection: Selection
) -> npt.NDArray[np.bool_]:
    """Adds rows of which the same is held. Which of them are sent."""
    state, code = (found.state, found.code) if found else (State.PENDING, None)
    places = numbers - 1
    weights, asked = plan.weights[places], plan.asked[places]
    chosen: npt.NDArray[np.bool_] = asked & selection.chooses(found)
    if not len(numbers):
        return chosen
    plan.counts[state] += int(weights.sum())
    if code and state is not State.OK:
        plan.codes[code] += int(weights.sum())
    if found is None:
        plan.new += len(places)
        plan.new_to_send += int(chosen.sum())
    if found is None or not (found.maybe_paid or found.answered):
        plan.sent_unpaid[places[chosen]] = True
    plan.covered[places] = selection.covers(code)
    plan.send[places[chosen]] = True
    plan.to_send += int(chosen.sum())
    left = int(weights[~chosen].sum())
    if left:
        plan.kept[state] += left
    if found is not None and found.given_up and selection.regards(found):
        plan.given_up_left += numbers[asked & ~chosen].tolist()
    if state is State.AMBIGUOUS and selection.covers(code):
        plan.ambiguous_left += int(weights[asked & ~chosen].sum())
    return chosen
