"""Whether the pace is what holds a run back. Pure.

A run whose requests wait for something else uses less than an equal part of its key: for answers,
because only so many may be in flight, or because no row is left. What it leaves would be lost if
the other runs kept a part for it.
"""

from __future__ import annotations

from dataclasses import dataclass

# Of a sum over the last five seconds. Between both, nothing changes: each change moves the window
# of every other run.
_NEWEST, _SELDOM, _OFTEN = 0.1, 0.25, 0.75


@dataclass(slots=True)
class Demand:
    """`there` is whether the run could use a higher pace."""

    there: bool = True
    _waits: float = 1.0

    def see(self, waits: bool) -> None:
        """Takes in whether a request waits for the pace now. Call it about twice a second."""
        self._waits += _NEWEST * (waits - self._waits)
        if self._waits < _SELDOM:
            self.there = False
        elif self._waits > _OFTEN:
            self.there = True
