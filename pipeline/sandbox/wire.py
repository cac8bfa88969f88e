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

_EXTENSION = "pipeline.sandbox.transport"

# How long a connection that was spoilt is kept for a client that does not hang up.
HOLD_S = 60.0

# A client that shows up in a thousand connections at once must not meet a full backlog.
_BACKLOG = 4096


class WireProtocol(HttpToolsProtocol):
    """uvicorn's HTTP/1.1 on httptools, with the transport in the scope's extensions."""

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope["extensions"] = {_EXTENSION: {"transport": self.transport}}


class Server(uvicorn.Server):
    """A uvicorn server on 127.0.0.1 that can be away for a while.

    Raises:
        OSError: when the port is taken.
    """

    def __init__(self, config: uvicorn.Config, port: int) -> None:
        super().__init__(config)
        self._listener = _listen(port)
        self.port: int = self._listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"

    async def run_here(self) -> None:
        """Serves until `should_exit`."""
        await self.serve([self._listener])

    async def go_away(self, seconds: float) -> None:
        """Refuses connections for so long, as a server that is restarted; idle ones end now."""
        for listening in self.servers:
            listening.close()
        for connection in list(self.server_state.connections):
            connection.shutdown()
        await asyncio.sleep(seconds)
        if not self.should_exit:
            await self.startup([_listen(self.port)])


def transport_of(scope: Scope) -> asyncio.Transport:
    """The connection that a request came by."""
    return cast(asyncio.Transport, scope["extensions"][_EXTENSION]["transport"])


def reset(transport: asyncio.Transport) -> None:
    """Ends the connection by an RST, what was not yet sent is lost."""
    # To linger for no time is how the sockets API asks for an RST instead of a FIN.
    linger = struct.pack("ii", 1, 0)
    transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    transport.abort()


async def until_gone(receive: Receive) -> None:
    """Returns when the connection has ended, or after `HOLD_S` seconds."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(HOLD_S):
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
