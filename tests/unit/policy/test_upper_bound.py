"""Tests the bound from above that answers give for the limiter's window."""

from __future__ import annotations

import pytest

from pipeline.policy.upper_bound import UpperBound

LIMIT = 50


def test_the_highest_age_is_a_bound_once_it_is_a_third_of_the_time_seen():
    """Before that, all answers may have come at the start of a window."""
    bound = UpperBound()
    ages = [0.2, 1.0, 0.4, 0.6, 0.8, 0.3, 0.5]
    given = [bound.see(10.0 + n / 2, age, 10.0, LIMIT) for n, age in enumerate(ages)]
    assert given == [None] * 6 + [1.0]


def test_answers_that_lie_close_together_say_nothing_yet():
    """Fifty in half a second saw at most one end of a window, in whatever order they came."""
    bound = UpperBound()
    assert [bound.see(10.0 + (n * 7 % 50) / 100, 1.0, 10.0, LIMIT) for n in range(50)] == [
        None
    ] * 50
    assert bound.see(13.1, 0.1, 10.0, LIMIT) == 1.0


def test_four_answers_are_too_few():
    """Each may have come at the start of a window."""
    bound = UpperBound()
    assert [bound.see(10.0 + n, 0.1, 10.0, LIMIT) for n in range(6)] == [None] * 5 + [0.1]


def test_the_latest_answers_count_even_after_a_long_window():
    """Others used the key, and then they left."""
    bound = UpperBound()
    for n in range(100):
        assert bound.see(n / 2, 10.0, 10.0, LIMIT) is None
    given = [bound.see(50.0 + n / 2, 1.0, 10.0, LIMIT) for n in range(10)]
    assert given[:6] == [None] * 6
    assert given[7] == 1.0


@pytest.mark.parametrize(
    ("limit", "age_s", "given"),
    [(50, 7.8, False), (50, 7.7, True), (5, 6.1, False), (5, 6.0, True)],
)
def test_a_bound_that_jitter_explains_is_none(limit, age_s, given):
    """That is a quarter of it, and two requests, which weigh more where the limit is small."""
    bound = UpperBound()
    assert any(bound.see(n / 2, age_s, 10.0, limit) for n in range(200)) is given


def test_answers_on_both_sides_of_a_pause_are_no_bound():
    """No answer saw what came in between. The first one after it shows how old the sends are."""
    bound = UpperBound()
    for n in range(10):
        assert bound.see(10.0 + n / 2, 1.0 + n / 2, 100.0, LIMIT) is None
    assert bound.see(75.0, 61.0, 100.0, LIMIT) is None


def test_the_length_of_the_believed_window_is_time_enough():
    """A window that is as long as that has ended once in it, however high the ages are."""
    bound = UpperBound()
    given = [bound.see(n / 2, 7.0, 10.0, LIMIT) for n in range(24)]
    assert given[:22] == [None] * 22
    assert given[22] == 7.0


def test_each_of_a_few_slow_answers_is_looked_at():
    """With a pace kept for a window of ten minutes, an answer comes every 13 s, and two of them are
    one step. The sixth is proof enough. A run that waited for the next step would lose 13 s."""
    bound = UpperBound()
    given = [bound.see(13.0 * n, 12.0, 600.0, LIMIT) for n in range(1, 7)]
    assert given == [None] * 5 + [12.0]
