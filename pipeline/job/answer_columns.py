"""Columns from answers that are JSON: `columns:` in a job file. Pure.

Each column has a path (JSONPath, RFC 9535), a type and a canonical text: a number as its digits
stand in the answer, a date as ISO 8601, an object as JSON in the answer's own order. What does not
fit is an empty cell and a flag. Nothing of this is stored, so a changed path costs no request.

An answer comes from outside, so the work for it is bounded: its length, how deep its JSON is
nested, and how often the runner looks for the beginning of an object.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from decimal import Decimal, InvalidOperation
from functools import cache
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jsonpath import JSONPath, JSONPathEnvironment

TEXT, NUMBER, INTEGER, BOOLEAN, DATE, JSON = (
    "text",
    "number",
    "integer",
    "boolean",
    "date",
    "json",
)
TYPES = (TEXT, NUMBER, INTEGER, BOOLEAN, DATE, JSON)
NOT_JSON = "not_json"
MISSING, TYPE = "missing:", "type:"
"""The beginnings of the flags of one column, before its name."""

MAX_CHARACTERS = 1_000_000
"""Longer answers are not read as JSON: that would take seconds of CPU time for each column."""
MAX_SEARCHED = 3_000_000
"""The characters that all paths for several values read of one answer together. The slowest paths
take 3 s for a million."""
_MOST_OF_A_PATH = 1000
_DEEPEST = 100
_MOST_STARTS = 1000
_MOST_DIGITS = 400
_MOST_LAYERS = 3
_INT64 = 2**63
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*+)(?:\.[0-9]++)?(?:[eE][-+]?[0-9]++)?")
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_FENCE = "```"
_LANGUAGE = re.compile(r"[\w+-]*[ \t]*\r?\n")


@dataclass(frozen=True, slots=True)
class AnswerColumn:
    """One column: its name, the path of its value in the answer, and its type.

    `join` is the text between several values of a column of texts. Without it, several values are a
    flag, or a list if the type is json.
    """

    name: str
    path: str
    type: str = TEXT
    join: str | None = None


@dataclass(frozen=True, slots=True)
class Parts:
    """The columns of one answer: canonical texts, None where the answer does not fit, and flags."""

    texts: tuple[str | None, ...]
    flags: tuple[str, ...] = ()


NO_EDITS: Mapping[str, str] = MappingProxyType({})


class AnswerColumns:
    """Reads the columns of answers."""

    def __init__(self, columns: Sequence[AnswerColumn]) -> None:
        self.columns = tuple(columns)
        paths = [compiled(column.path) for column in columns]
        self._paths = [(path, path.singular_query()) for path in paths]
        searching = sum(not single for _, single in self._paths)
        self._most_searched = MAX_SEARCHED // max(searching, 1)
        self._unread = Parts((None,) * len(self.columns), (NOT_JSON,))

    def read(self, answer: str | None, edits: Mapping[str, str] = NO_EDITS) -> Parts:
        """Returns the columns of an answer's text. Without an answer, they are empty.

        `edits` has the texts that a person wrote for columns. They count in place of the answer's.
        Its flags are `not_json`, or for each column that does not fit `missing:NAME` (the answer
        has no value there, or null, or is too long for this path) or `type:NAME` (a value of
        another type).
        """
        if answer is None:
            return Parts(self._unread.texts)
        return self._edited(self._read(answer), edits) if edits else self._read(answer)

    def _edited(self, paid: Parts, edits: Mapping[str, str]) -> Parts:
        texts, flags = list(paid.texts), list(paid.flags)
        for place, column in enumerate(self.columns):
            if column.name in edits:
                texts[place] = canonical(edits[column.name], column.type)
                own = (f"{MISSING}{column.name}", f"{TYPE}{column.name}")
                flags = [flag for flag in flags if flag not in own]
                flags += [] if texts[place] is not None else [own[1]]
        if all(column.name in edits for column in self.columns):
            flags = [flag for flag in flags if flag != NOT_JSON]
        return Parts(tuple(texts), tuple(flags))

    def _read(self, answer: str) -> Parts:
        try:
            value = json_of(answer)
        except ValueError:
            return self._unread
        texts: list[str | None] = []
        flags: list[str] = []
        for column, (path, single) in zip(self.columns, self._paths, strict=True):
            found = path.findall(value) if single or len(answer) <= self._most_searched else []
            text = None
            if all(one is None for one in found):
                flags.append(f"{MISSING}{column.name}")
            else:
                text = _cell(column, found, single)
                flags += [] if text is not None else [f"{TYPE}{column.name}"]
            texts.append(text)
        return Parts(tuple(texts), tuple(flags))


def flags_of_columns(columns: Iterable[AnswerColumn]) -> tuple[str, ...]:
    """Returns every flag that answers can have because of these columns."""
    names = [column.name for column in columns]
    kinds = (MISSING, TYPE) if names else ()
    return (*([NOT_JSON] if names else []), *(f"{kind}{name}" for name in names for kind in kinds))


def compiled(path: str) -> JSONPath:
    """Returns the path as an object that finds values.

    Raises:
        ValueError: for a text that is no JSONPath, or one that could take too long.
    """
    from jsonpath import JSONPath, JSONPathError

    if len(path) > _MOST_OF_A_PATH:
        raise ValueError(f"it has more than {_MOST_OF_A_PATH:,} characters")
    if sum(map(path.count, "([!")) > _DEEPEST:
        raise ValueError("it is nested too deeply")
    if path.count("..") > 1:
        raise ValueError("`..` may stand in it only once")
    try:
        found = _environment().compile(path)
    except JSONPathError as error:
        raise ValueError(str(error).partition("\n")[0]) from None
    assert isinstance(found, JSONPath)  # RFC 9535 has no compound paths
    return found


@cache
def _environment() -> JSONPathEnvironment:
    """Paths of RFC 9535 only, without `match` and `search`: their patterns could take for ever."""
    from jsonpath import JSONPathEnvironment

    environment = JSONPathEnvironment(strict=True)
    environment.max_recursion_depth = _DEEPEST + 1
    for name in ("match", "search"):
        del environment.function_extensions[name]
    return environment


class _Number(float):
    """A number that knows its digits in the answer."""

    __slots__ = ("digits",)

    def __new__(cls, digits: str) -> _Number:
        number = super().__new__(cls, digits)
        number.digits = digits
        return number

    digits: str


def _integer(digits: str) -> int | _Number:
    return _Number(digits) if len(digits) > _MOST_DIGITS or digits == "-0" else int(digits)


def _refused(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


# Control characters in strings, such as line breaks, are a frequent fault of models, and there is
# only one way to read them.
_DECODER = json.JSONDecoder(
    parse_float=_Number, parse_int=_integer, parse_constant=_refused, strict=False
)


def json_of(answer: str) -> Any:
    """Returns the JSON value in an answer: the whole answer, the content of its Markdown fence, or
    the one object in its text. JSON text inside a JSON string counts as JSON.

    Raises:
        ValueError: if there is none, more than one, or one that is too long or nested too deeply.
    """
    if len(answer) > MAX_CHARACTERS:
        raise ValueError("too long")
    try:
        value = _found(answer.strip().removeprefix("\ufeff"))
        for _ in range(_MOST_LAYERS):
            if not isinstance(value, str) or value.lstrip()[:1] not in ("{", "["):
                break
            value = _found(value)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    _refuse_deep(value)
    return value


def _found(text: str) -> Any:
    try:
        return _DECODER.decode(text)
    except ValueError:
        pass
    before, fenced, after = _fenced(text)
    try:
        value = _DECODER.decode(fenced)
    except ValueError:
        objects = list(_objects(text))
    else:
        objects = [value, *_objects(before), *_objects(after)]
    if len(objects) != 1:
        raise ValueError(f"{len(objects)} objects")
    return objects[0]


def _fenced(text: str) -> tuple[str, str, str]:
    """Returns the text before the first Markdown fence, what stands in it, and the text after it.
    Both ends may be the same line if there is only one fence."""
    first, last = text.find(_FENCE), text.rfind(_FENCE)
    if first == last:
        return text, "", ""
    inside = text[first + len(_FENCE) : last]
    language = _LANGUAGE.match(inside)
    return text[:first], inside[language.end() if language else 0 :], text[last + len(_FENCE) :]


def _objects(text: str) -> Iterator[Any]:
    """Yields the objects in a text that are not part of another one.

    Raises:
        ValueError: if that takes too long.
    """
    at, effort = text.find("{"), 0
    for _ in range(_MOST_STARTS):
        if at < 0:
            return
        try:
            value, end = _DECODER.raw_decode(text, at)
        except json.JSONDecodeError as error:
            effort += error.pos - at
            end = at + 1
        except ValueError:
            end = at + 1
        else:
            yield value
        if effort > len(text):
            break
        at = text.find("{", end)
    if at >= 0:
        raise ValueError("too many beginnings of objects")


def _refuse_deep(value: Any) -> None:
    level = [value]
    for _ in range(_DEEPEST):
        level = [inner for one in level for inner in _inside(one)]
        if not level:
            return
    raise ValueError("nested too deeply")


def _inside(value: Any) -> Iterable[Any]:
    """The lists and objects in a list or object."""
    values = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return (one for one in values if isinstance(one, dict | list))


def _cell(column: AnswerColumn, found: list[Any], single: bool) -> str | None:
    """Returns the text of a column from the values at its path, or None if they do not fit."""
    if column.join is not None:
        listed = found[0] if len(found) == 1 and isinstance(found[0], list) else found
        return column.join.join(canonical(one, TEXT) or "" for one in listed if one is not None)
    if column.type == JSON and not single:
        return canonical(found, JSON)
    return canonical(found[0], column.type) if len(found) == 1 else None


def canonical(value: Any, kind: str) -> str | None:
    """Returns the canonical text of a JSON value as the type `kind`, or None if it does not fit.

    A text that spells a number, a date or a truth value counts as one. Half characters (lone
    surrogates), which no file can have, become �.
    """
    text = value if isinstance(value, str) and kind != JSON else "".join(_json(value))
    if kind in _OF_TYPE:
        return _OF_TYPE[kind](text.strip())
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def _number(text: str) -> str | None:
    return text if _NUMBER.fullmatch(text) and math.isfinite(float(text)) else None


def _integral(text: str) -> str | None:
    number = _number(text)
    if number is None or not -_INT64 <= float(number) <= _INT64:
        return None
    try:
        exact = Decimal(number)  # a float would round from 2^53 on
    except InvalidOperation:  # an exponent of twenty digits, so nearly zero
        return None
    whole = int(exact)
    return str(whole) if whole == exact and -_INT64 <= whole < _INT64 else None


def _boolean(text: str) -> str | None:
    return text.lower() if text.lower() in ("true", "false") else None


def _date(text: str) -> str | None:
    try:
        return date.fromisoformat(text).isoformat() if _DATE.fullmatch(text) else None
    except ValueError:
        return None


_OF_TYPE: dict[str, Callable[[str], str | None]] = {
    NUMBER: _number,
    INTEGER: _integral,
    BOOLEAN: _boolean,
    DATE: _date,
}


_encoded = json.JSONEncoder(ensure_ascii=False).encode  # `dumps` makes an encoder for each value


def _json(value: Any) -> Iterator[str]:
    """Yields the JSON text of a value, with each number as it stands in the answer."""
    if isinstance(value, dict):
        for n, (name, one) in enumerate(value.items()):
            yield f"{',' if n else '{'}{_encoded(name)}:"
            yield from _json(one)
        yield "}" if value else "{}"
    elif isinstance(value, list):
        for n, one in enumerate(value):
            yield "," if n else "["
            yield from _json(one)
        yield "]" if value else "[]"
    else:
        yield value.digits if isinstance(value, _Number) else _encoded(value)
