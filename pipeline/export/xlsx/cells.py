"""One cell of a worksheet as XML: the limits of Excel, and the escapes for characters that XML
forbids.

The limits are Excel's own ("Excel specifications and limits"). The escape is ST_Xstring of
ECMA-376, part 1, 22.9.2.19.
"""

from __future__ import annotations

import re

from pipeline.export.xlsx.markup import escape

MAX_ROWS = 1_048_576
MAX_COLUMNS = 16_384
MAX_CHARACTERS = 32_767
"""UTF-16 units in one cell."""

# Characters that XML 1.0 forbids; a carriage return, which XML readers turn into a line feed; and
# an underscore that would begin an escape.
_ESCAPED = re.compile("[\x00-\x08\x0b-\x1f\ud800-\udfff\ufffe\uffff]|_(?=x[0-9A-Fa-f]{4}_)")


def escaped(text: str) -> str:
    """`text` as written in a workbook's XML. Excel shows and returns the original text."""
    return _ESCAPED.sub(lambda found: f"_x{ord(found[0]):04X}_", text)


def fits(escaped_text: str) -> bool:
    """Whether an escaped text fits into a cell. The escapes count, because programs may cut the
    text before they undo them."""
    if len(escaped_text) <= MAX_CHARACTERS // 2:
        return True
    return len(escaped_text.encode("utf-16-le")) // 2 <= MAX_CHARACTERS


class CellXml:
    """Writes cells with the namespace prefix of their worksheet.

    `ref` is the name of the cell, such as C17, and `style` the number of a style in the workbook,
    or None.
    """

    def __init__(self, prefix: str = "") -> None:
        self._p = prefix

    def empty(self, ref: str, style: int | None) -> str:
        return f"{self._begin(ref, style)}/>"

    def text(self, ref: str, style: int | None, text: str) -> str:
        """A text that `escaped` has prepared. It is never a formula."""
        p = self._p
        return (
            f'{self._begin(ref, style)} t="inlineStr"><{p}is><{p}t xml:space="preserve">'
            f"{escape(text)}</{p}t></{p}is></{p}c>"
        )

    def number(self, ref: str, style: int | None, digits: str) -> str:
        return f"{self._begin(ref, style)}><{self._p}v>{digits}</{self._p}v></{self._p}c>"

    def boolean(self, ref: str, style: int | None, value: bool) -> str:
        return f'{self._begin(ref, style)} t="b"><{self._p}v>{value:d}</{self._p}v></{self._p}c>'

    def _begin(self, ref: str, style: int | None) -> str:
        return f'<{self._p}c r="{ref}"' + ("" if style is None else f' s="{style}"')
