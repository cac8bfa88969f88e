"""Finished rows are found by their places at once, and rows that moved by their names one by one.

Whatever changes between two runs, both ways send the same requests. Turning the sheet upside down
leaves no row in its place, so that run takes the second way.
"""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

COLUMNS = ["id", "story", "tone", "wanted"]
ROWS = [
    ["1", "a dog", "kind", "yes"],
    ["2", "a cat", "kind", "yes"],
    ["3", "a dog", "kind", "yes"],
    ["4", "a bird", "", "yes"],
    ["5", "a cow", "rude", "no"],
    ["6", "a cow #fault:blocked", "rude", "yes"],
    ["7", " a hen ", "rude", "yes"],
    ["8", "a dog", "kind", "no"],
    ["9", "an ant", "kind", "yes"],
]
FIRST = {"variables": {"story": "story", "tone": "tone"}, "empty": "send"}
# What may decide a row's key, its number among equal rows, or whether it is sent.
CHANGES = {
    "nothing": {},
    "the workflow": {"workflow": "wf_product"},
    "a variable": {"variables": {"text": "story", "tone": "tone"}},
    "the column of a variable": {"variables": {"story": "story", "tone": "wanted"}},
    "one variable less": {"variables": {"story": "story"}},
    "a constant": {"constants": {"voice": "loud"}},
    "where": {"where": [{"column": "wanted", "equals": "yes"}]},
    "empty": {"empty": "skip"},
    "dedupe": {"dedupe": True},
    "id": {"id": "id"},
    "encoding": {"encoding": "utf-8"},
    "separator": {"separator": ","},
}


def edited() -> list[list[str]]:
    """Edits two rows, the first of them into an equal one of row 4, which stays in its place. Also
    removes, inserts and repeats a row."""
    rows = [list(row) for row in ROWS]
    rows[1][1:3] = "a bird", ""
    rows[6][1] = "a hen with a hat"
    return [*rows[:5], ["10", "new", "kind", "yes"], *rows[6:], ["11", *rows[8][1:]]]


@pytest.mark.parametrize("changed", CHANGES)
def test_both_ways_send_the_same_requests(start_sandbox, make_job, changed):
    books = []
    for upside_down in (False, True):
        sandbox = start_sandbox()
        name = f"job-{upside_down}"
        job = make_job(sandbox.url, COLUMNS, ROWS, name=name, **FIRST)
        job.run(expect=3)
        rows = edited()
        job.write_sheet(COLUMNS, rows[::-1] if upside_down else rows)
        job.write_spec(**{"name": name, **FIRST, **CHANGES[changed]})
        done = job.call("run", "--json", "--yes", "--accept-changes")
        assert done.returncode in (0, 3), done.stderr
        books.append(
            (sandbox.billed(), counts(done.stdout), answers(job.folder / f"runs/{name}/results"))
        )
    assert books[0] == books[1]


def counts(output: str) -> dict[str, int]:
    said = json.loads(output.splitlines()[-1])
    return {state: said[state] for state in ("rows", "ok", "failed", "ambiguous", "skipped")}


def answers(results: Path) -> list[tuple[str, str]]:
    """Returns key and variables of each answer in the results."""
    found = pd.read_parquet(results)
    return sorted(zip(found["row_key"], found["variables"], strict=True))
