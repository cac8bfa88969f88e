"""A night that takes the first rows of a long sheet from its last copy sends only what is new."""

from __future__ import annotations

import json
from collections import Counter

import pyarrow.parquet as pq

from tests.conftest import Job, SandboxProcess

# Less than a batch, and two million characters: marks are a million characters apart.
ROWS, PADDING = 600, " and more" * 400


def test_each_row_is_billed_once_whatever_of_the_sheet_changes(start_sandbox, make_job):
    sandbox = start_sandbox()
    rows = [[f"story {n}{PADDING}"] for n in range(ROWS)]
    job = make_job(sandbox.url, rows=rows)
    assert night(sandbox, job, rows) == 1
    texts = {text for [text] in rows}

    rows += [["a new story"], ["another new story"]]
    assert night(sandbox, job, rows) == 2
    rows[5] = ["a changed story"]
    assert night(sandbox, job, rows) == 1
    rows[ROWS - 1] = ["a changed story near the end"]
    assert night(sandbox, job, rows) == 2
    del rows[:3]
    assert night(sandbox, job, rows) == 1

    texts |= {text for [text] in rows}
    billed = Counter(json.loads(body)["story"] for body in sandbox.billed())
    assert billed == Counter(texts)
    assert set(sandbox.billed().values()) == {1}
    assert job.call("verify").returncode == 0


def night(sandbox: SandboxProcess, job: Job, rows: list[list[str]]) -> int:
    """Runs the job, after which nothing is left to send. Returns the parts of the copy of the
    sheet: one, and another where the rows of the earlier copy end."""
    job.write_sheet(["story"], rows)
    done = job.run()
    assert (done["rows"], done["ok"]) == (len(rows), len(rows))
    before, copy = sandbox.billed(), job.output / "input.parquet"
    parts = int(pq.read_metadata(copy).num_row_groups)
    assert json.loads(job.call("check", "--json").stdout)["to_send"] == 0
    job.run()
    assert sandbox.billed() == before
    return parts
