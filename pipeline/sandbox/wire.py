"""The connection below HTTP: for faults that HTTP cannot express, and for a server that is down.

ASGI hides the connection from an application. Its `extensions` are for features beyond the
standard, so a subclass of uvicorn's protocol class adds the transport there and changes nothing
else of it; `uvicorn.Config(http=...)` accepts such a class.
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

# How long a spoilt connection stays open if the client does not close it: the maximum duration that
# the API's page gives.
_HOLD_S = 300.0

# How long Ctrl-C waits for runs in flight. A user at a terminal does not wait longer.
_LAST_WAIT_S = 1.0

# A client that opens a thousand connections at once must not meet a full backlog.
_BACKLOG = 4096


class WireProtocol(HttpToolsProtocol):
    """uvicorn's HTTP/1.1 on httptools, with the transport in the scope's extensions.

    It closes connections of other users of this machine, because the key `sk_sandbox` is public. It
    also closes connections of clients that left before the kernel could name their user.
    """

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        # One check is enough: no byte was read yet, and a connection keeps its user.
        if may_be_another_users(transport.get_extra_info("socket")):
            transport.abort()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope["extensions"] = {_EXTENSION: {"transport": self.transport}}

    @property
    def is_busy(self) -> bool:
        """Whether a request on this connection waits for its response."""
        return self.cycle is not None and not self.cycle.response_complete


class Server(uvicorn.Server):
    """A uvicorn server on 127.0.0.1 that can refuse connections for a while.

    Raises:
        OSError: when the port is in use.
    """

    def __init__(self, config: uvicorn.Config, port: int) -> None:
        super().__init__(config)
        kernel_tells()  # test it now: later another user could have used up all sockets
        self._listener = _listen(port)
        self.port: int = self._listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._back_at: float | None = None

    async def run_here(self) -> None:
        """Serves until `should_exit`."""
        await self.serve([self._listener])

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Waits one second for the runs in flight, and then ends them.

        Some of them hang because of a fault. uvicorn alone would wait for those, or end each with a
        traceback.
        """
        self._end_idle()
        if self.server_state.tasks and not self.force_exit:
            await asyncio.wait(self.server_state.tasks, timeout=_LAST_WAIT_S)
        for connection in list(self.server_state.connections):
            if isinstance(connection, WireProtocol) and connection.is_busy:
                connection.transport.abort()
        # Connections see their end in the next turn of the loop. Cancel the runs only after it.
        await asyncio.sleep(0)
        for run in self.server_state.tasks:
            run.cancel()
        await super().shutdown(sockets)

    async def go_away(self, seconds: float) -> None:
        """Refuses connections for `seconds`, as a server that restarts. Closes idle ones now.

        Requests in flight are still answered. A second call during that time can only extend it.
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
        """Closes idle connections now, and busy ones after their response."""
        for connection in list(self.server_state.connections):
            connection.shutdown()


def transport_of(scope: Scope) -> asyncio.Transport:
    """Returns the connection of a request."""
    return cast(asyncio.Transport, scope["extensions"][_EXTENSION]["transport"])


def close_if_idle(transport: asyncio.Transport) -> None:
    """Closes the connection unless a request on it waits for its response."""
    protocol = transport.get_protocol()
    if not (isinstance(protocol, WireProtocol) and protocol.is_busy):
        transport.close()


def reset(transport: asyncio.Transport) -> None:
    """Ends the connection with an RST. Bytes that were not sent yet are lost."""
    # A linger time of 0 makes the kernel send an RST instead of a FIN.
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
    """Returns a listening socket whose protocol is TCP by number.

    `socket.create_server` leaves the number at 0. asyncio then keeps Nagle's algorithm on, and each
    response waits 40 ms for an ACK.
    """
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", port))
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        raise OSError(error.errno, f"port {port} of 127.0.0.1: {error.strerror}") from None
    return listener
