"""The shape of the JSON answers that fill a job's columns, for rehearsals. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from pipeline.job.answer_columns import JSON, TEXT, AnswerColumn, compiled

# A path of names, places and wildcards, as the library writes it.
_STEP = re.compile(r"\['((?:[^'\\]|\\.)*)'\]|\[(\*|\d+)\]")
_SIMPLE = re.compile(rf"\$(?:{_STEP.pattern})+")


def sample_shape(columns: Iterable[AnswerColumn]) -> dict[str, Any] | None:
    """Returns the shape of answers that fill these columns, with the type of each value in its
    place. None without columns. Paths that choose values by more than names and places are left
    out."""
    shape: dict[str, Any] = {}
    for column in columns:
        path = str(compiled(column.path))
        steps = [(name.replace("\\'", "'"), place) for name, place in _STEP.findall(path)]
        if steps and not steps[0][1] and _SIMPLE.fullmatch(path):
            value: Any = {JSON: {"value": TEXT}}.get(column.type, column.type)
            if column.join is not None and not steps[-1][1]:
                value = [value]
            _put(shape, steps, value)
    return shape or None


def _put(shape: Any, steps: list[tuple[str, str]], value: Any) -> None:
    (name, _), rest = steps[0], steps[1:]
    lists = next((n for n, (_, place) in enumerate(rest) if not place), len(rest))
    if lists == len(rest):
        for _ in rest:
            value = [value]
        shape.setdefault(name, value)
        return
    inner = shape.setdefault(name, {} if not lists else [{}])
    while isinstance(inner, list):
        inner = inner[0]
    if isinstance(inner, dict):
        _put(inner, rest[lists:], value)
