from dataclasses import replace
from statistics import fmean

import pytest

from pipeline.policy.pace import Pace
from pipeline.policy.ramp import Ramp, slow_start
from tests.support.pacing_scenarios import Scenario, play, score
from tests.support.pacing_sim import Runner, between

MINUTE = Scenario("cold", "sliding", 50, 60.0, 0.05, 0.0, 180.0)


def runner(_: Scenario) -> Runner:
    return Runner(Pace())


def test_while_all_requests_count_the_rest_is_spread_over_the_time_so_far():
    ramp = Ramp()
    ramp.see(sent=10, used=10, since_s=4.0)
    assert ramp.per_s(4.1, 50, free=40, late_s=0.1) == 40 / 4
    ramp.see(sent=30, used=30, since_s=8.0)
    assert ramp.per_s(8.1, 50, free=20, late_s=0.1) == 20 / 8
    assert ramp.per_s(8.1, 50, free=-3, late_s=0.1) == 1 / 8  # it still looks for room


def test_the_time_stays_what_it_was_when_requests_stop_counting():
    """The window is hardly longer than that, so what returns is used five times as fast. But no
    window is shorter."""
    ramp = Ramp()
    ramp.see(sent=40, used=40, since_s=8.0)
    ramp.see(sent=44, used=40, since_s=9.0)
    assert ramp.per_s(9.1, 50, free=5, late_s=0.1) == 5 * 5 / 8
    ramp.see(sent=45, used=1, since_s=10.0)
    assert ramp.per_s(10.1, 50, free=49, late_s=0.1) == 50 / 8


def test_an_answer_that_is_old_compared_with_the_window_changes_nothing():
    """Where answers take longer than the window, what they say is left was used again since."""
    ramp = Ramp()
    ramp.see(sent=5, used=5, since_s=1.0)
    assert ramp.per_s(3.1, 50, free=-40, late_s=2.1) == slow_start(3.1, 50)
    ramp.new_limit()
    assert ramp.per_s(1.1, 50, free=40, late_s=0.1) == slow_start(1.1, 50)


def test_next_to_others_a_run_does_not_wait_for_what_they_leave():
    ramp = Ramp()
    ramp.see(sent=10, used=10, since_s=4.0)
    ramp.see(sent=12, used=50, since_s=5.0)
    assert ramp.per_s(5.1, 50, free=0, late_s=0.1) == 50 / 4  # no window is shorter than 4 s


def test_the_slow_start_ends_at_the_limit_or_at_100_per_second():
    assert slow_start(0.0, None) == 5
    assert slow_start(1.0, None) == pytest.approx(15)
    assert slow_start(60.0, 20) == 100
    assert slow_start(60.0, 600) == 600


@pytest.mark.parametrize("kind", ["sliding", "log"])
@pytest.mark.parametrize(
    ("limit", "window_s", "latency_s", "most"),
    [(50, 60.0, 0.05, 10), (600, 60.0, 2.0, 0), (80, 30.0, 0.05, 3), (50, 1.0, 0.05, 0)],
)
def test_a_cold_start_hardly_meets_the_limit(kind, limit, window_s, latency_s, most):
    """Without this ramp, 25 to 40 requests are denied until a long window is known. In a second
    there is no time for the whole limit."""
    scenario = replace(MINUTE, kind=kind, limit=limit, window_s=window_s, latency_s=latency_s)
    for seed in range(3):
        [run], _ = play(scenario, runner, seed)
        assert between(run.denied, 0.0, window_s) <= most
        assert between(run.admitted, 0.0, window_s) >= (0.95 if window_s > 1 else 0.6) * limit


@pytest.mark.parametrize(("kind", "limit"), [("fixed", 15), ("fixed", 10), ("remembering 1", 20)])
def test_a_long_wait_that_a_server_asks_for_costs_a_small_part_of_two_minutes(kind, limit):
    """Such a server asks for 60 s, whatever its window is. Obeyed, it would cost half of the time,
    and then the run would look for its pace for 45 s."""
    scenario = Scenario("asked", kind, limit, 1.0, 2.0, 8.0, 128.0, retry_after="constant 60")
    assert fmean(score(scenario, runner, seed).used for seed in range(3)) >= 0.75


def test_a_second_cold_run_gets_a_part_of_the_key():
    """It sees that the limit is used up, and asks nevertheless: a denial is free."""
    scenario = replace(
        MINUTE, limit=50, window_s=1.0, latency_s=2.0, end_s=240.0, machine_s=0.5, leaves_s=120.0
    )
    [_, second], _ = play(scenario, runner)
    assert between(second.admitted, 60.0, 120.0) >= 0.1 * 50 * 60
    assert between(second.admitted, 180.0, 240.0) >= 0.9 * 50 * 60
    assert score(scenario, runner).used > 0.8


def test_a_denial_that_ends_while_the_clock_stands_still_is_no_error():
    pace = Pace()
    pace.granted(100.0)
    pace.sent(100.0)
    pace.answered(100.0, "50", "49", 100.0)
    for _ in range(2):
        pace.granted(100.0)
        pace.sent(100.0)
        pace.denied(100.0, 100.0)
    pace.granted(100.0)
    pace.sent(100.0)
    pace.answered(100.0, "50", "48", 100.0)
    assert pace.denied_since is None
    assert pace.rate(100.0) > 0


def test_next_to_others_what_is_left_is_spread_over_the_time_of_the_last_denial():
    """Four times as fast as would fill that time, and slower with each request."""
    ramp = Ramp()
    ramp.see(sent=1, used=3, since_s=0.5)
    assert not ramp.spreads
    ramp.denied(40.0)
    assert ramp.spreads
    assert ramp.spread_per_s(60.0, 600, free=500) == 4 * 500 / 40
    assert ramp.spread_per_s(60.0, 600, free=-3) == 4 * 1 / 40  # it still looks for room
    assert ramp.spread_per_s(1.0, 600, free=500) == slow_start(1.0, 600)
    ramp.see(sent=100, used=90, since_s=70.0)
    assert ramp.spreads  # others who were there stay


@pytest.mark.parametrize(("sent", "lasted_s"), [(3, 40.0), (1, 0.0)])
def test_nothing_is_spread_alone_nor_after_a_denial_of_one_request(sent, lasted_s):
    ramp = Ramp()
    ramp.see(sent=sent, used=3, since_s=0.5)
    ramp.denied(lasted_s)
    assert not ramp.spreads


@pytest.mark.parametrize(
    ("kind", "least", "part"), [("remembering 1", 0.95, 0.4), ("log", 0.84, 0.35)]
)
def test_two_machines_that_start_cold_share_a_window_of_a_minute(kind, least, part):
    """The first burst of both uses the limit up, and where a server process remembers denials, each
    further burst costs the rest of a window."""
    scenario = replace(
        MINUTE, kind=kind, limit=600, latency_s=2.0, start_s=180.0, end_s=420.0, machine_s=0.5
    )
    together, smaller = [], []
    for seed in range(6):
        got = [between(run.admitted, 180.0, 420.0) for run in play(scenario, runner, seed)[0]]
        together.append(sum(got))
        smaller.append(min(got) / sum(got))
    assert fmean(smaller) >= 0.43
    assert min(smaller) >= part
    assert fmean(together) >= least * 10 * 240


@pytest.mark.parametrize(("kind", "least"), [("clumped", 0.92), ("log", 0.87), ("fixed", 0.92)])
def test_a_cold_run_uses_what_others_leave_of_a_window_of_a_minute(kind, least):
    """They use a third."""
    scenario = replace(
        MINUTE, kind=kind, limit=600, latency_s=2.0, start_s=120.0, end_s=480.0, foreign=1 / 3
    )
    got = [between(play(scenario, runner, seed)[0][0].admitted, 120.0, 480.0) for seed in range(3)]
    assert fmean(got) >= least * 2 / 3 * 10 * 360
