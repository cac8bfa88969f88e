"""People review workbooks, change settings and review at the same time. Each decision stands."""

from __future__ import annotations

import json
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import openpyxl
import pytest

import pipeline
from tests.conftest import Job, SandboxProcess

ROWS = [["A1", "one"], ["A2", "two"], ["A3", "three"]]
SPEC = {"variables": {"story": "story"}, "id": "sku"}


def stories(sandbox: SandboxProcess) -> Counter[str]:
    found: Counter[str] = Counter()
    for body, times in sandbox.billed().items():
        found[json.loads(body)["story"]] += times
    return found


def decided(job: Job) -> dict[str, str | None]:
    return {row.id: row.review for row in pipeline.show_job(pipeline.find_job(job.spec))}


@pytest.fixture
def workbook(sandbox, make_job) -> Job:
    """A job whose sheet is the second worksheet of a workbook, with a title above its header."""
    book = openpyxl.Workbook()
    book.active.append(["Read the second worksheet."])
    data = book.create_sheet("Data")
    for line in (["Campaign"], [], ["sku", "story"], *ROWS):
        data.append(line)
    job = make_job(sandbox.url)
    book.save(job.folder / "in.xlsx")
    job.write_spec(**SPEC, input="in.xlsx", sheet="Data", header_row=3)
    job.run()
    return job


def approved_in(job: Job, ending: str) -> openpyxl.Workbook:
    """Exports a review sheet, approves its first answer, and returns the workbook."""
    sheet = job.folder / f"review{ending}"
    assert job.call("export", "--review", str(sheet)).returncode == 0
    book = openpyxl.load_workbook(sheet)
    data = book["Data"]
    names = [cell.value for cell in data[3]]
    data.cell(4, names.index("_review") + 1).value = "approved"
    return book


@pytest.mark.parametrize("change", ["none", "renamed", "notes", "gone"])
def test_the_review_sheet_of_a_workbook_with_several_worksheets_comes_back(workbook, change):
    """Also after its worksheets were renamed, others were added, or the others were deleted."""
    book = approved_in(workbook, ".xlsx")
    if change == "renamed":
        book["Data"].title = "Reviewed by Ann"
    elif change == "notes":
        book.create_sheet("Notes", 0).append(["_review", "my notes"])
    elif change == "gone":
        for name in set(book.sheetnames) - {"Data"}:
            del book[name]
    book.save(workbook.folder / "back.xlsx")
    done = workbook.call("review", "--from", str(workbook.folder / "back.xlsx"))
    assert "Decisions saved: 1 approved." in done.stderr, done.stderr
    assert decided(workbook) == {"A1": "approved", "A2": None, "A3": None}


def test_two_worksheets_with_decisions_are_refused(workbook):
    """The message says what to delete. No worksheet with the columns is no review sheet."""
    book = approved_in(workbook, ".xlsx")
    book.copy_worksheet(book["Data"])
    book.save(workbook.folder / "back.xlsx")
    done = workbook.call("review", "--from", str(workbook.folder / "back.xlsx"))
    assert done.returncode == 2
    assert "the worksheets Data, Data Copy have the same columns of decisions" in done.stderr
    assert "sheet:" not in done.stderr
    done = workbook.call("review", "--from", str(workbook.folder / "in.xlsx"))
    assert done.returncode == 2
    assert "this is not a review sheet of this job" in done.stderr
    assert set(decided(workbook).values()) == {None}


@pytest.mark.parametrize("ending", [".csv", ".tsv"])
def test_the_text_review_sheet_of_a_workbook_comes_back(workbook, ending):
    """Its column names are in the first line, whatever `sheet:` and `header_row:` say."""
    sheet = workbook.folder / f"review{ending}"
    workbook.call("export", "--review", str(sheet))
    mark = "," if ending == ".csv" else "\t"
    lines = sheet.read_text("utf-8-sig").splitlines()
    lines[1] = lines[1].removesuffix(2 * mark) + f"{mark}rejected{mark}"
    sheet.write_text("\n".join(lines), "utf-8-sig")
    done = workbook.call("review", "--from", str(sheet))
    assert "Decisions saved: 1 rejected." in done.stderr, done.stderr


def test_rows_that_shared_an_approved_answer_are_not_paid_after_dedupe_is_off(sandbox, make_job):
    """Each of them keeps the answer, also the row that the person named, until it is reset."""
    rows = [[f"A{n}", "same"] for n in range(1, 4)]
    job = make_job(sandbox.url, ["sku", "story"], rows, **SPEC, dedupe=True)
    job.run()
    assert job.call("review", "--rows", "2", "--approve", "--yes").returncode == 0
    job.write_spec(**SPEC)
    for options in ((), (), ("--again", "all", "--yes")):
        job.call("run", *options)
        assert stories(sandbox) == {"same": 1}, options
    assert decided(job) == {"A1": "approved", "A2": "approved", "A3": "approved"}
    assert job.call("review", "--rows", "1-3", "--reset").returncode == 0
    job.run()
    assert stories(sandbox) == {"same": 3}
    assert job.call("verify").returncode == 0


def filled(job: Job, word: str, edit: str = "") -> Path:
    """Returns a review sheet with one decision for every answer."""
    sheet = job.folder / f"{word or 'none'}.csv"
    assert job.call("export", "--review", str(sheet), "--force").returncode == 0
    lines = sheet.read_text("utf-8-sig").splitlines()
    decided = [line.removesuffix(",,") + f",{word},{edit}" for line in lines[1:]]
    sheet.write_text("\n".join([lines[0], *decided]), "utf-8-sig")
    return sheet


def test_of_sheets_that_are_taken_at_once_one_wins(sandbox, make_job):
    """No other sheet undoes it: whoever wrote that one has not seen the decision."""
    job = make_job(sandbox.url, ["sku", "story"], ROWS, **SPEC)
    job.run()
    found = pipeline.find_job(job.spec)

    def taken(sheet: Path) -> str | None:
        start.wait()
        try:
            pipeline.review_from(found, sheet)
        except pipeline.Refused:
            return None
        return sheet.stem

    for _ in range(5):
        sheets = [filled(job, word) for word in ("approved", "rejected")]
        start = threading.Barrier(6)
        with ThreadPoolExecutor(6) as reviewers:
            won = set(reviewers.map(taken, sheets * 3)) - {None}
        assert len(won) == 1, won
        assert set(decided(job).values()) == won
        pipeline.review_job(found, "reset")


def test_an_old_sheet_of_many_reviewed_answers_is_read_in_linear_time(sandbox, make_job):
    """Each line asks for the decisions that its sheet knew. That must not read all of them."""
    rows = [[f"A{n}", f"story {n}"] for n in range(1000)]
    job = make_job(sandbox.url, ["sku", "story"], rows, **SPEC)
    job.run()
    sheet = filled(job, "approved")
    first, again = (job.measured("review", "--from", str(sheet)) for _ in range(2))
    assert again.cpu_s < 2 * first.cpu_s + 1
    assert set(decided(job).values()) == {"approved"}


def test_an_edit_of_spaces_is_no_edit(sandbox, make_job):
    """Nobody sees them in the cell, and the answer would be gone from the export."""
    job = make_job(sandbox.url, ["sku", "story"], ROWS, **SPEC)
    job.run()
    before = job.export()["result"].tolist()
    done = job.call("review", "--from", str(filled(job, "", " \t")))
    assert "Decisions saved: none. Lines without one: 3." in done.stderr, done.stderr
    assert job.export()["result"].tolist() == before
    done = job.call("review", "--from", str(filled(job, "edited", " ")))
    assert "edited, but without a text" in done.stderr, done.stderr


def test_the_report_names_no_command_for_answers_that_a_review_keeps(sandbox, make_job):
    """`run --again` refuses to ask for them, so the report shows them."""
    job = make_job(sandbox.url, ["sku", "story"], ROWS)
    job.write_spec(**SPEC, columns={"title": "$.title"})
    job.run()
    again = "--again not_json"
    assert job.call("review", "--rows", "1-2", "--approve").returncode == 0
    assert again in job.call("report").stdout
    assert job.call("review", "--rows", "3", "--approve").returncode == 0
    report = job.call("report").stdout
    assert again not in report
    assert "--flag not_json" in report
