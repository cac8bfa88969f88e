"""The account that the sandbox plays: keys, credits and workflows from one YAML file."""

from __future__ import annotations

import difflib
import re
from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from pipeline.sandbox.durations import parse_seconds
from pipeline.sandbox.faults import FAULTS
from pipeline.sandbox.workflows import Workflow

SHIPPED = Path(__file__).with_name("workflows.yaml")

_WORKFLOW_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
_ACCOUNT_FIELDS = ("keys", "credits", "workflows")
KNOWN_KEY = "sk_sandbox"
_DEFAULT_CREDITS = 10_000_000
_KINDS = {
    "template": (str, "text"),
    "published": (bool, "true or false"),
    "web_search": (bool, "true or false"),
    "cache": (str, "a length of time such as 10m"),
    "model": (str, "text"),
    "answer": (dict, "names and types, such as {title: text, score: number}"),
    "fault": (str, "the name of a fault (`pipeline sandbox --faults` lists them)"),
}


@dataclass(frozen=True, slots=True)
class Account:
    """The account as the server starts with it."""

    keys: tuple[str, ...]
    credits: int
    workflows: dict[str, Workflow]


def load_account(path: Path) -> Account:
    """Reads an account from a YAML file: `workflows` by id, and optionally `keys` and `credits`.

    Raises:
        ValueError: naming the file, what is wrong with it and how to fix it.
    """
    try:
        fields = yaml.load(path.read_text(encoding="utf-8"), _UniqueKeys)
        return _account(fields)
    except OSError as error:
        raise ValueError(
            f"{path}: cannot be read ({error.strerror or error}). Check --workflows."
        ) from None
    except UnicodeDecodeError:
        raise ValueError(f"{path}: cannot be read as UTF-8. Save it as UTF-8 text.") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f"line {mark.line + 1}: " if mark else ""
        problem = getattr(error, "problem", None) or "not readable"
        raise ValueError(f"{path}: {line}this is not YAML ({problem}).") from None
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def read_workflow(workflow_id: str, fields: object) -> Workflow:
    """Returns one workflow, from its fields in the file.

    Raises:
        ValueError: naming the field and its valid values.
    """
    here = f"workflow {workflow_id}"
    if not _WORKFLOW_ID.fullmatch(workflow_id):
        raise ValueError(f"{here}: the id must have 1 to 64 letters, digits, - or _.")
    if not isinstance(fields, dict) or "template" not in fields:
        raise ValueError(
            f'{here}: it has no template. Write one, such as `template: "About {{{{name}}}}"`.'
        )
    _check_names(here, fields, _KINDS)
    for name, value in fields.items():
        kind, wanted = _KINDS[name]
        if not isinstance(value, kind):
            raise ValueError(f"{here}: {name} is {value!r}. Write {wanted}.")
    values: dict[str, Any] = {name: fields[name] for name in fields if name != "cache"}
    if "cache" in fields:
        try:
            values["cache_s"] = parse_seconds(fields["cache"])
        except ValueError as error:
            raise ValueError(f"{here}: cache: {error}") from None
    if "fault" in fields:
        _check_names(here, [fields["fault"]], FAULTS, "fault")
    return Workflow(workflow_id, **values)


def _account(fields: object) -> Account:
    if not isinstance(fields, dict) or not isinstance(fields.get("workflows"), dict):
        raise ValueError(
            "it has no workflows. Write `workflows:` and the id of each workflow below it."
        )
    _check_names("the file", fields, _ACCOUNT_FIELDS)
    workflows = {
        str(each): read_workflow(str(each), fields["workflows"][each])
        for each in fields["workflows"]
    }
    if not workflows:
        raise ValueError("it has no workflows. Write one below `workflows:`.")
    keys = fields.get("keys", [KNOWN_KEY])
    if not isinstance(keys, list) or not keys or not all(isinstance(key, str) for key in keys):
        raise ValueError(f"keys is {keys!r}. Write a list of texts such as [sk_sandbox].")
    credits = fields.get("credits", _DEFAULT_CREDITS)
    if not isinstance(credits, int) or isinstance(credits, bool):
        raise ValueError(f"credits is {credits!r}. Write a whole number.")
    return Account(tuple(keys), credits, workflows)


def _check_names(
    here: str, names: Iterable[object], known: Iterable[str], what: str = "field"
) -> None:
    known = list(known)
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(str(name), known, 1)
            hint = f"Did you mean {near[0]}?" if near else f"Write one of {', '.join(known)}."
            raise ValueError(f"{here}: there is no {what} {name!r}. {hint}")


class _UniqueKeys(yaml.SafeLoader):
    """A YAML loader that refuses a key that occurs twice in one map. PyYAML would use the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[str] = set()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if key.value in seen:
                line = key.start_mark.line + 1
                raise ValueError(f"line {line}: {key.value!r} is there twice. Remove one of them.")
            seen.add(key.value)
        return super().construct_mapping(node, deep)
