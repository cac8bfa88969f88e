"""Tests the bound from above that answers give for the limiter's window."""

from __future__ import annotations

from pipeline.policy.upper_bound import UpperBound


def test_the_highest_age_is_a_bound_once_eight_answers_span_three_times_as_much():
    """Before that, all of them may have come at the start of a window."""
    bound = UpperBound()
    ages = [0.2, 1.0, 0.4, 0.6, 0.8, 0.3, 0.5, 0.2]
    assert [bound.see(10.0 + n / 2, age) for n, age in enumerate(ages)] == [None] * 7 + [1.0]


def test_answers_that_lie_close_together_say_nothing_yet():
    """Eight in a tenth of a second saw at most one end of a window. The order does not matter."""
    bound = UpperBound()
    assert [bound.see(10.0 - n / 100, 1.0) for n in range(50)] == [None] * 50
    assert bound.see(12.6, 0.1) == 1.0


def test_after_a_bound_the_next_one_needs_as_many_answers_again():
    """An old age says nothing about a limit that changed."""
    bound = UpperBound()
    given = [bound.see(float(n), 1.0 if n < 8 else 0.5) for n in range(16)]
    assert [number for number, one in enumerate(given) if one] == [7, 15]
    assert given[15] == 0.5
