"""Workflows: templates with variables."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

_VARIABLE = re.compile(r"\{\{([^{}]+)\}\}")


@dataclass(frozen=True, slots=True)
class Workflow:
    """One workflow as its owner configured it.

    `published`: an unpublished workflow gets the same 404 as a missing one. `web_search`: answers
    have citations. `cache_s`: how many seconds an equal body is answered from the cache, 0 for
    never. `model` is for backends with several models. `fault`: the fault that every run of this
    workflow meets (see `faults.py`). `answer`: the shape of answers that are JSON (see `prose.py`).
    """

    workflow_id: str
    template: str
    published: bool = True
    web_search: bool = False
    cache_s: float = 0.0
    model: str | None = None
    fault: str | None = None
    answer: dict[str, object] | None = None
    # For each variable, the text before its first mention and its name; then the rest of the text.
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
        """The names of the variables, in the order of their first mention."""
        return tuple(name for _, name in self._mentions)

    def render(self, variables: Mapping[str, str]) -> str:
        """Returns the prompt. A missing variable becomes the text `undefined`, and only the first
        mention of each variable is replaced. Servers of this family do the same."""
        parts = [text + variables.get(name, "undefined") for text, name in self._mentions]
        return "".join(parts) + self._rest


def rehearsal(
    workflow_id: str, variables: list[str], answer: dict[str, object] | None = None
) -> Workflow:
    """Returns a workflow with the variables of a job, so that the job runs here unchanged. If the
    job has columns for the parts of JSON answers, `answer` is their shape."""
    template = "\n".join(f"{name}: {{{{{name}}}}}" for name in variables)
    return Workflow(workflow_id, template, web_search=True, answer=answer)
