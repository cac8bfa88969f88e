"""One request, one answer. The only user of httpx; foreign exceptions become kinds here.

The transport is httpx's on aiohttp, because httpx's own pool looks through all its connections at
every event and stops at some hundred requests in flight. That transport raises `ConnectTimeout`
both when nobody listens and when a server takes the request and hangs up, so its types are not
believed. "Not sent" needs two proofs that agree: no connection was ever handed to the request
(the connector says when one is), and the cause is one of aiohttp's connector errors.

A connection is reused only while it has been idle for less than a quarter of a second. A server
that closes idle connections could otherwise hang up just as a request leaves, which cannot be told
from a lost answer; servers wait for seconds, a busy run reuses within milliseconds, and a
connection for each request would double the CPU time of a row (0.50 against 0.26 ms).
"""

from __future__ import annotations

import asyncio
import base64
import os
import ssl
import time
import zlib
from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote
from urllib.request import getproxies, proxy_bypass

import aiohttp
import httpx
from aiohttp.connector import Connection
from aiohttp.tracing import Trace
from httpx_aiohttp import AiohttpTransport

from pipeline.access import SANDBOX_HOST, Access, is_loopback
from pipeline.bodies import BodyBudget, Share
from pipeline.model import Failure, Reply

CONNECT_S = 30.0
MAX_BODY_BYTES = 64 * 1024 * 1024
MAX_HEADER_BYTES = 64 * 1024
KEPT_OF_TOO_LARGE_BYTES = 1024 * 1024
DECODED_AT_ONCE_BYTES = 1024 * 1024
IDLE_REUSE_S = 0.25
SHORTEST_SECRET = 8

_TLS_ERRORS = (
    aiohttp.ClientConnectorCertificateError,
    aiohttp.ClientConnectorSSLError,
    aiohttp.ClientSSLError,
)
_NEVER_CONNECTED = (
    aiohttp.ClientConnectorError,
    aiohttp.ConnectionTimeoutError,
    aiohttp.ClientHttpProxyError,
)
_DECODER_BITS = {"gzip": 16 + zlib.MAX_WBITS, "deflate": zlib.MAX_WBITS}


@dataclass(slots=True)
class _Progress:
    """Whether the request in this task was ever given a connection to write to."""

    connected: bool = False


_progress: ContextVar[_Progress] = ContextVar("_progress")


class TooLarge(Exception):
    """The body passed the cap; `kept` is its beginning."""

    def __init__(self, kept: bytes) -> None:
        super().__init__("body too large")
        self.kept = kept


class Client:
    """Sends bodies to one workflow. Close it with `aclose`, or use it as a context."""

    def __init__(
        self, access: Access, workflow: str, deadline_s: float, connect_s: float = CONNECT_S
    ) -> None:
        self._url = httpx.URL(f"{access.base_url}/api/v1/run/{workflow}")
        # Not the session's: aiohttp would send those to a proxy too, the key among them.
        self._headers = httpx.Headers(
            {
                "Authorization": f"Bearer {access.key}",
                "Content-Type": "application/json",
                "Accept": "application/json",
                "Accept-Encoding": "identity",
                "User-Agent": "pipeline",
            }
        )
        self._deadline_s = deadline_s
        self._secrets = _forms(access)
        self._bodies = BodyBudget()
        self._extensions = {"timeout": {"connect": connect_s, "pool": connect_s}}
        tls = httpx.create_ssl_context()
        self._transport = AiohttpTransport(
            verify=tls, proxy=_proxy(self._url), client=lambda: _session(tls)
        )

    async def __aenter__(self) -> Client:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        await self._transport.aclose()

    async def send(self, body: bytes) -> Reply:
        """Sends `body` once and waits at most the deadline, however slowly the answer drips.

        Nothing is raised but cancellation; what went wrong stands in the reply.
        """
        progress = _Progress()
        token = _progress.set(progress)
        sent_at = time.monotonic()
        partial = _Partial(self._bodies.share())
        try:
            async with asyncio.timeout(self._deadline_s):
                await self._exchange(body, partial)
            failure, detail = None, ""
        except TimeoutError:
            failure = Failure.TIMEOUT
            detail = f"no whole answer within {self._deadline_s:g} s"
        except TooLarge as error:
            failure, detail = Failure.TOO_LARGE, f"an answer of over {MAX_BODY_BYTES} bytes"
            partial.body = error.kept
            partial.share.shrink(len(error.kept))
        except Exception as error:
            failure = _kind(error, progress, partial)
            detail = _describe(error)
        finally:
            _progress.reset(token)
        reply = Reply(
            sent_at=sent_at,
            answered_at=time.monotonic(),
            status=partial.status,
            headers=self._without_key_in_headers(partial.headers),
            body=self._without_key(bytes(partial.body)),
            failure=failure,
            detail=self._without_key(detail.encode("utf-8", "replace")).decode(),
        )
        partial.share.until_gone(reply)
        return reply

    def _without_key(self, text: bytes) -> bytes:
        """Some servers repeat a request's headers in their error pages, which are kept."""
        for secret in self._secrets:
            if secret in text:
                text = text.replace(secret, b"[key]")
        return text

    def _without_key_in_headers(self, headers: Mapping[str, str]) -> Mapping[str, str]:
        place = headers.get("location")
        if place is None:
            return headers
        return {"location": self._without_key(place.encode()).decode()}

    async def _exchange(self, body: bytes, partial: _Partial) -> None:
        request = _Post(self._url, self._headers, body, self._extensions)
        response = await self._transport.handle_async_request(request)
        try:
            partial.status = response.status_code
            partial.headers = _plain(response.headers)
            await _read(response, partial)
        finally:
            await response.aclose()


class _Post(httpx.Request):
    """A request that shares its headers with all others.

    httpx's own constructor copies and completes them, which costs more than all else that httpx
    does for a request; aiohttp completes them anyway.
    """

    def __init__(
        self, url: httpx.URL, headers: httpx.Headers, body: bytes, extensions: dict[str, Any]
    ) -> None:
        self.method = "POST"
        self.url = url
        self.headers = headers
        self.extensions = extensions
        self.stream = httpx.ByteStream(body)
        self._body = body

    @property
    def content(self) -> bytes:
        return self._body


@dataclass(slots=True)
class _Partial:
    """As much of an answer as has come so far, and its share of the memory for all of them."""

    share: Share
    status: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | bytearray = b""


def _plain(headers: httpx.Headers) -> dict[str, str]:
    """Lower-case names and their values, those of a repeated name joined by commas.

    A look-up in httpx's own class goes through every header and guesses their encoding anew.
    """
    plain: dict[str, list[str]] = {}
    for name, value in headers.raw:
        plain.setdefault(name.decode("latin-1").lower(), []).append(value.decode("latin-1"))
    return {name: ", ".join(values) for name, values in plain.items()}


async def _read(response: httpx.Response, partial: _Partial) -> None:
    """The decoded body into `partial`, never more of it in memory than the cap.

    Compression was not asked for. A server that compresses all the same is decoded in bounded
    steps: 200 KB of gzip can hold 200 MB.
    """
    body = partial.body = bytearray()
    bits = _DECODER_BITS.get(partial.headers.get("content-encoding", "").strip().lower())
    decoder = zlib.decompressobj(bits) if bits else None
    assert isinstance(response.stream, httpx.AsyncByteStream)
    async for chunk in response.stream:
        if decoder is None:
            body += chunk
        while decoder is not None and chunk and len(body) <= MAX_BODY_BYTES:
            body += decoder.decompress(chunk, DECODED_AT_ONCE_BYTES)
            chunk = decoder.unconsumed_tail
            await partial.share.grow(len(body))
        if len(body) > MAX_BODY_BYTES:
            raise TooLarge(bytes(body[:KEPT_OF_TOO_LARGE_BYTES]))
        await partial.share.grow(len(body))


def _forms(access: Access) -> tuple[bytes, ...]:
    """How the key may stand in an answer. A short one would be found in every text, and that of
    the sandbox is no secret."""
    if len(access.key) < SHORTEST_SECRET or access.host == SANDBOX_HOST:
        return ()
    key = access.key.encode()
    encoded = base64.b64encode(key), base64.b64encode(key + b"\n"), base64.urlsafe_b64encode(key)
    return (key, quote(key, safe="").encode(), *(form.rstrip(b"=") for form in encoded))


def _kind(error: Exception, progress: _Progress, partial: _Partial) -> Failure:
    """What an exception means. In doubt the request may have been sent."""
    cause = error if isinstance(error, aiohttp.ClientError) else error.__cause__
    if not progress.connected:
        if isinstance(cause, _TLS_ERRORS):
            return Failure.TLS
        if isinstance(cause, _NEVER_CONNECTED):
            return Failure.NOT_SENT
    return Failure.CUT if partial.status is not None else Failure.DISCONNECTED


def _describe(error: Exception) -> str:
    cause = error.__cause__ or error
    if isinstance(cause, aiohttp.ClientConnectorDNSError):
        return f"{cause.host}: no address is known for this name ({cause.os_error.strerror})"
    if isinstance(cause, aiohttp.ClientConnectorError) and not isinstance(cause, _TLS_ERRORS):
        number = cause.os_error.errno
        reason = os.strerror(number) if number else str(cause.os_error)
        return f"{cause.host} port {cause.port}: {reason}"
    return f"{type(cause).__name__}: {cause}" if str(cause) else type(cause).__name__


class _Connector(aiohttp.TCPConnector):
    """Notes in whose task a connection was handed out, new or used before.

    aiohttp's own trace would tell the same, and five events more that nobody asked for.
    """

    async def connect(
        self,
        req: aiohttp.ClientRequest,
        traces: list[Trace],
        timeout: aiohttp.ClientTimeout,  # noqa: ASYNC109  aiohttp's own signature
    ) -> Connection:
        connection = await super().connect(req, traces, timeout)
        _progress.get().connected = True
        return connection


def _session(tls: ssl.SSLContext) -> aiohttp.ClientSession:
    """A session without cookies, without limits of its own and without a second opinion."""
    return aiohttp.ClientSession(
        connector=_Connector(limit=0, ssl=tls, keepalive_timeout=IDLE_REUSE_S),
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
        max_line_size=MAX_HEADER_BYTES,
        max_field_size=MAX_HEADER_BYTES,
    )


def _proxy(url: httpx.URL) -> httpx.Proxy | None:
    """The proxy that the environment names for this address, as other tools understand it."""
    if is_loopback(url.host) or proxy_bypass(url.host):
        return None
    address = getproxies().get(url.scheme) or getproxies().get("all")
    return httpx.Proxy(address) if address else None
