"""Where the rows of a job stand and what goes on from there: every command shows this. Pure.

The closing line names one command, or none: first for rows that are pending, then for those that
failed and were not billed, then for ambiguous ones (it asks), and last for those that only an edit
can help. A row that ended with one code in two runs is not proposed again: the same request will
hardly do better a third time. `report` has a command for each row that is not ok.
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
    """The rows of a sheet by how they ended, as they are shown: none is sending.

    ok + failed + ambiguous + pending + skipped = rows. `in_flight` of the pending rows are on the
    way to their answer. `endings` has no row that was never sent.
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
    """How the rows of a ledger stand. `in_use`: a run is at work in its folder."""
    endings: Counter[Ending] = Counter()
    for ending, rows in counts.endings.items():
        endings[shown_ending(ending, in_use)] += rows
    in_flight = counts.states[State.SENDING] if in_use else 0
    return Standing(counts.sheet_rows, counts.skipped, in_flight, in_use, endings)


def next_step(
    standing: Standing, alike: str | None = None, limit: int | None = None
) -> NextStep | None:
    """What goes on from here; None where nothing can, and while a run is at work.

    `alike` is the code with which rows failed one after the other until the run stopped. Those rows
    come first: they show whether the cause is gone, and the others wait for that. `limit` is the
    `--limit` of a run that was cut short: who wanted a sample is not to pay for the whole sheet.
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
    """What sends rows that were never sent or were turned away."""
    if limit is None:
        return NextStep(("run",), pending)
    return NextStep(("run", "--limit", str(limit)), min(pending, limit))


def _open(standing: Standing, state: State) -> dict[Ending, int]:
    """The rows at one state that the user did not give up."""
    return {
        ending: rows
        for ending, rows in standing.endings.items()
        if ending.state is state and not ending.given_up
    }


def _may_do_better(ending: Ending) -> bool:
    """Whether the same request may end otherwise. An interruption is the runner's end and not the
    row's."""
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
    """The command that sends the `wanted` rows, of the rows that are `there`.

    It names codes unless it sends all that is there anyway, and of many the most frequent ones: a
    server can make up a code for each row. It names no code of failed rows that may have been
    billed: about those `report` tells what they may cost.
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
    """What to edit so that the next run sends the rows, which are new then."""
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
