"""The advice for each error code."""

from __future__ import annotations

import pytest

from pipeline.core.model import API_CODES, ErrorCode, State
from pipeline.status.advice import advise, edit_first

CODES = sorted({*ErrorCode, *API_CODES, "http_403", "http_404", "http_413", "http_451", "new_code"})


@pytest.mark.parametrize("code", CODES)
def test_every_code_has_advice_and_that_for_pending_rows_says_they_are_sent_again(code):
    """A pending row has retries left, so its advice must not say that they are used up."""
    assert advise(State.FAILED, code)
    waiting = advise(State.PENDING, code)
    assert "retries included" not in waiting
    assert "may have been paid" not in waiting


def test_the_advice_for_a_code_that_needs_an_edit_says_so():
    """And no other code needs one."""
    edited = {code for code in CODES if edit_first(code)}
    assert edited == {"request_blocked", "missing_input", "http_413"}
    for code in edited:
        assert advise(State.FAILED, code).endswith(", then run again.")


@pytest.mark.parametrize("state", [State.FAILED, State.AMBIGUOUS, State.PENDING])
def test_advice_is_whole_sentences_and_calls_nothing_paid_in_a_rehearsal(state):
    """For every code."""
    for code in CODES:
        for text in (advise(state, code), advise(state, code, maybe_paid=True)):
            assert all(sentence[0].isupper() or sentence[0] == "`" for sentence in text.split(". "))
            assert text.endswith(".")
        assert "paid" not in advise(state, code, maybe_paid=True, rehearsal=True)


def test_the_advice_for_an_ambiguous_row_names_both_decisions_and_for_a_settled_one_the_question():
    """`settle` turns the first into the second."""
    assert advise(State.AMBIGUOUS, "timeout").endswith(
        "`resume --ambiguous` sends it again, `settle` gives it up."
    )
    assert advise(State.FAILED, "timeout").endswith("`resume` sends it again and asks first.")
    assert "settle" not in advise(State.FAILED, "internal_server_error")


def test_the_advice_for_rows_that_may_have_been_billed_does_not_say_that_nothing_was_paid():
    """A server can answer 200 with `success: false` and any code."""
    assert "Nothing was paid." in advise(State.FAILED, "request_blocked")
    told = advise(State.FAILED, "request_blocked", maybe_paid=True)
    assert "Nothing was paid." not in told
    assert "The request may have been paid." in told
