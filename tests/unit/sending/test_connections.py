"""Which connections are reused: real sockets, and servers that send more than they were asked."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import ssl
import threading
import time
from collections.abc import Awaitable, Callable

import pytest

from pipeline.core.model import Failure, Reply, Verdict
from pipeline.job.access import Access
from pipeline.policy.answer import classify
from pipeline.sending.engines.client import Client
from pipeline.sending.engines.connections import Line
from tests.conftest import TOP
from tests.unit.sending.test_client import answer, read_request, serving

Write = Callable[[asyncio.StreamWriter, bytes], Awaitable[None]]


def own(body: bytes) -> bytes:
    """The right answer to `body`: it repeats the text of the request."""
    return json.dumps({"success": True, "result": json.loads(body)["story"]}).encode()


def chunked(body: bytes) -> bytes:
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    return head + b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)


PUSHED = {
    "200": answer(b'{"success":true,"result":"foreign"}'),
    "408": answer(b"", "408 Request Timeout"),
    "429": answer(b'{"success":false,"error":"Rate limit exceeded"}', "429 Too Many Requests"),
    "500": answer(b'{"success":false,"error":"foreign"}', "500 Internal Server Error"),
    "half a head": b"HTTP/1.1 200 OK\r\nContent-Le",
    "a line end": b"\r\n",
}


async def pause() -> None:
    await asyncio.sleep(0.02)


async def _while_idle(writer: asyncio.StreamWriter, whole: bytes, pushed: bytes) -> None:
    writer.write(whole)
    await writer.drain()
    await pause()
    writer.write(pushed)


async def _in_one_segment(writer: asyncio.StreamWriter, whole: bytes, pushed: bytes) -> None:
    writer.write(whole + pushed)


async def _behind_the_last_byte(writer: asyncio.StreamWriter, whole: bytes, pushed: bytes) -> None:
    """The end of the body and the pushed bytes arrive together, after the head was read."""
    writer.write(whole[:-6])
    await writer.drain()
    await pause()
    writer.write(whole[-6:] + pushed)


async def _byte_by_byte(writer: asyncio.StreamWriter, whole: bytes, pushed: bytes) -> None:
    for n in range(len(whole + pushed)):
        writer.write((whole + pushed)[n : n + 1])
        await writer.drain()
        await asyncio.sleep(0)


async def _in_two_halves(writer: asyncio.StreamWriter, whole: bytes, pushed: bytes) -> None:
    half = len(pushed) // 2
    writer.write(whole + pushed[:half])
    await writer.drain()
    await pause()
    writer.write(pushed[half:])


MOMENTS = [_while_idle, _in_one_segment, _behind_the_last_byte, _byte_by_byte, _in_two_halves]


def story(number: int, padding: int = 0) -> bytes:
    return json.dumps({"story": f"story {number}" + "x" * padding}).encode()


async def ask_in_turn(
    client: Client, between: Callable[[], Awaitable[None]], rows: int = 3, padding: int = 0
) -> list[Reply]:
    replies = []
    for number in range(rows):
        replies.append(await client.send(story(number, padding)))
        await between()
    return replies


async def _let_it_come() -> None:
    await asyncio.sleep(0.06)


async def _do_not_look() -> None:
    """Blocks the event loop, so that the bytes stay unread in the kernel's buffer."""
    time.sleep(0.06)  # noqa: ASYNC251


def pushing(
    moment: Callable[..., Awaitable[None]],
    pushed: bytes,
    framed: Callable[[bytes], bytes],
    book: list[bytes],
):
    """A server that answers each request with its own text, and also sends `pushed`."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            body = (await read_request(reader)).split(b"\r\n\r\n", 1)[1]
            book.append(body)
            await moment(writer, framed(own(body)), pushed)
            await writer.drain()

    return serve


@pytest.mark.parametrize("pushed", PUSHED.values(), ids=PUSHED.keys())
@pytest.mark.parametrize("framed", [answer, chunked], ids=["length", "chunked"])
@pytest.mark.parametrize("moment", MOMENTS, ids=lambda moment: moment.__name__.strip("_"))
def test_a_pushed_response_is_never_taken_for_the_next_row_s_answer(moment, framed, pushed):
    """A proxy once pushed a complete response onto an idle connection, and the next row got it."""
    book: list[bytes] = []
    said: list[str] = []

    async def go() -> list[Reply]:
        async with serving(pushing(moment, pushed, framed, book)) as (_, url):
            async with Client(Access(url, "sk_x", "h"), "wf", 5, tell=said.append) as client:
                return await ask_in_turn(client, _let_it_come)

    replies = asyncio.run(go())
    assert [reply.body for reply in replies] == [own(story(n)) for n in range(3)]
    assert book == [story(n) for n in range(3)]
    assert {classify(reply).verdict for reply in replies} == {Verdict.OK}
    assert len(said) == 1
    assert "that no request asked for" in said[0]


@pytest.mark.parametrize("pushed", PUSHED.values(), ids=PUSHED.keys())
def test_pushed_bytes_that_the_event_loop_has_not_read_yet_count_too(pushed):
    """They are in the kernel's buffer when the next request leaves."""
    book: list[bytes] = []

    def answer_in_turn(connection: socket.socket) -> None:
        while len(book) < 3 and (request := connection.recv(65536)):
            book.append(request.split(b"\r\n\r\n", 1)[1])
            connection.sendall(answer(own(book[-1])))
            time.sleep(0.02)
            connection.sendall(pushed)

    def serve(listener: socket.socket) -> None:
        """Runs in another thread, because the client's event loop is blocked meanwhile."""
        while len(book) < 3:
            connection, _ = listener.accept()
            with connection, contextlib.suppress(ConnectionError):
                answer_in_turn(connection)

    async def ask(port: int) -> list[Reply]:
        access = Access(f"http://127.0.0.1:{port}", "sk_x", "h")
        async with Client(access, "wf", 5) as client:
            return await ask_in_turn(client, _do_not_look)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, args=(listener,))
        thread.start()
        replies = asyncio.run(ask(listener.getsockname()[1]))
        thread.join()
    assert [reply.body for reply in replies] == [own(story(n)) for n in range(3)]
    assert book == [story(n) for n in range(3)]


def tls_server(monkeypatch: pytest.MonkeyPatch) -> ssl.SSLContext:
    """Returns the TLS context of a server that this process trusts. In TLS 1.2 the server speaks
    last in the handshake, so it can push bytes right after it."""
    certificate = str(TOP / "tests/support/unsigned.pem")
    monkeypatch.setenv("SSL_CERT_FILE", certificate)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.maximum_version = ssl.TLSVersion.TLSv1_2
    tls.load_cert_chain(certificate)
    return tls


@pytest.mark.parametrize("moment", MOMENTS, ids=lambda moment: moment.__name__.strip("_"))
def test_a_pushed_response_over_tls_is_not_taken_for_an_answer_either(moment, monkeypatch):
    """Its bytes arrive decrypted, in chunks of another size."""
    book: list[bytes] = []
    tls = tls_server(monkeypatch)

    async def go() -> list[Reply]:
        serve = pushing(moment, PUSHED["200"], answer, book)
        async with serving(serve, tls) as (_, url):
            async with Client(Access(url, "sk_x", "h"), "wf", 5) as client:
                return await ask_in_turn(client, _let_it_come)

    assert [reply.body for reply in asyncio.run(go())] == [own(story(n)) for n in range(3)]


def test_nothing_is_sent_to_a_server_that_speaks_first(monkeypatch):
    """A response that arrives before the request does not belong to it. The row stays unsent."""
    received: list[bytes] = []

    async def push(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(PUSHED["200"])
        await writer.drain()
        received.append(await reader.read(1000))

    async def go() -> Reply:
        async with serving(push, tls_server(monkeypatch)) as (_, url):
            async with Client(Access(url, "sk_x", "h"), "wf", 5) as client:
                reply = await client.send(story(1))
                await asyncio.sleep(0.05)
                return reply

    reply = asyncio.run(go())
    assert reply.failure is Failure.NOT_SENT
    assert received == [b""]


def test_a_response_that_left_before_the_request_arrived_is_not_its_answer():
    """Its packets confirm no byte of the request. Here the server's buffer is full: the server
    answered an earlier request without reading it."""

    def serve(listener: socket.socket) -> None:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
        connection, _ = listener.accept()
        with connection:
            connection.recv(1000)
            connection.sendall(answer(own(story(0))))
            time.sleep(0.3)
            connection.sendall(PUSHED["200"])
            time.sleep(0.3)

    async def go(port: int) -> list[Reply]:
        async with Client(Access(f"http://127.0.0.1:{port}", "sk_x", "h"), "wf", 3) as client:
            first = await client.send(story(0, 50_000))
            return [first, await client.send(story(1))]

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, args=(listener,))
        thread.start()
        first, second = asyncio.run(go(listener.getsockname()[1]))
        thread.join()
    assert first.body == own(story(0))
    assert (second.failure, second.body) == (Failure.DISCONNECTED, b"")


@pytest.mark.parametrize("framed", [answer, chunked], ids=["length", "chunked"])
@pytest.mark.parametrize("size", [10, 50_000])
@pytest.mark.parametrize("cut", [0, 30, -1], ids=["whole", "in its head", "at its end"])
def test_the_connection_of_a_server_that_keeps_to_the_protocol_is_reused(framed, size, cut):
    """In whatever way its responses are cut into packets."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await read_request(reader)
            whole = framed(b'{"success":true,"result":"' + b"x" * size + b'"}')
            writer.write(whole[:cut])
            await writer.drain()
            await asyncio.sleep(0.01)
            writer.write(whole[cut:])

    said: list[str] = []

    async def go() -> int:
        async with serving(serve) as (server, url):
            async with Client(Access(url, "sk_x", "h"), "wf", 5, tell=said.append) as client:
                for _ in range(4):
                    assert classify(await client.send(story(1))).verdict is Verdict.OK
            return server.connections

    assert asyncio.run(go()) == 1
    assert said == []


@pytest.mark.parametrize("together", [True, False])
def test_an_interim_response_does_not_count_as_pushed(together):
    """`100 Continue`, `103 Early Hints`: a response may have several heads."""
    hints = b"HTTP/1.1 103 Early Hints\r\nLink: <a>\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n"

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await read_request(reader)
            writer.write(hints)
            if not together:
                await writer.drain()
                await asyncio.sleep(0.02)
            writer.write(answer())

    said: list[str] = []

    async def go() -> list[Reply]:
        async with serving(serve) as (_, url):
            async with Client(Access(url, "sk_x", "h"), "wf", 5, tell=said.append) as client:
                return await ask_in_turn(client, _let_it_come)

    assert [classify(reply).verdict for reply in asyncio.run(go())] == [Verdict.OK] * 3
    assert said == []


@pytest.mark.parametrize("framed", [answer, chunked], ids=["length", "chunked"])
@pytest.mark.parametrize("size", [0, 150_000, 250_000, 3_000_000])
@pytest.mark.parametrize("cut", [0, -6], ids=["whole", "at its end"])
def test_half_of_a_pushed_response_behind_an_answer_is_noticed(framed, size, cut):
    """The other half would arrive with the next answer. The client reads a long answer in several
    turns, and its parser holds some of it back meanwhile."""
    pushed = PUSHED["200"]

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        rest = b""
        while True:
            body = (await read_request(reader)).split(b"\r\n\r\n", 1)[1]
            whole = framed(own(body)[:-2] + b"x" * size + b'"}')
            writer.write(rest + whole[:cut])
            await writer.drain()
            await asyncio.sleep(0.01)
            writer.write(whole[cut:] + pushed[:20])
            rest = pushed[20:]

    async def nothing() -> None:
        pass

    async def go() -> tuple[list[Reply], int]:
        async with serving(serve) as (server, url):
            async with Client(Access(url, "sk_x", "h"), "wf", 5) as client:
                return await ask_in_turn(client, nothing), server.connections

    replies, connections = asyncio.run(go())
    assert [json.loads(reply.body)["result"].rstrip("x") for reply in replies] == [
        f"story {n}" for n in range(3)
    ]
    assert connections == 3


# -- a server that closes reused connections ----------------------------------------------


def test_the_log_says_that_connections_are_no_longer_reused(make_job):
    """By the server's book, each row was sent once. One row is ambiguous."""
    book: list[bytes] = []

    async def go() -> None:
        async with serving(closing_at_second(book)) as (_, url):
            job = make_job(url, rows=[[f"story {n}"] for n in range(5)], concurrency=1)
            done = await asyncio.to_thread(job.call, "run")
            assert done.returncode == 5, done.stderr
            lines = list(map(json.loads, (job.output / "log.jsonl").read_text().splitlines()))
            said = [line["message"] for line in lines if line["event"] == "notice"]
            assert sum("gets a new connection" in one for one in said) == 1
            assert sum(line["event"] == "attempt_ended" for line in lines) == 1

    asyncio.run(go())
    assert len({one.split(b"\r\n\r\n")[1] for one in book}) == len(book) == 5


def closing_at_second(book: list[bytes], closed: bytes = b""):
    """A server that takes a second request on a connection and then hangs up without an answer."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        book.append(await read_request(reader))
        writer.write(answer())
        book.append(await read_request(reader))
        writer.write(closed)

    return serve


@pytest.mark.parametrize("closed", [b"", b"HTTP/1.1 200 OK\r\nContent-Le"], ids=["silent", "cut"])
def test_after_one_lost_request_no_connection_is_reused(closed):
    """One row is ambiguous, and no row after it. With reuse, 44 of 100 rows were ambiguous if the
    server hung up 20 ms after each answer."""
    book: list[bytes] = []
    said: list[str] = []

    async def go() -> list[Reply]:
        async with serving(closing_at_second(book, closed)) as (_, url):
            async with Client(Access(url, "sk_x", "h"), "wf", 5, tell=said.append) as client:
                return [await client.send(story(n)) for n in range(6)]

    failures = [reply.failure for reply in asyncio.run(go())]
    assert failures == [None, Failure.DISCONNECTED, None, None, None, None]
    assert len(book) == 6
    assert [b"connection: close" in request.lower() for request in book] == [False] * 2 + [True] * 4
    assert len(said) == 1
    assert "each request gets a new connection" in said[0]


def test_connections_that_are_idle_when_a_request_is_lost_are_not_reused_either():
    """Two connections are idle when the loss of a third one shows how the server behaves."""
    book: list[bytes] = []

    async def go() -> list[Reply]:
        async with serving(closing_at_second(book)) as (_, url):
            async with Client(Access(url, "sk_x", "h"), "wf", 5) as client:
                await asyncio.gather(*(client.send(story(n)) for n in range(3)))
                lost = await client.send(story(3))
                return [lost, await client.send(story(4)), await client.send(story(5))]

    failures = [reply.failure for reply in asyncio.run(go())]
    assert failures == [Failure.DISCONNECTED, None, None]


def test_the_loss_of_a_new_connection_does_not_stop_the_reuse_of_others():
    """The server hangs up on the first request and works from then on."""
    book: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        book.append(await read_request(reader))
        while len(book) > 1:
            writer.write(answer())
            book.append(await read_request(reader))

    said: list[str] = []

    async def go() -> int:
        async with serving(serve) as (server, url):
            async with Client(Access(url, "sk_x", "h"), "wf", 5, tell=said.append) as client:
                for n in range(4):
                    await client.send(story(n))
            return server.connections

    assert asyncio.run(go()) == 2
    assert (len(book), said) == (4, [])


@pytest.mark.parametrize("behind", [b"", b"HTTP/1.1 200 OK"], ids=["nothing", "half a push"])
def test_a_connection_is_closed_if_the_end_of_an_answer_cannot_be_seen(behind):
    """A long answer fills the reader, and the parser holds its end back. Then it is unknown whether
    more bytes follow."""

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async def go() -> None:
        async with serving(silent) as (_, url):
            loop = asyncio.get_running_loop()
            port = int(url.rsplit(":", 1)[1])
            transport, line = await loop.create_connection(
                lambda: Line(loop, lambda: None), "127.0.0.1", port
            )
            line.begin()
            transport.write(b"a request")
            line.set_response_params(read_until_eof=True, auto_decompress=False)
            whole = answer(b"x" * 600_000) + behind
            line.data_received(whole[:300_000])
            line.data_received(whole[300_000:])
            _, payload = await line.read()
            assert line.should_close
            assert len(await payload.read()) == 600_000
            assert line.should_close
            line.close()

    asyncio.run(go())
