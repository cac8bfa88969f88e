"""The bar of a run in a notebook: tqdm's widget."""

from __future__ import annotations

import warnings
from typing import Any, TextIO

from pipeline.commands.bar import MakeBar
from pipeline.commands.bar_words import Words, joined
from pipeline.core.wording import lasting


def notebook_bar() -> MakeBar | None:
    """Returns what makes the widget. None outside of notebooks, and without ipywidgets."""
    with warnings.catch_warnings():  # tqdm warns where it has no widget
        warnings.simplefilter("ignore")
        from tqdm.auto import tqdm
    if not any(base.__module__ == "tqdm.notebook" for base in tqdm.__mro__):
        return None
    return lambda words, **options: WidgetBar(tqdm, words, **options)


class WidgetBar:
    """tqdm's widget with the words that `FittingBar` has. The widget itself shows the time left."""

    def __init__(
        self, kind: type[Any], words: Words, total: int, initial: int, file: TextIO
    ) -> None:
        self._words = words
        self._bar = kind(total=total, initial=initial, unit=" rows")

    def update(self, n: float | None = 1) -> None:
        self._bar.update(n)

    def refresh(self) -> None:
        self._bar.set_postfix_str(joined(self._words(None)).removeprefix(", "))

    def write(self, s: str, file: TextIO | None = None) -> None:
        print(s, file=file)

    def took(self) -> str:
        return f"took {lasting(self._bar.format_dict['elapsed'])}"

    def close(self) -> None:
        self.refresh()
        self._bar.close()
