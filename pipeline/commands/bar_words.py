"""What a bar can do, and which of the words after its count fit its line. Needs no tqdm."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, TextIO


class Word(NamedTuple):
    """Words after the count. Those with the highest `rank` are left out first."""

    text: str
    rank: int


Words = Callable[[str | None], list[Word]]
"""Gives the words. Its argument is the time that is left, None if that is not known."""


class Bar(Protocol):
    """A bar that `ProgressBar` draws."""

    def update(self, n: float | None = 1) -> Any: ...

    def refresh(self) -> Any: ...

    def write(self, s: str, file: TextIO | None = None) -> Any: ...

    def took(self) -> str: ...

    def close(self) -> None: ...


MakeBar = Callable[..., Bar]
"""Makes a bar of the words after the count, `total`, `initial`, and the stream `file`."""


def fitting(words: list[Word], room: int) -> str:
    """Returns the words in their order, each after a comma, without those that do not fit."""
    shown = list(words)
    while shown and len(joined(shown)) > room:
        shown.remove(max(shown, key=lambda word: word.rank))
    return joined(shown)


def joined(words: list[Word]) -> str:
    """Returns the words, each after a comma."""
    return "".join(f", {word.text}" for word in words)
