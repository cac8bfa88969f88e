"""The word for money in messages. Nothing is paid in a rehearsal, so no message says so there."""

from __future__ import annotations


def paid_word(rehearsal: bool) -> str:
    """The participle for a request that costs credits: it was …, may have been …, would be …."""
    return "billed in the sandbox" if rehearsal else "paid"
