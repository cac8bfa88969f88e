"""How fast to send, learned from two headers and the 429s. Pure: the caller passes the time in.

Theory of operation
-------------------

One scalar describes a limiter: its window ``W = limit / sustainable rate``. The rate is
``g * limit / W``, with g a little under 1. The limit comes from the headers, and `window` estimates
W from our own send times. Two bounds keep the estimate in place:

* From below (`WindowEstimate.at_least`): W is longer than the age of the limit-th most recent send
  of a request that was denied.
* From above (`upper_bound`): W is shorter than the age of our (used + 1)-th most recent send, which
  no longer counted.

Each kind of answer teaches one thing:

* With headers: a sample of W, a bound from above, and what is left of the limit. Rows that fit into
  that are sent at once.
* The newest one with headers: what is left of the limit now. If hardly anything is left, a denial
  is near, which may last until the window ends. So requests cost twice as much until more is left.
* Without headers: nothing, but it counts as a send. It may come from a cache, which uses the limit
  like any other answer.
* The first 429 in a while: g was too high by a hundredth, and W has a bound from below. There is no
  pause, because the next slot of a sliding window is free after ``W / limit``.
* A second one at once: a pause of a fifth of the time since the first, then one probe at a time,
  until one is let through. 429s come within milliseconds even where answers take minutes, so a
  probe that was not denied for twice that long is trusted. Once W is known, a denied probe gives no
  bound: a server process may have denied it from memory. Nor does any denial while much of the
  limit is left.
* The end of such a denial: g loses in proportion to the part of the window that it cost (see
  `margin`), except in the first windows, where the ramp's burst was the reason.
* Retry-After: it is obeyed, but not for longer than makes sense. That is five minutes before W is
  known, and a window and a quarter from then on. Until then, the window is taken for as long as
  the longest such wait. Where the answers show that requests no longer count after a small part
  of the wait, one probe goes early.

While W is not known, the rate is a slow start, then what is left of the limit spread over time (see
`ramp`). After a denial it is what was let through (see `ceiling`), and next to others again what is
left, spread over the time of that denial. A pace that an earlier run kept replaces all of them.

Others who use the key are counted in `used` and not in our sends. So W reads long, and the rate
yields by itself. When they leave, the bound from above brings it back. Two machines that begin
together see the same left, so they get equal parts. Once both know W, no split of the whole limit
changes by itself. Runs on one machine come to equal parts always, because each knows the paces of
the others (see `sharing`).

Times are seconds of a monotonic clock.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from pipeline.core.model import RateLimit, Sure
from pipeline.policy.ceiling import Ceiling
from pipeline.policy.denial import HOLD_SHARE, Denial
from pipeline.policy.header import whole_number
from pipeline.policy.margin import Margin
from pipeline.policy.ramp import Ramp, slow_start
from pipeline.policy.sends import Sends
from pipeline.policy.sharing import Sharing
from pipeline.policy.window import WindowEstimate

FLOOR_PER_S = 1 / 50
MOST_PER_S = 5_000.0

_LONE_S, _LONE_SLOTS = 0.25, 4
# How far a server's Retry-After is obeyed. No window lets a request wait for longer than itself,
# and a quarter more covers clocks. Before it is known, five minutes are as long as an outage takes.
_ASKED_WINDOWS, _ASKED_MAX_S = 1.25, 300.0
# Where requests no longer count after t seconds, a window of ten times t would have had to turn in
# its first tenth. So one probe goes after that time, and if it is denied, the wait is obeyed.
_ASKED_TURNS, _ASKED_TURN_MIN_S = 10.0, 0.5
# A wait of a second and more tells about how long the window is. At less than a request in two
# seconds, the answers would need too long to show that it is shorter.
_ASKED_TRUSTED_S, _ASKED_LEAST_PER_S = 1.0, 0.5
# A burst of the slow start lies within the last second; a longer window shows by its denial.
_LOOK_BACK_MIN_S, _LOOK_BACK = 1.0, 1.25
_GUESS_TRUSTED = 0.6  # a bound may be too long by as much, after a burst in a sliding window
# A process that remembers a denial does so until the window ends, and W may be a tenth longer.
_REMEMBERED_WINDOWS, _MUCH_LEFT = 1.1, 0.1
_WRONG = 1.5  # other users make a window read longer by less than that, on most keys
_FREE_TRUSTED = 0.9  # of a kept limit: another machine may use a tenth
# Three of 600 requests. Of a limit below 200 it is less than one, and to keep a whole request back
# costs more there than the denials do.
_HARDLY_LEFT, _HARDLY_LEFT_COSTS = 1 / 200, 2.0
_MATURE_WINDOWS = 10.0


@dataclass(frozen=True, slots=True)
class Learned:
    """What a run knows of a key at its end; `trust` is how much of it the next one believes."""

    limit: int
    window_s: float
    g: float
    trust: float = 1.0


@dataclass(slots=True)
class Pace:
    """The controller of one key.

    `fixed` is a rate that overrides what the headers teach; `start` what an earlier run learned.
    `rows` is how many requests are left to send, None if that is unknown. Several runs with the
    key can use it one after the other: the limit counts what all of them send.
    """

    fixed: float | None = None
    start: Learned | None = None
    rows: int | None = None
    limit: int | None = None
    rate_limited: int = 0
    _window: WindowEstimate = field(default_factory=WindowEstimate)
    _sends: Sends = field(default_factory=Sends)
    _ceiling: Ceiling = field(default_factory=lambda: Ceiling(FLOOR_PER_S))
    _margin: Margin = field(default_factory=Margin)
    _denial: Denial = field(default_factory=Denial)
    _ramp: Ramp = field(default_factory=Ramp)
    _sharing: Sharing = field(default_factory=Sharing)
    _started: float | None = None
    _limit_at: float = -math.inf
    _remaining: int = 0
    _mature_at: float = math.inf
    _strike_at: float = -math.inf
    _denied_before: float = -math.inf
    _released_at: float = -math.inf
    _forgiven: bool = False
    _used: int = 0
    _allowed: float = 0.0
    _sent_at: float | None = None
    _at_once_since: float = math.inf
    _room_untrue: bool = False

    def __post_init__(self) -> None:
        if self.start is not None:
            self.limit = self.start.limit
            self._margin.keep(self.start.g)
            self._window.prior_s = self.start.window_s

    # -- what the sender asks -------------------------------------------------------------

    @property
    def g(self) -> float:
        """The part of the sustainable rate that is used."""
        return self._margin.g

    @property
    def begun(self) -> bool:
        """Whether a request of this process was sent with the key."""
        return self._started is not None

    @property
    def window_s(self) -> float | None:
        """The window as far as it is known; others on the same key make it longer."""
        return self._window.window_s

    def rate(self, now: float) -> float:
        """Requests per second at `now`."""
        if self.fixed is not None:
            return self.fixed
        own = self.own_pace(now)
        wanted = min(self._sharing.fairness(own) * own, MOST_PER_S)
        return max(wanted, min(FLOOR_PER_S, 0.8 * self._sustained(now)))

    def price_s(self, now: float) -> float:
        """Seconds that the next request costs.

        Nothing while denied: the pause is the pace. And nothing if the rows that are left fit into
        what is free of the limit: to spread them would only make the run longer.
        """
        if self.denied_since is not None or self._fits(now):
            return 0.0
        price_s = 1 / self.rate(now)
        return _HARDLY_LEFT_COSTS * price_s if self._hardly_left(now) else price_s

    def next_at(self, now: float) -> float:
        """The earliest time at which a request may go; at or before `now` means at once."""
        if (probe := self._denial.trusted_probe(now)) is not None:
            self._end_denial(probe, now)
        return self._denial.next_at(now, self._most_asked_s())

    def belief(self) -> RateLimit | None:
        """The limit and the window as far as they are known, and how sure that is.

        Next to other runs, it is the window of the key and not the longer one of this run's part.
        """
        if self.limit is None:
            return None
        if self.window_s is not None:
            window_s = self.window_s * self._part(self.window_s)
            return RateLimit(self.limit, window_s, Sure.MEASURED, self.share_used())
        prior_s = None if self.start is None else self._window.prior_s
        if prior_s is None:
            return RateLimit(self.limit, None, None, None)
        return RateLimit(self.limit, prior_s * self._part(prior_s), Sure.KEPT, None)

    def kept_was_wrong(self, now: float) -> bool:
        """Whether an earlier run kept another limit or window than the one that this run measured.

        False during the first windows, whose samples are off.
        """
        if self.start is None or self._window.young(now) or self._sharing.others:
            return False
        assert self.window_s is not None
        ratio = self.window_s / self.start.window_s
        return self.limit != self.start.limit or not 1 / _WRONG < ratio < _WRONG

    def share_used(self) -> float | None:
        """The part of what the key's limit allows that this run used, while its window is known."""
        known = self.window_s is not None and self._allowed > 1
        return self._used / self._allowed if known else None

    @property
    def denied_since(self) -> float | None:
        """Since when every probe has been denied; None while requests are let through."""
        return self._denial.since

    @property
    def asked_s(self) -> float:
        """How many seconds the last denial asked to wait (Retry-After); `next_at` may be sooner."""
        return self._denial.asked_s

    def learned(self) -> Learned | None:
        """What is worth keeping for the next run; None before the window is known.

        Next to other runs, also None where something else than the pace holds this run back: it
        takes most of what they send for a longer window.
        """
        if self.limit is None or self.window_s is None:
            return None
        if self._sharing.others and not self._held_back:
            return None
        return Learned(self.limit, self.window_s * self._part(self.window_s), self.g)

    def begin(self, rows: int) -> None:
        """A run begins that sends `rows` requests. `share_used` counts from here."""
        self.rows = rows
        self._used, self._allowed, self._sent_at = 0, 0.0, None
        self._room_untrue = False

    # -- what happens ---------------------------------------------------------------------

    def granted(self, now: float) -> None:
        """A slot was handed out at `now`; its request leaves as soon as its intent is durable."""
        self._denial.granted(now)
        if not self._fits(now):
            self._at_once_since = math.inf
        elif self.denied_since is None:
            self._at_once_since = min(self._at_once_since, now)
        if self.rows:
            self.rows -= 1

    def sent(self, now: float) -> None:
        """A request left at `now`."""
        if not self.begun:
            self._started = now
            if self.start is not None:
                self._ceiling.set(self.start.trust * self.g * self._sustained(now), now)
        self._count(now)
        self._sends.add(now, self.limit or 0)
        if self._ceiling.known:
            self._ceiling.sent(now, self._ceiling_holds(now))
        self._denial.sent(now)

    def sent_late(self, stamped_at: float, sent_at: float) -> None:
        """The request stamped `stamped_at` left at `sent_at`, as its answer shows."""
        if self._sends.forget(stamped_at):
            self._sends.put(sent_at)

    def answered(self, sent_at: float, limit: object, remaining: object, now: float) -> None:
        """An answer that was let through came at `now`; headers as they came, None if absent.

        An answer from a cache has none, but it used the limit like any other. If some cache's
        answers do not use it, fewer requests are counted than were sent: the window reads shorter,
        and the rate grows by itself.

        Once a request was denied although the headers had room for it, they may name another limit
        than the one that denies: that of the day, and not that of the second. Each answer would ask
        for a higher rate. So they teach nothing from then on, unless they have shown the window.
        """
        if self._denial.let_through(sent_at):
            self._end_denial(sent_at, now)
        known, left = whole_number(limit), whole_number(remaining)
        if known is None or left is None or (self._room_untrue and self._window_unheard):
            return
        if known <= 0:  # the limiter's store was away and counted nothing
            self._sends.forget(sent_at)
            return
        self._learn(sent_at, known, left, now)
        self._margin.gain(self.rate(now), now)

    def denied(self, sent_at: float, now: float, retry_after_s: float | None = None) -> None:
        """The request that left at `sent_at` was answered with a 429.

        `retry_after_s` is how long the server asks to wait, None if it does not ask.
        """
        self.rate_limited += 1
        if sent_at >= self._at_once_since:
            self._room_untrue = True
        if self.rows is not None:
            self.rows += 1  # its row is sent again
        if self._sends.forget(sent_at) and self._used:
            self._used -= 1
        if not self._denial.is_news(sent_at, now):
            return
        self._window.denied(now)
        self._note_denial(sent_at, now)
        if retry_after_s is None and self.denied_since is None and self._strike(now):
            return
        self._hold(sent_at, now, retry_after_s or 0.0)

    def not_counted(self, sent_at: float) -> None:
        """The request that left at `sent_at` never reached the limiter."""
        self._sends.forget(sent_at)

    def share_with(self, others: Sequence[float], now: float) -> None:
        """`others` are the paces of the other runs that use this key on this machine."""
        factor = self._sharing.replace(others, self.own_pace(now))
        if factor != 1:
            self._window.scale(factor, now)

    def see_waiting(self, waits: bool) -> None:
        """Takes in whether a request waits for the pace now. Call it about twice a second."""
        self._sharing.see(waits)

    def told(self, now: float) -> float | None:
        """The pace that the other runs with this key read, None if they need not leave room."""
        own = self.own_pace(now)
        return float(own) if self._held_back and math.isfinite(own) else None

    def own_pace(self, now: float) -> float:
        """The pace that this run would get without a look at the others."""
        pace = min(self.g * self._sustained(now), self._grown(now))
        return pace if self._spreads() else min(pace, self._ceiling.per_s(now))

    def _count(self, now: float) -> None:
        before, self._sent_at = self._sent_at, now
        if self.limit is not None and self.window_s is not None and before is not None:
            self._used += 1
            key_s = self.window_s * self._part(self.window_s)
            self._allowed += (now - before) * self.limit / key_s

    def _part(self, window_s: float) -> float:
        """This run's part of the key, if its part of the limit has the window `window_s`."""
        if self.limit is None or not self._sharing.others:
            return 1.0
        return self._sharing.part(self.g * self.limit / window_s)

    # -- the rate -------------------------------------------------------------------------

    def _fits(self, now: float) -> bool:
        """Whether what is left of the limit is enough for all rows that are left.

        Not after such a row was denied: each further try would be denied too.
        """
        if self.fixed is not None or not self.rows or self.limit is None or self._sharing.others:
            return False
        if self._room_untrue:
            return False
        return self.rows <= self._free(now)

    def _free(self, now: float) -> float:
        """How many requests the limit has room for now.

        The newest answer says it, less what was sent since. Before the first answer, the kept
        limit says it, less what was sent in a window; a tenth remains for other users.
        """
        assert self.limit is not None
        if self._limit_at > -math.inf:
            return self._remaining - self._sends.count(self._limit_at, now)
        window_s = self._window.guess(now)
        if window_s is None:
            return 0.0
        return _FREE_TRUSTED * self.limit - self._sends.count(now - window_s, now)

    def _hardly_left(self, now: float) -> bool:
        """Whether the limit has room for a few more requests only.

        Since the newest answer, this run sent some requests, and as many as it sent a window before
        that time no longer count. Others are assumed to continue as before.
        """
        few = int(_HARDLY_LEFT * self.limit) if self.limit else 0
        if not few or self.fixed is not None or self.window_s is None:
            return False
        gone = self._sends.count(self._limit_at - self.window_s, now - self.window_s)
        return self._free(now) + gone < few

    def _sustained(self, now: float) -> float:
        window_s = self._window.guess(now)
        return self.limit / window_s if self.limit and window_s else math.inf

    def _grown(self, now: float) -> float:
        """The rate while the window is not known, and no run kept one."""
        if not self._window_unheard:
            return math.inf
        since_s = 0.0 if self._started is None else now - self._started
        if self._spreads():
            return self._ramp.spread_per_s(since_s, self.limit, self._free(now))
        if self.limit is None or self._limit_at == -math.inf or self.rate_limited:
            return slow_start(since_s, self.limit)
        return self._ramp.per_s(since_s, self.limit, self._free(now), now - self._limit_at)

    def _spreads(self) -> bool:
        """Whether the rate is what is left of the limit, spread over the time of the last denial.

        It is next to others, while the window is not known, once an answer after the denial says
        what is left. The others make the bounds of the window too long then, and what was let
        through says what they left and not how much there is.
        """
        if not self._window_unheard:
            return False
        return self._ramp.spreads and self._limit_at >= self._released_at

    @property
    def _window_unheard(self) -> bool:
        """Whether neither an answer, nor an earlier run, nor a Retry-After has told the window."""
        return self.window_s is None and self._window.prior_s is None

    def _ceiling_holds(self, now: float) -> bool:
        """Whether the ceiling is what the rate meets. Else requests say nothing about it: it would
        grow untried, and be the rate at once when a denial's bound on the window is over. Nor does
        the time in which each request is denied."""
        return self.denied_since is None and self._ceiling.per_s(now) <= self.own_pace(now)

    @property
    def _held_back(self) -> bool:
        """Whether this run could use a higher pace."""
        return self._sharing.held_back and self.rows != 0

    # -- answers --------------------------------------------------------------------------

    def _learn(self, sent_at: float, limit: int, remaining: int, now: float) -> None:
        if limit != self.limit:
            if sent_at < self._limit_at:
                return  # an answer that is older than the one that showed the new limit
            self._ceiling.scale(limit / (self.limit or limit))
            self._ramp.new_limit()
            self.limit = limit
            if self.start is not None and self._limit_at == -math.inf:
                # The first answer: the kept window belongs to another limit. If it is too long, the
                # next request would wait for minutes, and only answers can show that. Rows that
                # were denied so far had room in the kept limit, and not in that of the headers.
                self._window.prior_s = None
                self._ceiling.lift()
                self._room_untrue, self._at_once_since = False, math.inf
            self._window.new_limit(sent_at)
            if self.window_s is not None:
                self._ceiling.lift()
                self._margin.new_limit()
        if sent_at >= self._limit_at:
            self._limit_at, self._remaining = sent_at, remaining
            sent = self._sends.count(-math.inf, sent_at)
            self._ramp.see(sent, limit - remaining, self._sends.span_s(sent_at))
        unknown_window = self.window_s is None
        if 4 * (limit - remaining) < limit and self._ceiling_holds(now):
            self._ceiling.plenty(sent_at)
        self._window.see(self._sends, sent_at, limit, limit - remaining)
        self._ceiling.scale(self._window.shorten(self._sends, sent_at, limit - remaining, now))
        if self.window_s is None:
            return
        if unknown_window:
            self._ceiling.lift()
            self._mature_at = now + _MATURE_WINDOWS * self.window_s
        self._margin.see(self.window_s)

    # -- denials --------------------------------------------------------------------------

    def _note_denial(self, sent_at: float, now: float) -> None:
        """Learns from a denial how long the window is, unless that has long been known.

        In that case repeated denials of probes have another reason, which is forgiven once.
        """
        if self.denied_since is not None and now > self._mature_at:
            self._forgiven = True
        if self.limit is None or self._forgiven or self._remembered(sent_at):
            return
        age = self._sends.age(sent_at, self.limit)
        if age is not None and self._window.refuted_by(sent_at, age, shared=self._ramp.others):
            self._margin.start_over()
            self._mature_at = math.inf
            self._ceiling.lift()

    def _remembered(self, sent_at: float) -> bool:
        """Whether a server process may have denied the probe from memory, without a look at W.

        It did if the newest answer, of another process, said that much of the limit was left.
        """
        assert self.limit is not None
        if self._limit_at > -math.inf and self._free(sent_at) > _MUCH_LEFT * self.limit:
            return True
        if self.denied_since is None or self.window_s is None:
            return False
        return sent_at - self.denied_since < _REMEMBERED_WINDOWS * self.window_s

    def _strike(self, now: float) -> bool:
        """Slows down a little. False where that is not enough: unknown limits, strikes in a row."""
        if self.window_s is not None:
            self._margin.strike(self.window_s, now)
        elif self._ceiling.known:
            self._ceiling.strike(now)
        else:
            return False
        lone = now - self._strike_at > max(_LONE_S, _LONE_SLOTS / self.rate(now))
        self._strike_at = now
        return lone

    def _hold(self, sent_at: float, now: float, asked_s: float) -> None:
        longest_s = (self.limit or 0) / _ASKED_LEAST_PER_S
        if _ASKED_TRUSTED_S <= asked_s <= longest_s and not self._room_untrue:
            self._window.asked(min(asked_s, _ASKED_MAX_S))
        least_s = 1 / self.rate(now)
        if self.window_s is None and self._denied_before == -math.inf:
            # The first denial ends with the window, which is longer than its bound.
            least_s = max(least_s, HOLD_SHARE * self._window.bound_s(now))
        self._denial.hold(sent_at, now, asked_s, least_s)

    def _most_asked_s(self) -> float:
        """How far a server's Retry-After is obeyed: less as soon as the window shows."""
        if self.window_s is not None:
            return _ASKED_WINDOWS * self.window_s
        if self._denial.again:
            return _ASKED_MAX_S
        return min(_ASKED_TURNS * max(self._ramp.turned_s, _ASKED_TURN_MIN_S), _ASKED_MAX_S)

    def _end_denial(self, probe: float, now: float) -> None:
        since, asked_s = self._denial.since, self._denial.asked_s
        assert since is not None
        self._ramp.denied(self._denial.lasted_s)
        self._denial.end()
        self._window.paused(since, probe)
        if self.limit is None:  # with a limit, the window is known soon
            self._ceiling.costs(probe - since)
        if self.window_s is None:
            self._lower_ceiling(since, probe, now, asked_s)
        elif not self._window.young(now):  # the ramp's denials come from its burst
            self._margin.charge((probe - since) / self.window_s)
        if self.window_s is not None and self._forgiven:
            self._mature_at = now + max(probe - since, _MATURE_WINDOWS * self.window_s)
        self._forgiven = False
        self._denied_before, self._released_at = since, probe

    def _lower_ceiling(self, since: float, probe: float, now: float, asked_s: float) -> None:
        """Caps the rate, after a denial from `since` to `probe`, by what was let through lately.

        It looks back over the denial and a little more, as the window was at least that long; and
        over the one before too, if that had hardly ended.
        """
        lately = self._ceiling.lately()
        lasted = probe - (self._denied_before if lately else since)
        back = max(_LOOK_BACK_MIN_S, _LOOK_BACK * lasted)
        through = self._sends.count(now - back, now) / back
        if self._denied_before == -math.inf and self._started is not None:
            # The ramp sends most at its start, which the time of the denial may not reach.
            gone = max(now - self._started, _LOOK_BACK_MIN_S)
            if self.limit:
                through = max(through, len(self._sends) / gone)
            elif lasted <= 2 * _LOOK_BACK_MIN_S:
                burst = self._sends.count(since - _LOOK_BACK_MIN_S, since) / _LOOK_BACK_MIN_S
                through = max(through, _GUESS_TRUSTED * burst)
        sustained = self._sustained(now)
        if asked_s >= _ASKED_TRUSTED_S and math.isinf(sustained):
            # The server asked for longer than a window lasts: the wait says nothing about the rate.
            sustained = len(self._sends) / max(self._sends.span_s(since), _LOOK_BACK_MIN_S)
        if math.isfinite(sustained):
            through = max(through, _GUESS_TRUSTED * sustained)
        if lately and probe - since < _LOOK_BACK_MIN_S:
            self._ceiling.denied_again(through, now)
        elif through * back < 2:  # nothing but the probe: there is nothing to go by
            self._ceiling.lift()
            self._started = now
        else:
            denied = self._ceiling.per_s(now)
            seldom = since - self._denied_before > 2 * (probe - since)
            if self.limit is None and seldom and through < denied < math.inf:
                # What got through lacks the time of the denial. Without headers, nothing else says
                # where the limit lies between that and the rate that was denied.
                through = math.sqrt(through * denied)
            self._ceiling.set(min(through, denied), now)
