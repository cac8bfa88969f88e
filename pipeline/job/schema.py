"""The JSON Schema of a job file, for editors, made from the table by which the loader reads it.

The loader sees more than a schema can say: names that occur twice, patterns and paths with an error
in them, files that do not exist, and a variable that is a constant too.
"""

from __future__ import annotations

from pipeline.core.json_schema import DIALECT
from pipeline.core.model import JsonObject
from pipeline.job.answer_columns import TEXT, TYPES
from pipeline.job.key_types import Choice, Flag, Number, Text, object_schema, text_schema
from pipeline.job.spec import MAX_CONDITIONS, MAX_TIMEOUT_S, OF_FILES, TESTS, TEXTFILE_ENDING
from pipeline.job.spec_columns import KEYS as COLUMN_KEYS
from pipeline.job.spec_columns import MAX_COLUMNS, MAX_NAME_CHARACTERS
from pipeline.job.spec_keys import EMPTY_CHOICES, KEYS

TITLE = "Job file of pipeline"
"""It tells this schema from other files."""


def job_schema() -> JsonObject:
    """Returns the JSON Schema (draft 2020-12) of a job file.

    Whatever it refuses, the runner refuses too.
    """
    own = {"empty": _empty(), "where": _where(), "columns": _columns(), "notify": _notify()}
    kinds = {key.name: own[key.name] if key.type is None else key.type.schema for key in KEYS}
    schema = object_schema(kinds, required=(k.name for k in KEYS if k.left_out == "required"))
    for key in KEYS:
        told = key.about if key.left_out == "required" else f"{key.about} Left out: {key.left_out}."
        schema["properties"][key.name]["description"] = told
    return {
        "$schema": DIALECT,
        "title": TITLE,
        **schema,
        "allOf": [_locale_needs_shown(), _stage_needs_variables()],
    }


def _empty() -> JsonObject:
    choice = Choice(EMPTY_CHOICES).schema
    one = {"anyOf": [choice, {"type": "null"}]}
    return {"anyOf": [choice, {"type": "object", "additionalProperties": one}]}


def _where() -> JsonObject:
    text = text_schema()
    keys = {"column": text, "not": Flag().schema, "empty": Flag().schema}
    keys |= {name: text for name in TESTS if name not in keys}
    condition = object_schema(keys, required=("column",))
    condition["properties"] = keys  # here a key without a value is an error
    condition["oneOf"] = [{"required": [name]} for name in TESTS]
    several = {"type": "array", "items": condition, "maxItems": MAX_CONDITIONS}
    return {"anyOf": [condition, several]}


def _columns() -> JsonObject:
    path = {"type": "string", "pattern": r"^\$"}
    kinds = {"path": path, "type": Choice(TYPES).schema, "join": Text().schema}
    column = object_schema({name: kinds[name] for name in COLUMN_KEYS}, required=("path",))
    column["if"] = {"properties": {"join": {"type": "string"}}, "required": ["join"]}
    column["then"] = {"properties": {"type": {"enum": [TEXT, None]}}}
    return {
        "type": "object",
        "additionalProperties": {"anyOf": [path, column]},
        "propertyNames": {
            "pattern": r"^[^=+\-@_\s](?:.*\S)?$",
            "minLength": 1,
            "maxLength": MAX_NAME_CHARACTERS,
        },
        "maxProperties": MAX_COLUMNS,
    }


def _notify() -> JsonObject:
    text = text_schema()
    ending = {"pattern": rf"\{TEXTFILE_ENDING}$"}
    return object_schema(
        {
            "healthcheck": text,
            "webhook": text,
            "textfile": text | ending,
            "opentelemetry": Flag().schema,
            "timeout_s": Number(float, above=0, at_most=MAX_TIMEOUT_S).schema,
        }
    )


def _locale_needs_shown() -> JsonObject:
    shown = {"anyOf": [{"const": True}, {"type": "array", "minItems": 1}]}
    return {
        "if": {"properties": {"locale": {"type": "string"}}, "required": ["locale"]},
        "then": {"properties": {"shown": shown}, "required": ["shown"]},
    }


def _stage_needs_variables() -> JsonObject:
    of_files = dict.fromkeys(OF_FILES[1:], False)
    return {
        "if": {"properties": {"input": {"type": "object"}}, "required": ["input"]},
        "then": {
            "properties": {"variables": {"type": "object"}, **of_files},
            "required": ["variables"],
        },
    }
