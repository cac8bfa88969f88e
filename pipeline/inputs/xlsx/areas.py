"""Names of cells and ranges of cells in a workbook: C17, A1:C5."""

from __future__ import annotations

import re
from dataclasses import dataclass

from pipeline.inputs.table import address
from pipeline.inputs.xlsx.xml_stream import Malformed

_CORNER = re.compile(r"\$?([A-Za-z]{1,3})\$?([1-9][0-9]{0,6})")


@dataclass(frozen=True, slots=True)
class Area:
    """A rectangle of cells, both ends included, counted from 1."""

    top: int
    left: int
    bottom: int
    right: int

    @property
    def ref(self) -> str:
        """The area as a workbook writes it: `A1:C5`."""
        return f"{address(self.left, self.top)}:{address(self.right, self.bottom)}"

    def overlaps_rows(self, top: int, bottom: int) -> bool:
        return self.top <= bottom and top <= self.bottom


def area_of(ref: str) -> Area:
    """Returns the cells of `A1:C5`, or of one cell.

    Raises:
        Malformed: if `ref` is not a range.
    """
    first, _, last = ref.partition(":")
    ends = [_CORNER.fullmatch(end) for end in (first, last or first)]
    corners = [(column_number(end[1]), int(end[2])) for end in ends if end]
    if len(corners) != 2:
        raise Malformed(f"{ref[:20]!r} where a range of cells belongs")
    (left, top), (right, bottom) = corners
    return Area(top, left, bottom, right)


def column_number(letters: str) -> int:
    """Returns 3 for column C."""
    number = 0
    for letter in letters.upper():
        number = number * 26 + ord(letter) - 64
    return number
