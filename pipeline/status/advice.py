"""What each error code means for the user, and what to do about it. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.core.model import ErrorCode, State
from pipeline.core.money import paid_word

_NOTHING = "Nothing was {paid}."
_MAYBE = "The request may have been {paid}."
_PROBABLY = "The request was probably {paid}."


@dataclass(frozen=True, slots=True)
class _Advice:
    """What happened and what to do, in whole sentences. `maybe` and `nothing` say what it means for
    the money, for requests that may have been billed and for those that were not."""

    happened: str
    fix: str = ""
    maybe: str = _MAYBE
    nothing: str = _NOTHING


_CHECK_ADDRESS = "Check --base-url and AITUTOR_BASE_URL, then run again."
_DECIDE = "`resume --ambiguous` sends it again, `settle` counts it as failed."
_SETTLED = "`settle` counted it as failed. `resume` sends it again and asks first."
# Rows with these codes are ambiguous until `settle` makes them failed.
_AMBIGUOUS = frozenset(
    {
        ErrorCode.GATEWAY,
        ErrorCode.TIMEOUT,
        ErrorCode.DISCONNECTED,
        ErrorCode.BAD_RESPONSE,
        ErrorCode.TOO_LARGE,
        ErrorCode.INTERRUPTED,
        ErrorCode.REDIRECT,
    }
)
_ADVICE: dict[str, _Advice] = {
    ErrorCode.NOT_SENT: _Advice(
        "The runner could not reach the API, so nothing was sent.",
        "Check the network and the address of the API, then run again.",
        nothing="",
    ),
    ErrorCode.RATE_LIMITED: _Advice(
        "The API turned the request away because of its rate limit.", "Run again."
    ),
    ErrorCode.UNAUTHORIZED: _Advice(
        "The API did not accept the key.", "Check the key, then run again."
    ),
    ErrorCode.INVALID_BILLING: _Advice(
        "The account has no credits left.", "Top it up, then run again."
    ),
    "spend_limit_reached": _Advice(
        "The account reached its spending limit.", "Raise the limit, then run again."
    ),
    ErrorCode.WORKFLOW_NOT_FOUND: _Advice(
        "The API has no such workflow, or it is not published.",
        "Check `workflow:` in the job file, then run again.",
    ),
    ErrorCode.INTERNAL_SERVER_ERROR: _Advice(
        "The workflow failed on the server, and so did the retries.",
        "This often passes: send the row again later.",
    ),
    ErrorCode.RUN_FAILED: _Advice(
        "The server reports that the workflow failed.",
        "`report --bodies DIR` writes the response to a file. A row that is sent again may be "
        "billed twice.",
    ),
    "workflow_run_failed": _Advice("The workflow failed on the server."),
    "missing_input": _Advice(
        "The workflow's template needs a variable that the request does not have.",
        "Correct `variables:` in the job file, then run again.",
    ),
    "request_blocked": _Advice("The server refuses this text.", "Edit the cells, then run again."),
    ErrorCode.GATEWAY: _Advice(
        "A proxy answered in place of the API, and the workflow may still have run."
    ),
    ErrorCode.TIMEOUT: _Advice("No response came in time, and the workflow may still have run."),
    ErrorCode.DISCONNECTED: _Advice("The connection was lost after the request was sent."),
    ErrorCode.BAD_RESPONSE: _Advice(
        "The server reports success, but its response cannot be read.",
        "The response is kept: `report --bodies DIR` writes it to a file, and after an upgrade "
        "`settle --reread` reads it again.",
        maybe=_PROBABLY,
    ),
    ErrorCode.TOO_LARGE: _Advice("The response is larger than 64 MiB.", maybe=_PROBABLY),
    ErrorCode.INTERRUPTED: _Advice("The runner ended before the response came."),
    ErrorCode.TLS: _Advice(
        "The runner did not accept the server's certificate, so nothing was sent.",
        "Check --base-url. The certificate of a proxy of yours goes into SSL_CERT_FILE.",
        nothing="",
    ),
    ErrorCode.REDIRECT: _Advice(
        "The server redirects to another address, and the runner follows no redirect.",
        _CHECK_ADDRESS,
    ),
    "http_404": _Advice("The server has nothing at this address.", _CHECK_ADDRESS),
}
_REFUSED = _Advice("The server refuses the request.", "Edit the cells, then run again.")
_FILTERED = _Advice(
    "The server, or a filter in front of it, refuses the request.",
    "Remove the cause, then send the row again.",
)
_UNKNOWN = _Advice("This code is the server's own.", "Read its messages in failures.csv.")
_NOT_YET = _Advice("The server answered with an error.", "`pipeline run` sends the row again.")

_CELLS = "edit the cells that were refused"
_EDITS: dict[str, str] = {
    "request_blocked": _CELLS,
    "missing_input": "correct `variables:` in the job file",
    # The API, or a proxy in front of it, refuses such a body: it is malformed, too large, or cannot
    # be processed.
    **dict.fromkeys(("http_400", "http_413", "http_414", "http_422", "http_431"), _CELLS),
}


def edit_first(code: str | None) -> str | None:
    """What to edit before a row with `code` can succeed; None if the same request may succeed."""
    return _EDITS.get(code) if code else None


def advise(state: State, code: str, *, maybe_paid: bool, rehearsal: bool = False) -> str:
    """What happened to rows that are in `state` because they ended with `code`, what it means for
    the money, and what to do.

    `maybe_paid`: some of these rows may have been billed, as the ledger knows it.
    """
    advice = _find(state, code)
    bill = (advice.maybe if maybe_paid else advice.nothing).format(paid=paid_word(rehearsal))
    decide = _DECIDE if state is State.AMBIGUOUS else ""
    if state is State.FAILED and code in _AMBIGUOUS:
        decide = _SETTLED
    return " ".join(filter(None, (advice.happened, bill, advice.fix, decide)))


def _find(state: State, code: str) -> _Advice:
    if state is State.PENDING and code not in _TURNED_AWAY:
        return _NOT_YET
    if code in _ADVICE:
        return _ADVICE[code]
    if code in _EDITS:
        return _REFUSED
    return _FILTERED if code.startswith("http_4") else _UNKNOWN


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
