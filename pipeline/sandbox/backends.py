"""The source of the answers' text. `openai.py` has the other backend."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from pipeline.sandbox.prose import count_tokens, find_sources, write_json, write_text
from pipeline.sandbox.workflows import Workflow


@dataclass(frozen=True, slots=True)
class Written:
    """A model's output for a prompt: text, sources (None if it did not search) and tokens."""

    text: str
    citations: list[str] | None
    tokens: int


class ModelFailed(Exception):
    """The model wrote no text. The client gets the API's 500."""


class ModelBusy(ModelFailed):
    """The model gets too many requests. The client gets the API's 429."""


class Backend(Protocol):
    """Writes the text of answers."""

    async def write(self, workflow: Workflow, prompt: str) -> Written:
        """Returns the model's output.

        Raises:
            ModelBusy, ModelFailed: if the model gives no output. Nothing is billed then.
        """
        ...

    async def close(self) -> None:
        """Closes the backend's connections."""
        ...


class TemplateBackend:
    """Makes deterministic text from the prompt, without a model, a download or a key."""

    async def write(self, workflow: Workflow, prompt: str) -> Written:
        shape = workflow.answer
        text = write_text(prompt) if shape is None else write_json(prompt, shape)
        citations = find_sources(prompt) if workflow.web_search else None
        return Written(text, citations, count_tokens(prompt) + count_tokens(text))

    async def close(self) -> None:
        return
