"""Tests the OpenAI-compatible backend with a small fake of such a server, over real sockets."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from tests.conftest import closed_port
from tests.support.plain_http import call, run

MESSAGE = {
    "role": "assistant",
    "content": "The sky scatters blue light.",
    "annotations": [
        {
            "type": "url_citation",
            "url_citation": {"url": "https://example.com/sky", "title": "Sky", "start_index": 0},
        },
        {"type": "url_citation", "url": "https://example.org/light", "title": "Light"},
        {"type": "url_citation", "url_citation": {"url": "https://example.com/sky"}},
        {"type": "file_citation", "file_id": "f1"},
    ],
}


class FakeModel:
    """The settings of the fake server, and the requests that it received."""

    def __init__(self) -> None:
        self.status = 200
        self.answer: Any = completion(MESSAGE, total_tokens=1234)
        self.wait_s = 0.0
        self.asked: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.url = ""


def completion(message: dict[str, Any], **usage: int) -> dict[str, Any]:
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    return {"id": "chatcmpl-1", "object": "chat.completion", "choices": [choice], "usage": usage}


@pytest.fixture
def model() -> Iterator[FakeModel]:
    """Runs a server with one path, `/v1/chat/completions`."""
    fake = FakeModel()

    class Call(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            fake.asked.append({"path": self.path, **json.loads(body)})
            fake.keys.append(self.headers["authorization"])
            time.sleep(fake.wait_s)
            answer = (
                fake.answer if isinstance(fake.answer, bytes) else json.dumps(fake.answer).encode()
            )
            self.send_response(fake.status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(answer)))
            self.end_headers()
            with contextlib.suppress(ConnectionError):  # the sandbox may have stopped waiting
                self.wfile.write(answer)

        def log_message(self, *_: object) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Call)
    fake.url = f"http://127.0.0.1:{server.server_port}/v1"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield fake
    server.shutdown()
    thread.join()
    server.server_close()


def serving(start_sandbox, model: FakeModel, **options: Any):
    return start_sandbox(model_url=model.url, model="small", **options)


def test_text_sources_and_usage_of_the_model_are_passed_on(start_sandbox, model):
    """Annotations become citations, each URL once. Tokens become credits."""
    sandbox = serving(start_sandbox, model, credits=1000)
    got = run(sandbox.port, {"question": "why is the sky blue?"}, "wf_research")
    assert got.status == 200
    assert got.json() == {
        "success": True,
        "result": "The sky scatters blue light.",
        "citations": ["https://example.com/sky", "https://example.org/light"],
    }
    assert got.quota == ("100000", "99999")
    assert sandbox.bills()[0]["credits"] == 12, "one credit per hundred tokens"
    assert call(sandbox.port, "GET", "/_sandbox/bills").json()["credits"] == 988


def test_the_model_gets_one_request_that_is_not_streamed(start_sandbox, model):
    """The user's message is the rendered template. Web search is requested only for workflows that
    have it."""
    sandbox = serving(start_sandbox, model)
    run(sandbox.port, {"question": "why?"}, "wf_research")
    run(sandbox.port, {"story": "a dog"})
    sandbox.publish("wf_large", "{{story}}", model="large")
    run(sandbox.port, {"story": "a cat"}, "wf_large")
    first, second, third = model.asked
    assert first == {
        "path": "/v1/chat/completions",
        "model": "small",
        "messages": [{"role": "user", "content": "Answer with sources: why?"}],
        "stream": False,
        "web_search_options": {},
    }
    assert "web_search_options" not in second
    assert (second["model"], third["model"]) == ("small", "large")
    assert model.keys == [None] * 3


def test_the_models_key_comes_from_the_environment(start_sandbox, model, monkeypatch):
    """It is never a key of the API's own clients."""
    monkeypatch.setenv("SANDBOX_MODEL_KEY", "mk-1")
    sandbox = serving(start_sandbox, model)
    run(sandbox.port, {"story": "a dog"}, key=sandbox.key)
    assert model.keys == ["Bearer mk-1"]


def test_unusual_content_of_a_completion_is_an_answer(start_sandbox, model):
    """Without annotations there are no citations. Without usage the tokens are estimated."""
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    sandbox = serving(start_sandbox, model)
    for content, text in [(None, ""), (parts, "ab"), ("half \ud83d", "half \ud83d")]:
        model.answer = completion({"content": content})
        got = run(sandbox.port, {"story": text})
        assert got.json() == {"success": True, "result": text}
        assert sandbox.bills()[-1]["credits"] == 1


def test_a_failed_model_becomes_the_500_of_the_api(start_sandbox, model):
    """Nothing is billed. The client does not see the error text of the model's server."""
    model.answer = {"error": {"message": "secret details"}}
    sandbox = serving(start_sandbox, model)
    statuses = [400, 401, 404, 500, 502, 503]
    for model.status in statuses:
        got = run(sandbox.port, {"story": "a dog"})
        assert (got.status, got.json()["code"]) == (500, "internal_server_error")
        assert b"secret" not in got.body
    assert sum(sandbox.billed().values()) == 0
    assert len(model.asked) == len(statuses), "one request each: the backend does not retry"


def test_a_429_of_the_model_becomes_the_429_of_the_api(start_sandbox, model):
    """Nothing is billed."""
    model.status, model.answer = 429, {"error": {"message": "slow down"}}
    sandbox = serving(start_sandbox, model)
    got = run(sandbox.port, {"story": "a dog"})
    assert (got.status, got.json()) == (429, {"error": "Rate limit exceeded", "success": False})
    assert sum(sandbox.billed().values()) == 0


def test_an_unreadable_completion_becomes_the_500_of_the_api(start_sandbox, model):
    """Nothing is billed; nor is a token count that does not fit into the book."""
    sandbox = serving(start_sandbox, model)
    beyond = completion({"content": "a"}, total_tokens=10**30)
    for model.answer in (b"", b"<html>", b"[]", {"choices": []}, {"choices": [{}]}, beyond):
        assert run(sandbox.port, {"story": "a dog"}).status == 500
    assert sum(sandbox.billed().values()) == 0


def test_an_unreachable_model_becomes_the_500_of_the_api(start_sandbox):
    """The client gets it at once."""
    sandbox = start_sandbox(model_url=f"http://127.0.0.1:{closed_port()}/v1", model="small")
    got = run(sandbox.port, {"story": "a dog"})
    assert (got.status, got.json()["error"]) == (500, "Failed to run workflow")
    assert sum(sandbox.billed().values()) == 0


def test_a_slow_model_becomes_the_504_page_of_the_edge(start_sandbox, model):
    """It is HTML, not the API's JSON. The run is ended and not billed."""
    model.wait_s = 1.0
    sandbox = serving(start_sandbox, model, max_duration="300ms")
    got = run(sandbox.port, {"story": "a dog"})
    assert (got.status, got.headers["content-type"]) == (504, "text/html; charset=utf-8")
    assert sum(sandbox.billed().values()) == 0
