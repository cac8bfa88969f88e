"""What a person reads in a terminal: a summary, and the failed rows by error code."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path

from pipeline.core.model import State, Summary
from pipeline.core.wording import counted, few_codes, few_words, listed, shortened
from pipeline.ledger.queries import LastRun
from pipeline.report.groups import Group
from pipeline.report.overview import Marked

_MARKS = {
    "empty": "the text is blank",
    "refusal": "it begins like a model that declines",
    "undefined": "it says undefined, null or NaN where text should be",
    "template": "a place of a template stands in it unfilled",
    "repeated": "another row, with other variables, has the same text",
}
_LIMIT = re.compile(r" --max-paid (\d+)\b")
_STATES = ("failed", "ambiguous", "pending", "skipped")
MOST_GROUPS = 20
"""How many groups of rows a terminal shows, the largest first."""


def summary_lines(summary: Summary, report_command: str | None = None) -> list[str]:
    """How a job stands, in three to ten lines. `report_command` tells more of what failed."""
    lines = [outcome_line(summary), paid_line(summary)]
    lines += [f"  {number:>6}  {code}" for code, number in few_codes(summary.by_code).items()]
    lines.append(f"Results:  {shown_path(summary.results)}")
    if summary.by_code:
        lines.append(f"Failures: {shown_path(summary.failures)}")
    if summary.by_code and report_command:
        lines.append(f"What failed and why: {report_command}")
    return lines + going_on_lines(summary)


def going_on_lines(summary: Summary) -> list[str]:
    """The one command that goes on from here, if there is one."""
    if summary.resume_command is None:
        return []
    step = summary.next_step
    lines = [f"{going_on(summary)}: {summary.resume_command}"]
    return [*lines, step.to_add] if step and step.to_add else lines


def going_on(summary: Summary) -> str:
    """What stands before that command: an edit that it needs, and how much it sends. A limit in it
    may be higher than the one that was reached."""
    step, limit = summary.next_step, _LIMIT.search(summary.resume_command or "")
    words = "To go on"
    if step is not None and step.edit is not None:
        words += f", {step.edit}, then"
    if limit:
        return f"{words}, until at most {counted(int(limit[1]), 'request')} are paid in all"
    if step is None or step.edit is not None or not step.rows:
        return words
    return f"{words} with {counted(step.rows, 'row')}"


def outcome_line(summary: Summary) -> str:
    """How the rows of a job stand, in one sentence."""
    counts = [f"{summary.ok} ok"]
    counts += [f"{getattr(summary, name)} {name}" for name in _STATES if getattr(summary, name)]
    return f"{summary.job}: {counted(summary.rows, 'row')}: {', '.join(counts)}."


def paid_line(summary: Summary) -> str:
    """What was spent, as far as anybody can know."""
    paid = str(summary.paid_max)
    if summary.paid_min != summary.paid_max:
        paid = f"{summary.paid_min} to {summary.paid_max}"
    return f"Requests paid so far: {paid}."


def last_run_line(last: LastRun | None, in_use: bool, in_flight: int = 0) -> str:
    """When the last run was, and how it ended, or how many of the pending rows it has on the
    way."""
    if last is None:
        return "No run yet."
    began = datetime.fromtimestamp(last.started_at, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    if last.finished_at is None:
        how = "it was ended from outside"
        if in_use:
            how = "it goes on now"
            if in_flight:
                how += f" and waits for {counted(in_flight, 'answer')}"
                how += f"; {'that row counts' if in_flight == 1 else 'those rows count'} as pending"
    else:
        stopped = f", stopped: {last.stopped}" if last.stopped else ""
        how = f"took {last.finished_at - last.started_at:.0f} s, exit {last.exit_code}{stopped}"
    return f"Last run: {began}, {how}."


def all_well_line(summary: Summary) -> str:
    """What a report says of rows that are not ok where there are none."""
    if summary.ok:
        return "Every row that was sent is ok."
    return "No row was sent yet." if summary.pending else "There is no row to send."


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


def marked_lines(marked: list[Marked], unread: str | None) -> list[str]:
    """The answers that look wrong, by mark. Their rows are ok: they were paid."""
    if unread:
        return ["", f"The answers could not be looked at: {unread}"]
    lines = ["", "Answers to look at (the rows are ok, and paid):"] if marked else []
    for found in marked:
        lines.append(
            f"{found.count} {found.mark}: {listed(found.first_rows, found.count)}: "
            f"{_MARKS[found.mark]}"
        )
    return lines


def group_line(group: Group) -> str:
    """How many rows ended alike, how, and which they are."""
    paid = f", {group.maybe_paid} maybe paid" if group.maybe_paid else ""
    return (
        f"{group.count} {group.state} {group.code or '(no code)'}{paid}: "
        f"{listed(group.first_rows, group.count)}"
    )


def export_lines(
    what: str,
    path: Path,
    rows: int,
    guarded: int,
    renamed: tuple[str, ...],
    aside: int,
    lost: tuple[str, ...],
) -> list[str]:
    """What an export wrote, and what is not as one would expect. `what` is exported or
    citations."""
    of = "the citations of " if what == "citations" else ""
    lines = [f"{of}{counted(rows, 'row')}: {shown_path(str(path))}"]
    if guarded:
        lines.append(
            f"{counted(guarded, 'cell')} like a formula got a ' in front; --no-excel-guard leaves "
            "such cells as they are."
        )
    if renamed:
        lines.append(
            "The sheet has columns of its own of these names, so the runner's are called "
            f"{', '.join(renamed)}."
        )
    if aside:
        lines.append(
            f"{counted(aside, 'text')} too long for a cell: in {path.stem}.files beside the "
            "workbook, where the cell says."
        )
    if lost:
        lines.append(
            f"The copy of the workbook does not have everything. Lost: {'; '.join(lost)}. The "
            "workbook itself is as it was."
        )
    return lines


def settled_lines(decided: Counter[State], codes: Iterable[str]) -> list[str]:
    """What was decided about how many rows; `codes` are those that rows have."""
    ambiguous, failed = decided[State.AMBIGUOUS], decided[State.FAILED]
    lines = []
    if ambiguous:
        lines.append(f"{counted(ambiguous, 'ambiguous row')} taken as failed; nothing was sent.")
    if failed:
        lines.append(f"{counted(failed, 'failed row')} given up; nothing was sent.")
    if lines:
        return lines
    here = f"The error codes here are: {few_words(codes)}." if codes else "Every row sent is ok."
    return [f"No row to decide about, and nothing was sent. {here}"]


def reread_line(number: int) -> str:
    """How many kept answers could be read now."""
    if not number:
        return "No kept answer can be read now that could not be read before. Nothing was sent."
    return f"{counted(number, 'kept answer')} can be read now: ok. Nothing was sent."


def shown_path(path: str) -> str:
    """Relative where that is shorter to read."""
    relative = os.path.relpath(path)
    return path if relative.startswith("..") else relative
