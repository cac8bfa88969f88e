"""The limits of a cell of an Excel workbook, and the escapes for characters that XML forbids.

The limits are Excel's own ("Excel specifications and limits"); the escape is ST_Xstring of
ECMA-376, part 1, 22.9.2.19.
"""

from __future__ import annotations

import re

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
    """Whether an escaped text fits into a cell. The escapes count, because openpyxl cuts the text
    after escaping."""
    if len(escaped_text) <= MAX_CHARACTERS // 2:
        return True
    return len(escaped_text.encode("utf-16-le")) // 2 <= MAX_CHARACTERS
