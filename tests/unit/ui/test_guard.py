"""The guard of the page, request by request. tests/promises/test_page.py has it on a socket."""

from __future__ import annotations

import asyncio

import httpx
import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from pipeline.ui.guard import POLICY, Guard

PORT = 8123
BASE = f"http://127.0.0.1:{PORT}"


class Client:
    """Sends requests to a guard without a socket, with the cookies that it got."""

    def __init__(self, guard: Guard) -> None:
        self._guard = guard
        self._cookies = httpx.Cookies()

    def get(self, path: str, **options: object) -> httpx.Response:
        return asyncio.run(self._send("GET", path, options))

    def post(self, path: str, **options: object) -> httpx.Response:
        return asyncio.run(self._send("POST", path, options))

    async def _send(self, method: str, path: str, options: dict) -> httpx.Response:
        transport = httpx.ASGITransport(self._guard)
        async with httpx.AsyncClient(
            transport=transport, base_url=BASE, cookies=self._cookies
        ) as client:
            answer = await client.request(method, path, **options)
            self._cookies.update(client.cookies)
            return answer


@pytest.fixture
def guard() -> Guard:
    def said(request: object) -> PlainTextResponse:
        return PlainTextResponse("inside")

    return Guard(Starlette(routes=[Route("/", said, methods=["GET", "POST"])]), PORT)


@pytest.fixture
def client(guard: Guard) -> Client:
    client = Client(guard)
    client.get(f"/?token={guard.token}")
    return client


def test_the_token_becomes_a_cookie_that_scripts_and_other_sites_do_not_get(guard: Guard):
    answer = Client(guard).get(f"/?token={guard.token}")
    assert (answer.status_code, answer.headers["location"]) == (303, "/")
    cookie = answer.headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=strict" in cookie
    assert guard.token.lower() not in cookie


def test_the_cookie_opens_the_page(client: Client):
    assert client.get("/").text == "inside"
    assert client.post("/", headers={"origin": BASE}).text == "inside"


@pytest.mark.parametrize("token", ["", "x", "\xe9", "a&token=b"])
def test_another_token_opens_nothing(guard: Guard, token: str):
    client = Client(guard)
    assert client.get("/", params={"token": token}).status_code == 403


@pytest.mark.parametrize(
    "headers",
    [
        {"host": "evil.example"},
        {"host": f"evil.example:{PORT}"},
        {"host": f"127.0.0.1.evil.example:{PORT}"},
        {"host": "127.0.0.1"},
        {"host": f"127.0.0.1:{PORT + 1}"},
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"origin": f"https://127.0.0.1:{PORT}"},
        {"origin": f"http://localhost:{PORT}"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
    ],
)
def test_a_request_of_another_site_is_refused_with_the_cookie_too(client: Client, headers):
    assert client.get("/", headers=headers).status_code == 403
    assert client.post("/", headers={"origin": BASE} | headers).status_code == 403


def test_a_form_without_its_origin_is_refused(client: Client):
    assert client.post("/").status_code == 403


def test_every_answer_has_the_policy(client: Client, guard: Guard):
    stranger = Client(guard)
    for answer in (client.get("/"), client.get("/none"), stranger.get("/"), client.post("/")):
        assert answer.headers["content-security-policy"] == POLICY
        assert answer.headers["cache-control"] == "no-store"
    assert "unsafe" not in POLICY
