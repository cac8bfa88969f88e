"""Posts the end of a run to one address of `notify:`, once.

It is one POST of a few kilobytes, and nothing reads its response. So the standard library does it,
in a daemon thread: a slow name server or server cannot delay the run's end.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import socket
import threading
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from pipeline.notify.endpoint import LOCAL, Endpoint
from pipeline.system.addresses import is_local, is_loopback


async def post(to: Endpoint, body: bytes, kind: str, timeout_s: float) -> str | None:
    """Sends `body` once. Returns None, or why it was not accepted.

    Never raises, and never takes longer than `timeout_s`.
    """
    return await in_time(lambda: _post(to, body, kind, timeout_s), timeout_s)


def _post(to: Endpoint, body: bytes, kind: str, timeout_s: float) -> str | None:
    headers = {"Content-Type": kind, "User-Agent": "pipeline"}
    request = urllib.request.Request(to.url, body, headers, method="POST")
    try:
        opener = urllib.request.build_opener(_NoRedirect, *_ways(to))
        with opener.open(request, timeout=timeout_s):
            return None
    except urllib.error.HTTPError as error:
        error.close()
        return f"HTTP {error.code}"
    except (OSError, http.client.HTTPException, ValueError) as error:
        reason = getattr(error, "reason", error)
        if isinstance(reason, TimeoutError):
            return late(timeout_s)
        return getattr(reason, "strerror", None) or type(reason).__name__


def _ways(to: Endpoint) -> list[urllib.request.BaseHandler]:
    """Returns the handlers with which urllib connects. A name may lead to a local address, so the
    connection itself is checked. With a proxy, the proxy decides where the name leads."""
    parts = urlsplit(to.url)
    host = parts.hostname or ""
    if is_loopback(host):
        return [urllib.request.ProxyHandler({})]
    proxied = parts.scheme in getproxies() and not proxy_bypass(parts.netloc)
    return [] if to.may_be_local or proxied else [_NotLocal()]


async def in_time(work: Callable[[], str | None], timeout_s: float) -> str | None:
    """Returns the result of `work`: None, or why it failed. Names the error if `work` raises.

    Takes at most `timeout_s`, whether `work` has ended or not. `work` runs in its own daemon
    thread, which is abandoned when it is late.
    """
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[str | None] = loop.create_future()

    def run() -> None:
        try:
            said = work()
        except BaseException as error:  # of any kind: the caller waits for the result
            said = type(error).__name__
        with contextlib.suppress(RuntimeError):  # the loop is closed: no caller waits any longer
            loop.call_soon_threadsafe(_resolve, answer, said)

    try:
        threading.Thread(target=run, daemon=True).start()
    except RuntimeError as error:  # the system has no thread left
        return str(error)
    try:
        async with asyncio.timeout(timeout_s):
            return await answer
    except TimeoutError:
        return late(timeout_s)


def late(timeout_s: float) -> str:
    """Returns the reason for a timeout, in the same words wherever it is noticed."""
    return f"no response within {timeout_s:g} s"


class _NotLocal(urllib.request.HTTPSHandler):
    """HTTPS that never reaches this machine or its link. Addresses here have no other scheme."""

    def https_open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(_connection, request)


def _connection(host: str, **options: Any) -> http.client.HTTPSConnection:
    connection = http.client.HTTPSConnection(host, **options)
    # http.client has no public way to check the address before TLS begins.
    connection._create_connection = _connected  # type: ignore[attr-defined]
    return connection


def _connected(*where: Any) -> socket.socket:
    connected = socket.create_connection(*where)
    theirs = connected.getpeername()[0].partition("%")[0]
    # A connection to an address of this machine has the same address at both ends.
    if is_local(theirs) or theirs == connected.getsockname()[0].partition("%")[0]:
        connected.close()
        raise OSError(
            None, f"its name leads to an address of this machine, which only {LOCAL}=1 allows"
        )
    return connected


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        """Follows no redirect: only the user's address was checked, not the one in the response."""


def _resolve(answer: asyncio.Future[str | None], said: str | None) -> None:
    if not answer.done():
        answer.set_result(said)
