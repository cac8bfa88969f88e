"""Send times and what they say of the limiter's window, without any controller."""

from __future__ import annotations

import math

import pytest

from pipeline.policy.window import LONGEST_WINDOW_S, Sends, WindowEstimate, above, snapped


def sent(*times: float, limit: int = 50) -> Sends:
    sends = Sends()
    for at in times:
        sends.add(at, limit)
    return sends


def test_the_age_of_the_nth_last_send_is_known_while_there_were_so_many():
    """Counted from any time on, also one in the past."""
    sends = sent(1.0, 2.0, 4.0)
    assert [sends.age(4.0, n) for n in (1, 2, 3, 4)] == [0.0, 2.0, 3.0, None]
    assert sends.age(3.0, 1) == 1.0
    assert sends.age(0.5, 1) is None
    assert [sends.is_first(4.0, n) for n in (2, 3)] == [False, True]
    assert sends.count(1.0, 4.0) == 2


def test_a_send_is_never_noted_before_the_one_before_it_but_for_one_that_was_late():
    """Clocks may stand still; a late one belongs to when it left."""
    sends = sent(2.0, 1.0)
    assert (sends.latest, sends.count(1.9, 2.0)) == (2.0, 2)
    sends.put(1.5)
    assert (sends.latest, sends.count(1.0, 1.5)) == (2.0, 1)
    sends.put(3.0)
    assert sends.latest == 3.0


def test_only_a_send_that_is_there_can_be_taken_off():
    """One between others, or later than all, is not."""
    sends = sent(1.0, 2.0)
    assert [sends.forget(at) for at in (1.5, 3.0, 1.0, 1.0)] == [False, False, True, False]
    assert len(sends) == 1


def test_once_old_sends_were_dropped_none_of_those_left_was_the_first():
    """Or a cut history would be taken for the start of the run."""
    sends = sent(*(float(n) for n in range(25_130)), limit=50)
    assert len(sends) == 20_100 + (25_130 - 25_126)
    assert not sends.is_first(1e9, len(sends))


def test_windows_are_round_where_a_round_one_is_near():
    """They are set by people; 1.3 s is none."""
    assert [snapped(s, 0.03) for s in (0.98, 1.02, 1.3, 59.0)] == [1.0, 1.0, 1.3, 60.0]
    assert above(9.0) == 10.0
    assert above(7.0) == pytest.approx(7.7)


def test_a_bound_holds_for_twice_its_length_and_the_longest_counts():
    """What was seen long ago may come from another limit."""
    estimate = WindowEstimate()
    assert estimate.guess(0.0) is None
    estimate.at_least(0.0, 9.0)
    estimate.at_least(1.0, 4.0)
    assert (estimate.bound_s(18.0), estimate.bound_s(18.1)) == (9.0, 0.0)
    assert estimate.guess(1.0) == 10.0
    estimate.at_least(1.0, 1e9)
    assert estimate.guess(1.0) == LONGEST_WINDOW_S


def test_what_an_earlier_run_knew_is_given_up_when_a_denial_shows_it_wrong():
    """Not for one that snapping explains."""
    estimate = WindowEstimate()
    estimate.prior_s = 10.0
    assert not estimate.refuted_by(100.0, 11.0)
    assert estimate.prior_s == 10.0
    assert not estimate.refuted_by(100.0, 30.0)
    assert (estimate.prior_s, estimate.guess(100.0)) == (None, 30.0)


def test_what_is_known_grows_with_the_number_of_runs_and_rests_for_a_window():
    """Others take their part; what was sent before they came says nothing of it."""
    estimate = WindowEstimate()
    estimate.prior_s = 10.0
    estimate.scale(2.0, 100.0)
    assert (estimate.prior_s, estimate.guess(100.0)) == (20.0, 20.0)
    estimate.window_s = 10.0
    estimate.scale(3.0, 100.0)
    assert estimate.window_s == 30.0
    assert not estimate.refuted_by(100.0 + 11.9, 1000.0)
    assert estimate.window_s == 30.0
    assert estimate.refuted_by(100.0 + 40.0, 1000.0)
    assert estimate.window_s is None
    assert math.isfinite(estimate.guess(140.0))
