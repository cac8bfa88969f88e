"""What a cell of an Excel workbook can hold, and how texts that it cannot hold are written.

The limits are Excel's own ("Excel specifications and limits"); the escape is ST_Xstring of
ECMA-376, part 1, 22.9.2.19.
"""

from __future__ import annotations

import re

MAX_ROWS = 1_048_576
MAX_COLUMNS = 16_384
MAX_CHARACTERS = 32_767
"""UTF-16 units in one cell."""

# What XML 1.0 cannot hold, a carriage return, which its readers turn into a line feed, and an
# underscore that would begin an escape.
_ESCAPED = re.compile("[\x00-\x08\x0b-\x1f\ud800-\udfff\ufffe\uffff]|_(?=x[0-9A-Fa-f]{4}_)")


def escaped(text: str) -> str:
    """`text` as it stands in a workbook's XML: Excel shows, and gives back, what it was."""
    return _ESCAPED.sub(lambda found: f"_x{ord(found[0]):04X}_", text)


def fits(escaped_text: str) -> bool:
    """Whether an escaped text can stand in a cell. The escapes count: openpyxl cuts after them."""
    if len(escaped_text) <= MAX_CHARACTERS // 2:
        return True
    return len(escaped_text.encode("utf-16-le")) // 2 <= MAX_CHARACTERS
