"""Tests the bound from above that answers give for the limiter's window."""

from __future__ import annotations

from pipeline.policy.upper_bound import UpperBound


def test_the_highest_age_is_a_bound_once_it_is_a_third_of_the_time_seen():
    """Before that, all answers may have come at the start of a window."""
    bound = UpperBound()
    ages = [0.2, 1.0, 0.4, 0.6, 0.8, 0.3, 0.5]
    given = [bound.see(10.0 + n / 2, age, 10.0) for n, age in enumerate(ages)]
    assert given == [None] * 6 + [1.0]


def test_answers_that_lie_close_together_say_nothing_yet():
    """Fifty in half a second saw at most one end of a window, in whatever order they came."""
    bound = UpperBound()
    assert [bound.see(10.0 + (n * 7 % 50) / 100, 1.0, 10.0) for n in range(50)] == [None] * 50
    assert bound.see(13.1, 0.1, 10.0) == 1.0


def test_four_answers_are_too_few():
    """Each may have come at the start of a window."""
    bound = UpperBound()
    assert [bound.see(10.0 + n, 0.1, 10.0) for n in range(6)] == [None] * 5 + [0.1]


def test_the_latest_answers_count_even_after_a_long_window():
    """Others used the key, and then they left."""
    bound = UpperBound()
    for n in range(100):
        assert bound.see(n / 2, 10.0, 10.0) is None
    given = [bound.see(50.0 + n / 2, 1.0, 10.0) for n in range(10)]
    assert given[:6] == [None] * 6
    assert given[7] == 1.0


def test_a_bound_above_half_of_the_believed_window_is_none():
    """A tooth and jitter may explain it."""
    bound = UpperBound()
    assert not any(bound.see(n / 2, 5.0, 10.0) for n in range(200))
