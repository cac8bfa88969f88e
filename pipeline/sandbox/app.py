"""The API's endpoint, with the API's order of checks, its bodies and its headers.

The order: key (401), rate limit (429), credits (402), workflow (404), body, cached answer, model
run, bill.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from starlette.types import Receive, Scope, Send

from pipeline.sandbox.backends import Backend, ModelBusy, ModelFailed
from pipeline.sandbox.book import Bill, Book, BookFailed
from pipeline.sandbox.faults import FAULTS, Answer, Fault, find_fault
from pipeline.sandbox.limiters import Quota, RateLimits
from pipeline.sandbox.replies import (
    EDGE_TIMEOUT,
    NO_CREDITS,
    NOT_FOUND,
    RATE_LIMITED,
    RUN_FAILED,
    UNAUTHORIZED,
    Plain,
    Reply,
    failure,
    quota_headers,
)
from pipeline.sandbox.workflows import Workflow

TOKENS_PER_CREDIT = 100


@dataclass(frozen=True, slots=True)
class Behaviour:
    """The differences between servers of this family, and how long they take.

    `headers`: rate-limit headers come with finished runs only (`success`, as real servers were seen
    to do) or with every response after the limiter (`every`, as the API's page says). `missing`: a
    missing variable becomes the text `undefined`, or the request gets `missing_input` (400).
    `spoilt`: the share of request bodies that each fault meets, by the fault's name.
    """

    headers: Literal["success", "every"] = "success"
    missing: Literal["undefined", "error"] = "undefined"
    latency_s: Callable[[], float] = lambda: 0.0
    max_duration_s: float = 300.0
    spoilt: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Arrived:
    """One request with a valid key. `quota` is the limiter's answer on its arrival, None if the
    limiter denied it."""

    workflow_id: str
    body: bytes
    digest: bytes
    quota: Quota | None


@dataclass(frozen=True, slots=True)
class Outcome:
    """The response to a request, and the bill that is written before it is sent."""

    reply: Reply
    bill: Bill | None = None


@dataclass(slots=True)
class Sandbox:
    """The state of one server. Nothing in it grows with the number of requests."""

    book: Book
    backend: Backend
    limits: RateLimits
    workflows: dict[str, Workflow]
    keys: frozenset[str]
    credits: int
    behaviour: Behaviour = field(default_factory=Behaviour)
    # Refuses connections for this many seconds. The server around this application sets it.
    go_away: Callable[[float], None] = lambda seconds: None
    statuses: Counter[str] = field(default_factory=Counter)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handles one run of one workflow, as an ASGI application below starlette's route."""
        try:
            await self._serve(scope, receive, send)
        except asyncio.CancelledError:
            # Only the end of the server cancels a run, and its connection is closed by then.
            return

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        key = _key(scope)
        # The limiter counts arrivals, so it counts this one before the body is read.
        known = key in self.keys
        quota = self.limits.take(key, time.time_ns() // 1_000_000) if known else None
        if not known:
            # Keep nothing of the request: a client without a key must fill neither book nor memory.
            await _discard(receive)
            self.statuses[UNAUTHORIZED.noted] += 1
            await UNAUTHORIZED(scope, receive, send)
            return
        body = await _read(receive)
        if body is None:
            return
        workflow_id = scope["path_params"]["workflow_id"]
        arrived = Arrived(workflow_id, body, self.book.receive(workflow_id, body), quota)
        try:
            outcome = await self._outcome(arrived)
            await self._settle(arrived.digest, outcome)
        except BookFailed:
            # For example a full disk. A run that is not in the book is not billed, so it failed.
            outcome = Outcome(RUN_FAILED)
        self.statuses[outcome.reply.noted] += 1
        await outcome.reply(scope, receive, send)

    async def _settle(self, digest: bytes, outcome: Outcome) -> None:
        """Writes the response, and the bill if there is one, into the book. The response may be
        sent after that."""
        if outcome.bill is None:
            self.book.answered(digest, outcome.reply.noted)
            return
        await self.book.bill(digest, outcome.bill, outcome.reply.noted)
        self.credits -= outcome.bill.credits

    async def _outcome(self, arrived: Arrived) -> Outcome:
        """Does the checks in their order, and then the run."""
        if arrived.quota is None:
            return self._refused(RATE_LIMITED, Quota(self.limits.limit, 0))
        if self.credits <= 0:
            return self._refused(NO_CREDITS, arrived.quota)
        workflow = self.workflows.get(arrived.workflow_id)
        if workflow is None or not workflow.published:
            return self._refused(NOT_FOUND, arrived.quota)
        variables = _variables(arrived.body)
        if variables is None:
            return self._refused(RUN_FAILED, arrived.quota)
        missing = [name for name in workflow.variables if name not in variables]
        if missing and self.behaviour.missing == "error":
            refusal = failure(400, f"Missing input: {', '.join(missing)}", "missing_input")
            return self._refused(refusal, arrived.quota)
        cached = await self._cached(workflow, arrived.digest)
        return cached or await self._run(workflow, workflow.render(variables), arrived)

    async def _cached(self, workflow: Workflow, digest: bytes) -> Outcome | None:
        if not workflow.cache_s:
            return None
        found = await self.book.find_answer(digest, time.time() - workflow.cache_s)
        return Outcome(Answer(*found, headers=[]).reply()) if found else None

    async def _run(self, workflow: Workflow, prompt: str, arrived: Arrived) -> Outcome:
        assert arrived.quota is not None
        fault = await self._fault(workflow, prompt, arrived)
        try:
            async with asyncio.timeout(self.behaviour.max_duration_s):
                await _wait(self.behaviour.latency_s() + (fault.extra_s if fault else 0.0))
                if fault and fault.instead:
                    fault.beyond(self)
                    return self._refused(fault.instead(), arrived.quota)
                written = await self.backend.write(workflow, prompt)
        except TimeoutError:
            return Outcome(EDGE_TIMEOUT)
        except ModelBusy:
            return self._refused(RATE_LIMITED, arrived.quota)
        except ModelFailed:
            return self._refused(RUN_FAILED, arrived.quota)
        answer = Answer(written.text, written.citations, quota_headers(*arrived.quota))
        reply = fault.spoil(answer) if fault and fault.spoil else answer.reply()
        credits = max(1, written.tokens // TOKENS_PER_CREDIT)
        return Outcome(reply, Bill(credits, written.text, written.citations))

    async def _fault(self, workflow: Workflow, prompt: str, arrived: Arrived) -> Fault | None:
        """Returns the fault that this request meets, or None."""
        name = find_fault(prompt) or workflow.fault or self._drawn(arrived.digest)
        if name is None:
            return None
        fault = FAULTS[name]
        if fault.once and await self.book.count_fault(arrived.digest) > 1:
            return None
        return fault

    def _drawn(self, digest: bytes) -> str | None:
        """Returns the fault that `spoilt` assigns to this body, or None. The digest decides, so it
        is the same each time."""
        point = int.from_bytes(digest[:8], "big") / 2**64
        for name, share in self.behaviour.spoilt.items():
            if point < share:
                return name
            point -= share
        return None

    def _refused(self, reply: Reply, quota: Quota) -> Outcome:
        """Returns a response without a run. A proxy's page never has the API's headers."""
        if self.behaviour.headers == "every" and isinstance(reply, Plain) and reply.is_the_apis:
            reply = reply.with_headers(quota_headers(*quota))
        return Outcome(reply)


def _key(scope: Scope) -> str:
    """Returns the key in the request's headers, or ""."""
    for name, value in scope["headers"]:
        if name == b"authorization":
            scheme, _, key = value.decode("latin-1").partition(" ")
            return key if scheme == "Bearer" else ""
    return ""


async def _read(receive: Receive) -> bytes | None:
    """Returns the whole body, or None if the client disconnected before its end."""
    pieces: list[bytes] = []
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        pieces.append(message.get("body", b""))
        more = message.get("more_body", False)
    return b"".join(pieces)


async def _discard(receive: Receive) -> None:
    """Reads the body to its end, as a client may send all of it before it reads the response."""
    while (await receive()).get("more_body", False):
        pass


async def _wait(seconds: float) -> None:
    if seconds > 0:
        await asyncio.sleep(seconds)


def _variables(body: bytes) -> dict[str, str] | None:
    """Returns the flat map of variables, or None for any other body.

    Values that are not text count as invalid too: some servers of this family fail on them.
    """
    try:
        fields = json.loads(body)
    except (ValueError, RecursionError):
        return None
    if not isinstance(fields, dict) or not all(isinstance(v, str) for v in fields.values()):
        return None
    return fields
