"""Two servers: one that can vanish, hang up and deny for ever, which no sandbox can, and one that
records the notifications of a run."""

from __future__ import annotations

import asyncio
import json
import threading
from collections import Counter
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, HTTPServer, ThreadingHTTPServer
from typing import Any

Answer = tuple[int, dict[str, str], bytes]
Call = tuple[str, str, dict[str, str], bytes]


def ok(body: bytes) -> Answer:
    """Returns an answer that contains the body of its request."""
    return 200, {}, json.dumps({"success": True, "result": body.decode()}).encode()


def rate_limited(body: bytes) -> Answer:
    """Returns a 429 with useless headers."""
    garbage = {"x-ratelimit-limit": "\xa7many", "x-ratelimit-remaining": "-1e9", "retry-after": "x"}
    return 429, garbage, b'{"success": false, "error": "Rate limit exceeded"}'


class Server:
    """A server on loopback in its own thread.

    `received` counts each body. In case of doubt, each of them was billed. While `holding` is true,
    the server accepts requests and does not answer them. `at_once` selects the bodies that it
    answers without a wait, as a web filter does.
    """

    def __init__(self, answer: Callable[[bytes], Answer] = ok, latency_s: float = 0.0) -> None:
        self.answer = answer
        self.latency_s = latency_s
        self.holding = False
        self.at_once: Callable[[bytes], bool] = lambda body: False
        self.received: Counter[str] = Counter()
        self.in_flight = 0
        self.most_in_flight = 0
        self.port = 0
        self._loop = asyncio.new_event_loop()
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.StreamWriter] = set()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def __enter__(self) -> Server:
        self._thread.start()
        self.listen()
        return self

    def __exit__(self, *_: object) -> None:
        self.vanish()
        self._call(self._finish())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def listen(self) -> None:
        """Accepts connections, always on the same port."""
        self._call(self._listen())

    def refuse(self) -> None:
        """Accepts no new connections. Each open one ends after its current answer."""
        self._call(self._refuse())

    def hang_up(self) -> None:
        """Closes every connection at once, also during a request."""
        self._call(self._hang_up())

    def vanish(self) -> None:
        """Stops listening and closes every connection, as if the process died."""
        self.refuse()
        self.hang_up()

    def _call(self, coroutine: Any) -> None:
        asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(timeout=20)

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port, backlog=4096)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _refuse(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None

    async def _hang_up(self) -> None:
        for writer in self._open:
            writer.transport.abort()

    async def _finish(self) -> None:
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open.add(writer)
        try:
            while True:
                await self._exchange(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            self._open.discard(writer)
            writer.close()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
        length = int(head.split("content-length:")[1].split("\r\n")[0])
        body = await reader.readexactly(length)
        self.received[body.decode()] += 1
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            if not self.at_once(body):
                await asyncio.sleep(self.latency_s)
                while self.holding:
                    await asyncio.sleep(0.02)
        finally:
            self.in_flight -= 1
        status, headers, content = self.answer(body)
        last = self._server is None
        if last:
            headers = headers | {"connection": "close"}
        fields = headers | {"content-type": "application/json", "content-length": str(len(content))}
        lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        writer.write(f"HTTP/1.1 {status} X\r\n{lines}\r\n".encode("latin-1") + content)
        await writer.drain()
        if last:
            raise ConnectionError("takes no more")


class Monitor:
    """A server that records each call in order: (method, path, headers, body)."""

    def __init__(self, status: int = 200, location: str | None = None) -> None:
        self.calls: list[Call] = []
        monitor = self

        class Answer(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length", 0)))
                monitor.calls.append((self.command, self.path, dict(self.headers), body))
                self.send_response(status)
                if location:
                    self.send_header("location", location)
                self.send_header("content-length", "0")
                self.end_headers()

            do_GET = do_POST

            def log_message(self, *_: object) -> None:
                pass

        self._server: HTTPServer = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()

    @property
    def paths(self) -> list[str]:
        return [path for _, path, _, _ in self.calls]

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
