"""Compares the limiters with simulations that share only the rule with them."""

from __future__ import annotations

import random
from fractions import Fraction

import pytest

from pipeline.sandbox.limiters import (
    KINDS,
    NO_INFORMATION,
    FixedWindow,
    Quota,
    RateLimits,
    SlidingLog,
    SlidingWindow,
    TokenBucket,
)

START_MS = 1_790_000_000_000


def random_times(seed: int, number: int, per_s: float) -> list[int]:
    """Returns times in milliseconds with bursts and silences, `per_s` on average."""
    chance = random.Random(seed)
    now, times = float(START_MS), []
    for _ in range(number):
        now += chance.expovariate(per_s / 1000) * chance.choice([0, 0.2, 1, 1, 2.8])
        times.append(int(now))
    return times


def simulate_sliding_window(
    times: list[int], limits: list[int], window_ms: int, remembers: bool
) -> list[int | None]:
    """Applies the rule of observed.md to the whole list of admitted times, with exact fractions."""
    admitted: list[int] = []
    denied_until = 0
    told: list[int | None] = []
    for now, limit in zip(times, limits, strict=True):
        start = now - now % window_ms
        current = sum(1 for time in admitted if time >= start)
        previous = sum(1 for time in admitted if start - window_ms <= time < start)
        gone = Fraction(now - start, window_ms)
        used = int(previous * (1 - gone)) + current
        if now < denied_until or not used < limit:
            if remembers and now >= denied_until:
                denied_until = start + window_ms
            told.append(None)
            continue
        admitted = [time for time in admitted if time >= start - window_ms] + [now]
        told.append(limit - used - 1)
    return told


@pytest.mark.parametrize("remembers", [False, True])
@pytest.mark.parametrize(("limit", "window_ms"), [(10, 1000), (50, 1000), (7, 3333), (5, 60_000)])
def test_the_sliding_window_agrees_with_a_simulation_request_by_request(
    limit, window_ms, remembers
):
    """It gets 10,000 requests at random times, about twice as many as it admits."""
    times = random_times(limit, 10_000, 2000 * limit / window_ms)
    limiter = SlidingWindow(limit, window_ms, remembers)
    told = [limiter.take(now) for now in times]
    assert told == simulate_sliding_window(times, [limit] * len(times), window_ms, remembers)
    assert 1000 < told.count(None) < 9000


def test_the_sliding_window_agrees_with_a_simulation_while_its_limit_changes():
    """The limit is 50, then 10, then 50 again. Requests that were counted stay counted."""
    times = random_times(1, 10_000, 60)
    limits = [50 if n < 3000 or n > 7000 else 10 for n in range(10_000)]
    limiter = SlidingWindow(50, 1000)
    told = []
    for now, limit in zip(times, limits, strict=True):
        limiter.limit = limit
        told.append(limiter.take(now))
    assert told == simulate_sliding_window(times, limits, 1000, remembers=False)


def test_a_remembered_denial_denies_only_the_rest_of_its_window():
    """Half a window later the plain limiter admits a request that the remembering one denies."""
    plain, remembering = SlidingWindow(2, 1000), SlidingWindow(2, 1000, remembers=True)
    times = [START_MS, START_MS + 1, START_MS + 2, START_MS + 1000, START_MS + 1600]
    assert [plain.take(now) for now in times] == [1, 0, None, None, 1]
    assert [remembering.take(now) for now in times] == [1, 0, None, None, None]
    assert remembering.take(START_MS + 2000) is not None


def test_the_sliding_log_agrees_with_a_count_of_the_last_window():
    """Any period as long as one window has at most `limit` requests."""
    times = random_times(2, 10_000, 40)
    limiter, admitted = SlidingLog(20, 1000), []
    for now in times:
        inside = [time for time in admitted[-20:] if now - time < 1000]
        expected = None if len(inside) == 20 else 19 - len(inside)
        assert limiter.take(now) == expected
        if expected is not None:
            admitted.append(now)


def test_the_fixed_window_agrees_with_a_count_per_window():
    """Each window of the clock has `limit` requests, whatever came just before it."""
    times = random_times(3, 10_000, 40)
    limiter, used = FixedWindow(20, 1000), {}
    for now in times:
        count = used.get(now // 1000, 0)
        assert limiter.take(now) == (None if count == 20 else 19 - count)
        used[now // 1000] = min(20, count + 1)


@pytest.mark.parametrize("step_ms", [1, 1000])
def test_the_token_bucket_agrees_with_exact_fractions(step_ms):
    """It is full at first, then gets `limit` tokens per window, evenly or in clumps."""
    times = random_times(4, 10_000, 40)
    limiter, tokens = TokenBucket(20, 1000, step_ms), Fraction(20)
    last = times[0] - times[0] % step_ms
    for now in times:
        step = now - now % step_ms
        tokens = min(Fraction(20), tokens + Fraction(20 * (step - last), 1000))
        last = step
        if tokens >= 1:
            tokens -= 1
            assert limiter.take(now) == int(tokens)
        else:
            assert limiter.take(now) is None


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_admits_its_limit_at_once_and_recovers(kind):
    """An idle key's first `limit` requests pass and the next one does not. Two windows later all
    pass."""
    limits = RateLimits(kind, 5, 1000)
    assert [limits.take("a", START_MS) for _ in range(6)] == [
        *(Quota(5, 4 - n) for n in range(5)),
        None,
    ]
    assert limits.take("b", START_MS) == Quota(5, 4), "each key has a separate limit"
    assert limits.take("a", START_MS + 2000) == Quota(5, 4)


@pytest.mark.parametrize("kind", KINDS)
def test_a_new_limit_counts_from_the_next_request(kind):
    """It may be higher or lower. The remaining number is never negative."""
    limits = RateLimits(kind, 5, 60_000)
    for _ in range(5):
        limits.take("a", START_MS)
    limits.set_limit(2)
    assert limits.take("a", START_MS + 1) is None
    limits.set_limit(0)
    assert limits.take("a", START_MS + 600_000) is None
    limits.set_limit(8)
    assert limits.take("a", START_MS + 6_000_000) == Quota(8, 7)


def test_without_its_store_the_limiter_admits_every_request_and_counts_none():
    """0 of 0 means that there is no information."""
    limits = RateLimits("sliding-window", 1, 1000)
    limits.store_down = True
    assert {limits.take("a", START_MS) for _ in range(10)} == {NO_INFORMATION}
    limits.store_down = False
    assert limits.take("a", START_MS) == Quota(1, 0)


@pytest.mark.parametrize(
    ("kind", "limit", "window_ms"),
    [("sliding", 5, 1000), ("fixed-window", -1, 1000), ("fixed-window", 5, 0)],
)
def test_invalid_limiter_settings_are_refused(kind, limit, window_ms):
    """The message says what is valid."""
    with pytest.raises(ValueError, match=r"one of sliding-window|0 or more|at least 1 ms"):
        RateLimits(kind, limit, window_ms)
