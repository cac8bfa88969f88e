"""Scenarios for the controller by family, and what can be had in each.

What can be had is not the limit: jitter alone makes some requests of an even pace too many, and
where a denial is remembered, each costs the rest of a window. So it is what the best even pace gets
admitted with at most 1 % of 429s, by a client that knows the limiter and what others use of it.
"""

from __future__ import annotations

import functools
import itertools
import math
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from tests.support.pacing_limiters import KINDS, Limiter, Remembering
from tests.support.pacing_sim import INTENT_S, PROPAGATION_S, Runner, World, between

PHASE = 0.3
JITTER_S = PROPAGATION_S[1] - PROPAGATION_S[0]
EVEN_DENIED = 0.01
_EVEN_SHARES = [0.02 * step for step in range(30, 43)] + [0.85 + 0.01 * step for step in range(18)]
# Three phases of the windows: with the best pace for one phase, another one denied 16 %.
_EVEN_SENDS, _EVEN_WINDOWS, _EVEN_SEEDS = 1500, 8, range(3)
_GREEDY_STEP_S = 0.01
_SHORTEST_RUN_S = 1.0  # below that a run's end is its answers' latency and jitter


@dataclass(frozen=True)
class Kept:
    """A pace kept from an earlier run: its limit and its window."""

    limit: int
    window_s: float


@dataclass(frozen=True)
class Scenario:
    """One limiter, those who use it, and the time in which use is measured.

    `kind` is a name of `KINDS`, or "remembering" with the number of its processes. Others use
    `foreign` of the limit, or `burst` of it in one of five minutes. `steps` are the limits and
    windows from a time on. A `machine` is a second runner that starts at that time; the first one
    stops at `leaves_s`.
    """

    family: str
    kind: str
    limit: int
    window_s: float
    latency_s: float
    start_s: float
    end_s: float
    jitter_s: float = JITTER_S
    foreign: float = 0.0
    burst: float = 0.0
    steps: tuple[tuple[float, int, float], ...] = ()
    cached: float = 0.0
    silent: bool = False
    uncounted: bool = False
    kept: Kept | None = None
    retry_after: str = ""
    rows: int = 0
    machine_s: float | None = None
    leaves_s: float = math.inf

    def __str__(self) -> str:
        more = {
            "jitter": self.jitter_s if self.jitter_s != JITTER_S else 0,
            "foreign": self.foreign,
            "burst": self.burst,
            "steps": self.steps,
            "cached": self.cached,
            "silent": self.silent,
            "uncounted": self.uncounted,
            "kept": self.kept and f"{self.kept.limit} per {self.kept.window_s:g} s",
            "retry": self.retry_after,
            "rows": self.rows,
            "machine": self.machine_s,
        }
        words = [f"{name} {value}" for name, value in more.items() if value]
        limit = f"{self.kind} {self.limit} per {self.window_s:g} s, {self.latency_s:g} s"
        return f"{self.family}: {', '.join([limit, *words])}"

    @property
    def per_s(self) -> float:
        return self.limit / self.window_s

    def foreign_per_s(self, now: float) -> float:
        """What others send per second at `now`."""
        share = self.foreign + (self.burst if now % 300 >= 240 else 0.0)
        return share * self.per_s


@dataclass(frozen=True)
class Use:
    """A limiter, the part of it that others use, and the part of answers that do not use it."""

    kind: str
    limit: int
    window_s: float
    jitter_s: float
    foreign: float
    free: float = 0.0


# What `best_pace` has found. Its simulation costs as much as the scenario, so processes share it.
BEST: dict[Use, tuple[float, float]] = {}


@dataclass(frozen=True)
class Result:
    """`used` of what can be had, `denied` of what was sent; `smaller` is the part of what the two
    machines got that the one with less got."""

    used: float
    denied: float
    smaller: float | None = None


def limiter(kind: str, limit: int, window_s: float, seed: int = 0) -> Limiter:
    """The limiter of a scenario. Its windows begin at another time for each seed."""
    phase = (PHASE + 0.381966 * seed) % 1
    if kind.startswith("remembering"):
        return Remembering(limit, window_s, phase, processes=int(kind.split()[1]))
    return KINDS[kind](limit, window_s, phase)


def play(
    scenario: Scenario, controller: Callable[[Scenario], Runner], seed: int = 0
) -> tuple[list[Runner], World]:
    """Runs a scenario with runners from `controller`. Returns them and the world at its end."""
    runners = [controller(scenario)]
    runners[0].ends_at = scenario.leaves_s
    if scenario.rows:
        runners[0].rows = runners[0].pace.rows = scenario.rows
    if scenario.machine_s is not None:
        runners.append(controller(scenario))
        runners[1].starts_at = scenario.machine_s
    alone = not (scenario.foreign or scenario.burst)
    world = World(
        limiter(scenario.kind, scenario.limit, scenario.window_s, seed),
        runners,
        scenario.latency_s,
        seed=seed,
        cached=scenario.cached,
        silent=scenario.silent,
        uncounted=scenario.uncounted,
        foreign_per_s=None if alone else scenario.foreign_per_s,
        replaced=tuple(
            (at, limiter(scenario.kind, limit, window_s, seed))
            for at, limit, window_s in scenario.steps
        ),
        retry_after_s=_ASKED[scenario.retry_after],
        jitter_s=scenario.jitter_s,
    )
    world.run(scenario.end_s)
    return runners, world


def score(scenario: Scenario, controller: Callable[[Scenario], Runner], seed: int = 0) -> Result:
    """Runs a scenario and measures it."""
    runners, _ = play(scenario, controller, seed)
    start, end = scenario.start_s, scenario.end_s
    if scenario.rows:
        took = max(runners[0].admitted[scenario.rows - 1 :], default=math.inf)
        ideal = _ideal_s(scenario.kind, scenario.limit, scenario.window_s, scenario.rows)
        denied = len(runners[0].denied)
        used = max(ideal, _SHORTEST_RUN_S) / max(took, ideal, _SHORTEST_RUN_S)
        return Result(used, denied / (denied + len(runners[0].admitted)))
    got = [between(runner.admitted, start, end) for runner in runners]
    denied = sum(between(runner.denied, start, end) for runner in runners)
    smaller = None
    if scenario.machine_s is not None and scenario.leaves_s >= end:
        smaller = min(got) / sum(got)
    used = min(sum(got) / _can(scenario), 1.0)
    return Result(used, denied / max(denied + sum(got), 1), smaller)


# -- what can be had ------------------------------------------------------------------------


def _can(scenario: Scenario) -> float:
    """How many requests can be had between a scenario's start and its end."""
    return sum(best_pace(use)[0] * (end - start) for start, end, use in uses(scenario))


def uses(scenario: Scenario) -> Iterator[tuple[float, float, Use]]:
    """The spans of time in which a scenario's limiter and its other users stay the same."""
    if scenario.rows:
        return
    times = [at for at, _, _ in scenario.steps]
    edges = sorted({scenario.start_s, scenario.end_s, *times, *_edges_of_bursts(scenario)})
    for start, end in itertools.pairwise(edges):
        if scenario.start_s <= start < scenario.end_s:
            yield start, end, use_at(scenario, start)


def use_at(scenario: Scenario, at: float) -> Use:
    """The limiter of a scenario and its other users at a time."""
    limit, window_s = scenario.limit, scenario.window_s
    for since, step_limit, step_window_s in scenario.steps:
        if since <= at:
            limit, window_s = step_limit, step_window_s
    foreign = round(scenario.foreign_per_s(at + 1e-6) / scenario.per_s, 6)
    free = scenario.cached if scenario.uncounted else 0.0
    return Use(scenario.kind, limit, window_s, scenario.jitter_s, foreign, free)


def _edges_of_bursts(scenario: Scenario) -> Iterator[float]:
    if scenario.burst:
        for turn in range(math.ceil(scenario.end_s / 300)):
            yield from (300.0 * turn, 300.0 * turn + 240.0)


def even_pace(kind: str, limit: int, window_s: float, jitter_s: float, foreign: float) -> float:
    """What the best even pace gets admitted per second, with at most 1 % of 429s."""
    return best_pace(Use(kind, limit, window_s, jitter_s, foreign))[0]


def best_pace(use: Use) -> tuple[float, float]:
    """What that pace gets admitted per second, and what it sends."""
    if use not in BEST:
        most = (1 - use.foreign) / (1 - use.free) * use.limit / use.window_s
        tried = [(*_mean(use, share * most), share * most) for share in _EVEN_SHARES]
        least = max(EVEN_DENIED, min(denied for _, denied, _ in tried))
        BEST[use] = max((got, pace) for got, denied, pace in tried if denied <= least)
    return BEST[use]


def _mean(use: Use, per_s: float) -> tuple[float, float]:
    """What a constant pace gets admitted per second, and its share of 429s."""
    runs = [_even(use, per_s, seed) for seed in _EVEN_SEEDS]
    got, denied, seconds = map(sum, zip(*runs, strict=True))
    return got / seconds, denied / max(got + denied, 1)


def _even(use: Use, per_s: float, seed: int) -> tuple[int, int, float]:
    """How many requests of a constant pace are admitted and denied in how many seconds."""
    chance = random.Random(f"{use} {seed}")
    seconds = min(max(_EVEN_WINDOWS * use.window_s, 40.0), 40 * use.window_s + _EVEN_SENDS / per_s)
    low, high = INTENT_S[0] + PROPAGATION_S[0], INTENT_S[1] + PROPAGATION_S[0] + use.jitter_s
    arrivals = [(n / per_s + chance.uniform(low, high), True) for n in range(int(per_s * seconds))]
    at = 0.0
    while use.foreign and at < seconds:
        at += chance.expovariate(use.foreign * use.limit / use.window_s)
        arrivals.append((at, False))
    arrivals.sort()
    got, denied = 0, 0
    server = limiter(use.kind, use.limit, use.window_s, seed)
    begun = min(2 * use.window_s, seconds / 4)
    for at, own in arrivals:
        free = use.free > 0 and chance.random() < use.free
        admitted = free or server.take(at) is not None
        if own and at >= begun:
            got, denied = got + admitted, denied + (not admitted)
    return got, denied, seconds - begun


@functools.cache
def _ideal_s(kind: str, limit: int, window_s: float, rows: int) -> float:
    """When a client that always asks gets its last row admitted. No denial is remembered."""
    server = limiter("sliding" if kind.startswith("remembering") else kind, limit, window_s)
    now = 0.0
    while rows:
        if server.take(now) is None:
            now += _GREEDY_STEP_S
        else:
            rows -= 1
    return now


def _until_window_ends(server: Limiter, now: float) -> float:
    ends_in_s: float = server.ends_in_s(now)  # type: ignore[attr-defined]
    return ends_in_s


_ASKED: dict[str, Callable[[Limiter, float], float] | None] = {
    "": None,
    "exact": _until_window_ends,
    "whole seconds": lambda server, now: float(math.ceil(_until_window_ends(server, now))),
    "constant 60": lambda _server, _now: 60.0,
}
