"""Reads `columns:` of a job file: the columns that the parts of a JSON answer fill."""

from __future__ import annotations

from collections.abc import Iterable

from pipeline.core.added_columns import KINDS, column_names
from pipeline.core.wording import counted
from pipeline.job.answer_columns import TEXT, TYPES, AnswerColumn, compiled
from pipeline.job.yaml_fields import Fields

MAX_COLUMNS = 500
MAX_NAME_CHARACTERS = 100
KEYS = ("path", "type", "join")


def read_columns(fields: Fields, answer: str | None) -> tuple[AnswerColumn, ...] | None:
    """Returns the columns, or None if there are none. `answer` is the value of `as:`.

    Each error is noted with its line: a path that is not JSONPath, an unknown type, and a name that
    another column has.
    """
    entries = fields.entries(
        "columns", "`columns` needs `name: path` lines, such as `title: $.title`"
    )
    if entries is None:
        return None
    if len(entries) > MAX_COLUMNS:
        fields.note(
            "columns",
            f"`columns` has {counted(len(entries), 'column')}, and the limit is {MAX_COLUMNS}",
        )
        return None
    _note_names(fields, entries, answer)
    found = (_column(fields, name, value) for name, value in entries.items())
    return tuple(column for column in found if column is not None)


def _note_names(fields: Fields, names: Iterable[str], answer: str | None) -> None:
    # Letters in another case are the same name to Excel.
    added = map(str.casefold, column_names(KINDS, answer))
    taken = dict.fromkeys(added, "a column that an export adds")
    for name in names:
        fault = _fault(name, taken)
        if fault is not None:
            fields.note(f"columns.{name}", f'`columns` cannot have the name "{name}": {fault}')
        taken[name.casefold()] = "another of these columns"


def _fault(name: str, taken: dict[str, str]) -> str | None:
    if name.casefold() in taken:
        return f"{taken[name.casefold()]} has it. Choose another name"
    if name[:1] in tuple("=+-@"):
        return "a spreadsheet would run it as a formula. Choose another name"
    if name.startswith("_"):
        return "names that begin with _ are for the runner. Choose another name"
    if name != name.strip() or not name.isprintable() or not 0 < len(name) <= MAX_NAME_CHARACTERS:
        return (
            f"use 1 to {MAX_NAME_CHARACTERS} printable characters, without a space at the "
            "beginning or the end"
        )
    return None


def _column(fields: Fields, name: str, value: str | Fields) -> AnswerColumn | None:
    if isinstance(value, str):
        path, kind, join = value, TEXT, None
    else:
        if value.note_unknown(KEYS, f'the column "{name}" has no key `{{}}`.', {}):
            return None
        path = value.text("path", "Write the place of its value, such as `path: $.title`.") or ""
        kind = value.choice("type", TYPES) or TEXT
        join = value.optional_text("join")
        if join is not None and kind != TEXT:
            value.note("join", f"`join` makes a text, and `type: {kind}` is none. Remove one")
        if not path:
            return None
    try:
        compiled(path)
    except ValueError as error:
        where, key = (fields, f"columns.{name}") if isinstance(value, str) else (value, "path")
        where.note(
            key,
            f"`{path}` is not a path: {error}. Use JSONPath (RFC 9535), such as `$.title`, "
            "`$.tags[*]` or `$['two words']`",
        )
        return None
    return AnswerColumn(name, path, kind, join)
