"""Measures time, CPU and memory of large jobs: many rows, or many requests in flight.

    python benchmarks/scale.py rows [--rows 1000000]
    python benchmarks/scale.py in-flight [--in-flight 5000] [--answer-after 10]

`rows` runs a CSV with about 180 bytes per row from end to end against a fast server, and for
comparison one with a tenth of its rows. Then it measures export, status, check, and a run that
finds ten new rows.

`in-flight` keeps thousands of requests waiting for their answers. The ideal time is the number of
rows, divided by the requests in flight, times the time of an answer.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from measure import Bench, Used, keep, serving


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


def step(name: str, rows: int, spent: Used) -> Step:
    made = Step(name, rows, spent.wall_s, spent.cpu_s, spent.rss_mb)
    print(made, flush=True)
    return made


def stories(rows: int) -> Iterator[str]:
    return (f"a story about dog number {n}, {'who barks at the moon ' * 6}" for n in range(rows))


def many_rows(rows: int) -> None:
    with serving() as (kind, url), tempfile.TemporaryDirectory() as folder:
        few = Bench(Path(folder, "few"), url)
        many = Bench(Path(folder, "many"), url)
        steps = []
        for bench, number in ((few, rows // 10), (many, rows)):
            bench.folder.mkdir()
            bench.write(stories(number), concurrency=256)
            steps.append(step("run", number, bench.call("run", "--quiet")))
        steps.append(step("status", rows, many.call("status", "--json")))
        for ending in ("parquet", "csv"):
            target = str(Path(folder, f"out.{ending}"))
            spent = many.call("export", "--to", target, "--quiet")
            steps.append(step(f"export .{ending}", rows, spent))
        steps.append(step("check", rows, many.call("check", "--json")))
        with (many.folder / "sheet.csv").open("a") as file:
            file.writelines(f"a new story {n}\n" for n in range(10))
        steps.append(step("run, 10 rows are new", rows + 10, many.call("run", "--quiet")))
        print(f"Written to {keep('scale', steps, server=kind)}")


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
        print(f"Written to {keep('in-flight', [spent], server=kind, ideal_s=ideal_s)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["rows", "in-flight"])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--in-flight", type=int, default=5000)
    parser.add_argument("--answer-after", type=float, default=10.0)
    said = parser.parse_args()
    if said.what == "rows":
        many_rows(said.rows)
    else:
        many_in_flight(said.in_flight, said.answer_after)


if __name__ == "__main__":
    main()
