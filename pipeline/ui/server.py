"""Serves the page on loopback until Ctrl-C."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable
from pathlib import Path

import uvicorn

from pipeline.core.errors import Refused
from pipeline.ui.app import Page
from pipeline.ui.markup import local

_HOST = "127.0.0.1"
_LEAVES_WITHIN_S = 1


def serve(root: Path, port: int, started: Callable[[str], None], at: str | None = None) -> None:
    """Serves the jobs below `root` until the process is interrupted. Calls `started` with the
    address to open, which has the secret token. `at` is the job or the sheet to begin with. Port 0
    is a free port.

    Raises:
        Refused: if the port is in use.
    """
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((_HOST, port))
        except OSError as error:
            raise Refused(
                f"The page cannot use port {port} ({error.strerror}). Choose another --port, or "
                "leave it out for a free one."
            ) from None
        number = int(listener.getsockname()[1])
        page = Page(root, lambda: server.should_exit, at)
        guarded = page.guarded(number)
        server = _Server(
            lambda: started(f"http://{_HOST}:{number}{local('/', token=guarded.token).text}"),
            uvicorn.Config(
                guarded,
                lifespan="off",
                proxy_headers=False,
                access_log=False,
                log_level="warning",
                server_header=False,
                timeout_graceful_shutdown=_LEAVES_WITHIN_S,
            ),
        )
        listener.listen()
        # At Ctrl-C uvicorn ends gracefully and then raises KeyboardInterrupt, as Python would.
        with contextlib.suppress(KeyboardInterrupt):
            server.run([listener])


class _Server(uvicorn.Server):
    """Calls `ready` once it handles Ctrl-C itself, because a user may press it as soon as the
    address is there."""

    def __init__(self, ready: Callable[[], None], config: uvicorn.Config) -> None:
        super().__init__(config)
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        await asyncio.to_thread(self._ready)  # a browser may take its time to open
