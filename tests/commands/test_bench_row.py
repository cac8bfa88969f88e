"""`make bench-row`, with a valgrind that counts by a formula."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

TOP = Path(__file__).parents[2]
# 7 million for the start and 1,577,123 for each row, in the form of valgrind's own report.
COUNTING = f"""#!{sys.executable}
import sys
from pathlib import Path

[spec] = [Path(word) for word in sys.argv if word.endswith("job.yaml")]
rows = len((spec.parent / "sheet.csv").read_text().splitlines()) - 1
print(f"==7== I   refs:      {{7_000_000 + 1_577_123 * rows:,}}", file=sys.stderr)
"""


def bench(programs: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Runs the benchmark where only the programs of one folder can be found."""
    return subprocess.run(
        [sys.executable, "benchmarks/row.py", *options],
        cwd=TOP,
        env=os.environ | {"PATH": str(programs)},
        capture_output=True,
        text=True,
    )


def valgrind(folder: Path, source: str) -> None:
    program = folder / "valgrind"
    program.write_text(source)
    program.chmod(0o755)


def test_the_instructions_of_a_row_are_those_of_two_runs_without_the_start(tmp_path):
    """They are compared with those of another checkout."""
    valgrind(tmp_path, COUNTING)
    done = bench(tmp_path, "--other", str(TOP))
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("1,577 thousand instructions per row") == 2
    assert done.stdout.endswith("this one takes 1.000 of the other's\n")


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (None, "This needs valgrind"),
        ("#!/bin/sh\necho cannot open the file >&2", "cannot open the file"),
        ("#!/bin/sh\necho no such module >&2; exit 1", "no such module"),
    ],
)
def test_without_a_count_the_benchmark_ends_with_the_reason(tmp_path, source, said):
    """A machine without valgrind, a valgrind that counts nothing, and a run that fails."""
    if source is not None:
        valgrind(tmp_path, source)
    done = bench(tmp_path)
    assert done.returncode == 1
    assert said in done.stderr
    assert "per row" not in done.stdout
