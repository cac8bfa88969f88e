"""How fast to send, learned from two headers and the 429s. Plain state and functions of time.

Whatever limiter the server uses, it comes down to one number: its effective window
``W = limit / sustainable rate``, which no header tells. But ``remaining`` was counted when the
request arrived, so with ``u = limit - remaining`` the age, at the time of that request's sending,
of our own u-th most recent admitted send is a sample of W. Indexing every answer by the time at
which its request was *sent* makes latency and reordering drop out.

* Samples that sit together (a sliding window): their median. Samples that saw-tooth between 0 and
  W (a fixed window): a high percentile, as W is the top of the tooth.
* A sample that reaches back to the first send only says that W is at least that long.
* A 429 whose request was sent at s says ``W > s - (time of the limit-th most recent send)``.
* The rate is ``g * limit / W`` with g a little under 1, lower after each 429.

Times are seconds of a monotonic clock.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections import deque
from dataclasses import dataclass, field
from statistics import median

SLOW_START_PER_S = 5.0
SLOW_START_GROWTH = 3.0
SLOW_START_MOST_PER_S = 100.0
FLOOR_PER_S = 1 / 60
ROUND_WINDOWS_S = (1, 2, 5, 10, 15, 20, 30, 60, 120, 300, 600, 900, 1800, 3600)
MOST_LIMIT = 1_000_000

_SNAP = 0.15
_G_MIN, _G_START, _G_MAX = 0.85, 0.97, 1.0
_G_LOSS, _G_GAIN = 0.01, 0.0002
_SAMPLES_KEPT = 400
_SAMPLES_NEEDED = 5
_SAWTOOTH = 0.35
_HOLD_MIN_S, _HOLD_SHARE, _HOLD_MAX_S = 0.1, 0.2, 60.0
_PROBE_TRUSTED_AFTER_S = 1.0
_HISTORY_S = 3700.0


@dataclass(slots=True)
class Pace:
    """The controller of one key. `fixed` is a rate that overrides what the headers teach."""

    fixed: float | None = None
    limit: int | None = None
    window_s: float | None = None
    g: float = _G_START
    ceiling: float = SLOW_START_MOST_PER_S
    _started: float | None = None
    _sends: list[float] = field(default_factory=list)
    _history_cut: bool = False
    _samples: deque[tuple[float, float]] = field(
        default_factory=lambda: deque(maxlen=_SAMPLES_KEPT)
    )
    _window_above_s: float = 0.0
    _denied_since: float | None = None
    _reacted: float = -math.inf
    _hold_until: float = -math.inf
    _probe: float | None = None

    # -- what the sender asks -------------------------------------------------------------

    def rate(self, now: float) -> float:
        """Requests per second at `now`."""
        if self.fixed is not None:
            return self.fixed
        if self.limit is not None and self.window_s is not None:
            return max(self.g * self.limit / self.window_s, FLOOR_PER_S)
        since = 0.0 if self._started is None else now - self._started
        grown = SLOW_START_PER_S * math.pow(SLOW_START_GROWTH, min(since, 60.0))
        return max(min(grown, self.ceiling), FLOOR_PER_S)

    def next_at(self, now: float) -> float:
        """The earliest time at which a request may go; at or before `now` means at once."""
        if self._denied_since is None:
            return now
        if self._probe is not None:
            trusted = self._probe + _PROBE_TRUSTED_AFTER_S
            if now < trusted:
                return trusted
            self._end_denial(now)
            return now
        return max(now, self._hold_until)

    @property
    def denied_since(self) -> float | None:
        """Since when every probe has been denied; None while requests are let through."""
        return self._denied_since

    # -- what happens ---------------------------------------------------------------------

    def sent(self, now: float) -> None:
        """A request left at `now`."""
        if self._started is None:
            self._started = now
        self._sends.append(now)
        if len(self._sends) > 4096 and self._sends[0] < now - _HISTORY_S:
            del self._sends[: bisect_left(self._sends, now - _HISTORY_S)]
            self._history_cut = True
        if self._denied_since is not None:
            self._probe = now

    def answered(self, sent_at: float, limit: object, remaining: object, now: float) -> None:
        """An answer that was let through came at `now`; headers as they came, None if absent."""
        if self._probe is not None and sent_at >= self._reacted:
            self._end_denial(now)
        numbers = _whole(limit), _whole(remaining)
        if numbers[0] is None or numbers[1] is None or numbers[0] <= 0:
            return
        self._learn(sent_at, numbers[0], numbers[1])
        self.g = min(self.g + _G_GAIN, _G_MAX)

    def denied(self, sent_at: float, now: float) -> None:
        """The request that left at `sent_at` was answered with a 429."""
        self._forget(sent_at)
        if self._denied_since is not None and sent_at < self._reacted:
            return  # it left before the pause began: punished once is enough
        if self._denied_since is None:
            self._denied_since = now
            self._slow_down(sent_at, now)
        self._probe = None
        self._reacted = now
        pause = _HOLD_SHARE * (now - self._denied_since)
        self._hold_until = now + min(max(pause, _HOLD_MIN_S), _HOLD_MAX_S)

    def not_counted(self, sent_at: float) -> None:
        """The request that left at `sent_at` never reached the limiter."""
        self._forget(sent_at)

    # -- how it is learned ----------------------------------------------------------------

    def _learn(self, sent_at: float, limit: int, remaining: int) -> None:
        if limit != self.limit:
            self.limit = limit
            self._samples.clear()
            self._window_above_s = 0.0
        used = limit - remaining
        position = bisect_right(self._sends, sent_at) - used
        if used < 2 or used > limit or position < 0:
            return
        if position == 0 and not self._history_cut:
            self._window_above_s = max(self._window_above_s, sent_at - self._sends[0])
            return
        self._samples.append((sent_at, sent_at - self._sends[position]))
        if len(self._samples) >= _SAMPLES_NEEDED:
            self._estimate()

    def _estimate(self) -> None:
        newest = self._samples[-1][0]
        span = max(2.2 * (self.window_s or self._window_above_s), 2.0)
        ages = sorted(age for at, age in self._samples if at >= newest - span)
        if len(ages) < _SAMPLES_NEEDED:
            return
        low, high = ages[len(ages) // 10], ages[(len(ages) * 9) // 10]
        estimate = high if low < _SAWTOOTH * high else median(ages)
        self.window_s = _snapped(max(estimate, self._window_above_s, 0.05))

    def _slow_down(self, sent_at: float, now: float) -> None:
        if self.limit is not None:
            position = bisect_right(self._sends, sent_at) - self.limit
            if position >= 0:
                above = sent_at - self._sends[position]
                self._window_above_s = max(self._window_above_s, above)
        if self.window_s is not None:
            self.g = max(self.g - _G_LOSS, _G_MIN)
        else:
            self.ceiling = max(self.rate(now) / 2, FLOOR_PER_S)

    def _end_denial(self, now: float) -> None:
        self._denied_since = None
        self._probe = None
        self._reacted = now

    def _forget(self, sent_at: float) -> None:
        position = bisect_left(self._sends, sent_at)
        if position < len(self._sends) and self._sends[position] == sent_at:
            del self._sends[position]


def _snapped(window_s: float) -> float:
    for candidate in ROUND_WINDOWS_S:
        if abs(window_s - candidate) <= _SNAP * candidate:
            return float(candidate)
    return window_s


def _whole(header: object) -> int | None:
    """A header's whole number; None for anything that is not one a limiter could mean."""
    text = str(header).strip() if header is not None else ""
    if not (text.isascii() and text.isdigit() and len(text) <= 9):
        return None
    number = int(text)
    return number if number <= MOST_LIMIT else None
