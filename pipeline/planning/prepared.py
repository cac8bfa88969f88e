"""A sheet that was read and compared with the ledger: the rows to send, and the facts for the
questions to the user."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.inputs.checks import Skip
from pipeline.inputs.mapping import Variables
from pipeline.inputs.row_names import RowNames
from pipeline.inputs.snapshot import Snapshot
from pipeline.inputs.table import Table
from pipeline.ledger.queries import BY_ROWS
from pipeline.ledger.reviews import NO_REVIEWS, Reviews
from pipeline.planning.changes import MassChange, MovedRow
from pipeline.planning.pinned_settings import Pins
from pipeline.planning.plan import Plan
from pipeline.planning.repaid import Repaid
from pipeline.planning.selection import Flagged


@dataclass(frozen=True, slots=True)
class Neighbour:
    """Another run folder in which `rows` of the rows to send were or may have been paid."""

    path: Path
    rows: int


@dataclass(frozen=True, slots=True)
class Neighbours:
    """The other run folders that have paid for rows to send, the one with the most rows first, and
    those of which this is not known, because another program has locked the ledger."""

    paid: tuple[Neighbour, ...] = ()
    locked: tuple[Path, ...] = ()


@dataclass(frozen=True, slots=True)
class OpenSheet:
    """The spec's sheet, opened. Its header fits the spec; its rows are not read yet."""

    table: Table
    variables: Variables


Links = Mapping[str, list[int]]
"""The ledger's rows whose reviewed answers a changed row keeps, by the name of the changed row."""


@dataclass(frozen=True, slots=True)
class KeptByReview:
    """The changed rows that are not sent because of a review, with the ledger's row of the answer
    that each keeps. `links` are those of all runs so far, None if they are the same as before.
    `last_review` is the last review that the plan knows."""

    rows: Mapping[int, int] = field(default_factory=dict)
    links: Links | None = None
    last_review: int = 0


@dataclass(frozen=True, slots=True)
class Prepared:
    """A sheet that was read and compared with the ledger.

    `moved`, `mass_change` and `neighbours` are facts about the rows to send that the user may not
    know. `names` names the rows that questions and notices list. `skips` counts the skipped rows
    without an answer, by reason. `kept_answers` counts the skipped rows that have an answer from an
    earlier run. `repaid` has the rows that a changed spec would pay for again. `flagged` has the
    rows that the flags of the selection choose, None without flags. `stale` counts the rows to send
    whose paid answer was made from an earlier answer of the job that the rows come from. `reviews`
    are the reviews that the plan knows, and `by_review` the changed rows that are not sent because
    of them. `paid_source`: a rehearsal reads the paid answers of the job that the rows come from.
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
    neighbours: Neighbours
    names: RowNames
    flagged: Flagged | None = None
    stale: int = 0
    reviews: Reviews = NO_REVIEWS
    by_review: KeptByReview = field(default_factory=KeptByReview)
    paid_source: bool = False

    @property
    def again(self) -> Mapping[int, str]:
        """The ledger's rows that get another version, and why the user asks for it."""
        if self.flagged is None:
            return dict.fromkeys(self.plan.chosen_ids, BY_ROWS)
        return {row_id: self.flagged.reasons[row_id] for row_id in self.plan.chosen_ids}
