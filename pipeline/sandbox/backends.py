"""Where the text of an answer comes from. `openai.py` has the other backend."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from pipeline.sandbox.prose import count_tokens, find_sources, write_text
from pipeline.sandbox.workflows import Workflow


@dataclass(frozen=True, slots=True)
class Written:
    """What a model made of a prompt: text, sources (None where it did not search) and tokens."""

    text: str
    citations: list[str] | None
    tokens: int


class ModelFailed(Exception):
    """The model could not write; the page's 500."""


class ModelBusy(ModelFailed):
    """The model is asked too often; the page's 429."""


class Backend(Protocol):
    """Writes the text of answers."""

    async def write(self, workflow: Workflow, prompt: str) -> Written:
        """What the model writes.

        Raises:
            ModelBusy, ModelFailed: when it does not; nothing is billed then.
        """
        ...

    async def close(self) -> None:
        """Ends its connections."""
        ...


class TemplateBackend:
    """Deterministic prose made of the prompt: no model, no download, no key."""

    async def write(self, workflow: Workflow, prompt: str) -> Written:
        text = write_text(prompt)
        citations = find_sources(prompt) if workflow.web_search else None
        return Written(text, citations, count_tokens(prompt) + count_tokens(text))

    async def close(self) -> None:
        return
