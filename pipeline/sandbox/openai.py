"""A backend that gets its text from any OpenAI-compatible endpoint, hosted or on this machine."""

from __future__ import annotations

import logging
from typing import Any

import aiohttp

from pipeline.sandbox.backends import ModelBusy, ModelFailed, Written
from pipeline.sandbox.prose import count_tokens
from pipeline.sandbox.workflows import Workflow

_CONNECT_S = 10.0
_SHOWN = 300

_log = logging.getLogger("pipeline.sandbox")


class OpenAIBackend:
    """Sends `POST {url}/chat/completions`, once per run, not streamed and never repeated.

    Only the time to connect is limited here; the sandbox limits the whole run (`--max-duration`).
    Error texts of the model's server go to the log, not to the client.
    """

    def __init__(self, url: str, model: str, key: str | None) -> None:
        self._url = url.rstrip("/") + "/chat/completions"
        self._model = model
        self._headers = {"authorization": f"Bearer {key}"} if key else {}
        self._session: aiohttp.ClientSession | None = None

    async def write(self, workflow: Workflow, prompt: str) -> Written:
        """Returns text, sources and token usage of one completion."""
        try:
            async with self._opened().post(self._url, json=self._asked(workflow, prompt)) as answer:
                if answer.status != 200:
                    raise _failed(answer.status, await answer.read())
                return _written(await answer.json(content_type=None), prompt)
        except (aiohttp.ClientError, ValueError, UnicodeError) as error:
            _log.error(
                "The model at %s gave no answer: %s", self._url, str(error) or type(error).__name__
            )
            raise ModelFailed(str(error)) from error

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    def _asked(self, workflow: Workflow, prompt: str) -> dict[str, Any]:
        asked: dict[str, Any] = {
            "model": workflow.model or self._model,
            "messages": [{"role": "user", "content": prompt}],
            "stream": False,
        }
        # Only for workflows that want it: models without web search refuse the field.
        return asked | ({"web_search_options": {}} if workflow.web_search else {})

    def _opened(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                headers=self._headers,
                # No cap on connections: requests that queue here would look like a slow model.
                connector=aiohttp.TCPConnector(limit=0),
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_S),
            )
        return self._session


def _failed(status: int, body: bytes) -> ModelFailed:
    said = body[:_SHOWN].decode("utf-8", "replace")
    _log.error("The model's server returned status %d: %s", status, said)
    return ModelBusy(said) if status == 429 else ModelFailed(said)


def _written(answer: Any, prompt: str) -> Written:
    """Returns the output in a chat completion; raises ValueError for anything else."""
    try:
        message = answer["choices"][0]["message"]
        text = _text(message.get("content"))
        return Written(text, _citations(message), _tokens(answer, prompt, text))
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise ValueError(f"the response is not a chat completion ({error!r})") from error


def _text(content: Any) -> str:
    """Returns the text of `content`: text, None, or a list of parts of which some are text."""
    if content is None or isinstance(content, str):
        return content or ""
    return "".join(part["text"] for part in content if part.get("type") == "text")


def _citations(message: dict[str, Any]) -> list[str] | None:
    """Returns the URLs that the model cites, each once, or None if it cites none."""
    notes = [note for note in message.get("annotations") or [] if note["type"] == "url_citation"]
    # Chat completions nest the URL; some servers put it into the annotation, as newer APIs do.
    urls = [note.get("url_citation", note)["url"] for note in notes]
    return list(dict.fromkeys(urls)) or None


def _tokens(answer: dict[str, Any], prompt: str, text: str) -> int:
    usage = answer.get("usage") or {}
    counted = usage.get("total_tokens")
    if isinstance(counted, int):
        return counted
    return count_tokens(prompt) + count_tokens(text)
