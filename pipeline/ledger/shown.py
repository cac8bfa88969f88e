"""The shown state of a row that is in flight. Pure.

The ledger has one state that users do not see: a row is *sending* until its attempt has an outcome.
While a run is active it waits for that outcome, and the row is shown as pending. Without an active
run the row is shown as ambiguous, as the next run will record it.
"""

from __future__ import annotations

from pipeline.core.model import ErrorCode, State
from pipeline.ledger.queries import Ending, Unfinished

_CUT_OFF = "The runner ended before the answer came."


def shown_state(state: State, in_use: bool) -> State:
    """Returns the shown state for `state` of the ledger. `in_use`: a run is active."""
    if state is not State.SENDING:
        return state
    return State.PENDING if in_use else State.AMBIGUOUS


def shown_row(row: Unfinished, in_use: bool) -> Unfinished | None:
    """Returns a row as it is shown; None while a run waits for its response."""
    if row.state is not State.SENDING:
        return row
    if in_use:
        return None
    return row._replace(state=State.AMBIGUOUS, code=ErrorCode.INTERRUPTED, message=_CUT_OFF)


def shown_ending(ending: Ending, in_use: bool) -> Ending:
    if ending.state is not State.SENDING:
        return ending
    if in_use:
        return Ending(State.PENDING)
    return Ending(State.AMBIGUOUS, ErrorCode.INTERRUPTED, maybe_paid=True)
