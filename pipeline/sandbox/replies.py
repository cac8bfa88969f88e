"""Answers on their way to the client: the page's bodies, plain, streamed, or broken on the wire.

Each reply is an ASGI application of its own, and says under which name it goes into the book.
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
    """What is sent for one request. `noted` is its name in the book: a status, or "reset"."""

    @property
    def noted(self) -> str: ...

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None: ...


@dataclass(frozen=True, slots=True)
class Plain:
    """A whole body with its length."""

    status: int
    body: bytes
    headers: Headers = field(default_factory=list)

    @property
    def noted(self) -> str:
        return str(self.status)

    @property
    def is_the_apis(self) -> bool:
        """Whether it is the API's own JSON and not a page of a proxy."""
        return JSON_TYPE in self.headers

    def with_headers(self, more: Headers) -> Plain:
        """The same with `more` headers behind its own."""
        return replace(self, headers=[*self.headers, *more])

    def as_bytes(self, announced: int | None = None) -> bytes:
        """The reply as it stands on the wire, its content-length by default the true one."""
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
    """A body that comes in pieces, `pause_s` apart; it is never held as a whole."""

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
    """Bytes as they are, past HTTP, and then the end of the connection: `close` (what was written
    arrives first), `reset` (nothing may arrive), or `hold` (silence until the client goes)."""

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
    """A reply after which the connection is closed while it is idle, without a word before."""

    reply: Plain
    idle_s: float

    @property
    def noted(self) -> str:
        return self.reply.noted

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.reply(scope, receive, send)
        # A request that came meanwhile is answered: only a connection that is idle is closed.
        asyncio.get_running_loop().call_later(self.idle_s, close_if_idle, transport_of(scope))


def as_json(fields: object) -> bytes:
    """JSON as JavaScript writes it: compact, not escaped, except lone surrogates."""
    try:
        return json.dumps(fields, ensure_ascii=False, separators=(",", ":")).encode()
    except UnicodeEncodeError:
        return json.dumps(fields, separators=(",", ":")).encode()


def json_reply(status: int, fields: object) -> Plain:
    """A reply of the API's own."""
    return Plain(status, as_json(fields), [JSON_TYPE])


def failure(status: int, error: str, code: str | None = None) -> Plain:
    """One of the API's errors, its fields in the page's order."""
    fields: dict[str, Any] = {"error": error, "success": False}
    return json_reply(status, fields if code is None else fields | {"code": code})


def edge_page(status: int) -> Plain:
    """What a proxy or the platform's edge says in the API's place."""
    title = f"{status} {_phrase(status)}"
    page = f"<html>\n<head><title>{title}</title></head>\n<body><h1>{title}</h1></body>\n</html>\n"
    return Plain(status, page.encode(), [_HTML])


def _phrase(status: int) -> str:
    return responses.get(status, "Client Closed Request")  # 499, which is some proxies' own


def quota_headers(limit: int, remaining: int) -> Headers:
    """The page's two rate-limit headers."""
    return [
        (b"x-ratelimit-limit", b"%d" % limit),
        (b"x-ratelimit-remaining", b"%d" % remaining),
    ]


# The page's error bodies; their statuses are those of servers of the same family.
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
