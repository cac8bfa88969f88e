"""Tests the table of outcomes, line by line."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.model import Citation, Failure, Reply, StopCode, Verdict
from pipeline.policy import json_text
from pipeline.policy.answer import Unreadable, classify, read_answer

OK, FAILED, REFUSED, AMBIGUOUS = Verdict.OK, Verdict.FAILED, Verdict.REFUSED, Verdict.AMBIGUOUS


def reply(status: int | None, body: object = b"", failure: Failure | None = None) -> Reply:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return Reply(0.0, 1.0, status, {}, raw, failure)


def error(text: str = "Failed to run workflow", code: str | None = None) -> dict[str, object]:
    return {"error": text, "success": False} | ({"code": code} if code else {})


PAGE = b"<html>Bad gateway</html>"
LIMIT = "Rate limit exceeded"
UNAUTHORIZED = "Unauthorized. Please provide a valid secret key."


@pytest.mark.parametrize(
    ("status", "body", "verdict", "code", "maybe_paid", "stop"),
    [
        # the five errors of the API's page
        (401, error(UNAUTHORIZED), REFUSED, "unauthorized", False, StopCode.UNAUTHORIZED),
        (
            402,
            error("No credits remaining.", "invalid_billing"),
            REFUSED,
            "invalid_billing",
            False,
            StopCode.INVALID_BILLING,
        ),
        (
            404,
            error("Workflow not found", "workflow_not_found"),
            REFUSED,
            "workflow_not_found",
            False,
            StopCode.WORKFLOW_NOT_FOUND,
        ),
        (429, error("Rate limit exceeded"), REFUSED, "rate_limited", False, None),
        (500, error(code="internal_server_error"), FAILED, "internal_server_error", False, None),
        # 401 and 402 stop the job, whatever their body says
        (401, PAGE, REFUSED, "unauthorized", False, StopCode.UNAUTHORIZED),
        (402, b"", REFUSED, "invalid_billing", False, StopCode.INVALID_BILLING),
        (
            402,
            error("Limit", "spend_limit_reached"),
            REFUSED,
            "spend_limit_reached",
            False,
            StopCode.INVALID_BILLING,
        ),
        (
            401,
            error("?", "something_new"),
            REFUSED,
            "something_new",
            False,
            StopCode.UNAUTHORIZED,
        ),
        # the code decides before the message, the message before the status
        (403, error(UNAUTHORIZED), REFUSED, "unauthorized", False, StopCode.UNAUTHORIZED),
        (
            404,
            error("Workflow not found"),
            REFUSED,
            "workflow_not_found",
            False,
            StopCode.WORKFLOW_NOT_FOUND,
        ),
        (
            400,
            error("x", "invalid_billing"),
            REFUSED,
            "invalid_billing",
            False,
            StopCode.INVALID_BILLING,
        ),
        # the code decides if it contradicts the message
        (
            403,
            error(UNAUTHORIZED, "invalid_billing"),
            REFUSED,
            "invalid_billing",
            False,
            StopCode.INVALID_BILLING,
        ),
        (
            403,
            error("Workflow not found", "request_blocked"),
            FAILED,
            "request_blocked",
            False,
            None,
        ),
        # only the status 429 is a refusal by the rate limit
        (429, PAGE, REFUSED, "rate_limited", False, None),
        (429, error("No credits", "invalid_billing"), REFUSED, "rate_limited", False, None),
        (500, error(LIMIT), FAILED, "internal_server_error", False, None),
        (500, error("x", "rate_limited"), FAILED, "internal_server_error", False, None),
        (400, error(LIMIT), FAILED, "http_400", False, None),
        (403, error("x", "rate_limited"), FAILED, "http_403", False, None),
        (503, error(LIMIT, "rate_limited"), AMBIGUOUS, "gateway", True, None),
        (200, error(LIMIT, "rate_limited"), FAILED, "run_failed", True, None),
        # a server that sends one of the runner's own codes says nothing by it
        (400, error("x", "interrupted"), FAILED, "http_400", False, None),
        (500, error("x", "not_sent"), FAILED, "internal_server_error", False, None),
        (401, error("x", "tls"), REFUSED, "unauthorized", False, StopCode.UNAUTHORIZED),
        # a proxy may have given up while the API still works: ambiguous, and the job stops
        (
            503,
            error("x", "invalid_billing"),
            AMBIGUOUS,
            "gateway",
            True,
            StopCode.INVALID_BILLING,
        ),
        (408, error(UNAUTHORIZED), AMBIGUOUS, "gateway", True, StopCode.UNAUTHORIZED),
        (
            500,
            error("x", "invalid_billing"),
            REFUSED,
            "invalid_billing",
            False,
            StopCode.INVALID_BILLING,
        ),
        # 4xx fail, JSON or not
        (400, error("?", "missing_input"), FAILED, "missing_input", False, None),
        (404, PAGE, FAILED, "http_404", False, None),
        (413, b"", FAILED, "http_413", False, None),
        (422, {"detail": "x"}, FAILED, "http_422", False, None),
        # a 500 proves nothing unless it is in the API's JSON
        (500, error(), FAILED, "internal_server_error", False, None),
        (500, error("x", "workflow_run_failed"), FAILED, "workflow_run_failed", False, None),
        (500, PAGE, AMBIGUOUS, "gateway", True, None),
        (500, {"error": "x"}, AMBIGUOUS, "gateway", True, None),
        (500, {"error": 5, "success": False}, AMBIGUOUS, "gateway", True, None),
        (502, PAGE, AMBIGUOUS, "gateway", True, None),
        (502, error(), AMBIGUOUS, "gateway", True, None),
        (503, error(code="internal_server_error"), AMBIGUOUS, "gateway", True, None),
        (504, b"", AMBIGUOUS, "gateway", True, None),
        (408, error(), AMBIGUOUS, "gateway", True, None),
        (499, b"", AMBIGUOUS, "gateway", True, None),
        (100, b"", AMBIGUOUS, "gateway", True, None),
        # redirects
        (301, b"", AMBIGUOUS, "redirect", True, StopCode.REDIRECT),
        (308, b"", AMBIGUOUS, "redirect", True, StopCode.REDIRECT),
        # 2xx
        (200, {"success": True, "result": "text"}, OK, None, True, None),
        (201, {"result": "text"}, OK, None, True, None),
        (200, error("no", "run_blocked"), FAILED, "run_blocked", True, None),
        (200, error("no"), FAILED, "run_failed", True, None),
        (200, {"success": False, "result": "x"}, FAILED, "run_failed", True, None),
        (200, {"success": None, "result": "text"}, OK, None, True, None),
        (200, {"success": 0, "result": "text"}, OK, None, True, None),
        (200, error("Rate limit exceeded"), FAILED, "run_failed", True, None),
        (200, {"success": True}, AMBIGUOUS, "bad_response", True, None),
        (200, b"Once upon", AMBIGUOUS, "bad_response", True, None),
        (200, b"", AMBIGUOUS, "bad_response", True, None),
        (204, b"", AMBIGUOUS, "bad_response", True, None),
        (200, b'["result"]', AMBIGUOUS, "bad_response", True, None),
        (200, b"[" * 200_000, AMBIGUOUS, "bad_response", True, None),
        (200, '{"result": "caf\xe9"}'.encode("latin-1"), OK, None, True, None),
        (200, b'{"result": "two\nlines,\ttabs\x00"}', OK, None, True, None),
    ],
)
def test_each_response_has_its_class(status, body, verdict, code, maybe_paid, stop):
    """The code decides, then the message, then the status. A response that proves nothing is
    ambiguous."""
    outcome = classify(reply(status, body))
    assert (outcome.verdict, outcome.code, outcome.maybe_paid, outcome.stop) == (
        verdict,
        code,
        maybe_paid,
        stop,
    )


@pytest.mark.parametrize(
    ("failure", "verdict", "code", "stop"),
    [
        (Failure.NOT_SENT, REFUSED, "not_sent", None),
        (Failure.TLS, REFUSED, "tls", StopCode.TLS),
        (Failure.TIMEOUT, AMBIGUOUS, "timeout", None),
        (Failure.DISCONNECTED, AMBIGUOUS, "disconnected", None),
        (Failure.INTERRUPTED, AMBIGUOUS, "interrupted", None),
    ],
)
def test_each_failure_without_a_response_has_its_class(failure, verdict, code, stop):
    """Only the first two prove that the request was not sent."""
    outcome = classify(reply(None, failure=failure))
    assert (outcome.verdict, outcome.code, outcome.stop) == (verdict, code, stop)
    assert outcome.maybe_paid == (verdict is AMBIGUOUS)


@pytest.mark.parametrize("status", [200, 400, 401, 402, 403, 404, 429, 500])
@pytest.mark.parametrize(
    ("failure", "code"), [(Failure.TIMEOUT, "timeout"), (Failure.DISCONNECTED, "disconnected")]
)
def test_a_response_without_an_end_is_not_classed_by_its_status(status, failure, code):
    """A status line proves nothing if the body never arrives."""
    outcome = classify(reply(status, error("no"), failure))
    assert (outcome.verdict, outcome.code, outcome.maybe_paid) == (AMBIGUOUS, code, True)
    assert outcome.stop is None


@pytest.mark.parametrize("status", [200, 201])
@pytest.mark.parametrize(
    ("failure", "code"),
    [
        (Failure.CUT, "bad_response"),
        (Failure.TOO_LARGE, "too_large"),
        (Failure.TIMEOUT, "timeout"),
        (Failure.DISCONNECTED, "disconnected"),
    ],
)
def test_a_success_with_an_incomplete_body_is_ambiguous(status, failure, code):
    """This holds even if the received part is readable."""
    outcome = classify(reply(status, {"success": True, "result": "x"}, failure))
    assert (outcome.verdict, outcome.code) == (AMBIGUOUS, code)


def test_an_incomplete_500_is_not_the_apis_own():
    """Half of its JSON may be anything."""
    assert classify(reply(500, error(), Failure.CUT)).verdict is AMBIGUOUS


def test_only_a_500_in_the_apis_json_is_retryable():
    """Errors in the request itself stay failures."""
    assert classify(reply(500, error())).retryable
    assert not classify(reply(400, error())).retryable
    assert not classify(reply(200, error())).retryable


@given(
    st.one_of(st.none(), st.integers(100, 599)),
    st.one_of(
        st.binary(max_size=60),
        st.recursive(
            st.none() | st.booleans() | st.floats() | st.text(max_size=5),
            lambda inner: (
                st.lists(inner, max_size=3)
                | st.dictionaries(
                    st.sampled_from(["success", "result", "error", "code", "citations", "x"]),
                    inner,
                    max_size=5,
                )
            ),
            max_leaves=8,
        ),
    ),
    st.one_of(st.none(), st.sampled_from(Failure)),
)
def test_only_a_proof_makes_a_row_refused_or_failed(status, body, failure):
    """No response raises. A refusal needs 401, 402, 404, 429, the API's own words, or a request
    that was not sent."""
    outcome = classify(reply(status, body, failure))
    if outcome.verdict is REFUSED:
        assert not outcome.maybe_paid
        assert failure in (Failure.NOT_SENT, Failure.TLS) or status >= 400
    if outcome.verdict is OK:
        assert failure is None
        assert read_answer(json.dumps(body).encode() if not isinstance(body, bytes) else body)
    assert all(character.isprintable() for character in outcome.message)


@pytest.mark.parametrize(
    ("result", "kept", "flag"),
    [
        ("text", "text", None),
        ('{"json": "text"}', '{"json": "text"}', None),
        (5, "5", "result_not_text"),
        (None, "null", "result_not_text"),
        ({"a": ["é"]}, '{"a":["é"]}', "result_not_text"),
        ("", "", "empty"),
        ("  \n", "  \n", "empty"),
    ],
)
def test_a_paid_row_never_fails_because_of_the_type_of_its_result(result, kept, flag):
    """A result that is not text is stored as JSON text and flagged."""
    answer = read_answer(json.dumps({"success": True, "result": result}).encode())
    assert answer.result == kept
    assert answer.flags == ((flag,) if flag else ())


@pytest.mark.parametrize(
    ("citations", "kept", "odd"),
    [
        (None, [], False),
        ([], [], False),
        (["https://a", "https://b"], [("", "https://a"), ("", "https://b")], False),
        ([{"title": "A", "url": "https://a"}], [("A", "https://a")], False),
        ([{"title": "A"}, {"url": "u", "more": 1}], [("A", ""), ("", "u")], False),
        (["https://a", None, 5, {}, ""], [("", "https://a")], True),
        ("https://a", [], True),
        ({"url": "https://a"}, [], True),
    ],
)
def test_citations_of_any_shape_are_kept(citations, kept, odd):
    """The readable ones are in the table, and all of them are in the raw text."""
    answer = read_answer(json.dumps({"result": "x", "citations": citations}).encode())
    assert answer.citations == tuple(Citation(*pair) for pair in kept)
    assert json.loads(answer.citations_raw) == citations
    assert ("citations_odd" in answer.flags) == odd


def test_absent_citations_have_no_raw_text():
    """So a reader can distinguish absent and null citations."""
    assert read_answer(b'{"result":"x"}').citations_raw is None
    assert read_answer(b'{"result":"x","citations":null}').citations_raw == "null"


def test_a_lone_surrogate_is_kept_raw_and_flagged():
    """No text column can store it, but the row was paid."""
    answer = read_answer(b'{"result":"a\\ud800b","usage":{"tokens":7}}')
    assert answer.result == "a\N{REPLACEMENT CHARACTER}b"
    assert answer.flags == ("result_repaired",)
    extra = json.loads(answer.extra)
    assert extra == {"usage": {"tokens": 7}, "result": "a\ud800b"}
    answer.extra.encode()


def test_other_fields_stay_in_extra():
    """`extra` has all other fields of the answer."""
    assert json.loads(read_answer(b'{"success":true,"result":"x","id":"r1"}').extra) == {"id": "r1"}


@pytest.mark.parametrize("body", [b"", b"null", b"{}", b"[]", b"{", b'{"success":true}', b"\xff"])
def test_a_body_without_an_answer_is_unreadable(body):
    """It is not JSON, not an object, or has no result."""
    with pytest.raises(Unreadable):
        read_answer(body)


@pytest.mark.parametrize("depth", [250, 900, 100_000])
def test_an_answer_that_is_nested_too_deeply_is_ambiguous_and_kept(depth):
    """The bound is the same on every stack. The answer was paid, so it is kept."""
    body = b'{"success":true,"result":' + b"[" * depth + b"]" * depth + b"}"
    outcome = classify(reply(200, body))
    assert (outcome.verdict, outcome.code) == (AMBIGUOUS, "bad_response")


def test_an_answer_that_is_nested_150_deep_is_ok():
    """Its result is stored as JSON text."""
    body = b'{"success":true,"result":' + b"[" * 150 + b"]" * 150 + b"}"
    assert classify(reply(200, body)).verdict is OK
    assert read_answer(body).result == "[" * 150 + "]" * 150


@pytest.mark.parametrize(
    ("status", "body", "message"),
    [
        (400, error("No such\n  voice"), "No such voice"),
        (500, error("Failed"), "Failed"),
        (429, error("Rate limit exceeded"), "Rate limit exceeded"),
        (402, error("No credits", "invalid_billing"), "No credits"),
        (200, error("blocked", "run_blocked"), "blocked"),
        (200, {"success": False}, "null"),
        (200, {"success": False, "error": {"why": ["é"]}}, '{"why":["é"]}'),
        (502, PAGE, "<html>Bad gateway</html>"),
        (504, b"", "(empty)"),
        (504, b"\xff\x00end", "\N{REPLACEMENT CHARACTER}" * 2 + "end"),
        (200, b"Once upon", "The response is not a JSON object: Once upon"),
        (200, b'{"success":true}', 'The response has no `result`: {"success":true}'),
        (200, b"", "The response is not a JSON object: (empty)"),
        (302, b"", "The server redirects to nowhere. The runner never follows a redirect."),
    ],
)
def test_the_message_is_the_servers_text_on_one_line(status, body, message):
    """The status is stored separately."""
    outcome = classify(reply(status, body))
    assert (outcome.message, outcome.http_status) == (message, status)


def test_the_message_of_a_redirect_names_the_target():
    """Only the header has the address."""
    headers = {"location": "https://elsewhere.example/run"}
    outcome = classify(Reply(0.0, 1.0, 308, headers, b""))
    assert outcome.message == (
        "The server redirects to https://elsewhere.example/run. The runner never follows a "
        "redirect."
    )


@pytest.mark.parametrize(("status", "failure"), [(None, Failure.TIMEOUT), (200, Failure.CUT)])
def test_the_message_of_an_attempt_without_a_response_says_what_happened(status, failure):
    """The client words it. The status is kept if one arrived."""
    outcome = classify(Reply(0.0, 1.0, status, {}, b"", failure, "no whole\tanswer"))
    assert (outcome.message, outcome.http_status) == ("no whole answer", status)


def test_no_status_and_no_reason_is_a_lost_connection():
    """It is as ambiguous as any other."""
    outcome = classify(reply(None))
    assert (outcome.verdict, outcome.code, outcome.maybe_paid) == (AMBIGUOUS, "disconnected", True)


def test_a_message_is_cut_after_500_characters():
    """A page may be long. Only the first bytes of a body are decoded: 500 characters of four
    bytes."""
    assert classify(reply(400, error("x" * 500))).message == "x" * 500
    assert classify(reply(400, error("x" * 501))).message == "x" * 499 + "…"
    assert classify(reply(502, "😀".encode() * 501)).message == "😀" * 500
    assert classify(reply(502, b"x" * 501)).message == "x" * 499 + "…"


@pytest.mark.parametrize(("opening", "closing"), [(b"[", b"]"), (b'{"a":', b"}")])
def test_an_answer_may_be_nested_200_deep_and_no_deeper(opening, closing):
    """The object and the innermost value count too. Only depth counts, not the number of
    brackets."""

    def nested(levels: int) -> bytes:
        inner = opening * levels + b"1" + closing * levels
        return b'{"result":' + inner + b',"wide":[' + b",".join([b"[]"] * 300) + b"]}"

    assert read_answer(nested(198)).result == (opening * 198 + b"1" + closing * 198).decode()
    with pytest.raises(Unreadable, match="not a JSON object"):
        read_answer(nested(199))


def test_surrogates_in_citations_are_repaired_and_kept_in_the_raw_text():
    """No text column can store them."""
    answer = read_answer(
        b'{"result":"x","citations":["u\\ud800",{"title":"t\\udfff","url":"\\ud83d"}],"n":"\\ud800"}'
    )
    assert answer.citations == (Citation("", "u\ufffd"), Citation("t\ufffd", "\ufffd"))
    assert answer.citations_raw == '["u\\ud800",{"title":"t\\udfff","url":"\\ud83d"}]'
    assert answer.extra == '{"n":"\\ud800"}'
    assert answer.flags == ()


def test_texts_without_surrogates_stay_readable_in_json_text():
    """They are not escaped, and the JSON has no spaces."""
    answer = read_answer('{"result":{"é":[1, 2]},"citations":[ "ü" ],"more":"ß"}'.encode())
    assert (answer.result, answer.citations_raw) == ('{"é":[1,2]}', '["ü"]')
    assert answer.extra == '{"more":"ß"}'


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text('a,:[]{}"\\\\\u1234\n'),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text('a"]', max_size=2), inner, max_size=4)
    ),
    max_leaves=30,
)


@given(
    st.dictionaries(st.text("abc", max_size=2), JSON, max_size=4),
    st.sampled_from((None, 1)),
    st.none() | st.tuples(st.integers(0), st.sampled_from(["", *',:[]{}"\\ 0'])),
)
def test_a_body_of_many_values_is_json_exactly_if_pythons_parser_accepts_it(value, indent, spoil):
    """One character may be replaced. If Python accepts the text, the value is the same."""
    text = json.dumps(value, indent=indent)
    if spoil is not None:
        at = spoil[0] % len(text)
        text = text[:at] + spoil[1] + text[at + 1 :]
    try:
        wanted = json.loads(text, strict=False)
    except ValueError:
        with pytest.raises(json.JSONDecodeError):
            json_text._outermost(text)
        return
    found = json_text._outermost(text)
    if isinstance(wanted, dict):
        for name, one in found.items():
            if isinstance(one, json_text.JsonText):
                found[name] = json.loads(one.text, strict=False)
        assert json.dumps(found) == json.dumps(wanted)


@pytest.mark.parametrize("depth", [3, 6, 40, 190])
def test_the_end_of_a_nested_value_is_found_at_any_depth(depth):
    """Lists are nested in objects in lists, each with something next to it."""
    text = "[1," * depth + '{"a":[]}' + ",2]" * depth
    whole = json_text._outermost('{"success":true,"more":' + text + ',"result":"x"}')
    assert whole == {"success": True, "more": json_text.JsonText(text), "result": "x"}
    with pytest.raises(RecursionError):
        json_text._outermost('{"a":' + "[" * 300 + "]" * 300 + "}")


def test_more_than_ten_thousand_citations_are_kept_as_text_and_flagged():
    """Small and large answers lose none."""
    for number in (10_000, 10_001, 250_000):
        cited = [f"https://x.example/{n}" for n in range(number)]
        cited[5] = {"title": "t" * 5, "url": "u"}  # type: ignore[call-overload]
        answer = read_answer(json.dumps({"result": "x", "citations": cited}).encode())
        assert len(answer.citations) == 10_000
        assert answer.citations[5] == Citation("ttttt", "u")
        assert json.loads(answer.citations_raw or "") == cited
        assert answer.flags == (("citations_cut",) if number > 10_000 else ())


def test_a_long_message_is_cut_before_it_is_split_into_words():
    """30 million words would become as many objects."""
    message = classify(reply(400, error("a " * 1_000_000))).message
    assert len(message) == 500
    assert message.endswith("…")
