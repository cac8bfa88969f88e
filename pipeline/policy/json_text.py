"""Reads JSON as servers write it, which does not always follow the RFC."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import cache
from typing import Any

LATIN = "cp1252"
"""The charset that browsers use for pages in "Latin-1": it has their quotes and dashes."""


MANY_VALUES = 200_000
"""From this number on, JSON stays text: as Python objects it would take about 30 times the memory
of the text."""
_MAX_DEPTH = 199


@dataclass(frozen=True, slots=True)
class JsonText:
    """An object or a list that stayed text, as received. The text is valid JSON, except that its
    strings may contain control characters."""

    text: str

    def first(self, most: int) -> tuple[list[Any], bool]:
        """Returns the first values of a list, and whether these are all. Returns no values if this
        is not a list. A value of over a million characters becomes None."""
        found: list[Any] = []
        if not self.text.startswith("["):
            return found, True
        decode = _DECODER.raw_decode
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
# `json.loads` and `json.dumps` make one of these for each call with options.
_DECODER = json.JSONDecoder(strict=False)
_ENCODER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))


def parsed(body: bytes) -> Any:
    """Returns the value in `body`, which is UTF-8, UTF-16 or UTF-32, or else read as Latin-1.

    Strings may contain unescaped control characters. If there are many values, objects and lists
    within the outermost object stay text, as a `JsonText` each, and an outermost list becomes
    empty.

    Raises:
        ValueError: when the body is not JSON.
        RecursionError: when it is nested too deeply.
    """
    text = _decoded(body)
    few = len(body) <= MANY_VALUES or sum(map(text.count, ",[{")) <= MANY_VALUES
    return _DECODER.decode(text) if few else _outermost(text)


def text_of(value: Any) -> str:
    """Returns the JSON text of a value from `parsed`, or of a part of it."""
    if isinstance(value, JsonText):
        return value.text
    if value == []:  # the citations of most answers; `encode` makes an encoder for each list
        return "[]"
    if isinstance(value, dict) and any(isinstance(one, JsonText) for one in value.values()):
        return f"{{{','.join(f'{text_of(name)}:{text_of(one)}' for name, one in value.items())}}}"
    return _ENCODER.encode(value)


def _outermost(text: str) -> Any:
    at = _after_space(text, 0)
    value: Any = []
    if text[at : at + 1] == "[":
        at = _end_of(text, at)
    elif text[at : at + 1] == "{":
        value, at = _object(text, at + 1)
    else:
        return _DECODER.decode(text)
    if _after_space(text, at) != len(text):
        raise json.JSONDecodeError("Extra data", text, at)
    return value


def _object(text: str, at: int) -> tuple[dict[str, Any], int]:
    decode = _DECODER.raw_decode
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
    """Returns the end of the object or list that begins at `at`, without building values.

    A regular expression skips everything that is nested less than `_NESTED` deep. A loop handles
    the deeper levels.
    """
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
    """Returns three expressions for lists and for objects, by the character that closes them.

    They match all values with a comma after each; the last value and the end; and the beginning of
    a more deeply nested value. Each takes linear time, because its repetitions are possessive.
    """
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
    """Whether `body` is in none of JSON's charsets, so that its letters are a guess."""
    if body.isascii():
        return False
    try:
        body.decode(json.detect_encoding(body), "surrogatepass")
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


def _decoded(body: bytes) -> str:
    try:
        return body.decode(json.detect_encoding(body), "surrogatepass")
    except UnicodeDecodeError:
        pass
    try:
        return body.decode(LATIN)
    except UnicodeDecodeError:  # cp1252 does not define five bytes
        return body.decode("latin-1")
