"""Reads JSON Lines: one object per line. Strings keep their text, numbers keep their digits.

The columns are the names in all lines, in the order in which they first appear. If a line lacks a
name, or its value is `null`, the cell is empty. So the file is read twice: first for the names.
"""

from __future__ import annotations

import codecs
import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

from pipeline.core.errors import Refused
from pipeline.inputs.disguise import refuse_disguised
from pipeline.inputs.mapping import used_columns
from pipeline.inputs.table import MAX_COLUMNS, MAX_NAMES_CHARACTERS, Batch, Findings, Table, batched
from pipeline.inputs.values import boolean_text
from pipeline.job.spec import JobSpec

MAX_LINE_BYTES = 128 << 20
# Each value takes about 100 bytes of memory as a Python object, and 2 bytes in the file.
_MAX_VALUES = 500_000
# A sheet with this many cells, nearly all of them empty, is an accident or an attack.
_MANY_CELLS = 500_000
_EMPTY_BESIDE_FILLED = 100

encoded = json.JSONEncoder(ensure_ascii=False).encode  # `dumps` makes an encoder for each value

_SURROGATE = re.compile("[\ud800-\udfff]")
_SURROGATE_ESCAPED = re.compile(rb"\\u[dD][89a-fA-F]")
_TOO_DEEP = "a value is nested too deeply. Remove it, or write it as a string"
SAVED_MEANWHILE = "the file was saved while the runner read it. Run the command again."
_ONE_OBJECT = "Write one object {…} on each line"
_STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+"?', re.DOTALL)
_MARKS = (b"\xff\xfe", b"\xfe\xff")


def open_jsonl(spec: JobSpec) -> Table:
    """Opens a file of JSON objects. Nested values are refused in columns that would be sent."""
    columns, found = names_in(spec), Findings()

    def batches() -> Iterator[Batch]:
        rows = ((place, texts) for place, texts, _ in objects_in(spec, columns, found))
        return batched(rows, len(columns))

    return Table(spec.file, columns, "line", batches, found=found)


def names_in(spec: JobSpec) -> tuple[str, ...]:
    """Reads the names in all lines, in the order in which they first appear."""
    path = spec.file
    refuse_disguised(path)
    names: dict[str, None] = {}
    characters = 0
    for place, line in _objects(path):
        if line.keys() <= names.keys():
            continue
        characters += sum(len(name) for name in line if name not in names)
        if characters > MAX_NAMES_CHARACTERS:
            raise _refusal(
                path,
                place,
                f"up to this line, all names together have {characters:,} characters, but at most "
                f"{MAX_NAMES_CHARACTERS:,} are possible. Are they values?",
            )
        names |= dict.fromkeys(line)
        if len(names) > MAX_COLUMNS:
            raise _refusal(
                path,
                place,
                f"up to this line, there are over {MAX_COLUMNS} names. Are they values?",
            )
    if not names:
        raise Refused(f"{path}: the file has no objects with names. Write one object on each line.")
    return tuple(names)


def objects_in(
    spec: JobSpec, columns: tuple[str, ...], found: Findings | None = None
) -> Iterator[tuple[int, list[str], dict[str, Any]]]:
    """Yields (line, texts by column, object) for each line that is not blank. Notes lists and
    objects in `found`."""
    found = found or Findings()
    used = {columns[position] for position in used_columns(spec, columns)}
    place_of = {name: position for position, name in enumerate(columns)}
    known = set(columns)
    cells = filled = 0
    for place, line in _objects(spec.file):
        if not line.keys() <= known:
            raise Refused(f"{spec.file}: {SAVED_MEANWHILE}")
        cells += len(columns)
        filled += len(line)
        if cells > max(_MANY_CELLS, _EMPTY_BESIDE_FILLED * filled):
            raise _refusal(
                spec.file,
                place,
                f"nearly all cells up to this line are empty: there are {len(columns)} names, "
                "and each line has only a few of them. Are they values?",
            )
        for name, value in line.items():
            if not isinstance(value, dict | list):
                continue
            what = f"{_KINDS[type(value)]}, not text"
            found.flaws.setdefault(place_of[name], f"in line {place} it is {what}")
            if name in used:
                raise _refusal(
                    spec.file,
                    place,
                    f'"{name}" is {what}. Write it as a string, or '
                    "name only the columns to send under `variables:`",
                )
        try:
            texts = [_text(line.get(name)) for name in columns]
        except RecursionError:
            raise _refusal(spec.file, place, _TOO_DEEP) from None
        yield place, texts, line


_KINDS: dict[type, str] = {dict: "an object", list: "a list"}


def _text(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return boolean_text(value)
    return str(value) if isinstance(value, str) else json_text(value)


def json_text(value: object) -> str:
    """Writes a value of a line as JSON again. Numbers keep their digits."""
    if isinstance(value, dict):
        pairs = (f"{encoded(k)}:{json_text(v)}" for k, v in value.items())
        return f"{{{','.join(pairs)}}}"
    if isinstance(value, list):
        return f"[{','.join(map(json_text, value))}]"
    return str(value) if isinstance(value, AsWritten) else encoded(value)


class AsWritten(str):
    """The digits of a number."""

    __slots__ = ()


class _Unusable(ValueError):
    """A value that JSON or Python's reader of it allows, but that cannot become a cell."""


def _objects(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yields (line, object) for each line that is not blank."""
    decode = json.JSONDecoder(
        object_pairs_hook=_object,
        parse_int=AsWritten,
        parse_float=AsWritten,
        parse_constant=_refuse_constant,
    ).decode
    with path.open("rb") as file:
        place = 0
        while raw := file.readline(MAX_LINE_BYTES + 1):
            place += 1
            if place == 1:
                raw = _without_mark(path, raw)
            if len(raw) > MAX_LINE_BYTES:
                raise _refusal(path, place, "this line is over 128 MB. Write one object on a line")
            if not raw.strip():
                continue
            if len(raw) > _MAX_VALUES and _values(raw) > _MAX_VALUES:
                raise _refusal(
                    path,
                    place,
                    f"this line has over {_MAX_VALUES:,} values. Write nested values as a string",
                )
            try:
                halves = _SURROGATE_ESCAPED.search(raw) is not None
                text = raw.decode()
                del raw
                value = decode(text)
                if halves and _SURROGATE.search(json.dumps(value, ensure_ascii=False)):
                    raise _Unusable(
                        "half a surrogate pair (\\ud800 to \\udfff) is not text. Fix or remove it"
                    )
            except UnicodeDecodeError:
                raise _refusal(
                    path, place, "this line is not UTF-8 text. Save the file as UTF-8"
                ) from None
            except RecursionError:
                raise _refusal(path, place, _TOO_DEEP) from None
            except json.JSONDecodeError as error:
                raise _refusal(path, place, _malformed(error, text)) from None
            except _Unusable as error:
                raise _refusal(path, place, str(error)) from None
            if not isinstance(value, dict):
                raise _refusal(path, place, f"this line is not a JSON object. {_ONE_OBJECT}")
            yield place, value


def _values(raw: bytes) -> int:
    """Returns an upper bound of the number of values in a line, without decoding it. Commas and
    brackets inside strings do not count."""
    marks = (b",", b"[", b"{")
    values = sum(map(raw.count, marks))
    if values > _MAX_VALUES:
        bare = _STRING.sub(b"", raw)
        values = sum(map(bare.count, marks))
    return values


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        times = Counter(name for name, _ in pairs)
        twice = next(name for name in times if times[name] > 1)
        raise _Unusable(f'one object has the name "{twice}" twice. Remove or rename one of them')
    return found


def _refuse_constant(name: str) -> NoReturn:
    raise _Unusable(f"{name} is not valid JSON. Write null or a string")


def _without_mark(path: Path, raw: bytes) -> bytes:
    if raw.startswith(_MARKS):
        raise _refusal(path, 1, "this file is UTF-16, but JSON is UTF-8. Save the file as UTF-8")
    while raw.startswith(codecs.BOM_UTF8):
        raw = raw.removeprefix(codecs.BOM_UTF8)
    return raw


def _malformed(error: json.JSONDecodeError, text: str) -> str:
    if text.lstrip().startswith("["):
        return f"this line is a list, not an object. {_ONE_OBJECT}"
    return (
        f"this line is not one JSON object ({error.msg} at character {error.pos + 1}). "
        f"{_ONE_OBJECT}"
    )


def _refusal(path: Path, place: int, what: str) -> Refused:
    end = "" if what.endswith("?") else "."
    return Refused(f"{path} line {place}: {what}{end}")
