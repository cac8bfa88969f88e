"""Tests send times and the estimates of the limiter's window from them, without a controller."""

from __future__ import annotations

import math

import pytest

from pipeline.policy.window import LONGEST_WINDOW_S, Sends, WindowEstimate, above, snapped


def sent(*times: float, limit: int = 50) -> Sends:
    sends = Sends()
    for at in times:
        sends.add(at, limit)
    return sends


def test_the_age_of_the_nth_last_send_is_known_if_there_were_n_sends():
    """The time to count from may be in the past."""
    sends = sent(1.0, 2.0, 4.0)
    assert [sends.age(4.0, n) for n in (1, 2, 3, 4)] == [0.0, 2.0, 3.0, None]
    assert sends.age(3.0, 1) == 1.0
    assert sends.age(0.5, 1) is None
    assert [sends.is_first(4.0, n) for n in (2, 3)] == [False, True]
    assert sends.count(1.0, 4.0) == 2


def test_sends_are_noted_in_order_except_for_one_that_was_late():
    """Clocks may stand still. A late send belongs to the time at which it left."""
    sends = sent(2.0, 1.0)
    assert (sends.latest, sends.count(1.9, 2.0)) == (2.0, 2)
    sends.put(1.5)
    assert (sends.latest, sends.count(1.0, 1.5)) == (2.0, 1)
    sends.put(3.0)
    assert sends.latest == 3.0


def test_only_a_noted_send_can_be_forgotten():
    """A time between two sends, or after all of them, cannot."""
    sends = sent(1.0, 2.0)
    assert [sends.forget(at) for at in (1.5, 3.0, 1.0, 1.0)] == [False, False, True, False]
    assert len(sends) == 1


def test_after_old_sends_were_dropped_no_send_counts_as_the_first():
    """Otherwise a cut history would look like the start of the run."""
    sends = sent(*(float(n) for n in range(25_130)), limit=50)
    assert len(sends) == 20_100 + (25_130 - 25_126)
    assert not sends.is_first(1e9, len(sends))


def test_an_estimate_near_a_round_window_is_rounded_to_it():
    """People set windows, and no one sets 1.3 s."""
    assert [snapped(s, 0.03) for s in (0.98, 1.02, 1.3, 59.0)] == [1.0, 1.0, 1.3, 60.0]
    assert above(9.0) == 10.0
    assert above(7.0) == pytest.approx(7.7)


def test_a_bound_is_valid_for_twice_its_length_and_the_longest_counts():
    """An older one may come from another limit."""
    estimate = WindowEstimate()
    assert estimate.guess(0.0) is None
    estimate.at_least(0.0, 9.0)
    estimate.at_least(1.0, 4.0)
    assert (estimate.bound_s(18.0), estimate.bound_s(18.1)) == (9.0, 0.0)
    assert estimate.guess(1.0) == 10.0
    estimate.at_least(1.0, 1e9)
    assert estimate.guess(1.0) == LONGEST_WINDOW_S


def test_the_window_of_an_earlier_run_is_dropped_when_a_denial_refutes_it():
    """A denial that rounding can explain does not refute it."""
    estimate = WindowEstimate()
    estimate.prior_s = 10.0
    assert not estimate.refuted_by(100.0, 11.0)
    assert estimate.prior_s == 10.0
    assert not estimate.refuted_by(100.0, 30.0)
    assert (estimate.prior_s, estimate.guess(100.0)) == (None, 30.0)


def test_the_window_grows_with_the_number_of_runs_and_is_not_changed_for_one_window():
    """The other runs take their part. Sends from before they came say nothing about it."""
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


def test_a_peak_that_a_pause_made_gives_way_to_samples_that_lie_level():
    """Two requests per second, 40 of them counted at first, and 20 from one answer to the next."""
    estimate, sends = WindowEstimate(window_s=20.0), Sends()
    for number in range(200):
        at = number / 2
        sends.add(at, 60)
        used = 40 if 40 <= at < 60 else 20
        if at >= 40:
            estimate.see(sends, at, 60, used)
    assert estimate.window_s < 18
