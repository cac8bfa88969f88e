"""The connection below HTTP: for faults that HTTP cannot say, and for a server that is away.

ASGI shows an application no connection. Its `extensions` are the place for what a server offers
beyond the standard, so uvicorn's own protocol class is kept as it is and only adds its transport
there; `uvicorn.Config(http=...)` takes such a class.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from typing import cast

import uvicorn
from starlette.types import Receive, Scope
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from pipeline.sandbox.peer import kernel_tells, may_be_another_users

_EXTENSION = "pipeline.sandbox.transport"

# How long a spoilt connection is kept for a client that does not hang up: the page's maximum.
_HOLD_S = 300.0

# What runs in flight get at Ctrl-C: nobody waits longer in front of a terminal.
_LAST_WAIT_S = 1.0

# A client that shows up in a thousand connections at once must not meet a full backlog.
_BACKLOG = 4096


class WireProtocol(HttpToolsProtocol):
    """uvicorn's HTTP/1.1 on httptools, with the transport in the scope's extensions. It hangs up on
    other users of this machine, as everybody knows the key `sk_sandbox`, and on clients that have
    left before anybody could see whose they were."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        # Once is enough: nothing was read yet, and a connection does not change hands.
        if may_be_another_users(transport.get_extra_info("socket")):
            transport.abort()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope["extensions"] = {_EXTENSION: {"transport": self.transport}}

    @property
    def is_busy(self) -> bool:
        """Whether a request waits for its answer."""
        return self.cycle is not None and not self.cycle.response_complete


class Server(uvicorn.Server):
    """A uvicorn server on 127.0.0.1 that can be away for a while.

    Raises:
        OSError: when the port is taken.
    """

    def __init__(self, config: uvicorn.Config, port: int) -> None:
        super().__init__(config)
        kernel_tells()  # now: a stranger who takes all sockets later changes nothing
        self._listener = _listen(port)
        self.port: int = self._listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._back_at: float | None = None

    async def run_here(self) -> None:
        """Serves until `should_exit`."""
        await self.serve([self._listener])

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Waits a little for the runs in flight, and then ends them: some hang by a fault, and
        uvicorn alone would wait for those, or end them with a traceback each."""
        self._end_idle()
        if self.server_state.tasks and not self.force_exit:
            await asyncio.wait(self.server_state.tasks, timeout=_LAST_WAIT_S)
        for connection in list(self.server_state.connections):
            if isinstance(connection, WireProtocol) and connection.is_busy:
                connection.transport.abort()
        # Connections learn of their end in the next turn of the loop, and runs are told after it.
        await asyncio.sleep(0)
        for run in self.server_state.tasks:
            run.cancel()
        await super().shutdown(sockets)

    async def go_away(self, seconds: float) -> None:
        """Refuses connections for so long, as a server that is restarted; idle ones end now.

        Requests that are in flight are still answered. Told again while it is away, it only stays
        away longer, if that is longer.
        """
        now = asyncio.get_running_loop().time
        away, self._back_at = self._back_at, max(self._back_at or 0.0, now() + seconds)
        if away is not None:
            return
        for listening in self.servers:
            listening.close()
        self._end_idle()
        while (left_s := self._back_at - now()) > 0:
            await asyncio.sleep(left_s)
        self._back_at = None
        if not self.should_exit:
            await self.startup([_listen(self.port)])

    def _end_idle(self) -> None:
        """Closes idle connections now, and busy ones behind their answer."""
        for connection in list(self.server_state.connections):
            connection.shutdown()


def transport_of(scope: Scope) -> asyncio.Transport:
    """The connection that a request came by."""
    return cast(asyncio.Transport, scope["extensions"][_EXTENSION]["transport"])


def close_if_idle(transport: asyncio.Transport) -> None:
    """Ends the connection unless a request waits on it for its answer."""
    protocol = transport.get_protocol()
    if not (isinstance(protocol, WireProtocol) and protocol.is_busy):
        transport.close()


def reset(transport: asyncio.Transport) -> None:
    """Ends the connection by an RST, what was not yet sent is lost."""
    # To linger for no time is how the sockets API asks for an RST instead of a FIN.
    linger = struct.pack("ii", 1, 0)
    transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    transport.abort()


async def until_gone(receive: Receive) -> None:
    """Returns when the connection has ended, or after `_HOLD_S` seconds."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_HOLD_S):
            while (await receive())["type"] != "http.disconnect":
                pass


def _listen(port: int) -> socket.socket:
    """A listening socket, named as TCP: asyncio leaves Nagle's algorithm on where the protocol
    number is 0, as `socket.create_server` has it, and each answer then waits 40 ms for an ACK."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", port))
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        raise OSError(error.errno, f"port {port} of 127.0.0.1: {error.strerror}") from None
    return listener
