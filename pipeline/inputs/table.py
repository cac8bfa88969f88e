"""What every kind of sheet looks like once it is open: columns, and batches of texts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path

from pipeline.core.errors import Refused
from pipeline.core.wording import nearest
from pipeline.job.spec import JobSpec

BATCH_ROWS = 2000
_TEXTS = (".csv", ".tsv")
_WORKBOOKS = (".xlsx", ".xlsm")
NO_ROWS = "there are no rows below the names of the columns. Write some there."
_JSON = (".json", ".ndjson")
MAX_COLUMNS = 16_384
"""As many as a sheet of Excel has."""
MAX_CELL_CHARACTERS = 32 << 20
# Of hardly anything but blank rows a small file can hold a billion.
_MANY_BLANK_ROWS = 500_000
_BLANK_BESIDE_FILLED = 100
_BATCH_CELLS = 4_000_000
_BATCH_CHARACTERS = 8_000_000


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

    `place_word` says what a place counts: "line", "row" or "Sheet1 row". `delimiter` is what a
    text file separates its cells by. `sheet`, `header_row` and `first_column` (from 1) say where
    in a workbook the columns stand.
    """

    path: Path
    columns: tuple[str, ...]
    place_word: str
    batches: Callable[[], Iterator[Batch]]
    delimiter: str = ","
    sheet: str | None = None
    header_row: int = 1
    first_column: int = 1

    def cell_at(self, position: int, place: int) -> str:
        """Where the user finds a cell: `line 17, column "Story"`, or `Sheet1!C17`."""
        if self.sheet:
            return f"{self.sheet}!{address(self.first_column + position, place)}"
        return f'{self.place_word} {place}, column "{self.columns[position]}"'


def address(column: int, row: int) -> str:
    """How spreadsheets call a cell: `C17` of column 3, row 17."""
    letters = ""
    while column:
        column, rest = divmod(column - 1, 26)
        letters = chr(65 + rest) + letters
    return f"{letters}{row}"


def batched(rows: Iterable[tuple[int, list[str]]], width: int) -> Iterator[Batch]:
    """`rows`, as (place, one text a column), in batches that fit into memory whatever they hold."""
    most = most_rows(width)
    texts: list[list[str]] = []
    places: list[int] = []
    characters = 0
    for place, row in rows:
        texts.append(row)
        places.append(place)
        characters += sum(map(len, row))
        if len(texts) == most or characters > _BATCH_CHARACTERS:
            yield _transposed(texts, places)
            texts, places, characters = [], [], 0
    if texts:
        yield _transposed(texts, places)


def most_rows(width: int) -> int:
    """Of a batch of `width` columns."""
    return max(1, min(BATCH_ROWS, _BATCH_CELLS // max(width, 1)))


def _transposed(texts: list[list[str]], places: list[int]) -> Batch:
    return Batch([list(column) for column in zip(*texts, strict=True)], places)


def open_table(spec: JobSpec) -> Table:
    """The sheet that `spec` names.

    Raises:
        Refused: when it is not there, of no known kind, or its header cannot be used. Rows are
            read lazily and refused in the same way while `batches` goes through them.
    """
    from pipeline.inputs.delimited import open_delimited
    from pipeline.inputs.jsonl import open_jsonl
    from pipeline.inputs.parquet import open_parquet
    from pipeline.inputs.xlsx.reader import open_xlsx

    kinds: dict[str, Callable[[JobSpec], Table]] = {
        ".csv": open_delimited,
        ".tsv": open_delimited,
        ".xlsx": open_xlsx,
        ".xlsm": open_xlsx,
        ".parquet": open_parquet,
        ".jsonl": open_jsonl,
    }
    path = spec.input
    if path.is_dir():
        raise Refused(f"{path}: is a folder, not a sheet. Nothing was sent.")
    if not path.is_file():
        beside = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
        named = f" {spec.at('input')} names it." if "input" in spec.lines else ""
        raise Refused(
            f"{path}: there is no such file.{nearest(path.name, beside) or named} Nothing was sent."
        )
    opener = kinds.get(path.suffix.lower())
    if opener is None:
        raise Refused(
            f"{path}: cannot read a file with {named_ending(path)}; "
            f"use {', '.join(kinds)}.{_saved_as(path.suffix.lower())} Nothing was sent."
        )
    _refuse_settings_of_others(spec)
    try:
        table = opener(spec)
        table = replace(table, batches=partial(_without_blank_end, table))
    except OSError as error:
        raise Refused(
            f"{path}: cannot be read ({error.strerror or error}). Nothing was sent."
        ) from None
    _check_header(table)
    return table


def named_ending(path: Path) -> str:
    """``the ending .txt``, for messages."""
    return f"the ending {path.suffix}" if path.suffix else "no ending"


def _saved_as(ending: str) -> str:
    if ending in (".xls", ".xlsb", ".ods", ".numbers"):
        return " Save the workbook as .xlsx."
    return " A file with one JSON object a line is a .jsonl." if ending in _JSON else ""


def _refuse_settings_of_others(spec: JobSpec) -> None:
    """A setting that does nothing would be taken for one that does."""
    kind = spec.input.suffix.lower()
    for name, value, kinds in (
        ("sheet", spec.sheet, _WORKBOOKS),
        ("header_row", spec.header_row, _WORKBOOKS),
        ("encoding", spec.encoding, _TEXTS),
    ):
        if value is not None and kind not in kinds:
            raise Refused(
                f"{spec.at(name)}: `{name}:` is for {' and '.join(kinds)}, and {spec.input.name} "
                "is none. Leave it out. Nothing was sent."
            )


class BlankRows:
    """Blank rows that are rows of the sheet only if a filled one follows. Their places are kept,
    not the rows."""

    def __init__(self, path: Path, place_word: str) -> None:
        self._path = path
        self._place_word = place_word
        self._first = self._stop = 0
        self._held: list[tuple[int, int]] = []
        self._blank = self._filled = 0

    def hold(self, first: int, stop: int) -> None:
        """Those at the places from `first` to before `stop`, which follow the ones before."""
        if first != self._stop:
            self._held.append((self._first, self._stop))
            self._first = first
        self._stop = stop

    def before(self, filled: int, place: int) -> Iterator[int]:
        """The places of those that were held, as `filled` rows follow from `place` on.

        Raises:
            Refused: when nearly all rows so far are blank.
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
                "blank. Remove them. Nothing was sent."
            )
        for first, stop in held:
            yield from range(first, stop)


def _without_blank_end(table: Table) -> Iterator[Batch]:
    """Rows up to the last one that holds anything: what follows it is no row of the sheet."""
    blank, width = BlankRows(table.path, table.place_word), len(table.columns)
    for batch in table.batches():
        filled_rows = _filled_rows(batch)
        if filled_rows:
            filled, rest = batch.split(filled_rows)
            before = blank.before(filled_rows, batch.places[0])
            while places := list(islice(before, most_rows(width))):
                yield Batch([[""] * len(places)] * width, places)
            yield filled
            batch = rest
        places = batch.places
        if places and len(places) == places[-1] - places[0] + 1:
            blank.hold(places[0], places[-1] + 1)
        else:
            for place in places:
                blank.hold(place, place + 1)


def _filled_rows(batch: Batch) -> int:
    """How many rows are left without the blank ones at the end."""
    for row in range(len(batch) - 1, -1, -1):
        if any(column[row] for column in batch.columns):
            return row + 1
    return 0


def refuse_too_wide(path: Path, columns: Sequence[str]) -> None:
    """Raises for more columns than a sheet has.

    Raises:
        Refused: with how many there are.
    """
    if len(columns) > MAX_COLUMNS:
        raise Refused(
            f"{path}: {len(columns):,} columns. A sheet has {MAX_COLUMNS:,} at most: remove those "
            "that are not sent. Nothing was sent."
        )


def _check_header(table: Table) -> None:
    refuse_too_wide(table.path, table.columns)
    seen: dict[str, int] = {}
    for position, name in enumerate(table.columns):
        if not name.strip():
            where, title = f"column {position + 1} has", " If the first line is a title, remove it."
            if table.sheet:
                title = ""
                where = f"{table.cell_at(position, table.header_row)} has"
            raise Refused(
                f"{table.path}: {where} no name in the header. Name it or remove it."
                f"{title} Nothing was sent."
            )
        if name in seen:
            where = f'the header names "{name}" twice'
            if table.sheet:
                cells = [table.cell_at(p, table.header_row) for p in (seen[name], position)]
                where += f", in {' and '.join(cells)}"
            raise Refused(f"{table.path}: {where}. Rename one of them. Nothing was sent.")
        seen[name] = position
