"""Measures CPU and memory of each command on a small job, next to another release.

    python benchmarks/commands.py [--other PATH] [--times 7]

The job is `data/products.csv` with 260 rows, rehearsed by each of the two releases in a folder that
only it uses. PATH is a checkout, or the Python of an environment where a release is installed. The
two take turns, so that both meet the same load of the machine. The figures are medians. CPU counts
a command with all its processes, and memory is the peak of the largest process.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from measure import ROOT, Used, keep, used

OK, FAILED_ROWS, AMBIGUOUS_ROWS = 0, 3, 5
JOB = ("products.yaml", "--sandbox")
COMMANDS: dict[str, tuple[str, ...]] = {
    "--help": ("--help",),
    "status": ("status", *JOB),
    "history": ("history", *JOB),
    "check": ("check", *JOB),
    "verify": ("verify", *JOB),
    "report": ("report", *JOB),
    **{
        f"export {ending}": ("export", *JOB, "--quiet", "--to", f"done{ending}")
        for ending in (".csv", ".xlsx", ".parquet", ".jsonl")
    },
    "export --citations": ("export", *JOB, "--quiet", "--citations", "cited.csv"),
    "schedule": ("schedule", *JOB, "--at", "02:00", "--as", "cron"),
}


@dataclass(frozen=True)
class Figure:
    """A command's CPU seconds and peak memory. The other release's are None if there is none."""

    name: str
    cpu_s: float
    rss_mb: float
    other_cpu_s: float | None = None
    other_rss_mb: float | None = None

    def __str__(self) -> str:
        line = f"{self.name:20} {self.cpu_s:6.2f} CPU s {self.rss_mb:5.0f} MB"
        if self.other_cpu_s is None or self.other_rss_mb is None:
            return line
        return (
            f"{line}   the other: {self.other_cpu_s:6.2f} CPU s {self.other_rss_mb:5.0f} MB   "
            f"{self.cpu_s / self.other_cpu_s:4.2f} of its CPU, "
            f"{self.rss_mb / self.other_rss_mb:4.2f} of its memory"
        )


@dataclass(frozen=True)
class Release:
    """A release and the folder where it works. `words` start its command line."""

    words: tuple[str, ...]
    folder: Path

    def call(self, *arguments: str) -> Used:
        """Runs a command to its end and measures it. It must succeed."""
        return used(self._command(*arguments))

    def rehearse(self) -> None:
        """Makes the job and runs it. Some of its rows fail on purpose."""
        (self.folder / "jobs").mkdir(parents=True)
        shutil.copytree(ROOT / "data", self.folder / "data")
        shutil.copy(ROOT / "jobs" / "products.yaml", self.folder / "jobs")
        command = self._command("run", *JOB, "--quiet")
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode not in (OK, FAILED_ROWS, AMBIGUOUS_ROWS):
            sys.exit(f"{command} ended with exit code {done.returncode}: {done.stderr}")

    def _command(self, *arguments: str) -> list[str]:
        # Python compiles each module once and keeps it, as on a user's machine.
        clean = ("env", "-u", "PYTHONDONTWRITEBYTECODE", "-C", str(self.folder / "jobs"))
        return [*clean, *self.words, *arguments]


def release(place: Path, folder: Path) -> Release:
    """The release at `place`: a checkout, or the Python of an environment."""
    place = place.absolute()
    if not place.is_dir():
        return Release((str(place), "-m", "pipeline"), folder)
    # The path of a checkout comes before the release that this environment has installed.
    return Release((f"PYTHONPATH={place}", sys.executable, "-m", "pipeline"), folder)


def middle(name: str, ours: list[Used], others: list[Used]) -> Figure:
    def of(spent: list[Used]) -> tuple[float, float]:
        cpu_s = statistics.median(one.cpu_s for one in spent)
        return cpu_s, statistics.median(one.rss_mb for one in spent)

    return Figure(name, *of(ours), *(of(others) if others else ()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--other", type=Path, help="A checkout, or the Python of an environment.")
    parser.add_argument("--times", type=int, default=7, help="How often to run each command.")
    options = parser.parse_args()
    figures: list[Figure] = []
    with tempfile.TemporaryDirectory() as folder:
        releases = [release(ROOT, Path(folder, "this"))]
        if options.other is not None:
            releases.append(release(options.other, Path(folder, "other")))
        for one in releases:
            one.rehearse()
        for name, arguments in COMMANDS.items():
            for one in releases:
                one.call(*arguments)  # the first call writes Python's compiled modules
            turns = [[one.call(*arguments) for one in releases] for _ in range(options.times)]
            ours, *others = (list(spent) for spent in zip(*turns, strict=True))
            figures.append(middle(name, ours, others[0] if others else []))
            print(figures[-1], flush=True)
    if options.other is not None:
        keep("commands", figures, rows=260)


if __name__ == "__main__":
    main()
