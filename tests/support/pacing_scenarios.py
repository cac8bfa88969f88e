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
_EVEN_SENDS, _EVEN_WINDOWS = 3000, 12
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
    times = [at for at, _, _ in scenario.steps]
    edges = sorted({scenario.start_s, scenario.end_s, *times, *_edges_of_bursts(scenario)})
    total = 0.0
    for start, end in itertools.pairwise(edges):
        if not scenario.start_s <= start < scenario.end_s:
            continue
        limit, window_s = scenario.limit, scenario.window_s
        for at, step_limit, step_window_s in scenario.steps:
            if at <= start:
                limit, window_s = step_limit, step_window_s
        foreign = round(scenario.foreign_per_s(start + 1e-6) / scenario.per_s, 6)
        even = even_pace(scenario.kind, limit, window_s, scenario.jitter_s, foreign)
        total += even * (end - start)
    return total / (1 - scenario.cached) if scenario.uncounted else total


def _edges_of_bursts(scenario: Scenario) -> Iterator[float]:
    if scenario.burst:
        for turn in range(math.ceil(scenario.end_s / 300)):
            yield from (300.0 * turn, 300.0 * turn + 240.0)


@functools.cache
def even_pace(kind: str, limit: int, window_s: float, jitter_s: float, foreign: float) -> float:
    """What the best even pace gets admitted per second, with at most 1 % of 429s."""
    free = (1 - foreign) * limit / window_s
    tried = [
        _even(kind, limit, window_s, jitter_s, foreign, share * free) for share in _EVEN_SHARES
    ]
    least = max(EVEN_DENIED, min(denied for _, denied in tried))
    return max(got for got, denied in tried if denied <= least)


def _even(
    kind: str, limit: int, window_s: float, jitter_s: float, foreign: float, per_s: float
) -> tuple[float, float]:
    """What a constant pace gets admitted per second, and its share of 429s."""
    chance = random.Random(f"{kind} {limit} {window_s} {foreign}")
    seconds = min(max(_EVEN_WINDOWS * window_s, 40.0), 40 * window_s + _EVEN_SENDS / per_s)
    low, high = INTENT_S[0] + PROPAGATION_S[0], INTENT_S[1] + PROPAGATION_S[0] + jitter_s
    arrivals = [(n / per_s + chance.uniform(low, high), True) for n in range(int(per_s * seconds))]
    at = 0.0
    while foreign and at < seconds:
        at += chance.expovariate(foreign * limit / window_s)
        arrivals.append((at, False))
    arrivals.sort()
    got, denied = 0, 0
    server, begun = limiter(kind, limit, window_s), min(2 * window_s, seconds / 4)
    for at, own in arrivals:
        admitted = server.take(at) is not None
        if own and at >= begun:
            got, denied = got + admitted, denied + (not admitted)
    return got / (seconds - begun), denied / max(got + denied, 1)


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


# -- the families ---------------------------------------------------------------------------


def _span(limit: int, window_s: float, latency_s: float = 0.0) -> tuple[float, float]:
    """From after the ramp on, for 60 short windows or four long ones."""
    start = max(5.0, 2 * window_s) if window_s > 1 else 8.0
    if latency_s >= 20:
        start = max(start, 45.0)
    seconds = 4 * window_s if window_s > 60 else max(60 * min(window_s, 10), 10 * window_s)
    return start, start + max(min(seconds, 20_000 * window_s / limit), 4 * window_s)


PLAIN = (
    (5, 1, 0.05),
    (5, 1, 2),
    (10, 1, 2),
    (50, 1, 0.05),
    (50, 1, 2),
    (50, 1, 20),
    (600, 1, 0.05),
    (5, 10, 2),
    (50, 10, 0.05),
    (50, 10, 2),
    (50, 60, 2),
    (50, 60, 20),
    (600, 60, 0.05),
    (600, 60, 20),
    (50, 3600, 2),
)
REMEMBERED = ((50, 1, 0.05), (50, 1, 20), (10, 1, 2), (5, 1, 2), (50, 60, 2), (600, 60, 2))


def _steady() -> Iterator[Scenario]:
    for kind, (limit, window_s, latency_s) in itertools.product(KINDS, PLAIN):
        yield Scenario(kind, kind, limit, window_s, latency_s, *_span(limit, window_s, latency_s))
    for processes, (limit, window_s, latency_s) in itertools.product((1, 2, 4, 8), REMEMBERED):
        span = _span(limit, window_s, latency_s)
        kind = f"remembering {processes}"
        yield Scenario("remembered denials", kind, limit, window_s, latency_s, *span)
    kinds = ("sliding", "fixed", "log", "remembering 1")
    for kind, limit, jitter_s in itertools.product(kinds, (5, 50), (0.005, 0.05, 0.2)):
        yield Scenario("jitter", kind, limit, 1, 2, *_span(limit, 1), jitter_s=jitter_s)


def _shared() -> Iterator[Scenario]:
    kinds = ("sliding", "fixed", "log", "clumped", "remembering 1")
    for kind, (limit, window_s) in itertools.product(kinds, ((50, 1), (50, 10), (600, 60))):
        start, end = _span(limit, window_s)
        yield Scenario("a third is used", kind, limit, window_s, 2, start, end, foreign=1 / 3)
        yield Scenario("bursts of others", kind, limit, window_s, 2, 200.0, 800.0, burst=0.7)


def _changing() -> Iterator[Scenario]:
    changes = (
        (50, 10.0, 50, 1.0),
        (50, 1.0, 50, 10.0),
        (50, 60.0, 50, 10.0),
        (50, 1.0, 10, 1.0),
        (10, 1.0, 50, 1.0),
    )
    kinds = ("sliding", "fixed", "log", "clumped", "remembering 1")
    for kind, (limit, window_s, then, then_s) in itertools.product(kinds, changes):
        at = max(60.0, 6 * window_s)
        start, end = at + 3 * max(window_s, then_s), at + 12 * max(window_s, then_s) + 60
        steps = ((at, then, then_s),)
        yield Scenario("the limit changes", kind, limit, window_s, 2, start, end, steps=steps)


def _headers() -> Iterator[Scenario]:
    for kind, window_s in itertools.product(("sliding", "fixed", "remembering 1"), (1, 10)):
        span = _span(50, window_s)
        for cached in (0.1, 0.5, 0.9):
            yield Scenario("cached answers", kind, 50, window_s, 0.05, *span, cached=cached)
        for cached in (0.1, 0.5):
            yield Scenario(
                "answers of a free cache",
                kind,
                50,
                window_s,
                0.05,
                *span,
                cached=cached,
                uncounted=True,
            )
        yield Scenario("no headers", kind, 50, window_s, 2, *span, silent=True)
    sizes = ((50, 1), (10, 1), (600, 60))
    asked = ("exact", "whole seconds", "constant 60")
    for kind, how, (limit, window_s) in itertools.product(
        ("sliding", "fixed", "remembering 1"), asked, sizes
    ):
        start, _ = _span(limit, window_s)
        end = start + max(120, 6 * window_s)
        yield Scenario("Retry-After", kind, limit, window_s, 2, start, end, retry_after=how)


def _kept() -> Iterator[Scenario]:
    wrong = (Kept(50, 60), Kept(50, 10), Kept(50, 2), Kept(50, 0.5), Kept(50, 0.1), Kept(500, 1))
    for kind, kept in itertools.product(("sliding", "fixed", "remembering 1"), wrong):
        yield Scenario("a kept pace is wrong", kind, 50, 1, 0.05, 30, 120, kept=kept)
        if kept.limit == 50:
            slow = Kept(50, 10 * kept.window_s)
            yield Scenario("a kept pace is wrong", kind, 50, 10, 2, 120, 300, kept=slow)


def _short() -> Iterator[Scenario]:
    for kind, window_s, rows in itertools.product(
        ("sliding", "fixed", "remembering 1"), (1, 60), (20, 50, 200, 1000)
    ):
        end = 30 + 3 * rows * window_s / 50
        for family, kept in (("short, cold", None), ("short, kept pace", Kept(50, window_s))):
            yield Scenario(family, kind, 50, window_s, 0.05, 0, end, rows=rows, kept=kept)


def _machines() -> Iterator[Scenario]:
    kinds = ("sliding", "fixed", "log", "remembering 1")
    for kind, (limit, window_s), late_s in itertools.product(
        kinds, ((50, 1), (600, 60)), (0.5, 90.0)
    ):
        begun = late_s + 300
        yield Scenario(
            "two machines", kind, limit, window_s, 2, begun, begun + 120, machine_s=late_s
        )
        leaves_s = late_s + 120
        start = leaves_s + 3 * window_s
        yield Scenario(
            "one of two stays",
            kind,
            limit,
            window_s,
            2,
            start,
            start + max(4 * window_s, 60),
            machine_s=late_s,
            leaves_s=leaves_s,
        )


ALL: tuple[Scenario, ...] = (
    *_steady(),
    *_shared(),
    *_changing(),
    *_headers(),
    *_kept(),
    *_short(),
    *_machines(),
)
