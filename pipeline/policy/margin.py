"""The part g of the sustainable rate that is used: a little under 1. Pure.

A denial takes a hundredth of it, and each answer gives a little back. So g settles where few
requests are denied, whatever the limiter. A denial that cost a good part of a window takes more, in
proportion, and after it g grows slowly near the g that was denied.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

_G_MIN, _G_START, _G_MAX = 0.85, 0.97, 1.0
_G_LOSS = 0.01
# With that loss these gains let about 0.3 % be denied at 50/s and 0.5 % at 5/s.
_G_GAIN_PER_S, _G_GAIN_PER_ANSWER = 2e-4, 5e-5
_G_WINDOW = 1.04  # a window that turns out so much longer was the reason for what g lost
# Denials closer than that come from one and the same overload.
_LOSS_EVERY_WINDOWS = 0.1
# A denial that lasts longer than the time to the next slot was remembered or asked for. One that
# lasts much longer than a window has another reason than the pace.
_COSTLY_FROM, _COSTLY_TO = 0.3, 1.5
# Without these three lines, remembered denials get 93.3 instead of 93.9 % of what can be had.
_COSTLY_LOSS, _COSTLY_NEAR, _COSTLY_GAIN = 0.06, 0.02, 0.1


@dataclass(slots=True)
class Margin:
    """The value `g`, and `costly_g`, the one at which a denial cost a good part of a window."""

    g: float = _G_START
    costly_g: float = math.inf
    _gained_at: float = -math.inf
    _lost_at: float = -math.inf
    _lost_window_s: float = math.inf

    def keep(self, g: float) -> None:
        """Takes the `g` of an earlier run, at most the value that a run begins with."""
        self.g = min(g, _G_START)

    def start_over(self) -> None:
        """The window was wrong, so what g became with it says nothing."""
        self.g = _G_START

    def new_limit(self) -> None:
        """The denials of late came from the new limit."""
        self.costly_g = math.inf
        self.g = max(self.g, _G_START)

    def see(self, window_s: float) -> None:
        """Gives back what g lost to a window that was taken too short: now it is `window_s`."""
        if window_s > _G_WINDOW * self._lost_window_s:
            self._lost_window_s = math.inf
            self.g = max(self.g, _G_START)

    def gain(self, rate: float, now: float) -> None:
        """An answer came at `now`, at `rate` requests per second."""
        gone = min(now - self._gained_at, 1.0)
        self._gained_at = now
        per_s = min(_G_GAIN_PER_S * math.sqrt(rate), _G_GAIN_PER_ANSWER * rate)
        if abs(self.g - self.costly_g) < _COSTLY_NEAR:
            per_s *= _COSTLY_GAIN
        self.g = min(self.g + gone * per_s, _G_MAX)

    def strike(self, window_s: float, now: float) -> None:
        """A request was denied at `now`."""
        if now - self._lost_at > _LOSS_EVERY_WINDOWS * window_s:
            self._lost_at = now
            self._lost_window_s = min(self._lost_window_s, window_s)
            self.g = max(self.g - _G_LOSS, _G_MIN)

    def charge(self, windows: float) -> None:
        """Takes what a denial cost that lasted for so many windows, if that is a good part of one.

        Far below a g that was costly, g is hardly the reason.
        """
        if not _COSTLY_FROM <= windows <= _COSTLY_TO:
            return
        loss = _COSTLY_LOSS * windows
        if self.g < self.costly_g - _COSTLY_NEAR < math.inf:
            loss = _G_LOSS
        else:
            self.costly_g = self.g
        self.g = max(self.g - loss, _G_MIN)
