"""The HTTP client: sends one request and returns one reply.

The transport is one of httpx on aiohttp's connections, because httpx's own pool looks through all
of its connections at every event and stops at a few hundred requests in flight. `connections` has
it, decides which connection a request gets, and what an exception proves.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import httpx

from pipeline.core.model import SANDBOX_HOST, Failure, Reply
from pipeline.job.access import Access
from pipeline.policy.masking import Mask
from pipeline.sending.engines.body_budget import BodyBudget, Share
from pipeline.sending.engines.connections import (
    RequestProgress,
    Stage,
    Transport,
    describe,
    failure_of,
    progress,
)
from pipeline.sending.engines.deadlines import Deadline, Deadlines
from pipeline.sending.engines.decoding import (
    KEPT_OF_TOO_LARGE_BYTES,
    MAX_BODY_BYTES,
    TooLarge,
    decoded,
    in_utf8,
    is_encoded,
)
from pipeline.system.network import find_proxy

CONNECT_S = 30.0


class Client:
    """A client of one workflow. Close it with `aclose`, or use it in an `async with`.

    `bodies` is the memory for responses. `tell` gets notes for the user about the connections.
    """

    def __init__(
        self,
        access: Access,
        workflow: str,
        deadline_s: float,
        connect_s: float = CONNECT_S,
        tell: Callable[[str], None] = lambda _: None,
        bodies: BodyBudget | None = None,
    ) -> None:
        self._url = httpx.URL(f"{access.base_url}/api/v1/run/{workflow}")
        # Not headers of the session: aiohttp would send those, and so the key, to a proxy too.
        self._headers = httpx.Headers(
            {
                "Authorization": f"Bearer {access.key}",
                "Content-Type": "application/json",
                "Accept": "application/json",
                "Accept-Encoding": "identity",
                "User-Agent": "pipeline",
            }
        )
        self._deadline_s, self._connect_s = deadline_s, min(connect_s, deadline_s)
        self._mask = Mask(_secrets(access))
        self._bodies = bodies or BodyBudget()
        self._transport = Transport(access.base_url, connect_s, tell)
        self._deadlines = Deadlines(deadline_s)

    async def __aenter__(self) -> Client:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        self._deadlines.close()
        await self._transport.aclose()

    async def send(self, body: bytes, at: float = 0.0) -> Reply:
        """Sends `body` once, at `at` on this machine's monotonic clock, or now if that is past.

        Waits at most the deadline, however slowly the response arrives. Raises nothing except
        cancellation: an error becomes `failure` and `detail` of the reply. The key and a proxy's
        password are masked in every part of the reply.
        """
        # Each coroutine that waits here, and each object that it holds, takes memory for every
        # request in flight. So the response is read in a coroutine that begins when it is there.
        wait_s = at - time.monotonic()
        if wait_s > 0:
            await asyncio.sleep(wait_s)
        request = RequestProgress()
        progress.set(request)
        sent_at = time.monotonic()
        timeout = asyncio.timeout(None)
        partial = _Partial(self._bodies.share(), self._deadlines.begin(timeout))
        try:
            async with timeout:
                post = _Post(self._url, self._headers, body)
                await _receive(await self._transport.handle_async_request(post), partial)
            failure, detail = None, ""
        except TimeoutError:
            failure, detail = Failure.TIMEOUT, f"no complete response within {self._deadline_s:g} s"
            if request.stage is Stage.CONNECTING:
                failure, detail = Failure.NOT_SENT, f"no connection within {self._connect_s:g} s"
        except TooLarge as error:
            failure, detail = Failure.TOO_LARGE, f"a response of more than {MAX_BODY_BYTES} bytes"
            partial.body = error.kept
            partial.share.shrink(len(error.kept))
        except Exception as error:
            failure = failure_of(error, request, partial.status is not None)
            detail = describe(error)
            # aiohttp's stream holds its exception, whose frames hold the reply and so its memory.
            error.__traceback__ = None
            if failure is Failure.DISCONNECTED:
                request.lost()
        finally:
            self._deadlines.end(partial.deadline)
        reply = Reply(
            sent_at=sent_at,
            answered_at=time.monotonic(),
            status=partial.status,
            headers=self._kept_headers(partial.headers),
            body=self._mask.body(bytes(partial.body)),
            failure=failure,
            detail=self._mask.text(detail),
        )
        partial.share.until_gone(reply)
        return reply

    def _kept_headers(self, headers: Mapping[str, str]) -> Mapping[str, str]:
        """Masks `location`, the only header that is stored and shown. The others are only read."""
        place = headers.get("location")
        return headers if place is None else {"location": self._mask.text(place)}


class _Post(httpx.Request):
    """A request that shares its headers with all other requests.

    httpx's own constructor copies and completes the headers. That costs more than everything else
    that httpx does for a request, and aiohttp completes them anyway.
    """

    def __init__(self, url: httpx.URL, headers: httpx.Headers, body: bytes) -> None:
        self.method = "POST"
        self.url = url
        self.headers = headers
        self._body = body

    @property
    def content(self) -> bytes:
        return self._body


@dataclass(slots=True)
class _Partial:
    """The part of a response that has arrived so far, and its share of the memory for all."""

    share: Share
    deadline: Deadline
    status: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | bytearray = b""

    async def grow(self, size: int) -> None:
        """Returns when the body may be `size` bytes long. Stops the deadline meanwhile, because
        the server is answering and only this process is not ready."""
        if self.share.may_grow(size):
            return
        left_s = self.deadline.pause()
        await self.share.grow(size)
        self.deadline.resume(left_s)


def _plain(headers: httpx.Headers) -> dict[str, str]:
    """Returns the headers by lower-case name. Values of a repeated name are joined by commas.

    A look-up in httpx's own class goes through every header and guesses the encoding each time.
    """
    plain: dict[str, list[str]] = {}
    for name, value in headers.raw:
        plain.setdefault(name.decode("latin-1").lower(), []).append(value.decode("latin-1"))
    return {name: ", ".join(values) for name, values in plain.items()}


async def _receive(response: httpx.Response, partial: _Partial) -> None:
    """Reads a response into `partial`, and gives its connection back."""
    stream = response.stream
    assert isinstance(stream, httpx.AsyncByteStream)
    try:
        partial.status = response.status_code
        partial.headers = _plain(response.headers)
        await _read(stream, partial)
    finally:
        await stream.aclose()  # `response.aclose` does no more, at four times the cost


async def _read(stream: httpx.AsyncByteStream, partial: _Partial) -> None:
    """Reads the body into `partial` and decodes it. Holds at most `MAX_BODY_BYTES` of it.

    The body stays as it arrived until all of it is there, and if it cannot be decoded.

    Raises:
        TooLarge: when the body, raw or decoded, is larger.
    """
    body = partial.body = bytearray()
    async for chunk in stream:
        body += chunk
        if len(body) > MAX_BODY_BYTES:
            raise TooLarge(bytes(body[:KEPT_OF_TOO_LARGE_BYTES]))
        if not partial.share.may_grow(len(body)):
            await partial.grow(len(body))
    if is_encoded(body, partial.headers):
        await partial.grow(len(body) + MAX_BODY_BYTES)  # the most that it may unpack to
        partial.body = decoded(bytes(body), partial.headers)
        partial.share.shrink(len(partial.body))
    partial.body = in_utf8(bytes(partial.body), partial.headers)


def _secrets(access: Access) -> Iterator[str]:
    """Yields the texts that no message and no answer may contain: key and proxy password."""
    if access.host != SANDBOX_HOST:  # the sandbox's key is not a secret
        yield access.key
    proxy = find_proxy(access.base_url)
    credentials = proxy.credentials if proxy else None
    if credentials and (password := credentials.partition(":")[2]):
        yield password
        yield credentials
