"""What a person reads in a terminal of how a job stands."""

from __future__ import annotations

import os
import re
from datetime import UTC, datetime

from pipeline.core.model import ROW_COUNTS, Summary
from pipeline.core.wording import counted, few_codes
from pipeline.ledger.queries import LastRun

_LIMIT = re.compile(r" --max-paid (\d+)\b")


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
    counts = ((name, getattr(summary, name)) for name in ROW_COUNTS)
    shown = [f"{rows} {name}" for name, rows in counts if rows or name == "ok"]
    return f"{summary.job}: {counted(summary.rows, 'row')}: {', '.join(shown)}."


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


def shown_path(path: str) -> str:
    """Relative where that is shorter to read."""
    relative = os.path.relpath(path)
    return path if relative.startswith("..") else relative
