"""The rows that are not ok, grouped by how they ended, with advice and a command per group."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field

from pipeline.core.model import JsonObject, State
from pipeline.job.frame_call import in_python
from pipeline.job.job import Job
from pipeline.ledger.queries import Unfinished
from pipeline.status.advice import advise, edit_first
from pipeline.status.next_step import send_pending

FIRST_ROWS = 5


@dataclass(frozen=True, slots=True)
class Group:
    """Rows with one state and one code. `maybe_paid` of them may have been billed.

    `command` sends these rows again. It sends no others, except if the rows are pending or need an
    edit: then it sends all pending rows. It is None if the user gave the rows up, and while a run
    is active.
    """

    state: State
    code: str
    count: int
    maybe_paid: int
    first_rows: tuple[int, ...]
    message: str
    advice: str
    command: str | None


class Groups:
    """Sorts the rows that are not ok by how they ended. Keeps counts and a few row numbers only."""

    def __init__(self) -> None:
        self._found: dict[tuple[State, str, bool], _GroupTally] = {}

    def add(self, row: Unfinished) -> None:
        """Counts one row. The rows of a group must come in the order of the sheet."""
        key = (row.state, row.code or "", row.given_up)
        tally = self._found.get(key)
        if tally is None:
            tally = self._found[key] = _GroupTally(row.message)
        tally.add(row)

    def largest_first(self, job: Job, in_use: bool = False) -> list[Group]:
        """The groups, each with the command of `job` that sends its rows again, the largest group
        first. `in_use`: a run is active, so another would be refused."""
        groups = [
            Group(
                state,
                code,
                tally.count,
                tally.maybe_paid,
                tuple(tally.first_rows),
                tally.message,
                _advice(job, state, code, given_up, tally.maybe_paid > 0),
                None if given_up or in_use else _command(job, state, code),
            )
            for (state, code, given_up), tally in self._found.items()
        ]
        return sorted(groups, key=lambda group: (-group.count, group.state, group.code))


@dataclass(slots=True)
class _GroupTally:
    """The counts of one group. `message` is that of its first row."""

    message: str
    count: int = 0
    maybe_paid: int = 0
    first_rows: list[int] = field(default_factory=list)

    def add(self, row: Unfinished) -> None:
        self.count += 1
        self.maybe_paid += row.maybe_paid
        if len(self.first_rows) < FIRST_ROWS:
            self.first_rows.append(row.sheet_row)


def as_json(groups: list[Group]) -> list[JsonObject]:
    """The groups for scripts."""
    return [asdict(group) for group in groups]


def _advice(job: Job, state: State, code: str, given_up: bool, maybe_paid: bool) -> str:
    if given_up:
        return "You gave these rows up. Only `resume --rows` sends them again."
    advice = advise(state, code, maybe_paid=maybe_paid, rehearsal=job.sandbox)
    return in_python(advice) if job.of_frame else advice


def _command(job: Job, state: State, code: str) -> str:
    if state is State.PENDING:
        return job.command(*send_pending(0, job.limit).words)
    if state is State.FAILED and edit_first(code):
        return job.command("run")
    only = ("--only", code)
    return job.command("resume", *only, *(("--ambiguous",) if state is State.AMBIGUOUS else ()))
