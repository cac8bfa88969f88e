"""The findings of `check` as lines for a terminal."""

from __future__ import annotations

from pipeline.core.model import ROW_COUNTS
from pipeline.core.money import paid_word
from pipeline.core.wording import counted, few_words, lasting, shortened
from pipeline.inputs.checks import SKIP_REASONS
from pipeline.inputs.facts import VariableFacts
from pipeline.inputs.row_names import RowNames
from pipeline.inputs.unseen import unseen_lines
from pipeline.planning.consent import locked_line, paid_source_line, stale_line
from pipeline.results.column_facts import ColumnsFacts
from pipeline.run.check import Checked

_BODY_CHARACTERS = 2000
_MOST_COLUMNS = 20


def check_lines(checked: Checked, run_command: str, rehearsal: bool) -> list[str]:
    """Rows, drift, empty cells, the first bodies, and what a run would cost at most."""
    paid, names = paid_word(rehearsal), checked.names
    counts = [f"{getattr(checked, name)} {name}" for name in ROW_COUNTS if getattr(checked, name)]
    lines = [f"{checked.job}: {counted(checked.rows, 'row')}: {', '.join(counts)}."]
    if checked.new_folder:
        lines.append("Its run folder is new and has no answers yet.")
    if checked.skipped_by:
        reasons = [
            f"{number} because {SKIP_REASONS[n]}" for n, number in checked.skipped_by.items()
        ]
        lines.append(f"Skipped: {'; '.join(reasons)}.")
    lines += unseen_lines(checked.sheet, checked.hidden)
    if checked.equal_rows:
        lines.append(_equal_rows(checked, paid))
    if checked.drift is not None:
        drift = checked.drift
        lines.append(
            f"Since the last run: {drift.same} rows the same, {drift.changed} changed, "
            f"{drift.new} new, {drift.gone} gone."
        )
    if checked.paid_source and checked.source:
        lines.append(paid_source_line(checked.source))
    if checked.stale and checked.source:
        lines.append(stale_line(checked.stale, checked.source, paid))
    for column, number in checked.empty_cells.items():
        lines.append(f'Empty cells in "{shortened(column)}": {number}.')
    lines += [_variable(facts, names) for facts in checked.variables if facts.longest is not None]
    lines += [_marked(facts, names) for facts in checked.variables if facts.marked]
    if checked.new_under_newest_rules:
        lines.append(
            f"This run folder turns cells into text by version {checked.text_rules} of the rules. "
            f"By the newest rules, {counted(checked.new_under_newest_rules, 'finished row')} would "
            "have another text and count as new. --accept-changes switches to the newest rules. "
            f"These rows are then {paid} again."
        )
    if checked.first_bodies:
        lines.append("The first requests, exactly as the API receives them:")
        lines += [f"  {names.row(body.row)}: {_body(body.body)}" for body in checked.first_bodies]
    if checked.columns is not None:
        lines += _columns(checked.columns)
    lines.append(_cost(checked, paid))
    if checked.to_send:
        lines.append(_time(checked, rehearsal))
    if checked.locked_folders:
        lines.append(locked_line(checked.locked_folders))
    lines += [f"A run would first ask: {question}" for question in checked.questions]
    if checked.refusal is not None:
        lines.append(f"A run would be refused. {checked.refusal}")
    elif checked.in_use:
        lines.append("`check` sent nothing. Another run is active in this folder now.")
    elif checked.to_send:
        lines.append(f"Nothing was sent. To send these rows: {run_command}")
    return lines


def _columns(found: ColumnsFacts) -> list[str]:
    """The columns of `columns:`, and how many answers fill each."""
    if not found.answers:
        named = [f"{shortened(one.name)} ({one.type})" for one in found.columns]
        return [f"Columns of the answers: {few_words(named)}. There is no answer yet."]
    not_json = f", {found.not_json} of them not JSON" if found.not_json else ""
    lines = [f"Columns of the {counted(found.answers, 'answer')}{not_json}:"]
    for one in found.columns[:_MOST_COLUMNS]:
        missing = f", {one.missing} without a value" if one.missing else ""
        other = f", {one.another_type} of another type" if one.another_type else ""
        name = f"{shortened(one.name)} ({one.type})"
        lines.append(f"  {name} from {shortened(one.path)}: {one.filled} filled{missing}{other}.")
    more = len(found.columns) - _MOST_COLUMNS
    return lines if more <= 0 else [*lines, f"  and {counted(more, 'more column')}."]


def _cost(checked: Checked, paid: str) -> str:
    if not checked.to_send:
        return "A run would send nothing."
    if checked.paid_at_most < checked.to_send:
        return (
            f"A run would stop once {checked.paid_at_most} of {counted(checked.to_send, 'row')} "
            f"are {paid}, because of `max_paid` or `max_paid_per_run`."
        )
    most = f"At most {counted(checked.to_send, 'request')} would be {paid}."
    retries = checked.requests_at_most - checked.to_send
    if not retries:
        return most
    return f"{most} Up to {retries} retries of failed requests come on top and are not {paid}."


def _equal_rows(checked: Checked, paid: str) -> str:
    equal = f"Rows that are equal to an earlier row: {checked.equal_rows}."
    if checked.dedupe:
        return f"{equal} One request is sent for all equal rows (`dedupe: true`)."
    return (
        f"{equal} Each is a separate request and is {paid}. To send one request for all equal "
        "rows, write `dedupe: true` into the job file."
    )


def _variable(facts: VariableFacts, names: RowNames) -> str:
    name, column = shortened(facts.name), shortened(facts.column)
    return f'"{name}" from "{column}": {_sizes(facts, names)}{_and_empty(facts)}.'


def _sizes(facts: VariableFacts, names: RowNames) -> str:
    """The length of the shortest and of the longest text, and their rows."""
    least, most = facts.shortest or 0, facts.longest or 0
    if least == most or facts.shortest_row is None or facts.longest_row is None:
        return counted(most, "character")
    shortest = f"{counted(least, 'character')} in {names.row(facts.shortest_row)}"
    return f"{shortest} to {most} in {names.row(facts.longest_row)}"


def _and_empty(facts: VariableFacts) -> str:
    return f", {facts.empty} empty" if facts.empty else ""


def _marked(facts: VariableFacts, names: RowNames) -> str:
    first = "" if facts.marked_row is None else f" (first in {names.row(facts.marked_row)})"
    return (
        f"Careful: {{{{…}}}}, $$ or $& in {counted(facts.marked, 'text')} for "
        f'"{shortened(facts.name)}"{first}. The template of the '
        "workflow may expand that, and the model then gets another text."
    )


def _time(checked: Checked, rehearsal: bool) -> str:
    if checked.pace_per_s is None or checked.duration_s is None:
        why = "a rehearsal does not use it" if rehearsal else "no run has measured it yet"
        return f"The duration is not known: it depends on your key's rate limit, and {why}."
    source = "measured by earlier runs with this key" if checked.pace_learned else "from `rate`"
    return (
        f"A run would take about {lasting(checked.duration_s)} at {checked.pace_per_s:.3g} "
        f"requests per second ({source}), plus the time of the last answers."
    )


def _body(text: str) -> str:
    if len(text) <= _BODY_CHARACTERS:
        return text
    return f"{text[:_BODY_CHARACTERS]}… ({len(text)} characters)"
