"""Reads the pins of a run folder: the settings of its last run that its answers depend on.

`planning.pinned_settings` compares them with the settings of now.
"""

from __future__ import annotations

from pipeline.core.errors import Refused
from pipeline.core.model import TEXT_RULES, JsonObject
from pipeline.ledger import queries
from pipeline.ledger.reader import Read
from pipeline.ledger.schema import altered
from pipeline.system.opening import as_object

RULES = "text_rules"


def read_pinned(read: Read) -> JsonObject | None:
    """Returns the pins of the last run, None before the first run.

    Raises:
        StorageFailed: if the record of them was altered.
    """
    stored = read(queries.meta(queries.PINNED))
    return parsed_pins(stored) if stored else None


def parsed_pins(text: str) -> JsonObject:
    """Returns pins from the text that the ledger stores.

    Raises:
        StorageFailed: if it was altered.
    """
    try:
        pins = as_object(text)
        if all(isinstance(pins[name], str) for name in ("host", "workflow")):
            return pins
    except (ValueError, KeyError):
        pass
    raise altered("the record of the pinned settings")


def rules_of(pins: JsonObject) -> int:
    """Returns the number of the text rules in a set of pins. The first release had rules 1 and did
    not store the number.

    Raises:
        Refused: for rules of a newer release.
    """
    rules = int(pins.get(RULES, 1))
    if rules > TEXT_RULES:
        raise Refused(
            f"This run folder turns cells into text by rules {rules}, but this release knows only "
            f"rules 1 to {TEXT_RULES}. Upgrade the runner."
        )
    return rules


def folder_rules(read: Read) -> int:
    """Returns the text rules that the folder began with or was moved to. A new folder has the
    newest ones.

    Raises:
        Refused: for rules of a newer release.
    """
    before = read_pinned(read)
    return TEXT_RULES if before is None else rules_of(before)
