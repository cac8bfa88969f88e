"""Measures the answers of the page for a job of many rows, next to another release.

    python benchmarks/page.py [--rows 1000000] [--other CHECKOUT] [--folder DIR] [--times 7]

The job is that of `benchmarks/report.py`, with one row in 50 not ok. Each release has its own
process, which draws the screens as the page does. "First" is the first drawing in that process, and
for the rows the time until the index is there. The others are medians of later drawings. Each
release draws a screen once more at most 60 s after it began with it.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from measure import ROOT, keep
from report import fill, make_job

SCREENS = {
    "job": {},
    "rows": {},
    "rows, last page": {"page": "LAST"},
    "rows, status": {"status": "failed"},
    "rows, code": {"code": "timeout"},
    "rows, id": {"id": "ID"},
    "rows, review": {"review": "approved"},
    "rows, flag": {"flag": "repeated"},
    "rows, text": {"text": "dog number 47"},
    "rows, text of a column": {"text": "dog number 47", "column": "story"},
}
# Another release may not have the filters by flag and text: it would show all rows instead.
DRAWING = """
import json, sys, time
from pathlib import Path
from pipeline.job.job import find_job
from pipeline.ui import rows_page
from pipeline.ui.job_page import Pace, Shown, live_part

job, times, screens = find_job(Path(sys.argv[1])), int(sys.argv[2]), json.loads(sys.argv[3])
shown = Shown("job.yaml", job)
try:
    from pipeline.show.finder import Finder
    more, new = [Finder(job)], True
except ImportError:
    more, new = [], False

def draw(name, fields):
    if name == "job":
        return live_part(job, Pace()).source
    wanted = rows_page.Filter.of_fields(fields)
    text = rows_page.rows_page(shown, wanted, *more)
    while "is being made" in text:
        text = rows_page.rows_page(shown, wanted, *more)
    return text

for name, fields in screens.items():
    if not new and any(word in fields for word in ("flag", "text", "column")):
        continue
    spent, begun = [], time.monotonic()
    for _ in range(times + 1):
        if spent and time.monotonic() - begun > 60:
            break
        at, cpu = time.monotonic(), time.process_time()
        draw(name, fields)
        spent.append((time.monotonic() - at, time.process_time() - cpu))
    print(json.dumps([name, spent]), flush=True)
"""


@dataclass(frozen=True)
class Figure:
    """Seconds for one screen: the first time, and the median of the later ones. The other release's
    are None without one, and without such a filter."""

    name: str
    first_s: float
    later_s: float
    other_later_s: float | None = None

    def __str__(self) -> str:
        line = f"{self.name:24} first {self.first_s:7.2f} s, then {self.later_s * 1000:8.0f} ms"
        if self.other_later_s is None:
            return line
        ratio = self.later_s / self.other_later_s
        return f"{line}   the other: {self.other_later_s * 1000:8.0f} ms   ratio {ratio:.4f}"


def drawn(checkout: Path, spec: Path, times: int, rows: int) -> dict[str, list[float]]:
    """Draws every screen. Returns the seconds of each time."""
    with (spec.parent / "sheet.csv").open(newline="") as sheet:
        [id_of_a_row, *_] = next(islice(csv.reader(sheet), rows // 2, None))
    values = {"LAST": str(-(-rows // 50)), "ID": id_of_a_row}
    screens = {
        name: {key: values.get(value, value) for key, value in fields.items()}
        for name, fields in SCREENS.items()
    }
    command = [sys.executable, "-c", DRAWING, str(spec), str(times), json.dumps(screens)]
    done = subprocess.run(
        command,
        env=os.environ | {"PYTHONPATH": str(checkout)},
        cwd=spec.parent,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    lines = map(json.loads, done.stdout.splitlines())
    return {name: [wall_s for wall_s, _ in spent] for name, spent in lines}


def prepared(folder: Path, rows: int) -> Path:
    """The job file of a filled run folder, which is made unless it is there."""
    spec = folder / "job.yaml"
    if not spec.exists():
        folder.mkdir(parents=True, exist_ok=True)
        make_job(folder, rows)
        with spec.open("a") as file:
            file.write("id: story\n")
        from pipeline.job.job import find_job

        fill(find_job(spec), rows, 50)
    shutil.rmtree(folder / "runs" / "nights" / "index", ignore_errors=True)
    return spec


def measure(spec: Path, options: argparse.Namespace) -> list[Figure]:
    ours = drawn(ROOT, spec, options.times, options.rows)
    others = drawn(options.other, spec, options.times, options.rows) if options.other else {}
    figures = []
    for name, spent in ours.items():
        other = others.get(name)
        # One drawing of the other release may take all of its time.
        later_s = statistics.median(other[1:] or other) if other else None
        figures.append(Figure(name, spent[0], statistics.median(spent[1:] or spent), later_s))
        print(figures[-1], flush=True)
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--other", type=Path, help="A checkout of another release.")
    parser.add_argument("--folder", type=Path, help="Make the job here, or use the one here.")
    parser.add_argument("--times", type=int, default=7, help="How often to draw each screen again.")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        spec = prepared(options.folder or Path(made, "job"), options.rows)
        keep("page", measure(spec.resolve(), options), rows=options.rows)


if __name__ == "__main__":
    main()
