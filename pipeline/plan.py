"""What a row is called, what is sent for it, and which rows a run sends. Pure.

A row's key is BLAKE2b-128 over the workflow and the (name, value) pairs sorted by name, each with
its length in front so that no two sets of pairs read alike. With an `id` column an answer belongs
to (id, key). Equal rows are told apart by their occurrence: 0, 1, 2 in the order of the sheet.
"""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from itertools import repeat

import numpy as np
import numpy.typing as npt

from pipeline.errors import Refused
from pipeline.model import Held, State
from pipeline.spec import JobSpec, nearest

KEY_BYTES = 16

ADDED_COLUMNS = ("result", "citations")

_SPAN = re.compile(r"(\d{1,12})(?:\s*-\s*(\d{1,12}))?")


@dataclass(frozen=True, slots=True)
class Source:
    """Where one variable's text comes from: a column (by position), or the spec itself."""

    name: str
    column: int | None
    constant: str = ""
    column_name: str | None = None


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


def key_of(workflow: str, variables: Mapping[str, str]) -> bytes:
    """The row key of variables as they were sent, in their order."""
    digest = blake2b(_sized(workflow), digest_size=KEY_BYTES)
    for name, text in variables.items():
        digest.update(_sized(name) + _sized(text))
    return digest.digest()


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
            if name not in ADDED_COLUMNS and not name.startswith("_") and name not in taken
        )
    for variable, column in pairs:
        if column not in place:
            raise Refused(
                f'{spec.at(f"variables.{variable}")}: {spec.input.name} has no column "{column}" '
                f'for the variable "{variable}".{nearest(column, place)} It has: '
                f"{', '.join(columns)}.{_one_column(columns)} Nothing was sent."
            )
    if spec.id is not None and spec.id not in place:
        raise Refused(
            f'{spec.at("id")}: {spec.input.name} has no column "{spec.id}".'
            f"{nearest(spec.id, place)} It has: {', '.join(columns)}. Nothing was sent."
        )
    sources = [Source(name, place[column], column_name=column) for name, column in pairs]
    sources += [Source(name, None, text) for name, text in spec.constants]
    if not any(source.column is not None for source in sources):
        raise Refused(f"{spec.input}: no column is mapped to a variable. Nothing was sent.")
    return Variables(spec.workflow, tuple(sorted(sources, key=lambda s: s.name)))


def _one_column(columns: Sequence[str]) -> str:
    if len(columns) > 1:
        return ""
    return " Only one column was found: is the separator none of comma, semicolon and tab?"


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
class RowNumbers:
    """Some rows of the sheet, as a person lists them: ``3,7-9``."""

    spans: tuple[tuple[int, int], ...]

    def __contains__(self, number: int) -> bool:
        return any(first <= number <= last for first, last in self.spans)

    @property
    def last(self) -> int:
        return max(last for _, last in self.spans)


def parse_rows(text: str) -> RowNumbers:
    """The rows that `text` lists, counted from 1 without the header.

    Raises:
        Refused: when it is not a list such as ``3,7-9``.
    """
    spans = []
    for piece in text.split(","):
        found = _SPAN.fullmatch(piece.strip())
        first, last = (int(found[1]), int(found[2] or found[1])) if found else (0, 0)
        if not 1 <= first <= last:
            raise Refused(
                f'"{text}" is not a list of rows. Write it like 3,7-9: data rows from 1, the '
                "header not counted. Nothing was sent."
            )
        spans.append((first, last))
    return RowNumbers(tuple(spans))


@dataclass(frozen=True, slots=True)
class Selection:
    """Which rows a command sends.

    `states` are the held states that are sent (a row that is not held is pending). `only` and
    `excluded` are error codes; `rows` and `limit` narrow the sheet. Rows that the user gave up are
    sent only when `rows` names them. `again` asks for another version of ok rows.
    """

    states: frozenset[State] = frozenset({State.PENDING})
    only: frozenset[str] | None = None
    excluded: frozenset[str] | None = None
    rows: RowNumbers | None = None
    limit: int | None = None
    again: bool = False

    def covers(self, number: int, code: str | None) -> bool:
        """Whether the command is about this row at all; others do not raise the exit code."""
        if self.limit is not None and number > self.limit:
            return False
        if self.rows is not None and number not in self.rows:
            return False
        if self.only is not None and code not in self.only:
            return False
        return self.excluded is None or code not in self.excluded

    def chooses(self, number: int, held: Held | None) -> bool:
        """Whether the row is sent."""
        state = held.state if held else State.PENDING
        if state not in self.states or not self.covers(number, held.code if held else None):
            return False
        return held is None or not held.given_up or self.rows is not None


def select_resume(
    *,
    only: frozenset[str] | None = None,
    excluded: frozenset[str] | None = None,
    rows: RowNumbers | None = None,
    ambiguous: bool = False,
    limit: int | None = None,
) -> Selection:
    """What `resume` sends: pending and failed rows; with codes failed ones alone; ambiguous ones
    only when asked for."""
    states = {State.FAILED}
    if only is None and excluded is None:
        states.add(State.PENDING)
    if ambiguous:
        states.add(State.AMBIGUOUS)
    return Selection(frozenset(states), only, excluded, rows, limit)


def select_again(rows: RowNumbers | None, limit: int | None = None) -> Selection:
    """What `run --again` sends: ok rows, as their next version."""
    return Selection(frozenset({State.OK}), rows=rows, limit=limit, again=True)


@dataclass(slots=True)
class Plan:
    """The rows to send, and what the sheet looks like beside the ledger.

    `send` and `covered` hold one flag a row of the sheet: what is sent, and what the exit code
    speaks of. `counts` are all rows, `kept` those that are not sent; `codes` counts the codes of
    those that are not ok. `new` rows were never attempted; `ambiguous_left` are covered and not
    sent. `chosen_ids` are ledger rows of the chosen ok ones; `risky` are the rows to be sent that
    may have been paid already, by their state.
    """

    send: npt.NDArray[np.bool_]
    covered: npt.NDArray[np.bool_]
    counts: Counter[State] = field(default_factory=Counter)
    kept: Counter[State] = field(default_factory=Counter)
    to_send: int = 0
    new: int = 0
    ambiguous_left: int = 0
    codes: Counter[str] = field(default_factory=Counter)
    chosen_ids: list[int] = field(default_factory=list)
    risky: dict[State, list[int]] = field(default_factory=lambda: defaultdict(list))


def empty_plan(rows: int) -> Plan:
    """A plan for a sheet of `rows` rows that sends none of them."""
    return Plan(np.zeros(rows, dtype=np.bool_), np.zeros(rows, dtype=np.bool_))


def add_batch(
    plan: Plan, numbers: Sequence[int], held: Sequence[Held | None], selection: Selection
) -> None:
    """Adds one batch to `plan`: the sheet rows `numbers`, and what is held for each."""
    for number, found in zip(numbers, held, strict=True):
        state = found.state if found else State.PENDING
        plan.counts[state] += 1
        if found and found.code and state is not State.OK:
            plan.codes[found.code] += 1
        plan.new += found is None
        plan.covered[number - 1] = selection.covers(number, found.code if found else None)
        if not selection.chooses(number, found):
            plan.kept[state] += 1
            plan.ambiguous_left += state is State.AMBIGUOUS and bool(plan.covered[number - 1])
            continue
        plan.send[number - 1] = True
        plan.to_send += 1
        if found and found.state is State.OK:
            plan.chosen_ids.append(found.row_id)
        if found and found.maybe_paid:
            plan.risky[found.state].append(number)


@dataclass(frozen=True, slots=True)
class SheetKeys:
    """The rows of one sheet, without the skipped ones: where each stands, a 64-bit digest of what
    it is, and one of its id where rows have ids."""

    numbers: npt.NDArray[np.int64]
    rows: npt.NDArray[np.uint64]
    ids: npt.NDArray[np.uint64] | None


@dataclass(frozen=True, slots=True)
class Drift:
    """How a sheet differs from the one of the last run, in rows."""

    same: int
    changed: int
    new: int
    gone: int


def drift(before: SheetKeys, now: SheetKeys) -> Drift:
    """Counts what is the same, changed, new and gone; the order of rows does not matter.

    A row is changed where its id stayed and its text did not; without ids, where another text
    stands at the place of one that has left the sheet.
    """
    fresh = ~np.isin(now.rows, before.rows)
    left = ~np.isin(before.rows, now.rows)
    if before.ids is not None and now.ids is not None:
        changed = int(np.isin(now.ids[fresh], before.ids[left]).sum())
    else:
        changed = int(np.isin(now.numbers[fresh], before.numbers[left]).sum())
    new, gone = int(fresh.sum()) - changed, int(left.sum()) - changed
    return Drift(len(now.rows) - changed - new, changed, new, gone)


def digests(identities: bytes) -> npt.NDArray[np.uint64]:
    """64 bits for each 16-byte identity in turn, equal ones told apart by their occurrence."""
    halves = np.frombuffer(identities, dtype=">u8").reshape(-1, 2).astype(np.uint64)
    spread = occurrences(identities).astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    found: npt.NDArray[np.uint64] = halves[:, 0] ^ (halves[:, 1] << np.uint64(1)) ^ spread
    return found


def _sized(text: str) -> bytes:
    raw = text.encode()
    return len(raw).to_bytes(8, "big") + raw
