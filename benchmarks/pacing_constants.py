"""Measures what each constant of the pacing does, at half and at double its value.

    python benchmarks/pacing_constants.py [--every 8] [--processes 2] [--only WORD]

Runs every eighth of the short scenarios of both sets, once as they are and twice for each constant.
For a ratio near 1, its distance from 1 is halved and doubled. The results become the table of
docs/pacing.md. A constant that does nothing at half and at double can be deleted.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from types import ModuleType

from measure import ROOT, keep

from pipeline.policy import ceiling, denial, margin, pace, ramp, sends, upper_bound, window

sys.path.insert(0, str(ROOT))

from pacing_sim import Figure, figure, one

from tests.support.pacing_families import SETS
from tests.support.pacing_scenarios import BEST, Scenario, best_pace, uses

MODULES = (pace, ramp, ceiling, denial, margin, sends, window, upper_bound)
SENDS_MOST = 6_000  # longer scenarios would take hours with that many constants
NEAR_ONE = (0.8, 1.3)
PURPOSES = {
    "SLOW_START_PER_S": "first rate of the slow start",
    "SLOW_START_GROWTH": "its growth per second",
    "SLOW_START_MOST_PER_S": "its highest rate",
    "_LATE": "how old a young answer is, in windows",
    "COUNTED_OFF": "requests counted more or fewer",
    "_LEAST_LEFT": "what is taken for left when nothing is",
    "_RETURNING": "how fast what returns is used",
    "_SHORTEST_S": "time of the first burst",
    "_SPREAD": "how fast what is left after a denial is used",
    "_COSTS": "time without a denial, after one without headers",
    "FLOOR_PER_S": "lowest rate",
    "MOST_PER_S": "highest rate",
    "_G_MIN": "lowest g",
    "_G_START": "g after a new window",
    "_G_MAX": "highest g",
    "_G_LOSS": "what g loses to a denial",
    "_G_GAIN_PER_S": "what g gains, on fast keys",
    "_G_GAIN_PER_ANSWER": "what g gains, on slow keys",
    "_G_WINDOW": "a window that was longer gives g back",
    "_LOSS_EVERY_WINDOWS": "denials so close are one overload",
    "_LONE_S": "a denial is alone after this time",
    "_LONE_SLOTS": "and after this many slots",
    "_HOLD_MIN_S": "shortest pause",
    "HOLD_SHARE": "pause as a part of the denial",
    "_HOLD_MAX_S": "longest pause",
    "_ASKED_WINDOWS": "how far Retry-After is obeyed",
    "_ASKED_MAX_S": "the same before the window is known",
    "_ASKED_TURNS": "when one request asks before its time",
    "_ASKED_TURN_MIN_S": "the shortest time for that",
    "_ASKED_TRUSTED_S": "shortest Retry-After that tells a window",
    "_ASKED_LEAST_PER_S": "the rate that the longest one leaves",
    "_TRIP_KEPT": "how long a slow 429 counts",
    "_TRUST_MIN_S": "when a probe is trusted, at least",
    "_TRUST_MAX_S": "and at most",
    "_LOOK_BACK_MIN_S": "requests let through lately, at least",
    "_LOOK_BACK": "and as a part of the denial",
    "_GUESS_TRUSTED": "part of a guessed rate that is tried",
    "_REMEMBERED_WINDOWS": "how long a denial is remembered",
    "_MUCH_LEFT": "much of the limit is left",
    "_COSTLY_FROM": "shortest denial that costs g more",
    "_COSTLY_TO": "longest denial that costs g more",
    "_COSTLY_LOSS": "what it costs",
    "_COSTLY_NEAR": "near the g that was costly",
    "_COSTLY_GAIN": "how much slower g grows there",
    "_FREE_TRUSTED": "part of a kept limit that is free",
    "_HARDLY_LEFT": "so little of a limit is hardly anything",
    "_HARDLY_LEFT_COSTS": "what a request costs then",
    "_SHORTEN_TRIED_S": "how long a shorter window is on trial",
    "_MATURE_WINDOWS": "when a window is sure",
    "SHORTEST_WINDOW_S": "shortest window",
    "LONGEST_WINDOW_S": "longest window",
    "_SNAP": "rounding of the first windows",
    "_SNAP_SURE": "rounding of later windows",
    "_SNAP_BELOW": "rounding of a bound, down",
    "_SNAP_ABOVE": "rounding of a bound, up",
    "_BOUND_TRUSTED": "what a window is above its bound",
    "_SAMPLES_KEPT": "samples kept",
    "_SAMPLES_PER_WINDOW": "samples taken per window",
    "_SAMPLES_NEEDED": "fewest samples",
    "_ESTIMATES_PER_KEPT": "how often a window is estimated",
    "_TOOTH_USED": "least use that a tooth needs",
    "_RISING": "slope that is no level",
    "_TIGHT": "spread of a level",
    "_BURST": "how much a burst lengthens a denial",
    "_REFUTED": "a bound that refutes a window",
    "_JITTER_LIMIT": "limits too small for that",
    "_QUIET_WINDOWS": "no samples after a change",
    "_PAUSE_MIN_S": "shortest pause that samples avoid",
    "_PAUSE_WINDOWS": "the same as a part of the window",
    "_FREE_WINDOWS": "how long a window is young",
    "_LOWER_WINDOWS": "how slowly it gets shorter",
    "_SPAN_WINDOWS": "samples that count",
    "_SHRUNK_MOST": "most that it shrinks at once",
    "_BOUNDS_KEPT": "bounds kept",
    "_BOUND_LASTS_WINDOWS": "how long a bound is valid",
    "_ANSWERS": "answers that a bound from above needs",
    "_SPANS": "time that it needs",
    "_BELIEVED_SPANS": "time that is enough",
    "_SHORTER": "what jitter explains",
    "_REQUESTS_OFF": "requests counted late",
    "_STEPS_PER_WINDOW": "steps per window",
    "_STEPS_KEPT": "steps kept",
    "_SELDOM_S": "time between answers from which each is looked at",
}


@dataclass(frozen=True)
class Effect:
    """How much more is used of what can be had, and denied, with a constant at another value."""

    name: str
    purpose: str
    value: float
    tried: float
    scenarios: int
    used_mean: float
    used_p10: float
    used_worst: float
    denied_mean: float

    def __str__(self) -> str:
        return (
            f"{self.name:24} {self.value:8g} -> {self.tried:8g}  used {self.used_mean:+7.2%} "
            f"{self.used_p10:+7.1%} {self.used_worst:+7.1%}  429s {self.denied_mean:+7.3%}"
        )


def chosen(every: int) -> list[tuple[Scenario, int]]:
    """Every so many of the scenarios of both sets that send little, with their seeds."""
    short = [
        (scenario, seed)
        for scenarios, seed in SETS.values()
        for scenario in scenarios
        if scenario.per_s * scenario.end_s <= SENDS_MOST
    ]
    return short[::every]


def constants(only: str) -> Iterator[tuple[list[ModuleType], str, float]]:
    """The constants: the modules that have or import one, its name and its value."""
    names = (name for module in MODULES for name in vars(module))
    for name in dict.fromkeys(name for name in names if name in PURPOSES and only in name):
        users = [module for module in MODULES if name in vars(module)]
        yield users, name, vars(users[0])[name]


def change(users: list[ModuleType], name: str, value: float) -> None:
    for module in users:
        setattr(module, name, value)


def tried(value: float) -> tuple[float, float]:
    """Half and double. For a ratio near 1, half and double of its distance from 1."""
    least, most = NEAR_ONE
    if least < value < most and value != 1:
        return 1 + (value - 1) / 2, 1 + (value - 1) * 2
    if isinstance(value, int):
        return max(value // 2, 1), value * 2
    return value / 2, value * 2


def effect(name: str, value: float, new: float, before: Figure, after: Figure) -> Effect:
    return Effect(
        name,
        PURPOSES[name],
        value,
        new,
        after.scenarios,
        after.used_mean - before.used_mean,
        after.used_p10 - before.used_p10,
        after.used_worst - before.used_worst,
        after.denied_mean - before.denied_mean,
    )


def run(scenarios: list[tuple[Scenario, int]], processes: int) -> Figure:
    jobs = [("runner", scenario, seed) for scenario, seed in scenarios]
    with multiprocessing.Pool(processes) as pool:  # its processes inherit the changed constant
        return figure("all", "runner", pool.map(one, jobs, 1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--every", type=int, default=8, help="run one of so many scenarios")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--only", default="", help="only constants whose name contains this")
    options = parser.parse_args()
    scenarios = chosen(options.every)
    needed = list({use for scenario, _ in scenarios for _, _, use in uses(scenario)})
    with multiprocessing.Pool(options.processes) as pool:
        BEST.update(zip(needed, pool.map(best_pace, needed, 1), strict=True))
    before, effects = run(scenarios, options.processes), []
    print(before, flush=True)
    for users, name, value in constants(options.only):
        for new in tried(value):
            change(users, name, new)
            after = run(scenarios, options.processes)
            effects.append(effect(name, value, new, before, after))
            print(effects[-1], flush=True)
        change(users, name, value)
    if not options.only:
        keep("pacing-constants", effects)


if __name__ == "__main__":
    main()
