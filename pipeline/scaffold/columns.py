"""Reads the columns of a sheet for a first job file: which of them can be variables."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.core.added_columns import exported_columns
from pipeline.core.errors import NothingWritten
from pipeline.inputs.table import NO_ROWS, Table
from pipeline.inputs.unseen import Unseen

_NAME_CHARACTERS = 60
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@dataclass(frozen=True, slots=True)
class Column:
    """A column of the sheet. `example` is its first text. `empty` counts empty cells, and `blank`
    also counts those with only spaces. `unique` is true if no text occurs twice, and `short` if
    every text has the length of a name and no space. `flaw` is why it cannot be sent."""

    name: str
    variable: str
    example: str
    empty: int
    blank: int
    unique: bool
    short: bool
    flaw: str = ""


def variable_names(columns: Sequence[str]) -> list[str]:
    """Returns for each column a name that a template can contain between ``{{`` and ``}}``.

    A name consists of ASCII letters, digits and _, and no two are equal. The only rule that the API
    documents is that names must match the template's exactly.
    """
    names: list[str] = []
    used, numbers = set(columns), Counter[str]()
    for position, column in enumerate(columns, start=1):
        used.discard(column)
        name = column
        if not (_VARIABLE.fullmatch(column) and len(column) <= _NAME_CHARACTERS):
            plain = (
                unicodedata.normalize("NFKD", column.casefold()).encode("ascii", "ignore").decode()
            )
            name = re.sub(r"[^A-Za-z0-9]+", "_", plain).strip("_")[:_NAME_CHARACTERS]
            if not name or name[0].isdigit():
                name = f"column_{name or position}"
        names.append(_unlike(name, used, numbers))
        used.add(names[-1])
    return names


def _unlike(name: str, used: set[str], numbers: Counter[str]) -> str:
    """Returns `name`, with the next of its `numbers` if another column already has it."""
    found = name
    while found in used:
        numbers[name] += 1
        found = f"{name}_{numbers[name] + 1}"
    return found


class Gaps:
    """The empty cells of a sheet, with one bit for each."""

    def __init__(self) -> None:
        self._bits: list[np.ndarray] = []
        self.blank_rows = 0

    def add(self, empty: np.ndarray) -> None:
        """Adds a batch. `empty` has one line per column and one flag per row."""
        self._bits.append(np.packbits(empty, axis=0))
        self.blank_rows += int(empty.all(axis=0).sum())

    def rows_in(self, columns: list[bool]) -> int:
        """Returns how many rows have an empty cell in one of the chosen columns."""
        chosen = np.packbits(columns)[:, None]
        return sum(int((bits & chosen).any(axis=0).sum()) for bits in self._bits)


def read_columns(table: Table, unseen: Unseen) -> tuple[list[Column], int, Gaps]:
    """Returns the columns, the number of rows, and the empty cells."""
    width = len(table.columns)
    examples, empty, blank = [""] * width, [0] * width, [0] * width
    short = [True] * width
    hashes: list[list[np.ndarray]] = [[] for _ in range(width)]
    gaps, rows = Gaps(), 0
    for whole in table.batches():
        _, totals = unseen.add(whole)
        batch = whole.without(totals)
        found = np.zeros((width, len(batch)), dtype=np.bool_)
        for position, texts in enumerate(batch.columns):
            found[position] = [not text for text in texts]
            empty[position] += int(found[position].sum())
            blank[position] += sum(not text.strip() for text in texts)
            examples[position] = examples[position] or next(filter(None, texts), "")
            short[position] &= all(len(t) <= _NAME_CHARACTERS and " " not in t for t in texts)
            hashes[position].append(np.fromiter(map(hash, texts), np.int64, len(texts)))
        gaps.add(found)
        rows += len(batch)
    if not rows:
        raise NothingWritten(f"{table.input}: {NO_ROWS}")
    columns = [
        Column(
            name,
            variable,
            examples[position],
            empty[position],
            blank[position],
            bool(np.diff(np.sort(np.concatenate(hashes[position]))).all()),
            short[position],
            table.found.flaws.get(position, ""),
        )
        for position, (name, variable) in enumerate(
            zip(table.columns, variable_names(table.columns), strict=True)
        )
    ]
    return columns, rows, gaps


def mapped_columns(columns: Sequence[Column]) -> frozenset[Column]:
    """The columns that are variables: not those that cannot be sent, those of an earlier run, and
    the wholly empty ones. The last two are variables if there are no others."""
    earlier = exported_columns(column.name for column in columns)
    own = [c for c in columns if not (c.name.startswith("_") or c.name in earlier or c.flaw)]
    filled = [c for c in own if c.example]
    sound = [c for c in columns if not c.flaw]
    return frozenset(filled or own or sound)
