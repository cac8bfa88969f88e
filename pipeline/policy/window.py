"""Estimates the limiter's window from each answer and our own send times. Pure.

Whatever limiter the server uses, it comes down to one number: its effective window
``W = limit / sustainable rate``, which no header tells. But ``remaining`` was counted when the
request arrived, so with ``u = limit - remaining`` the age, at the time of that request's sending,
of this run's u-th most recent admitted send is a sample of W. Indexing every answer by the time at
which its request was *sent* makes latency and reordering drop out.

* Samples that sit together (a sliding window, a log): the mean of the freshest, without the
  outermost fifths.
* Samples that saw-tooth between 0 and W (a fixed window, a bucket filled in clumps): the higher of
  the last two tops. A tooth that still rises says nothing yet. The window began after the last
  request that it does not count, so W may be longer than the top by that gap, and is taken to be.
* A sample that reaches back to the first send only says that W is at least that long; and a 429
  whose request was sent at s says ``W > s - (time of the limit-th most recent send)``. Jitter makes
  such a bound too long by a tenth, so the first one of late moves a sampled W only if it is 15 %
  longer. W is then the bound, rounded by 3 % at most: next to others no W is round.
* Where the answers say that W is shorter than what is believed (see `upper_bound`), W shrinks to
  that bound, and to a quarter at most in one step. Samples cannot show it: at the low rate that
  follows from a long W, `u` is 1 and says nothing.

Others who use the same key are counted in u and not in our sends: W reads long, and the rate that
follows from it yields by itself.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field
from itertools import pairwise
from operator import attrgetter
from statistics import fmean

from pipeline.policy.sends import Sends
from pipeline.policy.upper_bound import UpperBound

ROUND_WINDOWS_S = (1, 2, 5, 10, 15, 20, 30, 60, 120, 300, 600, 900, 1800, 3600)
SHORTEST_WINDOW_S, LONGEST_WINDOW_S = 0.05, 7200.0

# Samples of the ramp are off by a tenth. Later ones are exact to one send, and a wider snap would
# hide the others who use 5 % of the key.
_SNAP, _SNAP_SURE = 0.15, 0.03
_SNAP_BELOW, _SNAP_ABOVE, _BOUND_TRUSTED = 0.97, 1.2, 1.1
_SAMPLES_KEPT = 400
_SAMPLES_PER_WINDOW = 150  # two windows and a bit of them fit into what is kept
_SAMPLES_NEEDED = 5
_ESTIMATES_PER_KEPT = 20  # an estimate costs half a millisecond: not one for every answer
_TOOTH_USED = 4  # below that a jitter of two sends looks like a new window
_RISING = 0.5  # seconds of age per second: 1 on a tooth, 0 on a level, 0.3 as others join
_TIGHT = 0.15
_BURST = 2.0  # a burst makes a sliding window deny for up to twice its length
_REFUTED = 1.15  # as far as snapping may have been off
_JITTER_LIMIT = 10  # below it one request more or less moves a sample by as much as a bound
_QUIET_WINDOWS = 1.2
_PAUSE_MIN_S, _PAUSE_WINDOWS = 1.0, 0.3
_FREE_WINDOWS, _LOWER_WINDOWS = 3.0, 4.0
_SPAN_WINDOWS = 2.2  # two teeth and a bit
# A bucket that is filled continuously looks nearly full at any pace below its rate. So one step
# at most quarters the window, and a denial soon after it shows the mistake.
_SHRUNK_MOST = 4.0
_BOUNDS_KEPT, _BOUND_LASTS_WINDOWS = 32, 2.0


@dataclass(frozen=True, slots=True)
class Sample:
    """One answer's word on W: its request was sent at `at`, and `used` had been used by then.

    `before_s` is the age of the send before those, which the window may just not have reached.
    """

    at: float
    age: float
    used: int
    before_s: float

    def middle(self) -> float:
        """W where sends flow evenly: the age spans used - 1 gaps, the window half a gap more."""
        return self.age * (self.used - 0.5) / (self.used - 1)

    def top(self) -> float:
        """The same, where the window reached back nearly to the send before."""
        return self.age * self.used / (self.used - 1)


@dataclass(frozen=True, slots=True)
class Peak:
    """The top of a tooth, when the new window began that ended it, and W at the most."""

    ended_at: float
    top_s: float
    most_s: float


@dataclass(frozen=True, slots=True)
class Level:
    """An estimate of W; `sure` outweighs the bounds. Not `strong`: little of the limit was used.

    A bucket that is nearly full looks like that too, so it is believed only against an estimate
    that would otherwise stay too long for ever.
    """

    window_s: float
    sure: bool
    strong: bool


@dataclass(slots=True)
class WindowEstimate:
    """The window as the samples since the last change of the limit show it.

    `prior_s` is what an earlier run learned, or the longest wait that the server asked for, until
    the first estimate of this run.
    """

    window_s: float | None = None
    prior_s: float | None = None
    _quiet_until: float = -math.inf
    _limit: int = 0
    _sampled_s: float | None = None
    _refuted: bool = False
    _upper: UpperBound = field(default_factory=UpperBound)
    _samples: deque[Sample] = field(default_factory=lambda: deque(maxlen=_SAMPLES_KEPT))
    _bounds: deque[tuple[float, float]] = field(default_factory=lambda: deque(maxlen=_BOUNDS_KEPT))
    _seen: int = 0
    _new: int = 0
    _known_since: float = -math.inf
    _adopted_at: float = -math.inf
    _paused_from: float = -math.inf
    _paused_until: float = -math.inf
    _denied_until: float = -math.inf

    def new_limit(self, at: float) -> None:
        """Notes another limit from `at` on. Earlier requests are no longer samples of the window.

        The window stays what its samples said; denials lately came from the limit.
        """
        self.window_s = self._sampled_s
        self._start_over(at, self.window_s or 0.0)

    def scale(self, factor: float, now: float) -> None:
        """Others on this machine came or went: our part of the window is another at once."""
        before = self.window_s or 0.0
        if self.window_s is not None:
            self.window_s = self._sampled_s = _clamped(self.window_s * factor)
        if self.prior_s is not None:
            self.prior_s = _clamped(self.prior_s * factor)
        self._start_over(now, min(before, before * factor))

    def asked(self, wait_s: float) -> None:
        """A server asked to wait for `wait_s`: the window for the time being, if it is unknown."""
        if self.window_s is None:
            self.prior_s = max(self.prior_s or 0.0, wait_s)

    def paused(self, start: float, end: float) -> None:
        """No request was let through from `start` to `end`, because each one was denied.

        After a pause of a good part of the window, samples that would look back over it are
        dropped: the requests that it lacks would make W longer where others use the key too. While
        the window is unknown, so are those from before it: a burst would look like a short W.
        """
        self._denied_until = end
        least_s = max(_PAUSE_MIN_S, _PAUSE_WINDOWS * (self.guess(end) or 0.0))
        if end - start >= least_s:
            self._paused_from, self._paused_until = start, end
            if self.window_s is None:
                self._samples.clear()
                self._upper.start_over()

    def _start_over(self, at: float, lasts_s: float) -> None:
        self._samples.clear()
        self._bounds.clear()
        self._upper.start_over()
        self._quiet_until = at + _QUIET_WINDOWS * lasts_s

    def refuted_by(self, at: float, window_s: float, *, shared: bool = False) -> bool:
        """Takes in a denial's word that W was longer at `at`. Whether the estimate cannot stand.

        The time of the last pause does not count once W is known, nor if the key is `shared`: the
        requests that this run lacks there were those of others.
        """
        if at < self._quiet_until:
            return False
        if shared or self.window_s is not None:
            window_s -= max(self._paused_until - max(self._paused_from, at - window_s), 0.0)
        if self.prior_s is not None and window_s > _REFUTED * self.prior_s:
            self.prior_s = None
        wrong = self.window_s is not None and window_s > _REFUTED * self.window_s
        if wrong:
            self.window_s, self._refuted = None, True
            self._samples.clear()
        self.at_least(at, window_s)
        return wrong

    def see(self, sends: Sends, sent_at: float, limit: int, used: int) -> None:
        """Takes in an answer: `used` of `limit` were used when the request of `sent_at` came."""
        self._limit = limit
        if sent_at < self._quiet_until or not 2 <= used <= limit:
            return
        if (age := sends.age(sent_at, used)) is None:
            return
        if sent_at - age < self._paused_until:
            return
        if sends.are_all(sent_at, used):
            self.at_least(sent_at, age)
            return
        self._seen += 1
        if self._seen % max(1, limit // _SAMPLES_PER_WINDOW):
            return
        before_s = sends.age(sent_at, used + 1) or age
        if sent_at - before_s < self._denied_until:
            before_s = age  # the denied requests show that the window began later
        self._samples.append(Sample(sent_at, age, used, before_s))
        self._new += 1
        enough = self._new >= len(self._samples) / _ESTIMATES_PER_KEPT
        if len(self._samples) >= _SAMPLES_NEEDED and enough:
            self._new = 0
            self._estimate(limit)

    def at_least(self, at: float, window_s: float) -> None:
        """The window was longer than `window_s` at `at`."""
        before_s = self.bound_s(at)
        if window_s >= before_s:
            self._bounds.append((at, window_s))
            if self.window_s is not None and window_s > self._least_refuting_s(before_s):
                self.window_s = _clamped(
                    snapped(window_s, _SNAP_SURE) if self._exact() else above(window_s)
                )

    def _least_refuting_s(self, before_s: float) -> float:
        """A bound moves what samples showed only if jitter cannot explain it, or if it is the
        second one of late."""
        assert self.window_s is not None
        return self.window_s * (_REFUTED if self._exact() and before_s <= self.window_s else 1.0)

    def _exact(self) -> bool:
        """Whether samples showed the window, and a request more or less hardly moves them."""
        return self._sampled_s is not None and self._limit >= _JITTER_LIMIT

    def guess(self, at: float) -> float | None:
        """The window for the time being: the estimate, else what is above the bound."""
        if self.window_s is not None:
            return self.window_s
        guess = max(above(self.bound_s(at)), self.prior_s or 0.0)
        return _clamped(guess) if guess > SHORTEST_WINDOW_S else None

    def bound_s(self, at: float, since: float = -math.inf) -> float:
        """What the window is at least, as seen lately and not before `since`."""
        return max(
            (
                age
                for seen, age in self._bounds
                if seen >= since
                and at - seen <= _BOUND_LASTS_WINDOWS * max(age, self.window_s or 0.0)
            ),
            default=0.0,
        )

    def shorten(self, sends: Sends, sent_at: float, used: int, now: float) -> float:
        """Takes in an answer, and a shorter window if enough answers say that it is no longer.

        Returns by which factor it is shorter now.
        """
        believed_s = self.guess(sent_at)
        if believed_s is None or sent_at < self._quiet_until:
            return 1.0
        age_s = sends.age(sent_at, used + 1)
        if age_s is None or sends.are_all(sent_at, used + 1):
            # All sends may still count, so the window may be as long.
            age_s = sends.span_s(sent_at)
        longest_s = self._upper.see(sent_at, age_s, believed_s, self._limit)
        if longest_s is None or not self._upper.tries(now):
            return 1.0
        window_s = _clamped(max(_BOUND_TRUSTED * longest_s, believed_s / _SHRUNK_MOST))
        if self.window_s is not None:
            self.window_s = self._sampled_s = window_s
        else:
            self.prior_s = window_s
        self._start_over(sent_at, 0.0)
        return believed_s / window_s

    def denied(self, now: float) -> None:
        """A request was denied."""
        self._upper.denied(now)

    def _estimate(self, limit: int) -> None:
        newest = max(sample.at for sample in self._samples)
        span = _SPAN_WINDOWS * self.window_s if self.window_s else math.inf
        fresh = [sample for sample in self._samples if sample.at >= newest - span]
        if len(fresh) < _SAMPLES_NEEDED:
            return
        fresh.sort(key=attrgetter("at"))
        peaks = _peaks(fresh, max(_TOOTH_USED, limit / 10))
        bound = self.bound_s(newest)
        within = _SNAP if self.young(newest) else min(max(_SNAP_SURE, 2 / limit), _SNAP)
        level = _level(fresh, limit, newest - (self.window_s or 0.0) / 2, self._paused_until)
        if self._outlived_peaks(level, bound):
            peaks = []
        if peaks:
            if len(peaks) > 1:  # a denial before two whole windows came from others who left
                bound = self.bound_s(newest, peaks[-2].ended_at - peaks[-2].top_s)
            top_s = max(peak.top_s for peak in peaks[-2:])
            most_s = max(top_s, min(peak.most_s for peak in peaks[-2:]))
            self._adopt(snapped_between(top_s, most_s, within), bound, newest)
            return
        if level is None or not (level.strong or self._may_be_weak(level)):
            return
        if self.window_s is None and level.window_s < bound / _BURST:
            return  # the start of a tooth at a growing rate lies level too
        if level.sure:
            self._adopt(snapped(level.window_s, within), 0.0, newest)
        else:
            self._adopt(snapped(level.window_s, _SNAP), bound, newest)

    def _may_be_weak(self, level: Level) -> bool:
        """Whether a level is believed although little of the limit was used.

        Where a denial refuted an estimate before, it does not replace a window of which it is less
        than a quarter: the limiter may be a bucket that is nearly full again after each pause.
        """
        if self.window_s is not None:
            return True
        if self.prior_s is None:
            return False
        return not self._refuted or level.window_s >= self.prior_s / _SHRUNK_MOST

    def _outlived_peaks(self, level: Level | None, bound_s: float) -> bool:
        """Whether a pause of ours made the peaks: in teeth no half window of samples lies level.

        Denials of late say more than either if they say twice that and more. A burst explains less.
        """
        if level is None or self.window_s is None:
            return False
        return level.sure and level.strong and bound_s <= _BURST * level.window_s

    def young(self, now: float) -> bool:
        """Whether the samples are still those of the ramp, when sends did not flow evenly."""
        return self.window_s is None or now - self._known_since <= _FREE_WINDOWS * self.window_s

    def _adopt(self, window_s: float, bound_s: float, now: float) -> None:
        """Up at once, down slowly once known: a bucket that fills up looks like a shorter W."""
        if window_s >= bound_s:
            self._sampled_s = _clamped(window_s)
        window_s = _clamped(window_s if window_s >= bound_s else above(bound_s))
        if self.window_s is None:
            self._known_since = now
            self.prior_s = None
        elif window_s < self.window_s and not self.young(now):
            gone = (now - self._adopted_at) / (_LOWER_WINDOWS * self.window_s)
            window_s = self.window_s - (self.window_s - window_s) * min(max(gone, 0.0), 1.0)
        self.window_s = window_s
        self._adopted_at = max(now, self._adopted_at)


def _peaks(samples: list[Sample], least: float) -> list[Peak]:
    """The tops of the teeth, where what is used falls at once to half and less: a new window."""
    peaks: list[Peak] = []
    top = most = 0.0
    for before, sample in pairwise(samples):
        top, most = max(top, before.top()), max(most, before.before_s)
        fell = before.used >= least and 2 * sample.used <= before.used
        if fell and sample.at - before.at < top:
            peaks.append(Peak(sample.at, top, most))
            top = most = 0.0
    return peaks


def _level(samples: list[Sample], limit: int, since: float, paused_until: float) -> Level | None:
    """The level of samples that sit together; weak ones only if they sit close.

    None where they rise with time: that is a tooth which is not over yet, or the trace that a burst
    leaves in a sliding window. Next to samples from before a pause such a tooth would not show, so
    those after `paused_until` must not rise either.
    """
    strong = [sample for sample in samples if 4 * sample.used >= limit]
    weak = len(strong) < _SAMPLES_NEEDED
    trusted = samples if weak else strong
    recent = [sample for sample in trusted if sample.at >= since]
    if len(recent) < 2 * _SAMPLES_NEEDED:
        recent = trusted[-2 * _SAMPLES_NEEDED :]
    if len(recent) < _SAMPLES_NEEDED or abs(_slope(recent)) > _RISING:
        return None
    if abs(_slope([sample for sample in recent if sample.at >= paused_until])) > _RISING:
        return None
    middles = sorted(sample.middle() for sample in recent)
    cut = len(middles) // 5
    estimate = fmean(middles[cut : len(middles) - cut])
    spread = middles[-1 - cut] - middles[cut]
    sure = len(recent) >= 2 * _SAMPLES_NEEDED and spread <= max(_TIGHT, 1.5 / limit) * estimate
    return Level(estimate, sure, not weak) if sure or not weak else None


def _slope(samples: list[Sample]) -> float:
    """How much older the samples get per second, from their first to their second half."""
    half = len(samples) // 2
    if not half:
        return 0.0
    early, late = samples[:half], samples[half:]
    gone = fmean(sample.at for sample in late) - fmean(sample.at for sample in early)
    older = fmean(sample.age for sample in late) - fmean(sample.age for sample in early)
    return older / gone if gone > 0 else 0.0


def snapped(window_s: float, within: float) -> float:
    """The round window nearby, if there is one: windows are set by people."""
    for candidate in ROUND_WINDOWS_S:
        if abs(window_s - candidate) <= within * candidate:
            return float(candidate)
    return window_s


def snapped_between(least_s: float, most_s: float, within: float) -> float:
    """The longest round window from `least_s` to `most_s`, and without one that near `most_s`."""
    low, high = (1 - _SNAP_SURE) * least_s, (1 + _SNAP_SURE) * most_s
    round_s = max((c for c in ROUND_WINDOWS_S if low <= c <= high), default=None)
    return float(round_s) if round_s is not None else snapped(most_s, within)


def above(bound_s: float) -> float:
    """The window that is taken for one of which only a lower bound is known.

    Probes come a fifth of the denial apart, so it is hardly a fifth longer.
    """
    for candidate in ROUND_WINDOWS_S:
        if _SNAP_BELOW * bound_s <= candidate <= _SNAP_ABOVE * bound_s:
            return float(candidate)
    return _BOUND_TRUSTED * bound_s


def _clamped(window_s: float) -> float:
    return min(max(window_s, SHORTEST_WINDOW_S), LONGEST_WINDOW_S)
