"""The rows that are not ok, grouped by how they ended, each group with the command for it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass

import pandas as pd

from pipeline.job import Job
from pipeline.model import JsonObject, State
from pipeline.records import Unfinished
from pipeline.report.advice import advise

FIRST_ROWS = 5


@dataclass(frozen=True, slots=True)
class Group:
    """Rows with one state and one code. `maybe_paid` of them may have been billed.

    `command` sends exactly them again; None where the user gave them up.
    """

    state: State
    code: str
    count: int
    maybe_paid: int
    first_rows: tuple[int, ...]
    message: str
    advice: str
    command: str | None


def group_rows(job: Job, rows: Iterable[Unfinished]) -> list[Group]:
    """The groups, the largest first."""
    frame = pd.DataFrame(
        [
            (row.state, row.code or "", row.given_up, row.sheet_row, row.maybe_paid, row.message)
            for row in rows
        ],
        columns=["state", "code", "given_up", "row", "maybe_paid", "message"],
    )
    groups = []
    for key, found in frame.groupby(["state", "code", "given_up"], sort=False):
        state, code, given_up = State(str(key[0])), str(key[1]), bool(key[2])
        groups.append(
            Group(
                state,
                code,
                len(found),
                int(found["maybe_paid"].sum()),
                tuple(int(row) for row in found["row"].head(FIRST_ROWS)),
                str(found["message"].iloc[0]),
                "given up: not sent again unless named by --rows" if given_up else advise(code),
                None if given_up else _command(job, state, code),
            )
        )
    return sorted(groups, key=lambda group: (-group.count, group.state, group.code))


def as_json(groups: list[Group]) -> list[JsonObject]:
    """The groups for scripts."""
    return [asdict(group) for group in groups]


def _command(job: Job, state: State, code: str) -> str:
    if state is State.PENDING:
        return job.command("run")
    only = ("--only", code)
    return job.command("resume", *only, *(("--ambiguous",) if state is State.AMBIGUOUS else ()))
