"""One line of advice for each error code: what happened, and what helps."""

from __future__ import annotations

from pipeline.model import ErrorCode

_ADVICE: dict[str, str] = {
    ErrorCode.NOT_SENT: "the API could not be reached; nothing was sent. Check the network",
    ErrorCode.RATE_LIMITED: "turned away by the rate limit; nothing was paid",
    ErrorCode.UNAUTHORIZED: "the key was not accepted; nothing was paid. Check the key",
    ErrorCode.INVALID_BILLING: "the account has no credits left; nothing was paid. Top it up",
    "spend_limit_reached": "the account's spending limit; nothing was paid. Raise it",
    ErrorCode.WORKFLOW_NOT_FOUND: "no such workflow, or it is not published; nothing was paid",
    ErrorCode.INTERNAL_SERVER_ERROR: "the run failed on the server, retries included; often passes",
    ErrorCode.RUN_FAILED: "the server says that the run failed; it may have been paid",
    "workflow_run_failed": "the run failed on the server",
    "missing_input": "a variable of the workflow's template is missing. Compare `variables:`",
    "request_blocked": "the server refuses this text. Change the row",
    ErrorCode.GATEWAY: "a proxy answered for the API; the run may have gone on and been paid",
    ErrorCode.TIMEOUT: "no answer in time; the run may have gone on and been paid",
    ErrorCode.DISCONNECTED: "the connection was lost after sending; it may have been paid",
    ErrorCode.BAD_RESPONSE: "a success that cannot be read; it was probably paid. The answer "
    "is kept: after an upgrade, `settle --reread` reads it again",
    ErrorCode.TOO_LARGE: "an answer of over 64 MiB; it was probably paid",
    ErrorCode.INTERRUPTED: "the runner ended before the answer came; it may have been paid",
    ErrorCode.TLS: "the server's certificate was not accepted; nothing was sent",
    ErrorCode.REDIRECT: "the server redirects, which is never followed. Check the address",
}


def advise(code: str | None) -> str:
    """What to know and do about rows that ended with `code`."""
    if code in _ADVICE:
        return _ADVICE[code]
    if code == "http_404":
        return "nothing is served at this address. Check --base-url and AITUTOR_BASE_URL"
    if code and code.startswith("http_4"):
        return "the server refuses the request. Compare the row with those that went through"
    return "the server's own code; see the messages in failures.csv"
