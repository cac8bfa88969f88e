"""The scenarios of the pacing benchmark: one set to tune the controller with, and one held out.

Both sets have the same families. No parameter of the held-out set was used to tune the controller:
its limits, windows, latencies and foreign shares are other ones, and so are its seeds.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

from tests.support.pacing_limiters import KINDS
from tests.support.pacing_scenarios import Kept, Scenario


@dataclass(frozen=True)
class Grid:
    """The parameters of one set. Limits go with a window, and with a latency where there is one.

    `changes` are a limit and a window before and after a change. `wrong` are kept limits, and kept
    windows as multiples of the true one; `kept_in` is the limiter that they are wrong for.
    """

    plain: tuple[tuple[int, float, float], ...]
    remembered: tuple[tuple[int, float, float], ...]
    jitter_limits: tuple[int, ...]
    jitter_s: tuple[float, ...]
    shared: tuple[tuple[int, float], ...]
    foreign: float
    burst: float
    changes: tuple[tuple[int, float, int, float], ...]
    counted: tuple[tuple[int, float], ...]
    cached: tuple[float, ...]
    free: tuple[float, ...]
    asked: tuple[tuple[int, float], ...]
    kept_in: tuple[int, tuple[float, ...]]
    wrong: tuple[tuple[int, float], ...]
    short: tuple[int, tuple[float, ...], tuple[int, ...]]
    machines: tuple[tuple[int, float], ...]
    late_s: tuple[float, float]


def _span(limit: int, window_s: float, latency_s: float = 0.0) -> tuple[float, float]:
    """From after the ramp on, for 60 short windows or four long ones."""
    start = max(5.0, 2 * window_s) if window_s > 1 else 8.0
    if latency_s >= 20:
        start = max(start, 45.0)
    seconds = 4 * window_s if window_s > 60 else max(60 * min(window_s, 10), 10 * window_s)
    return start, start + max(min(seconds, 20_000 * window_s / limit), 4 * window_s)


TUNING = Grid(
    plain=(
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
    ),
    remembered=((50, 1, 0.05), (50, 1, 20), (10, 1, 2), (5, 1, 2), (50, 60, 2), (600, 60, 2)),
    jitter_limits=(5, 50),
    jitter_s=(0.005, 0.05, 0.2),
    shared=((50, 1), (50, 10), (600, 60)),
    foreign=1 / 3,
    burst=0.7,
    changes=(
        (50, 10.0, 50, 1.0),
        (50, 1.0, 50, 10.0),
        (50, 60.0, 50, 10.0),
        (50, 1.0, 10, 1.0),
        (10, 1.0, 50, 1.0),
    ),
    counted=((50, 1), (50, 10)),
    cached=(0.1, 0.5, 0.9),
    free=(0.1, 0.5),
    asked=((50, 1), (10, 1), (600, 60)),
    kept_in=(50, (1, 10)),
    wrong=((50, 60), (50, 10), (50, 2), (50, 0.5), (50, 0.1), (500, 1)),
    short=(50, (1, 60), (20, 50, 200, 1000)),
    machines=((50, 1), (600, 60)),
    late_s=(0.5, 90.0),
)
HELD = Grid(
    plain=(
        (7, 1, 0.3),
        (20, 1, 1),
        (30, 1, 8),
        (100, 1, 0.1),
        (100, 1, 12),
        (300, 1, 3),
        (40, 2, 0.5),
        (12, 10, 1),
        (100, 10, 6),
        (60, 15, 0.3),
        (30, 30, 1),
        (90, 45, 4),
        (120, 60, 3),
        (1000, 60, 10),
        (200, 300, 5),
    ),
    remembered=((40, 1, 0.1), (100, 1, 10), (20, 1, 3), (8, 2, 1), (100, 10, 4), (120, 60, 3)),
    jitter_limits=(8, 100),
    jitter_s=(0.01, 0.08, 0.15),
    shared=((40, 1), (100, 5), (300, 30)),
    foreign=0.2,
    burst=0.5,
    changes=(
        (100, 15.0, 100, 1.0),
        (30, 1.0, 30, 5.0),
        (120, 60.0, 120, 20.0),
        (80, 1.0, 25, 1.0),
        (20, 2.0, 100, 2.0),
    ),
    counted=((80, 1), (120, 20)),
    cached=(0.2, 0.4, 0.8),
    free=(0.05, 0.3),
    asked=((80, 1), (15, 1), (300, 30)),
    kept_in=(80, (1, 15)),
    wrong=((80, 30), (80, 7), (80, 3), (80, 0.4), (80, 0.15), (300, 1)),
    short=(80, (1, 30), (30, 80, 300, 1500)),
    machines=((80, 1), (300, 30)),
    late_s=(2.0, 70.0),
)
HELD_SEED = 7


def scenarios(grid: Grid) -> tuple[Scenario, ...]:
    """All scenarios with the parameters of `grid`."""
    families = (_steady, _shared, _changing, _headers, _kept, _short, _machines)
    return tuple(itertools.chain.from_iterable(family(grid) for family in families))


def _steady(grid: Grid) -> Iterator[Scenario]:
    for kind, (limit, window_s, latency_s) in itertools.product(KINDS, grid.plain):
        yield Scenario(kind, kind, limit, window_s, latency_s, *_span(limit, window_s, latency_s))
    for processes, (limit, window_s, latency_s) in itertools.product((1, 2, 4, 8), grid.remembered):
        span = _span(limit, window_s, latency_s)
        kind = f"remembering {processes}"
        yield Scenario("remembered denials", kind, limit, window_s, latency_s, *span)
    kinds = ("sliding", "fixed", "log", "remembering 1")
    for kind, limit, jitter_s in itertools.product(kinds, grid.jitter_limits, grid.jitter_s):
        yield Scenario("jitter", kind, limit, 1, 2, *_span(limit, 1), jitter_s=jitter_s)


def _shared(grid: Grid) -> Iterator[Scenario]:
    kinds = ("sliding", "fixed", "log", "clumped", "remembering 1")
    for kind, (limit, window_s) in itertools.product(kinds, grid.shared):
        span, foreign = _span(limit, window_s), grid.foreign
        yield Scenario("others use a part", kind, limit, window_s, 2, *span, foreign=foreign)
        burst = grid.burst
        yield Scenario("bursts of others", kind, limit, window_s, 2, 200.0, 800.0, burst=burst)


def _changing(grid: Grid) -> Iterator[Scenario]:
    kinds = ("sliding", "fixed", "log", "clumped", "remembering 1")
    for kind, (limit, window_s, then, then_s) in itertools.product(kinds, grid.changes):
        at = max(60.0, 6 * window_s)
        start, end = at + 3 * max(window_s, then_s), at + 12 * max(window_s, then_s) + 60
        steps = ((at, then, then_s),)
        yield Scenario("the limit changes", kind, limit, window_s, 2, start, end, steps=steps)


def _headers(grid: Grid) -> Iterator[Scenario]:
    kinds = ("sliding", "fixed", "remembering 1")
    for kind, (limit, window_s) in itertools.product(kinds, grid.counted):
        span = _span(limit, window_s)
        for cached in grid.cached:
            yield Scenario("cached answers", kind, limit, window_s, 0.05, *span, cached=cached)
        for cached in grid.free:
            yield Scenario(
                "answers of a free cache",
                kind,
                limit,
                window_s,
                0.05,
                *span,
                cached=cached,
                uncounted=True,
            )
        yield Scenario("no headers", kind, limit, window_s, 2, *span, silent=True)
    asked = ("exact", "whole seconds", "constant 60")
    for kind, how, (limit, window_s) in itertools.product(kinds, asked, grid.asked):
        start, _ = _span(limit, window_s)
        if how == "constant 60":
            start += 60.0  # the first wait is obeyed, before the window is known
        end = start + max(120, 6 * window_s)
        yield Scenario("Retry-After", kind, limit, window_s, 2, start, end, retry_after=how)


def _kept(grid: Grid) -> Iterator[Scenario]:
    limit, (short_s, long_s) = grid.kept_in
    for kind, (kept_limit, times) in itertools.product(
        ("sliding", "fixed", "remembering 1"), grid.wrong
    ):
        kept = Kept(kept_limit, times * short_s)
        yield Scenario("a kept pace is wrong", kind, limit, short_s, 0.05, 30, 120, kept=kept)
        if kept_limit == limit:
            kept = Kept(limit, times * long_s)
            yield Scenario("a kept pace is wrong", kind, limit, long_s, 2, 120, 300, kept=kept)


def _short(grid: Grid) -> Iterator[Scenario]:
    limit, windows_s, sizes = grid.short
    for kind, window_s, rows in itertools.product(
        ("sliding", "fixed", "remembering 1"), windows_s, sizes
    ):
        end = 30 + 3 * rows * window_s / limit
        for family, kept in (("short, cold", None), ("short, kept pace", Kept(limit, window_s))):
            yield Scenario(family, kind, limit, window_s, 0.05, 0, end, rows=rows, kept=kept)


def _machines(grid: Grid) -> Iterator[Scenario]:
    kinds = ("sliding", "fixed", "log", "remembering 1")
    for kind, (limit, window_s), late_s in itertools.product(kinds, grid.machines, grid.late_s):
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


SETS = {"tuning": (scenarios(TUNING), 0), "held": (scenarios(HELD), HELD_SEED)}
