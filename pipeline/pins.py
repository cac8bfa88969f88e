"""What a run folder is tied to: the things that would change its answers."""

from __future__ import annotations

import json

from pipeline.errors import Refused
from pipeline.ledger import SqliteLedger
from pipeline.model import JsonObject
from pipeline.plan import Variables
from pipeline.spec import JobSpec

_PINNED = "pinned"
_WORDS = {
    "workflow": "the workflow",
    "variables": "the names of the variables",
    "constants": "the constants",
    "id": "the column that names a row",
}


def check_pins(
    ledger: SqliteLedger,
    spec: JobSpec,
    variables: Variables,
    host: str,
    *,
    accept: bool,
) -> None:
    """Pins a new folder; refuses a change that would pay for finished rows again.

    `accept` takes any change but another host.

    Raises:
        Refused: with the number of rows that would be sent again.
    """
    now: JsonObject = {
        "host": host,
        "workflow": spec.workflow,
        "variables": [source.name for source in variables.sources],
        "constants": dict(spec.constants),
        "id": spec.id is not None,
    }
    before = json.loads(ledger.meta(_PINNED) or "{}")
    if before == now:
        return
    if before and before["host"] != host:
        raise Refused(
            f"{spec.output}: this folder's answers came from {before['host']}, not from "
            f"{host}. Use another `output:` for another host. Nothing was sent."
        )
    finished = ledger.count_ok() if before else 0
    changed = [words for name, words in _WORDS.items() if before and before[name] != now[name]]
    if finished and not accept:
        raise Refused(
            f"{spec.source}: {' and '.join(changed)} changed, so {finished} finished rows would "
            "be sent and paid again. Undo the change, use another `output:`, or pass "
            "--accept-changes. Nothing was sent."
        )
    ledger.set_meta(_PINNED, json.dumps(now, ensure_ascii=False))
