"""Faults on demand: a variable that holds `#fault:NAME` gets that fault, every time alike."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from starlette.responses import JSONResponse, Response

_MARKER = re.compile(r"#fault:([a-z0-9-]+)")


@dataclass(frozen=True, slots=True)
class Fault:
    """What goes wrong. `before_bill` answers instead of the run (None: the run goes on);
    `after_bill` spoils the answer of a run that was billed."""

    what: str
    before_bill: Callable[[bool], Response | None] = lambda first_time: None
    after_bill: Callable[[Response], Response | None] = lambda response: None


def _run_failed() -> Response:
    return JSONResponse(
        {"error": "Failed to run workflow", "success": False, "code": "internal_server_error"}, 500
    )


def _page(status: int) -> Response:
    return Response(f"<html><h1>{status}</h1></html>", status, media_type="text/html")


FAULTS = {
    "json-500": Fault("500 with the API's JSON, always", lambda _: _run_failed()),
    "json-500-once": Fault(
        "500 with the API's JSON the first time that the body comes",
        lambda first_time: _run_failed() if first_time else None,
    ),
    "html-502": Fault("a proxy's 502 page, nothing billed", lambda _: _page(502)),
    "html-504-billed": Fault("a proxy's 504 page after the bill", after_bill=lambda _: _page(504)),
    "blocked": Fault(
        "400 with the code request_blocked",
        lambda _: JSONResponse(
            {"error": "Request blocked", "success": False, "code": "request_blocked"}, 400
        ),
    ),
    "success-false": Fault(
        "200 with success: false, after the bill",
        after_bill=lambda _: JSONResponse({"error": "The run failed", "success": False}),
    ),
    "not-json": Fault("200 that is not JSON, after the bill", after_bill=lambda _: Response("ok")),
    "no-result": Fault(
        "200 without a result, after the bill", after_bill=lambda _: JSONResponse({"success": True})
    ),
    "redirect": Fault(
        "307 to another host", lambda _: Response(status_code=307, headers={"location": "/other"})
    ),
}


def find_fault(text: str) -> str | None:
    """The name of the fault that `text` asks for, if it is a known one."""
    found = _MARKER.search(text)
    return found[1] if found and found[1] in FAULTS else None
