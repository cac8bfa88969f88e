"""Workflows: a template with variables, published or not, with web search or without."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml

_VARIABLE = re.compile(r"\{\{\s*([^{}]+?)\s*\}\}")
SHIPPED = Path(__file__).with_name("workflows.yaml")


@dataclass(frozen=True, slots=True)
class Workflow:
    """One workflow as its owner set it up."""

    workflow_id: str
    template: str
    published: bool = True
    web_search: bool = False

    def render(self, variables: Mapping[str, object]) -> str:
        """The prompt. A missing variable is the text `undefined`, and only the first mention of
        each variable is replaced: what servers of this family do."""
        prompt = self.template
        for name in dict.fromkeys(_VARIABLE.findall(self.template)):
            value = str(variables.get(name, "undefined"))
            mention = re.compile(r"\{\{\s*" + re.escape(name) + r"\s*\}\}")
            prompt = mention.sub(value.replace("\\", r"\\"), prompt, count=1)
        return prompt


def load_workflows(path: Path) -> dict[str, Workflow]:
    """The workflows in a YAML file, by id.

    Raises:
        ValueError: when the file is not a map of ids to workflows.
    """
    entries = yaml.safe_load(path.read_text(encoding="utf-8"))
    if not isinstance(entries, dict):
        raise ValueError(f"{path}: a map from workflow ids to workflows is needed")
    return {
        str(workflow_id): Workflow(
            str(workflow_id),
            str(entry["template"]),
            bool(entry.get("published", True)),
            bool(entry.get("web_search", False)),
        )
        for workflow_id, entry in entries.items()
    }


def rehearsal(workflow_id: str, variables: list[str]) -> Workflow:
    """A workflow made of a job's own variables, so that the job runs here unchanged."""
    template = "\n".join(f"{name}: {{{{{name}}}}}" for name in variables)
    return Workflow(workflow_id, template, web_search=True)
