"""The advice for each error code."""

from __future__ import annotations

import pytest

from pipeline.core.model import API_CODES, ErrorCode, State
from pipeline.status.advice import advise, edit_first

CODES = sorted({*ErrorCode, *API_CODES, "http_403", "http_404", "http_413", "http_451", "new_code"})


@pytest.mark.parametrize("code", CODES)
def test_every_code_has_advice_and_that_for_pending_rows_says_they_are_sent_again(code):
    """A pending row has retries left, so its advice must not say that they are used up."""
    assert advise(State.FAILED, code, maybe_paid=False)
    waiting = advise(State.PENDING, code, maybe_paid=False)
    assert "the retries" not in waiting
    assert "may have been paid" not in waiting


def test_the_advice_for_a_code_that_needs_an_edit_says_so():
    """And no other code needs one."""
    edited = {code for code in CODES if edit_first(code)}
    assert edited == {"request_blocked", "missing_input", "http_413"}
    for code in edited:
        assert advise(State.FAILED, code, maybe_paid=False).endswith(", then run again.")


@pytest.mark.parametrize("state", [State.FAILED, State.AMBIGUOUS, State.PENDING])
@pytest.mark.parametrize("maybe_paid", [False, True])
def test_advice_is_whole_sentences_and_calls_nothing_paid_in_a_rehearsal(state, maybe_paid):
    """For every code."""
    for code in CODES:
        text = advise(state, code, maybe_paid=maybe_paid)
        assert all(sentence[0].isupper() or sentence[0] == "`" for sentence in text.split(". "))
        assert text.endswith(".")
        assert "paid" not in advise(state, code, maybe_paid=maybe_paid, rehearsal=True)


@pytest.mark.parametrize("code", CODES)
def test_advice_says_whether_the_request_was_paid_as_the_ledger_knows_it(code):
    """A server can answer 200 with `success: false` and any code."""
    no, maybe = (advise(State.FAILED, code, maybe_paid=known) for known in (False, True))
    assert "Nothing was paid." in no or "nothing was sent" in no
    assert "Nothing was paid." not in maybe
    assert "The request may have been paid." in maybe or "was probably paid." in maybe


def test_the_advice_for_an_ambiguous_row_names_both_decisions_and_for_a_settled_one_the_question():
    """`settle` turns the first into the second."""
    assert advise(State.AMBIGUOUS, "timeout", maybe_paid=True).endswith(
        "`resume --ambiguous` sends it again, `settle` counts it as failed."
    )
    settled = advise(State.FAILED, "timeout", maybe_paid=True)
    assert settled.endswith("`resume` sends it again and asks first.")
    assert "settle" not in advise(State.FAILED, "internal_server_error", maybe_paid=False)
