"""Measures the commands of a long job whose rows are finished, next to another release.

    python benchmarks/finished.py --other PATH [--rows 1000000] [--job FOLDER]

PATH is a checkout. Each release works on a copy of the same finished job, and the two take turns,
so that both meet the same load of the machine. A job takes minutes to finish: `--job` names a
folder that keeps it for the next time.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from commands import release
from measure import KEY, ROOT, Bench, FixedAnswer, Used, keep, used
from scale import stories

# A run folder belongs to one address, so the server has the same one each time.
PORT = 33_255
COMMANDS: dict[str, tuple[str, ...]] = {
    "check": ("--json",),
    "export .parquet": ("--quiet", "--to", "out.parquet"),
    "report": (),
    "verify": (),
}


@dataclass(frozen=True)
class Figure:
    """A command's CPU seconds with all its processes, and the peak memory of the largest process.
    `before_first_s`: those before its first request. The same of the other release."""

    name: str
    cpu_s: float
    rss_mb: float
    before_first_s: float | None
    other_cpu_s: float
    other_rss_mb: float
    other_before_first_s: float | None


class Noting(FixedAnswer):
    """A server that notes the CPU time of the program before its first request."""

    spent: ClassVar[list[float]] = []

    def data_received(self, data: bytes) -> None:
        if not self.spent:
            self.spent.append(sum(map(cpu_s, children(os.getpid()))))
        super().data_received(data)


def children(process: int) -> Iterator[int]:
    """Yields all descendants of a process."""
    with suppress(FileNotFoundError):
        for path in Path(f"/proc/{process}/task").glob("*/children"):
            for child in map(int, path.read_text().split()):
                yield child
                yield from children(child)


def cpu_s(process: int) -> float:
    """Returns the CPU seconds of a process and of its children that have ended."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")


async def _serve() -> None:
    server = await asyncio.get_running_loop().create_server(Noting, "127.0.0.1", PORT)
    await server.serve_forever()


@dataclass(frozen=True)
class Copy:
    """A copy of the finished job, and the release that works on it."""

    words: tuple[str, ...]
    folder: Path

    def call(self, verb: str, *options: str) -> tuple[Used, float | None]:
        """Runs a command. Returns its figures, and its CPU seconds before its first request."""
        environment = os.environ | {
            "AITUTOR_API_KEY": KEY,
            "AITUTOR_BASE_URL": f"http://127.0.0.1:{PORT}",
            "XDG_CACHE_HOME": str(self.folder / "cache"),
        }
        Noting.spent.clear()
        command = ["env", "-C", str(self.folder), *self.words, verb, "job.yaml", *options]
        return used(command, environment), next(iter(Noting.spent), None)

    def run_with_ten_more(self) -> tuple[Used, float | None]:
        with (self.folder / "sheet.csv").open("a") as file:
            file.writelines(f"a new story {time.monotonic()} {n}\n" for n in range(10))
        return self.call("run", "--quiet")


def made(job: Path, rows: int) -> None:
    bench = Bench(job, f"http://127.0.0.1:{PORT}")
    job.mkdir(parents=True)
    bench.write(stories(rows), concurrency=256)
    bench.call("run", "--quiet")


def figure(name: str, found: list[tuple[Used, float | None]]) -> Figure:
    [ours, others] = [(spent.cpu_s, spent.rss_mb, first) for spent, first in found]
    made = Figure(name, *ours, *others)
    print(made, flush=True)
    return made


def compared(copies: list[Copy]) -> list[Figure]:
    for copy in copies:
        copy.run_with_ten_more()  # afterwards the folder is as that release leaves it each night
    figures = [figure("run, 10 rows are new", [copy.run_with_ten_more() for copy in copies])]
    for name, options in COMMANDS.items():
        verb = name.partition(" ")[0]
        figures.append(figure(name, [copy.call(verb, *options) for copy in copies]))
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--other", type=Path, required=True, help="A checkout.")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--job", type=Path, help="A folder that keeps the finished job.")
    said = parser.parse_args()
    threading.Thread(target=lambda: asyncio.run(_serve()), daemon=True).start()
    with tempfile.TemporaryDirectory() as temporary:
        job = said.job or Path(temporary, "job")
        if not job.exists():
            made(job, said.rows)
        copies = []
        for name, place in (("this", ROOT), ("other", said.other)):
            folder = Path(temporary, name)
            shutil.copytree(job, folder)
            copies.append(Copy(release(place, folder).words, folder))
        rows = json.loads(next(job.rglob("summary.json")).read_text())["rows"]
        print(f"Written to {keep('finished', compared(copies), rows=rows)}")


if __name__ == "__main__":
    main()
