"""Rows are named as the user's program names them, and by their id, wherever they are named."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import openpyxl
import pandas as pd
import pyarrow.parquet as pq
import pytest

import pipeline
from pipeline.inputs.row_names import RowNames, row_names
from tests.conftest import Job

STORIES = ["fine", "#fault:blocked", "also fine", "third\nline", "#fault:html-504-billed x"]


def workbook(path: Path, stories: list[str], *, blank_before: int = 0) -> None:
    """A sheet of which the header is in row 4, as below a title."""
    book = openpyxl.Workbook()
    page = book.active
    assert page is not None
    page.title = "Ideas"
    for _ in range(3 + blank_before):
        page.append([])
    page.append(["SKU", "story"])
    for number, story in enumerate(stories, start=1):
        page.append([f"S-{number}", story])
    book.save(path)


def comma_separated(path: Path, stories: list[str]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerows([["SKU", "story"], *([f"S-{n}", s] for n, s in enumerate(stories, 1))])


def json_lines(path: Path, stories: list[str]) -> None:
    lines = (json.dumps({"SKU": f"S-{n}", "story": s}) for n, s in enumerate(stories, 1))
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def parquet(path: Path, stories: list[str]) -> None:
    names = [f"S-{number}" for number in range(1, len(stories) + 1)]
    pd.DataFrame({"SKU": names, "story": stories}).to_parquet(path)


# Row 4 of the text file has two lines, so row 5 begins in line 7.
KINDS: dict[str, tuple[Callable[[Path, list[str]], None], str, str, str]] = {
    ".xlsx": (workbook, "row 2 (Ideas row 6{})", "row 5 (Ideas row 9{})", "Ideas row 6"),
    ".csv": (comma_separated, "row 2 (line 3{})", "row 5 (line 7{})", "line 3"),
    ".jsonl": (json_lines, "row 2{}", "row 5{}", "line 2"),
    ".parquet": (parquet, "row 2{}", "row 5{}", "row 2"),
}


def job_of(make_job: Callable[..., Job], url: str, ending: str, **spec: object) -> Job:
    job = make_job(url)
    job.sheet = job.sheet.with_suffix(ending)
    KINDS[ending][0](job.sheet, STORIES)
    job.write_spec(variables={"story": "story"}, retries=0, **spec)
    return job


@pytest.mark.parametrize("ending", KINDS)
@pytest.mark.parametrize("with_ids", [False, True])
def test_reports_and_failures_name_a_row_as_the_users_program_does(
    sandbox, make_job, ending, with_ids
):
    """With the row number first, which --rows takes, unless both are equal."""
    job = job_of(make_job, sandbox.url, ending, **({"id": "SKU"} if with_ids else {}))
    _, blocked, lost, place = KINDS[ending]
    between = ", " if "(" in blocked else " ("
    second, fifth = (f"{between}SKU {sku}" if with_ids else "" for sku in ("S-2", "S-5"))
    closing = ")" if with_ids and "(" not in blocked else ""
    blocked = blocked.format(second) + closing
    lost = lost.format(fifth) + closing
    job.run(expect=5)
    said = job.call("report").stdout
    assert f"1 failed request_blocked: {blocked}\n" in said
    assert f"1 maybe paid: {lost}\n" in said
    page = (job.output / "report.html").read_text(encoding="utf-8")
    assert f"1 failed request_blocked: {blocked}" in page
    assert f"R{blocked[1:]}" in page
    with (job.output / "failures.csv").open(encoding="utf-8", newline="") as file:
        [first, _] = csv.DictReader(file)
    assert (first["_row"], first["_place"]) == ("2", place)
    assert list(first)[-1] == "_place"


def test_questions_and_refusals_name_the_rows_and_say_which_number_counts(sandbox, make_job):
    """The numbers of --rows are those that stand first."""
    job = job_of(make_job, sandbox.url, ".xlsx", id="SKU")
    job.run(expect=5)
    names = "rows 1, 3 (Ideas rows 5, 7; SKU S-1, S-3)"
    said = job.call("run", "--again", "1,3").stderr
    assert f"2 rows with an answer would be sent and paid again: {names}." in said
    said = job.call("resume", "--ambiguous").stderr
    assert "would be sent again: row 5 (Ideas row 9, SKU S-5)." in said
    for verb in ("resume", "settle"):
        done = job.call(verb, "--rows", "9")
        assert done.returncode == 2
        assert "has 5 data rows. Row 1 is the first row below the column names" in done.stderr
        assert "the last is row 5 (Ideas row 9)." in done.stderr
    for verb in ("resume", "settle", "check"):
        said = " ".join(job.call(verb, "--help").stdout.split())
        assert "--rows ROWS Rows such as 3,7-9: row 1 is the first below the header." in said


def test_check_names_rows_too(sandbox, make_job):
    """The first requests, and the shortest and the longest text."""
    job = job_of(make_job, sandbox.url, ".xlsx", id="SKU")
    said = job.call("check").stdout
    assert '  row 1 (Ideas row 5, SKU S-1): {"story":"fine"}' in said
    assert "4 characters in row 1 (Ideas row 5, SKU S-1) to 24 in row 5 (Ideas row 9" in said
    assert "names" not in json.loads(job.call("check", "--json").stdout)


def test_the_log_of_a_run_has_no_ids_of_the_sheet(sandbox, make_job):
    """A notice of a run is logged, so it names rows by their numbers."""
    job = job_of(make_job, sandbox.url, ".xlsx", id="SKU")
    job.run(expect=5)
    assert job.call("settle", "--rows", "2").returncode == 0
    said = job.call("resume").stderr
    assert "gave up with `settle`: row 2 (Ideas row 6)." in said
    assert "S-2" not in (job.output / "log.jsonl").read_text(encoding="utf-8")


def test_rows_inserted_above_the_header_change_only_the_number_in_the_workbook(sandbox, make_job):
    """The rows are the same, and nothing is sent."""
    job = job_of(make_job, sandbox.url, ".xlsx", id="SKU")
    job.run(expect=5)
    workbook(job.sheet, STORIES, blank_before=2)
    done = job.run(expect=5)
    assert done["requests"] == 0
    assert "row 2 (Ideas row 8, SKU S-2)" in job.call("report").stdout


def test_a_hostile_id_acts_neither_on_a_page_nor_on_a_terminal(sandbox, make_job):
    """Ids are texts of the sheet."""
    job = make_job(sandbox.url)
    hostile = "<b>x</b>\x1b[31m\nsecond line " + "long " * 20
    job.write_sheet(["id", "story"], [[hostile, "#fault:blocked"], ["2", "fine"]])
    job.write_spec(variables={"story": "story"}, id="id")
    job.run(expect=3)
    said = job.call("report").stdout
    assert "\x1b" not in said
    [line] = [one for one in said.splitlines() if "1 failed request_blocked" in one]
    assert "second line long" in line
    assert len(line) < 120
    page = (job.output / "report.html").read_text(encoding="utf-8")
    assert "<b>x</b>" not in page
    assert "&lt;b&gt;x&lt;/b&gt;" in page


def test_only_the_parts_of_the_copy_with_named_rows_are_read(sandbox, make_job):
    """A sheet has a million rows, and a message names ten of them."""
    job = make_job(sandbox.url, rows=[[f"story {n}"] for n in range(9000)])
    job.run("--limit", "1")
    names = row_names(job.output / "input.parquet", [1, 4000, 9000])
    assert dict(names.places) == {1: 2, 4000: 4001, 9000: 9001}
    assert names.rows([1, 4000], 12) == "rows 1, 4000 and 10 more (lines 2, 4001)"


def test_a_copy_of_an_earlier_release_has_row_numbers_only(sandbox, make_job):
    """It has no column `place`, and is read all the same."""
    job = make_job(sandbox.url, columns=["story", "place"], rows=[["#fault:blocked", "here"]])
    job.run(expect=3)
    path = job.output / "input.parquet"
    table = pq.read_table(path)
    assert table.column_names == ["story", "sheet.place", "row", "row_key", "skipped", "place"]
    about = json.loads(table.schema.metadata[b"pipeline"])
    del about["place_word"], about["id_column"]
    earlier = table.drop_columns(["place"]).rename_columns(
        ["story", "place", "row", "row_key", "skipped"]
    )
    pq.write_table(earlier.replace_schema_metadata({"pipeline": json.dumps(about)}), path)
    assert row_names(path, [1]).row(1) == "row 1"


def test_rows_have_names_without_a_copy_of_the_sheet():
    """Their numbers."""
    assert row_names(None, [3]).rows([3, 4]) == "rows 3, 4"
    assert RowNames("line", {3: 3, 4: 4}).rows([3, 4]) == "rows 3, 4"
    assert RowNames("line", {3: 4}).rows([3, 7]) == "rows 3, 7"


def test_the_report_has_the_names_for_python(sandbox, make_job):
    """`names` is for messages, and the numbers stay numbers."""
    job = job_of(make_job, sandbox.url, ".xlsx")
    job.run(expect=5)
    report = pipeline.report_job(pipeline.find_job(job.spec))
    [first] = [group for group in report.groups if group.code == "request_blocked"]
    assert first.first_rows == (2,)
    assert report.names.rows(first.first_rows) == "row 2 (Ideas row 6)"
