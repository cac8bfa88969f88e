"""Tests the controller step by step: the change after each send, answer and denial.

`test_pacing.py` tests the result against whole limiters. Times are invented seconds.
"""

from __future__ import annotations

import math

import pytest

from pipeline.core.model import RateLimit, Sure
from pipeline.policy.pace import FLOOR_PER_S, Learned, Pace


def exactly(value: float):
    return pytest.approx(value, rel=1e-9)


def settled(limit: int = 50, window_s: float = 1.0, windows: int = 4) -> tuple[Pace, float]:
    """Returns a controller that has learned a limiter by using it evenly, and the time of its last
    send.

    The answers come at once, from a log of the last window's requests.
    """
    pace = Pace()
    now = 100.0
    for number in range(1, windows * limit + 1):
        now += window_s / limit
        send(pace, now)
        pace.answered(now, str(limit), str(limit - min(number, limit)), now)
    assert pace.window_s == window_s
    return pace, now


def send(pace: Pace, now: float) -> float:
    pace.granted(now)
    pace.sent(now)
    return now


# -- before anything is known ---------------------------------------------------------------


def test_the_rate_starts_at_five_per_second_and_triples_each_second_up_to_100():
    """The ramp begins with the first request."""
    pace = Pace()
    assert pace.rate(50.0) == 5
    send(pace, 100.0)
    assert [pace.rate(100.0 + s) for s in (0, 1, 2, 3, 1e6)] == [5, 15, 45, 100, 100]
    assert pace.price_s(101.0) == exactly(1 / 15)
    assert pace.own_pace(101.0) == 15  # the pace that other runs of the key get
    send(pace, 102.0)
    assert pace.rate(102.0) == 45
    assert pace.next_at(102.0) == 102.0


def test_the_ramp_ends_at_a_limit_above_100_and_at_100_for_a_lower_one():
    """While the window is unknown, the limit counts as a limit per second."""
    for limit, most in (("600", 600), ("20", 100)):
        pace = Pace()
        send(pace, 100.0)
        pace.answered(100.0, limit, str(int(limit) - 1), 100.1)
        assert pace.rate(105.0) == most


def test_a_fixed_rate_is_the_rate():
    """What was learned does not matter."""
    pace = Pace(fixed=7.0, start=Learned(50, 1.0, 1.0))
    assert (pace.rate(0.0), pace.price_s(0.0)) == (7.0, exactly(1 / 7))


def test_the_rate_is_at_most_5000_per_second():
    """This holds whatever a header says."""
    pace = Pace(start=Learned(1_000_000, 1.0, 1.0))
    send(pace, 100.0)
    assert pace.rate(120.0) == 5_000.0


def test_a_known_limit_below_the_floor_is_respected():
    """A limit of one request per hour stays below one in 50 s. Faster limits do not fall below
    that."""
    slow = Pace(start=Learned(1, 3600.0, 0.9))
    send(slow, 0.0)
    assert slow.rate(0.0) == exactly(0.9 / 3600)
    ten = Pace(start=Learned(100, 3600.0, 0.9, trust=0.1))
    send(ten, 0.0)
    assert ten.rate(0.0) == FLOOR_PER_S


def test_a_kept_window_counts_only_if_the_first_answer_names_the_kept_limit():
    """It belongs to that limit. A later change of the limit says nothing about the window."""
    for first, counts in (("50", True), ("100", False)):
        pace = Pace(start=Learned(50, 3600.0, 0.97))
        pace.answered(send(pace, 0.0), first, "49", 0.1)
        belief = pace.belief()
        assert belief is not None
        assert (belief.limit, belief.window_s) == (int(first), 3600.0 if counts else None)
        assert (pace.rate(0.2) < 1) is counts
        if counts:
            pace.answered(send(pace, 1.0), "100", "98", 1.1)
            assert pace.belief() == RateLimit(100, 3600.0, Sure.KEPT, None)


def test_a_learned_rate_is_used_in_proportion_to_its_trust():
    """With 40 per second at trust 0.5, the ramp goes to 20 and tries more from there."""
    pace = Pace(start=Learned(40, 1.0, 2.0, trust=0.5))
    assert pace.g == 0.97  # at most the value that a run begins with
    send(pace, 0.0)
    assert pace.rate(3.0) == pytest.approx(20 * 0.97, rel=0.02)
    assert Pace(start=Learned(40, 1.0, 0.9)).g == 0.9
    assert pace.learned() is None


# -- once the window is known ---------------------------------------------------------------


def test_the_rate_begins_at_97_percent_of_the_limit_and_gains_with_each_answer():
    """It gains five hundred-thousandths per answer, and less above 16 per second."""
    pace, now = settled()
    before = pace.g
    assert pace.rate(now) == exactly(before * 50)
    for seconds in (0.5, 4.0):  # after a long silence it gains as much as in one second
        now += seconds
        rate, before = pace.rate(now), pace.g
        pace.answered(now - 0.1, "50", "10", now)
        assert pace.g - before == exactly(min(seconds, 1.0) * 2e-4 * math.sqrt(rate))
    slow, now = settled(limit=50, window_s=10.0)
    slow._margin.g, rate = 0.9, 4.5
    slow.answered(now, "50", "0", now + 1.0)
    assert slow.g - 0.9 == exactly(5e-5 * rate)
    slow._margin.g = 1.0
    slow.answered(now, "50", "0", now + 2.0)
    assert slow.g == 1.0


def test_the_used_share_of_the_limit_is_counted_once_the_window_is_known():
    """The end of the run reports it. A denied request used nothing."""
    assert Pace().share_used() is None
    pace, now = settled()
    assert pace.share_used() == pytest.approx(1.0, abs=0.001)
    counted = pace._used
    ticket = send(pace, now + 0.02)
    for _ in range(2):
        pace.denied(ticket, now + 0.05)
        assert pace._used == counted
    idle_s = pace._allowed / 50
    send(pace, now + 0.02 + idle_s)
    assert pace.share_used() == pytest.approx(0.5, abs=0.01)
    slow, _ = settled(window_s=10.0)
    assert slow.share_used() == pytest.approx(1.0, abs=0.001)
    unknown = Pace(start=Learned(50, 1.0, 1.0))
    unknown.denied(send(unknown, 1.0), 1.1)
    assert unknown._used == 0


def test_no_used_share_is_known_after_a_denial_refuted_the_window():
    """It was a share of a limit that is not the key's."""
    pace, now = settled()
    assert pace.share_used() is not None
    pace._window.refuted_by(now, 5.0)
    assert pace.window_s is None
    assert pace.share_used() is None


def test_the_next_run_gets_the_window_of_the_key_and_not_this_runs_part():
    """Each of two runs sees a window that is twice as long."""
    pace, now = settled()
    assert pace.learned() == Learned(50, 1.0, pace.g)
    pace.share_with([50.0], now)
    assert pace.window_s == 2.0
    assert pace.learned() == Learned(50, 1.0, pace.g)
    pace.share_with([25.0 * pace.g], now)
    assert pace.window_s == 2.0
    pace.share_with([], now)
    assert pace.window_s == 1.0


def test_a_run_that_had_more_than_an_equal_part_learns_and_gets_no_more_than_the_whole_key():
    """Of the others, it counts what they tell and not their number."""
    pace, now = settled()
    pace.share_with([25.0], now)
    pace.share_with([pace.own_pace(now) / 3], now)
    assert pace.window_s == 2.0
    assert pace.learned() == Learned(50, exactly(1.5), pace.g)
    pace.share_with([], now)
    assert pace.window_s == exactly(1.5)


def test_a_run_next_to_others_believes_in_the_limit_of_the_key_and_not_of_its_part():
    """And it says which share of the whole key it used."""
    pace, now = settled()
    pace.share_with([25.0 * pace.g], now)
    pace.share_with([25.0 * pace.g], now)
    pace.begin(1000)
    for _ in range(200):
        now += 1 / 25
        send(pace, now)
    assert pace.window_s == 2.0
    assert pace.belief() == RateLimit(50, 1.0, Sure.MEASURED, pace.share_used())
    assert pace.share_used() == pytest.approx(0.5, abs=0.01)
    kept = Pace(start=Learned(50, 1.0, 0.97))
    kept.share_with([25.0], now)
    assert kept.own_pace(now) == exactly(25 * 0.97)
    send(kept, now)
    kept.answered(now, "50", "10", now + 0.1)
    assert kept.belief() == RateLimit(50, 1.0, Sure.KEPT, None)


def test_a_run_tells_no_pace_while_something_else_holds_it_back():
    """Its requests hardly wait for the pace for some seconds, or no row is left to send."""
    pace, now = settled()

    def told(waits):
        pace.see_waiting(waits)
        return pace.told(now)

    assert told(True) == pace.own_pace(now)
    assert [told(False) for _ in range(15)] == [pace.own_pace(now)] * 13 + [None] * 2
    assert [told(True) is None for _ in range(15)] == [True] * 10 + [False] * 5
    assert [told(turn % 2 == 0) is None for turn in range(40)] == [False] * 40
    pace.begin(1)
    assert told(True) is not None
    send(pace, now + 0.02)
    assert told(True) is None
    assert Pace(start=Learned(50, 1e-9, 0.9), rows=0).told(0.0) is None


def test_runs_that_share_a_key_approach_each_other_by_the_root_of_their_ratio():
    """A run at half the mean speeds up, but never beyond the limit."""
    pace, now = settled()
    pace.share_with([100.0], now)
    own = pace.own_pace(now)
    assert own == exactly(pace.g * 25)
    assert pace.rate(now) == exactly(own * math.sqrt((own + 100.0) / 2 / own))
    pace.share_with([1.0], now)
    assert pace.rate(now) == exactly(own * math.sqrt((own + 1.0) / 2 / own))
    pace.share_with([1e6], now)
    assert pace.rate(now) == exactly(own * 2)  # four times as fast at most, and of that the root
    for _ in range(2):
        pace.share_with([0.0] * 9, now)
    own = pace.own_pace(now)
    assert pace.rate(now) == exactly(own / 2)


def test_a_run_that_others_leave_room_for_speeds_up_although_denials_hold_it_down():
    """Otherwise what the others leave would be lost."""
    pace = Pace()
    for at in (0.0, 0.1, 0.2):
        send(pace, at)
    for at, left in ((0.0, 1), (0.1, 0)):
        pace.answered(at, "50", str(left), at + 0.02)
    pace.denied(0.2, 0.23)
    probe = send(pace, pace.next_at(0.3))
    pace.answered(probe, "50", "0", probe + 0.02)
    own = pace.own_pace(0.6)
    assert own < 10
    pace.share_with([200.0], 0.6)
    assert pace.own_pace(0.6) == own
    assert pace.rate(0.6) == exactly(own * 2)


def test_only_the_newest_request_can_change_the_limit():
    """Answers overtake each other, and an older one must not bring the old limit back."""
    pace, now = settled()
    first, second = send(pace, now + 0.02), send(pace, now + 0.04)
    pace.answered(second, "10", "5", now + 0.1)
    assert pace.limit == 10
    pace.answered(first, "50", "5", now + 0.2)
    assert pace.limit == 10
    third = send(pace, now + 0.3)
    pace.answered(third, "50", "5", now + 0.4)
    assert pace.limit == 50


@pytest.mark.parametrize(
    ("header", "limit"),
    [
        ("50", 50),
        (" 50 ", 50),
        ("50, 50", 50),
        (50, 50),
        ("1000000", 1_000_000),
        ("1000001", None),
        ("0000000050", None),
        ("000000050", 50),
        ("50, 10", None),
        ("50;w=1", None),
        ("-5", None),
        ("1e3", None),
        ("٣", None),
        ("", None),
        (None, None),
    ],
)
def test_a_header_counts_only_if_it_is_one_whole_number_of_a_possible_limit(header, limit):
    """A proxy may send it twice. Any other value teaches nothing."""
    pace = Pace()
    pace.answered(send(pace, 1.0), header, "1", 1.1)
    assert pace.limit == limit
    pace = Pace()
    pace.answered(send(pace, 1.0), "100", header, 1.1)
    assert (pace.limit is None) is (limit is None)


def test_a_limit_of_0_comes_from_a_limiter_whose_store_is_down():
    """The request was not counted. A limit of one is a limit."""
    pace = Pace()
    pace.answered(send(pace, 1.0), "0", "0", 1.1)
    assert (pace.limit, len(pace._sends)) == (None, 0)
    pace.answered(send(pace, 2.0), "1", "0", 2.1)
    assert (pace.limit, len(pace._sends)) == (1, 1)


def test_a_late_request_that_is_no_longer_in_the_history_changes_nothing():
    """It is neither counted twice nor put in place of another."""
    pace = Pace()
    pace.sent_late(1.0, 2.0)
    assert len(pace._sends) == 0


# -- the last rows --------------------------------------------------------------------------


def test_rows_that_fit_into_what_is_left_of_the_limit_are_not_spread():
    """The newest answer says what is left. Each request that was sent since used one of it."""
    pace, now = settled()
    pace.answered(send(pace, now + 0.02), "50", "9", now + 0.03)
    pace.rows = 10
    assert pace.price_s(now + 0.03) > 0
    pace.rows = 9
    assert pace.price_s(now + 0.03) == 0
    send(pace, now + 0.04)
    assert (pace.rows, pace.price_s(now + 0.04)) == (8, 0)
    pace.sent(now + 0.05)  # of a row that was not counted
    assert pace.price_s(now + 0.05) > 0


def test_a_denied_row_is_left_again():
    """It will be sent once more, so it needs room."""
    pace = Pace(rows=3)
    sent = send(pace, 100.0)
    assert pace.rows == 2
    pace.denied(sent, 100.1)
    assert pace.rows == 3


def test_before_the_first_answer_nine_tenths_of_the_kept_limit_count_as_free():
    """Another machine may have used the rest."""
    for rows, spread in ((45, False), (46, True)):
        pace = Pace(start=Learned(50, 60.0, 0.97), rows=rows)
        assert (pace.price_s(100.0) > 0) is spread


def test_a_fixed_rate_and_runs_that_share_the_key_spread_all_their_rows():
    """The user wants that rate. Another run would send its last rows into the same room."""
    assert Pace(fixed=5.0, start=Learned(50, 60.0, 0.97), rows=1).price_s(100.0) == exactly(0.2)
    pace = Pace(start=Learned(50, 60.0, 0.97), rows=1)
    pace.share_with([1.0], 100.0)
    assert pace.price_s(100.0) > 0


def test_once_such_a_row_was_denied_the_rows_are_spread():
    """The headers tell of a limit per day, and the limit per second has none. Each further try
    would be denied too. A denial of a row that was spread says nothing about that."""
    pace, now = settled()
    pace.answered(send(pace, now + 0.02), "50", "9", now + 0.03)
    spread = send(pace, now + 0.04)
    pace.rows = 5
    at_once = [send(pace, now + 0.05), send(pace, now + 0.06)]
    pace.denied(spread, now + 0.07)
    assert pace.price_s(now + 0.07) == 0
    pace.denied(at_once[0], now + 0.08)
    assert pace.denied_since is None
    assert pace.price_s(now + 0.08) > 0
    pace.begin(5)  # the next run with this key tries once, too
    assert pace.price_s(now + 0.08) == 0


def test_headers_teach_nothing_before_the_window_is_known_once_such_a_row_was_denied():
    """Each answer would say that nearly nothing of the limit is used, and ask for a higher rate."""
    pace = Pace(rows=20)
    pace.answered(send(pace, 100.0), "10000", "9999", 100.1)
    at_once = [send(pace, 100.2 + number / 1000) for number in range(19)]
    for sent in at_once[10:]:
        pace.denied(sent, sent + 0.02)
    probe = send(pace, pace.next_at(100.3))
    pace.answered(probe, "10000", "9990", probe + 0.1)
    rate = pace.rate(probe + 0.2)
    for number in range(8):
        at = send(pace, probe + 0.2 + number / 100)
        pace.answered(at, "9000", str(8989 - number), at + 0.1)
    assert pace.limit == 10_000
    assert pace.rate(probe + 0.3) <= 1.2 * rate


# -- what the user sees ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limit", "left", "costs"),
    [(600, 2, 2.0), (600, 3, 1.0), (1000, 4, 2.0), (1000, 5, 1.0), (200, 0, 2.0), (199, 0, 1.0)],
)
def test_a_request_costs_twice_as_much_while_hardly_anything_of_the_limit_is_left(
    limit, left, costs
):
    """Below a 200th of it, and not where that is less than a whole request."""
    pace, now = settled(limit, 60.0)
    pace.answered(now, str(limit), str(left), now)
    assert pace.price_s(now) == exactly(costs / pace.rate(now))


def test_what_is_left_becomes_less_with_each_request_and_more_as_earlier_ones_stop_to_count():
    pace, now = settled(600, 60.0)
    pace.answered(now, "600", "5", now)

    def doubles(at: float) -> bool:
        return pace.price_s(at) == exactly(2 / pace.rate(at))

    assert not doubles(now)
    for _ in range(3):
        send(pace, now + 0.01)
    assert doubles(now + 0.01)
    assert doubles(now + 0.09)
    assert not doubles(now + 0.11)  # the request that was sent 60 s before that no longer counts
    pace.fixed = 10.0
    assert pace.price_s(now + 0.01) == exactly(1 / 10)


def test_the_belief_says_where_the_window_comes_from():
    """A kept one, none yet, and a measured one. A guess is not shown: it may be off by far."""
    assert Pace().belief() is None
    kept = Pace(start=Learned(50, 60.0, 0.97))
    assert kept.belief() == RateLimit(50, 60.0, Sure.KEPT, None)
    pace = Pace()
    for number in range(5):
        at = send(pace, 100.0 + number / 10)
    pace.answered(at, "5", "0", 100.5)
    assert pace.belief() == RateLimit(5, None, None, None)
    pace.denied(send(pace, 100.6), 100.7, 2.0)  # the wait that was asked for is such a guess
    assert (pace._window.prior_s, pace.belief()) == (2.0, RateLimit(5, None, None, None))
    pace, _ = settled()
    assert pace.belief() == RateLimit(50, 1.0, Sure.MEASURED, pace.share_used())


@pytest.mark.parametrize(
    ("kept", "wrong"),
    [
        (Learned(50, 1.0, 0.97), False),
        (Learned(50, 1.4, 0.97), False),
        (Learned(50, 60.0, 0.97), True),
        (Learned(50, 0.5, 0.97), True),
        (Learned(10, 1.0, 0.97), True),
    ],
)
def test_a_kept_limit_is_called_wrong_if_the_measured_one_is_another(kept, wrong):
    """Only after the first windows, whose samples are off, and only by more than a half."""
    pace, now = settled(windows=8)
    pace.start = kept
    assert pace.kept_was_wrong(now) is wrong
    young, now = settled(windows=2)
    young.start = kept
    assert not young.kept_was_wrong(now)


# -- answers without headers ----------------------------------------------------------------


def test_an_answer_without_headers_counts_as_a_send_and_teaches_nothing_else():
    """It may come from a cache, which uses the limit like any other answer."""
    pace, now = settled()
    before, count = (pace.limit, pace.window_s), len(pace._sends)
    pace.answered(send(pace, now + 0.1), None, None, now + 0.11)
    assert (pace.limit, pace.window_s) == before
    assert len(pace._sends) == count + 1


# -- denials --------------------------------------------------------------------------------


def test_one_denial_costs_one_percent_and_a_second_one_at_once_causes_a_pause():
    """The pause is a fifth of the time since the first denial, but at least one slot."""
    pace, now = settled()
    before = pace.g
    pace.denied(send(pace, now + 0.02), now + 0.05)
    assert pace.g == exactly(before - 0.01)
    assert (pace.next_at(now + 0.05), pace.denied_since) == (now + 0.05, None)
    second = send(pace, now + 0.06)
    pace.denied(second, now + 0.09)
    assert pace.g == exactly(before - 0.01)  # the same overload
    assert pace.denied_since == second
    assert pace.next_at(now + 0.09) - (now + 0.09) == exactly(max(0.02, 1 / pace.rate(now + 0.09)))
    assert pace.price_s(now + 0.09) == 0.0
    probe = send(pace, now + 10.0)
    pace.denied(probe, now + 10.03)
    assert pace.next_at(now + 10.03) - (now + 10.03) == exactly(0.2 * (now + 10.03 - second))
    assert pace.rate_limited == 3


def test_denials_far_apart_cost_one_percent_each_and_never_more_than_15():
    """Each is a separate overload."""
    pace, now = settled()
    before, losses = pace.g, []
    for _ in range(20):
        for _ in range(20):
            now = send(pace, now + 0.02)
        pace.denied(now, now + 0.01)
        assert pace.denied_since is None
        losses.append(before - pace.g)
    assert losses[:2] == [exactly(0.01), exactly(0.02)]
    assert pace.g == 0.85


def test_in_a_long_window_denials_cost_one_percent_for_each_tenth_of_it():
    """All denials within a tenth are one overload."""
    pace, now = settled(limit=50, window_s=10.0)
    before, losses = pace.g, []
    for number in range(1, 13):
        at = send(pace, now + 0.18 * number)
        if number in (1, 6, 12):
            pace.denied(at, at + 0.01)
            losses.append(before - pace.g)
    assert pace.denied_since is None
    assert losses == [exactly(0.01), exactly(0.01), exactly(0.02)]


def test_no_pause_is_shorter_than_the_time_until_a_denial_arrives():
    """If a slot is a millisecond, a probe in each would be a storm."""
    pace = Pace(fixed=1000.0)
    pace.denied(send(pace, 100.0), 100.03)
    assert pace.next_at(100.03) - 100.03 == exactly(0.02)


def test_no_pause_is_longer_than_55_s_however_long_the_denial_lasts():
    """A fifth of an hour would be twelve minutes. No stop may last over a minute."""
    pace, now = settled()
    pauses = []
    for later_s in (0.02, 0.04, 260.04, 280.0, 3600.0):
        pace.denied(send(pace, now + later_s), now + later_s + 0.01)
        pauses.append(pace.next_at(now + later_s + 0.01) - (now + later_s + 0.01))
    assert pauses[2:] == [exactly(0.2 * 260.01), exactly(55.0), exactly(55.0)]


def test_denials_of_requests_sent_before_the_pause_do_not_count_again():
    """Two hundred requests in flight are denied together, and that is one piece of news."""
    pace, now = settled()
    tickets = [send(pace, now + 0.001 * n) for n in range(1, 11)]
    before = pace.g
    for n, ticket in enumerate(tickets):
        pace.denied(ticket, now + 0.05 + 0.001 * n)
    assert pace.g == exactly(before - 0.01)
    assert pace.denied_since is None
    assert pace.rate_limited == 10


def test_retry_after_is_obeyed_up_to_a_window_and_a_quarter():
    """It also counts at a first denial, which would otherwise cause no pause. No window needs a
    longer wait than itself."""
    for asked_s, windows in ((0.7, None), (7.0, 1.25), (3600.0, 1.25)):
        pace, now = settled()
        pace.denied(send(pace, now + 0.1), now + 0.13, asked_s)
        assert pace.window_s is not None
        pause_s = asked_s if windows is None else windows * pace.window_s
        assert pace.next_at(now + 0.13) - (now + 0.13) == exactly(pause_s)
        assert pace.asked_s == asked_s


def test_retry_after_is_obeyed_up_to_five_minutes_before_the_window_is_known():
    """It is forgotten with the denial, or with the next denial without it."""
    for asked_s, pause_s in ((7.0, 7.0), (200.0, 200.0), (3600.0, 300.0)):
        pace = Pace()
        pace.denied(send(pace, 1000.0), 1000.1, asked_s)
        assert pace.next_at(1000.1) - 1000.1 == exactly(pause_s)
        pace.denied(send(pace, 1500.0), 1500.1)
        assert pace.asked_s == 0.0
        assert pace.next_at(1500.1) - 1500.1 <= 55.0


def test_a_long_wait_that_was_asked_for_ends_when_the_window_becomes_known():
    """The run asked for nothing else meanwhile, but answers still come."""
    pace = Pace()
    now = 100.0
    for _ in range(200):
        now = send(pace, now + 0.02)
    pace.denied(send(pace, now + 0.02), now + 0.05, 60.0)
    assert pace.next_at(now + 1.0) == exactly(now + 60.05)
    sends = list(pace._sends._times)
    for number, sent_at in enumerate(sends, 1):
        pace.answered(sent_at, "50", str(50 - min(number, 50)), now + 0.5)
    assert pace.window_s == exactly(1.0)
    assert pace.next_at(now + 0.5) == exactly(now + 0.05 + 1.25)


@pytest.mark.parametrize(("windows", "loss"), [(2, 0.0), (8, 0.06 * 0.75)])
def test_a_wait_costs_g_nothing_if_the_ramp_led_to_the_denial(windows, loss):
    """Its burst was the reason, and not g, which would need minutes to grow back."""
    pace, now = settled(limit=15, windows=windows)
    before = pace.g
    pace.denied(send(pace, now + 0.05), now + 0.08, 0.7)
    probe = send(pace, now + 0.8)
    pace.answered(probe, "15", "10", probe + 0.01)
    assert before - pace.g == pytest.approx(loss, abs=0.002)


def turned(age_s: float) -> tuple[Pace, float]:
    """Returns a controller whose requests stopped to count `age_s` after the first one, and the
    time of its last send. It learned too little to estimate the window."""
    pace = Pace()
    tickets = [send(pace, 100.0 + number * age_s / 5) for number in range(6)]
    for ticket, used in zip(tickets, (1, 2, 3, 4, 5, 1), strict=True):
        pace.answered(ticket, "50", str(50 - used), ticket + 0.01)
    assert pace.window_s is None
    return pace, tickets[-1]


@pytest.mark.parametrize(("age_s", "pause_s"), [(2.0, 20.0), (0.2, 5.0), (20.0, 60.0)])
def test_a_long_wait_is_cut_to_ten_times_the_age_at_which_requests_stop_to_count(age_s, pause_s):
    """A window of 60 s turns within the first 2 s of a run only once in thirty runs."""
    pace, now = turned(age_s)
    pace.denied(send(pace, now + 0.1), now + 0.13, 60.0)
    assert pace.next_at(now + 0.13) == exactly(now + 0.13 + pause_s)


def test_a_wait_that_was_cut_once_is_obeyed_if_the_server_asks_again():
    pace, now = turned(2.0)
    pace.denied(send(pace, now + 0.1), now + 0.13, 60.0)
    probe = send(pace, now + 20.2)
    pace.denied(probe, probe + 0.03, 60.0)
    assert pace.next_at(probe + 0.03) == exactly(probe + 60.03)


def test_while_all_requests_count_a_long_wait_is_obeyed():
    pace = Pace()
    for number in range(1, 7):
        at = send(pace, 100.0 + number / 10)
    pace.answered(at, "50", "44", at + 0.01)
    pace.denied(send(pace, at + 0.1), at + 0.13, 60.0)
    assert pace.next_at(at + 0.13) == exactly(at + 60.13)


def test_after_a_wait_that_is_no_window_the_rate_is_six_tenths_of_the_one_before_it():
    """Ten requests in two seconds led to it. The wait itself says nothing about the rate."""
    pace = Pace()
    tickets = [send(pace, 100.0 + number / 5) for number in range(10)]
    for ticket, used in zip(tickets, range(1, 11), strict=True):
        pace.answered(ticket, "10", str(10 - used), ticket + 0.01)
    pace.denied(send(pace, 102.0), 102.03, 60.0)
    probe = send(pace, 162.1)
    pace.answered(probe, "10", "9", probe + 0.05)
    assert pace.denied_since is None
    assert 3.0 < pace.rate(probe + 0.05) < 3.4


@pytest.mark.parametrize(("lasted_s", "share"), [(0.2, 0.0), (0.5, 0.03), (1.0, 0.06), (2.0, 0.0)])
def test_a_denial_costs_g_six_percent_of_the_share_of_the_window_that_it_lasted(lasted_s, share):
    """A shorter one costs nothing more. One of over one and a half windows has another reason."""
    pace, now = settled(windows=8)
    first = send(pace, now + 0.02)
    pace.denied(first, now + 0.03)
    pace.denied(send(pace, now + 0.04), now + 0.05)
    before = pace.g
    pace.answered(send(pace, now + 0.04 + lasted_s), None, None, now + 0.05 + lasted_s)
    assert pace.g == exactly(before - share)


def test_near_a_g_that_was_costly_it_grows_ten_times_slower():
    """Ten times as many windows pass until the next such denial."""
    pace, now = settled(windows=8)
    gains = []
    for costly in (math.inf, pace.g + 0.01, pace.g + 0.03):
        pace._margin.costly_g, before, now = costly, pace.g, now + 0.5
        pace.answered(now - 0.1, "50", "10", now)
        gains.append(pace.g - before)
    assert gains[1] == pytest.approx(gains[0] / 10, rel=0.01)
    assert gains[2] == pytest.approx(gains[0], rel=0.01)


def test_a_probe_that_a_process_denied_from_memory_says_nothing_about_the_window():
    """It may deny everything until its window ends, and ours may be a tenth longer."""
    pace, now = settled(windows=20)
    for later_s in (0.02, 0.04, 0.5, 1.1):
        pace.denied(send(pace, now + later_s), now + later_s + 0.01)
    assert pace.window_s == pytest.approx(1.0, abs=0.05)


@pytest.mark.parametrize(("below", "loss"), [(0.01, 0.06), (0.03, 0.01)])
def test_far_below_a_g_that_was_costly_another_such_denial_costs_one_percent(below, loss):
    """So low a g is hardly the reason. With 6 % each time it would end at the floor and stay."""
    pace, now = settled(windows=8)
    pace._margin.costly_g = pace.g + below
    before = pace.g
    pace.denied(send(pace, now + 0.02), now + 0.03, 1.0)
    pace.answered(send(pace, now + 1.02), None, None, now + 1.03)
    assert pace.g == exactly(before - loss)


def test_a_denial_while_much_of_the_limit_is_left_says_nothing_about_the_window():
    """One of several server processes denied it from memory. Another one answered meanwhile."""
    for left, guessed in (("5", True), ("6", False)):
        pace = Pace()
        for number in range(60):
            at = send(pace, 100.0 + number / 10)
        pace.answered(at, "50", left, at + 0.01)
        pace.denied(send(pace, 120.0), 120.01)
        assert (pace._window.guess(120.0) is not None) is guessed


@pytest.mark.parametrize(
    ("limit", "asked_s", "window_s"),
    [(600, 40.0, 40.0), (50, 0.9, None), (50, 1.0, 1.0), (50, 100.0, 100.0), (50, 101.0, None)],
)
def test_a_wait_that_is_asked_for_is_taken_for_the_window_until_that_is_known(
    limit, asked_s, window_s
):
    """Not one below a second, and not one that would leave less than a request in two seconds."""
    pace = Pace()
    at = send(pace, 100.0)
    pace.answered(at, str(limit), "0", 100.01)
    pace.denied(send(pace, 100.02), 100.05, asked_s)
    assert pace._window.guess(100.1) == window_s
    if window_s is not None:
        assert pace.own_pace(100.1) == exactly(pace.g * limit / window_s)


def test_a_new_limit_takes_back_what_its_denials_cost():
    """They came from the limit and not from g."""
    pace, now = settled(windows=8)
    pace._margin.g, pace._margin.costly_g = 0.9, 0.95
    pace.answered(send(pace, now + 0.1), "10", "0", now + 0.2)
    assert (pace.g, pace._margin.costly_g) == (pytest.approx(0.97, abs=1e-3), math.inf)


def test_after_a_pause_one_probe_goes_and_is_trusted_if_no_denial_arrives_in_time():
    """The time is twice that of a denial, at least 50 ms and at most one second."""
    for trip_s, trusted_s in ((0.01, 0.05), (0.2, 0.4), (3.0, 1.0)):
        pace, now = settled()
        pace.denied(send(pace, now + 0.02), now + 0.02 + trip_s, 5.0)
        probe = now + 20.0
        assert pace.next_at(probe) == probe
        pace.granted(probe)
        assert pace.next_at(probe) - probe == exactly(trusted_s)
        left = probe + 0.01  # its intent has to be durable first
        pace.sent(left)
        assert pace.next_at(left) - left == exactly(trusted_s)
        assert pace.denied_since is not None
        assert pace.next_at(left + trusted_s) == left + trusted_s
        assert pace.denied_since is None
        assert pace.rate(left + trusted_s) == exactly(pace.g * 50)  # as before


def test_an_answer_to_the_probe_ends_the_denial_and_an_older_answer_does_not():
    """A request that left before the probe says nothing about now."""
    pace, now = settled()
    older = send(pace, now + 0.05)
    pace.denied(send(pace, now + 0.1), now + 0.13, 5.0)
    probe = send(pace, now + 6.0)
    pace.answered(older, "50", "0", now + 6.01)
    assert pace.denied_since is not None
    pace.answered(probe, None, None, now + 6.02)
    assert pace.denied_since is None
    assert pace.next_at(now + 6.02) == now + 6.02


def test_a_denied_probe_is_followed_by_another_pause():
    """No request goes in between, whatever the time after which a probe is trusted. The pause is a
    fifth of what the window is at least: the age of the 50th send before the denied one."""
    pace, now = settled()
    first = send(pace, now + 0.1)
    pace.denied(first, now + 0.13, 5.0)
    pace.denied(send(pace, now + 6.0), now + 6.03)
    assert pace.denied_since == first
    assert pace.next_at(now + 6.1) - (now + 6.03) == exactly(0.2 * (6.0 + 49 / 50))


def test_without_headers_one_denial_is_a_pause_and_then_the_admitted_rate_counts():
    """A server without headers is known only by its 429s."""
    pace = Pace()
    now = 100.0
    for _ in range(40):
        now += 0.05
        send(pace, now)
    pace.denied(send(pace, now + 0.01), now + 0.03)
    assert pace.denied_since is not None  # nothing is known, so one denial is enough
    probe = send(pace, now + 0.1)
    trusted = probe + 0.07
    assert pace.next_at(trusted) == trusted
    assert pace.denied_since is None
    # In the last second 17 and the probe were admitted. The next try starts 1/64 below that.
    assert pace.rate(trusted) == exactly(18 * (1 - 1 / 64))
    assert pace.own_pace(trusted) == pace.rate(trusted)


def through_lately(pace: Pace, now: float) -> tuple[Pace, float]:
    """Returns a controller without headers after a first denial at 18 per second, 0.17 s ago."""
    for number in range(1, 41):
        send(pace, now + 0.05 * number)
    denied = send(pace, now + 2.01)
    pace.denied(denied, now + 2.03)
    probe = send(pace, now + 2.1)
    assert pace.next_at(probe + 0.07) == probe + 0.07
    return pace, probe + 0.07


def test_without_headers_runs_approach_each_other_too():
    """Each run compares the rate that was admitted with the paces of the others."""
    pace, now = through_lately(Pace(), 100.0)
    pace.share_with([9.0], now)
    own = pace.own_pace(now)
    assert own == exactly(18 * (1 - 1 / 64))
    assert pace.rate(now) == exactly(own * math.sqrt((own + 9.0) / 2 / own))


def test_a_denial_right_after_the_first_lowers_the_rate_by_a_seventh():
    """More than that was admitted in between: the first try was too high."""
    pace, now = through_lately(Pace(), 100.0)
    for at in (now + 0.02, now + 0.03):
        pace.denied(send(pace, at), at + 0.001)
    denied = pace.rate(now + 0.04)
    probe = send(pace, now + 0.1)
    pace.answered(probe, None, None, now + 0.15)
    assert pace.rate(now + 0.15) == pytest.approx(0.85 * denied, rel=0.01)


def test_a_probe_that_nobody_asks_about_for_long_leaves_the_lowest_rate():
    """The dispatcher waits for a free place in flight meanwhile, so nothing got through lately. A
    rate of nothing cannot be compared with those of other runs."""
    pace, now = through_lately(Pace(), 100.0)
    pace.share_with([9.0], now)
    for at in (now + 0.02, now + 0.03):
        pace.denied(send(pace, at), at + 0.001)
    send(pace, now + 0.1)
    assert pace.next_at(now + 20.0) == now + 20.0
    assert pace.own_pace(now + 20.0) == FLOOR_PER_S
    assert pace.rate(now + 20.0) == exactly(2 * FLOOR_PER_S)


def test_a_long_denial_right_after_another_looks_back_over_both():
    """It looks back a quarter more, which is as long as the window may be."""
    pace, now = through_lately(Pace(), 100.0)
    for number in (1, 2, 3):
        send(pace, now + 0.05 * number)
    for at in (now + 0.2, now + 0.21):
        pace.denied(send(pace, at), at + 0.001)
    probe = send(pace, now + 2.21)
    pace.answered(probe, None, None, probe + 0.02)
    back_s = 1.25 * (probe - 102.01)
    # After 101.44: 12 of the first, both probes, and three.
    assert pace._sends.count(probe + 0.02 - back_s, probe + 0.02) == 17
    assert pace.rate(probe + 0.02) == exactly(17 / back_s * (1 - 1 / 64))


@pytest.mark.parametrize("through", [(105.7,), (105.3, 105.7)])
def test_a_few_requests_admitted_around_a_long_denial_give_the_next_rate(through):
    """One request and the probe were admitted in five seconds."""
    pace = Pace()
    for at in through:
        send(pace, at)
    pace.denied(send(pace, 106.0), 106.03)
    pace.answered(send(pace, 110.0), None, None, 110.05)
    assert pace.rate(110.05) == exactly((len(through) + 1) / 5 * (1 - 1 / 64))


def test_after_a_denial_the_window_is_at_least_as_long_as_the_age_of_its_oldest_request():
    """Five requests in 9 s and one too many: so the window is ten seconds."""
    pace = Pace()
    for number in range(5):
        at = send(pace, 100.0 + number / 10)
    pace.answered(at, "5", "0", 100.5)
    pace.denied(send(pace, 109.0), 109.03)
    assert pace.window_s is None
    assert pace.own_pace(109.1) == exactly(pace.g * 0.5)
    assert pace.rate(109.1) == exactly(pace.g * 0.5)


def deny_for_40_s(pace: Pace, now: float) -> float:
    """Denies two requests at once and a probe after 30 s, and admits one ten seconds later."""
    for later_s in (0.1, 0.2, 30.0):
        pace.denied(send(pace, now + later_s), now + later_s + 0.01)
    pace.answered(send(pace, now + 40.0), None, None, now + 40.1)
    return now + 40.1


@pytest.mark.parametrize(("windows", "kept"), [(5, False), (16, True)])
def test_a_window_known_for_ten_windows_survives_a_denial_with_another_reason(windows, kept):
    """Before that, a longer denial means a longer window."""
    pace, now = settled(limit=50, window_s=10.0, windows=windows)
    now = deny_for_40_s(pace, now)
    assert (pace.window_s == 10.0) is kept
    assert (pace.rate(now) == exactly(pace.g * 5)) is kept


def test_the_first_denial_refutes_the_window_however_long_it_was_known():
    """Fifty requests in 40 s and one too many: the window is longer than 10 s."""
    pace, now = settled(limit=50, window_s=10.0, windows=16)
    pace.denied(send(pace, now + 30.0), now + 30.01)
    assert pace.window_s is None


def test_after_a_window_was_refuted_each_denied_probe_gives_a_bound_again():
    """It was known for ten windows. That says nothing about the one that takes its place."""
    pace, now = settled(limit=50, window_s=10.0, windows=16)
    for later_s in (30.0, 40.0, 50.0, 120.0):
        pace.denied(send(pace, now + later_s), now + later_s + 0.01)
    assert pace.window_s is None
    oldest_s = 120.0 + 49 / 5  # the age of the 50th most recent request that was let through
    assert pace.own_pace(now + 120.02) == exactly(pace.g * 50 / (1.1 * oldest_s))


@pytest.mark.parametrize(("later_s", "kept"), [(60, False), (120, True)])
def test_a_window_survives_another_denial_only_after_ten_more_windows(later_s, kept):
    """Denials that come again and again are caused by the window."""
    pace, now = settled(limit=50, window_s=10.0, windows=16)
    now = deny_for_40_s(pace, now)
    for number in range(1, later_s * 5):
        send(pace, now + number / 5)
    deny_for_40_s(pace, now + later_s)
    assert (pace.window_s == 10.0) is kept


def test_a_larger_limit_raises_the_tried_rate_in_proportion():
    """This holds while the window is unknown."""
    pace = Pace(start=Learned(50, 1.0, 1.0, trust=0.5))
    pace.answered(send(pace, 99.9), "50", "25", 99.95)
    pace.answered(send(pace, 100.0), "100", "50", 100.1)
    assert pace.rate(105.0) == pytest.approx(2 * 0.5 * 0.97 * 50, rel=0.01)


@pytest.mark.parametrize(("remaining", "more"), [("76", True), ("75", False)])
def test_a_higher_rate_is_tried_at_once_if_little_of_the_limit_is_used(remaining, more):
    """Little is less than a quarter."""
    pace = Pace(start=Learned(100, 1.0, 1.0, trust=0.1))
    send(pace, 100.0)
    before = pace.rate(105.0)
    for number in range(8):
        pace.answered(send(pace, 101.0 + number / 10), "100", remaining, 105.0)
    assert (pace.rate(105.0) > 1.05 * before) is more


def test_after_a_denial_the_learned_rate_counts_at_60_percent():
    """Less than that was admitted."""
    pace = Pace(start=Learned(50, 1.0, 0.97))
    send(pace, 100.0)
    for at in (105.0, 105.01):
        pace.denied(send(pace, at), at + 0.001)
    pace.answered(send(pace, 107.0), None, None, 107.05)
    assert pace.rate(107.05) == exactly(0.6 * 50 * (1 - 1 / 64))


def test_a_rate_does_not_grow_while_each_request_is_denied():
    """The denials say that it is too high, and the time says nothing."""
    pace = Pace()
    for number in range(400):
        send(pace, number / 20)
    for at in (20.0, 20.01):
        pace.denied(send(pace, at), at + 0.02)
    pace.answered(send(pace, 21.0), None, None, 21.05)
    before = pace.own_pace(21.05)
    for at in (22.0, 22.01):
        pace.denied(send(pace, at), at + 0.02)
    while pace.next_at(22.05) < 100.0:
        at = pace.next_at(22.05)
        pace.denied(send(pace, at), at + 0.02)
    last = send(pace, 100.0)
    assert pace.own_pace(last) < 1.1 * before


def test_a_denial_of_nearly_every_request_starts_the_ramp_again():
    """Only the probe was admitted, so there is no rate to continue with."""
    pace = Pace()
    pace.denied(send(pace, 100.0), 100.03)
    probe = send(pace, 160.0)
    pace.answered(probe, None, None, 160.5)
    assert [pace.rate(160.5 + s) for s in (0, 1, 2, 3)] == [5, 15, 45, 100]
