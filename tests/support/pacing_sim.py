"""Drives the controller on a virtual clock, as the throttle and the executor do on the real one.

A request gets a slot, waits until its intent is durable (1 to 8 ms), is stamped, and arrives 10 to
25 ms later. The server denies it at once or answers it after the latency. So 429s come after 20 to
50 ms. There are always more rows, unless a runner has `rows`.
"""

from __future__ import annotations

import heapq
import math
import random
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from typing import Any, Protocol

from pipeline.policy.pace import Learned, Pace
from tests.support.pacing_limiters import Limiter

HELD_S, BITE_S = 0.05, 0.025
TELL_S = 0.5
LOOK_AGAIN_S = 0.25
PROPAGATION_S = (0.010, 0.025)
INTENT_S = (0.001, 0.008)


class Controller(Protocol):
    """What decides when requests leave: `Pace`, or another client's way."""

    def next_at(self, now: float) -> float: ...
    def price_s(self, now: float) -> float: ...
    def granted(self, now: float) -> None: ...
    def sent(self, now: float) -> None: ...
    def answered(self, sent_at: float, limit: object, remaining: object, now: float) -> None: ...
    def denied(self, sent_at: float, now: float, retry_after_s: float | None = None) -> None: ...


@dataclass
class Runner:
    """One run: its controller, and the times of its admitted and denied requests.

    It has `rows` to send, and a denied row is sent again. `look_again_s` is how often it asks the
    controller during a wait.
    """

    pace: Any
    starts_at: float = 0.0
    ends_at: float = math.inf
    rows: float = math.inf
    look_again_s: float = LOOK_AGAIN_S
    admitted: list[float] = field(default_factory=list)
    denied: list[float] = field(default_factory=list)
    in_flight: int = 0
    most_in_flight: float = math.inf
    waits: bool = True
    longest_stop: float = 0.0
    owed: float = 1.0
    level_s: float = 0.0
    level_at: float = 0.0
    last_sent: float | None = None

    def __post_init__(self) -> None:
        if getattr(self.pace, "start", None) is not None:
            self.owed = 0.0


@dataclass
class World:
    """A server with its limiter, the runs that share it, and requests of other clients.

    `cached` is the share of answers that come from a cache, without headers. They use the limit,
    except with `uncounted`. `silent` means that no answer has headers. During `outages`, the
    limiter admits every request. During `denying`, the server denies every request. `changes` set
    the limit at a time, `replaced` the whole limiter. `retry_after_s` returns what a denial asks
    for. A request takes 10 ms to the server, and at most `jitter_s` more. The answer's way back
    takes as long. `acquainted` means that the runs are on one machine: they share what they learn.
    """

    limiter: Limiter
    runners: list[Runner]
    latency_s: float
    seed: int = 0
    cached: float = 0.0
    silent: bool = False
    uncounted: bool = False
    foreign_per_s: Callable[[float], float] | None = None
    changes: tuple[tuple[float, int], ...] = ()
    replaced: tuple[tuple[float, Limiter], ...] = ()
    retry_after_s: Callable[[Limiter, float], float] | None = None
    jitter_s: float = PROPAGATION_S[1] - PROPAGATION_S[0]
    outages: tuple[tuple[float, float], ...] = ()
    denying: tuple[tuple[float, float], ...] = ()
    acquainted: bool = False
    now: float = 0.0

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)
        self._events: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._order = count()
        self.foreign: list[float] = []
        self._told: dict[int, float | None] = {}
        self.kept: Learned | None = None
        self._way_s = (PROPAGATION_S[0], PROPAGATION_S[0] + self.jitter_s)

    def run(self, until: float) -> None:
        for runner in self.runners:
            self._at(runner.starts_at, self._begin, runner)
        for at, limit in self.changes:
            self._at(at, self._change, limit)
        for at, limiter in self.replaced:
            self._at(at, self._replace, limiter)
        if self.foreign_per_s is not None:
            self._at(0.0, self._foreign)
        while self._events and self._events[0][0] <= until:
            self.now, _, act, arguments = heapq.heappop(self._events)
            act(*arguments)
        self.now = until

    def _at(self, when: float, act: Callable[..., None], *arguments: Any) -> None:
        heapq.heappush(self._events, (when, next(self._order), act, arguments))

    def _change(self, limit: int) -> None:
        self.limiter.limit = limit

    def _replace(self, limiter: Limiter) -> None:
        self.limiter = limiter

    def _foreign(self) -> None:
        assert self.foreign_per_s is not None
        rate = self.foreign_per_s(self.now)
        looked = max(rate, 1.0)  # a rate of nearly 0 may be another one soon
        if self._random.random() < rate / looked and self.limiter.take(self.now) is not None:
            self.foreign.append(self.now)
        self._at(self.now + self._random.expovariate(looked), self._foreign)

    # -- throttle and executor ------------------------------------------------------------

    def _turn(self, runner: Runner) -> None:
        """Does the same as `PacedThrottle.slot`, until that would wait."""
        while self.now < runner.ends_at:
            runner.waits = runner.rows > 0 and runner.in_flight < runner.most_in_flight
            if runner.rows <= 0:
                return  # a denied row starts the next turn
            if not runner.waits:
                self._at(self.now + 0.01, self._turn, runner)
                return
            wait = runner.pace.next_at(self.now) - self.now
            if wait > 0:
                self._at(self.now + min(wait, runner.look_again_s), self._turn, runner)
                return
            price_s = runner.pace.price_s(self.now)
            if runner.owed * price_s <= 1e-9:
                runner.owed = 1.0
                runner.in_flight += 1
                runner.rows -= 1
                runner.pace.granted(self.now)
                self._at(self.now + self._random.uniform(*INTENT_S), self._send, runner)
                continue
            if price_s > 1:  # an hour has many bites, so it pays in steps
                paid_s = min(runner.owed * price_s, LOOK_AGAIN_S)
                runner.owed -= paid_s / price_s
                self._at(self.now + paid_s, self._turn, runner)
                return
            pay_s = min(runner.owed * price_s, BITE_S)
            runner.level_s = max(runner.level_s - (self.now - runner.level_at), 0.0)
            runner.level_at = self.now
            over_s = runner.level_s + pay_s - HELD_S
            if over_s > 1e-9:
                self._at(self.now + over_s, self._turn, runner)
                return
            runner.level_s += pay_s
            runner.owed -= pay_s / price_s

    def _send(self, runner: Runner) -> None:
        runner.pace.sent(self.now)
        if runner.last_sent is not None:
            runner.longest_stop = max(runner.longest_stop, self.now - runner.last_sent)
        runner.last_sent = self.now
        arrives = self.now + self._random.uniform(*self._way_s)
        self._at(arrives, self._arrive, runner, self.now)

    # -- the server -----------------------------------------------------------------------

    def _arrive(self, runner: Runner, sent_at: float) -> None:
        back_s = self._random.uniform(*self._way_s)
        out = any(start <= self.now < end for start, end in self.outages)
        deny = any(start <= self.now < end for start, end in self.denying)
        hit = self.cached > 0 and self._random.random() < self.cached
        free = out or (hit and self.uncounted)
        remaining = 0 if free else None if deny else self.limiter.take(self.now)
        if remaining is None:
            runner.denied.append(self.now)
            asked_s = self.retry_after_s(self.limiter, self.now) if self.retry_after_s else None
            self._at(self.now + back_s, self._denied, runner, sent_at, asked_s)
            return
        runner.admitted.append(self.now)
        headers: tuple[object, object] = (str(self.limiter.limit), str(remaining))
        if out:
            headers = ("0", "0")
        latency_s = self.latency_s * self._random.uniform(0.5, 1.5)
        if self.silent or hit:
            headers = (None, None)
            latency_s = latency_s if self.silent else 0.005
        self._at(self.now + latency_s + back_s, self._answered, runner, sent_at, headers)

    def _denied(self, runner: Runner, sent_at: float, asked_s: float | None) -> None:
        runner.in_flight -= 1
        runner.pace.denied(sent_at, self.now, asked_s)
        runner.rows += 1
        if runner.rows == 1:
            self._turn(runner)

    def _answered(self, runner: Runner, sent_at: float, headers: tuple[object, object]) -> None:
        runner.in_flight -= 1
        runner.pace.answered(sent_at, headers[0], headers[1], self.now)

    # -- the files of `KeptPace` ----------------------------------------------------------

    def _begin(self, runner: Runner) -> None:
        if self.acquainted:
            if self.kept is not None:
                runner.pace = Pace(start=self.kept, rows=runner.pace.rows)
                runner.owed = 0.0
            self._exchange(runner)
        self._turn(runner)

    def _exchange(self, runner: Runner) -> None:
        if self.now >= runner.ends_at:
            del self._told[id(runner)]
            return
        runner.pace.see_waiting(runner.waits)
        self._told[id(runner)] = runner.pace.told(self.now)
        others = [pace for other, pace in self._told.items() if other != id(runner)]
        runner.pace.share_with([pace for pace in others if pace is not None], self.now)
        self.kept = runner.pace.learned() or self.kept
        self._at(self.now + TELL_S, self._exchange, runner)


def between(times: list[float], start: float, end: float) -> int:
    """Returns how many of the sorted `times` are in [start, end)."""
    return bisect_left(times, end) - bisect_left(times, start)


@dataclass(frozen=True)
class Measured:
    """The share `used` of the possible requests, and the share `denied` of the sent requests."""

    used: float
    denied: float
    ramp_s: float
    longest_stop_s: float


def measure(runners: list[Runner], per_s: float, start: float, end: float) -> Measured:
    """Measures which share of `per_s` requests per second the `runners` together got."""
    admitted = sum(between(runner.admitted, start, end) for runner in runners)
    denied = sum(between(runner.denied, start, end) for runner in runners)
    return Measured(
        used=admitted / (per_s * (end - start)),
        denied=denied / max(admitted + denied, 1),
        ramp_s=ramp_s(sorted(at for runner in runners for at in runner.admitted), per_s),
        longest_stop_s=max(runner.longest_stop for runner in runners),
    )


def ramp_s(admitted: list[float], per_s: float) -> float:
    """Returns the start of the first second with 90 % of `per_s` admitted, to half a second."""
    for half in range(2 * 120):
        if between(admitted, half / 2, half / 2 + 1) >= 0.9 * per_s:
            return half / 2
    return math.inf


def greedy(limiter: Limiter, start: float, end: float, step_s: float = 0.002) -> int:
    """Returns how many requests a client gets admitted in [start, end) if it always asks."""
    admitted = 0
    for step in range(round(end / step_s)):
        now = step * step_s
        while limiter.take(now) is not None:
            admitted += now >= start
    return admitted
