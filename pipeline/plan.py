"""What a row is called, what is sent for it, and which rows a run sends. Pure.

A row's key is BLAKE2b-128 over the workflow and the (name, value) pairs sorted by name, each with
its length in front so that no two sets of pairs read alike. With an `id` column an answer belongs
to (id, key). Equal rows are told apart by their occurrence: 0, 1, 2 in the order of the sheet.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from itertools import repeat

import numpy as np
import numpy.typing as npt

from pipeline.errors import Refused
from pipeline.model import Held, State
from pipeline.spec import JobSpec, nearest

KEY_BYTES = 16

_ADDED = ("result", "citations")


@dataclass(frozen=True, slots=True)
class Source:
    """Where one variable's text comes from: a column (by position), or the spec itself."""

    name: str
    column: int | None
    constant: str = ""


@dataclass(frozen=True, slots=True)
class Request:
    """What one row asks for: its key and the exact bytes of its body."""

    row_key: bytes
    body: bytes


@dataclass(frozen=True, slots=True)
class Variables:
    """How a sheet's columns become the flat map of variables that the API takes."""

    workflow: str
    sources: tuple[Source, ...]

    @property
    def mapped(self) -> tuple[int, ...]:
        """Positions of the columns that are sent."""
        return tuple(s.column for s in self.sources if s.column is not None)

    def requests(self, columns: Sequence[Sequence[str]]) -> Iterator[Request]:
        """One request per row of a batch, given as one list of texts per column."""
        names = [source.name for source in self.sources]
        values = [
            repeat(s.constant) if s.column is None else columns[s.column] for s in self.sources
        ]
        start = blake2b(_sized(self.workflow), digest_size=KEY_BYTES)
        sized_names = [_sized(name) for name in names]
        for texts in zip(*values, strict=False):
            digest = start.copy()
            for sized_name, text in zip(sized_names, texts, strict=True):
                digest.update(sized_name + _sized(text))
            body = json.dumps(
                dict(zip(names, texts, strict=True)), ensure_ascii=False, separators=(",", ":")
            )
            yield Request(digest.digest(), body.encode())


def bind(spec: JobSpec, columns: Sequence[str]) -> Variables:
    """The spec's mapping, tied to the columns of its sheet.

    Raises:
        Refused: when a mapped column is not there, or the sheet has a column `result` that
            nobody mapped and that no earlier export explains.
    """
    place = {name: position for position, name in enumerate(columns)}
    if spec.variables is not None:
        pairs = spec.variables
    else:
        if "result" in place and "_status" not in place:
            raise Refused(
                f'{spec.input}: the column "result" would be mistaken for an answer. '
                "Map it under `variables:` or rename it. Nothing was sent."
            )
        taken = {name for name, _ in spec.constants}
        pairs = tuple(
            (name, name)
            for name in columns
            if name not in _ADDED and not name.startswith("_") and name not in taken
        )
    for variable, column in pairs:
        if column not in place:
            raise Refused(
                f'{spec.input}: there is no column "{column}" for the variable '
                f'"{variable}".{nearest(column, place)} It has: '
                f"{', '.join(columns)}. Nothing was sent."
            )
    if spec.id is not None and spec.id not in place:
        raise Refused(
            f'{spec.input}: there is no column "{spec.id}" for `id:`.'
            f"{nearest(spec.id, place)} Nothing was sent."
        )
    sources = [Source(variable, place[column]) for variable, column in pairs]
    sources += [Source(name, None, text) for name, text in spec.constants]
    if not any(source.column is not None for source in sources):
        raise Refused(f"{spec.input}: no column is mapped to a variable. Nothing was sent.")
    return Variables(spec.workflow, tuple(sorted(sources, key=lambda s: s.name)))


def identity(row_key: bytes, row_id: str | None) -> bytes:
    """What an answer belongs to: the key, or (id, key)."""
    if row_id is None:
        return row_key
    return blake2b(row_key + row_id.encode(), digest_size=KEY_BYTES).digest()


def occurrences(identities: bytes) -> npt.NDArray[np.int32]:
    """For each 16-byte identity in turn, how many equal ones stand before it. 28 bytes a row."""
    pairs = np.frombuffer(identities, dtype=">u8").reshape(-1, 2)
    count = len(pairs)
    order = np.lexsort((pairs[:, 1], pairs[:, 0]))
    arranged = pairs[order]
    begins = np.ones(count, dtype=bool)
    begins[1:] = (arranged[1:] != arranged[:-1]).any(axis=1)
    positions = np.arange(count)
    group_start = np.maximum.accumulate(np.where(begins, positions, 0))
    ranks = np.empty(count, dtype=np.int32)
    ranks[order] = positions - group_start
    return ranks


@dataclass(frozen=True, slots=True)
class Selection:
    """Which held states a command sends again, and how many rows of the sheet it looks at."""

    states: frozenset[State] = frozenset({State.PENDING})
    limit: int | None = None


@dataclass(slots=True)
class Plan:
    """The rows to send, one flag a row, and what the sheet looks like beside the ledger."""

    send: npt.NDArray[np.bool_]
    counts: Counter[State] = field(default_factory=Counter)
    to_send: int = 0
    new: int = 0


def empty_plan(rows: int) -> Plan:
    """A plan for a sheet of `rows` rows that sends none of them."""
    return Plan(send=np.zeros(rows, dtype=np.bool_))


def add_batch(
    plan: Plan, numbers: Sequence[int], held: Sequence[Held | None], selection: Selection
) -> None:
    """Adds one batch to `plan`: the sheet rows `numbers`, and what is held for each."""
    for number, found in zip(numbers, held, strict=True):
        state = found.state if found else State.PENDING
        plan.counts[state] += 1
        plan.new += found is None
        chosen = selection.limit is None or number <= selection.limit
        if state in selection.states and chosen:
            plan.send[number - 1] = True
            plan.to_send += 1


def _sized(text: str) -> bytes:
    raw = text.encode()
    return len(raw).to_bytes(8, "big") + raw
