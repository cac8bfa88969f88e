"""The answers of a job in one view of its ledger: where they are, and which have a property."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.results.answer_index import Segment
from pipeline.results.answered_sheet import AnsweredSheet
from pipeline.results.edits import Edits
from pipeline.results.lookup import Load
from pipeline.results.row_states import Shown as States

Mask = npt.NDArray[np.bool_]
Numbers = npt.NDArray[np.int64]
Hits = Callable[["Held", str | None, Segment | None], Numbers]
"""Returns keys of answers from a part, its name in the index, and its segment if that is in memory.
"""


@dataclass(frozen=True, slots=True)
class Held:
    """What stays in memory of a segment."""

    keys: Numbers
    texts: Numbers
    variables: Numbers
    flags: npt.NDArray[np.uint8]

    def with_flag(self, number: int) -> Numbers:
        """The keys of the answers with a flag."""
        has = np.unpackbits(self.flags[number], count=len(self.keys)).astype(bool)
        found: Numbers = self.keys[has]
        return found


@dataclass(frozen=True, slots=True)
class Source:
    """A part, or answers that the ledger still holds, which have no name in the index."""

    load: Load
    held: Held
    name: str | None
    segment: Segment | None = None


@dataclass(frozen=True, slots=True)
class Edited:
    """The edited answers, and their keys."""

    keys: Numbers
    segments: Sequence[tuple[Held, Segment]]


@dataclass(frozen=True, slots=True)
class View:
    """What one view of the ledger shows. `stamp` differs if anything does."""

    source: AnsweredSheet
    states: States
    sources: Sequence[Source]
    edits: Edits
    edited: Edited
    stamp: object

    def having(self, hits: Hits) -> Mask:
        """The rows whose answers `hits` finds. It gets each part, its name in the index, and the
        segment if that is in memory."""
        keys = [hits(one.held, one.name, one.segment) for one in self.sources]
        found = np.concatenate([np.empty(0, np.int64), *keys])
        found = found[~np.isin(found, self.edited.keys)]
        again = [hits(held, None, segment) for held, segment in self.edited.segments]
        return np.isin(self.states.key, np.concatenate([found, *again]))

    def hashes(self) -> tuple[Numbers, Numbers, Numbers]:
        """The keys of all answers, and the hashes of their texts and variables."""
        held = [one.held for one in self.sources]
        paid = [joined_of(held, name) for name in ("keys", "texts", "variables")]
        kept = ~np.isin(paid[0], self.edited.keys)
        again = [held for held, _ in self.edited.segments]
        edited = [joined_of(again, name) for name in ("keys", "texts", "variables")]
        keys, texts, variables = (
            np.concatenate([one[kept], other]) for one, other in zip(paid, edited, strict=True)
        )
        return keys, texts, variables

    def places_of(self, rows: Numbers) -> tuple[list[Load], list[tuple[Numbers, Numbers]]]:
        """What loads the answers of some rows, and for each the positions and the rows."""
        keys = self.states.key[rows - 1]
        loads, places = [], []
        for one in self.sources:
            at = np.flatnonzero(np.isin(one.held.keys, keys[keys >= 0]))
            if len(at):
                pairs = [(n, row) for n in at for row in rows[keys == one.held.keys[n]]]
                loads.append(one.load)
                positions, of_sheet = np.array(pairs, np.int64).T
                places.append((positions, of_sheet))
        return loads, places


def joined_of(held: Sequence[Held], name: str) -> Numbers:
    return np.concatenate([np.empty(0, np.int64), *(getattr(one, name) for one in held)])
