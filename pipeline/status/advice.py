"""What each error code means for the user, and what to do about it. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from pipeline.core.model import ErrorCode, State
from pipeline.core.money import paid_word


class _Bill(Enum):
    """What a code says about the money for a request."""

    UNSAID = ""
    NONE = "Nothing was {paid}."
    MAYBE = "The request may have been {paid}."
    PROBABLE = "The request was probably {paid}."


@dataclass(frozen=True, slots=True)
class _Advice:
    """What happened, what it means for the money, and what to do, each in whole sentences."""

    happened: str
    bill: _Bill
    fix: str = ""


_CHECK_ADDRESS = "Check --base-url and AITUTOR_BASE_URL, then run again."
_DECIDE = "`resume --ambiguous` sends it again, `settle` gives it up."
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
    }
)
_ADVICE: dict[str, _Advice] = {
    ErrorCode.NOT_SENT: _Advice(
        "The runner could not reach the API, so nothing was sent.",
        _Bill.UNSAID,
        "Check the network and the address of the API, then run again.",
    ),
    ErrorCode.RATE_LIMITED: _Advice(
        "The API turned the request away because of its rate limit.", _Bill.NONE, "Run again."
    ),
    ErrorCode.UNAUTHORIZED: _Advice(
        "The API did not accept the key.", _Bill.NONE, "Check the key, then run again."
    ),
    ErrorCode.INVALID_BILLING: _Advice(
        "The account has no credits left.", _Bill.NONE, "Top it up, then run again."
    ),
    "spend_limit_reached": _Advice(
        "The account reached its spending limit.", _Bill.NONE, "Raise the limit, then run again."
    ),
    ErrorCode.WORKFLOW_NOT_FOUND: _Advice(
        "The API has no such workflow, or it is not published.",
        _Bill.NONE,
        "Check `workflow:` in the job file, then run again.",
    ),
    ErrorCode.INTERNAL_SERVER_ERROR: _Advice(
        "The workflow failed on the server, and so did the retries.",
        _Bill.NONE,
        "This often passes: send the row again later.",
    ),
    ErrorCode.RUN_FAILED: _Advice(
        "The server reports that the workflow failed.",
        _Bill.MAYBE,
        "`report --bodies DIR` writes the response to a file.",
    ),
    "workflow_run_failed": _Advice("The workflow failed on the server.", _Bill.UNSAID),
    "missing_input": _Advice(
        "The workflow's template needs a variable that the request does not have.",
        _Bill.NONE,
        "Correct `variables:` in the job file, then run again.",
    ),
    "request_blocked": _Advice(
        "The server refuses this text.", _Bill.NONE, "Edit the cells, then run again."
    ),
    ErrorCode.GATEWAY: _Advice(
        "A proxy answered in place of the API, and the workflow may still have run.", _Bill.MAYBE
    ),
    ErrorCode.TIMEOUT: _Advice(
        "No response came in time, and the workflow may still have run.", _Bill.MAYBE
    ),
    ErrorCode.DISCONNECTED: _Advice(
        "The connection was lost after the request was sent.", _Bill.MAYBE
    ),
    ErrorCode.BAD_RESPONSE: _Advice(
        "The server reports success, but its response cannot be read.",
        _Bill.PROBABLE,
        "The response is kept: `report --bodies DIR` writes it to a file, and after an upgrade "
        "`settle --reread` reads it again.",
    ),
    ErrorCode.TOO_LARGE: _Advice("The response is larger than 64 MiB.", _Bill.PROBABLE),
    ErrorCode.INTERRUPTED: _Advice("The runner ended before the response came.", _Bill.MAYBE),
    ErrorCode.TLS: _Advice(
        "The runner did not accept the server's certificate, so nothing was sent.",
        _Bill.UNSAID,
        "Check --base-url. The certificate of a proxy of yours goes into SSL_CERT_FILE.",
    ),
    ErrorCode.REDIRECT: _Advice(
        "The server redirects to another address, and the runner follows no redirect.",
        _Bill.UNSAID,
        _CHECK_ADDRESS,
    ),
    "http_404": _Advice("The server has nothing at this address.", _Bill.UNSAID, _CHECK_ADDRESS),
}
_REFUSED = _Advice("The server refuses the request.", _Bill.NONE, "Edit the cells, then run again.")
_FILTERED = _Advice(
    "The server, or a filter in front of it, refuses the request.",
    _Bill.UNSAID,
    "Remove the cause, then send the row again.",
)
_UNKNOWN = _Advice(
    "This code is the server's own.", _Bill.UNSAID, "Read its messages in failures.csv."
)
_NOT_YET = _Advice(
    "The server answered with an error.", _Bill.NONE, "`pipeline run` sends the row again."
)

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


def advise(state: State, code: str, *, maybe_paid: bool = False, rehearsal: bool = False) -> str:
    """What happened to rows that are in `state` because they ended with `code`, and what to do.

    `maybe_paid`: some of them may have been billed, whatever the code usually means.
    """
    advice = _find(state, code)
    bill = _Bill.MAYBE if maybe_paid and advice.bill is _Bill.NONE else advice.bill
    decide = _DECIDE if state is State.AMBIGUOUS else ""
    if state is State.FAILED and code in _AMBIGUOUS:
        decide = _SETTLED
    sentences = (advice.happened, bill.value.format(paid=paid_word(rehearsal)), advice.fix, decide)
    return " ".join(sentence for sentence in sentences if sentence)


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
