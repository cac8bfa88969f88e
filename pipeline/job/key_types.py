"""The types of the keys of a job file. Each reads a value, and has the JSON Schema that agrees."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from pipeline.core.model import JsonObject
from pipeline.job.stage import Stage
from pipeline.job.yaml_fields import Fields

TAB = "\t"


class Type(Protocol):
    """The type of a key's value. `schema` is its JSON Schema, for editors."""

    @property
    def schema(self) -> JsonObject: ...

    def read(self, fields: Fields, key: str) -> Any:
        """Returns the value, or None if the key is missing or its value has an error."""


def text_schema(pattern: re.Pattern[str] | None = None) -> JsonObject:
    """The JSON Schema of a text, all of which `pattern` matches."""
    rule = {} if pattern is None else {"pattern": f"^(?:{pattern.pattern})$".replace(r"\Z", "$")}
    return {"type": "string", **rule}


def object_schema(keys: Mapping[str, JsonObject], *, required: Iterable[str] = ()) -> JsonObject:
    """The JSON Schema of a mapping that has no other keys. A key that is not required may be empty
    in the file, as if it were left out."""
    needed = list(required)
    kinds = {
        name: schema if name in needed else {"anyOf": [schema, {"type": "null"}]}
        for name, schema in keys.items()
    }
    return {
        "type": "object",
        "additionalProperties": False,
        "properties": kinds,
        **({"required": needed} if needed else {}),
    }


@dataclass(frozen=True, slots=True)
class RequiredText:
    """A required text. `missing` says what to write, and `rule` describes `pattern`."""

    missing: str
    pattern: re.Pattern[str] | None = None
    rule: str = ""

    @property
    def schema(self) -> JsonObject:
        return text_schema(self.pattern) | {"minLength": 1}

    def read(self, fields: Fields, key: str) -> str | None:
        return fields.text(key, self.missing, self.pattern, self.rule)


@dataclass(frozen=True, slots=True)
class Text:
    """Any text, or one that `rule` describes and `pattern` matches."""

    pattern: re.Pattern[str] | None = None
    rule: str = ""

    @property
    def schema(self) -> JsonObject:
        return text_schema(self.pattern)

    def read(self, fields: Fields, key: str) -> str | None:
        return fields.optional_text(key, self.pattern, self.rule)


@dataclass(frozen=True, slots=True)
class FilePath:
    """A possible path of a file, relative to the folder of the job file. If the key is required,
    `missing` says what to write."""

    missing: str | None = None

    @property
    def schema(self) -> JsonObject:
        return text_schema() | {"minLength": 1}

    def read(self, fields: Fields, key: str) -> Path | None:
        return fields.path(key, self.missing)


@dataclass(frozen=True, slots=True)
class Rows:
    """The source of the rows: the path of a sheet, or ``job: PATH`` for the answers of another job.
    `missing` says what to write."""

    missing: str

    @property
    def schema(self) -> JsonObject:
        path = FilePath().schema
        return {"anyOf": [path, object_schema({"job": path}, required=("job",))]}

    def read(self, fields: Fields, key: str) -> Path | Stage | None:
        if not fields.is_mapping(key):
            return fields.path(key, self.missing)
        inner = fields.section(key, ("job",))
        if inner is None or inner.note_unknown(("job",), f"`{key}` has no key `{{}}`.", {}):
            return None
        job = inner.path("job", "Name the file of the other job, such as `job: outline.yaml`.")
        return None if job is None else Stage(job)


@dataclass(frozen=True, slots=True)
class Choice:
    """One word of a fixed list."""

    choices: tuple[str, ...]

    @property
    def schema(self) -> JsonObject:
        return {"enum": list(self.choices)}

    def read(self, fields: Fields, key: str) -> str | None:
        return fields.choice(key, self.choices)


def separator_of(text: str) -> str:
    """Returns the character that `text` names: one character, or tab.

    Raises:
        ValueError: for other texts.
    """
    if text in ("tab", TAB):
        return TAB
    if len(text) != 1 or text.isalnum() or text in '"\r\n\0 ':
        raise ValueError('`separator` must be one character in quotes, such as "|", or tab')
    return text


@dataclass(frozen=True, slots=True)
class Separator:
    """One character, or the word tab."""

    @property
    def schema(self) -> JsonObject:
        return {"type": "string", "pattern": r"""^(?:tab|_|[^\w"\r\n\u0000 ])$"""}

    def read(self, fields: Fields, key: str) -> str | None:
        text = fields.optional_text(key)
        try:
            return None if text is None else separator_of(text)
        except ValueError as error:
            fields.note(key, str(error))
            return None


@dataclass(frozen=True, slots=True)
class Words:
    """A list of words, each of them one of `choices`."""

    choices: tuple[str, ...]

    @property
    def schema(self) -> JsonObject:
        word = {"enum": list(self.choices)}
        return {"anyOf": [word, {"type": "array", "items": word, "minItems": 1}]}

    def read(self, fields: Fields, key: str) -> tuple[str, ...] | None:
        return fields.words(key, self.choices)


@dataclass(frozen=True, slots=True)
class Flag:
    """true or false."""

    @property
    def schema(self) -> JsonObject:
        return {"type": "boolean"}

    def read(self, fields: Fields, key: str) -> bool | None:
        return fields.flag(key)


@dataclass(frozen=True, slots=True)
class ColumnNames:
    """A list of column names, at most `most` of them, or true for all columns or false for none."""

    most: int

    @property
    def schema(self) -> JsonObject:
        names = {"type": "array", "items": text_schema(), "maxItems": self.most}
        return {"anyOf": [Flag().schema, names]}

    def read(self, fields: Fields, key: str) -> tuple[str, ...] | bool | None:
        return fields.names_or_flag(key, self.most)


@dataclass(frozen=True, slots=True)
class Number:
    """A number of the given `kind` (int or float), with a lower and perhaps an upper limit."""

    kind: Callable[[str], Any]
    at_least: float | None = None
    above: float | None = None
    at_most: float | None = None

    @property
    def schema(self) -> JsonObject:
        # A number in quotes is one too. Its limits are not checked here.
        pattern = (
            r"^\s*[-+]?[\d_]+\s*$" if self.kind is int else r"^\s*[-+]?[\d_.]+([eE][-+]?\d+)?\s*$"
        )
        kind = "integer" if self.kind is int else "number"
        limits = {
            "minimum": self.at_least,
            "exclusiveMinimum": self.above,
            "maximum": self.at_most,
        }
        found = {name: at for name, at in limits.items() if at is not None}
        return {"type": [kind, "string"], "pattern": pattern, **found}

    def read(self, fields: Fields, key: str) -> Any:
        return fields.number(
            key, self.kind, at_least=self.at_least, above=self.above, at_most=self.at_most
        )


@dataclass(frozen=True, slots=True)
class Pairs:
    """Lines of `name: text`, at most `most` of them."""

    most: int

    @property
    def schema(self) -> JsonObject:
        return {
            "type": "object",
            "additionalProperties": text_schema(),
            "maxProperties": self.most,
        }

    def read(self, fields: Fields, key: str) -> tuple[tuple[str, str], ...] | None:
        return fields.pairs(key, self.most)
