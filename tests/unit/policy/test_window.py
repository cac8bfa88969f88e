"""Tests send times and the estimates of the limiter's window from them, without a controller."""

from __future__ import annotations

import math

import pytest

from pipeline.policy.sends import Sends
from pipeline.policy.window import LONGEST_WINDOW_S, Sample, WindowEstimate, above, snapped


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
    assert sends.count(1.0, 4.0) == 2
    assert (sends.span_s(4.0), sent().span_s(4.0)) == (3.0, 0.0)


def test_all_sends_count_if_nearly_all_of_them_were_counted():
    """One of two that leave at once may overtake the other. Of a hundred, a few may."""
    few, many = sent(1.0, 2.0, 4.0), sent(*map(float, range(100)))
    assert [few.are_all(4.0, n) for n in (1, 2, 3)] == [False, True, True]
    assert [many.are_all(99.0, n) for n in (94, 95, 100)] == [False, True, True]


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
    assert not sends.are_all(1e9, len(sends))


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


def test_two_whole_windows_outweigh_a_denial_before_them():
    """Others used the rest of a fixed window of 10 s and left, so the denial's bound was theirs."""
    estimate, sends = WindowEstimate(window_s=10.0), Sends()
    estimate.at_least(0.0, 18.0)
    assert estimate.window_s == 20.0
    for number in range(1, 35 * 5):
        at = number / 5
        sends.add(at, 50)
        estimate.see(sends, at, 50, 1 + number % 50)
    assert estimate.bound_s(at) == 18.0  # it is still valid otherwise
    assert estimate.window_s < 20.0


def believed(times: list[float], denied: tuple[float, float] | None = None) -> set[float]:
    """Returns the windows that were believed of fixed windows of 10 s, for requests at `times`, of
    which those between two times were denied."""
    estimate, sends = WindowEstimate(), Sends()
    found, used, window = set(), 0, 0.0
    for at in times:
        if denied and denied[1] == at:
            estimate.paused(*denied)
        if at // 10 > window:
            used, window = 0, at // 10
        used += 1
        sends.add(at, 50)
        estimate.see(sends, at, 50, used)
        found.add(estimate.window_s)
    return found - {None}


def evenly(first: float, end: float) -> list[float]:
    """Returns four times per second."""
    return [first + number / 4 for number in range(round(4 * (end - first)))]


@pytest.mark.parametrize("first", [10.25, 13.0, 14.5])
def test_a_window_that_began_between_two_sparse_requests_is_not_taken_for_a_shorter_one(first):
    """A window of 10 s whose first request comes 4.5 s late shows 5.5 s of itself. Each attempt at
    a shorter one would cost denials."""
    burst = [number / 10 for number in range(40)]
    assert believed([*burst, 8.0, *evenly(first, 25.0)]) == {10.0}


def test_a_window_did_not_begin_before_a_denial():
    """The last request that was let through, 8 s before, says nothing then."""
    burst = [number / 25 for number in range(50)]
    assert believed([*burst, *evenly(10.0, 25.0)], denied=(2.0, 10.0)) == {10.0}


@pytest.mark.parametrize(
    ("limit", "bound_s", "window_s"), [(50, 10.4, 10.4), (50, 9.8, 10.0), (5, 10.4, 11.44)]
)
def test_a_bound_that_moves_a_sampled_window_is_hardly_rounded(limit, bound_s, window_s):
    """Next to others no window is round, and to round by a fifth would leave a fifth unused. With
    a limit below ten, one request more or less is as much."""
    estimate = WindowEstimate(window_s=9.0, _sampled_s=9.0, _limit=limit)
    estimate.at_least(100.0, 9.5)
    estimate.at_least(101.0, bound_s)
    assert estimate.window_s == pytest.approx(window_s)


def test_samples_that_look_back_over_a_pause_are_dropped_while_the_window_is_unknown():
    """The burst before it would look like a window of 2 s, and the gap like one of 30 s."""
    estimate, sends = WindowEstimate(), Sends()
    for number in range(100):
        at = number / 25
        sends.add(at, 50)
        if at >= 3:
            estimate._samples.append(Sample(at, 2.0, 50, 2.0))
    estimate.paused(4.0, 32.0)
    assert len(estimate._samples) == 0
    for number in range(60):
        at = 32.0 + number / 2
        sends.add(at, 50)
        estimate.see(sends, at, 50, min(number, 20) + 5)
    assert min(sample.at - sample.age for sample in estimate._samples) >= 32.0
    kept = WindowEstimate(window_s=20.0)
    kept._samples.append(Sample(3.0, 2.0, 50, 2.0))
    kept.paused(4.0, 32.0)
    assert len(kept._samples) == 1


def test_samples_that_look_back_over_a_pause_do_not_make_a_known_window_longer():
    """Others use half of 50 per 10 s, and a pause of 8 s stops all. So the 50th last request of
    this run is 20 s old, and 28 s from the tenth to the twentieth second after the pause."""
    estimate, sends = WindowEstimate(), Sends()
    believed = []
    for number in range(300):
        at = number * 0.4 + (8.0 if number >= 150 else 0.0)
        if number == 150:
            estimate.paused(60.0, 68.0)
        sends.add(at, 50)
        estimate.see(sends, at, 50, 2 * sends.count(at - 10.0, at))
        believed.append(estimate.window_s or 20.0)
    assert max(believed) < 21.0


def test_the_first_samples_after_a_pause_do_not_make_a_known_window_shorter():
    """Each reaches back to the end of the pause, so it rises. Next to those from before the pause
    it would look like half a window: 600 per 60 s were believed to be 600 per 48 s."""
    estimate = WindowEstimate(window_s=60.0)
    estimate._samples.extend(Sample(250.0 + n, 59.9, 600, 60.0) for n in range(32))
    estimate.paused(282.0, 345.0)
    estimate._samples.extend(Sample(371.0 + n, 26.0 + n, 260 + 10 * n, 26.0 + n) for n in range(6))
    estimate._estimate(600)
    assert estimate.window_s == 60.0


def test_a_denial_soon_after_a_pause_does_not_refute_a_known_window():
    """Others took the place of the requests that the run lacks. Only time outside it counts."""
    for bound_s, refuted in ((14.0, False), (20.0, True)):
        estimate = WindowEstimate(window_s=10.0, _sampled_s=10.0, _limit=50)
        estimate.paused(40.0, 48.0)
        assert estimate.refuted_by(50.0, bound_s) is refuted
        assert not estimate.refuted_by(50.0, 3.0)


def test_a_wait_that_was_asked_for_is_the_window_for_the_time_being():
    """The longest one counts, and none once the window is known."""
    estimate = WindowEstimate()
    for wait_s in (37.0, 12.0):
        estimate.asked(wait_s)
        assert estimate.guess(100.0) == 37.0
    known = WindowEstimate(window_s=10.0)
    known.asked(60.0)
    assert (known.guess(100.0), known.prior_s) == (10.0, None)
