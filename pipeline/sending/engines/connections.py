"""The connections to the API: which of them are reused, and what a lost connection proves.

This is the only module that uses aiohttp. It turns aiohttp's exceptions into a `Failure`. A
connection is reused only under three conditions:

* It has been idle for less than a quarter of a second. Otherwise a server that closes idle
  connections could hang up just as a request leaves, and that looks like a lost answer. Servers
  wait for seconds, and a busy run reuses connections within milliseconds. A new connection for each
  request would double the CPU time of a row (0.50 ms instead of 0.26 ms).
* It received no stray bytes, that is, bytes that no request asked for. If a proxy pushes a response
  onto an idle connection, aiohttp takes it for the answer to the next request (aiohttp's issue
  13656).
* In this run, no reused connection was lost and none received stray bytes. The next connection
  could do the same just as a request leaves.
"""

from __future__ import annotations

import asyncio
import base64
import functools
import io
import os
import select
import socket
import ssl
import sys
from collections.abc import AsyncIterator, Callable
from contextvars import ContextVar
from dataclasses import dataclass
from enum import StrEnum
from typing import Any
from urllib.parse import urlsplit

import httpx
from multidict import istr

from pipeline.core.model import Failure
from pipeline.system.network import find_proxy, without_key_log

with without_key_log():
    import aiohttp
    from aiohttp.client_proto import ResponseHandler
    from aiohttp.connector import Connection
    from aiohttp.streams import StreamReader
    from aiohttp.tracing import Trace

IDLE_REUSE_S = 0.25
MAX_HEADER_BYTES = 64 * 1024
# aiohttp warns about longer bytes, which a program that turns warnings into errors cannot send. It
# writes a file in pieces instead, between which other requests have their turn.
_LONGEST_BYTES = 2**20

_TLS_ERRORS = (
    aiohttp.ClientConnectorCertificateError,
    aiohttp.ClientConnectorSSLError,
    aiohttp.ClientSSLError,
)
# Where Linux's answer to TCP_INFO has the number of our bytes that the other side confirmed.
_BYTES_ACKED = slice(120, 128)


class Stage(StrEnum):
    """How far a request got."""

    NEW = "new"
    CONNECTING = "connecting"
    """The request has no connection yet, so no byte of it was written."""
    CONNECTED = "connected"
    """From here on bytes may have left."""


@dataclass(slots=True)
class RequestProgress:
    """How far the request of this task got, and on which connector."""

    stage: Stage = Stage.NEW
    reused: bool = False
    connector: Connector | None = None

    def lost(self) -> None:
        """Call this when the connection was lost before a response arrived: stops all reuse if the
        connection was a reused one."""
        if self.reused and self.connector is not None:
            self.connector.stop_reusing(
                "The server closed a connection just as the runner reused it."
            )


progress: ContextVar[RequestProgress] = ContextVar("progress")


class Line(ResponseHandler):
    """One connection, which knows whether the bytes that it receives can be a response.

    aiohttp's parser does not say where in a chunk a response ends. So the last byte of each chunk
    is fed alone: if the response ends before it, that byte is stray. If the parser held back bytes
    of a long response, its end cannot be seen, and the connection is closed.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, on_stray: Callable[[], None]) -> None:
        super().__init__(loop)
        self.requests = 0
        self._on_stray = on_stray
        self._stray = False
        self._more_to_come = False
        self._heard = False
        self._acked = 0
        self._answer: StreamReader | None = None

    def begin(self) -> None:
        """Call this before a request is written."""
        self.requests += 1
        self._heard, self._answer = False, None
        self._acked = self._bytes_acked()

    @property
    def quiet(self) -> bool:
        """Whether there are no stray bytes, neither read nor unread."""
        if self._stray or self._tail or self.transport is None:
            return False
        if not self.requests:
            return True  # unread bytes of a new connection may belong to its TLS handshake
        unread = select.poll()
        unread.register(self.transport.get_extra_info("socket").fileno(), select.POLLIN)
        return not unread.poll(0)

    @property
    def should_close(self) -> bool:
        return self._stray or self._more_to_come or super().should_close

    def data_received(self, data: bytes) -> None:
        if self._stray:
            return
        if not self.requests or not data:  # a proxy's tunnel; or bytes that the parser held back
            self._more_to_come = not data
            super().data_received(data)
        elif self._comes_too_early():
            self._take_for_stray()
        else:
            self._more_to_come = True
            if len(data) > 1 and not self._answered:
                super().data_received(data[:-1])
            if self._answered:
                self._take_for_stray()
                return
            self._more_to_come = self._reading_paused  # the parser may hold some of it back
            super().data_received(data[-1:])

    def feed_data(self, data: Any, size: int = 0) -> None:
        """Receives the head of a response from the parser. A second one is stray."""
        message, payload = data
        if self._answer is not None:
            self._take_for_stray()
            return
        if message.code == 101 or message.code >= 200:
            self._answer = payload
        super().feed_data(data, size)

    @property
    def _answered(self) -> bool:
        return self._answer is not None and self._answer.is_eof()

    def _comes_too_early(self) -> bool:
        """Whether the first bytes since `begin` left the server before any byte of the request
        reached it. TCP shows that: each packet of the server confirms the bytes it received."""
        if self._heard:
            return False
        self._heard = True
        return 0 < self._acked == self._bytes_acked()

    def _bytes_acked(self) -> int:
        """The number of our bytes that the other side confirmed. 0 on systems other than Linux."""
        if sys.platform != "linux" or self.transport is None:
            return 0
        connection = self.transport.get_extra_info("socket")
        told = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _BYTES_ACKED.stop)
        return int.from_bytes(told[_BYTES_ACKED], sys.byteorder)

    def _take_for_stray(self) -> None:
        self._stray = True
        self._on_stray()
        if self.requests and self._answer is None:
            self.set_exception(
                aiohttp.ClientConnectionError("the server sent data before it had the request")
            )


class Connector(aiohttp.TCPConnector):
    """The source of connections. It notes each one in the `progress` of the request's task.

    aiohttp's own trace would report the same, with five more events that the client does not need.
    """

    def __init__(self, tls: ssl.SSLContext, tell: Callable[[str], None]) -> None:
        super().__init__(limit=0, ssl=tls, keepalive_timeout=IDLE_REUSE_S)
        on_stray = functools.partial(
            self.stop_reusing, "The server sent data that no request asked for."
        )
        line: Callable[..., ResponseHandler] = Line
        self._factory = functools.partial(line, self._loop, on_stray)
        self._tell = tell

    def stop_reusing(self, why: str) -> None:
        """Gives each request a new connection from now on, and reports `why` once."""
        if not self._force_close:
            self._force_close = True
            self._tell(f"{why} From now on, each request gets a new connection.")

    async def connect(
        self,
        req: aiohttp.ClientRequest,
        traces: list[Trace],
        timeout: aiohttp.ClientTimeout,  # noqa: ASYNC109  aiohttp's own signature
    ) -> Connection:
        request = progress.get()
        request.stage = Stage.CONNECTING
        while True:
            connection = await super().connect(req, traces, timeout)
            line = connection.protocol
            assert isinstance(line, Line)
            request.reused = line.requests > 0
            if line.quiet and not (request.reused and self.force_close):
                break
            connection.close()
            if not request.reused:
                reason = OSError("the server sends data before it has a request")
                raise aiohttp.ClientConnectorError(req.connection_key, reason)
        request.stage, request.connector = Stage.CONNECTED, self
        line.begin()
        return connection


class Transport(httpx.AsyncBaseTransport):
    """httpx's transport on aiohttp, without cookies, redirects, connection limits or decompression.

    `url` decides about TLS and the proxy. A connection has to be there after `connect_s` seconds.
    `tell` gets one note if the transport stops reusing connections.

    A request raises aiohttp's exceptions: httpx has fewer, and one of them stands both for a server
    that does not listen and for one that takes the request and hangs up. `failure_of` reads them.

    Raises:
        Refused: for a proxy in the environment that cannot be used.
    """

    def __init__(self, url: str, connect_s: float, tell: Callable[[str], None]) -> None:
        plain = urlsplit(url).scheme == "http"
        self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT) if plain else httpx.create_ssl_context()
        self._timeout = aiohttp.ClientTimeout(connect=connect_s)
        self._tell = tell
        self._proxy = _proxy(url)
        self._url, self._headers = httpx.URL(), httpx.Headers()
        self._as_sent: tuple[str, dict[istr, str]] = ("", {})
        self._session: aiohttp.ClientSession | None = None

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Sends a request. Closing the response gives its connection back, or closes it if the body
        was not read to its end."""
        if self._session is None:
            self._session = self._open()
        url, headers = self._address_of(request)
        content = request.content
        response = await self._session.request(
            request.method,
            url,
            data=io.BytesIO(content) if len(content) > _LONGEST_BYTES else content,
            headers=headers,
            allow_redirects=False,
            **self._proxy,
        )
        return httpx.Response(response.status, headers=response.raw_headers, stream=_Body(response))

    async def aclose(self) -> None:
        if self._session is not None:
            await self._session.close()

    def _open(self) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            connector=Connector(self._tls, self._tell),
            timeout=self._timeout,
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            max_line_size=MAX_HEADER_BYTES,
            max_field_size=MAX_HEADER_BYTES,
        )

    def _address_of(self, request: httpx.Request) -> tuple[str, dict[istr, str]]:
        """Returns a request's URL and headers as aiohttp takes them. All requests of a client share
        both, so they are made once. aiohttp makes names that are not `istr` again each time."""
        if request.url is not self._url or request.headers is not self._headers:
            self._url, self._headers = request.url, request.headers
            named = {istr(name): text for name, text in request.headers.items()}
            self._as_sent = (str(request.url), named)
        return self._as_sent


class _Body(httpx.AsyncByteStream):
    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._response = response

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self._response.content.iter_any()

    async def aclose(self) -> None:
        self._response.release()
        await self._response.wait_for_close()


def _proxy(url: str) -> dict[str, Any]:
    """Returns aiohttp's options for the proxy of `url`."""
    proxy = find_proxy(url)
    if proxy is None:
        return {}
    if proxy.credentials is None:
        return {"proxy": proxy.url}
    token = base64.b64encode(proxy.credentials.encode()).decode()
    return {"proxy": proxy.url, "proxy_headers": {"proxy-authorization": f"Basic {token}"}}


def failure_of(error: Exception, request: RequestProgress, answered: bool) -> Failure:
    """Returns the `Failure` that an exception means. In doubt, the request may have been sent.

    "Not sent" needs two proofs that agree: the connector was asked for a connection, and it never
    returned one. `answered` means that a status line arrived.
    """
    if request.stage is Stage.CONNECTING:
        return Failure.TLS if isinstance(error, _TLS_ERRORS) else Failure.NOT_SENT
    return Failure.CUT if answered else Failure.DISCONNECTED


def describe(error: Exception) -> str:
    """Describes an error for a message, without a final dot."""
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return f"{error.host}: this name cannot be resolved ({error.os_error.strerror})"
    if isinstance(error, aiohttp.ClientConnectorError) and not isinstance(error, _TLS_ERRORS):
        number = error.os_error.errno
        reason = os.strerror(number) if number else str(error.os_error)
        return f"{error.host} port {error.port}: {reason}"
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
