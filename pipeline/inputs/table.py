"""The common form of every open sheet: columns, and batches of texts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.core.errors import Refused
from pipeline.job.stage import Input

if TYPE_CHECKING:
    import pyarrow as pa

    from pipeline.inputs.beginning import Beginning

BATCH_ROWS = 2000
NAMED = 5
"""The number of cells that a message names."""
NO_ROWS = "the sheet has no rows below the column names. Add at least one."
MAX_COLUMNS = 16_384
"""The limit of a worksheet in Excel."""
MAX_NAME_CHARACTERS = 32_767
"""For the name of one column: the limit of a cell in Excel."""
MAX_NAMES_CHARACTERS = 1_000_000
"""For all names together. A name is in memory, in the job file and in messages many times."""
_MOST_CELLS = 50
MAX_CELL_CHARACTERS = 32 << 20
# A small file can contain a billion blank rows.
_MANY_BLANK_ROWS = 500_000
_BLANK_BESIDE_FILLED = 100
_BATCH_CELLS = 4_000_000
BATCH_CHARACTERS = 8_000_000


class Origin(NamedTuple):
    """The row of another job that a row comes from: the ledger's row there, the attempt and the
    edit of its answer. `waits` says why it has no answer to send yet; None: it has one."""

    row: int
    attempt: int
    edit: str | None = None
    waits: str | None = None


@dataclass(frozen=True, slots=True)
class Batch:
    """Consecutive data rows, as one list of texts per column.

    `places[i]` is where the user finds row i: the line in a text file, or else the row number.
    `origins` has one entry per row if the rows come from another job. `keys` are the row keys in
    hex if the rows come from the copy of the last run, null for a row that was skipped then.
    """

    columns: Sequence[Sequence[str]]
    places: Sequence[int]
    origins: list[Origin] | None = None
    keys: pa.Array | None = None

    def __len__(self) -> int:
        return len(self.places)

    def without(self, rows: npt.NDArray[np.bool_]) -> Batch:
        """Returns the batch without the rows whose flag is set."""
        if not rows.any():
            return self
        kept = np.flatnonzero(~rows).tolist()
        columns = [[column[row] for row in kept] for column in self.columns]
        origins = self.origins and [self.origins[row] for row in kept]
        return Batch(columns, [self.places[row] for row in kept], origins)

    def split(self, at: int) -> tuple[Batch, Batch]:
        """Returns the rows before `at`, and the rest."""
        if at == len(self):
            return self, Batch([[] for _ in self.columns], [])
        first = Batch([column[:at] for column in self.columns], self.places[:at])
        return first, Batch([column[at:] for column in self.columns], self.places[at:])


@dataclass(slots=True)
class Tally:
    """Counts cells or rows, and keeps the first of them for a message."""

    count: int = 0
    first: list[str] = field(default_factory=list)

    def add(self, where: Callable[[], str], number: int = 1) -> None:
        self.count += number
        if len(self.first) < NAMED:
            self.first.append(where())


@dataclass(slots=True)
class Findings:
    """What a reader notices while it reads the rows. It is complete after the last row.

    `flaws` says, by the position of a column, why it cannot be sent. A column that is sent is
    refused instead. `cells` has the first cells of a workbook for which that is so, as (position of
    the column, row, reason). `strays` are the cells of a workbook that are in no column of the
    table, and `stray_columns` their columns. `hidden` has one byte for each row of a workbook by
    its number, `hidden_columns` the positions of hidden columns, and `totals` the first and last
    row of the totals of a table.
    """

    flaws: dict[int, str] = field(default_factory=dict)
    cells: list[tuple[int, int, str]] = field(default_factory=list)
    strays: Tally = field(default_factory=Tally)
    stray_columns: set[int] = field(default_factory=set)
    hidden: bytearray = field(default_factory=bytearray)
    hidden_columns: set[int] = field(default_factory=set)
    filtered: bool = False
    totals: list[tuple[int, int]] = field(default_factory=list)

    def note_cell(self, position: int, row: int, what: str) -> None:
        if len(self.cells) < _MOST_CELLS:
            self.cells.append((position, row, what))

    def hidden_at(self, places: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        """Returns for each place whether the row there is hidden."""
        known = np.frombuffer(bytes(self.hidden) or b"\0", dtype=np.bool_)
        return np.asarray(known[np.where(places < len(known), places, 0)])

    def totals_at(self, places: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        """Returns for each place whether the row there has the totals of a table."""
        found = np.zeros(len(places), dtype=np.bool_)
        for first, last in self.totals:
            found |= (first <= places) & (places <= last)
        return found


@dataclass(frozen=True, slots=True)
class SourceJob:
    """The other job whose answers are the rows: its name, the id of its run folder, the host that
    the folder belongs to. `columns` says what each column has that its export adds: what a column
    of `columns:` reads from an answer, or its kind. `types` has the types of columns of `columns:`,
    and `kinds` the kinds of all. They also have the columns that come from a job before it."""

    name: str
    folder_id: str
    host: str
    columns: Mapping[str, str]
    types: Mapping[str, str]
    kinds: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Table:
    """An open sheet: its column names in order, and its rows, readable once.

    `place_word` says what a place counts: "line", "row" or "Sheet1 row". `delimiter` separates the
    cells of a text file. `sheet`, `header_row` and `first_column` (from 1) say where the columns
    are in a workbook. `headers` are the names as the file has them, where `columns` may be others:
    see `distinct_names`. `found` fills while the rows are read. `source` is the job whose answers
    they are, None for a file and a frame. `beginning` has the marks of a text file.
    """

    input: Input
    columns: tuple[str, ...]
    place_word: str
    batches: Callable[[], Iterator[Batch]]
    delimiter: str = ","
    sheet: str | None = None
    header_row: int = 1
    first_column: int = 1
    headers: tuple[str, ...] = ()
    found: Findings = field(default_factory=Findings)
    source: SourceJob | None = None
    beginning: Beginning | None = None

    def cell_at(self, position: int, place: int) -> str:
        """Returns where the user finds a cell: `line 17, column "Story"`, or `Sheet1!C17`."""
        if self.sheet:
            return f"{self.sheet}!{address(self.first_column + position, place)}"
        return f'{self.place_word} {place}, column "{self.columns[position]}"'


def address(column: int, row: int) -> str:
    """Returns the name of a cell in a spreadsheet: `C17` for column 3, row 17."""
    letters = ""
    while column:
        column, rest = divmod(column - 1, 26)
        letters = chr(65 + rest) + letters
    return f"{letters}{row}"


def distinct_names(headers: Sequence[str], first_column: int = 1) -> tuple[str, ...]:
    """Gives each column another name, because a column is found by its name.

    A column without a name becomes `(column D)`. A second `Price` becomes `Price (column D)`.
    """
    taken = {name for name in headers if name.strip()}
    named: set[str] = set()
    columns = []
    for place, header in enumerate(headers, start=first_column):
        name = header
        if not header.strip() or header in named:
            name = f"{header} (column {address(place, 0)[:-1]})".lstrip()
            while name in taken:
                name += "'"
            taken.add(name)
        named.add(name)
        columns.append(name)
    return tuple(columns)


def batched(rows: Iterable[tuple[int, list[str]]], width: int) -> Iterator[Batch]:
    """Groups `rows`, each (place, one text per column), into batches of bounded size in memory."""
    most = most_rows(width)
    texts: list[list[str]] = []
    places: list[int] = []
    characters = 0
    for place, row in rows:
        texts.append(row)
        places.append(place)
        characters += sum(map(len, row))
        if len(texts) == most or characters > BATCH_CHARACTERS:
            yield transposed(texts, places)
            texts, places, characters = [], [], 0
    if texts:
        yield transposed(texts, places)


def most_rows(width: int) -> int:
    """Returns the most rows of a batch of `width` columns."""
    return max(1, min(BATCH_ROWS, _BATCH_CELLS // max(width, 1)))


def transposed(texts: list[list[str]], places: list[int]) -> Batch:
    return Batch([list(column) for column in zip(*texts, strict=True)], places)


class BlankRows:
    """Blank rows, which are rows of the sheet only if a filled row follows. Only their places are
    in memory, not the rows."""

    def __init__(self, path: Input, place_word: str) -> None:
        self._path = path
        self._place_word = place_word
        self._first = self._stop = 0
        self._held: list[tuple[int, int]] = []
        self._blank = self._filled = 0

    def __bool__(self) -> bool:
        """Whether there are blank rows."""
        return self._first != self._stop

    def following(self) -> BlankRows:
        """Returns an empty one for the rows after these, which counts on."""
        after = BlankRows(self._path, self._place_word)
        after._blank, after._filled = self._blank, self._filled
        return after

    def hold(self, first: int, stop: int) -> None:
        """Adds the blank rows from `first` to before `stop`. They come after all earlier ones."""
        if first != self._stop:
            self._held.append((self._first, self._stop))
            self._first = first
        self._stop = stop

    def pass_filled(self, rows: int) -> None:
        """Counts filled rows where no blank rows wait for them."""
        self._filled += rows

    def before(self, filled: int, place: int) -> Iterator[int]:
        """Yields and forgets the places of the blank rows, because `filled` rows follow from
        `place` on.

        Raises:
            Refused: if nearly all rows so far are blank.
        """
        self._filled += filled
        if self._first == self._stop:
            return
        held = [*self._held, (self._first, self._stop)]
        self._held, self._first, self._stop = [], 0, 0
        self._blank += sum(stop - first for first, stop in held)
        if self._blank > max(_MANY_BLANK_ROWS, _BLANK_BESIDE_FILLED * self._filled):
            raise Refused(
                f"{self._path} {self._place_word} {place}: nearly all rows before this one are "
                "blank. Remove the blank rows."
            )
        for first, stop in held:
            yield from range(first, stop)


def refuse_too_wide(path: Input, columns: Sequence[str]) -> None:
    """Raises for more columns, or longer column names, than a sheet has. Call this before any other
    use of the names.

    Raises:
        Refused: with the number of columns or characters.
    """
    if len(columns) > MAX_COLUMNS:
        raise Refused(
            f"{path}: the sheet has {len(columns):,} columns, but at most {MAX_COLUMNS:,} are "
            "possible. Remove columns that you do not send."
        )
    for position, name in enumerate(columns, start=1):
        if len(name) > MAX_NAME_CHARACTERS:
            raise Refused(
                f"{path}: the name of column {position} has {len(name):,} characters, but at most "
                f"{MAX_NAME_CHARACTERS:,} are possible. Shorten it in the header. Is a separator "
                "or a quote missing?"
            )
    characters = sum(map(len, columns))
    if characters > MAX_NAMES_CHARACTERS:
        raise Refused(
            f"{path}: all column names together have {characters:,} characters, but at most "
            f"{MAX_NAMES_CHARACTERS:,} are possible. Shorten them in the header."
        )
