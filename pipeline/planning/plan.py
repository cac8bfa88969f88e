"""What a row is called, what is sent for it, and which rows a run sends. Pure.

A row's key is BLAKE2b-128 over the workflow and the (name, value) pairs sorted by name, each with
its length in front so that no two sets of pairs read alike. With an `id` column an answer belongs
to (id, key). Equal rows are told apart by their occurrence: 0, 1, 2 in the order of the sheet.
"""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from itertools import repeat

import numpy as np
import numpy.typing as npt

from pipeline.core.errors import Refused
from pipeline.core.model import Held, State
from pipeline.core.wording import nearest
from pipeline.job.spec import JobSpec

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

    def keys(self, columns: Sequence[Sequence[str]]) -> list[bytes]:
        """The row key of each row of a batch, given as one list of texts per column.

        One call of the hash a row: 0.8 microseconds for two variables, a third of what it takes to
        feed it piece by piece.
        """
        start = _sized(self.workflow)
        pieces = [_pairs(source, columns) for source in self.sources]
        return [
            blake2b(b"".join((start, *row)), digest_size=KEY_BYTES).digest()
            for row in zip(*pieces, strict=False)
        ]

    def requests(self, columns: Sequence[Sequence[str]]) -> Iterator[Request]:
        """One request per row of a batch, given as one list of texts per column."""
        names = [source.name for source in self.sources]
        values = [
            repeat(s.constant) if s.column is None else columns[s.column] for s in self.sources
        ]
        for row_key, texts in zip(self.keys(columns), zip(*values, strict=False), strict=True):
            body = json.dumps(
                dict(zip(names, texts, strict=True)), ensure_ascii=False, separators=(",", ":")
            )
            yield Request(row_key, body.encode())


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
                f"{', '.join(columns)}.{_one_column(spec, columns)} Nothing was sent."
            )
    if spec.id is not None and spec.id not in place:
        raise Refused(
            f'{spec.at("id")}: {spec.input.name} has no column "{spec.id}".'
            f"{nearest(spec.id, place)} It has: {', '.join(columns)}. Nothing was sent."
        )
    sources = [Source(name, place[column], column_name=column) for name, column in pairs]
    sources += [Source(name, None, text) for name, text in spec.constants]
    if not any(source.column is not None for source in sources):
        raise Refused(
            f"{spec.input}: no column is mapped to a variable. Name some under "
            "`variables:`; those that begin with _ are sent only then. Nothing was sent."
        )
    return Variables(spec.workflow, tuple(sorted(sources, key=lambda s: s.name)))


def _one_column(spec: JobSpec, columns: Sequence[str]) -> str:
    if len(columns) > 1:
        return ""
    if spec.input.suffix.lower() in (".xlsx", ".xlsm"):
        return " Only one column was found: is another row the header? `header_row:` says which."
    return " Only one column was found: is the separator none of comma, semicolon and tab?"


def identity(row_key: bytes, row_id: str | None) -> bytes:
    """What an answer belongs to: the key, or (id, key)."""
    if row_id is None:
        return row_key
    return blake2b(row_key + row_id.encode(), digest_size=KEY_BYTES).digest()


def occurrences(identities: bytes) -> npt.NDArray[np.int32]:
    """For each 16-byte identity in turn, how many equal ones stand before it. 32 bytes a row."""
    order, group_start = _arranged(identities)
    ranks = np.empty(len(order), dtype=np.int32)
    ranks[order] = np.arange(len(order)) - group_start
    return ranks


@dataclass(frozen=True, slots=True)
class Duplicates:
    """Under `dedupe: true` the numbers of the sheet's rows that are equal to an earlier one, and
    for each the first of those: that one is sent, for all of them."""

    numbers: npt.NDArray[np.int64]
    firsts: npt.NDArray[np.int64]


def find_duplicates(row_keys: bytes, numbers: npt.NDArray[np.int64]) -> Duplicates:
    """The duplicates among rows with these 16-byte keys, which stand at these sheet rows."""
    order, group_start = _arranged(row_keys)
    first = np.empty(len(order), dtype=np.int64)
    first[order] = order[group_start]
    later = np.flatnonzero(first != np.arange(len(order)))
    return Duplicates(numbers[later], numbers[first[later]])


def no_duplicates() -> Duplicates:
    """What there is without `dedupe: true`."""
    none = np.zeros(0, dtype=np.int64)
    return Duplicates(none, none)


def _arranged(identities: bytes) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """16-byte identities in an order in which equal ones stand together, as in the sheet among
    themselves, and for each place of that order where its group begins."""
    high, low = np.frombuffer(identities, dtype=">u8").astype(np.uint64).reshape(-1, 2).T
    order = np.argsort(high, kind="stable")
    arranged = high[order]
    if (arranged[1:] == arranged[:-1]).any():  # else 64 bits tell all of them apart
        order = np.lexsort((low, high))
    begins = np.ones(len(order), dtype=bool)
    begins[1:] = (high[order[1:]] != high[order[:-1]]) | (low[order[1:]] != low[order[:-1]])
    return order, np.maximum.accumulate(np.where(begins, np.arange(len(order)), 0))


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

    def named(
        self, rows: int, numbers: npt.NDArray[np.int64] | None = None
    ) -> npt.NDArray[np.bool_]:
        """Which of a sheet's rows `rows` and `limit` leave in, one flag a row.

        `numbers` are the rows that are not skipped, by default all of them, in the order of the
        sheet. `limit` takes the first of these, done or not: a second run with the same limit sends
        nothing more. It counts rows and not requests: under `dedupe: true` duplicates count too.
        """
        named = np.ones(rows, dtype=np.bool_)
        if self.limit is not None:
            within = np.arange(1, rows + 1) if numbers is None else numbers
            named[within[self.limit :] - 1] = False
        if self.rows is not None:
            listed = np.zeros(rows, dtype=np.bool_)
            for first, last in self.rows.spans:
                listed[first - 1 : last] = True
            named &= listed
        return named

    def covers(self, code: str | None) -> bool:
        """Whether the command is about rows with this code at all; others do not raise the exit
        code."""
        if self.only is not None and code not in self.only:
            return False
        return self.excluded is None or code not in self.excluded

    def chooses(self, held: Held | None) -> bool:
        """Whether a row of which this is held is sent, if it is named."""
        if not self.regards(held):
            return False
        return held is None or not held.given_up or self.rows is not None

    def regards(self, held: Held | None) -> bool:
        """The same, as if no row had been given up."""
        state = held.state if held else State.PENDING
        return state in self.states and self.covers(held.code if held else None)


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

    `send`, `sent_unpaid` and `covered` hold one flag a row of the sheet: what is sent, what of that
    has never been paid, and what the exit code speaks of. `named` are the rows that the selection
    names, `asked` the same where naming a duplicate names the first of its equal rows; `weights`
    says for how many rows each stands.
    `counts` are all rows, `kept` those that are not sent; `codes` counts the codes of those that
    are not ok. `to_send`, `new` (never attempted) and `new_to_send` count requests,
    `ambiguous_left` the rows that are covered and not sent, `given_up_left` names those that the
    selection would send had they not been given up. `chosen_ids` are ledger rows of the chosen ok
    ones; `risky` are the rows to be sent that may have been paid already, by their state; those
    that the user took as failed are ambiguous there.
    """

    send: npt.NDArray[np.bool_]
    covered: npt.NDArray[np.bool_]
    named: npt.NDArray[np.bool_]
    asked: npt.NDArray[np.bool_]
    weights: npt.NDArray[np.int32]
    sent_unpaid: npt.NDArray[np.bool_]
    counts: Counter[State] = field(default_factory=Counter)
    kept: Counter[State] = field(default_factory=Counter)
    to_send: int = 0
    new: int = 0
    new_to_send: int = 0
    ambiguous_left: int = 0
    given_up_left: list[int] = field(default_factory=list)
    codes: Counter[str] = field(default_factory=Counter)
    chosen_ids: list[int] = field(default_factory=list)
    risky: dict[State, list[int]] = field(default_factory=lambda: defaultdict(list))


def empty_plan(
    rows: int,
    selection: Selection,
    duplicates: Duplicates | None = None,
    numbers: npt.NDArray[np.int64] | None = None,
) -> Plan:
    """A plan for a sheet of `rows` rows that sends none of them. `numbers` are those that are not
    skipped, by default all."""
    named = selection.named(rows, numbers)
    asked, weights = named.copy(), np.ones(rows, dtype=np.int32)
    if duplicates is not None:
        asked[duplicates.firsts[named[duplicates.numbers - 1]] - 1] = True
        np.add.at(weights, duplicates.firsts - 1, 1)
    flags = np.zeros(rows, dtype=np.bool_)
    return Plan(flags, flags.copy(), named, asked, weights, flags.copy())


@dataclass(frozen=True, slots=True)
class Alike:
    """Rows of the sheet of which the ledger holds the same: their numbers, and its own row of
    each."""

    held: Held
    numbers: npt.NDArray[np.int64]
    row_ids: npt.NDArray[np.int64]


def add_batch(
    plan: Plan, numbers: npt.NDArray[np.int64], known: Iterable[Alike], selection: Selection
) -> None:
    """Adds the sheet rows `numbers` to `plan`, duplicates left out; those that are not `known`
    are new."""
    new = numbers
    for alike in known:
        held = alike.held
        new = np.setdiff1d(new, alike.numbers, assume_unique=True)
        chosen = _add_alike(plan, alike.numbers, held, selection)
        if held.state is State.OK:
            plan.chosen_ids += alike.row_ids[chosen].tolist()
        if held.maybe_paid and chosen.any():
            state = State.AMBIGUOUS if held.settled else held.state
            plan.risky[state] += alike.numbers[chosen].tolist()
    _add_alike(plan, new, None, selection)


def finish_plan(plan: Plan, duplicates: Duplicates | None = None) -> None:
    """Gives each duplicate what became of the row that is sent for it."""
    if duplicates is not None:
        plan.covered[duplicates.numbers - 1] = plan.covered[duplicates.firsts - 1]
    plan.covered &= plan.named


def _add_alike(
    plan: Plan, numbers: npt.NDArray[np.int64], found: Held | None, selection: Selection
) -> npt.NDArray[np.bool_]:
    """Adds rows of which the same is held. Which of them are sent."""
    state, code = (found.state, found.code) if found else (State.PENDING, None)
    places = numbers - 1
    weights, asked = plan.weights[places], plan.asked[places]
    chosen: npt.NDArray[np.bool_] = asked & selection.chooses(found)
    if not len(numbers):
        return chosen
    plan.counts[state] += int(weights.sum())
    if code and state is not State.OK:
        plan.codes[code] += int(weights.sum())
    if found is None:
        plan.new += len(places)
        plan.new_to_send += int(chosen.sum())
    if found is None or not (found.maybe_paid or found.answered):
        plan.sent_unpaid[places[chosen]] = True
    plan.covered[places] = selection.covers(code)
    plan.send[places[chosen]] = True
    plan.to_send += int(chosen.sum())
    left = int(weights[~chosen].sum())
    if left:
        plan.kept[state] += left
    if found is not None and found.given_up and selection.regards(found):
        plan.given_up_left += numbers[asked & ~chosen].tolist()
    if state is State.AMBIGUOUS and selection.covers(code):
        plan.ambiguous_left += int(weights[asked & ~chosen].sum())
    return chosen


def _sized(text: str) -> bytes:
    raw = text.encode()
    return len(raw).to_bytes(8, "big") + raw


def _pairs(source: Source, columns: Sequence[Sequence[str]]) -> Iterable[bytes]:
    """One variable's name and text as they enter the key, row by row."""
    name = _sized(source.name)
    if source.column is None:
        return repeat(name + _sized(source.constant))
    return [name + _sized(text) for text in columns[source.column]]
