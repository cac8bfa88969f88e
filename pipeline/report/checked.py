"""What `check` found, as a person reads it."""

from __future__ import annotations

from pipeline.check import Checked
from pipeline.job import Job
from pipeline.report.terminal import shortened

_STATES = ("ok", "failed", "ambiguous", "pending", "skipped")
_BODY_CHARACTERS = 2000


def check_lines(checked: Checked, job: Job) -> list[str]:
    """Rows, drift, empty cells, the first bodies, and what a run would cost at most."""
    counts = [f"{getattr(checked, name)} {name}" for name in _STATES if getattr(checked, name)]
    lines = [f"{checked.job}: {checked.rows} rows: {', '.join(counts)}."]
    if checked.drift is not None:
        drift = checked.drift
        lines.append(
            f"Since the last run: {drift.same} rows the same, {drift.changed} changed, "
            f"{drift.new} new, {drift.gone} gone."
        )
    for column, number in checked.empty_cells.items():
        lines.append(f'Empty cells in "{shortened(column)}": {number}.')
    if checked.first_bodies:
        lines.append("The first requests, exactly as they are sent:")
        lines += [f"  row {body.row}: {_body(body.body)}" for body in checked.first_bodies]
    lines.append(_cost(checked))
    if checked.refusal is not None:
        lines.append(f"But a run would be refused. {checked.refusal}")
    elif checked.to_send:
        lines.append(f"Nothing was sent. To send them: {job.command('run')}")
    return lines


def _cost(checked: Checked) -> str:
    if not checked.to_send:
        return "A run would send nothing."
    retries = checked.requests_at_most - checked.to_send
    more = f"; failed runs, which are not paid, add up to {retries} repeats" if retries else ""
    if checked.paid_at_most < checked.to_send:
        return (
            f"A run would stop at `max_paid` after {checked.paid_at_most} of "
            f"{checked.to_send} rows."
        )
    return f"A run would pay for {checked.to_send} requests at most{more}."


def _body(text: str) -> str:
    if len(text) <= _BODY_CHARACTERS:
        return text
    return f"{text[:_BODY_CHARACTERS]}… ({len(text)} characters)"
