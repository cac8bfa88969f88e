"""An address of the user's that is told how a run went: never the API's, and never with its key.

The HTTP here is one POST of a few kilobytes whose answer nobody reads, so the standard library does
it. It runs in a daemon thread: a name server or a server that drips cannot hold the run's end.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import os
import re
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from pipeline.access import KEY_VARIABLE
from pipeline.errors import Refused
from pipeline.network import is_loopback, split_address
from pipeline.spec import JobSpec

_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where to POST. The address itself may be a secret: messages have `shown`."""

    shown: str
    _url: str = field(repr=False)

    def below(self, *steps: str) -> Endpoint:
        """An address further down its path; its query stays where it is."""
        parts = urlsplit(self._url)
        path = "/".join((parts.path.rstrip("/"), *steps))
        return Endpoint(self.shown, urlunsplit(parts._replace(path=path)))

    async def post(self, body: bytes, kind: str, timeout_s: float) -> str | None:
        """Sends `body` once. None, or why it was not taken; never raises, never takes longer."""
        return await in_time(lambda: _post(self._url, body, kind, timeout_s), timeout_s)


async def in_time(work: Callable[[], str | None], timeout_s: float) -> str | None:
    """What `work` returns: None, or why nothing came of it; at most `timeout_s` later, it or not.

    `work` has a daemon thread of its own, which is left to itself once it is late.
    """
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[str | None] = loop.create_future()

    def run() -> None:
        said = work()
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(_settle, answer, said)

    threading.Thread(target=run, daemon=True).start()
    try:
        async with asyncio.timeout(timeout_s):
            return await answer
    except TimeoutError:
        return late(timeout_s)


def late(timeout_s: float) -> str:
    """Why, in the same words whoever notices first."""
    return f"no answer within {timeout_s:g} s"


def find_endpoint(text: str, where: str, environment: Mapping[str, str] = os.environ) -> Endpoint:
    """The address in `text`, with each ``${NAME}`` from the environment. `where` is for messages.

    Raises:
        Refused: for a variable that is not set, and for what is neither https nor this machine.
    """
    url = _VARIABLE.sub(lambda found: _value(found[1], where, environment), text).strip()
    try:
        parts = split_address(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        raise Refused(f"{where}: not an address. Nothing was sent.") from None
    if not host or not url.isascii() or not url.isprintable() or " " in url:
        raise Refused(f"{where}: not an https:// address. Nothing was sent.")
    if parts.username or parts.password or parts.fragment:
        raise Refused(f"{where}: give the address without user or fragment. Nothing was sent.")
    if parts.scheme != "https" and not (parts.scheme == "http" and is_loopback(host)):
        raise Refused(
            f"{where}: use https://; http:// is for this machine only (127.0.0.1). Nothing was "
            "sent."
        )
    return Endpoint(f"{parts.scheme}://{host}/…", url)


def told_endpoints(
    spec: JobSpec, environment: Mapping[str, str] = os.environ
) -> tuple[Endpoint | None, Endpoint | None]:
    """(healthcheck, webhook) of the spec's `notify:`, each None where it has none.

    Raises:
        Refused: when an address cannot be used.
    """
    if spec.notify is None:
        return None, None
    told = {"healthcheck": spec.notify.healthcheck, "webhook": spec.notify.webhook}
    healthcheck, webhook = (
        text and find_endpoint(text, f"{spec.at(f'notify.{name}')}: `{name}`", environment)
        for name, text in told.items()
    )
    return healthcheck or None, webhook or None


def _value(name: str, where: str, environment: Mapping[str, str]) -> str:
    if name == KEY_VARIABLE:
        raise Refused(f"{where}: the API's key goes to the API alone. Nothing was sent.")
    value = environment.get(name, "")
    if not value.strip():
        raise Refused(
            f"{where}: the environment has no {name}. Set it, or take the line out of the spec. "
            "Nothing was sent."
        )
    return value.strip()


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        """Nowhere else: the address was checked, the one that an answer names was not."""


def _post(url: str, body: bytes, kind: str, timeout_s: float) -> str | None:
    headers = {"Content-Type": kind, "User-Agent": "pipeline"}
    request = urllib.request.Request(url, body, headers, method="POST")
    here = is_loopback(urlsplit(url).hostname or "")
    proxies = [urllib.request.ProxyHandler({})] if here else []
    try:
        opener = urllib.request.build_opener(_NoRedirect, *proxies)
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


def _settle(answer: asyncio.Future[str | None], said: str | None) -> None:
    if not answer.done():
        answer.set_result(said)
