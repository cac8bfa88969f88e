"""The fields of a job file's form: from a spec, from what a browser sent, and back as changes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import NamedTuple

from pipeline.core.errors import Refused
from pipeline.inputs.mapping import bind
from pipeline.job.key_types import TAB, Number
from pipeline.job.spec import JobSpec, key_problem
from pipeline.job.spec_edit import Value
from pipeline.job.spec_keys import EMPTY_CHOICES, KEYS, OTHER_COLUMNS

SHEET_KEYS = ("sheet", "header_row", "encoding", "separator")
"""The keys that say how a sheet is read."""
LIMITS = ("max_paid", "max_paid_per_run", "rate", "concurrency", "retries", "deadline_s")
SCALARS = ("name", "workflow", *SHEET_KEYS, "id", "empty", "dedupe", "hidden", *LIMITS)
LINES = ("variables", "constants", "empty")
"""The keys that the lines of the form show together."""
SAME, LEFT_OUT = "=", ""
MOST_OPTIONS = 20_000
"""Each line has all columns to choose from. More than this make a page of several MB."""
_MOST_LINES = 400
"""A line has four fields, and a form of the page 2,000."""
_NUMBERS = {key.name for key in KEYS if isinstance(key.type, Number)}
_IN_NO_FIELD = frozenset("\r\0")


def code_of(column: str) -> str:
    """A short name for a column, which a browser sends back unchanged whatever it is called."""
    return blake2b(column.encode("utf-8", "surrogatepass"), digest_size=6).hexdigest()


@dataclass(frozen=True, slots=True)
class Line:
    """One variable. `source` is the code of a column, SAME or LEFT_OUT. `text` is for SAME, and
    `empty` is what happens to an empty cell: one of EMPTY_CHOICES, or "" for the usual."""

    name: str = ""
    source: str = LEFT_OUT
    text: str = ""
    empty: str = ""


@dataclass(frozen=True, slots=True)
class Typed:
    """What the fields of the form hold. The values of SCALARS are texts, "" for a missing key."""

    values: dict[str, str]
    lines: tuple[Line, ...]

    @classmethod
    def of_spec(cls, spec: JobSpec, columns: Sequence[str]) -> Typed:
        """The fields of a job file.

        Raises:
            Refused: if a form cannot show it.
        """
        values = {name: _shown(spec, name) for name in SCALARS}
        sources = bind(spec, columns).sources if spec.variables is None else ()
        pairs = spec.variables or [(s.name, s.column_name or "") for s in sources if s.column_name]
        choices = dict(spec.empty_by_column)
        lines = [
            *(Line(name, code_of(c), "", choices.get(c, "")) for name, c in pairs),
            *(Line(name, SAME, text) for name, text in spec.constants),
        ]
        if any("\n" in one.name or _IN_NO_FIELD & {*one.name, *one.text} for one in lines):
            raise Refused("A variable has a line end or a control character.", closing="")
        if len(lines) * len(columns) > MOST_OPTIONS or len(lines) > _MOST_LINES:
            raise Refused("The job has too many variables and columns for a form.", closing="")
        return cls(values, tuple(lines))

    @classmethod
    def of_fields(cls, fields: Mapping[str, str]) -> Typed:
        """The fields that a browser sent."""
        values = {name: fields.get(name, "").strip() for name in SCALARS}
        values["sheet"] = fields.get("sheet", "")  # a worksheet may end in a space
        return cls(values, tuple(_lines(fields)))

    def read_as(self, values: Mapping[str, str]) -> Typed:
        """The same with other values for some keys."""
        return replace(self, values=self.values | dict(values))

    def with_columns(self, given: Typed, columns: Sequence[str]) -> Typed:
        """The same after the sheet was read in another way: with the lines of `given` if a column
        of a line is gone, and its values where nothing was typed."""
        known = {SAME, LEFT_OUT, *map(code_of, columns)}
        kept = self.lines and known.issuperset(line.source for line in self.lines)
        typed = {name: text for name, text in self.values.items() if text}
        return Typed(given.values | typed, self.lines if kept else given.lines)


class Changes(NamedTuple):
    """The keys that differ, and the errors by the name of their field."""

    values: dict[str, Value | None]
    errors: dict[str, str]


def changes_of(base: Typed, typed: Typed, spec: JobSpec, columns: Sequence[str]) -> Changes:
    """Compares the fields with those of the job file `spec`."""
    found = Changes({}, {})
    names = {code_of(column): column for column in columns}
    for name in SCALARS:
        value = typed.values[name]
        if name == "empty" or value == base.values[name]:
            continue
        if name == "id":
            found.values[name] = names.get(value)
        elif name == "dedupe":
            found.values[name] = True if value else None
        elif problem := key_problem(name, value) if value or name in ("name", "workflow") else None:
            found.errors[name] = problem
        else:
            found.values[name] = _number(value) if name in _NUMBERS and value else value or None
    if typed.lines != base.lines or typed.values["empty"] != base.values["empty"]:
        _compare_lines(found, base, typed, spec, names)
    return found


def _compare_lines(
    found: Changes, base: Typed, typed: Typed, spec: JobSpec, names: Mapping[str, str]
) -> None:
    mapped: dict[str, str] = {}
    same: dict[str, str] = {}
    shown = {names.get(line.source) for line in base.lines}
    choices = {column: word for column, word in spec.empty_by_column if column not in shown}
    chosen: dict[str, str] = {}
    before = {line.name for line in base.lines}
    for number, line in enumerate(typed.lines):
        if line.source == LEFT_OUT:
            continue
        problem = _line_problem(line, {**mapped, **same}, names)
        if line.name != line.name.strip() and line.name not in before:
            problem = "The name begins or ends with a space. Delete the space."
        if line.empty and chosen.setdefault(line.source, line.empty) != line.empty:
            problem = "Another line says something else about empty cells of this column."
        if problem:
            found.errors[f"v{number}"] = problem
        elif line.source == SAME:
            same[line.name] = line.text
        else:
            column = mapped[line.name] = names[line.source]
            if line.empty in EMPTY_CHOICES:
                choices[column] = line.empty
    if not mapped and not any(f"v{number}" in found.errors for number in range(_MOST_LINES)):
        found.errors["variables"] = "Choose a column for at least one variable."
    if [line for line in typed.lines if line.source] != list(base.lines):
        found.values["variables"], found.values["constants"] = mapped, same
    usual = typed.values["empty"] if typed.values["empty"] in EMPTY_CHOICES else "refuse"
    if (choices, usual) != (dict(spec.empty_by_column), spec.empty):
        others = {} if usual == "refuse" else {OTHER_COLUMNS: usual}
        found.values["empty"] = choices | others if choices else usual


def _line_problem(line: Line, taken: Mapping[str, str], names: Mapping[str, str]) -> str | None:
    if not line.name:
        return "Write the name of the variable, as it is between {{ }} in the template."
    if line.name in taken:
        return f"Another line already has the variable {line.name}."
    if line.source != SAME and line.source not in names:
        return "The sheet does not have this column. Choose another one."
    return None


def _lines(fields: Mapping[str, str]) -> Iterator[Line]:
    for number in range(_MOST_LINES):
        if f"v{number}.name" not in fields:
            return
        name, source, text, empty = (
            fields.get(f"v{number}.{part}", "") for part in ("name", "source", "text", "empty")
        )
        if name or source:
            yield Line(
                name,
                source,
                # A form sends each line end as two characters.
                text.replace("\r\n", "\n") if source == SAME else "",
                "" if source == SAME else empty,
            )


def _shown(spec: JobSpec, name: str) -> str:
    value = getattr(spec, name)
    if name in ("empty", "hidden"):
        return str(value)
    if name not in spec.lines or value is None or value is False:
        return ""
    if name == "id":
        return code_of(value)
    if value is True:
        return "1"
    if value == TAB:
        return "tab"
    return f"{value:.0f}" if isinstance(value, float) and value.is_integer() else str(value)


def _number(text: str) -> int | float | str:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
