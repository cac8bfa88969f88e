"""The endpoint of the page, with its order of checks, its bodies and its headers.

key (401), rate limit (429), credits (402), workflow (404), body, model run, bill.
"""

from __future__ import annotations

import asyncio
import json
import random
import re
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from pipeline.sandbox.book import Book
from pipeline.sandbox.faults import FAULTS, find_fault
from pipeline.sandbox.limiter import SlidingWindow
from pipeline.sandbox.prose import count_tokens, find_sources, write_text
from pipeline.sandbox.workflows import Workflow

UNAUTHORIZED = {"error": "Unauthorized. Please provide a valid secret key.", "success": False}
RATE_LIMITED = {"error": "Rate limit exceeded", "success": False}
NO_CREDITS = {
    "error": "No credits remaining. Please add credits to continue using the service.",
    "success": False,
    "code": "invalid_billing",
}
NOT_FOUND = {"error": "Workflow not found", "success": False, "code": "workflow_not_found"}
RUN_FAILED = {
    "error": "Failed to run workflow",
    "success": False,
    "code": "internal_server_error",
}

TOKENS_PER_CREDIT = 100
_LATENCY = re.compile(r"(?:(lognormal):)?([0-9.]+)(ms|s)")


@dataclass(slots=True)
class Sandbox:
    """The state of one server: its workflows, keys, limit, credits and book."""

    book: Book
    workflows: dict[str, Workflow]
    limiter: SlidingWindow
    keys: frozenset[str] = frozenset({"sk_sandbox"})
    credits: int = 10_000_000
    latency_s: Callable[[], float] = lambda: 0.0
    statuses: Counter[str] = field(default_factory=Counter)
    _seen: set[bytes] = field(default_factory=set)

    def app(self) -> Starlette:
        """The ASGI application."""
        return Starlette(
            routes=[
                Route("/api/v1/run/{workflow_id}", self.run, methods=["POST"]),
                Route("/_sandbox/bills", self.bills, methods=["GET"]),
                Route("/_sandbox/bills", self.reset, methods=["DELETE"]),
                Route("/_sandbox/credits", self.set_credits, methods=["PUT"]),
                Route("/_sandbox/workflows", self.publish, methods=["PUT"]),
            ]
        )

    async def run(self, request: Request) -> Response:
        """One run of one workflow."""
        if not self._authorized(request):
            self.statuses["401"] += 1
            return JSONResponse(UNAUTHORIZED, 401)
        remaining = self.limiter.take(time.time())
        body = await request.body()
        workflow_id = request.path_params["workflow_id"]
        digest = self.book.receive(workflow_id, body)
        response = await self._answer(workflow_id, body, digest, remaining)
        self.statuses[str(response.status_code)] += 1
        self.book.answered(digest, str(response.status_code))
        return response

    async def _answer(
        self, workflow_id: str, body: bytes, digest: bytes, remaining: int | None
    ) -> Response:
        if remaining is None:
            return JSONResponse(RATE_LIMITED, 429)
        if self.credits <= 0:
            return JSONResponse(NO_CREDITS, 402)
        workflow = self.workflows.get(workflow_id)
        if workflow is None or not workflow.published:
            return JSONResponse(NOT_FOUND, 404)
        variables = _variables(body)
        if variables is None:
            return JSONResponse(RUN_FAILED, 500)
        await asyncio.sleep(self.latency_s())
        prompt = workflow.render(variables)
        fault = find_fault(prompt)
        first_time = digest not in self._seen
        if fault:
            self._seen.add(digest)
        before = FAULTS[fault].before_bill(first_time) if fault else None
        if before is not None:
            return before
        answer: dict[str, Any] = {"success": True, "result": write_text(prompt)}
        if workflow.web_search:
            answer["citations"] = find_sources(prompt)
        await self._bill(digest, prompt, answer["result"])
        response = JSONResponse(answer, 200, self._headers(remaining))
        return (FAULTS[fault].after_bill(response) if fault else None) or response

    async def _bill(self, digest: bytes, prompt: str, result: str) -> None:
        tokens = count_tokens(prompt) + count_tokens(result)
        credits = max(1, tokens // TOKENS_PER_CREDIT)
        self.credits -= credits
        await self.book.bill(digest, credits, result)

    def _headers(self, remaining: int) -> dict[str, str]:
        return {
            "x-ratelimit-limit": str(self.limiter.limit),
            "x-ratelimit-remaining": str(remaining),
        }

    def _authorized(self, request: Request) -> bool:
        scheme, _, key = request.headers.get("authorization", "").partition(" ")
        return scheme == "Bearer" and key in self.keys

    # -- for rehearsals and tests ---------------------------------------------------------

    async def bills(self, _: Request) -> Response:
        """The book, one entry per body; and how often this process answered with each status."""
        return JSONResponse(
            {
                "credits": self.credits,
                "statuses": self.statuses,
                "bills": await self.book.bills(),
            }
        )

    async def reset(self, _: Request) -> Response:
        """Empties the book."""
        await self.book.reset()
        return Response(status_code=204)

    async def set_credits(self, request: Request) -> Response:
        """Sets the balance to the number in the body."""
        self.credits = int(await request.body())
        return Response(status_code=204)

    async def publish(self, request: Request) -> Response:
        """Adds or replaces one workflow: {"id", "template", "published", "web_search"}."""
        entry = await request.json()
        self.workflows[entry["id"]] = Workflow(
            entry["id"],
            entry["template"],
            entry.get("published", True),
            entry.get("web_search", False),
        )
        return Response(status_code=204)


def parse_latency(text: str) -> Callable[[], float]:
    """`2s`, `50ms`, or `lognormal:20s` (that median, one answer in twenty over five times it).

    Raises:
        ValueError: for anything else.
    """
    found = _LATENCY.fullmatch(text)
    if not found:
        raise ValueError(f"{text!r} is not a latency: write 2s, 50ms or lognormal:20s")
    shape, number, unit = found.groups()
    seconds = float(number) / (1000 if unit == "ms" else 1)
    if shape == "lognormal":
        return lambda: seconds * random.lognormvariate(0.0, 1.0)
    return lambda: seconds


def _variables(body: bytes) -> dict[str, object] | None:
    """The flat map of variables; some servers of this family fail on values that are not text."""
    try:
        fields = json.loads(body)
    except ValueError:
        return None
    if not isinstance(fields, dict) or not all(isinstance(v, str) for v in fields.values()):
        return None
    return fields
