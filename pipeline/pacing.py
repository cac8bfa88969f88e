"""How fast to send, learned from two headers and the 429s. Plain state and functions of time.

The rate is ``g * limit / W``: the limit from the headers, the window W from our own send times
(see `window`), g a little under 1. Before any header, and whenever a window is not known, the rate
is what was let through lately.

Times are seconds of a monotonic clock.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from pipeline.window import Sends, WindowEstimate

SLOW_START_PER_S = 5.0
SLOW_START_GROWTH = 3.0
SLOW_START_MOST_PER_S = 100.0
FLOOR_PER_S = 1 / 60
MOST_PER_S = 5_000.0
MOST_LIMIT = 1_000_000

_G_MIN, _G_START, _G_MAX = 0.85, 0.97, 1.0
_G_LOSS = 0.01
_G_GAIN_PER_S, _G_GAIN_PER_ANSWER = 2e-4, 5e-5
_HOLD_MIN_S, _HOLD_SHARE, _HOLD_MAX_S = 0.02, 0.2, 60.0
_TRUST_MIN_S, _TRUST_MAX_S = 0.05, 1.0
_LOOK_BACK_MIN_S = 1.0
_CAP_LOSS, _CAP_LOSS_SOON, _CAP_LOSS_DENIED = 0.99, 0.95, 0.85
_CAP_DIP = 0.25
_GUESS_TRUSTED = 0.6
_LOSS_EVERY_WINDOWS = 0.1
_REFUNDS_KEPT = 10
_CAP_TRIED_S = 30.0


@dataclass(slots=True)
class Pace:
    """The controller of one key. `fixed` is a rate that overrides what the headers teach."""

    fixed: float | None = None
    limit: int | None = None
    g: float = _G_START
    _window: WindowEstimate = field(default_factory=WindowEstimate)
    _sends: Sends = field(default_factory=Sends)
    _started: float | None = None
    _refunds: int = 0
    _refunded: bool = False
    _limit_at: float = -math.inf
    _cap: float = math.inf
    _sent_since_cap: int = 0
    _capped_at: float = -math.inf
    _cap_dip: float = 0.0
    _onset_before: float = -math.inf
    _strike_at: float = -math.inf
    _lost_at: float = -math.inf
    _denied_since: float | None = None
    _reacted: float = -math.inf
    _hold_until: float = -math.inf
    _probe: float | None = None
    _trip_s: float = 0.0
    _gained_at: float = -math.inf

    # -- what the sender asks -------------------------------------------------------------

    @property
    def window_s(self) -> float | None:
        return self._window.window_s

    def rate(self, now: float) -> float:
        """Requests per second at `now`."""
        if self.fixed is not None:
            return self.fixed
        window_s = self._window.guess(now)
        sustained = math.inf
        if self.limit is not None and window_s is not None:
            sustained = self.limit / window_s
        floor = min(FLOOR_PER_S, 0.8 * sustained)
        return max(min(self.g * sustained, self._capped(now), self._grown(now), MOST_PER_S), floor)

    def _grown(self, now: float) -> float:
        """The slow start, while nothing better is known."""
        if self.window_s is not None:
            return math.inf
        since = 0.0 if self._started is None else now - self._started
        grown = SLOW_START_PER_S * math.pow(SLOW_START_GROWTH, min(since, 10.0))
        return min(grown, max(SLOW_START_MOST_PER_S, self.limit or 0.0))

    def next_at(self, now: float) -> float:
        """The earliest time at which a request may go; at or before `now` means at once."""
        if self._probe is not None:
            trusted = self._probe + min(max(2 * self._trip_s, _TRUST_MIN_S), _TRUST_MAX_S)
            if now < trusted:
                return trusted
            self._end_denial(self._probe, now)
            return now
        return max(now, self._hold_until)

    def take_refund(self) -> bool:
        """Whether the next request need not wait for its turn, since an earlier one did not count.

        Never twice in a row: a cache that answers everything at most doubles the rate.
        """
        if self._refunds and not self._refunded:
            self._refunds -= 1
            self._refunded = True
        else:
            self._refunded = False
        return self._refunded

    @property
    def denied_since(self) -> float | None:
        """Since when every probe has been denied; None while requests are let through."""
        return self._denied_since

    # -- what happens ---------------------------------------------------------------------

    def granted(self, now: float) -> None:
        """A slot was handed out at `now`; its request leaves as soon as its intent is durable."""
        if self._denied_since is not None:
            self._probe = now

    def sent(self, now: float) -> None:
        """A request left at `now`."""
        if self._started is None:
            self._started = now
        self._sends.add(now, self.limit or 0)
        self._sent_since_cap += 1
        if self._probe is not None:
            self._probe = now

    def answered(self, sent_at: float, limit: object, remaining: object, now: float) -> None:
        """An answer that was let through came at `now`; headers as they came, None if absent."""
        if self._probe is not None and sent_at >= self._probe:
            self._end_denial(sent_at, now)
        if limit is None and remaining is None:
            self._cached(sent_at)
            return
        known, left = _whole(limit), _whole(remaining)
        if known is None or left is None:
            return
        if known <= 0:
            self._sends.forget(sent_at)
            return
        self._learn(sent_at, known, left)
        self._gain(now)

    def denied(self, sent_at: float, now: float) -> None:
        """The request that left at `sent_at` was answered with a 429."""
        self._sends.forget(sent_at)
        if sent_at < self._reacted:
            return  # it left before the pause began: punished once is enough
        self._trip_s = max(now - sent_at, 0.9 * self._trip_s)
        self._reacted = now
        self._bound(sent_at)
        if self._denied_since is None and self._lone_strike(now):
            return
        if self._denied_since is None:
            self._denied_since = sent_at
        self._probe = None
        pause = _HOLD_SHARE * (now - self._denied_since)
        self._hold_until = now + min(max(pause, _HOLD_MIN_S), _HOLD_MAX_S)

    def not_counted(self, sent_at: float) -> None:
        """The request that left at `sent_at` never reached the limiter."""
        self._sends.forget(sent_at)

    # -- how it is learned ----------------------------------------------------------------

    def _learn(self, sent_at: float, limit: int, remaining: int) -> None:
        if limit != self.limit:
            if sent_at < self._limit_at:
                return
            self._cap *= limit / (self.limit or limit)
            self.limit = limit
            self._window.forget_samples()
        self._limit_at = max(self._limit_at, sent_at)
        unsettled = self.window_s is None
        self._window.see(self._sends, sent_at, limit, limit - remaining)
        if unsettled and self.window_s is not None:
            self._cap = math.inf

    def _lone_strike(self, now: float) -> bool:
        """Slows down a little. False where that is not enough: unknown limits, strikes in a row."""
        window_s = self.window_s if self.limit is not None else None
        if window_s is not None:
            if now - self._lost_at > _LOSS_EVERY_WINDOWS * window_s:
                self._lost_at = now
                self.g = max(self.g - _G_LOSS, _G_MIN)
        elif math.isfinite(self._cap):
            loss = _CAP_LOSS_SOON if self._capped_lately() else _CAP_LOSS
            self._set_cap(loss * self._capped(now), _CAP_DIP, now)
        else:
            return False
        lone = now - self._strike_at > max(0.25, 4 / self.rate(now))
        self._strike_at = now
        return lone

    def _bound(self, sent_at: float) -> None:
        age = self._sends.age(sent_at, self.limit) if self.limit is not None else None
        if age is not None and self._window.refuted_by(sent_at, age):
            self.g = _G_START
            self._cap = math.inf

    def _cached(self, sent_at: float) -> None:
        if self.limit is not None and self._sends.forget(sent_at):
            self._refunds = min(self._refunds + 1, _REFUNDS_KEPT)

    def _gain(self, now: float) -> None:
        gone = min(now - self._gained_at, 1.0)
        self._gained_at = now
        rate = self.rate(now)
        per_s = min(_G_GAIN_PER_S * math.sqrt(rate), _G_GAIN_PER_ANSWER * rate)
        self.g = min(self.g + gone * per_s, _G_MAX)

    def _end_denial(self, probe: float, now: float) -> None:
        assert self._denied_since is not None
        lasted, onset = probe - self._denied_since, self._denied_since
        self._denied_since = None
        self._probe = None
        self._hold_until = -math.inf
        if self.limit is None or self.window_s is None:
            self._cap_to_what_came_through(lasted, now)
        self._onset_before = onset

    def _cap_to_what_came_through(self, lasted: float, now: float) -> None:
        """Caps the rate after a denial that `lasted`, by what the limiter let through lately.

        It looks back over the denial and a little more, as the window was at least that long; and
        over the one before too, if that had hardly ended.
        """
        lately = self._capped_lately()
        since = self._onset_before if lately else now - lasted
        back = max(_LOOK_BACK_MIN_S, 1.25 * (now - since))
        through = self._sends.count(now - back, now) / back
        window_s = self._window.guess(now)
        if self.limit is not None and window_s is not None:
            through = max(through, _GUESS_TRUSTED * self.limit / window_s)
        if lately and lasted < _LOOK_BACK_MIN_S:
            top = _CAP_LOSS_SOON * self._cap
            start = min(through, _CAP_LOSS_DENIED * self._capped(now))
            self._set_cap(top, (1 - min(start / top, 1.0)) ** (1 / 3), now)
        else:
            self._set_cap(min(through, self._capped(now)), _CAP_DIP, now)

    def _set_cap(self, top: float, dip: float, now: float) -> None:
        """From ``top * (1 - dip ** 3)`` soon to near `top`, and beyond it later."""
        self._cap = max(top, FLOOR_PER_S)
        self._cap_dip = max(dip, _CAP_DIP)
        self._sent_since_cap = 0
        self._capped_at = now

    def _capped(self, now: float) -> float:
        if not math.isfinite(self._cap):
            return self._cap
        tried = self._sent_since_cap / self._scale()
        step = max(tried, (now - self._capped_at) / _CAP_TRIED_S) - self._cap_dip
        return self._cap * (1 + min(step, 4.0) ** 3)

    def _capped_lately(self) -> bool:
        return math.isfinite(self._cap) and self._sent_since_cap < self._scale() / 4

    def _scale(self) -> float:
        """Sends after which the cap has grown clearly: about one denial for so many."""
        return min(max(60 * self._cap, 20.0), 300.0) + min(6 * self._cap, 400.0)


def _whole(header: object) -> int | None:
    """A header's whole number; None for anything that is not one a limiter could mean."""
    text = str(header).strip() if header is not None else ""
    if not (text.isascii() and text.isdigit() and len(text) <= 9):
        return None
    number = int(text)
    return number if number <= MOST_LIMIT else None
