"""Every line of the table of outcomes, on a real socket: no test trusts an exception's name."""

from __future__ import annotations

import asyncio
import gc
import gzip
import resource
import socket
import ssl
import struct
import time
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager

import pytest

from pipeline.core.model import Failure, Reply, StopCode, Verdict
from pipeline.job.access import Access
from pipeline.policy.answer import classify
from pipeline.sending.engines.body_budget import BodyBudget
from pipeline.sending.engines.client import Client
from pipeline.sending.engines.decoding import KEPT_OF_TOO_LARGE_BYTES, MAX_BODY_BYTES
from tests.conftest import TOP, closed_port

BODY = b'{"story":"a dog"}'
# aiohttp warns about bytes of this length, and pytest turns a warning into an error.
LONG_BODY = b'{"story":"%s"}' % (b"a dog " * 700_000)
BODIES = pytest.mark.parametrize("body", [BODY, LONG_BODY], ids=["short", "4 MB"])
OK = b'{"success":true,"result":"Once"}'
Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def answer(body: bytes = OK, status: str = "200 OK", *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


async def read_request(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    length = next(
        int(line.split(b":")[1])
        for line in head.split(b"\r\n")
        if line.lower().startswith(b"content-length")
    )
    return head + await reader.readexactly(length)


def reset(writer: asyncio.StreamWriter) -> None:
    """Ends the connection with RST instead of FIN."""
    linger = struct.pack("ii", 1, 0)
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    writer.transport.abort()


class Server:
    """A server that answers as `serve` says, and counts the requests that reached it."""

    def __init__(self, serve: Serve) -> None:
        self._serve = serve
        self.requests: list[bytes] = []
        self.connections = 0

    async def on_connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            await self._serve(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()


@asynccontextmanager
async def serving(serve: Serve, tls: ssl.SSLContext | None = None) -> AsyncIterator[tuple]:
    server = Server(serve)
    listener = await asyncio.start_server(server.on_connect, "127.0.0.1", 0, ssl=tls)
    port = listener.sockets[0].getsockname()[1]
    try:
        yield server, f"{'https' if tls else 'http'}://127.0.0.1:{port}"
    finally:
        listener.close()


async def send_once(
    url: str, body: bytes = BODY, *, deadline_s: float = 5.0, connect_s: float = 2.0
) -> Reply:
    async with Client(Access(url, "sk_x", "h"), "wf_story", deadline_s, connect_s) as client:
        return await client.send(body)


async def exchange(serve: Serve, body: bytes = BODY, **options: float) -> Reply:
    async with serving(serve) as (_, url):
        return await send_once(url, body, **options)


def replying(raw: bytes, *, then: Callable[[asyncio.StreamWriter], None] | None = None) -> Serve:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(raw)
        await writer.drain()
        if then:
            then(writer)

    return serve


@contextmanager
def full_backlog() -> Iterator[int]:
    """The port of a listener that accepts no further connection and does not reject one either."""
    with socket.socket() as listener, ExitStack() as stack:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(8):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        time.sleep(0.1)
        yield listener.getsockname()[1]


def set_proxy(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("HTTPS_PROXY", url)
    for name in ("NO_PROXY", "no_proxy", "https_proxy"):
        monkeypatch.delenv(name, raising=False)


@BODIES
def test_a_complete_response_has_status_headers_and_body(body):
    """The request follows the API's page: path, key, content type, and the body's exact bytes."""
    seen: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(await read_request(reader))
        writer.write(answer(OK, "200 OK", "X-RateLimit-Limit: 50"))

    reply = asyncio.run(exchange(serve, body))
    assert (reply.status, reply.body, reply.failure) == (200, OK, None)
    assert reply.headers["x-ratelimit-limit"] == "50"
    head, arrived = seen[0].split(b"\r\n\r\n", 1)
    lines = {line.split(b": ")[0].lower(): line.split(b": ")[1] for line in head.split(b"\r\n")[1:]}
    assert head.startswith(b"POST /api/v1/run/wf_story HTTP/1.1")
    assert lines[b"authorization"] == b"Bearer sk_x"
    assert lines[b"content-type"] == b"application/json"
    assert b"cookie" not in lines
    assert b"content-disposition" not in lines
    assert arrived == body


# -- proven: no byte left -----------------------------------------------------------------


def test_a_refused_connection_was_not_sent():
    """No server listens."""
    reply = asyncio.run(send_once(f"http://127.0.0.1:{closed_port()}"))
    assert reply.failure is Failure.NOT_SENT
    assert classify(reply).verdict is Verdict.REFUSED


def test_a_name_that_does_not_resolve_was_not_sent():
    """DNS does not know the name."""
    reply = asyncio.run(send_once("https://nobody.invalid"))
    assert reply.failure is Failure.NOT_SENT


def test_a_connection_that_is_never_established_was_not_sent():
    """A listener with a full queue drops the SYN, and the connect timeout ends the wait."""
    with full_backlog() as port:
        reply = asyncio.run(send_once(f"http://127.0.0.1:{port}", connect_s=0.5))
    assert reply.failure is Failure.NOT_SENT
    assert reply.detail == "no connection within 0.5 s"


def test_a_deadline_that_ends_the_wait_for_a_connection_means_not_sent_too():
    """A listener with a full queue, and a connect timeout later than the deadline."""
    with full_backlog() as port:
        reply = asyncio.run(send_once(f"http://127.0.0.1:{port}", deadline_s=0.5, connect_s=30))
    assert reply.failure is Failure.NOT_SENT
    assert reply.detail == "no connection within 0.5 s"


@pytest.mark.parametrize("limits", [(0.5, 30.0), (30.0, 0.5)], ids=["deadline", "connect timeout"])
@pytest.mark.parametrize("silent", ["server", "proxy"])
def test_a_server_or_proxy_that_never_finishes_the_handshake_receives_no_request(
    monkeypatch, silent, limits
):
    """The TCP connection is open, but TLS or the tunnel on it is not."""
    deadline_s, connect_s = limits
    received: list[bytes] = []

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            received.append(data)

    async def go() -> Reply:
        async with serving(listen) as (_, url):
            if silent == "proxy":
                set_proxy(monkeypatch, url)
                return await send_once(
                    "https://api.example", deadline_s=deadline_s, connect_s=connect_s
                )
            url = url.replace("http:", "https:")
            return await send_once(url, deadline_s=deadline_s, connect_s=connect_s)

    reply = asyncio.run(go())
    assert reply.failure is Failure.NOT_SENT
    assert b"sk_x" not in b"".join(received)


def test_a_lack_of_file_descriptors_means_not_sent():
    """EMFILE is raised before there is a connection."""

    async def starved() -> Reply:
        async with serving(replying(answer())) as (_, url):
            client = Client(Access(url, "sk_x", "h"), "wf_story", 5)
            async with client:
                await client.send(BODY)
                await asyncio.sleep(1.2)
                soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
                resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
                try:
                    return await client.send(BODY)
                finally:
                    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    reply = asyncio.run(starved())
    assert reply.failure is Failure.NOT_SENT
    assert "Too many open files" in reply.detail


def test_plain_text_where_tls_is_expected_stops_the_job():
    """The handshake fails, so no request leaves."""

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await writer.drain()

    async def plain() -> Reply:
        async with serving(refuse) as (_, url):
            return await send_once(url.replace("http:", "https:"))

    reply = asyncio.run(plain())
    assert reply.failure is Failure.TLS
    assert classify(reply).stop is StopCode.TLS


def test_a_self_signed_certificate_stops_the_job():
    """Verification is never turned off."""
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(TOP / "tests/support/unsigned.pem")
    received: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        received.append(await read_request(reader))

    async def unsigned() -> Reply:
        async with serving(serve, tls) as (_, url):
            return await send_once(url)

    reply = asyncio.run(unsigned())
    assert reply.failure is Failure.TLS
    assert received == []


# -- a byte may have left: ambiguous, whatever the exception is called ---------------------


async def _close_unread(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.close()


async def _close_after_request(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await read_request(reader)


async def _reset_unread(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    reset(writer)


async def _reset_after_request(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await read_request(reader)
    reset(writer)


@BODIES
@pytest.mark.parametrize(
    "serve",
    [
        _close_unread,
        _close_after_request,
        _reset_unread,
        _reset_after_request,
        replying(b"HTTP/1.1 200 OK\r\nContent-Le"),
        replying(b"HTTP/1.1 200 OK\r\nContent-Le", then=reset),
        replying(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"),
        replying(b"SSH-2.0-OpenSSH_9.2\r\n\r\n"),
        replying(b"HTTP/1.1 200 OK\r\nX: " + b"x" * 200_000 + b"\r\n\r\n"),
    ],
    ids=[
        "closes at once",
        "takes the request and closes",
        "resets at once",
        "takes the request and resets",
        "closes in the headers",
        "resets in the headers",
        "breaks the chunks",
        "speaks another protocol",
        "endless headers",
    ],
)
def test_a_server_that_hangs_up_leaves_the_row_ambiguous(serve, body):
    """Some of these look like a connection that was never made, which would be free."""
    reply = asyncio.run(exchange(serve, body))
    assert reply.failure is Failure.DISCONNECTED
    outcome = classify(reply)
    assert (outcome.verdict, outcome.maybe_paid) == (Verdict.AMBIGUOUS, True)


@pytest.mark.parametrize(
    "raw",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 900\r\n\r\n" + OK,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n20\r\n" + OK + b"\r\n",
    ],
    ids=["content-length", "chunked"],
)
def test_a_cut_body_is_ambiguous_and_its_beginning_is_kept(raw):
    """The user pays the full price for half an answer."""
    reply = asyncio.run(exchange(replying(raw)))
    assert reply.status == 200
    assert reply.failure is Failure.CUT
    assert reply.body == OK
    assert classify(reply).verdict is Verdict.AMBIGUOUS


def test_a_silent_server_is_given_up_at_the_deadline():
    """It takes the request and sends nothing."""

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        await asyncio.sleep(30)

    begun = time.monotonic()
    reply = asyncio.run(exchange(silent, deadline_s=0.4))
    assert reply.failure is Failure.TIMEOUT
    assert time.monotonic() - begun < 5


def test_a_response_that_drips_ends_at_the_same_deadline():
    """The deadline is absolute: it does not start again with every byte."""

    async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
        for _ in range(300):
            writer.write(b" ")
            await writer.drain()
            await asyncio.sleep(0.05)

    begun = time.monotonic()
    reply = asyncio.run(exchange(drip, deadline_s=0.6))
    assert (reply.status, reply.failure) == (200, Failure.TIMEOUT)
    assert classify(reply).verdict is Verdict.AMBIGUOUS
    assert time.monotonic() - begun < 5


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_are_never_followed(status):
    """The key goes to no other address, and the job stops."""
    requests: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        requests.append(await read_request(reader))
        writer.write(answer(b"", f"{status} Moved", "Location: /elsewhere"))

    reply = asyncio.run(exchange(serve))
    assert reply.status == status
    assert classify(reply).stop is StopCode.REDIRECT
    assert len(requests) == 1


# -- bodies -------------------------------------------------------------------------------


def test_a_gzip_bomb_stops_at_the_cap():
    """200 KB unpack to 200 MB. The client decodes no more than the cap and keeps 1 MiB."""
    bomb = gzip.compress(b"a" * (3 * MAX_BODY_BYTES))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    reply = asyncio.run(exchange(replying(answer(bomb, "200 OK", "Content-Encoding: gzip"))))
    grown_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert reply.failure is Failure.TOO_LARGE
    assert len(reply.body) == KEPT_OF_TOO_LARGE_BYTES
    assert grown_kb < 3 * MAX_BODY_BYTES // 1024


def test_an_endless_body_stops_at_the_cap():
    """A gigabyte of nothing."""

    async def endless(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n")
        while True:
            writer.write(b" " * 1_000_000)
            await writer.drain()

    reply = asyncio.run(exchange(endless, deadline_s=60))
    assert reply.failure is Failure.TOO_LARGE


def test_a_wait_for_memory_does_not_count_towards_the_deadline():
    """Other responses fill the memory for longer than the deadline. The answer is still read."""
    budget = BodyBudget(1024 * 1024)
    long = b'{"success":true,"result":"' + b"x" * 500_000 + b'"}'

    async def go() -> Reply:
        others = [budget.share(), budget.share()]
        for share in others:  # the second one overdraws, as one at a time may
            await share.grow(1024 * 1024)
        async with serving(replying(answer(long))) as (_, url):
            access = Access(url, "sk_x", "h")
            async with Client(access, "wf_story", 0.5, bodies=budget) as client:
                waiting = asyncio.create_task(client.send(BODY))
                await asyncio.sleep(1.0)
                assert not waiting.done()
                for share in others:
                    share.shrink(0)
                return await waiting

    reply = asyncio.run(go())
    assert (reply.failure, reply.body) == (None, long)


def test_after_a_wait_for_memory_the_rest_of_the_deadline_runs():
    """The server stops after the first half."""
    budget = BodyBudget(1024 * 1024)

    async def half(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(answer(b"x" * 1_000_000)[:500_000])
        await reader.read()

    async def go() -> Reply:
        others = [budget.share(), budget.share()]
        for share in others:
            await share.grow(1024 * 1024)
        async with serving(half) as (_, url):
            access = Access(url, "sk_x", "h")
            async with Client(access, "wf_story", 0.5, bodies=budget) as client:
                waiting = asyncio.create_task(client.send(BODY))
                await asyncio.sleep(1.0)
                for share in others:
                    share.shrink(0)
                return await asyncio.wait_for(waiting, 5)

    assert asyncio.run(go()).failure is Failure.TIMEOUT


# -- the memory for responses, and the key in them ---------------------------------------

LONG = b'{"success":true,"result":"' + b"x" * 4_000_000 + b'"}'


@pytest.mark.parametrize(
    ("raw", "counted"),
    [
        (lambda: answer(LONG), len(LONG)),
        (lambda: answer(LONG)[:-9], len(LONG) - 9),
        (lambda: answer(gzip.compress(LONG), "200 OK", "Content-Encoding: gzip"), len(LONG)),
        (lambda: answer(b" " * (MAX_BODY_BYTES + 1)), KEPT_OF_TOO_LARGE_BYTES),
        (answer, 0),
    ],
    ids=["long", "cut", "gzip", "too large", "short"],
)
def test_a_response_counts_against_the_budget_as_long_as_it_is_in_memory(raw, counted):
    """Otherwise thousands of long ones would fill the memory, or would wait for one another."""
    budget = BodyBudget()
    whole = budget.free_bytes

    async def go() -> None:
        async with serving(replying(raw())) as (_, url):
            access = Access(url, "sk_x", "h")
            async with Client(access, "wf_story", 20, bodies=budget) as client:
                reply = await client.send(BODY)
                assert whole - budget.free_bytes == counted
                assert counted in (0, len(reply.body))
                del reply
                gc.collect()
                await asyncio.sleep(0.01)
                assert budget.free_bytes == whole

    asyncio.run(go())


def test_a_response_waits_until_others_are_saved():
    """It is not read further, so the server waits and memory does not grow."""
    budget = BodyBudget(6_000_000)
    done: list[Reply] = []

    async def go() -> None:
        async with serving(replying(answer(LONG))) as (_, url):
            access = Access(url, "sk_x", "h")
            async with Client(access, "wf_story", 20, bodies=budget) as client:
                first, second = [await client.send(BODY) for _ in range(2)]  # the second overdraws
                waiting = asyncio.create_task(client.send(BODY))
                await asyncio.sleep(0.3)
                assert not waiting.done()
                assert budget.free_bytes < 0
                del first, second
                gc.collect()
                done.append(await asyncio.wait_for(waiting, 5))

    asyncio.run(go())
    assert done[0].body == LONG


@pytest.mark.parametrize(
    "raw",
    [
        b"HTTP/1.1 200 OK\r\nAuthorization Bearer sk_secret_key\r\n\r\n",
        b"HTTP/9.sk_secret_key 200 OK\r\n\r\n",
        answer(b"no: Bearer sk_secret_key", "400 Bad Request"),
        answer(gzip.compress(b"no: sk_secret_key"), "400 Bad", "Content-Encoding: gzip"),
        answer(b"", "302 Found", "Location: /login?key=sk_secret_key"),
        answer(b'{"success":true,"result":"sk_secret_key"}')[:-2],
    ],
    ids=["a broken header", "a broken status line", "a body", "gzip", "a redirect", "a cut body"],
)
def test_a_key_that_a_server_repeats_appears_in_no_message(raw):
    """Messages and stored bodies end up in files, logs and mails."""

    async def go() -> Reply:
        async with serving(replying(raw)) as (_, url):
            access = Access(url, "sk_secret_key", "h")
            async with Client(access, "wf_story", 5) as client:
                return await client.send(BODY)

    reply = asyncio.run(go())
    outcome = classify(reply)
    kept = f"{reply.detail} {reply.body!r} {dict(reply.headers)} {outcome.message}"
    assert "sk_secret_key" not in kept
    assert "[key]" in kept


# -- connections --------------------------------------------------------------------------


def test_a_server_that_closes_idle_connections_makes_no_row_ambiguous():
    """The server hangs up 0.5 s after each answer, at the moment when the next request leaves."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await asyncio.wait_for(read_request(reader), timeout=0.5)
            writer.write(answer())

    async def paced() -> list[Reply]:
        async def quiet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                await serve(reader, writer)
            except TimeoutError:
                writer.close()

        async with serving(quiet) as (_, url):
            async with Client(Access(url, "sk_x", "h"), "wf_story", 5) as client:

                async def worker(pause_s: float) -> list[Reply]:
                    replies = []
                    for _ in range(3):
                        replies.append(await client.send(BODY))
                        await asyncio.sleep(pause_s)
                    return replies

                pauses = [0.499 + n / 10_000 for n in range(20)]
                groups = await asyncio.gather(*map(worker, pauses))
                return [reply for group in groups for reply in group]

    replies = asyncio.run(paced())
    assert [r.failure for r in replies] == [None] * 60


def test_no_library_repeats_a_lost_request():
    """A reused connection dies with its second request, which reaches the server once."""
    requests: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        requests.append(await read_request(reader))
        writer.write(answer())
        requests.append(await read_request(reader))

    async def twice() -> Reply:
        async with serving(serve) as (server, url):
            async with Client(Access(url, "sk_x", "h"), "wf_story", 5) as client:
                assert (await client.send(BODY)).failure is None
                reply = await client.send(BODY)
                assert server.connections == 1
                return reply

    reply = asyncio.run(twice())
    assert reply.failure is Failure.DISCONNECTED
    assert len(requests) == 2


def test_a_proxy_in_the_environment_is_used_for_other_hosts(monkeypatch):
    """A custom transport of httpx ignores HTTPS_PROXY by default."""
    asked: list[bytes] = []

    async def proxy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n")

    async def through() -> Reply:
        async with serving(proxy) as (_, url):
            set_proxy(monkeypatch, url)
            return await send_once("https://api.example")

    reply = asyncio.run(through())
    assert asked[0].startswith(b"CONNECT api.example:443")
    assert b"sk_x" not in asked[0]
    assert reply.failure is Failure.NOT_SENT


CONNECTED = b"HTTP/1.1 200 Connection established\r\n\r\n"


def saying(raw: bytes, then: Callable[[asyncio.StreamWriter], None] | None = None) -> Serve:
    """A proxy that answers CONNECT with `raw` and hangs up."""

    async def proxy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(raw)
        await writer.drain()
        if then:
            then(writer)

    return proxy


@pytest.mark.parametrize(
    "proxy",
    [
        _close_unread,
        _reset_unread,
        saying(b""),
        saying(b"", reset),
        saying(b"HTTP/1.1 200 Connec"),
        saying(b"HTTP/1.1 200 Connec", reset),
        saying(b"SSH-2.0-OpenSSH_9.2\r\n\r\n"),
        saying(answer(b"log in", "407 Proxy Authentication Required")),
        saying(CONNECTED),
        saying(CONNECTED, reset),
    ],
    ids=[
        "closes at once",
        "resets at once",
        "closes",
        "resets",
        "closes in its answer",
        "resets in its answer",
        "speaks another protocol",
        "wants a password",
        "closes in the TLS handshake",
        "resets in the TLS handshake",
    ],
)
def test_a_proxy_that_hangs_up_before_the_tunnel_is_open_receives_no_request(proxy, monkeypatch):
    """The request leaves only after the TLS handshake with the API, inside the tunnel."""

    async def through() -> Reply:
        async with serving(proxy) as (_, url):
            set_proxy(monkeypatch, url)
            return await send_once("https://api.example")

    reply = asyncio.run(through())
    assert reply.failure is Failure.NOT_SENT
    assert classify(reply).verdict is Verdict.REFUSED


@pytest.mark.parametrize("serve", [_close_after_request, _reset_after_request])
def test_a_tunnel_that_breaks_after_the_request_leaves_the_row_ambiguous(serve, monkeypatch):
    """The API behind the proxy received the request."""
    certificate = str(TOP / "tests/support/unsigned.pem")
    monkeypatch.setenv("SSL_CERT_FILE", certificate)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate)

    async def proxy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(CONNECTED)
        await writer.drain()
        await writer.start_tls(tls)
        await serve(reader, writer)

    async def through() -> Reply:
        async with serving(proxy) as (_, url):
            set_proxy(monkeypatch, url)
            return await send_once("https://api.example")

    assert asyncio.run(through()).failure is Failure.DISCONNECTED


def test_hundreds_of_requests_at_once_all_get_their_response():
    """The transport handles as many requests as a real key allows, and no pool queues silently."""

    async def slow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        await asyncio.sleep(1.0)
        writer.write(answer())

    async def crowd() -> list[Reply]:
        async with serving(slow) as (_, url):
            async with Client(Access(url, "sk_x", "h"), "wf_story", 60) as client:
                return await asyncio.gather(*(client.send(BODY) for _ in range(400)))

    replies = asyncio.run(crowd())
    assert {r.failure for r in replies} == {None}


def test_a_request_that_waits_for_its_response_takes_little_memory():
    count, most_bytes = 100, 9_700

    async def bytes_each() -> float:
        answering, waiting = asyncio.Event(), asyncio.Semaphore(0)

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await read_request(reader)
            waiting.release()
            await answering.wait()
            writer.write(answer())
            await writer.drain()

        async def send(client: Client, requests: int) -> list[asyncio.Task[Reply]]:
            tasks = [asyncio.create_task(client.send(BODY)) for _ in range(requests)]
            for _ in tasks:
                await waiting.acquire()
            return tasks

        async with serving(serve) as (_, url), Client(Access(url, "sk_x", "h"), "wf", 60) as client:
            tasks = await send(client, 1)
            tracemalloc.start()
            try:
                tasks += await send(client, count)
                taken = tracemalloc.take_snapshot().filter_traces(
                    [tracemalloc.Filter(True, f"*/{name}/*") for name in ("aiohttp", "sending")]
                )
            finally:
                tracemalloc.stop()
            answering.set()
            assert all(reply.status == 200 for reply in await asyncio.gather(*tasks))
        return sum(trace.size for trace in taken.traces) / count

    assert asyncio.run(bytes_each()) < most_bytes
