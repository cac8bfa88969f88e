"""The plan: the rows to send, and the sheet compared with the ledger. Pure."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from pipeline.core.model import Alike, Held, State
from pipeline.inputs.identity import Duplicates
from pipeline.planning.selection import Flagged, Selection


@dataclass(slots=True)
class Plan:
    """The rows to send, and the sheet compared with the ledger.

    These have one value per row of the sheet:

    * `send`: whether the row is sent.
    * `sent_unpaid`: whether it is sent and was never paid.
    * `covered`: whether it affects the exit code.
    * `named`: whether the selection names it.
    * `asked`: the same, except that naming a duplicate names the first of its equal rows.
    * `new_rows`: whether it was never attempted.
    * `weights`: how many rows its request answers.

    `counts` counts all rows by state, `kept` those that are not sent, and `codes` the error codes
    of rows that are not ok. `to_send`, `new` (never attempted) and `new_to_send` count requests.
    `ambiguous_left` counts ambiguous rows that are covered and not sent. `given_up_left` lists the
    rows that the selection would send if the user had not given them up. `chosen_ids` are the
    ledger's rows of the chosen ok rows. `tried_left` lists the rows that are left out because the
    user asked for their last version because of the same flag. `reviewed_left` lists the rows that
    the selection would send if their answers were not approved or edited. `risky` lists, by state,
    the rows to send that may have been paid already. A row that the user settled as failed is
    ambiguous there.
    """

    send: npt.NDArray[np.bool_]
    covered: npt.NDArray[np.bool_]
    named: npt.NDArray[np.bool_]
    asked: npt.NDArray[np.bool_]
    weights: npt.NDArray[np.int32]
    sent_unpaid: npt.NDArray[np.bool_]
    new_rows: npt.NDArray[np.bool_]
    counts: Counter[State] = field(default_factory=Counter)
    kept: Counter[State] = field(default_factory=Counter)
    to_send: int = 0
    new: int = 0
    new_to_send: int = 0
    ambiguous_left: int = 0
    given_up_left: list[int] = field(default_factory=list)
    codes: Counter[str] = field(default_factory=Counter)
    chosen_ids: list[int] = field(default_factory=list)
    tried_left: list[int] = field(default_factory=list)
    reviewed_left: list[int] = field(default_factory=list)
    risky: dict[State, list[int]] = field(default_factory=lambda: defaultdict(list))

    def paid_at_most(self, budget: int | None) -> int:
        """The most requests that can be paid, if `budget` more are allowed."""
        return self.to_send if budget is None else min(self.to_send, budget)


def empty_plan(
    rows: int,
    selection: Selection,
    duplicates: Duplicates | None = None,
    numbers: npt.NDArray[np.int64] | None = None,
) -> Plan:
    """Returns a plan for a sheet of `rows` rows that sends none of them. `numbers` are the rows
    that are not skipped, by default all."""
    named = selection.named(rows, numbers)
    asked, weights = named.copy(), np.ones(rows, dtype=np.int32)
    if duplicates is not None:
        asked[duplicates.firsts[named[duplicates.numbers - 1]] - 1] = True
        np.add.at(weights, duplicates.firsts - 1, 1)
    flags = np.zeros(rows, dtype=np.bool_)
    return Plan(flags, flags.copy(), named, asked, weights, flags.copy(), flags.copy())


def add_batch(
    plan: Plan,
    numbers: npt.NDArray[np.int64],
    known: Iterable[Alike],
    selection: Selection,
    flagged: Flagged | None = None,
) -> None:
    """Adds the sheet rows `numbers`, which contain no duplicates, to `plan`. Rows that are not
    `known` are new. `flagged` are the rows that the flags of `selection` choose."""
    new = numbers
    for alike in known:
        held = alike.held
        new = np.setdiff1d(new, alike.numbers, assume_unique=True)
        among = flagged is None or _with_flags(plan, alike, selection, flagged)
        chosen = _add_alike(plan, alike.numbers, held, selection, among)
        if held.state is State.OK:
            plan.chosen_ids += alike.row_ids[chosen].tolist()
        if held.maybe_paid and chosen.any():
            state = State.AMBIGUOUS if held.settled else held.state
            plan.risky[state] += alike.numbers[chosen].tolist()
    _add_alike(plan, new, None, selection, among=flagged is None)


def keep_rows(plan: Plan, numbers: Iterable[int]) -> None:
    """Takes new rows out of the plan, and counts them as ok. They keep the answer of an earlier
    text."""
    for number in numbers:
        place, weight = number - 1, int(plan.weights[number - 1])
        plan.counts[State.PENDING] -= weight
        plan.counts[State.OK] += weight
        plan.kept[State.OK] += weight
        plan.new -= 1
        if plan.send[place]:
            plan.send[place] = plan.sent_unpaid[place] = False
            plan.to_send -= 1
            plan.new_to_send -= 1
        else:
            plan.kept[State.PENDING] -= weight


def finish_plan(plan: Plan, duplicates: Duplicates | None = None) -> None:
    """Gives each duplicate the `covered` flag of the row that is sent for it, and drops the flag
    of rows that the selection does not name."""
    if duplicates is not None:
        plan.covered[duplicates.numbers - 1] = plan.covered[duplicates.firsts - 1]
    plan.covered &= plan.named


def _with_flags(
    plan: Plan, alike: Alike, selection: Selection, flagged: Flagged
) -> npt.NDArray[np.bool_]:
    """Returns which of the rows the flags of `selection` choose.

    A row whose last version has the flag that it was asked for is chosen only by its number:
    otherwise each repetition of the command would pay for it.
    """
    if not selection.chooses(alike.held):
        return np.zeros(len(alike.numbers), dtype=np.bool_)
    row_ids = alike.row_ids.tolist()
    among = np.array([row_id in flagged.reasons for row_id in row_ids], dtype=np.bool_)
    if selection.rows is None:
        tried = np.array([row_id in flagged.tried for row_id in row_ids], dtype=np.bool_)
        plan.tried_left += alike.numbers[tried & plan.asked[alike.numbers - 1]].tolist()
        among &= ~tried
    return among


def _add_alike(
    plan: Plan,
    numbers: npt.NDArray[np.int64],
    found: Held | None,
    selection: Selection,
    among: npt.NDArray[np.bool_] | bool,
) -> npt.NDArray[np.bool_]:
    """Adds rows that have the same state in the ledger. Returns which of them are sent.

    Rows that are not `among` those that the flags choose are not sent, and do not affect the exit
    code.
    """
    state, code = (found.state, found.code) if found else (State.PENDING, None)
    places = numbers - 1
    weights, asked = plan.weights[places], plan.asked[places]
    chosen: npt.NDArray[np.bool_] = asked & selection.chooses(found) & among
    if not len(numbers):
        return chosen
    if found is not None and found.reviewed:
        plan.reviewed_left += numbers[chosen].tolist()
        chosen = np.zeros_like(chosen)
    plan.counts[state] += int(weights.sum())
    if code and state is not State.OK:
        plan.codes[code] += int(weights.sum())
    if found is None:
        plan.new_rows[places] = True
        plan.new += len(places)
        plan.new_to_send += int(chosen.sum())
    if found is None or not (found.maybe_paid or found.answered):
        plan.sent_unpaid[places[chosen]] = True
    plan.covered[places] = selection.covers(code) & np.asarray(among)
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
