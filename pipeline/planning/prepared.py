"""A sheet that was read and laid over the ledger: what is sent, and what the user is asked."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from pipeline.inputs.checks import Skip
from pipeline.inputs.mapping import Variables
from pipeline.inputs.snapshot import Snapshot
from pipeline.inputs.table import Table
from pipeline.planning.changes import MassChange, MovedRow
from pipeline.planning.pinned_settings import Pins
from pipeline.planning.plan import Plan
from pipeline.planning.repaid import Repaid


@dataclass(frozen=True, slots=True)
class Neighbour:
    """Another run folder in which `rows` of the rows to send were or may have been paid."""

    path: Path
    rows: int


@dataclass(frozen=True, slots=True)
class OpenSheet:
    """The spec's sheet, opened: its header is known to fit, its rows are not read yet."""

    table: Table
    variables: Variables


@dataclass(frozen=True, slots=True)
class Prepared:
    """A sheet that was read and laid over the ledger.

    `moved`, `mass_change` and `neighbours` are what its user may not know of the rows to send.

    `skips` counts the skipped rows that have no answer, by reason; the others, `kept_answers`, have
    one from before they were skipped. `repaid` is what a changed spec would pay for again.
    """

    snapshot: Snapshot
    variables: Variables
    plan: Plan
    pins: Pins
    skips: Counter[Skip]
    kept_answers: int
    repaid: Repaid
    moved: tuple[MovedRow, ...]
    mass_change: MassChange | None
    neighbours: tuple[Neighbour, ...]
