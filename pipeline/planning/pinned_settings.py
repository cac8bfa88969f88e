"""Pins: the settings that would change a run folder's answers, so the folder is tied to them.

The folder keeps the pins of each of its runs. A row that was paid under any of them is finished:
see `repaid`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.core.errors import Refused
from pipeline.core.model import SANDBOX_HOST, JsonObject
from pipeline.inputs.mapping import Variables
from pipeline.inputs.table import SourceJob
from pipeline.job.access import URL_VARIABLE
from pipeline.job.frame import Frame
from pipeline.job.spec import JobSpec
from pipeline.job.spec_keys import DEFAULT_LOCALE
from pipeline.job.stage import Input
from pipeline.ledger import queries
from pipeline.ledger.pins import RULES, parsed_pins, read_pinned, rules_of
from pipeline.ledger.queries import reached
from pipeline.ledger.reader import Read

_NAMED = 5
_SHOWN = "shown"
_LOCALE = "locale"
_HIDDEN = "hidden"
_INPUT = "input"
_FRAME = "a frame"
_STAGE = "another job"
_SOURCE_COLUMNS = "source_columns"
_LAYOUT = ("separator", "header_row")
_RULES_WITH_LAYOUT = 3
_WORDS = {
    "workflow": "the workflow",
    "variables": "the variables or their columns",
    "constants": "the constants",
    "id": "the id column",
    "encoding": "the encoding",
    "sheet": "the worksheet",
    "separator": "the separator",
    "header_row": "the row of the column names",
    _SHOWN: "the columns that are sent as the sheet displays them",
    _HIDDEN: "the choice for hidden rows",
    _INPUT: "the source of the rows",
    _SOURCE_COLUMNS: "the columns of the job that the rows come from",
    RULES: "the rules that turn a cell into text",
}


@dataclass(frozen=True, slots=True)
class Pins:
    """The pins of the spec now, and all other sets of pins in the folder.

    `before` is the set of the last run, None in a new folder. `others` has the other sets by their
    number in the ledger.
    """

    now: JsonObject
    before: JsonObject | None
    others: dict[int, JsonObject]

    @property
    def changed(self) -> bool:
        """Whether the last run had other pins."""
        return self.before is not None and self.now != self.before

    @property
    def text(self) -> str:
        """The pins as the ledger stores them."""
        return pins_text(self.now)


def pins_text(pins: JsonObject) -> str:
    """Returns pins as JSON, the same text for the same pins."""
    return json.dumps(pins, ensure_ascii=False)


def shown_of(pins: JsonObject) -> tuple[tuple[str, ...], str | None]:
    """Returns the columns in a set of pins that are sent as the sheet displays them, and the
    language of the display."""
    return tuple(pins.get(_SHOWN, ())), pins.get(_LOCALE)


def layout_of(pins: JsonObject, spec: JobSpec) -> dict[str, Any]:
    """Returns the separator and the row of the column names in a set of pins. Releases before text
    rules 3 pinned neither, so theirs count as unchanged."""
    if rules_of(pins) < _RULES_WITH_LAYOUT:
        return {name: pins.get(name, getattr(spec, name)) for name in _LAYOUT}
    return {name: pins.get(name) for name in _LAYOUT}


def same_input(pins: JsonObject, now: JsonObject, spec: JobSpec) -> bool:
    """Whether the rows under a set of pins came from the same kind of input, and were read from the
    answers of another job in the same way. Otherwise the texts of now do not show those of then."""
    return pins.get(_INPUT) == _kind(spec.input) and (
        _kind(spec.input) != _STAGE or pins.get(_SOURCE_COLUMNS) == now.get(_SOURCE_COLUMNS)
    )


def _kind(input: Input) -> str | None:
    """The kind of the input. Earlier releases had only files, and store nothing for them."""
    if isinstance(input, Path):
        return None
    return _FRAME if isinstance(input, Frame) else _STAGE


def differences(before: JsonObject, now: JsonObject) -> list[str]:
    """Describes each setting that differs between two sets of pins, in words."""
    return [
        f"{words} changed {_difference(was, is_now)}"
        for name, words in _WORDS.items()
        if (was := _alone(name, before)) != (is_now := _alone(name, now))
    ]


def _alone(name: str, pinned: JsonObject) -> Any:
    """Returns the value pinned under `name`. The pinned variables include the constants, which are
    left out here because `constants` has them."""
    if name == RULES:
        return rules_of(pinned)
    if name == _SHOWN:
        columns, locale = shown_of(pinned)
        return f"{', '.join(columns)} ({locale})" if columns else None
    if name == _HIDDEN:
        return pinned.get(name, "send")
    if name == _INPUT:
        return pinned.get(name, "a file")
    if name in _LAYOUT:
        return pinned.get(name)
    if name == _SOURCE_COLUMNS:
        return pinned.get(name, {})
    if name != "variables":
        return pinned[name]
    return {variable: column for variable, column in pinned[name] if column is not None}


def _difference(before: Any, now: Any) -> str:
    """Shows a setting of one word with its old and new value. Of variables and constants it shows
    only the names that differ, because their texts may be long."""
    if not isinstance(now, dict):
        return f"from {before or 'none'} to {now or 'none'}"
    names = [name for name in {**before, **now} if before.get(name) != now.get(name)]
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return f"({', '.join(names[:_NAMED])}{more})"


def read_pins(
    read: Read,
    spec: JobSpec,
    variables: Variables,
    host: str,
    source: SourceJob | None = None,
) -> Pins:
    """Compares `spec` with the folder's pins. `source` is the job whose answers are the rows.

    Raises:
        Refused: if a request of this folder has reached another host: answers of two hosts never
            mix. A mistyped address that no request reached does not tie the folder to it.
    """
    now: JsonObject = {
        "host": host,
        "workflow": spec.workflow,
        "variables": [[s.name, s.column_name] for s in variables.sources],
        "constants": dict(spec.constants),
        "id": spec.id,
        "encoding": spec.encoding,
        "sheet": spec.sheet,
    }
    sent = {s.column_name for s in variables.sources} | {spec.id}
    if shown := sorted(name for name in sent if name is not None and spec.shows(name)):
        now |= {_SHOWN: shown, _LOCALE: spec.locale or DEFAULT_LOCALE}
    now |= {name: value for name in _LAYOUT if (value := getattr(spec, name)) is not None}
    if kind := _kind(spec.input):
        now[_INPUT] = kind
    if source is not None:
        read_by = {name: how for name, how in source.columns.items() if name in sent}
        now[_SOURCE_COLUMNS] = dict(sorted(read_by.items()))
    if spec.hidden != "send":  # earlier releases stored nothing for it
        now[_HIDDEN] = spec.hidden
    if spec.text_rules > 1:  # the first release stored no number for rules 1
        now[RULES] = spec.text_rules
    before = read_pinned(read)
    if before and not _same_host(before["host"], host, read) and read(reached):
        belongs = f"{spec.output}: this run folder belongs to {before['host']}, not to {host}."
        if before["host"] == SANDBOX_HOST:
            raise Refused(
                f"{belongs} It contains a rehearsal. To continue the rehearsal, add --sandbox. "
                "For the paid run, set another `output:`."
            )
        raise Refused(
            f"{belongs} To continue there, pass that address with --base-url or {URL_VARIABLE}. "
            "To send to another host, set another `output:`, which pays for every row."
        )
    known = {number: parsed_pins(text) for number, text in read(queries.pin_sets).items()}
    return Pins(now, before, {number: pins for number, pins in known.items() if pins != now})


def _same_host(before: str, now: str, read: Read) -> bool:
    """Compares hosts. Schema 1 pinned no path, so a folder that began with it is tied to the host
    alone."""
    if read(queries.meta(queries.BEGAN_WITH_SCHEMA_1)) and "/" not in before:
        now = now.partition("/")[0]
    return before == now


def pinned_workflow(read: Read) -> str | None:
    """Returns the workflow of the folder's last run, None before the first run."""
    pinned = read_pinned(read)
    return None if pinned is None else str(pinned["workflow"])
