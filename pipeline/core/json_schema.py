"""JSON Schemas of the objects that the runner prints, made from its dataclasses."""

from __future__ import annotations

import collections.abc
import types
import typing
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from datetime import datetime
from enum import Enum
from pathlib import Path
from typing import Any

from pipeline.core.model import JsonObject

DIALECT = "https://json-schema.org/draft/2020-12/schema"
_SIMPLE = {
    str: "string",
    int: "integer",
    float: "number",
    bool: "boolean",
    types.NoneType: "null",
}
_LISTS = (list, tuple, collections.abc.Sequence)
_MAPPINGS = (dict, collections.abc.Mapping)


def schema_of(kind: Any) -> JsonObject:
    """Returns the JSON Schema of a value of this type, as `json` writes it after `asdict`.

    Raises:
        TypeError: for a type that has none.
    """
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):
        return {"anyOf": [schema_of(one) for one in arguments]}
    if origin in _LISTS:
        return {"type": "array", "items": schema_of(arguments[0])}
    if origin in _MAPPINGS:
        return {"type": "object", "additionalProperties": schema_of(arguments[1])}
    if kind in _SIMPLE:
        return {"type": _SIMPLE[kind]}
    if isinstance(kind, type):
        if is_dataclass(kind):
            return dataclass_schema(kind)
        if issubclass(kind, Enum):
            return {"enum": [one.value for one in kind]}
        if issubclass(kind, datetime):
            return {"type": "string", "format": "date-time"}
        if issubclass(kind, Path):
            return {"type": "string"}
    raise TypeError(f"{kind} has no JSON Schema")


def dataclass_schema(
    kind: type, *, without: tuple[str, ...] = (), more: Mapping[str, JsonObject] | None = None
) -> JsonObject:
    """Returns the JSON Schema of a dataclass: all its fields but `without`, and `more` required
    keys."""
    hints = typing.get_type_hints(kind)
    keys = {one.name: schema_of(hints[one.name]) for one in fields(kind) if one.name not in without}
    told = " ".join((kind.__doc__ or "").split())
    return {"description": told} | closed_object(keys | dict(more or {}))


def closed_object(
    keys: Mapping[str, JsonObject], optional: Mapping[str, JsonObject] | None = None
) -> JsonObject:
    """Returns the JSON Schema of an object with these keys, perhaps the `optional` ones, and no
    others."""
    return {
        "type": "object",
        "properties": {**keys, **(optional or {})},
        "required": list(keys),
        "additionalProperties": False,
    }
