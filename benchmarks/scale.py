"""Measures time, CPU and memory of large jobs: many rows, or many requests in flight.

    python benchmarks/scale.py rows [--rows 1000000] [--at-once]
    python benchmarks/scale.py in-flight [--in-flight 5000] [--answer-after 10]

`rows` runs CSVs with about 180 bytes per row from end to end against a fast server: one with so
many rows, and others with a tenth, a hundredth and a thousandth. For each it measures the other
commands too, and a run that finds ten new rows. It prints the exponent with which time and memory
grow: 1 means in proportion to the rows. With `--at-once` the first run of each job gets its answers
from its own process, so that ten million rows take an hour and not three.

`in-flight` keeps thousands of requests waiting for their answers. The ideal time is the number of
rows, divided by the requests in flight, times the time of an answer. A client on bare aiohttp sends
as many requests to the same server after that.
"""

from __future__ import annotations

import argparse
import math
import re
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from measure import Bench, Used, keep, serving, used

AT_ONCE = str(Path(__file__).with_name("at_once.py"))
THROUGHPUT = str(Path(__file__).with_name("throughput.py"))
BARE = "bare aiohttp"


@dataclass(frozen=True)
class Step:
    """The figures of one command, and how many rows it handled."""

    name: str
    rows: int
    wall_s: float
    cpu_s: float
    rss_mb: float

    def __str__(self) -> str:
        each_us = self.wall_s / self.rows * 1e6
        return (
            f"{self.name:34} {self.rows:>9} rows {self.wall_s:8.2f} s {self.cpu_s:8.2f} CPU s"
            f" {self.rss_mb:7.0f} MB {each_us:8.1f} us/row"
        )


@dataclass(frozen=True)
class Growth:
    """The exponents with which a command's CPU time and memory grow with the rows."""

    name: str
    cpu: float
    memory: float

    def __str__(self) -> str:
        return f"{self.name:34} CPU time: rows ^ {self.cpu:.2f}, memory: rows ^ {self.memory:.2f}"


def step(name: str, rows: int, spent: Used) -> Step:
    made = Step(name, rows, spent.wall_s, spent.cpu_s, spent.rss_mb)
    print(made, flush=True)
    return made


def stories(rows: int) -> Iterator[str]:
    return (f"a story about dog number {n}, {'who barks at the moon ' * 6}" for n in range(rows))


def many_rows(most: int, at_once: bool) -> None:
    steps = []
    sizes = [most // 1000, most // 100, most // 10, most]
    with serving() as (kind, url):
        for rows in sizes:
            with tempfile.TemporaryDirectory() as folder:
                bench = Bench(Path(folder), url)
                steps += commands(bench, rows, at_once)
                print(f"Bytes per row: {bytes_per_row(bench.folder, rows)}")
    names = list(dict.fromkeys(one.name for one in steps))
    grown = [growth([one for one in steps if one.name == name]) for name in names]
    for one in grown:
        print(one)
    name = "scale-at-once" if at_once else "scale"
    print(f"Written to {keep(name, steps, server=kind, growth=[asdict(one) for one in grown])}")


def bytes_per_row(folder: Path, rows: int) -> dict[str, int]:
    """Returns the size of each file of the job, and of all its parts together, per row."""
    sizes: Counter[str] = Counter()
    for path in folder.rglob("*"):
        if path.is_file():
            sizes[re.sub(r"-\d+", "s", path.name)] += path.stat().st_size
    return {name: round(size / rows) for name, size in sizes.most_common() if size > rows}


def commands(bench: Bench, rows: int, at_once: bool) -> list[Step]:
    """Returns the figures of each command for a job of `rows` rows."""
    bench.write(stories(rows), concurrency=256)
    if at_once:
        command = [sys.executable, AT_ONCE, str(bench.spec)]
        steps = [step("run, answers at once", rows, used(command, bench.environment()))]
    else:
        steps = [step("run", rows, bench.call("run", "--quiet"))]
    steps.append(step("status", rows, bench.call("status")))
    steps.append(step("report", rows, bench.call("report")))
    steps.append(step("verify", rows, bench.call("verify")))
    for ending in ("parquet", "csv"):
        target = str(bench.folder / f"out.{ending}")
        steps.append(
            step(f"export .{ending}", rows, bench.call("export", "--to", target, "--quiet"))
        )
    steps.append(step("check", rows, bench.call("check")))
    with (bench.folder / "sheet.csv").open("a") as file:
        file.writelines(f"a new story {n}\n" for n in range(10))
    steps.append(step("run, 10 rows are new", rows, bench.call("run", "--quiet")))
    return steps


def growth(steps: list[Step]) -> Growth:
    """Returns how a command's time and memory grow from the last but one to the last size."""
    first, *_, before, last = steps
    new = [one.rows - first.rows for one in (before, last)]
    # The time of a thousandth of the rows is mostly that of the start.
    spent = [one.cpu_s - first.cpu_s for one in (before, last)]
    held = [before.rss_mb, last.rss_mb]
    return Growth(first.name, _exponent(spent, new), _exponent(held, [before.rows, last.rows]))


def _exponent(values: list[float], sizes: list[int]) -> float:
    if min(values) <= 0:
        return math.nan  # too few rows to see a difference
    return math.log(values[1] / values[0]) / math.log(sizes[1] / sizes[0])


def many_in_flight(in_flight: int, answer_after_s: float) -> None:
    rows = in_flight * 4
    with serving(answer_after_s) as (kind, url), tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder), url)
        bench.write(stories(rows), concurrency=in_flight)
        begun = time.monotonic()
        spent = step(f"{in_flight} in flight", rows, bench.call("run", "--quiet"))
        ideal_s = rows / in_flight * answer_after_s
        ratio = (time.monotonic() - begun) / ideal_s
        print(
            f"{ratio:.2f} of the ideal {ideal_s:.0f} s, {spent.cpu_s / rows * 1000:.3f} CPU s/1,000"
        )
        command = [sys.executable, THROUGHPUT, "--client", BARE, "--url", url]
        command += ["--in-flight", str(in_flight), "--rows", str(rows)]
        bare = step(f"{BARE}, {in_flight} in flight", rows, used(command))
        print(f"Written to {keep('in-flight', [spent, bare], server=kind, ideal_s=ideal_s)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["rows", "in-flight"])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--at-once", action="store_true")
    parser.add_argument("--in-flight", type=int, default=5000)
    parser.add_argument("--answer-after", type=float, default=10.0)
    said = parser.parse_args()
    if said.what == "rows":
        many_rows(said.rows, said.at_once)
    else:
        many_in_flight(said.in_flight, said.answer_after)


if __name__ == "__main__":
    main()
