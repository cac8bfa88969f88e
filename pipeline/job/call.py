"""The settings of a call, such as `run_frame(…, max_paid=5)`, in the form of the job file.

So they have the same names, the same values and the same errors as the keys of a job file, and
run.json can keep them.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

import yaml

from pipeline.core.errors import Refused
from pipeline.core.model import JsonObject

# run.json has them twice, and a larger run.json is not read.
_MOST_BYTES = 400_000
_DEEPEST = 4


def as_settings(given: Mapping[str, Any]) -> JsonObject:
    """Returns options as JSON values, and leaves out each None.

    Raises:
        Refused: if a value is of another kind than a job file can have, or all are too long.
    """
    settings = {name: _plain(name, value) for name, value in given.items() if value is not None}
    if len(json.dumps(settings)) > _MOST_BYTES:
        raise Refused(
            f"The options of the call have over {_MOST_BYTES // 1000} KB. Put long texts into a "
            "column."
        )
    return settings


def _plain(name: str, value: Any, depth: int = 0) -> Any:
    if type(value).__module__ == "numpy" and getattr(value, "shape", None) == ():
        value = value.item()
    if value is None or isinstance(value, str | bool | int | float):
        return value
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if depth < _DEEPEST and isinstance(value, Mapping):
        return {
            _plain(name, key, _DEEPEST): _plain(name, one, depth + 1) for key, one in value.items()
        }
    if depth < _DEEPEST and isinstance(value, list | tuple | set | frozenset):
        return [_plain(name, one, depth + 1) for one in value]
    raise Refused(
        f"{name}= contains an object of the type {type(value).__name__}. Use texts, numbers, true "
        "or false, lists and dictionaries, as in a job file."
    )


def node_of(settings: JsonObject) -> yaml.MappingNode:
    """Returns settings as the node that a job file with them would have. It has no lines."""
    node = yaml.representer.SafeRepresenter(sort_keys=False).represent_data(settings)
    assert isinstance(node, yaml.MappingNode)
    return node
