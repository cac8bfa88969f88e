"""Decides which requests reach the page: those of the browser that opened the printed address.

Other sites can send requests to 127.0.0.1 too, with their name in `Origin`, with a form, or under a
host name that they made point there. Other users of this machine can connect as well. So a request
needs the right host, its own origin, and the cookie that only the printed token gives.
"""

from __future__ import annotations

import hmac
import secrets
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qs

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse, RedirectResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
"""No inline script or style, nothing from elsewhere, and no frame around the page."""

_HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    # Without a referrer to the page itself, a browser sends its own forms with the origin "null".
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}
_READ_ONLY = ("GET", "HEAD")
_OWN_SITE = ("same-origin", "none")  # none: the user typed or opened the address
_TOKEN_BYTES = 32


class Guard:
    """An ASGI application that passes only allowed requests to `app`.

    `token` is the secret of the printed address. It gives a cookie with another secret, which
    scripts cannot read and other sites' requests do not carry.
    """

    def __init__(self, app: ASGIApp, port: int) -> None:
        self.token = secrets.token_urlsafe(_TOKEN_BYTES)
        self._session = secrets.token_urlsafe(_TOKEN_BYTES)
        self._app = app
        self._cookie = f"pipeline_{port}"  # a browser sends the cookies of all ports of a host
        self._hosts = (f"127.0.0.1:{port}", f"localhost:{port}")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        headers = Headers(scope=scope)

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                sent = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    sent.setdefault(name, value)
            await send(message)

        await self._answer(scope, headers)(scope, receive, with_headers)

    def _answer(self, scope: Scope, headers: Headers) -> ASGIApp:
        problem = self._problem(scope["method"], headers)
        if problem is not None:
            return PlainTextResponse(f"{problem}\n", 403)
        given = parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])[0]
        if scope["method"] == "GET" and _same(given, self.token):
            return self._with_cookie()
        if not _same(self._shown(headers), self._session):
            return PlainTextResponse("Open the address that `pipeline ui` printed.\n", 403)
        return self._app

    def _problem(self, method: str, headers: Headers) -> str | None:
        host = headers.get("host", "")
        if len(headers.getlist("host")) != 1 or host not in self._hosts:
            return "The page only serves the address that `pipeline ui` printed."
        origin = headers.get("origin")
        if origin != f"http://{host}" and (origin is not None or method not in _READ_ONLY):
            return "The page refuses requests from other sites."
        if headers.get("sec-fetch-site", "none") not in _OWN_SITE:
            return "The page refuses requests from other sites."
        return None

    def _with_cookie(self) -> RedirectResponse:
        answer = RedirectResponse("/", 303)
        answer.set_cookie(self._cookie, self._session, httponly=True, samesite="strict")
        return answer

    def _shown(self, headers: Headers) -> str:
        try:
            found = SimpleCookie(headers.get("cookie", "")).get(self._cookie)
        except CookieError:
            return ""
        return "" if found is None else found.value


def _same(shown: str, secret: str) -> bool:
    return hmac.compare_digest(shown.encode(), secret.encode())
