"""How messages count: one row, two rows, rows 3, 7 and 9."""

from __future__ import annotations

from collections.abc import Sequence

_NAMED = 10


def counted(number: int, noun: str) -> str:
    """``1 row``, ``2 rows``: `noun` in the singular, its plural by an s."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def listed(rows: Sequence[int], total: int | None = None) -> str:
    """The first of some row numbers; `total` is how many there are where `rows` is a part."""
    more = (len(rows) if total is None else total) - min(len(rows), _NAMED)
    numbers = ", ".join(map(str, rows[:_NAMED]))
    word = "row" if len(rows) == 1 and not more else "rows"
    return f"{word} {numbers}" + (f" and {more} more" if more > 0 else "")
