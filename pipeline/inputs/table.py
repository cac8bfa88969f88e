"""What every kind of sheet looks like once it is open: columns, and batches of texts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from pipeline.errors import Refused
from pipeline.spec import JobSpec, nearest

BATCH_ROWS = 2000


@dataclass(frozen=True, slots=True)
class Batch:
    """Consecutive data rows, as one list of texts per column.

    `places[i]` is where the user finds row i: a line of a text file, a row of anything else.
    """

    columns: list[list[str]]
    places: list[int]

    def __len__(self) -> int:
        return len(self.places)

    def split(self, at: int) -> tuple[Batch, Batch]:
        """The rows before `at`, and the rest."""
        if at == len(self):
            return self, Batch([[] for _ in self.columns], [])
        first = Batch([column[:at] for column in self.columns], self.places[:at])
        return first, Batch([column[at:] for column in self.columns], self.places[at:])


@dataclass(frozen=True, slots=True)
class Table:
    """An open sheet: its column names in order, and its rows, readable once.

    `place_word` says what a place counts: "line" or "row".
    """

    path: Path
    columns: tuple[str, ...]
    place_word: str
    batches: Callable[[], Iterator[Batch]]


def open_table(spec: JobSpec) -> Table:
    """The sheet that `spec` names.

    Raises:
        Refused: when it is not there, of no known kind, or its header cannot be used. Rows are
            read lazily and refused in the same way while `batches` goes through them.
    """
    from pipeline.inputs.delimited import open_delimited
    from pipeline.inputs.parquet import open_parquet

    kinds: dict[str, Callable[[JobSpec], Table]] = {
        ".csv": open_delimited,
        ".tsv": open_delimited,
        ".parquet": open_parquet,
    }
    path = spec.input
    opener = kinds.get(path.suffix.lower())
    if opener is None:
        raise Refused(
            f"{path}: cannot read a file with the ending {path.suffix!r}; "
            f"use {', '.join(kinds)}. Nothing was sent."
        )
    if not path.is_file():
        beside = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
        raise Refused(
            f"{path}: there is no such file.{nearest(path.name, beside)} Nothing was sent."
        )
    try:
        table = opener(spec)
        table = replace(table, batches=partial(_without_blank_end, table.batches))
    except OSError as error:
        raise Refused(
            f"{path}: cannot be read ({error.strerror or error}). Nothing was sent."
        ) from None
    _check_header(path, table.columns)
    return table


def _without_blank_end(batches: Callable[[], Iterator[Batch]]) -> Iterator[Batch]:
    """Rows up to the last one that holds anything: what follows it is no row of the sheet."""
    held: list[Batch] = []
    for batch in batches():
        filled_rows = _filled_rows(batch)
        if not filled_rows:
            held.append(batch)
            continue
        yield from held
        held = []
        filled, rest = batch.split(filled_rows)
        yield filled
        if len(rest):
            held.append(rest)


def _filled_rows(batch: Batch) -> int:
    """How many rows are left without the blank ones at the end."""
    for row in range(len(batch) - 1, -1, -1):
        if any(column[row] for column in batch.columns):
            return row + 1
    return 0


def _check_header(path: Path, columns: tuple[str, ...]) -> None:
    seen: set[str] = set()
    for position, name in enumerate(columns, start=1):
        if not name.strip():
            raise Refused(
                f"{path}: column {position} has no name in the header. "
                "Name it or remove it. Nothing was sent."
            )
        if name in seen:
            raise Refused(
                f'{path}: the header names "{name}" twice. Rename one of them. Nothing was sent.'
            )
        seen.add(name)
