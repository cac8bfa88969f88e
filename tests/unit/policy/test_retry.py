"""Tests the decision that follows an outcome. The test passes the time in."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.model import Outcome, State, StopCode, Verdict
from pipeline.policy.retry import (
    MOST_PER_MINUTE,
    PROBE_TRUSTED_AFTER_S,
    BackOff,
    Breakers,
    Decision,
    decide,
)

OK = Outcome(Verdict.OK, maybe_paid=True)
LIMITED = Outcome(Verdict.REFUSED, "rate_limited")
NO_CREDITS = Outcome(Verdict.REFUSED, "invalid_billing", stop=StopCode.INVALID_BILLING)
JSON_500 = Outcome(Verdict.FAILED, "internal_server_error", retryable=True)
BLOCKED = Outcome(Verdict.FAILED, "request_blocked", "Blocked")
LOST = Outcome(Verdict.AMBIGUOUS, "disconnected", maybe_paid=True)
PAGE = Outcome(Verdict.FAILED, "http_403", "<html>No</html>", 403, foreign=True)
OTHER_PAGE = Outcome(Verdict.FAILED, "http_404", "<html>No</html>", 404, foreign=True)
STATES = {Verdict.OK: State.OK, Verdict.FAILED: State.FAILED, Verdict.AMBIGUOUS: State.AMBIGUOUS}


def see(breakers: Breakers, outcome: Outcome, nth: int | None = None) -> StopCode | None:
    stopped = breakers.see(outcome, STATES.get(outcome.verdict, State.PENDING), nth)
    return stopped.code if stopped else None


@pytest.mark.parametrize(
    ("outcome", "failures_before", "decision"),
    [
        (OK, 0, Decision(State.OK)),
        (LOST, 0, Decision(State.AMBIGUOUS)),
        (LIMITED, 0, Decision(State.PENDING, 0.0)),
        (LIMITED, 99, Decision(State.PENDING, 60.0)),
        (NO_CREDITS, 0, Decision(State.PENDING)),
        (JSON_500, 0, Decision(State.PENDING, 1.0)),
        (JSON_500, 1, Decision(State.PENDING, 2.0)),
        (JSON_500, 2, Decision(State.FAILED)),
        (BLOCKED, 0, Decision(State.FAILED)),
    ],
)
def test_each_outcome_leads_to_its_decision(outcome, failures_before, decision):
    """There are two retries. Refusals use up none of them."""
    assert decide(outcome, failures_before, retries=2) == decision


def test_without_retries_the_first_failure_is_final():
    """The setting is `retries: 0`."""
    assert decide(JSON_500, 0, retries=0) == Decision(State.FAILED)


def test_a_row_that_may_have_been_paid_is_never_retried():
    """This holds for every verdict and any number of failures."""
    for outcome in (OK, LOST, Outcome(Verdict.FAILED, "run_failed", maybe_paid=True)):
        for failures in range(5):
            assert decide(outcome, failures, retries=10).again_after_s is None


def test_a_row_that_is_refused_repeatedly_waits_longer_each_time():
    """After the first refusal it does not wait, because a 429 can hit any row. Then it waits, up to
    a minute."""
    pauses = [decide(LIMITED, 0, 0, refusals_before=n).again_after_s for n in range(11)]
    assert pauses == [0.0, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0]
    assert decide(LIMITED, 0, 0, refusals_before=10**6).again_after_s == 60.0


@given(st.lists(st.booleans(), min_size=20, max_size=60))
def test_a_row_is_sent_at_most_nine_times_a_minute(refusals):
    """Refusals and failures come in any order, each at once, with any number of retries."""
    now, sent, counts = 0.0, [], {LIMITED: 0, JSON_500: 0}
    for refused in refusals:
        sent.append(now)
        outcome = LIMITED if refused else JSON_500
        after_s = decide(outcome, counts[JSON_500], 10_000, counts[LIMITED]).again_after_s
        assert after_s is not None
        counts[outcome] += 1
        now += after_s
    for begin in sent:
        assert sum(begin <= time < begin + 60 for time in sent) <= MOST_PER_MINUTE


def test_the_bound_of_nine_times_a_minute_is_exact():
    """The number in the code follows from the pauses."""
    pauses = [decide(LIMITED, 0, 0, refusals_before=n).again_after_s for n in range(20)]
    sent = [sum(pauses[:n]) for n in range(20)]
    assert sum(time < 60 for time in sent) == MOST_PER_MINUTE


def test_the_pause_grows_from_one_second_to_a_minute_with_one_probe_at_a_time():
    """An API that is away gets fewer and fewer requests."""
    back_off, now, waits = BackOff(ever_answered=True), 100.0, []
    for _ in range(9):
        back_off.not_sent(now, sent_at=now)
        waits.append(back_off.next_at() - now)
        now = back_off.next_at()
    assert waits == [1, 2, 4, 8, 16, 32, 60, 60, 60]


def test_a_request_sent_before_the_probe_does_not_end_the_wait_for_the_probe():
    """Otherwise a thousand requests that time out one after another would each let another probe
    out."""
    back_off = BackOff()
    back_off.not_sent(100.0, sent_at=100.0)
    back_off.handed_out(101.0)
    back_off.not_sent(101.2, sent_at=99.0)
    assert back_off.shut_until(101.2) == 101.0 + PROBE_TRUSTED_AFTER_S
    back_off.not_sent(101.3, sent_at=100.99)  # the probe itself, by a clock that is a little off
    assert back_off.shut_until(101.3) == 103.3


def test_a_request_that_was_let_through_before_the_pause_is_not_the_probe():
    """It waited for its slot of the pace when the API went away. When it counted as a probe that
    did not fail, the run believed after 31 s that the API had answered."""
    back_off = BackOff()
    back_off.not_sent(100.0, sent_at=100.0)
    back_off.handed_out(100.2)
    back_off.not_sent(100.3, sent_at=100.2)
    assert back_off.shut_until(100.3) == 101.0
    assert back_off.shut_until(101.0) is None
    assert not back_off.ever_answered


def test_requests_sent_before_the_pause_do_not_lengthen_it():
    """Two thousand requests in flight fail together, and that is one piece of news."""
    back_off = BackOff()
    for _ in range(2000):
        back_off.not_sent(100.0, sent_at=99.0)
    assert back_off.next_at() == 101.0


def test_any_response_to_a_request_sent_during_the_pause_ends_it():
    """The response to an earlier request says nothing about connections now."""
    back_off = BackOff()
    back_off.not_sent(100.0, sent_at=100.0)
    assert not back_off.answered(99.0)
    assert back_off.away
    assert back_off.answered(101.0)
    assert not back_off.away
    back_off.not_sent(200.0, sent_at=200.0)
    assert back_off.next_at() == 201.0


def test_while_the_api_is_away_one_request_at_a_time_is_let_through():
    """The first pause is one second, then they get longer. The next probe goes only when the
    outcome of the last one is known."""
    back_off = BackOff()
    assert back_off.shut_until(100.0) is None
    back_off.handed_out(100.0)  # no probe: the API is there
    back_off.not_sent(100.0, sent_at=100.0)
    assert back_off.shut_until(100.0) == 101.0
    assert back_off.shut_until(101.0) is None
    back_off.handed_out(101.0)
    assert back_off.shut_until(101.0) == 101.0 + PROBE_TRUSTED_AFTER_S
    back_off.not_sent(102.0, sent_at=101.0)
    assert back_off.shut_until(102.0) == 104.0
    back_off.handed_out(104.0)
    assert back_off.answered(104.0)
    assert back_off.shut_until(104.0) is None


def test_a_probe_that_did_not_fail_to_connect_in_time_ends_the_pause():
    """Its answer may take minutes, and no other row would be sent until then."""
    back_off = BackOff()
    back_off.not_sent(100.0, sent_at=100.0)
    back_off.handed_out(101.0)
    assert back_off.shut_until(101.0 + PROBE_TRUSTED_AFTER_S - 0.1) is not None
    assert back_off.shut_until(101.0 + PROBE_TRUSTED_AFTER_S) is None
    assert not back_off.away
    # The next failure begins a new pause, whose probe was not sent yet.
    back_off.not_sent(200.0, sent_at=200.0)
    assert back_off.shut_until(200.0) == 201.0


@pytest.mark.parametrize(("ever_answered", "most_s"), [(True, 300.0), (False, 30.0)])
def test_the_run_gives_up_after_five_minutes_or_after_30_s_without_any_response_ever(
    ever_answered, most_s
):
    """A wrong address should not take five minutes to show."""
    back_off = BackOff(ever_answered=ever_answered)
    assert not back_off.given_up(1e9)
    back_off.not_sent(100.0, sent_at=100.0)
    assert not back_off.given_up(100.0 + most_s - 0.1)
    assert back_off.given_up(100.0 + most_s)


def test_an_api_that_answered_once_gets_five_minutes_when_it_goes_away_again():
    """The 30 s are only for an address that has never answered."""
    back_off = BackOff()
    back_off.not_sent(100.0, sent_at=100.0)
    back_off.answered(101.0)
    back_off.not_sent(200.0, sent_at=200.0)
    assert not back_off.given_up(499.9)
    assert back_off.given_up(500.0)


def test_ten_ambiguous_outcomes_in_a_row_stop_the_job():
    """Nine and then an answer do not. Interrupted rows do not count."""
    breakers = Breakers(any_ok=True)
    for _ in range(9):
        assert breakers.see(LOST, State.AMBIGUOUS) is None
    assert breakers.see(OK, State.OK) is None
    interrupted = Outcome(Verdict.AMBIGUOUS, "interrupted", maybe_paid=True)
    for _ in range(20):
        assert breakers.see(interrupted, State.AMBIGUOUS) is None
    for _ in range(9):
        assert breakers.see(LOST, State.AMBIGUOUS) is None
    stopped = breakers.see(LOST, State.AMBIGUOUS)
    assert stopped is not None
    assert stopped.code is StopCode.AMBIGUOUS
    assert stopped.message.startswith("10 answers in a row were lost or unreadable")
    assert "disconnected" in stopped.message


def test_after_such_a_stop_one_more_lost_answer_stops_the_next_run():
    """The next run sends one row first. Otherwise ten more could be paid for nothing."""
    stopped = Breakers(any_ok=True, probing=True).see(LOST, State.AMBIGUOUS)
    assert stopped is not None
    assert stopped.code is StopCode.AMBIGUOUS
    assert stopped.message.startswith("The last run stopped because answers were lost")
    assert "This run first tried one row, and its answer was too (disconnected)" in stopped.message


def test_refusals_in_between_do_not_reset_the_count_of_lost_answers():
    """A limiter may stand in front of an API that is down, and each lost answer may be billed."""
    breakers = Breakers(any_ok=True)
    for _ in range(9):
        assert see(breakers, LOST) is None
        assert see(breakers, LIMITED) is None
        assert see(breakers, PAGE) is None
    assert see(breakers, LOST) is StopCode.AMBIGUOUS


@pytest.mark.parametrize(
    ("outcome", "probing"),
    [(OK, False), (BLOCKED, False), (LIMITED, True), (NO_CREDITS, True), (PAGE, True)],
)
def test_a_response_of_the_api_ends_the_probing_and_a_refusal_does_not(outcome, probing):
    """A refusal, or a filter's page, does not show whether answers arrive whole."""
    breakers = Breakers(any_ok=True, probing=True)
    assert breakers.see(outcome, State.PENDING) is None
    assert breakers.probing is probing
    assert (breakers.see(LOST, State.AMBIGUOUS) is not None) is probing


def test_a_job_stops_if_its_first_ten_rows_fail_with_the_same_code():
    """So a wrong mapping costs ten requests, not twenty thousand."""
    breakers = Breakers(any_ok=False)
    for _ in range(9):
        assert breakers.see(BLOCKED, State.FAILED) is None
        assert breakers.see(JSON_500, State.PENDING) is None
    stopped = breakers.see(BLOCKED, State.FAILED)
    assert stopped is not None
    assert stopped.code is StopCode.ALIKE
    assert stopped.message == (
        "The first 10 rows all failed with the same error (request_blocked: Blocked)."
    )


@pytest.mark.parametrize("other", [OK, JSON_500])
def test_a_job_does_not_stop_if_one_of_its_first_rows_ends_differently(other):
    """One other outcome among the first ten is enough."""
    breakers = Breakers(any_ok=False)
    state = State.OK if other is OK else State.FAILED
    outcomes = [BLOCKED] * 5 + [other] + [BLOCKED] * 30
    for outcome in outcomes:
        assert breakers.see(outcome, state if outcome is other else State.FAILED) is None


@pytest.mark.parametrize("other", [LIMITED, LOST, OTHER_PAGE])
def test_ten_equal_pages_in_a_row_stop_the_job_after_an_ok_row_too(other):
    """A filter may take over in the middle of a run. Only a response of the API shows that the API
    is there."""
    breakers = Breakers(any_ok=True)
    for _ in range(9):
        assert see(breakers, PAGE) is None
    assert see(breakers, OK) is None
    for _ in range(9):
        assert see(breakers, PAGE) is None
    assert see(breakers, other) is None
    stopped = breakers.see(PAGE, State.FAILED)
    assert stopped is not None
    assert stopped.code is StopCode.ALIKE
    assert stopped.message.startswith("10 rows in a row failed with the same error, which does not")
    assert "(http_403: <html>No</html>)" in stopped.message


def test_errors_of_the_api_do_not_count_as_pages():
    """A sheet may have ten bad rows in a row, and the API said so."""
    breakers = Breakers(any_ok=True)
    for _ in range(30):
        assert see(breakers, PAGE) is None
        assert see(breakers, BLOCKED) is None


def test_pages_count_in_a_row_also_by_the_order_of_sending():
    """Answers to requests from before the outage arrive for minutes, between the pages."""
    breakers = Breakers(any_ok=True)
    for nth in range(1, 10):
        assert see(breakers, PAGE, 200 + nth) is None
        assert see(breakers, OK, nth) is None
    assert see(breakers, LIMITED, 210) is None
    assert see(breakers, OK, 10) is None
    assert see(breakers, PAGE, 211) is StopCode.ALIKE


@pytest.mark.parametrize("backwards", [False, True])
def test_the_order_in_which_pages_arrive_does_not_matter(backwards):
    """Responses to requests in flight arrive in any order. A missing response ends the sequence."""
    breakers = Breakers(any_ok=True)
    for nth in (9, 8, 7, 6, 5) if backwards else (5, 6, 7, 8, 9):
        assert see(breakers, PAGE, nth) is None
        assert see(breakers, OK, 100 + nth) is None
    for nth in (3, 2, 1, 0) if backwards else (11, 12, 13, 14):
        assert see(breakers, PAGE, nth) is None
        assert see(breakers, OK, 200 + nth) is None
    assert see(breakers, PAGE, 4 if backwards else 10) is StopCode.ALIKE


def test_a_filter_that_blocks_one_row_in_twenty_does_not_stop_the_job():
    """Its pages arrive at once, while answers to the other rows take minutes."""
    breakers, slow = Breakers(any_ok=True), []
    for nth in range(20_000):
        if nth % 20:
            slow.append(nth)
        else:
            assert see(breakers, PAGE, nth) is None
        if len(slow) > 150:
            assert see(breakers, OK, slow.pop(0)) is None


def test_many_refusals_take_bounded_memory():
    """The record covers as many requests as can be in flight."""
    breakers = Breakers(any_ok=True)
    for nth in range(12_000):
        assert see(breakers, LIMITED, nth) is None
    assert len(breakers._in_a_row._sent) == 10_000
    for nth in range(12_000, 12_009):
        assert see(breakers, PAGE, nth) is None
    assert see(breakers, PAGE, 12_009) is StopCode.ALIKE


def test_in_a_folder_with_an_ok_row_ten_failed_rows_do_not_stop_the_job():
    """A later run may meet ten bad rows in a row."""
    breakers = Breakers(any_ok=True)
    for _ in range(30):
        assert breakers.see(BLOCKED, State.FAILED) is None
