"""The report as lines for a terminal: the rows that are not ok, and answers that look wrong."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from pipeline.core.model import State
from pipeline.core.money import paid_word
from pipeline.core.wording import counted, shortened
from pipeline.inputs.row_names import RowNames
from pipeline.job.answer_columns import MISSING, NOT_JSON, TYPE
from pipeline.report.groups import Group
from pipeline.report.overview import FlaggedAnswers

_FLAGS = {
    "empty": "the text is blank",
    "refusal": "the text begins like a model that declines to answer",
    "undefined": "the text says undefined, null or NaN",
    "template": "the text contains an unfilled placeholder of a template",
    "repeated": "another row, with other variables, has the same text",
    NOT_JSON: "the text is not JSON, so the columns of `columns:` are empty",
    MISSING: "the JSON has no value at the path of this column",
    TYPE: "the value at the path of this column does not fit its type",
}
MARKED_TITLE = "Answers that look wrong"
MOST_GROUPS = 20
"""How many groups of rows a terminal shows, the largest first."""


def group_lines(groups: list[Group], rehearsal: bool, names: RowNames) -> list[str]:
    """Rows that are not ok, by code: how many, which, what to do, and the command to paste."""
    lines = []
    for group in groups[:MOST_GROUPS]:
        lines += ["", group_line(group, rehearsal, names), *_indented(group.advice)]
        if group.message and group.state is not State.PENDING:
            lines.append(f"    First message: {shortened(group.message)}")
        if group.command:
            lines.append(f"    {group.command}")
    more = left_out_line(groups)
    return [*lines, "", more] if more else lines


def _indented(text: str) -> list[str]:
    """`text` in lines that fit a terminal of 80 columns. No option is broken at its hyphens."""
    indent = "    "
    return textwrap.wrap(
        text, 80, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False
    )


def left_out_line(groups: Sequence[Group], shown: int = MOST_GROUPS) -> str | None:
    """Counts the groups after the first `shown`; None where there are no more."""
    left = groups[shown:]
    rows = sum(group.count for group in left)
    more = counted(len(left), "more code")
    return f"And {counted(rows, 'row')} of {more}: see failures.csv." if left else None


def marked_lines(
    marked: list[FlaggedAnswers], unread: str | None, rehearsal: bool, names: RowNames
) -> list[str]:
    """The answers that look wrong, by flag, and the command that asks for them again. Their rows
    are ok, because they were paid."""
    if unread:
        return ["", unread_line(unread)]
    lines = [] if not marked else ["", f"{MARKED_TITLE} ({marked_note(rehearsal)}):"]
    for found in marked[:MOST_GROUPS]:
        lines.append(f"{mark_line(found, names)}: {mark_meaning(found)}")
        if found.command:
            lines.append(f"    {found.command}")
    more = more_marks(marked)
    return [*lines, more] if more else lines


def more_marks(marked: Sequence[FlaggedAnswers], shown: int = MOST_GROUPS) -> str | None:
    """How many flags are left out. A job with many columns may have hundreds."""
    left = len(marked) - shown
    return f"And {counted(left, 'more flag')}: see `export --flags`." if left > 0 else None


def marked_note(rehearsal: bool) -> str:
    """Why the rows of such answers do not count as failed."""
    return f"their rows are ok, and were {paid_word(rehearsal)}"


def mark_line(found: FlaggedAnswers, names: RowNames) -> str:
    """How many answers have a flag, and the first rows."""
    return f"{found.count} {found.mark}: {names.rows(found.first_rows, found.count)}"


def mark_meaning(found: FlaggedAnswers) -> str:
    """What the flag says about those answers."""
    kind, colon, _ = found.mark.partition(":")
    return _FLAGS[f"{kind}{colon}"]


def unread_line(unread: str) -> str:
    """Why no answer was checked."""
    return f"The runner could not check the answers: {unread}"


def group_line(group: Group, rehearsal: bool, names: RowNames) -> str:
    """How many rows ended with one code, their status, and the first rows."""
    maybe = f", {group.maybe_paid} maybe {paid_word(rehearsal)}" if group.maybe_paid else ""
    return (
        f"{group.count} {group.state} {group.code or '(no code)'}{maybe}: "
        f"{names.rows(group.first_rows, group.count)}"
    )
