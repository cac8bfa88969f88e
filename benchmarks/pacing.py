"""Measures how much of a limit is used and how many 429s that costs, in real time.

The runner, as a user runs it (sheet, ledger, executor, client), is compared with two programs that
people write by hand, on the same client: a fixed number of workers with exponential backoff, and
aiolimiter configured with the true limit and window. Each contender has its own sandbox and its own
process. Those of one scenario run at the same time. All load goes to 127.0.0.1 and ends after a
fixed time.

    python benchmarks/pacing.py [--only WORD] [--short]

"used" is the share of ``limit / window``, which a perfect client would reach. It is measured after
the ramp: from 5 s on, for the window of 60 s from the third window on. "ramp" is the start of the
first second in which 90 % of the limit is reached. CPU is the client's, per request.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import csv
import json
import math
import os
import random
import subprocess
import sys
import tempfile
import time
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from aiolimiter import AsyncLimiter

from pipeline.core.events import AttemptEnded, Event
from pipeline.core.model import ErrorCode, State
from pipeline.job.access import Access
from pipeline.job.spec import load_spec
from pipeline.run.run import RunOptions, run_job_async
from pipeline.sending.control import Control
from pipeline.sending.engines.client import Client
from pipeline.sending.engines.process_limits import fit_concurrency

WORKFLOW = "wf_story"
BACKOFF_S, BACKOFF_MOST_S = 1.0, 60.0


@dataclass(frozen=True)
class Scenario:
    """The settings of a sandbox and the duration of the load."""

    name: str
    limit: int
    window_s: int
    latency_s: int
    seconds: int
    limiter: str | None = None

    @property
    def from_s(self) -> float:
        return 5.0 if self.window_s <= 1 else 2.0 * self.window_s


SCENARIOS = (
    Scenario("sliding 50 per 1 s, 2 s", 50, 1, 2, 35),
    Scenario("sliding 50 per 1 s, 20 s", 50, 1, 20, 65),
    Scenario("sliding 10 per 1 s, 2 s", 10, 1, 2, 45),
    Scenario("fixed 50 per 1 s, 2 s", 50, 1, 2, 35, "fixed-window"),
    Scenario("remembered denials 50 per 1 s, 2 s", 50, 1, 2, 60, "sliding-window-remembering"),
    Scenario("sliding 600 per 60 s, 2 s", 600, 60, 2, 240),
)
CONTENDERS = ("runner", "32 workers", "500 workers", "told limiter")


@dataclass
class Seen:
    """Times at which requests were admitted and denied, in seconds since the start; CPU time."""

    admitted: list[float]
    denied: list[float]
    cpu_s: float


# -- one contender, in its own process -----------------------------------------------------


async def run_runner(scenario: Scenario, url: str, key: str) -> Seen:
    """Does a whole run, as `pipeline run` does."""
    seen = Seen([], [], 0.0)
    with tempfile.TemporaryDirectory() as folder:
        sheet = Path(folder) / "sheet.csv"
        rows = int(scenario.limit / scenario.window_s * scenario.seconds * 2) + 2 * scenario.limit
        with sheet.open("w", newline="") as file:
            csv.writer(file).writerows([["story"], *([f"row {n}"] for n in range(rows))])
        job = Path(folder) / "job.yaml"
        job.write_text(f"name: job\nworkflow: {WORKFLOW}\ninput: sheet.csv\n")
        key_file = Path(folder) / "key"
        key_file.write_text(key)
        key_file.chmod(0o600)
        begun = time.monotonic()

        def see(event: Event) -> None:
            if isinstance(event, AttemptEnded):
                at = time.monotonic() - begun
                if event.state is State.OK:
                    seen.admitted.append(at - scenario.latency_s)
                elif event.outcome.code == ErrorCode.RATE_LIMITED:
                    seen.denied.append(at)

        control = Control()
        ends = asyncio.get_running_loop().call_later(scenario.seconds, control.stop, "time is up")
        options = RunOptions(base_url=url, key_file=key_file, listeners=(see,))
        await run_job_async(load_spec(job), options, control=control)
        ends.cancel()
    return seen


async def run_workers(scenario: Scenario, url: str, key: str, workers: int, told: bool) -> Seen:
    """Runs `workers` at once. With `told` each waits for aiolimiter, else each backs off alone."""
    seen = Seen([], [], 0.0)
    limiter = AsyncLimiter(scenario.limit, scenario.window_s) if told else None
    begun = time.monotonic()
    ends = begun + scenario.seconds
    fit_concurrency(workers)

    async def work(client: Client, number: int) -> None:
        failures = 0
        while (now := time.monotonic()) < ends:
            if limiter is not None:
                await limiter.acquire()
            reply = await client.send(json.dumps({"story": f"{number} {now}"}).encode())
            at = reply.sent_at - begun
            if reply.status != 429:
                failures = 0
                seen.admitted.append(at)
                continue
            seen.denied.append(at)
            wait_s = min(BACKOFF_S * 2**failures, BACKOFF_MOST_S)
            failures += 1
            await asyncio.sleep(min(wait_s * random.uniform(0.5, 1.0), max(ends - now, 0)))

    async with Client(Access(url, key, "sandbox"), WORKFLOW, 330.0) as client:
        await asyncio.gather(*(work(client, number) for number in range(workers)))
    return seen


def contend(contender: str, scenario: Scenario, url: str, key: str) -> None:
    """Prints the result of one contender, as one line of JSON."""
    begun = time.process_time()
    if contender == "runner":
        seen = asyncio.run(run_runner(scenario, url, key))
    else:
        told = contender == "told limiter"
        flight = math.ceil(scenario.limit / scenario.window_s * scenario.latency_s * 1.5) + 50
        workers = flight if told else int(contender.split()[0])
        seen = asyncio.run(run_workers(scenario, url, key, workers, told))
    seen.cpu_s = time.process_time() - begun
    print(json.dumps(asdict(seen)))


# -- all of them -----------------------------------------------------------------------


@contextlib.contextmanager
def sandbox(scenario: Scenario) -> Iterator[dict[str, Any]]:
    """A sandbox process that dies with this one."""
    options: dict[str, Any] = {
        "limit": scenario.limit,
        "window": f"{scenario.window_s}s",
        "latency": f"{scenario.latency_s}s",
        "with_parent": True,
    }
    if scenario.limiter is not None:
        options["limiter"] = scenario.limiter
    process = subprocess.Popen(
        [sys.executable, "-m", "pipeline.sandbox.server", json.dumps(options)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        if not line:
            raise LookupError(f"this sandbox has no {scenario.limiter}")
        yield json.loads(line)
    finally:
        process.kill()
        process.communicate()


def start(contender: str, scenario: Scenario, ready: dict[str, Any], cache: str) -> Any:
    command = [sys.executable, __file__, "--contender", contender]
    told = [json.dumps(asdict(scenario)), ready["url"], ready["key"]]
    environment = os.environ | {"XDG_CACHE_HOME": cache}
    return subprocess.Popen([*command, "--told", *told], stdout=subprocess.PIPE, env=environment)


def finish(process: Any) -> Seen:
    out, _ = process.communicate(timeout=600)
    return Seen(**json.loads(out.splitlines()[-1]))


def between(times: list[float], start_s: float, end_s: float) -> int:
    return bisect_left(times, end_s) - bisect_left(times, start_s)


def report(name: str, scenario: Scenario, seen: Seen) -> None:
    admitted, denied = sorted(seen.admitted), sorted(seen.denied)
    start_s, end_s = scenario.from_s, scenario.seconds - 1.0
    per_s = scenario.limit / scenario.window_s
    used = between(admitted, start_s, end_s) / (per_s * (end_s - start_s))
    late = between(denied, start_s, end_s)
    share = late / max(late + between(admitted, start_s, end_s), 1)
    ramp = next(
        (
            half / 2
            for half in range(400)
            if between(admitted, half / 2, half / 2 + 1) >= 0.9 * per_s
        ),
        math.inf,
    )
    requests = len(admitted) + len(denied)
    print(
        f"  {name:14} used {used:6.1%}   429s {share:6.2%} (all {len(denied)} of {requests})"
        f"   ramp {ramp:4.1f} s   CPU {1000 * seen.cpu_s / max(requests, 1):5.2f} ms",
        flush=True,
    )


def side_by_side(scenario: Scenario) -> None:
    """Runs every contender on its own sandbox, at the same time."""
    print(f"{scenario.name} ({scenario.seconds} s)", flush=True)
    with contextlib.ExitStack() as stack:
        cache = stack.enter_context(tempfile.TemporaryDirectory())
        try:
            readies = [stack.enter_context(sandbox(scenario)) for _ in CONTENDERS]
        except LookupError as error:
            print(f"  skipped: {error}")
            return
        started = [
            start(contender, scenario, ready, cache)
            for contender, ready in zip(CONTENDERS, readies, strict=True)
        ]
        for contender, process in zip(CONTENDERS, started, strict=True):
            report(contender, scenario, finish(process))


def two_runs(scenario: Scenario, later_s: float) -> None:
    """Runs two runs with one key on one sandbox. The second one starts later."""
    print(f"two runs of one key, {scenario.name}, the second {later_s:g} s later", flush=True)
    with contextlib.ExitStack() as stack:
        cache = stack.enter_context(tempfile.TemporaryDirectory())
        ready = stack.enter_context(sandbox(scenario))
        first = start("runner", scenario, ready, cache)
        time.sleep(later_s)
        second = start("runner", scenario, ready, cache)
        seen = [finish(first), finish(second)]
    seen[1].admitted = [at + later_s for at in seen[1].admitted]
    seen[1].denied = [at + later_s for at in seen[1].denied]
    start_s, end_s = later_s + 5, scenario.seconds - 1.0
    got = [between(sorted(run.admitted), start_s, end_s) for run in seen]
    denied = sum(between(sorted(run.denied), start_s, end_s) for run in seen)
    can = scenario.limit / scenario.window_s * (end_s - start_s)
    print(
        f"  together {sum(got) / can:.1%}, shares {got[0] / sum(got):.0%} and "
        f"{got[1] / sum(got):.0%}, 429s {denied / (denied + sum(got)):.2%}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="only scenarios whose name contains this")
    parser.add_argument("--short", action="store_true", help="skip scenarios that take over 70 s")
    parser.add_argument("--contender", help=argparse.SUPPRESS)
    parser.add_argument("--told", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.contender:
        scenario, url, key = options.told
        contend(options.contender, Scenario(**json.loads(scenario)), url, key)
        return
    for scenario in SCENARIOS:
        if options.only in scenario.name and not (options.short and scenario.seconds > 70):
            side_by_side(scenario)
    if options.only in "two runs":
        two_runs(Scenario("sliding 50 per 1 s, 2 s", 50, 1, 2, 60), later_s=8.0)


if __name__ == "__main__":
    main()
