"""What a run folder is tied to: the things that would change its answers."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from pipeline.access import SANDBOX_HOST, URL_VARIABLE
from pipeline.errors import Refused
from pipeline.ledger import SqliteLedger
from pipeline.model import JsonObject
from pipeline.plan import Variables
from pipeline.records import Read, meta, reached
from pipeline.spec import JobSpec
from pipeline.wording import counted

_PINNED = "pinned"
_NAMED = 5
_WORDS = {
    "workflow": "the workflow",
    "variables": "the variables or their columns",
    "constants": "the constants",
    "id": "the column that names a row",
    "encoding": "the encoding",
    "sheet": "the sheet of the workbook",
}


@dataclass(frozen=True, slots=True)
class Pins:
    """What is pinned beside what the spec says now. `now` is equal to `before` on most runs."""

    now: JsonObject
    before: JsonObject | None

    @property
    def changed(self) -> list[str]:
        """What differs, in words; empty for a new folder."""
        if self.before is None:
            return []
        return [
            f"{words} ({_difference(before, now)})"
            for name, words in _WORDS.items()
            if (before := _alone(name, self.before)) != (now := _alone(name, self.now))
        ]


def _alone(name: str, pinned: JsonObject) -> Any:
    """What is pinned under `name`; the constants, which are variables too, only as themselves."""
    if name != "variables":
        return pinned[name]
    return {variable: column for variable, column in pinned[name] if column is not None}


def _difference(before: Any, now: Any) -> str:
    """The names that differ, as texts may be long; of what is one word both."""
    if not isinstance(now, dict):
        return f"{before or 'none'} before, {now or 'none'} now"
    names = [name for name in {**before, **now} if before.get(name) != now.get(name)]
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more


def read_pins(read: Read, spec: JobSpec, variables: Variables, host: str) -> Pins:
    """Compares `spec` with the folder's pins.

    Raises:
        Refused: for another host than the one that a request of this folder ever reached; their
            answers never mix. A mistyped address that nobody answers at ties the folder to nothing.
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
    stored = read(meta(_PINNED))
    before = json.loads(stored) if stored else None
    if before and before["host"] != host and read(reached):
        belongs = f"{spec.output}: this folder belongs to {before['host']}, not to {host}."
        if before["host"] == SANDBOX_HOST:
            raise Refused(
                f"{belongs} It holds a rehearsal: go on with --sandbox, or use another `output:` "
                "for the paid run. Nothing was sent."
            )
        raise Refused(
            f"{belongs} Name that address by --base-url or {URL_VARIABLE}, or use another "
            "`output:` for another host. Nothing was sent."
        )
    return Pins(now, before)


def pinned_workflow(read: Read) -> str | None:
    """The workflow that the folder's last run was for; None before the first."""
    stored = read(meta(_PINNED))
    return None if stored is None else str(json.loads(stored)["workflow"])


def refuse_repaying(spec: JobSpec, pins: Pins, repaid: int) -> None:
    """Raises if a changed spec would send rows again that were or may have been paid.

    `repaid` is how many those are. A sheet that changed is another matter: its new rows are new.

    Raises:
        Refused: with that number and with what changed.
    """
    if pins.changed and repaid:
        raise Refused(
            f"{spec.source}: {' and '.join(pins.changed)} changed, so "
            f"{counted(repaid, 'finished row')} would be sent and paid again. Undo the change; or, "
            "to pay for them again, say --accept-changes, or use another `output:`, which keeps "
            "these answers apart. Nothing was sent."
        )


def write_pins(ledger: SqliteLedger, pins: Pins) -> None:
    """Ties the folder to what the spec says now."""
    if pins.now != pins.before:
        ledger.set_meta(_PINNED, json.dumps(pins.now, ensure_ascii=False))
