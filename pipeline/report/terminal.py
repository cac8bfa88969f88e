"""What a person reads in a terminal: a summary, and the failed rows by error code."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.core.model import State
from pipeline.core.wording import counted, listed, shortened
from pipeline.report.groups import Group
from pipeline.report.overview import FlaggedAnswers

_FLAGS = {
    "empty": "the text is blank",
    "refusal": "it begins like a model that declines",
    "undefined": "it says undefined, null or NaN where text should be",
    "template": "a place of a template stands in it unfilled",
    "repeated": "another row, with other variables, has the same text",
}
MOST_GROUPS = 20
"""How many groups of rows a terminal shows, the largest first."""


def group_lines(groups: list[Group]) -> list[str]:
    """Failed rows by code: how many, which, what it means, and the command to paste."""
    lines = []
    for group in groups[:MOST_GROUPS]:
        lines += ["", group_line(group), f"    {group.advice}."]
        if group.message and group.state is not State.PENDING:
            lines.append(f"    first message: {shortened(group.message)}")
        if group.command:
            lines.append(f"    {group.command}")
    more = left_out_line(groups)
    return [*lines, "", more] if more else lines


def left_out_line(groups: Sequence[Group], shown: int = MOST_GROUPS) -> str | None:
    """What is not shown one by one of groups of which the first are; None where all are."""
    left = groups[shown:]
    rows = sum(group.count for group in left)
    more = counted(len(left), "more code")
    return f"And {counted(rows, 'row')} of {more}: see failures.csv." if left else None


def marked_lines(marked: list[FlaggedAnswers], unread: str | None) -> list[str]:
    """The answers that look wrong, by mark. Their rows are ok: they were paid."""
    if unread:
        return ["", f"The answers could not be looked at: {unread}"]
    lines = ["", "Answers to look at (the rows are ok, and paid):"] if marked else []
    for found in marked:
        lines.append(
            f"{found.count} {found.mark}: {listed(found.first_rows, found.count)}: "
            f"{_FLAGS[found.mark]}"
        )
    return lines


def group_line(group: Group) -> str:
    """How many rows ended alike, how, and which they are."""
    paid = f", {group.maybe_paid} maybe paid" if group.maybe_paid else ""
    return (
        f"{group.count} {group.state} {group.code or '(no code)'}{paid}: "
        f"{listed(group.first_rows, group.count)}"
    )
