"""Decides which clients may use the sandbox: programs of this machine, and for `/_sandbox` only
those with the token.

A web page can send requests to 127.0.0.1, with its own name in `Origin`, or with a host name in
`Host` that it made point there. The guard refuses both, for the endpoint and for `/_sandbox`.
"""

from __future__ import annotations

import hmac

from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

_HOSTS = (b"127.0.0.1", b"localhost")


class Guard:
    """An ASGI application that passes only allowed requests to `app`.

    Calls below `/_sandbox` need `token`, unless it is None.
    """

    def __init__(self, app: ASGIApp, token: str | None) -> None:
        self._app = app
        self._token = None if token is None else token.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        problem = self._problem(scope)
        if problem is None:
            return await self._app(scope, receive, send)
        status, words = problem
        return await PlainTextResponse(f"{words}\n", status)(scope, receive, send)

    def _problem(self, scope: Scope) -> tuple[int, str] | None:
        host = shown = b""
        for name, value in scope["headers"]:
            if name == b"host":
                host = value
            elif name == b"origin":
                return 403, "The sandbox refuses requests from web pages, which send `Origin`."
            elif name == b"authorization":
                shown = value.removeprefix(b"Bearer ")
        if host.partition(b":")[0].lower() not in _HOSTS:
            return 403, "The sandbox only serves the hosts 127.0.0.1 and localhost."
        if self._token is None or not scope["path"].startswith("/_sandbox"):
            return None
        if hmac.compare_digest(shown, self._token):
            return None
        return 401, "This needs the sandbox's token. Send `Authorization: Bearer TOKEN`."
