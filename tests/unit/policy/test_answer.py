"""The table of outcomes, line by line."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
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
        # the page's own five
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
        # 401 and 402 stop whatever their body says
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
        # the code, where it and the message name different things
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
        # only the status tells a refusal for the rate
        (429, PAGE, REFUSED, "rate_limited", False, None),
        (429, error("No credits", "invalid_billing"), REFUSED, "rate_limited", False, None),
        (500, error(LIMIT), FAILED, "internal_server_error", False, None),
        (500, error("x", "rate_limited"), FAILED, "internal_server_error", False, None),
        (400, error(LIMIT), FAILED, "http_400", False, None),
        (403, error("x", "rate_limited"), FAILED, "http_403", False, None),
        (503, error(LIMIT, "rate_limited"), AMBIGUOUS, "gateway", True, None),
        (200, error(LIMIT, "rate_limited"), FAILED, "run_failed", True, None),
        # the runner's own words in the server's mouth say nothing
        (400, error("x", "interrupted"), FAILED, "http_400", False, None),
        (500, error("x", "not_sent"), FAILED, "internal_server_error", False, None),
        (401, error("x", "tls"), REFUSED, "unauthorized", False, StopCode.UNAUTHORIZED),
        # a proxy may have given up on work that goes on: the row is ambiguous, and the run ends
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
        # a 500 proves nothing unless it is the API's own
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
def test_each_answer_has_its_class(status, body, verdict, code, maybe_paid, stop):
    """Code, then message, then status; what proves nothing is ambiguous."""
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
def test_each_way_of_getting_no_answer_has_its_class(failure, verdict, code, stop):
    """Only the first two prove that nothing was sent."""
    outcome = classify(reply(None, failure=failure))
    assert (outcome.verdict, outcome.code, outcome.stop) == (verdict, code, stop)
    assert outcome.maybe_paid == (verdict is AMBIGUOUS)


@pytest.mark.parametrize("status", [200, 400, 401, 402, 403, 404, 429, 500])
@pytest.mark.parametrize(
    ("failure", "code"), [(Failure.TIMEOUT, "timeout"), (Failure.DISCONNECTED, "disconnected")]
)
def test_an_answer_that_did_not_end_is_not_judged_by_its_status(status, failure, code):
    """A status line with a body that never comes proves nothing, whatever it says."""
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
def test_a_success_whose_body_did_not_come_whole_is_ambiguous(status, failure, code):
    """Even when what came happens to be readable."""
    outcome = classify(reply(status, {"success": True, "result": "x"}, failure))
    assert (outcome.verdict, outcome.code) == (AMBIGUOUS, code)


def test_a_cut_500_is_not_the_apis_own():
    """Half of its JSON may be anything."""
    assert classify(reply(500, error(), Failure.CUT)).verdict is AMBIGUOUS


def test_only_the_apis_json_500_may_be_tried_again():
    """Failures of the request itself stay failures."""
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
def test_whatever_comes_only_proof_frees_a_row(status, body, failure):
    """No answer raises; a refusal needs 401, 402, 404, 429, the API's own words, or no byte."""
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
def test_a_paid_row_never_fails_for_the_shape_of_its_result(result, kept, flag):
    """What is not text stands as JSON text, flagged."""
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
    """The readable ones as a table, and all of them as they came."""
    answer = read_answer(json.dumps({"result": "x", "citations": citations}).encode())
    assert answer.citations == tuple(Citation(*pair) for pair in kept)
    assert json.loads(answer.citations_raw) == citations
    assert ("citations_odd" in answer.flags) == odd


def test_absent_citations_have_no_raw_text():
    """Absent and null can be told apart."""
    assert read_answer(b'{"result":"x"}').citations_raw is None
    assert read_answer(b'{"result":"x","citations":null}').citations_raw == "null"


def test_a_lone_surrogate_is_kept_raw_and_flagged():
    """No text column holds it, and the row was paid."""
    answer = read_answer(b'{"result":"a\\ud800b","usage":{"tokens":7}}')
    assert answer.result == "a\N{REPLACEMENT CHARACTER}b"
    assert answer.flags == ("result_repaired",)
    extra = json.loads(answer.extra)
    assert extra == {"usage": {"tokens": 7}, "result": "a\ud800b"}
    answer.extra.encode()


def test_other_fields_stay_in_extra():
    """Whatever else the answer held."""
    assert json.loads(read_answer(b'{"success":true,"result":"x","id":"r1"}').extra) == {"id": "r1"}


@pytest.mark.parametrize("body", [b"", b"null", b"{}", b"[]", b"{", b'{"success":true}', b"\xff"])
def test_what_holds_no_answer_is_unreadable(body):
    """Not JSON, not an object, or no result."""
    with pytest.raises(Unreadable):
        read_answer(body)


@pytest.mark.parametrize("depth", [250, 900, 100_000])
def test_an_answer_that_is_nested_beyond_reading_is_ambiguous_and_kept(depth):
    """Whatever the depth, and the same on every stack: it was paid, so it is not thrown away."""
    body = b'{"success":true,"result":' + b"[" * depth + b"]" * depth + b"}"
    outcome = classify(reply(200, body))
    assert (outcome.verdict, outcome.code) == (AMBIGUOUS, "bad_response")


def test_an_answer_that_is_nested_as_deep_as_people_write_is_ok():
    """As JSON text."""
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
def test_the_message_is_what_the_server_said_on_one_line(status, body, message):
    """With the status beside it."""
    outcome = classify(reply(status, body))
    assert (outcome.message, outcome.http_status) == (message, status)


def test_a_redirect_says_where_to():
    """The address is in the header alone."""
    headers = {"location": "https://elsewhere.example/run"}
    outcome = classify(Reply(0.0, 1.0, 308, headers, b""))
    assert outcome.message == (
        "The server redirects to https://elsewhere.example/run. The runner never follows a "
        "redirect."
    )


@pytest.mark.parametrize(("status", "failure"), [(None, Failure.TIMEOUT), (200, Failure.CUT)])
def test_an_attempt_without_an_answer_says_what_happened(status, failure):
    """In the client's words, with the status if one came."""
    outcome = classify(Reply(0.0, 1.0, status, {}, b"", failure, "no whole\tanswer"))
    assert (outcome.message, outcome.http_status) == ("no whole answer", status)


def test_no_status_and_no_reason_is_a_lost_connection():
    """As ambiguous as any other."""
    outcome = classify(reply(None))
    assert (outcome.verdict, outcome.code, outcome.maybe_paid) == (AMBIGUOUS, "disconnected", True)


def test_a_message_has_500_characters_at_most_and_ends_where_it_was_cut():
    """A page may be long; of a body no more than 500 characters of four bytes are looked at."""
    assert classify(reply(400, error("x" * 500))).message == "x" * 500
    assert classify(reply(400, error("x" * 501))).message == "x" * 499 + "…"
    assert classify(reply(502, "😀".encode() * 501)).message == "😀" * 500
    assert classify(reply(502, b"x" * 501)).message == "x" * 499 + "…"


@pytest.mark.parametrize(("opening", "closing"), [(b"[", b"]"), (b'{"a":', b"}")])
def test_an_answer_may_be_nested_200_deep_and_no_deeper(opening, closing):
    """The object and the number inside count too. Depth counts, not the number of brackets."""

    def nested(levels: int) -> bytes:
        inner = opening * levels + b"1" + closing * levels
        return b'{"result":' + inner + b',"wide":[' + b",".join([b"[]"] * 300) + b"]}"

    assert read_answer(nested(198)).result == (opening * 198 + b"1" + closing * 198).decode()
    with pytest.raises(Unreadable, match="not a JSON object"):
        read_answer(nested(199))


def test_surrogates_in_citations_are_repaired_and_kept_in_the_raw_text():
    """No text column holds them."""
    answer = read_answer(
        b'{"result":"x","citations":["u\\ud800",{"title":"t\\udfff","url":"\\ud83d"}],"n":"\\ud800"}'
    )
    assert answer.citations == (Citation("", "u\ufffd"), Citation("t\ufffd", "\ufffd"))
    assert answer.citations_raw == '["u\\ud800",{"title":"t\\udfff","url":"\\ud83d"}]'
    assert answer.extra == '{"n":"\\ud800"}'
    assert answer.flags == ()


def test_texts_that_are_no_surrogates_stay_readable_in_json_text():
    """As they came, without spaces, not as escapes."""
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


@settings(deadline=None)  # the first one makes the expressions
@given(
    st.dictionaries(st.text("abc", max_size=2), JSON, max_size=4),
    st.sampled_from((None, 1)),
    st.none() | st.tuples(st.integers(0), st.sampled_from(["", *',:[]{}"\\ 0'])),
)
def test_a_body_of_many_values_is_json_exactly_where_pythons_reader_says_so(value, indent, spoil):
    """Whatever one character more or less makes of it; and it means the same."""
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
def test_what_is_nested_is_found_to_its_end_however_deep(depth):
    """Lists in objects in lists, with something beside each."""
    text = "[1," * depth + '{"a":[]}' + ",2]" * depth
    whole = json_text._outermost('{"success":true,"more":' + text + ',"result":"x"}')
    assert whole == {"success": True, "more": json_text.JsonText(text), "result": "x"}
    with pytest.raises(RecursionError):
        json_text._outermost('{"a":' + "[" * 300 + "]" * 300 + "}")


def test_citations_beyond_ten_thousand_are_text_and_the_answer_says_so():
    """Of small and of large answers alike: none is lost."""
    for number in (10_000, 10_001, 250_000):
        cited = [f"https://x.example/{n}" for n in range(number)]
        cited[5] = {"title": "t" * 5, "url": "u"}  # type: ignore[call-overload]
        answer = read_answer(json.dumps({"result": "x", "citations": cited}).encode())
        assert len(answer.citations) == 10_000
        assert answer.citations[5] == Citation("ttttt", "u")
        assert json.loads(answer.citations_raw or "") == cited
        assert answer.flags == (("citations_cut",) if number > 10_000 else ())


def test_a_long_message_is_cut_before_it_is_looked_at():
    """30 million words would be as many objects."""
    message = classify(reply(400, error("a " * 1_000_000))).message
    assert len(message) == 500
    assert message.endswith("…")
