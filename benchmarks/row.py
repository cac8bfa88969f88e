"""Counts the instructions that one row takes, here and in another checkout.

    python benchmarks/row.py [--other CHECKOUT] [--in-flight 256]

CPU seconds of the same code differ by 30 % from run to run, because other programs share the
processor. Instructions differ by about 1 %. valgrind counts those of two runs, of 500 and of 3,000
rows, and the difference is that of 2,500 rows, without the start of the program. A run takes half a
minute or longer.

valgrind makes a program about 50 times as slow. Idle connections would then pass the age at which
the runner no longer reuses them, and half of the rows would pay for a new one. So connections have
no such age here.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from measure import ROOT, Bench, serving

FEW, MANY = 500, 3000
_COUNTER = ("valgrind", "--tool=cachegrind", "--cache-sim=no", "--cachegrind-out-file=/dev/null")
_COUNTED = re.compile(r"I\s+refs:\s+([\d,]+)")
# aiohttp's own class, because releases differ in the place where they set this age.
_RUN = """
import runpy
from aiohttp import BaseConnector

made = BaseConnector.__init__
def make(self, *args, **options):
    made(self, *args, **options | {"keepalive_timeout": 60})

BaseConnector.__init__ = make
runpy.run_module("pipeline", run_name="__main__", alter_sys=True)
"""


def instructions(told: str) -> int:
    """Returns the count that valgrind printed.

    Raises:
        SystemExit: when there is none, because the program or valgrind itself failed.
    """
    found = _COUNTED.search(told)
    if found is None:
        raise SystemExit(f"valgrind counted nothing. It said: {told[-2000:]}")
    return int(found[1].replace(",", ""))


def of_run(checkout: Path, url: str, rows: int, in_flight: int) -> int:
    """Returns the instructions of one whole run of `rows` rows."""
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder), url)
        bench.write((f"a story about dog number {n}" for n in range(rows)), concurrency=in_flight)
        python = str(checkout / ".venv" / "bin" / "python")
        done = subprocess.run(
            [*_COUNTER, python, "-c", _RUN, "run", str(bench.spec), "--quiet"],
            cwd=checkout,
            env=bench.environment() | {"PYTHONHASHSEED": "0"},
            capture_output=True,
            text=True,
        )
    if done.returncode:
        raise SystemExit(f"The run of {checkout} failed: {done.stderr[-2000:]}")
    return instructions(done.stderr)


def per_row(checkout: Path, url: str, in_flight: int) -> float:
    few, many = (of_run(checkout, url, rows, in_flight) for rows in (FEW, MANY))
    return (many - few) / (MANY - FEW)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--other", type=Path, help="A checkout with its own .venv.")
    parser.add_argument("--in-flight", type=int, default=256)
    said = parser.parse_args()
    if shutil.which("valgrind") is None:
        raise SystemExit("This needs valgrind, which counts the instructions. Install it first.")
    with serving() as (kind, url):
        print(f"{FEW} and {MANY} rows, {said.in_flight} in flight, fixed answer by {kind}")
        here = per_row(ROOT, url, said.in_flight)
        print(f"this checkout: {here / 1000:,.0f} thousand instructions per row", flush=True)
        if said.other is not None:
            there = per_row(said.other.absolute(), url, said.in_flight)
            print(f"the other:     {there / 1000:,.0f} thousand instructions per row")
            print(f"this one takes {here / there:.3f} of the other's")


if __name__ == "__main__":
    main()
