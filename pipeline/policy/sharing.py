"""How the runs on one machine share a key: what each tells the others, and its part. Pure.

Each run takes the requests of the others for a longer window, in which its own part is the same. So
their parts would stay as they began. `Sharing.fairness` drives them towards equal ones.

A run whose requests wait for something else uses less than an equal part: for answers, because only
so many may be in flight, or because no row is left. What it leaves would be lost if the other runs
kept a part for it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

# The square root halves the distance between two runs, as a ratio, with each window: the whole
# would overshoot, as both of them act on what they saw a latency ago.
_FAIRNESS, _FAIRNESS_MOST = 0.5, 4.0
# Of a sum over the last five seconds. Between both, nothing changes: each change moves the window
# of every other run.
_NEWEST, _SELDOM, _OFTEN = 0.1, 0.25, 0.75


@dataclass(slots=True)
class Sharing:
    """`others` are the paces that the other runs told, in requests per second. `held_back` is
    whether the pace is what holds this run back."""

    others: tuple[float, ...] = ()
    held_back: bool = True
    _waits: float = 1.0

    def see(self, waits: bool) -> None:
        """Takes in whether a request waits for the pace now. Call it about twice a second."""
        self._waits += _NEWEST * (waits - self._waits)
        if self._waits < _SELDOM:
            self.held_back = False
        elif self._waits > _OFTEN:
            self.held_back = True

    def replace(self, others: Sequence[float], own: float) -> float:
        """Takes in the paces of the others, next to the pace `own`. Returns the factor by which the
        window of this run's part is another one now."""
        before, part = self.others, self.part(own)
        self.others = tuple(others)
        if len(others) < len(before):
            return part / self.part(own)
        return (1 + len(others)) / (1 + len(before))

    def part(self, own: float) -> float:
        """This run's part of the key, with the pace `own`. At least an equal one, because a run may
        tell a pace that it does not reach yet."""
        equal = 1 / (1 + len(self.others))
        return max(equal, own / (own + sum(self.others))) if math.isfinite(own) else equal

    def fairness(self, own: float) -> float:
        """Returns by which factor the pace `own` gets nearer to an equal part.

        It raises each pace, whatever holds that down: if the others slowed down for a run that
        could not speed up, what they leave would be lost.
        """
        if not self.others or not math.isfinite(own):
            return 1.0
        mean = (own + sum(self.others)) / (1 + len(self.others))
        return math.pow(min(max(mean / own, 1 / _FAIRNESS_MOST), _FAIRNESS_MOST), _FAIRNESS)
