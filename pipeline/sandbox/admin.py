"""The calls below `/_sandbox`, with which rehearsals and tests inspect and change the server."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp

from pipeline.sandbox.account import read_workflow
from pipeline.sandbox.app import Sandbox
from pipeline.sandbox.durations import parse_seconds
from pipeline.sandbox.guard import Guard

# Entries of the book that are turned into JSON before the server handles other requests.
_ENTRIES_AT_ONCE = 200


def application(sandbox: Sandbox, token: str | None = None) -> ASGIApp:
    """Returns the whole server: the API's endpoint, and the calls below `/_sandbox`, which need
    `token` unless it is None."""
    admin = Admin(sandbox)
    calls = [
        ("bills", "GET", admin.bills),
        ("bills", "DELETE", admin.reset),
        ("credits", "PUT", admin.set_credits),
        ("keys", "PUT", admin.set_keys),
        ("limit", "PUT", admin.set_limit),
        ("workflows", "PUT", admin.publish),
        ("away", "PUT", admin.go_away),
    ]
    routes = [Route("/api/v1/run/{workflow_id}", sandbox, methods=["POST"])]
    for what, method, call in calls:
        routes.append(Route(f"/_sandbox/{what}", _refusing(call), methods=[method]))
    return Guard(Starlette(routes=routes), token)


class Admin:
    """The calls below `/_sandbox`. An invalid body changes nothing and gets a 400 that says what is
    wrong with it."""

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox

    async def bills(self, request: Request) -> Response:
        """Returns the book (one entry per body, and totals), the balance, and how often this
        process responded with each status. `?entries=no` leaves the entries out."""
        head = {
            "credits": self._sandbox.credits,
            "statuses": self._sandbox.statuses,
            "totals": await self._sandbox.book.totals(),
        }
        if request.query_params.get("entries") == "no":
            return JSONResponse(head)
        pieces = _streamed(head, self._sandbox.book.entries())
        return StreamingResponse(pieces, media_type="application/json")

    async def reset(self, _: Request) -> Response:
        """Empties the book. The counts of statuses continue."""
        await self._sandbox.book.reset()
        return Response(status_code=204)

    async def set_credits(self, request: Request) -> Response:
        """Sets the balance to the number in the body."""
        self._sandbox.credits = int(await request.body())
        return Response(status_code=204)

    async def set_keys(self, request: Request) -> Response:
        """Sets the valid keys to the list of texts in the body."""
        keys = await request.json()
        if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
            raise ValueError('Send a list of keys, such as ["sk_sandbox"].')
        self._sandbox.keys = frozenset(keys)
        return Response(status_code=204)

    async def set_limit(self, request: Request) -> Response:
        """Changes the limiter. A number is the new limit. An object may have `limit`, `window`
        (such as "10s"), `limiter` (its kind) and `store` ("down" for an outage, or "up").

        A new window or kind forgets which requests were counted; a new limit does not.
        """
        fields = await request.json()
        if isinstance(fields, int):
            fields = {"limit": fields}
        _change_limits(self._sandbox, fields)
        return Response(status_code=204)

    async def publish(self, request: Request) -> Response:
        """Adds or replaces one workflow. The body has its `id` and the fields of the file."""
        fields = await request.json()
        workflow_id = str(fields.pop("id"))
        self._sandbox.workflows[workflow_id] = read_workflow(workflow_id, fields)
        return Response(status_code=204)

    async def go_away(self, request: Request) -> Response:
        """Refuses connections from now on, for the time in the body, such as `2s`."""
        seconds = parse_seconds((await request.body()).decode())
        self._sandbox.go_away(seconds)
        return Response(status_code=204)


def _change_limits(sandbox: Sandbox, fields: dict[str, Any]) -> None:
    unknown = set(fields) - {"limit", "window", "limiter", "store"}
    if unknown:
        raise ValueError(
            f"There is no {', '.join(unknown)}. Write limit, window, limiter or store."
        )
    limits = sandbox.limits
    limit = int(fields.get("limit", limits.limit))
    if "window" in fields or "limiter" in fields:
        window_ms = limits.window_ms
        if "window" in fields:
            window_ms = round(parse_seconds(fields["window"]) * 1000)
        limits.set(fields.get("limiter", limits.kind), limit, window_ms)
    else:
        limits.set_limit(limit)
    if "store" in fields:
        limits.store_down = fields["store"] == "down"


def _refusing(
    call: Callable[[Request], Awaitable[Response]],
) -> Callable[[Request], Awaitable[Response]]:
    async def refusing(request: Request) -> Response:
        try:
            return await call(request)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise HTTPException(400, f"{request.url.path}: {error}") from None

    return refusing


async def _streamed(head: dict[str, Any], entries: Iterator[dict[str, Any]]) -> AsyncIterator[str]:
    """Yields the response of `bills` piece by piece: the book may not fit into memory."""
    yield json.dumps(head)[:-1] + ', "bills": ['
    comma = ""
    for number, entry in enumerate(entries):
        yield comma + json.dumps(entry)
        comma = ",\n"
        if number % _ENTRIES_AT_ONCE == 0:
            await asyncio.sleep(0)
    yield "]}"
