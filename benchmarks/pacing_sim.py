"""Measures the pacing on a virtual clock, over many limiters, and compares it with other ways.

    python benchmarks/pacing_sim.py [--set tuning|held] [--alone] [--other CHECKOUT]
                                    [--only WORD] [--seeds 1] [--each]

The set "held" was never used to tune the controller (`tests/support/pacing_families.py`).
Each family of scenarios gets the mean, the tenth percentile and the worst share of what can be had
(`tests/support/pacing_scenarios.py` says what that is) and of the 429s. CHECKOUT is a checkout of
another release, whose controller runs in the same simulator. The others are clients that people
write: 32 workers that back off, a rate with additive increase and multiplicative decrease (AIMD),
and a rate that knows the limit and the window beforehand. "Told all" sends at the best even pace,
and knows at each time what others use: it shows whether what can be had is within reach.
"""

from __future__ import annotations

import argparse
import heapq
import json
import math
import multiprocessing
import os
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from measure import ROOT, keep

from pipeline.policy.pace import Learned, Pace

# The controller above may be that of another checkout, but the simulator is always this one's.
sys.path.insert(0, str(ROOT))

from tests.support.pacing_families import SETS
from tests.support.pacing_scenarios import BEST, Result, Scenario, best_pace, score, use_at, uses
from tests.support.pacing_sim import Runner

WORKERS, BACKOFF_S, BACKOFF_MOST_S = 32, 1.0, 60.0
KEPT_G, KEPT_TRUST = 0.97, 0.95


class Simple:
    """A client that learns nothing from headers."""

    rows: int | None = None

    def next_at(self, now: float) -> float:
        return now

    def price_s(self, now: float) -> float:
        return 0.0

    def granted(self, now: float) -> None: ...
    def sent(self, now: float) -> None: ...
    def answered(self, sent_at: float, limit: object, remaining: object, now: float) -> None: ...
    def denied(self, sent_at: float, now: float, retry_after_s: float | None = None) -> None: ...


class Workers(Simple):
    """Fixed concurrency: after a 429 a worker waits for 1 s, then twice as long each time."""

    def __init__(self) -> None:
        self._idle = [0] * WORKERS  # the failures in a row of each worker that may send
        self._leaving: list[int] = []
        self._out: dict[float, int] = {}
        self._backing_off: list[tuple[float, int]] = []

    def next_at(self, now: float) -> float:
        while self._backing_off and self._backing_off[0][0] <= now:
            self._idle.append(heapq.heappop(self._backing_off)[1])
        if self._idle:
            return now
        return self._backing_off[0][0] if self._backing_off else math.inf

    def granted(self, now: float) -> None:
        self._leaving.append(self._idle.pop())

    def sent(self, now: float) -> None:
        self._out[now] = self._leaving.pop(0)

    def answered(self, sent_at: float, limit: object, remaining: object, now: float) -> None:
        del self._out[sent_at]
        self._idle.append(0)

    def denied(self, sent_at: float, now: float, retry_after_s: float | None = None) -> None:
        failures = self._out.pop(sent_at)
        wait_s = retry_after_s or min(BACKOFF_S * 2**failures, BACKOFF_MOST_S)
        heapq.heappush(self._backing_off, (now + wait_s, min(failures + 1, 6)))


class Aimd(Simple):
    """A rate that grows by one per second in each second, and halves at a 429 once per second."""

    def __init__(self) -> None:
        self._per_s, self._since = 5.0, 0.0

    def price_s(self, now: float) -> float:
        return 1 / (self._per_s + max(now - self._since, 0.0))

    def denied(self, sent_at: float, now: float, retry_after_s: float | None = None) -> None:
        if sent_at >= self._since:
            self._per_s = max((self._per_s + now - self._since) / 2, 0.01)
            self._since = max(now, 1.0)


class Told(Simple):
    """A rate of the limit per window from the start on. It does not know of others or changes."""

    def __init__(self, scenario: Scenario) -> None:
        self._price_s = scenario.window_s / scenario.limit

    def price_s(self, now: float) -> float:
        return self._price_s


class ToldAll(Simple):
    """The best even pace of each time, shared equally with another machine that is there."""

    def __init__(self, scenario: Scenario) -> None:
        self._scenario = scenario

    def price_s(self, now: float) -> float:
        scenario = self._scenario
        _, per_s = best_pace(use_at(scenario, now))
        both = scenario.machine_s is not None and scenario.machine_s <= now < scenario.leaves_s
        return (2 if both else 1) / per_s


class Refunding:
    """The controller of the first release, which gave a slot back for an answer without headers."""

    def __init__(self, pace: Any) -> None:
        self._pace, self._free = pace, False
        self.rows: int | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pace, name)

    def price_s(self, now: float) -> Any:
        return 0.0 if self._free else self._pace.price_s(now)

    def granted(self, now: float) -> None:
        self._pace.granted(now)
        self._free = self._pace.take_refund(now)

    def answered(self, sent_at: float, limit: object, remaining: object, now: float) -> None:
        if limit is None:
            self._pace.cached(sent_at, now)
        else:
            self._pace.answered(sent_at, limit, remaining, now)


def learning(scenario: Scenario) -> Runner:
    start = None
    if scenario.kept is not None:
        start = Learned(scenario.kept.limit, scenario.kept.window_s, KEPT_G, KEPT_TRUST)
    pace: Any = Pace(start=start)
    return Runner(Refunding(pace) if hasattr(pace, "take_refund") else pace)


CLIENTS: dict[str, Callable[[Scenario], Runner]] = {
    "runner": learning,
    "32 workers": lambda _: Runner(Workers(), look_again_s=0.02),
    "AIMD": lambda _: Runner(Aimd()),
    "told the limit": lambda scenario: Runner(Told(scenario)),
    "told all": lambda scenario: Runner(ToldAll(scenario)),
}


@dataclass(frozen=True)
class Figure:
    """The figures of one client in one family."""

    family: str
    client: str
    scenarios: int
    used_mean: float
    used_p10: float
    used_worst: float
    denied_mean: float
    denied_p90: float
    denied_worst: float

    def __str__(self) -> str:
        return (
            f"{self.family:22} {self.client:15} used {self.used_mean:6.1%} {self.used_p10:6.1%} "
            f"{self.used_worst:6.1%}   429s {self.denied_mean:6.2%} {self.denied_p90:6.2%} "
            f"{self.denied_worst:6.2%}"
        )


def one(job: tuple[str, Scenario, int]) -> Result:
    client, scenario, seed = job
    return score(scenario, CLIENTS[client], seed)


def run(clients: list[str], chosen: list[Scenario], seeds: range) -> dict[str, list[Result]]:
    """Runs the scenarios on all cores. Returns each client's results in the order of `chosen`."""
    jobs = [(client, scenario, seed) for client in clients for scenario in chosen for seed in seeds]
    longest = sorted(range(len(jobs)), key=lambda at: -jobs[at][1].per_s * jobs[at][1].end_s)
    used = list({use for scenario in chosen for _, _, use in uses(scenario)})
    with multiprocessing.Pool(os.cpu_count()) as pool:
        BEST.update(zip(used, pool.map(best_pace, used, 1), strict=True))
    with multiprocessing.Pool(os.cpu_count()) as pool:  # its processes start with what is known
        found = dict(zip(longest, pool.map(one, [jobs[at] for at in longest], 1), strict=True))
    results: dict[str, list[Result]] = defaultdict(list)
    for at, job in enumerate(jobs):
        results[job[0]].append(found[at])
    return results


def elsewhere(checkout: Path, options: argparse.Namespace) -> list[Result]:
    """Runs the scenarios with the controller of another checkout, in a separate process."""
    command = [sys.executable, __file__, "--results", "--set", options.set, "--only", options.only]
    environment = os.environ | {"PYTHONPATH": str(checkout.absolute())}
    done = subprocess.run(
        [*command, "--seeds", str(options.seeds)],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return [Result(**result) for result in json.loads(done.stdout)]


def figure(family: str, client: str, results: list[Result]) -> Figure:
    used = sorted(result.used for result in results)
    denied = sorted(result.denied for result in results)
    tenth = len(used) // 10
    return Figure(
        family,
        client,
        len(results),
        statistics.fmean(used),
        used[tenth],
        used[0],
        statistics.fmean(denied),
        denied[-1 - tenth],
        denied[-1],
    )


def figures(of: list[str], results: dict[str, list[Result]]) -> list[Figure]:
    """The figures of each family, of all and of all but the short runs, client by client.

    `of` are the families of the results.
    """
    groups = {"all": set(of), "steady": {name for name in of if not name.startswith("short")}}
    groups |= {family: {family} for family in dict.fromkeys(of)}
    return [
        figure(group, client, part)
        for group, names in groups.items()
        for client, whole in results.items()
        if (part := [r for r, name in zip(whole, of, strict=True) if name in names])
    ]


def main() -> None:
    options = _options()
    scenarios, first_seed = SETS[options.set]
    chosen = [scenario for scenario in scenarios if options.only in str(scenario)]
    seeds = range(first_seed, first_seed + options.seeds)
    if options.results:
        results = run(["runner"], chosen, seeds)
        print(json.dumps([asdict(result) for result in results["runner"]]))
        return
    begun = time.monotonic()
    results = {}
    if options.other is not None:
        results["release before"] = elsewhere(options.other, options)
    results = run(["runner"] if options.alone else list(CLIENTS), chosen, seeds) | results
    played = [scenario for scenario in chosen for _ in seeds]
    found = figures([scenario.family for scenario in played], results)
    for line in found:
        print(line)
    shares = [r.smaller for r in results["runner"] if r.smaller is not None]
    if shares:
        fair = sum(share >= 0.4 for share in shares)
        print(f"two machines within 60:40: {fair} of {len(shares)}, worst {min(shares):.0%}")
    if options.each:
        _print_each(played, results)
    print(f"{len(chosen)} scenarios in {time.monotonic() - begun:.0f} s")
    if options.other is not None and not options.only:
        name = "pacing-sim" if options.set == "tuning" else f"pacing-sim-{options.set}"
        keep(name, found, scenarios=len(chosen), seeds=options.seeds)


def _print_each(played: list[Scenario], results: dict[str, list[Result]]) -> None:
    """Each scenario from the worst on: use and 429s of this runner, and use of "told all"."""
    best = results.get("told all", results["runner"])
    lines = zip(results["runner"], best, played, strict=True)
    for own, told, scenario in sorted(lines, key=lambda line: line[0].used):
        print(f"{own.used:6.1%} {own.denied:6.2%}  ({told.used:6.1%})  {scenario}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--set", choices=SETS, default="tuning", help="which scenarios")
    parser.add_argument("--other", type=Path, help="a checkout of another release")
    parser.add_argument("--only", default="", help="only scenarios whose text contains this")
    parser.add_argument("--seeds", type=int, default=1, help="how often to run each scenario")
    parser.add_argument("--alone", action="store_true", help="without the other clients")
    parser.add_argument("--each", action="store_true", help="print each scenario of this runner")
    parser.add_argument("--results", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
