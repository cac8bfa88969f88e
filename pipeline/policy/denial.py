"""A run of denied requests: the pauses between the probes, and when a probe is trusted. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass

# 55 and not 60 s, so that no stop is over a minute when the probe's way is added.
_HOLD_MIN_S, HOLD_SHARE, _HOLD_MAX_S = 0.02, 0.2, 55.0
_TRUST_MIN_S, _TRUST_MAX_S = 0.05, 1.0
_TRIP_KEPT = 0.9  # of the longest time that a 429 took lately, with each further 429


@dataclass(slots=True)
class Denial:
    """`since` is when the first denied request left, None while requests are let through.

    `asked_s` is how long the last denial asked to wait (Retry-After), 0 if it did not. `again` is
    whether a probe was denied too.
    """

    since: float | None = None
    asked_s: float = 0.0
    again: bool = False
    _reacted: float = -math.inf
    _held_at: float = -math.inf
    _hold_until: float = -math.inf
    _probe: float | None = None
    _trip_s: float = 0.0

    def granted(self, now: float) -> None:
        """A slot was handed out at `now`. During a denial its request is the probe."""
        if self.since is not None:
            self._probe = now

    def sent(self, now: float) -> None:
        """The request of that slot left at `now`."""
        if self._probe is not None:
            self._probe = now

    def next_at(self, now: float, most_asked_s: float) -> float:
        """The earliest time of the next request; an asked wait counts up to `most_asked_s`."""
        if self._probe is not None:
            return self._trusted_at(self._probe)
        return max(now, self._hold_until, self._held_at + min(self.asked_s, most_asked_s))

    def trusted_probe(self, now: float) -> float | None:
        """When the probe left that was not denied for long enough, None if there is none."""
        if self._probe is None or now < self._trusted_at(self._probe):
            return None
        return self._probe

    def let_through(self, sent_at: float) -> bool:
        """Whether the answered request that left at `sent_at` is the probe or a later one."""
        return self._probe is not None and sent_at >= self._probe

    def is_news(self, sent_at: float, now: float) -> bool:
        """Takes in a 429 to the request that left at `sent_at`.

        False if that left before the reaction to an earlier 429: punished once is enough.
        """
        if sent_at < self._reacted:
            return False
        self._trip_s = max(now - sent_at, _TRIP_KEPT * self._trip_s)
        self._reacted = now
        return True

    def hold(self, sent_at: float, now: float, asked_s: float, least_s: float) -> None:
        """Begins a pause of a fifth of the time since the first denial, but at least `least_s`."""
        self.again = self.since is not None
        if self.since is None:
            self.since = sent_at
        self._probe = None
        self.asked_s = asked_s
        own_s = max(HOLD_SHARE * (now - self.since), _HOLD_MIN_S, least_s)
        self._held_at, self._hold_until = now, now + min(own_s, _HOLD_MAX_S)

    @property
    def lasted_s(self) -> float:
        """How long requests have been denied, until the last 429. A wait says nothing about it."""
        return 0.0 if self.since is None else self._held_at - self.since

    def end(self) -> None:
        """A probe was let through."""
        self.since = self._probe = None
        self.asked_s, self._hold_until = 0.0, -math.inf

    def _trusted_at(self, probe: float) -> float:
        return probe + min(max(2 * self._trip_s, _TRUST_MIN_S), _TRUST_MAX_S)
