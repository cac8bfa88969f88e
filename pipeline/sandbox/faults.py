"""Faults on demand, reproducible.

Three things cause a fault: `#fault:NAME` in the prompt (from a variable or from the template), a
`fault:` of the workflow in the account's file, and the server's `--spoil`, which picks a share of
the request bodies by their digest. So the same bodies meet the same faults each time.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from pipeline.sandbox.bulk import GZIP_BOMB, HUGE_BODY, dripped
from pipeline.sandbox.replies import (
    JSON_TYPE,
    NO_CREDITS,
    RATE_LIMITED,
    RUN_FAILED,
    UNAUTHORIZED,
    Broken,
    Headers,
    Plain,
    Reply,
    ThenClosed,
    as_json,
    edge_page,
    failure,
    json_reply,
)

_MARKER = re.compile(r"#fault:([a-z0-9-]+)")

# Long enough for a client to use the connection again, short enough for a test.
_IDLE_S = 0.05
_AWAY_S = 1.0
_SLOW_S = 2.0
_LARGE_RESULT = 5_000_000
_MANY_CITATIONS = 10_000


class Surroundings(Protocol):
    """The parts of the server that a fault may change, apart from its own response."""

    credits: int

    def go_away(self, seconds: float) -> None:
        """Refuses connections for `seconds`."""
        ...


@dataclass(frozen=True, slots=True)
class Answer:
    """A finished and billed run before a fault spoils it: its fields and rate-limit headers."""

    result: str
    citations: list[str] | None
    headers: Headers

    def reply(self, **spoilt: object) -> Plain:
        """Returns the API's success response, with the fields in `spoilt` replaced."""
        fields: dict[str, object] = {"success": True, "result": self.result}
        if self.citations is not None:
            fields["citations"] = self.citations
        return json_reply(200, fields | spoilt).with_headers(self.headers)


def _prose(answer: Answer) -> Reply:
    return answer.reply(result="I found more than one answer.")


@dataclass(frozen=True, slots=True)
class Fault:
    """What goes wrong with one request. `what` describes it to the user.

    `instead` responds in place of the run, which is then not billed. `spoil` changes the answer of
    a run that was billed. With `once` the fault meets a body only the first time; later requests
    with that body run normally. `extra_s` delays the run. `beyond` also changes the server.
    """

    what: str
    instead: Callable[[], Reply] | None = None
    spoil: Callable[[Answer], Reply] | None = None
    once: bool = False
    extra_s: float = 0.0
    beyond: Callable[[Surroundings], None] = lambda around: None

    @property
    def billed(self) -> bool:
        """Whether a request that meets this fault is billed."""
        return self.instead is None and self.extra_s < math.inf


def _cut(answer: Answer) -> Reply:
    data = answer.reply().as_bytes()
    return Broken(data[: len(data) - len(answer.reply().body) // 2], "close", "cut")


def _cut_chunked(answer: Answer) -> Reply:
    body = answer.reply().body
    head = (
        b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n"
    )
    return Broken(head + b"%x\r\n%s\r\n" % (len(body), body), "close", "cut")


def _announced(answer: Answer, more: int, then: str) -> Reply:
    reply = answer.reply()
    return Broken(reply.as_bytes(len(reply.body) + more), then, "wrong-length")


def _headers(*values: object) -> Callable[[Answer], Reply]:
    names = (b"x-ratelimit-limit", b"x-ratelimit-remaining")
    headers = [(name, str(value).encode()) for name, value in zip(names, values, strict=False)]
    return lambda answer: Answer(answer.result, answer.citations, headers).reply()


def _field(**spoilt: object) -> Callable[[Answer], Reply]:
    return lambda answer: answer.reply(**spoilt)


def _citations(citations: object) -> Callable[[Answer], Reply]:
    return _field(citations=citations)


def _encoded(answer: Answer) -> Reply:
    return answer.reply(result=as_json({"text": answer.result}).decode())


def _page(status: int) -> Callable[[], Reply]:
    return lambda: edge_page(status)


def _redirect(status: int) -> Callable[[], Reply]:
    # A client that follows the redirect shows up in the book, as a request for this workflow.
    location = (b"location", b"/api/v1/run/wf_redirected")
    return lambda: Plain(status, b"", [location])


def _no_credits(around: Surroundings) -> None:
    around.credits = 0


def _restart(around: Surroundings) -> None:
    around.go_away(_AWAY_S)


_URLS = ["https://example.com/a", "https://example.org/b?c=d"]
_HUGE = 10**30

FAULTS: dict[str, Fault] = {
    # The API reports an error.
    "json-500": Fault("500 in the API's JSON, each time", lambda: RUN_FAILED),
    "json-500-once": Fault(
        "500 in the API's JSON, the first time only", lambda: RUN_FAILED, once=True
    ),
    "run-failed": Fault(
        "500 with the code workflow_run_failed",
        lambda: failure(500, "Workflow run failed", "workflow_run_failed"),
    ),
    "blocked": Fault(
        "400 with the code request_blocked",
        lambda: failure(400, "Request blocked", "request_blocked"),
    ),
    "success-false": Fault(
        "200 with success: false, billed",
        spoil=lambda _: failure(200, "The run failed"),
    ),
    "unauthorized-once": Fault(
        "401 in the middle of a run, the first time only", lambda: UNAUTHORIZED, once=True
    ),
    "rate-limited-once": Fault(
        "429 although the limit is not reached, the first time only",
        lambda: RATE_LIMITED,
        once=True,
    ),
    "credits-out": Fault(
        "402, and no credits are left for any request until PUT /_sandbox/credits;"
        " the first time only",
        lambda: NO_CREDITS,
        once=True,
        beyond=_no_credits,
    ),
    "spend-limit": Fault(
        "402 with the code spend_limit_reached",
        lambda: failure(402, "Spend limit reached", "spend_limit_reached"),
    ),
    # A proxy or the platform responds in its place.
    "html-408": Fault("a proxy's 408 page, not billed", _page(408)),
    "html-413": Fault("a proxy's 413 page, not billed", _page(413)),
    "html-499": Fault("a proxy's 499 page, not billed", _page(499)),
    "html-502": Fault("a proxy's 502 page, not billed", _page(502)),
    "html-503": Fault("a proxy's 503 page, not billed", _page(503)),
    "html-504": Fault("a proxy's 504 page, not billed", _page(504)),
    "html-502-billed": Fault("a proxy's 502 page, billed", spoil=lambda _: edge_page(502)),
    "html-504-billed": Fault("a proxy's 504 page, billed", spoil=lambda _: edge_page(504)),
    "redirect": Fault("307 to another address, not billed", _redirect(307)),
    "redirect-301": Fault("301 to another address, not billed", _redirect(301)),
    "redirect-302": Fault("302 to another address, not billed", _redirect(302)),
    "redirect-308": Fault("308 to another address, not billed", _redirect(308)),
    # The connection fails.
    "restart": Fault(
        "the connection is reset, then the server refuses connections for 1 s;"
        " the first time only, not billed",
        lambda: Broken(b"", "reset", "reset"),
        once=True,
        beyond=_restart,
    ),
    "reset": Fault("the connection is reset, not billed", lambda: Broken(b"", "reset", "reset")),
    "reset-billed": Fault(
        "the connection is reset, billed", spoil=lambda _: Broken(b"", "reset", "reset")
    ),
    "hang-up": Fault(
        "the connection is closed without a response, not billed",
        lambda: Broken(b"", "close", "hang-up"),
    ),
    "hang-up-billed": Fault(
        "the connection is closed without a response, billed",
        spoil=lambda _: Broken(b"", "close", "hang-up"),
    ),
    "cut-headers": Fault(
        "the connection is closed in the middle of the headers, billed",
        spoil=lambda _: Broken(b"HTTP/1.1 200 OK\r\ncontent-ty", "close", "cut"),
    ),
    "cut-body": Fault("the connection is closed after half of the body, billed", spoil=_cut),
    "cut-chunked": Fault("a chunked body without its last chunk, billed", spoil=_cut_chunked),
    "length-too-long": Fault(
        "content-length says 100 bytes more than are sent, then silence; billed",
        spoil=lambda answer: _announced(answer, 100, "hold"),
    ),
    "length-too-short": Fault(
        "content-length says 10 bytes fewer than are sent, billed",
        spoil=lambda answer: _announced(answer, -10, "close"),
    ),
    "idle-close": Fault(
        "a good answer; 50 ms later the idle connection is closed",
        spoil=lambda answer: ThenClosed(answer.reply(), _IDLE_S),
    ),
    # Time.
    "slow": Fault("a good answer, 2 s later than usual", extra_s=_SLOW_S),
    "hang": Fault(
        "silence until --max-duration, then a proxy's 504 page; not billed", extra_s=math.inf
    ),
    "silent-billed": Fault(
        "silence, and the connection stays open; billed",
        spoil=lambda _: Broken(b"", "hold", "silent"),
    ),
    "slow-drip": Fault(
        "a good answer, one byte every 100 ms", spoil=lambda answer: dripped(answer.reply())
    ),
    # Bodies.
    "empty-body": Fault(
        "200 with an empty body, billed", spoil=lambda _: Plain(200, b"", [JSON_TYPE])
    ),
    "not-json": Fault(
        "200 with a body that is not JSON, billed", spoil=lambda _: Plain(200, b"ok", [])
    ),
    "no-result": Fault(
        "200 without `result`, billed", spoil=lambda _: json_reply(200, {"success": True})
    ),
    "result-prose": Fault("`result` is a sentence, also if answers are JSON", spoil=_prose),
    "result-prose-once": Fault(
        "`result` is a sentence, the first time only", spoil=_prose, once=True
    ),
    "result-number": Fault("`result` is a number", spoil=_field(result=42)),
    "result-object": Fault("`result` is an object", spoil=_field(result={"text": "as object"})),
    "result-list": Fault("`result` is a list", spoil=_field(result=["a", "b"])),
    "result-null": Fault("`result` is null", spoil=_field(result=None)),
    "result-empty": Fault("`result` is an empty text", spoil=_field(result="")),
    "result-surrogate": Fault(
        "`result` contains half of a surrogate pair", spoil=_field(result="a\ud83d")
    ),
    "result-encoded": Fault("`result` is JSON text with the answer in it", spoil=_encoded),
    "result-5mb": Fault(
        "`result` has 5,000,000 characters",
        spoil=lambda answer: answer.reply(result="x" * _LARGE_RESULT),
    ),
    "extra-fields": Fault(
        "fields that the API does not document", spoil=_field(usage={"tokens": 7}, run_id="run_1")
    ),
    "citations-urls": Fault("`citations` as the API documents them", spoil=_citations(_URLS)),
    "citations-objects": Fault(
        "`citations` is a list of objects with title and url",
        spoil=_citations([{"title": f"Source {url[-1]}", "url": url} for url in _URLS]),
    ),
    "citations-null": Fault("`citations` is null", spoil=_citations(None)),
    "citations-garbage": Fault(
        "`citations` is a list of values that are no citations",
        spoil=_citations([7, None, "", {"href": "x"}, ["y"], True]),
    ),
    "citations-text": Fault("`citations` is a text", spoil=_citations("see example.com")),
    "citations-10000": Fault(
        "`citations` has 10,000 entries",
        spoil=_citations([f"https://example.com/{n}" for n in range(_MANY_CITATIONS)]),
    ),
    "gzip-bomb": Fault("a gzip body that unpacks to 1 GiB", spoil=lambda _: GZIP_BOMB),
    "body-1gb": Fault("a body of 1 GiB", spoil=lambda _: HUGE_BODY),
    # Headers.
    "headers-missing": Fault("a good answer without rate-limit headers", spoil=_headers()),
    "headers-zero": Fault(
        "rate-limit headers 0 and 0, as when the limiter's store is down", spoil=_headers(0, 0)
    ),
    "headers-negative": Fault("negative rate-limit headers", spoil=_headers(-50, -1)),
    "headers-huge": Fault("rate-limit headers beyond 64 bits", spoil=_headers(_HUGE, _HUGE - 1)),
    "headers-bad": Fault("rate-limit headers that are not numbers", spoil=_headers("many", "NaN")),
}


def find_fault(text: str) -> str | None:
    """Returns the name of the known fault that `text` asks for, or None."""
    found = _MARKER.search(text)
    return found[1] if found and found[1] in FAULTS else None
