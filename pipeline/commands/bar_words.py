"""The words after the count of a bar, and which of them fit its line."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple


class Word(NamedTuple):
    """Words after the count. Those with the highest `rank` are left out first."""

    text: str
    rank: int


Words = Callable[[str | None], list[Word]]
"""Gives the words. Its argument is the time that is left, None if that is not known."""


def fitting(words: list[Word], room: int) -> str:
    """Returns the words in their order, each after a comma, without those that do not fit."""
    shown = list(words)
    while shown and len(joined(shown)) > room:
        shown.remove(max(shown, key=lambda word: word.rank))
    return joined(shown)


def joined(words: list[Word]) -> str:
    """Returns the words, each after a comma."""
    return "".join(f", {word.text}" for word in words)
