"""failures.csv and the groups of a report, made row by row in one reading of the ledger."""

from __future__ import annotations

import csv
import io
import random
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import pipeline
from pipeline.core.errors import StorageFailed
from pipeline.core.model import State
from pipeline.inputs.stored import snapshot_schema
from pipeline.ledger.queries import Unfinished
from pipeline.results.failures_csv import ADDED_COLUMNS, failures_csv
from pipeline.results.formulas import unformulaic
from tests.conftest import Job

NAUGHTY = [
    "plain",
    "",
    'a "quote"',
    "a,b",
    "two\nlines",
    "cr\r\n",
    "=1+1",
    "-x",
    "\tx",
    "é🐕\u2028",
]
TIMES = [0.0, 1.7e9, 1_699_999_999.9999998, 1.9999999, 1_790_000_000.0005, 1_790_000_000.9999996]

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


def test_each_row_is_written_next_to_its_own_cells(job):
    """The first row of the sheet, one in the middle, and the one before the last."""
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


def test_rows_that_the_sheet_does_not_have_are_read_but_not_written(job):
    """A caller that counts the rows sees each of them."""
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


def test_without_the_copy_of_the_sheet_the_report_still_has_its_groups(job):
    """failures.csv does not change."""
    before = (job.output / "failures.csv").read_bytes()
    (job.output / "input.parquet").unlink()
    groups = pipeline.report_job(pipeline.find_job(job.spec)).groups
    assert sum(group.count for group in groups) == 3
    assert (job.output / "failures.csv").read_bytes() == before


def test_the_file_is_the_same_as_from_pythons_csv_and_datetime(tmp_path):
    """Also where batches meet, for cells that need quotes, and for times that are hard to round."""
    chance = random.Random(3)
    cells = [chance.choice(NAUGHTY) + str(number) for number in range(5000)]
    sheet = tmp_path / "sheet.parquet"
    write_sheet(sheet, ["_row", "a,b", "row"], [cells, cells[::-1], cells])
    rows = [
        unfinished(number)._replace(
            state=chance.choice([State.FAILED, State.AMBIGUOUS, State.PENDING, State.SENDING]),
            code=chance.choice([None, "gateway", 'a "code"']),
            message=chance.choice(NAUGHTY),
            http_status=chance.choice([None, 504]),
            maybe_paid=chance.random() < 0.5,
            sent_at=chance.choice(TIMES) + chance.choice([0, chance.random()]),
        )
        for number in sorted(chance.sample(range(1, 5001), 3500))
    ]
    expected = io.StringIO(newline="")
    writer = csv.writer(expected)
    writer.writerow(["a,b", "row", *ADDED_COLUMNS])
    for row in rows:
        place = row.sheet_row - 1
        guard = "'" if unformulaic(row.message) != row.message else ""
        sent = datetime.fromtimestamp(row.sent_at, UTC).isoformat(timespec="milliseconds")
        status, paid = row.http_status or "", "yes" if row.maybe_paid else "no"
        told = [row.sheet_row, str(row.state), row.code or "", guard + row.message, status]
        own = [cells[::-1][place], cells[place]]
        writer.writerow([*own, *told, row.attempts, paid, sent, ""])
    assert b"".join(failures_csv(sheet, rows)) == expected.getvalue().encode()


def test_memory_never_holds_more_rows_than_a_batch_of_the_sheet(tmp_path):
    """Each piece of the file is written before the rows after its batch are read."""
    cells = ["x"] * 9000
    sheet = tmp_path / "sheet.parquet"
    write_sheet(sheet, ["a"], [cells])
    taken = 0

    def rows() -> Iterator[Unfinished]:
        nonlocal taken
        for taken in range(1, 9001):
            yield unfinished(taken)

    written = 0
    for piece in failures_csv(sheet, rows()):
        written += piece.count(b"\r\n")
        assert taken - (written - 1) <= 2001


def test_an_altered_ledger_is_reported_and_failures_csv_does_not_change(job):
    """Although the report has read the altered row before."""
    failures, ledger = job.output / "failures.csv", job.output / "ledger.sqlite"
    before = failures.read_bytes()
    content = ledger.read_bytes()
    assert b"Request blocked" in content
    ledger.write_bytes(content.replace(b"Request blocked", b"Request BLOCKED"))
    with pytest.raises(StorageFailed, match="the record of an attempt"):
        pipeline.report_job(pipeline.find_job(job.spec))
    assert failures.read_bytes() == before
    assert not list(job.output.glob(".failures*"))


def test_failures_csv_can_be_the_sheet_of_another_job(job):
    """That job skips its ambiguous rows."""
    sheet = job.output / "failures.csv"
    spec = re.sub(r"(?m)^(input|output): .*\n", "", job.spec.read_text(encoding="utf-8"))
    other = job.spec.with_name("other.yaml")
    other.write_text(f"{spec}\ninput: {sheet}\noutput: other-folder\n", encoding="utf-8")
    checked = pipeline.check_job(pipeline.find_job(other))
    assert (checked.rows, checked.to_send, checked.skipped) == (3, 2, 1)


def write_sheet(path: Path, columns: list[str], cells: list[list[str]]) -> None:
    """Writes a copy of a sheet as a run does."""
    size = len(cells[0])
    schema = snapshot_schema(tuple(columns), {"columns": columns})
    own = [range(1, size + 1), ["0"] * size, [None] * size]
    arrays = [pa.array(c, field.type) for c, field in zip([*cells, *own], schema, strict=True)]
    pq.write_table(pa.Table.from_arrays(arrays, schema=schema), path)


def unfinished(number: int) -> Unfinished:
    """A failed row with this number in the sheet."""

    return Unfinished(
        number, number, State.FAILED, "code", "", 400, 1, False, 1.0, False, False, True
    )
