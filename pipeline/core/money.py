"""The word for money in messages: in a rehearsal nothing is paid, so no message says "paid"."""

from __future__ import annotations


def paid_word(rehearsal: bool) -> str:
    """The participle for a request that costs credits: it was …, may have been …, would be …."""
    return "billed in the sandbox" if rehearsal else "paid"
