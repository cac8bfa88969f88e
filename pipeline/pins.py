"""What a run folder is tied to: the things that would change its answers."""

from __future__ import annotations

import json
from dataclasses import dataclass

from pipeline.access import URL_VARIABLE
from pipeline.errors import Refused
from pipeline.ledger import SqliteLedger
from pipeline.model import JsonObject
from pipeline.plan import Variables
from pipeline.records import Read, meta, reached
from pipeline.spec import JobSpec

_PINNED = "pinned"
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
        return [words for name, words in _WORDS.items() if self.before[name] != self.now[name]]


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
        raise Refused(
            f"{spec.output}: this folder belongs to {before['host']}, not to {host}. "
            f"Name that address by --base-url or {URL_VARIABLE}, or use another `output:` for "
            "another host. Nothing was sent."
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
            f"{spec.source}: {' and '.join(pins.changed)} changed, so {repaid} finished rows "
            "would be sent and paid again. Undo the change, use another `output:`, or pass "
            "--accept-changes. Nothing was sent."
        )


def write_pins(ledger: SqliteLedger, pins: Pins) -> None:
    """Ties the folder to what the spec says now."""
    if pins.now != pins.before:
        ledger.set_meta(_PINNED, json.dumps(pins.now, ensure_ascii=False))
