"""Responses to clients: the API's bodies, sent plain, streamed, or broken on the wire.

Each reply is an ASGI application, and `noted` is its name in the book.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from http.client import responses
from typing import Any, Protocol

from starlette.types import Receive, Scope, Send

from pipeline.sandbox.wire import close_if_idle, reset, transport_of, until_gone

Headers = list[tuple[bytes, bytes]]

JSON_TYPE = (b"content-type", b"application/json")
_HTML = (b"content-type", b"text/html; charset=utf-8")


class Reply(Protocol):
    """The response to one request. `noted` is its name in the book: a status, or "reset"."""

    @property
    def noted(self) -> str: ...

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None: ...


@dataclass(frozen=True, slots=True)
class Plain:
    """A response with a whole body and its true length."""

    status: int
    body: bytes
    headers: Headers = field(default_factory=list)

    @property
    def noted(self) -> str:
        return str(self.status)

    @property
    def is_the_apis(self) -> bool:
        """Whether this is the API's own JSON and not a proxy's page."""
        return JSON_TYPE in self.headers

    def with_headers(self, more: Headers) -> Plain:
        """Returns the same reply with `more` headers after its own."""
        return replace(self, headers=[*self.headers, *more])

    def as_bytes(self, announced: int | None = None) -> bytes:
        """Returns the reply as bytes on the wire. Its content-length is `announced`, by default the
        true one."""
        length = str(len(self.body) if announced is None else announced).encode()
        lines = [f"HTTP/1.1 {self.status} {_phrase(self.status)}".encode()]
        lines += [name + b": " + value for name, value in self.headers]
        return b"\r\n".join([*lines, b"content-length: " + length, b"", self.body])

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        length = (b"content-length", str(len(self.body)).encode())
        headers = [*self.headers, length]
        await send({"type": "http.response.start", "status": self.status, "headers": headers})
        await send({"type": "http.response.body", "body": self.body})


@dataclass(frozen=True, slots=True)
class Streamed:
    """A response whose body is sent in pieces, `pause_s` apart. Memory never holds all of it."""

    headers: Headers
    pieces: Callable[[], Iterable[bytes]]
    pause_s: float = 0.0
    noted: str = "200"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        transport = transport_of(scope)
        await send({"type": "http.response.start", "status": 200, "headers": self.headers})
        for piece in self.pieces():
            if transport.is_closing():
                await until_gone(receive)
                return
            await send({"type": "http.response.body", "body": piece, "more_body": True})
            await asyncio.sleep(self.pause_s)
        await send({"type": "http.response.body", "body": b""})


@dataclass(frozen=True, slots=True)
class Broken:
    """Raw bytes past the HTTP layer, and then the end of the connection.

    `then` is `close` (the bytes arrive first), `reset` (they may not arrive) or `hold` (silence
    until the client disconnects).
    """

    data: bytes
    then: str
    noted: str

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        transport = transport_of(scope)
        transport.write(self.data)
        if self.then == "close":
            transport.close()
        elif self.then == "reset":
            reset(transport)
        await until_gone(receive)
        transport.close()


@dataclass(frozen=True, slots=True)
class ThenClosed:
    """A reply after which the server closes the idle connection, without announcing it."""

    reply: Plain
    idle_s: float

    @property
    def noted(self) -> str:
        return self.reply.noted

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.reply(scope, receive, send)
        # If a request arrives before that, it is answered: only an idle connection is closed.
        asyncio.get_running_loop().call_later(self.idle_s, close_if_idle, transport_of(scope))


def as_json(fields: object) -> bytes:
    """Returns JSON as JavaScript writes it: compact, and not escaped except for lone surrogates."""
    try:
        return json.dumps(fields, ensure_ascii=False, separators=(",", ":")).encode()
    except UnicodeEncodeError:
        return json.dumps(fields, separators=(",", ":")).encode()


def json_reply(status: int, fields: object) -> Plain:
    """Returns a reply of the API itself."""
    return Plain(status, as_json(fields), [JSON_TYPE])


def failure(status: int, error: str, code: str | None = None) -> Plain:
    """Returns one of the API's errors, its fields in the order of the API's page."""
    fields: dict[str, Any] = {"error": error, "success": False}
    return json_reply(status, fields if code is None else fields | {"code": code})


def edge_page(status: int) -> Plain:
    """Returns the HTML page that a proxy or the platform's edge sends in the API's place."""
    title = f"{status} {_phrase(status)}"
    page = f"<html>\n<head><title>{title}</title></head>\n<body><h1>{title}</h1></body>\n</html>\n"
    return Plain(status, page.encode(), [_HTML])


def _phrase(status: int) -> str:
    return responses.get(status, "Client Closed Request")  # 499, which only some proxies use


def quota_headers(limit: int, remaining: int) -> Headers:
    """Returns the API's two rate-limit headers."""
    return [
        (b"x-ratelimit-limit", b"%d" % limit),
        (b"x-ratelimit-remaining", b"%d" % remaining),
    ]


# The error bodies of the API's page, with the statuses that servers of this family use.
UNAUTHORIZED = failure(401, "Unauthorized. Please provide a valid secret key.")
NO_CREDITS = failure(
    402,
    "No credits remaining. Please add credits to continue using the service.",
    "invalid_billing",
)
NOT_FOUND = failure(404, "Workflow not found", "workflow_not_found")
RATE_LIMITED = failure(429, "Rate limit exceeded")
RUN_FAILED = failure(500, "Failed to run workflow", "internal_server_error")
EDGE_TIMEOUT = edge_page(504)
