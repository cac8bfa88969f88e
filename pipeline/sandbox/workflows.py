"""Workflows: a template with variables, published or not, with web search or without."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

_VARIABLE = re.compile(r"\{\{([^{}]+)\}\}")


@dataclass(frozen=True, slots=True)
class Workflow:
    """One workflow as its owner set it up.

    `cache_s`: for so long an equal body is answered from the cache, 0 for never. `model` is for
    backends that have several. `fault`: the fault that every run of it meets, see `faults.py`.
    """

    workflow_id: str
    template: str
    published: bool = True
    web_search: bool = False
    cache_s: float = 0.0
    model: str | None = None
    fault: str | None = None
    # Text before each first mention and the variable mentioned; the rest of the text after them.
    _mentions: tuple[tuple[str, str], ...] = field(init=False, repr=False, default=())
    _rest: str = field(init=False, repr=False, default="")

    def __post_init__(self) -> None:
        mentions, end = {}, 0
        for found in _VARIABLE.finditer(self.template):
            name = found[1].strip()
            if name not in mentions:
                mentions[name] = self.template[end : found.start()]
                end = found.end()
        by_place = tuple((text, name) for name, text in mentions.items())
        object.__setattr__(self, "_mentions", by_place)
        object.__setattr__(self, "_rest", self.template[end:])

    @property
    def variables(self) -> tuple[str, ...]:
        """The names of its variables, in the order of their first mention."""
        return tuple(name for _, name in self._mentions)

    def render(self, variables: Mapping[str, str]) -> str:
        """The prompt. A missing variable is the text `undefined`, and only the first mention of
        each variable is replaced: what servers of this family do."""
        parts = [text + variables.get(name, "undefined") for text, name in self._mentions]
        return "".join(parts) + self._rest


def rehearsal(workflow_id: str, variables: list[str]) -> Workflow:
    """A workflow made of a job's own variables, so that the job runs here unchanged."""
    template = "\n".join(f"{name}: {{{{{name}}}}}" for name in variables)
    return Workflow(workflow_id, template, web_search=True)
