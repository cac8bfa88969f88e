"""Tests the highest rate that is tried while the window is unknown."""

from __future__ import annotations

from pipeline.policy.ceiling import Ceiling


def after_a_denial(cost_s: float, through_per_s: float) -> Ceiling:
    """A ceiling of 6 per second, 1 s old, that was denied for `cost_s`."""
    ceiling = Ceiling(lowest=0.02)
    ceiling.set(6.0, 0.0)
    ceiling.costs(cost_s)
    ceiling.denied_again(through_per_s, 1.0)
    return ceiling


def test_a_long_denial_does_not_delay_the_way_back_to_the_rate_that_was_denied():
    """Only the search for more than that waits ten times as long as the denial took. A key without
    headers stood still for two minutes after a denial of 14 s in which hardly a probe got through.
    """
    ceiling = after_a_denial(14.0, 0.17)
    assert ceiling.per_s(1.0) < 0.2
    back = ceiling.per_s(31.0)
    assert 5.0 < back < 6.0
    assert ceiling.per_s(1.0 + 0.9 * 140.0) == back == ceiling.per_s(61.0)
    assert ceiling.per_s(1.0 + 2.5 * 140.0) > 6.0


def test_without_a_long_denial_the_search_for_more_begins_at_once():
    """That is after half a minute, however few requests were sent."""
    ceiling = after_a_denial(0.0, 0.17)
    assert ceiling.per_s(31.0) < 6.0 < ceiling.per_s(91.0)
