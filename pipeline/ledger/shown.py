"""What is shown of a row that a run has on its way. Pure.

The ledger has a state more than anybody is shown: a row is *sending* until its attempt has an
outcome. While a run is at work it waits for that answer, and the row is pending. Without a run
nobody waits, and the row is ambiguous, as the next run will write down.
"""

from __future__ import annotations

from pipeline.core.model import ErrorCode, State
from pipeline.ledger.queries import Ending, Unfinished

_CUT_OFF = "The runner ended before the answer came."


def shown_state(state: State, in_use: bool) -> State:
    """The state that is shown of a row which the ledger holds at `state`."""
    if state is not State.SENDING:
        return state
    return State.PENDING if in_use else State.AMBIGUOUS


def shown_row(row: Unfinished, in_use: bool) -> Unfinished | None:
    """A row as it is shown, with how it ended; None while its answer is waited for."""
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
