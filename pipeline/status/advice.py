"""What each error code means, and what helps: an edit, or sending the row again. Pure."""

from __future__ import annotations

from pipeline.core.model import ErrorCode, State

_ADVICE: dict[str, str] = {
    ErrorCode.NOT_SENT: "the API could not be reached; nothing was sent. Check the network",
    ErrorCode.RATE_LIMITED: "turned away by the rate limit; nothing was paid",
    ErrorCode.UNAUTHORIZED: "the key was not accepted; nothing was paid. Check the key",
    ErrorCode.INVALID_BILLING: "the account has no credits left; nothing was paid. Top it up",
    "spend_limit_reached": "the account's spending limit; nothing was paid. Raise it",
    ErrorCode.WORKFLOW_NOT_FOUND: "no such workflow, or it is not published; nothing was paid",
    ErrorCode.INTERNAL_SERVER_ERROR: "the run failed on the server, retries included; often passes",
    ErrorCode.RUN_FAILED: "the server says that the run failed; it may have been paid. The answer "
    "is kept: `report --bodies DIR` writes it",
    "workflow_run_failed": "the run failed on the server",
    "missing_input": "a variable of the workflow's template is missing; nothing was paid. "
    "Correct `variables:` in the spec, then run",
    "request_blocked": "the server refuses this text; nothing was paid. Edit the cells, then run",
    ErrorCode.GATEWAY: "a proxy answered for the API; the run may have gone on and been paid",
    ErrorCode.TIMEOUT: "no answer in time; the run may have gone on and been paid",
    ErrorCode.DISCONNECTED: "the connection was lost after sending; it may have been paid",
    ErrorCode.BAD_RESPONSE: "a success that cannot be read; it was probably paid. The answer "
    "is kept: after an upgrade, `settle --reread` reads it again",
    ErrorCode.TOO_LARGE: "an answer of over 64 MiB; it was probably paid",
    ErrorCode.INTERRUPTED: "the runner ended before the answer came; it may have been paid",
    ErrorCode.TLS: "the server's certificate was not accepted; nothing was sent",
    ErrorCode.REDIRECT: "the server redirects, which is never followed. Check the address",
    "http_404": "nothing is served at this address. Check --base-url and AITUTOR_BASE_URL",
}

_CELLS = "edit the cells that were refused"
_EDITS: dict[str, str] = {
    "request_blocked": _CELLS,
    "missing_input": "correct `variables:` in the spec",
    # The server refuses what was sent, whoever answers for it: a bad request, one that is too
    # large, one that it cannot process.
    **dict.fromkeys(("http_400", "http_413", "http_414", "http_422", "http_431"), _CELLS),
}


def edit_first(code: str | None) -> str | None:
    """What to edit before a row with `code` can end otherwise; None where the same request may do
    better."""
    return _EDITS.get(code) if code else None


def advise(state: State, code: str) -> str:
    """What to know and do about rows that stand at `state` since they ended with `code`."""
    if state is State.PENDING and code not in _TURNED_AWAY:
        return "the server answered with an error; nothing was paid. `pipeline run` sends the row"
    if code in _ADVICE:
        return _ADVICE[code]
    if code in _EDITS:
        return "the server refuses the request; nothing was paid. Edit the cells, then run"
    if code.startswith("http_4"):
        return "the server, or a filter before it, refuses the request. Remove the cause"
    return "the server's own code; see the messages in failures.csv"


_TURNED_AWAY = frozenset(
    {
        ErrorCode.NOT_SENT,
        ErrorCode.RATE_LIMITED,
        ErrorCode.UNAUTHORIZED,
        ErrorCode.INVALID_BILLING,
        "spend_limit_reached",
        ErrorCode.WORKFLOW_NOT_FOUND,
        ErrorCode.TLS,
    }
)
"""Codes of requests that were refused before any work."""
