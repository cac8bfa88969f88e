"""Plain HTTP and plain sockets, so that tests of the sandbox do not depend on our own client."""

from __future__ import annotations

import http.client
import json
import socket
import time
from dataclasses import dataclass
from typing import Any

KEY = "sk_sandbox"


@dataclass(frozen=True)
class Got:
    """One response."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def quota(self) -> tuple[str | None, str | None]:
        """The two rate-limit headers."""
        names = ("x-ratelimit-limit", "x-ratelimit-remaining")
        return self.headers.get(names[0]), self.headers.get(names[1])


@dataclass(frozen=True)
class Wire:
    """The bytes from a socket, and how it ended: closed, reset, or open when the time was over."""

    data: bytes
    end: str

    @property
    def head(self) -> bytes:
        return self.data.partition(b"\r\n\r\n")[0]

    @property
    def body(self) -> bytes:
        return self.data.partition(b"\r\n\r\n")[2]

    @property
    def status(self) -> int:
        return int(self.data.split(b" ", 2)[1])


def call(port: int, method: str, path: str, body: Any = b"", key: str | None = KEY) -> Got:
    """Sends one request on a new connection. A body that is not bytes is sent as JSON."""
    headers = {"content-type": "application/json"}
    if key is not None:
        headers["authorization"] = f"Bearer {key}"
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        connection.request(method, path, data, headers)
        answer = connection.getresponse()
        fields = {name.lower(): value for name, value in answer.getheaders()}
        return Got(answer.status, fields, answer.read())
    finally:
        connection.close()


def run(port: int, body: Any, workflow: str = "wf_story", key: str | None = KEY) -> Got:
    """Requests one run of a workflow."""
    return call(port, "POST", f"/api/v1/run/{workflow}", body, key)


def change(port: int, what: str, body: Any) -> Got:
    """Makes an administrator's call, which has to succeed."""
    got = call(port, "PUT", f"/_sandbox/{what}", body, None)
    assert got.status == 204, got
    return got


def request_bytes(body: Any, workflow: str = "wf_story") -> bytes:
    """Returns the bytes of a request for a run."""
    data = json.dumps(body).encode()
    lines = [
        f"POST /api/v1/run/{workflow} HTTP/1.1",
        "Host: 127.0.0.1",
        f"Authorization: Bearer {KEY}",
        "Content-Type: application/json",
        f"Content-Length: {len(data)}",
    ]
    return "\r\n".join([*lines, "", ""]).encode() + data


def exchange(
    port: int, body: Any, quiet_s: float = 0.02, within_s: float = 5.0, most: int = 50_000_000
) -> Wire:
    """Sends one request over a socket and reads until it closes, `within_s` has passed, or more
    than `most` bytes came. Stops too if no byte follows a complete body for `quiet_s`."""
    data = bytearray()
    deadline = time.monotonic() + within_s
    with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
        connection.sendall(request_bytes(body))
        try:
            while len(data) <= most and (left_s := deadline - time.monotonic()) > 0:
                connection.settimeout(quiet_s if _complete(data) else left_s)
                piece = connection.recv(1 << 18)
                if not piece:
                    return Wire(bytes(data), "closed")
                data += piece
        except ConnectionResetError:
            return Wire(bytes(data), "reset")
        except TimeoutError:
            pass
        return Wire(bytes(data), "open")


def _complete(data: bytearray) -> bool:
    head, end, _ = bytes(data[:2000]).partition(b"\r\n\r\n")
    length = head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0]
    return bool(end and length) and len(data) - len(head) - len(end) >= int(length)


def wait_until_back(port: int) -> None:
    """Returns when a server listens on `port`. Fails the test after ten seconds."""
    deadline = time.monotonic() + 10
    time.sleep(0.3)  # a server that is stopping may still listen
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except ConnectionRefusedError:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        else:
            return
