"""Names rows in messages: by their number, as the user's program shows them, and by their id.

A row number counts the rows below the column names, and is the number that `--rows` takes. A
spreadsheet program and an editor count from the top of the file. So a message has both numbers,
unless they are equal, and the id with its column if the job has one: `row 24 (Sheet1 row 25, SKU
1024)`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from pipeline.core.wording import NAMED, counted, listed, one_line
from pipeline.inputs.stored import Copy, stored_names

_ID_CHARACTERS = 40
_LISTED_ID_CHARACTERS = 20


@dataclass(frozen=True, slots=True)
class RowNames:
    """The places and ids of some rows, by row number. `word` says what a place counts: "line",
    "row" or "Sheet1 row". Without any, a row has only its number."""

    word: str | None = None
    places: Mapping[int, int] = field(default_factory=dict)
    id_column: str | None = None
    ids: Mapping[int, str] = field(default_factory=dict)

    def row(self, number: int) -> str:
        """Returns ``row 24 (Sheet1 row 25, SKU 1024)``."""
        more = [*self._places([number]), *self._ids([number], _ID_CHARACTERS)]
        return _named(f"row {number}", ", ", more)

    def rows(self, numbers: Sequence[int], total: int | None = None) -> str:
        """Returns ``rows 3, 7 (Sheet1 rows 4, 8; SKU 1003, 1007)``. `total` is the number of all
        rows if `numbers` is only a part."""
        if len(numbers) == 1 and total in (None, 1):
            return self.row(numbers[0])
        first = list(numbers[:NAMED])
        more = [*self._places(first), *self._ids(first, _LISTED_ID_CHARACTERS)]
        return _named(listed(numbers, total), "; ", more)

    def without_ids(self) -> RowNames:
        """Returns the same without texts of the sheet, for messages that are logged."""
        return replace(self, id_column=None, ids={})

    def _places(self, numbers: list[int]) -> list[str]:
        """The rows as the user's program numbers them. Empty if it numbers them as the runner does,
        and if the place of one is not known."""
        places = [self.places[number] for number in numbers if number in self.places]
        if places == numbers or len(places) < len(numbers):
            return []
        return [f"{self.word}{'s' if len(places) > 1 else ''} {', '.join(map(str, places))}"]

    def _ids(self, numbers: list[int], most: int) -> list[str]:
        ids = [one_line(self.ids[number], most) for number in numbers if number in self.ids]
        column = one_line(self.id_column or "", _LISTED_ID_CHARACTERS)
        return [f"{column} {', '.join(ids)}"] if ids else []


def row_names(snapshot: Copy | None, numbers: Iterable[int]) -> RowNames:
    """Returns the names of some rows of a snapshot. A snapshot of an earlier release, and a missing
    one, has only numbers.

    Raises:
        StorageFailed: if it cannot be read.
    """
    return RowNames() if snapshot is None else RowNames(*stored_names(snapshot, numbers))


def no_such_row(number: int, sheet: str, rows: int, snapshot: Copy | None) -> str:
    """Returns the refusal of a row number beyond the `rows` of a sheet. It says what row numbers
    count, because the user may have taken this one from a spreadsheet program."""
    text = f"There is no row {number}: {sheet} has {counted(rows, 'data row')}."
    if not rows:
        return text
    names = row_names(snapshot, [rows]).without_ids()
    return (
        f"{text} Row 1 is the first row below the column names, and the last is {names.row(rows)}."
    )


def _named(rows: str, between: str, more: list[str]) -> str:
    return f"{rows} ({between.join(more)})" if more else rows
