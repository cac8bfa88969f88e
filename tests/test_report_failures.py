"""failures.csv and the groups of a report, made row by row from one reading of the ledger."""

from __future__ import annotations

import csv

import pytest

import pipeline
from pipeline.model import State
from pipeline.records import Unfinished
from pipeline.report.failures import failures_csv
from tests.conftest import Job

ROWS = [
    ["#fault:blocked first"],
    ["fine"],
    ["#fault:html-502"],
    ["fine too"],
    ["#fault:blocked last"],
    ["fine at the end"],
]


@pytest.fixture
def job(sandbox, make_job) -> Job:
    """Six rows, three of which are not ok."""
    job = make_job(sandbox.url, rows=ROWS)
    job.run(expect=5)
    return job


def test_each_row_stands_beside_its_own_cells(job):
    """The first of the sheet, one between, and one before the last."""
    job.output.joinpath("failures.csv").unlink()
    groups = pipeline.report_job(pipeline.find_job(job.spec)).groups
    assert [(g.code, g.count, g.first_rows) for g in groups] == [
        ("request_blocked", 2, (1, 5)),
        ("gateway", 1, (3,)),
    ]
    with (job.output / "failures.csv").open(encoding="utf-8", newline="") as file:
        found = list(csv.DictReader(file))
    assert [(row["story"], row["_row"], row["_error_code"]) for row in found] == [
        ("#fault:blocked first", "1", "request_blocked"),
        ("#fault:html-502", "3", "gateway"),
        ("#fault:blocked last", "5", "request_blocked"),
    ]


def test_rows_that_the_sheet_does_not_have_are_passed_over_and_taken_all_the_same(job):
    """So that whoever counts along sees each of them."""
    rows = [unfinished(number) for number in (0, 2, 6, 7, 900)]
    taken = []
    told = (taken.append(r) or r for r in rows)
    content = b"".join(failures_csv(job.output / "input.parquet", told))
    lines = list(csv.DictReader(content.decode().splitlines()))
    assert [(line["story"], line["_row"]) for line in lines] == [
        ("fine", "2"),
        ("fine at the end", "6"),
    ]
    assert taken == rows


def test_without_the_sheets_copy_the_groups_are_told_all_the_same(job):
    """failures.csv stays as it was."""
    before = (job.output / "failures.csv").read_bytes()
    (job.output / "input.parquet").unlink()
    groups = pipeline.report_job(pipeline.find_job(job.spec)).groups
    assert sum(group.count for group in groups) == 3
    assert (job.output / "failures.csv").read_bytes() == before


def unfinished(number: int) -> Unfinished:
    """A failed row at a place of the sheet."""

    return Unfinished(
        number, number, State.FAILED, "code", "", 400, 1, False, 1.0, False, False, True
    )
