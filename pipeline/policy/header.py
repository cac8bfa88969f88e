"""Reads the number of a rate limit header. Pure."""

from __future__ import annotations

MOST_LIMIT = 1_000_000


def whole_number(header: object) -> int | None:
    """A header's whole number; None for anything that is not one a limiter could mean.

    A header that came twice, joined by a comma, counts if both say the same.
    """
    texts = {part.strip() for part in str(header).split(",")} if header is not None else set()
    text = texts.pop() if len(texts) == 1 else ""
    if not (text.isascii() and text.isdigit() and len(text) <= 9):
        return None
    number = int(text)
    return number if number <= MOST_LIMIT else None
