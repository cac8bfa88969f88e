"""What is said of an error code."""

from __future__ import annotations

import pytest

from pipeline.core.model import API_CODES, ErrorCode, State
from pipeline.status.advice import advise, edit_first

CODES = sorted({*ErrorCode, *API_CODES, "http_403", "http_404", "http_413", "http_451", "new_code"})


@pytest.mark.parametrize("code", CODES)
def test_every_code_has_advice_and_no_row_with_retries_left_is_said_to_have_used_them(code):
    """Of a pending row the server said no for now; the next run sends it."""
    assert advise(State.FAILED, code)
    waiting = advise(State.PENDING, code)
    assert "retries included" not in waiting
    assert "may have been paid" not in waiting


def test_a_code_that_only_an_edit_helps_says_so():
    """And no other does."""
    edited = {code for code in CODES if edit_first(code)}
    assert edited == {"request_blocked", "missing_input", "http_413"}
    for code in edited:
        assert advise(State.FAILED, code).endswith(", then run again.")


@pytest.mark.parametrize("state", [State.FAILED, State.AMBIGUOUS, State.PENDING])
def test_advice_is_whole_sentences_and_calls_nothing_paid_in_a_rehearsal(state):
    """Whatever the code."""
    for code in CODES:
        for text in (advise(state, code), advise(state, code, maybe_paid=True)):
            assert all(sentence[0].isupper() or sentence[0] == "`" for sentence in text.split(". "))
            assert text.endswith(".")
        assert "paid" not in advise(state, code, maybe_paid=True, rehearsal=True)


def test_a_row_that_may_have_been_billed_is_not_said_to_have_cost_nothing():
    """A server can answer 200 with `success: false` and any code."""
    assert "Nothing was paid." in advise(State.FAILED, "request_blocked")
    told = advise(State.FAILED, "request_blocked", maybe_paid=True)
    assert "Nothing was paid." not in told
    assert "The request may have been paid." in told
