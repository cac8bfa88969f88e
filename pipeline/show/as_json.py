"""A row as one line of JSON, for scripts."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import fields, is_dataclass

from pipeline.core.wording import printable_json
from pipeline.job.answer_columns import DATE, TEXT, AnswerColumn
from pipeline.show.rows import ShownRow

_encoded = json.JSONEncoder(ensure_ascii=False, default=lambda value: value.isoformat()).encode


def row_json(row: ShownRow, columns: Iterable[AnswerColumn], *, versions: bool) -> str:
    """Returns the line. The values of `columns` have their types, with the digits of the answer."""
    of_text = {column.name for column in columns if column.type in (TEXT, DATE)}
    found = {field.name: getattr(row, field.name) for field in fields(row)}
    parts = (
        f"{_encoded(name)}: {_encoded(text) if text is None or name in of_text else text}"
        for name, text in row.columns.items()
    )
    texts = {name: _encoded(_plain(value)) for name, value in found.items()}
    texts["columns"] = f"{{{', '.join(parts)}}}"
    if not versions:
        del texts["versions"]
    return printable_json(f"{{{', '.join(f'{_encoded(n)}: {text}' for n, text in texts.items())}}}")


def _plain(value: object) -> object:
    """Lists and objects instead of tuples and dataclasses. `asdict` would copy each text."""
    if isinstance(value, tuple):
        return [_plain(one) for one in value]
    if is_dataclass(value):
        return {name: _plain(getattr(value, name)) for name in value.__dataclass_fields__}
    return value
