"""The rows of a job by how they ended, and the command that continues. Pure.

The closing line names one command or none. It is for pending rows first, then for rows that failed
without a bill, then for ambiguous rows (that command asks), and last for rows that need an edit. A
row that ended with the same code in two runs is not proposed again, because a third request rarely
succeeds. `report` has a command for each row that is not ok.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from pipeline.core.model import ErrorCode, NextStep, State
from pipeline.core.wording import CODES_SHOWN, counted
from pipeline.ledger.queries import Counts, Ending
from pipeline.ledger.shown import shown_ending
from pipeline.status.advice import edit_first


@dataclass(frozen=True, slots=True)
class Standing:
    """The rows of a sheet by how they ended, as users see them: no row is `sending`.

    ok + failed + ambiguous + pending + skipped = rows. `in_flight` counts the pending rows that
    were sent and have no response yet. `endings` leaves out rows that were never sent.
    """

    rows: int
    skipped: int
    in_flight: int
    in_use: bool
    endings: Counter[Ending]

    @property
    def states(self) -> Counter[State]:
        """The rows that are not skipped, by state."""
        states: Counter[State] = Counter()
        for ending, rows in self.endings.items():
            states[ending.state] += rows
        states[State.PENDING] = 0
        states[State.PENDING] = self.rows - self.skipped - states.total()
        return states

    @property
    def by_code(self) -> dict[str, int]:
        """The rows that are not ok and have a code, the most frequent code first."""
        codes: Counter[str] = Counter()
        for ending, rows in self.endings.items():
            if ending.code is not None and ending.state is not State.OK:
                codes[ending.code] += rows
        return dict(sorted(codes.items(), key=lambda found: (-found[1], found[0])))


def stand(counts: Counts, in_use: bool) -> Standing:
    """Sorts the rows of a ledger by how they ended. `in_use`: a run is active in its folder."""
    endings: Counter[Ending] = Counter()
    for ending, rows in counts.endings.items():
        endings[shown_ending(ending, in_use)] += rows
    in_flight = counts.states[State.SENDING] if in_use else 0
    return Standing(counts.sheet_rows, counts.skipped, in_flight, in_use, endings)


def next_step(
    standing: Standing, alike: str | None = None, limit: int | None = None
) -> NextStep | None:
    """The next step of a job; None if nothing is left to send, and while a run is active.

    `alike` is the code with which so many rows failed in a row that the run stopped. Those rows
    come first, because they show whether the cause is gone. `limit` is the `--limit` of a run that
    stopped early: a user who wanted a sample must not pay for the whole sheet.
    """
    if standing.in_use:
        return None
    failed = _open(standing, State.FAILED)
    ambiguous = _open(standing, State.AMBIGUOUS)
    pending = standing.states[State.PENDING]
    probe = {ending: rows for ending, rows in failed.items() if ending.code == (alike or "")}
    step = _edit(probe, pending) or _resume(probe, failed, pending)
    if step is None and pending:
        return send_pending(pending, limit)
    again = {ending: rows for ending, rows in failed.items() if _may_do_better(ending)}
    lost = {ending: rows for ending, rows in ambiguous.items() if _may_do_better(ending)}
    return (
        step
        or _resume(again, failed)
        or _resume(lost, failed | ambiguous, ambiguous=True)
        or _edit(failed, 0)
    )


def send_pending(pending: int, limit: int | None) -> NextStep:
    """The step that sends pending rows: those never sent, and those that the API turned away."""
    if limit is None:
        return NextStep(("run",), pending)
    return NextStep(("run", "--limit", str(limit)), min(pending, limit))


def _open(standing: Standing, state: State) -> dict[Ending, int]:
    """The rows in one state that the user has not given up."""
    return {
        ending: rows
        for ending, rows in standing.endings.items()
        if ending.state is state and not ending.given_up
    }


def _may_do_better(ending: Ending) -> bool:
    """Whether the same request may succeed. An interruption says nothing about the row, because
    the runner ended, not the request."""
    if edit_first(ending.code):
        return False
    return not ending.repeated or ending.code == ErrorCode.INTERRUPTED


def _resume(
    wanted: Mapping[Ending, int],
    there: Mapping[Ending, int],
    pending: int = 0,
    *,
    ambiguous: bool = False,
) -> NextStep | None:
    """The step that sends the `wanted` rows, which are some of the rows that are `there`.

    Its command names the codes, unless it sends all rows that are there. If there are many codes it
    names the most frequent ones, because a server can invent a code for each row. It never names a
    code of failed rows that may have been billed: `report` shows what those may cost.
    """
    costly = {e.code for e in there if e.state is State.FAILED and e.maybe_paid}
    codes = {ending.code for ending in wanted} - costly
    if not codes:
        return None
    every = not pending and codes == {ending.code for ending in there}
    if not every:
        found: Counter[str | None] = Counter()
        for ending, rows in wanted.items():
            found[ending.code] += rows if ending.code in codes else 0
        codes = {code for code, _ in found.most_common(CODES_SHOWN) if code in codes}
    words = [] if every else ["--only", ",".join(sorted(code or "" for code in codes))]
    words += ["--ambiguous"] if ambiguous else []
    rows = sum(number for ending, number in there.items() if ending.code in codes)
    return NextStep(("resume", *words), rows)


def _edit(failed: Mapping[Ending, int], pending: int) -> NextStep | None:
    """The step that needs an edit first. An edited row is new, so the next run sends it."""
    codes: Counter[str] = Counter()
    for ending, rows in failed.items():
        if ending.code and edit_first(ending.code):
            codes[ending.code] += rows
    if not codes:
        return None
    edit = edit_first(codes.most_common(1)[0][0])
    same = {code: rows for code, rows in sorted(codes.items()) if edit_first(code) == edit}
    number = sum(same.values())
    what = f"{edit} ({counted(number, 'row')} with {', '.join(same)})"
    return NextStep(("run",), pending + number, what)
