"""The state of a job in sentences, for a terminal and for report.html."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from datetime import UTC, datetime

from pipeline.core.model import ROW_COUNTS, RateLimit, Summary, Sure
from pipeline.core.money import paid_word
from pipeline.core.wording import counted, few_codes
from pipeline.ledger.queries import LastRun

_LIMIT = re.compile(r"(?: --max-paid |max_paid=)(\d+)\b")


def summary_lines(
    summary: Summary, report_command: str | None = None, *, rehearsal: bool = False
) -> list[str]:
    """Sums a job up in three to ten lines. `report_command` is the command that says more about
    the failed rows; without it no line names one."""
    lines = [outcome_line(summary), paid_line(summary, rehearsal)]
    lines += [f"  {number:>6}  {code}" for code, number in few_codes(summary.by_code).items()]
    lines.append(f"Results:  {shown_path(summary.results)}")
    if summary.by_code:
        lines.append(f"Failures: {shown_path(summary.failures)}")
    if summary.by_code and report_command:
        lines.append(f"What failed and why: {report_command}")
    return lines + next_lines(summary, rehearsal)


def review_lines(reviews: Mapping[str, int]) -> list[str]:
    """Counts the reviewed rows, in no line or in one."""
    named = ", ".join(f"{number} {word}" for word, number in reviews.items())
    return [f"Reviews:  {named}"] if named else []


def next_lines(summary: Summary, rehearsal: bool) -> list[str]:
    """Returns notes on the next command, and the command as the last line. Empty if nothing is left
    to send."""
    if summary.resume_command is None:
        return []
    step = summary.next_step
    before = (next_note(summary, rehearsal), step.to_add if step else None)
    return [*(line for line in before if line), f"Next: {summary.resume_command}"]


def next_note(summary: Summary, rehearsal: bool) -> str:
    """What to do before that command, and how much it sends. The `--max-paid` in it may be higher
    than the limit that the run reached."""
    step, limit = summary.next_step, _LIMIT.search(summary.resume_command or "")
    notes = [f"First {step.edit}."] if step and step.edit else []
    if limit:
        most = counted(int(limit[1]), "request")
        notes.append(
            f"With the next command at most {most} may be {paid_word(rehearsal)} in all runs."
        )
    elif step and not step.edit and step.rows:
        notes.append(f"The next command sends {counted(step.rows, 'row')}.")
    return " ".join(notes)


def outcome_line(summary: Summary) -> str:
    """Counts the rows of a job by status, in one sentence."""
    return f"{summary.job}: {counted(summary.rows, 'row')}: {states_text(summary)}."


def states_text(summary: Summary) -> str:
    """How many rows have each status. Leaves out a status that no row has, except for ok."""
    counts = ((name, getattr(summary, name)) for name in ROW_COUNTS)
    return ", ".join(f"{rows} {name}" for name, rows in counts if rows or name == "ok")


def paid_line(summary: Summary, rehearsal: bool) -> str:
    """How many requests cost credits. A range if the outcome of some requests is unknown."""
    number = str(summary.paid_max)
    if summary.paid_min != summary.paid_max:
        number = f"{summary.paid_min} to {summary.paid_max}"
    return f"Requests {paid_word(rehearsal)} so far: {number}."


def last_run_line(last: LastRun | None, in_use: bool, in_flight: int = 0) -> str:
    """When the last run began, and how it ended. Of a run that is active: how many of the pending
    rows are in flight."""
    if last is None:
        return "No run yet."
    began = datetime.fromtimestamp(last.started_at, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    if last.finished_at is None:
        how = "it did not record its end (killed, or the disk refused to write)"
        if in_use:
            how = "it is active"
            if in_flight:
                how += f" with {counted(in_flight, 'request')} in flight"
                how += f"; {'that row counts' if in_flight == 1 else 'those rows count'} as pending"
    else:
        stopped = f", stopped: {last.stopped}" if last.stopped else ""
        how = f"took {last.finished_at - last.started_at:.0f} s, exit {last.exit_code}{stopped}"
    return f"Last run: {began}, {how}."


_SURE = {
    Sure.MEASURED: "measured",
    Sure.KEPT: "measured by an earlier run, not confirmed yet",
}


def rate_limit_lines(known: RateLimit | None) -> list[str]:
    """The rate limit as the last run believed it, in no line or in one."""
    if known is None:
        return []
    if known.window_s is None or known.sure is None:
        return [
            f"Rate limit: {counted(known.limit, 'request')}, in a window that is not known yet."
        ]
    used = "" if known.used is None else f" The run used {known.used:.0%} of it."
    # Two digits, because it is an estimate.
    window = f"{float(f'{known.window_s:.2g}'):g} s"
    limit = f"{counted(known.limit, 'request')} per {window}"
    return [f"Rate limit: {limit} ({_SURE[known.sure]}).{used}"]


def all_well_line(summary: Summary) -> str:
    """What a report says where no row failed."""
    if summary.ok:
        return "Every row that was sent is ok."
    return "No row was sent yet." if summary.pending else "There is no row to send."


def shown_path(path: str) -> str:
    """`path`, relative to the current folder if it is below that."""
    relative = os.path.relpath(path)
    return path if relative.startswith("..") else relative
