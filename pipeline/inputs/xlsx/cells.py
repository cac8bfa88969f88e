"""The cells of one worksheet, row by row, from its XML.

A library would tell less: calamine, and openpyxl when it reads values, give an empty cell for a
formula that nobody calculated, and calamine makes floats of long numbers. What a sheet declares
about its own size is not looked at.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import Enum
from typing import IO

from pipeline.core.model import TEXT_RULES
from pipeline.inputs.table import address
from pipeline.inputs.values import boolean_text
from pipeline.inputs.xlsx.areas import Area, area_of, column_number
from pipeline.inputs.xlsx.locales import Undisplayable
from pipeline.inputs.xlsx.numbers import NO_DATE, Numbers
from pipeline.inputs.xlsx.shared_strings import SharedTexts, unescaped
from pipeline.inputs.xlsx.workbook import Workbook
from pipeline.inputs.xlsx.xml_stream import Foreign, Malformed, prefix_of, stream

MAX_ROWS = 1_048_576
MAX_COLUMNS = 16_384

_LETTERS = re.compile("[A-Za-z]{1,3}")
_TRUE = ("1", "true")


class Flaw(Enum):
    """Why a cell has no value that can be sent."""

    ERROR = "an error"
    NOT_CALCULATED = "a formula that was never calculated"
    OUTDATED = "a formula whose value may be old"
    NO_TEXT = "half a character"


@dataclass(frozen=True, slots=True)
class NotShown:
    """The text that a sheet displays in a cell is not known. `value` says why."""

    value: str


@dataclass(frozen=True, slots=True)
class Displayed:
    """The columns (from 1) that are read as the sheet displays them, in the rows below the header
    row, and the language of the program that displays them."""

    columns: frozenset[int]
    below: int
    locale: str


@dataclass(slots=True)
class SheetRow:
    """The cells of one row that hold something: (column from 1, text), in order.

    `flaws` are those that have no value: (column, flaw); an error is also among the cells, as
    the text that Excel shows.
    """

    number: int
    cells: list[tuple[int, str]] = field(default_factory=list)
    flaws: list[tuple[int, Flaw | NotShown]] = field(default_factory=list)


@dataclass(slots=True)
class View:
    """What a worksheet does not show: hidden rows (one byte for each row, by its number), ranges of
    hidden columns, and whether it has a filter."""

    rows: bytearray = field(default_factory=bytearray)
    columns: list[tuple[int, int]] = field(default_factory=list)
    filtered: bool = False

    def hide_row(self, number: int) -> None:
        if number >= len(self.rows):
            self.rows.extend(bytes(number + 1 - len(self.rows)))
        self.rows[number] = 1


def sheet_rows(
    source: IO[bytes],
    workbook: Workbook,
    texts: SharedTexts,
    on_merged: Callable[[Area], None],
    text_rules: int = TEXT_RULES,
    displayed: Displayed | None = None,
    view: View | None = None,
) -> Iterator[SheetRow]:
    """The rows that hold anything, from the top; then each merged range goes to `on_merged`. What
    the worksheet hides goes to `view`.

    Raises:
        Malformed: when the part is not a worksheet.
    """
    values = _CellValues(workbook, texts, text_rules, displayed)
    target = _SheetTarget(values, on_merged, view or View())
    for _ in stream(source, target):
        rows, target.rows = target.rows, []
        yield from rows
    if not target.ended:
        raise Malformed("the worksheet has no cells")


class _SheetTarget:
    """Called five times for each cell: what is common comes first, and nothing is looked up."""

    def __init__(self, values: _CellValues, on_merged: Callable[[Area], None], view: View) -> None:
        self.rows: list[SheetRow] = []
        self.ended = False
        self._values = values
        self._on_merged = on_merged
        self._view = view
        self._foreign = Foreign()
        self._known = 0
        self._columns: dict[str, int] = {}
        self._prefix: str | None = None
        self._row: SheetRow | None = None
        self._last_row = self._column = 0
        self._row_text = ""
        self._cell: dict[str, str] | None = None
        self._collecting = False
        self._pieces: list[str] = []
        self._has_value = self._has_formula = self._in_reading = False

    def start(self, name: str, attributes: dict[str, str]) -> None:
        if self._prefix is None:
            self._prefix = prefix_of(name)
        if self._prefix:
            name = name.removeprefix(self._prefix)
        if name == "c" and self._row is not None:
            self._begin_cell(attributes)
        elif name == "v" and self._cell is not None and not self._has_value:
            self._collecting = self._has_value = True
            self._pieces = []
        elif name == "row" and not self.ended:
            self._begin_row(attributes)
        else:
            self._foreign.add(self._known)
            if name == "f":
                self._has_formula = True
            elif name == "t":
                self._collecting = not self._has_value and not self._in_reading
            elif name == "rPh":
                self._in_reading = True
            elif name == "col" and attributes.get("hidden") in _TRUE:
                ends = attributes.get("min", ""), attributes.get("max", "")
                self._view.columns.append((_whole(ends[0]), _whole(ends[1])))
            elif name == "autoFilter":
                self._view.filtered = True
            elif name == "mergeCell":
                self._on_merged(area_of(attributes.get("ref", "")))

    def end(self, name: str) -> None:
        if self._prefix:
            name = name.removeprefix(self._prefix)
        if name == "c" and self._cell is not None:
            self._end_cell()
        elif name in ("v", "t"):
            self._collecting = False
        elif name == "row" and self._row is not None:
            if self._row.cells or self._row.flaws:
                self.rows.append(self._row)
            self._row = None
        elif name == "rPh":
            self._in_reading = False
        elif name == "sheetData":
            self.ended = True

    def text(self, text: str) -> None:
        if self._collecting:
            self._pieces.append(text)

    def _begin_row(self, attributes: dict[str, str]) -> None:
        if self._row is not None:
            raise Malformed(f"a row within row {self._row.number}")
        stated = attributes.get("r")
        number = self._last_row + 1 if stated is None else _whole(stated)
        if not self._last_row < number <= MAX_ROWS:
            raise Malformed(f"row {number} comes after row {self._last_row}")
        if attributes.get("hidden") in _TRUE:
            self._view.hide_row(number)
        self._row = SheetRow(number)
        self._row_text = str(number)
        self._last_row = number
        self._column = 0
        self._known += 1

    def _begin_cell(self, attributes: dict[str, str]) -> None:
        if self._cell is not None:
            raise Malformed(f"a cell within {address(self._column, self._last_row)}")
        column = self._column + 1
        stated = attributes.get("r")
        if stated is not None:
            letters = stated.rstrip("0123456789")
            column = self._columns.get(letters) or self._column_of(letters)
            if stated[len(letters) :] != self._row_text:
                raise Malformed(f"a cell {stated} in row {self._row_text}")
        if not self._column < column <= MAX_COLUMNS:
            raise Malformed(f"a cell out of order in row {self._row_text}")
        self._column = column
        self._cell = attributes
        self._pieces = []
        self._has_value = self._has_formula = False
        self._known += 1

    def _end_cell(self) -> None:
        cell, row = self._cell, self._row
        self._cell = None
        if cell is None or row is None or not (self._pieces or self._has_formula):
            return
        raw = "".join(self._pieces)
        kind = cell.get("t")
        if self._has_formula and self._values.is_unknown(kind, self._has_value, raw):
            outdated = self._values.recalculates
            row.flaws.append((self._column, Flaw.OUTDATED if outdated else Flaw.NOT_CALCULATED))
            return
        text, flaw = self._values.read(kind, cell.get("s"), raw, self._column, row.number)
        if text is None:
            where = address(self._column, row.number)
            raise Malformed(f"{where} refers to nothing, or its value has the wrong type")
        if text:
            row.cells.append((self._column, text))
        if flaw:
            row.flaws.append((self._column, flaw))

    def _column_of(self, letters: str) -> int:
        if not _LETTERS.fullmatch(letters):
            raise Malformed(f"a cell {letters[:20]!r} in row {self._row_text}")
        self._columns[letters] = column_number(letters)
        return self._columns[letters]


class _CellValues:
    """A cell's text by its kind (`t`) and style (`s`): ECMA-376 part 1, 18.3.1.4 and 18.18.11."""

    def __init__(
        self,
        workbook: Workbook,
        texts: SharedTexts,
        text_rules: int,
        displayed: Displayed | None,
    ) -> None:
        self._displayed = displayed
        self._numbers = Numbers(
            workbook, text_rules, None if displayed is None else displayed.locale
        )
        self.recalculates = workbook.recalculates
        self._texts = texts

    def is_unknown(self, kind: str | None, has_value: bool, raw: str) -> bool:
        """Whether nobody calculated a formula's value. An empty text is a value."""
        return self.recalculates or not has_value or (not raw and kind != "str")

    def read(
        self, kind: str | None, style: str | None, raw: str, column: int, row: int
    ) -> tuple[str | None, Flaw | NotShown | None]:
        """(text, flaw). No text: the file is damaged."""
        if kind == "s":
            return self._shared(raw)
        if kind is None or kind == "n":
            shown = self._displayed
            if shown is not None and column in shown.columns and row > shown.below:
                return self._as_displayed(style, raw)
            text = self._numbers.text(style, raw)
            return text, (Flaw.ERROR if text == NO_DATE else None)
        if kind in ("str", "inlineStr"):
            return _whole_characters(unescaped(raw))
        if kind == "b":
            return (boolean_text(raw == "1") if raw in ("0", "1") else None), None
        if kind == "e":
            return raw, Flaw.ERROR
        return (raw.removesuffix("T00:00:00") if kind == "d" else None), None

    def _as_displayed(
        self, style: str | None, raw: str
    ) -> tuple[str | None, Flaw | NotShown | None]:
        try:
            text = self._numbers.displayed(style, raw)
        except Undisplayable as error:
            return "", NotShown(str(error))
        return text, (Flaw.ERROR if text == NO_DATE else None)

    def _shared(self, raw: str) -> tuple[str | None, Flaw | None]:
        try:
            return _whole_characters(self._texts[raw])
        except IndexError:
            return None, None


def _whole_characters(text: str) -> tuple[str, Flaw | None]:
    if text.isascii():
        return text, None
    try:
        text.encode()
    except UnicodeEncodeError:
        return "", Flaw.NO_TEXT
    return text, None


def _whole(digits: str) -> int:
    if not (digits.isascii() and digits.isdigit() and len(digits) < 10):
        raise Malformed(f"{digits[:20]!r} where a number belongs")
    return int(digits)
