"""Classes every response: the whole table of outcomes, as a pure function.

One rule is behind every line: a request counts as refused or failed only if the response proves it.
A response that proves nothing makes the row ambiguous. "The API's JSON" is an object whose
`success` is false and whose `error` is text. Its `code` decides, then its message, then the status.

In three cases only the status decides:

* Only 429 means that the rate limit refused the request. A row whose 500 called itself rate limited
  was sent 992 times in 20 s.
* 408, 499 and every 5xx except 500 are ambiguous with any text, because they may come from a proxy
  that gave up while the API still works on the request.
* A 3xx is ambiguous and stops the run. The runner follows no redirect.
"""

from __future__ import annotations

import re
from functools import cache
from typing import Any, NamedTuple

from pipeline.core.model import Citation, ErrorCode, Failure, Outcome, Reply, StopCode, Verdict
from pipeline.core.wording import one_line
from pipeline.policy.json_text import JsonText, is_guessed, parsed, text_of

EMPTY = "empty"
"""The flag of an answer without text. Flags that need the variables are in `results.flags`."""

MESSAGE_CHARACTERS = 500
_LOOKED_AT_CHARACTERS = 100 * MESSAGE_CHARACTERS
MAX_CITATIONS = 10_000
"""The most entries in `citations` of an answer. `citations_raw` has all of them."""
MAX_DEPTH = 200

_SURROGATE = re.compile("[\ud800-\udfff]")
_CODE = re.compile(r"[A-Za-z0-9_.-]{1,64}")

# Messages that the API sends without a code. Older servers send "Workflow not found" without one.
_CODE_OF_MESSAGE = {
    "Unauthorized. Please provide a valid secret key.": ErrorCode.UNAUTHORIZED,
    "Workflow not found": ErrorCode.WORKFLOW_NOT_FOUND,
}
_CODE_OF_STATUS = {
    401: ErrorCode.UNAUTHORIZED,
    402: ErrorCode.INVALID_BILLING,
    500: ErrorCode.INTERNAL_SERVER_ERROR,
}
_STOP_OF_CODE = {
    ErrorCode.UNAUTHORIZED: StopCode.UNAUTHORIZED,
    ErrorCode.INVALID_BILLING: StopCode.INVALID_BILLING,
    "spend_limit_reached": StopCode.INVALID_BILLING,
    ErrorCode.WORKFLOW_NOT_FOUND: StopCode.WORKFLOW_NOT_FOUND,
}
_STOP_OF_STATUS = {401: StopCode.UNAUTHORIZED, 402: StopCode.INVALID_BILLING}
_PROXY_STATUSES = (408, 499)
# Codes that only the runner may give, because they say whether an attempt was paid. If a server
# sends one of them as its own code, it is ignored, and the code of the status is used.
_RUNNERS_OWN = frozenset(
    {
        ErrorCode.NOT_SENT,
        ErrorCode.RATE_LIMITED,
        ErrorCode.GATEWAY,
        ErrorCode.TIMEOUT,
        ErrorCode.DISCONNECTED,
        ErrorCode.BAD_RESPONSE,
        ErrorCode.TOO_LARGE,
        ErrorCode.INTERRUPTED,
        ErrorCode.TLS,
        ErrorCode.REDIRECT,
    }
)

# The outcome of a request without a whole response. Only the first two prove that it was not sent.
_OUTCOME_OF_FAILURE = {
    Failure.NOT_SENT: (Verdict.REFUSED, ErrorCode.NOT_SENT, None),
    Failure.TLS: (Verdict.REFUSED, ErrorCode.TLS, StopCode.TLS),
    Failure.TIMEOUT: (Verdict.AMBIGUOUS, ErrorCode.TIMEOUT, None),
    Failure.DISCONNECTED: (Verdict.AMBIGUOUS, ErrorCode.DISCONNECTED, None),
    Failure.CUT: (Verdict.AMBIGUOUS, ErrorCode.BAD_RESPONSE, None),
    Failure.TOO_LARGE: (Verdict.AMBIGUOUS, ErrorCode.TOO_LARGE, None),
    Failure.INTERRUPTED: (Verdict.AMBIGUOUS, ErrorCode.INTERRUPTED, None),
}


class Unreadable(ValueError):
    """A body that contains no answer."""


class Answer(NamedTuple):
    """A paid answer of any shape.

    `result` is text. A result of another type is stored as its JSON text and flagged.
    `citations_raw` is the JSON text of the citations as received, None if there were none. `extra`
    is the JSON text of all other fields, and of the original result if text columns cannot store
    it.
    """

    result: str
    citations: tuple[Citation, ...]
    citations_raw: str | None
    extra: str
    flags: tuple[str, ...]


def classify(reply: Reply) -> Outcome:
    """Returns the outcome of the attempt that got `reply`."""
    if reply.status is None or reply.failure in (Failure.TIMEOUT, Failure.DISCONNECTED):
        return _without_answer(reply)
    if 300 <= reply.status < 400:
        return Outcome(
            Verdict.AMBIGUOUS,
            ErrorCode.REDIRECT,
            f"The server redirects to {_shown(reply.headers.get('location', 'nowhere'))}. "
            "The runner never follows a redirect.",
            reply.status,
            maybe_paid=True,
            stop=StopCode.REDIRECT,
        )
    if 200 <= reply.status < 300:
        return _of_success(reply, reply.status)
    return _of_error(reply, reply.status)


def read_answer(body: bytes) -> Answer:
    """Returns the answer in the body of a successful response.

    Raises:
        Unreadable: when the body is not JSON, is not an object, or has no `result`.
    """
    answer = _answer_of(_json_object(body))
    if is_guessed(body):
        return answer._replace(flags=(*answer.flags, "charset_guessed"))
    return answer


def _answer_of(fields: dict[str, Any] | None) -> Answer:
    if fields is None:
        raise Unreadable("The response is not a JSON object")
    if "result" not in fields:
        raise Unreadable("The response has no `result`")
    flags: list[str] = []
    extra = {k: v for k, v in fields.items() if k not in ("success", "result", "citations")}
    result = fields["result"]
    if not isinstance(result, str):
        flags.append("result_not_text")
        result = _json_text(result)
    if not result.strip():
        flags.append(EMPTY)
    if _has_surrogates(result):
        flags.append("result_repaired")
        extra["result"] = result
        result = _SURROGATE.sub("\N{REPLACEMENT CHARACTER}", result)
    citations, odd, cut = _citations(fields.get("citations"))
    if odd:
        flags.append("citations_odd")
    if cut:
        flags.append("citations_cut")
    raw = _json_text(fields["citations"]) if "citations" in fields else None
    return Answer(result, citations, raw, _json_text(extra) if extra else "", tuple(flags))


def _without_answer(reply: Reply) -> Outcome:
    verdict, code, stop = _OUTCOME_OF_FAILURE[reply.failure or Failure.DISCONNECTED]
    return Outcome(
        verdict,
        code,
        _shown(reply.detail),
        reply.status,
        maybe_paid=verdict is Verdict.AMBIGUOUS,
        stop=stop,
    )


def _of_success(reply: Reply, status: int) -> Outcome:
    if reply.failure is not None:
        return _without_answer(reply)
    fields = _json_object(reply.body)
    if fields is not None and fields.get("success") is False:
        code = _server_code(fields) or ErrorCode.RUN_FAILED
        return Outcome(Verdict.FAILED, code, _server_message(fields), reply.status, maybe_paid=True)
    try:
        _answer_of(fields)
    except Unreadable as error:
        return Outcome(
            Verdict.AMBIGUOUS,
            ErrorCode.BAD_RESPONSE,
            f"{error}: {_shown_body(reply.body)}",
            reply.status,
            maybe_paid=True,
        )
    return _ok(status)


@cache
def _ok(status: int) -> Outcome:
    return Outcome(Verdict.OK, http_status=status, maybe_paid=True)


def _of_error(reply: Reply, status: int) -> Outcome:
    fields = _api_json(reply)
    message = _server_message(fields) if fields else _shown_body(reply.body)
    if status == 429:
        return Outcome(Verdict.REFUSED, ErrorCode.RATE_LIMITED, message, status)
    code = _code(fields, status)
    stop = _STOP_OF_CODE.get(code) or _STOP_OF_STATUS.get(status)
    if status in _PROXY_STATUSES or not 400 <= status <= 500 or (status == 500 and not fields):
        return Outcome(
            Verdict.AMBIGUOUS, ErrorCode.GATEWAY, message, status, maybe_paid=True, stop=stop
        )
    if stop:
        return Outcome(Verdict.REFUSED, code, message, status, stop=stop)
    return Outcome(
        Verdict.FAILED, code, message, status, retryable=status == 500, foreign=fields is None
    )


def _code(fields: dict[str, Any] | None, status: int) -> str:
    """Returns the code of an error: the server's, else that of the message, else of the status."""
    said = _server_code(fields) if fields else None
    by_message = _CODE_OF_MESSAGE.get(fields["error"]) if fields else None
    return said or by_message or _CODE_OF_STATUS.get(status) or f"http_{status}"


def _api_json(reply: Reply) -> dict[str, Any] | None:
    """Returns the API's own error object, or None for anything else, such as a proxy's page."""
    fields = _json_object(reply.body) if reply.failure is None else None
    if fields and fields.get("success") is False and isinstance(fields.get("error"), str):
        return fields
    return None


def _json_object(body: bytes) -> dict[str, Any] | None:
    try:
        value = parsed(body)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) and not _too_deep(body, value) else None


def _too_deep(body: bytes, value: Any) -> bool:
    """Whether `value` is nested more than `MAX_DEPTH` deep.

    The depth that the parser reaches depends on the depth of its caller's stack. With a fixed bound
    that any stack can read and write, an answer that was readable on arrival is also readable when
    its part is sealed.
    """
    if body.count(b"[") + body.count(b"{") <= MAX_DEPTH:
        return False
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [
            inner
            for outer in level
            if isinstance(outer, list | dict)
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
        if not level:
            return False
    return True


def _server_code(fields: dict[str, Any]) -> str | None:
    code = fields.get("code")
    if not isinstance(code, str) or not _CODE.fullmatch(code) or code in _RUNNERS_OWN:
        return None
    return code


def _server_message(fields: dict[str, Any]) -> str:
    error = fields.get("error")
    return _shown(error if isinstance(error, str) else _json_text(error))


def _citations(value: Any) -> tuple[tuple[Citation, ...], bool, bool]:
    """Returns the readable citations, whether any other value was among them, and whether there
    were more than `MAX_CITATIONS`."""
    if value is None:
        return (), False, False
    if isinstance(value, JsonText) and value.text.startswith("["):
        entries, whole = value.first(MAX_CITATIONS)
    elif isinstance(value, list):
        entries, whole = value[:MAX_CITATIONS], len(value) <= MAX_CITATIONS
    else:
        return (), True, False
    found = [_citation(entry) for entry in entries]
    return tuple(c for c in found if c), None in found, not whole


def _citation(entry: Any) -> Citation | None:
    if isinstance(entry, str):
        return Citation("", _clean(entry)) if entry else None
    if not isinstance(entry, dict):
        return None
    title, url = entry.get("title"), entry.get("url")
    title = _clean(title) if isinstance(title, str) else ""
    url = _clean(url) if isinstance(url, str) else ""
    return Citation(title, url) if title or url else None


def _json_text(value: Any) -> str:
    """Returns JSON text. Lone surrogates stay escaped, because no text column can store them."""
    text = text_of(value)
    if not _has_surrogates(text):
        return text
    return _SURROGATE.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def _has_surrogates(text: str) -> bool:
    return not text.isascii() and _SURROGATE.search(text) is not None


def _clean(text: str) -> str:
    return _SURROGATE.sub("\N{REPLACEMENT CHARACTER}", text)


def _shown_body(body: bytes) -> str:
    return _shown(body[: 4 * MESSAGE_CHARACTERS].decode("utf-8", "replace")) or "(empty)"


def _shown(text: str) -> str:
    """Returns `text` as one line of at most 500 characters, without control characters."""
    line = one_line(_clean(text[:_LOOKED_AT_CHARACTERS]), MESSAGE_CHARACTERS)
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in line)
