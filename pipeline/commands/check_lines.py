"""What `check` found, as a person reads it."""

from __future__ import annotations

from pipeline.core.model import ROW_COUNTS
from pipeline.core.wording import counted, lasting, shortened
from pipeline.inputs.checks import SKIP_REASONS
from pipeline.inputs.facts import VariableFacts
from pipeline.run.check import Checked

_BODY_CHARACTERS = 2000


def check_lines(checked: Checked, run_command: str) -> list[str]:
    """Rows, drift, empty cells, the first bodies, and what a run would cost at most."""
    counts = [f"{getattr(checked, name)} {name}" for name in ROW_COUNTS if getattr(checked, name)]
    lines = [f"{checked.job}: {counted(checked.rows, 'row')}: {', '.join(counts)}."]
    if checked.new_folder:
        lines.append("Its run folder is new: no answers are held yet.")
    if checked.skipped_by:
        reasons = [
            f"{number} because {SKIP_REASONS[n]}" for n, number in checked.skipped_by.items()
        ]
        lines.append(f"Skipped: {'; '.join(reasons)}.")
    if checked.equal_rows:
        lines.append(_equal_rows(checked))
    if checked.drift is not None:
        drift = checked.drift
        lines.append(
            f"Since the last run: {drift.same} rows the same, {drift.changed} changed, "
            f"{drift.new} new, {drift.gone} gone."
        )
    for column, number in checked.empty_cells.items():
        lines.append(f'Empty cells in "{shortened(column)}": {number}.')
    lines += [_variable(facts) for facts in checked.variables if facts.longest is not None]
    lines += [_marked(facts) for facts in checked.variables if facts.marked]
    if checked.new_under_newest_rules:
        lines.append(
            f"This folder reads cells by the text rules {checked.text_rules}, as it always did. "
            f"Under the newest rules {counted(checked.new_under_newest_rules, 'finished row')} "
            "would be new: --accept-changes takes those rules, and pays for them again."
        )
    if checked.first_bodies:
        lines.append("The first requests, exactly as they are sent:")
        lines += [f"  row {body.row}: {_body(body.body)}" for body in checked.first_bodies]
    lines.append(_cost(checked))
    if checked.to_send:
        lines.append(_time(checked))
    lines += [f"A run would ask first: {question}" for question in checked.questions]
    if checked.refusal is not None:
        lines.append(f"But a run would be refused. {checked.refusal}")
    elif checked.in_use:
        lines.append("Nothing was sent by `check`. A run is at work in this folder now.")
    elif checked.to_send:
        lines.append(f"Nothing was sent. To send them: {run_command}")
    return lines


def _cost(checked: Checked) -> str:
    if not checked.to_send:
        return "A run would send nothing."
    retries = checked.requests_at_most - checked.to_send
    more = f"; failed runs, which are not paid, add up to {retries} repeats" if retries else ""
    if checked.paid_at_most < checked.to_send:
        return (
            f"A run would pay for {checked.paid_at_most} of {counted(checked.to_send, 'row')} and "
            "stop there (`max_paid` or `max_paid_per_run`)."
        )
    return f"A run would pay for {counted(checked.to_send, 'request')} at most{more}."


def _equal_rows(checked: Checked) -> str:
    equal = f"{counted(checked.equal_rows, 'row')} equal to an earlier one"
    if checked.dedupe:
        return f"{equal}: one request is sent for all of them (`dedupe: true`)."
    return (
        f"{equal}; each is a request of its own, and paid. With `dedupe: true` in the spec one is "
        "sent for all of them."
    )


def _variable(facts: VariableFacts) -> str:
    rows = f"(rows {facts.shortest_row} and {facts.longest_row})"
    sizes = f"{facts.shortest} to {facts.longest} characters {rows}"
    if facts.longest is not None and facts.shortest == facts.longest:
        sizes = counted(facts.longest, "character")
    return (
        f'"{shortened(facts.name)}" from "{shortened(facts.column)}": {sizes}{_and_empty(facts)}.'
    )


def _and_empty(facts: VariableFacts) -> str:
    return f", {facts.empty} empty" if facts.empty else ""


def _marked(facts: VariableFacts) -> str:
    return (
        f'Careful: {counted(facts.marked, "text")} for "{shortened(facts.name)}" with {{{{…}}}}, '
        f"$$ or $& in it (row {facts.marked_row} first): the workflow's template may take that for "
        "its own and send something else to the model."
    )


def _time(checked: Checked) -> str:
    if checked.pace_per_s is None or checked.duration_s is None:
        return "How long it takes is not known: no run has learned this key's limit yet."
    source = "as earlier runs learned of this key" if checked.pace_learned else "as `rate` says"
    return (
        f"It would take about {lasting(checked.duration_s)} at {checked.pace_per_s:.3g} requests "
        f"per second, {source}, and then as long as the last answers take."
    )


def _body(text: str) -> str:
    if len(text) <= _BODY_CHARACTERS:
        return text
    return f"{text[:_BODY_CHARACTERS]}… ({len(text)} characters)"
