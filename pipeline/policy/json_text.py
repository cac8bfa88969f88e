"""JSON as servers write it, which is not always as its RFC wants it."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import cache
from typing import Any

LATIN = "cp1252"
"""What browsers read where a page says Latin-1: it has the quotes and dashes of such pages."""


MANY_VALUES = 200_000
"""From so many on, values of Python would take some 30 times the memory of their text."""
_MAX_DEPTH = 199


@dataclass(frozen=True, slots=True)
class JsonText:
    """An object or a list that was not made into values of Python: its text, as it came, which is
    valid JSON except for control characters in its strings."""

    text: str

    def first(self, most: int) -> tuple[list[Any], bool]:
        """The first values of a list, and whether these are all; none of what is no list. One of
        over a million characters is None."""
        found: list[Any] = []
        if not self.text.startswith("["):
            return found, True
        decode = json.JSONDecoder(strict=False).raw_decode
        at = _after_space(self.text, 1)
        while self.text[at] != "]":
            if len(found) == most:
                return found, False
            long = self.text[at] in "[{" and (end := _end_of(self.text, at)) - at > _LONG
            value, at = (None, end) if long else decode(self.text, at)
            found.append(value)
            at = _after_space(self.text, at)
            at = _after_space(self.text, at + (self.text[at] == ","))
        return found, True


_LONG = 1_000_000


def parsed(body: bytes) -> Any:
    """The value in `body`: UTF-8, UTF-16 or UTF-32, and Latin-1 where it is none of these. Control
    characters may stand in its strings as they are. Where there are many values, objects and lists
    within the outermost object stay text, a `JsonText` each, and an outermost list is left empty.

    Raises:
        ValueError: when it is not JSON.
        RecursionError: when it is nested too deeply.
    """
    text = _latin(body) if is_guessed(body) else body
    if sum(map(body.count, (b",", b"[", b"{"))) <= MANY_VALUES:
        return json.loads(text, strict=False)
    if isinstance(text, bytes):
        text = text.decode(json.detect_encoding(text), "surrogatepass")
    return _outermost(text)


def text_of(value: Any) -> str:
    """The JSON text of what `parsed` returned, or of a part of it."""
    if isinstance(value, JsonText):
        return value.text
    if isinstance(value, dict) and any(isinstance(one, JsonText) for one in value.values()):
        return f"{{{','.join(f'{text_of(name)}:{text_of(one)}' for name, one in value.items())}}}"
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _outermost(text: str) -> Any:
    at = _after_space(text, 0)
    value: Any = []
    if text[at : at + 1] == "[":
        at = _end_of(text, at)
    elif text[at : at + 1] == "{":
        value, at = _object(text, at + 1)
    else:
        return json.loads(text, strict=False)
    if _after_space(text, at) != len(text):
        raise json.JSONDecodeError("Extra data", text, at)
    return value


def _object(text: str, at: int) -> tuple[dict[str, Any], int]:
    decode = json.JSONDecoder(strict=False).raw_decode
    found: dict[str, Any] = {}
    at = _after_space(text, at)
    if text[at : at + 1] == "}":
        return found, at + 1
    while True:
        if text[at : at + 1] != '"':
            raise json.JSONDecodeError("Expecting a name", text, at)
        name, at = decode(text, at)
        at = _after_space(text, at)
        if text[at : at + 1] != ":":
            raise json.JSONDecodeError("Expecting ':'", text, at)
        at = _after_space(text, at + 1)
        if text[at : at + 1] in ("[", "{"):
            end = _end_of(text, at)
            found[name], at = JsonText(text[at:end]), end
        else:
            found[name], at = decode(text, at)
        at = _after_space(text, at)
        mark = text[at : at + 1]
        at = _after_space(text, at + 1)
        if mark == "}":
            return found, at
        if mark != ",":
            raise json.JSONDecodeError("Expecting ',' or '}'", text, at)


_SPACE = re.compile(r"[ \t\n\r]*+")


def _after_space(text: str, at: int) -> int:
    found = _SPACE.match(text, at)
    assert found is not None
    return found.end()


def _end_of(text: str, at: int) -> int:
    """Where the object or list that begins there ends. Makes no values: an expression runs over
    all that is nested less than `_NESTED` deep, and a loop goes on with what is nested deeper."""
    run, last, opened = _expressions()
    closers: list[str] = []
    after_comma = False
    while True:
        if closers:
            found = run[closers[-1]].match(text, at)
            after_comma |= found.end() > at
            at = found.end()
            found = last[closers[-1]].match(text, at)
            if found is not None:
                if found[1] is None and after_comma:
                    raise json.JSONDecodeError("Expecting a value", text, at)
                at = found.end()
                closers.pop()
                if not closers:
                    return at
                at = _after_space(text, at)
                after_comma = text[at : at + 1] == ","
                if after_comma:
                    at += 1
                elif text[at : at + 1] != closers[-1]:
                    raise json.JSONDecodeError("Expecting ','", text, at)
                continue
        found = opened[closers[-1] if closers else "]"].match(text, at)
        if found is None:
            raise json.JSONDecodeError("Expecting a value", text, at)
        if len(closers) == _MAX_DEPTH:
            raise RecursionError("nested too deeply")
        closers.append("]" if found[1] == "[" else "}")
        at, after_comma = found.end(), False


_NESTED = 5


@cache
def _expressions() -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Of lists and of objects, by what closes them: all values with a comma behind each; the last
    one and the end; the beginning of one that is nested deeper. Each takes linear time, as nothing
    that was matched is given back."""
    space = r"[ \t\n\r]*+"
    text = r'"(?:[^"\\]++|\\(?:["\\/bfnrt]|u[0-9A-Fa-f]{4}))*+"'
    number = r"-?+(?:0|[1-9][0-9]*+)(?:\.[0-9]++)?+(?:[eE][-+]?+[0-9]++)?+"
    plain = rf"(?:{text}|{number}|true|false|null|NaN|-?+Infinity)"
    name = rf"{text}{space}:{space}"
    value = plain
    for _ in range(_NESTED):
        inner = rf"{space}(?:,{space}(?!END)|(?=END))"
        listed = rf"\[{space}(?:{value}{inner})*+\]".replace("END", r"\]")
        pairs = rf"\{{{space}(?:{name}{value}{inner})*+\}}".replace("END", r"\}")
        value = rf"(?:{plain}|{listed}|{pairs})"
    run, last, opened = {}, {}, {}
    for closer, before in (("]", ""), ("}", name)):
        run[closer] = re.compile(rf"(?:{space}{before}{value}{space},)*+")
        last[closer] = re.compile(rf"{space}({before}{value}{space})?+{re.escape(closer)}")
        opened[closer] = re.compile(rf"{space}{before}([\[{{])")
    return run, last, opened


def is_guessed(body: bytes) -> bool:
    """Whether `body` is in none of JSON's own charsets, so that its letters may be others."""
    try:
        body.isascii() or body.decode(json.detect_encoding(body), "surrogatepass")
    except UnicodeDecodeError:
        return True
    return False


def is_utf8(body: bytes | bytearray) -> bool:
    """Whether `body` is text in UTF-8."""
    try:
        body.decode()
    except UnicodeDecodeError:
        return False
    return True


def _latin(body: bytes) -> str:
    try:
        return body.decode(LATIN)
    except UnicodeDecodeError:  # it leaves five bytes without a meaning
        return body.decode("latin-1")
