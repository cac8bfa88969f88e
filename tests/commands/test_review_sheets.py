"""A review sheet goes out, is filled in, sorted and cut, and comes back whole or not at all."""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass
from pathlib import Path

import openpyxl
import pytest

import pipeline
from tests.conftest import Job, SandboxProcess

ROWS = [["A1", "one"], ["A2", "two"], ["A3", "three"], ["A4", "four"], ["A5", "#fault:blocked"]]


@dataclass
class Desk:
    """A job with four answers and one failed row, and a review sheet of some kind."""

    job: Job
    sheet: Path

    def write(self, expect: int = 0) -> str:
        done = self.job.call("export", "--review", str(self.sheet))
        assert done.returncode == expect, done.stderr
        return done.stderr

    def fill(self, **cells: tuple[str, str]) -> None:
        """Writes (`_review`, `_edit`) into the line of each sku, and turns the lines around."""
        rows = self.lines()
        for row in rows:
            if row["sku"] in cells:
                row["_review"], row["_edit"] = cells[row["sku"]]
        self.save([dict.fromkeys(rows[0]), *reversed(rows)])

    def lines(self) -> list[dict[str, str]]:
        if self.sheet.suffix == ".csv":
            with self.sheet.open(encoding="utf-8-sig", newline="") as file:
                return list(csv.DictReader(file))
        header, *rows = openpyxl.load_workbook(self.sheet).worksheets[0].values
        return [{n: v or "" for n, v in zip(header, row, strict=True)} for row in rows]

    def save(self, rows: list[dict[str, str]]) -> None:
        names, rows = list(rows[0]), rows[1:]
        if self.sheet.suffix == ".csv":
            with self.sheet.open("w", encoding="utf-8-sig", newline="") as file:
                writer = csv.DictWriter(file, names)
                writer.writeheader()
                writer.writerows(rows)
            return
        book = openpyxl.Workbook()
        book.active.append(names)
        for row in rows:
            book.active.append([row[name] for name in names])
        for cell in (cell for row in book.active for cell in row if cell.data_type == "f"):
            cell.data_type = "s"  # a text that looks like a formula stays one in Excel
        book.save(self.sheet)

    def take(self, expect: int = 0) -> str:
        done = self.job.call("review", "--from", str(self.sheet))
        assert done.returncode == expect, (done.returncode, done.stderr)
        return done.stderr

    def decided(self) -> dict[str, str | None]:
        found = pipeline.find_job(self.job.spec)
        return {row.id: row.review for row in pipeline.show_job(found) if row.answer is not None}


@pytest.fixture(params=["csv", "xlsx"])
def desk(sandbox: SandboxProcess, make_job, request) -> Desk:
    job = make_job(
        sandbox.url,
        ["sku", "story"],
        ROWS,
        variables={"story": "story"},
        id="sku",
        dedupe=True,
    )
    job.run(expect=3)
    made = Desk(job, job.folder / f"review.{request.param}")
    made.write()
    return made


def test_a_review_sheet_has_what_a_person_needs_to_judge(desk):
    """The sheet, the answer, its flags, and three columns for the decision. A row without an answer
    has none to name."""
    rows = desk.lines()
    assert list(rows[0])[:2] == ["sku", "story"]
    assert list(rows[0])[-3:] == ["_answer", "_review", "_edit"]
    assert "one" in rows[0]["result"]
    assert all(row["_answer"].startswith("a-") for row in rows[:4])
    assert (rows[4]["_answer"], rows[4]["_status"]) == ("", "failed")


def test_decisions_come_back_from_a_sorted_and_cut_sheet(desk, sandbox):
    """The shown answer is never read. A second reading of the file changes nothing."""
    rows = desk.lines()
    rows[0] |= {"_review": "approved", "result": "a text that nobody takes"}
    rows[1] |= {"_review": "approved", "_edit": "My own\ntext."}
    rows[2] |= {"_review": " Rejected "}
    desk.save([dict.fromkeys(rows[0]), *reversed(rows[:3])])
    assert "1 approved, 1 edited, 1 rejected" in desk.take()
    wanted = {"A1": "approved", "A2": "edited", "A3": "rejected", "A4": None}
    assert desk.decided() == wanted
    assert "saved: none" in desk.take()
    exported = desk.job.export().set_index("sku")["result"]
    assert exported["A2"] == "My own\ntext."
    assert "nobody" not in exported["A1"]
    desk.sheet.unlink()
    desk.write()
    assert [row["_review"] for row in desk.lines()][:4] == ["approved", "edited", "rejected", ""]
    assert "saved: none" in desk.take()
    assert desk.decided() == wanted
    desk.fill(A1=("reset", ""), A2=("", "Better."))
    desk.take()
    assert desk.decided() == wanted | {"A1": None}
    assert sum(sandbox.billed().values()) == 4


def test_a_sheet_with_a_wrong_line_is_refused_as_a_whole(desk):
    """The message has the line and the reason."""
    rows = desk.lines()
    other = rows[0]["_answer"]
    for changes, words in (
        ([{"_review": "aproved"}], 'Did you mean "approved"?'),
        ([{"_review": "edited"}], "edited, but without a text"),
        ([{"_review": "rejected", "_edit": "Mine."}], "rejected and an edit at once"),
        ([{"_answer": "", "_review": "approved"}], "a decision about a row without an answer"),
        ([{"_answer": "a-1", "_review": "approved"}], "is not as it was written"),
        ([{"_answer": f"a-{'0' * 32}-1-{'0' * 16}", "_review": "approved"}], "another run folder"),
        ([{"_answer": other.replace("-1-", "-77-"), "_review": "approved"}], "no such answer"),
        ([{"_answer": f"{other[:-16]}{'0' * 16}", "_review": "approved"}], "has changed since"),
        ([{"_review": "approved"}, {"_review": "rejected"}], " 2 about one answer"),
        ([{"_edit": "one"}, {"_edit": "two"}], " 2 about one answer"),
    ):
        lines = [rows[0] | change for change in changes]
        good = rows[1] | {"_review": "approved"}
        desk.save([dict.fromkeys(rows[0]), *lines, good])
        said = desk.take(expect=2)
        assert words in said, said
        assert " 2" in said
        assert "Nothing was saved." in said
        assert set(desk.decided().values()) == {None}


@pytest.mark.parametrize("desk", ["xlsx"], indirect=True)
def test_a_cell_without_a_certain_value_is_refused(desk):
    """A formula that no spreadsheet calculated has no value, and merged cells have one for many."""
    book = openpyxl.load_workbook(desk.sheet)
    sheet = book.worksheets[0]
    header = [cell.value for cell in sheet[1]]
    edit, review = (header.index(name) + 1 for name in ("_edit", "_review"))
    sheet.cell(2, edit).value = "=1+1"
    book.save(desk.sheet)
    said = desk.take(expect=2)
    assert "this cell has a formula that was never calculated" in said
    assert "Nothing was saved." in said
    sheet.cell(2, edit).value = None
    sheet.cell(2, review).value = "approved"
    sheet.merge_cells(start_row=2, end_row=4, start_column=review, end_column=review)
    book.save(desk.sheet)
    assert "these merged cells have only one value" in desk.take(expect=2)
    sheet.unmerge_cells(start_row=2, end_row=4, start_column=review, end_column=review)
    sheet.cell(2, header.index("result") + 1).value = "=1+1"
    book.save(desk.sheet)
    assert "1 approved" in desk.take()


def test_a_review_sheet_of_another_kind_is_refused_with_the_kinds_to_save(desk):
    other = desk.sheet.with_suffix(".ods")
    desk.sheet.rename(other)
    desk.sheet = other
    assert "save the review sheet as .xlsx or .csv. Nothing was saved." in desk.take(expect=2)


def test_a_sheet_that_is_older_than_a_decision_does_not_undo_it(desk):
    """Nor does one that is older than a new answer. Lines without a decision say nothing."""
    first = desk.lines()
    desk.job.call("review", "--id", "A1", "--approve")
    desk.sheet.unlink()
    desk.write()
    second = desk.lines()
    desk.job.call("review", "--id", "A1", "--reject")
    desk.save([dict.fromkeys(second[0]), *second])
    assert "saved: none" in desk.take()
    assert desk.decided()["A1"] == "rejected"
    desk.save([dict.fromkeys(first[0]), first[0] | {"_review": "approved"}])
    assert "a newer decision about this answer than the sheet knows" in desk.take(expect=2)
    assert desk.job.call("run", "--again", "2", "--yes").returncode in (0, 3)
    desk.save([dict.fromkeys(first[0]), first[1] | {"_review": "approved"}])
    assert "the answer has changed since the sheet was written" in desk.take(expect=2)
    assert desk.decided() == {"A1": "rejected", "A2": None, "A3": None, "A4": None}


def test_an_edit_that_looks_like_a_formula_or_is_long_comes_back_unchanged(desk):
    """A cell of a text file gets a ', and a long text is in a file next to the workbook."""
    texts = {"A1": '=HYPERLINK("x")', "A2": "long " * 10_000, "A3": "- a list\r\n- of lines"}
    file = desk.job.folder / "edit.txt"
    for name, text in texts.items():
        file.write_bytes(text.encode())
        assert desk.job.call("review", "--id", name, "--edit", str(file)).returncode == 0
    desk.sheet.unlink()
    desk.write()
    rows = desk.lines()
    desk.save([dict.fromkeys(rows[0]), *rows])
    assert "saved: none" in desk.take()
    exported = desk.job.export().set_index("sku")["result"]
    assert {name: exported[name] for name in texts} == texts


def test_a_sheet_without_the_columns_or_of_another_job_is_refused(desk, make_job, tmp_path):
    """Also one that is no sheet at all."""
    said = desk.job.call("review", "--from", str(desk.job.sheet))
    assert (said.returncode, "not a review sheet" in said.stderr) == (2, True), said.stderr
    missing = desk.job.call("review", "--from", str(tmp_path / "none.csv"))
    assert (missing.returncode, "Nothing was saved." in missing.stderr) == (2, True)


@pytest.mark.parametrize(
    "words",
    [
        ["--approve"],
        ["--rows", "1", "--approve", "--reject"],
        ["--rows", "1", "--approve", "--column", "x"],
        ["--from", "x.csv", "--rows", "1"],
        ["--from", "x.csv", "--approve"],
        ["--rows", "5", "--approve"],
        ["--rows", "9", "--approve"],
        ["--id", "nobody", "--approve"],
        ["--rows", "1-2", "--edit", "HERE"],
        ["--rows", "1", "--edit", "HERE", "--column", "x"],
        ["--rows", "1", "--edit", "missing.txt"],
    ],
)
def test_a_review_that_makes_no_sense_is_refused(sandbox, make_job, words):
    """Nothing is saved."""
    job = make_job(sandbox.url, ["sku", "story"], ROWS, variables={"story": "story"}, id="sku")
    job.run(expect=3)
    file = job.folder / "HERE"
    file.write_text("Mine.")
    done = job.call("review", *[word.replace("HERE", str(file)) for word in words])
    assert done.returncode == 2, done.stderr
    assert "Nothing was" in done.stderr
    assert not (job.output / "reviews.sqlite").exists()


def test_the_list_the_status_and_the_exports_have_the_decisions(sandbox, make_job):
    """As text and as JSON. A column's own edit wins over the answer and over a changed path."""
    answer = {"title": "text", "score": "number"}
    sandbox.publish("wf_mine", "{{story}}", answer=answer)
    job = make_job(sandbox.url, ["sku", "story"], ROWS[:4])
    columns = {"title": "$.title", "score": {"path": "$.score", "type": "number"}}
    spec = {"workflow": "wf_mine", "variables": {"story": "story"}, "id": "sku"}
    job.write_spec(columns=columns, **spec)
    job.run()
    file = job.folder / "edit.txt"
    file.write_text("not a number\n")
    edit = ["review", "--id", "A1", "--edit", str(file)]
    assert "type number" in job.call(*edit, "--column", "score").stderr
    assert job.call(*edit, "--column", "title").returncode == 0
    file.write_text('{"title": "whole", "score": 7}\n')
    assert job.call(*edit).returncode == 0
    job.call("review", "--id", "A2", "--edit", str(file))
    job.call("review", "--rows", "3", "--reject")
    job.call("review", "--rows", "4", "--approve")
    job.write_spec(columns=columns | {"title": "$.titles", "score": "$.scores"}, **spec)
    table = pipeline.read_results(job.spec).set_index("sku")
    assert table["title"].tolist()[0] == "not a number"
    assert table["_review"].tolist() == ["edited", "edited", "rejected", "approved"]
    assert table.loc["A1", "_flags"] == ["missing:score"]
    job.write_spec(columns=columns, **spec)
    table = pipeline.read_results(job.spec).set_index("sku")
    assert table.loc["A1", ["title", "score"]].tolist() == ["not a number", 7]
    assert table.loc["A2", ["title", "score"]].tolist() == ["whole", 7]
    assert table.loc["A2", "_flags"] == []
    paid = pipeline.read_results(job.spec, paid=True).set_index("sku")
    assert paid.loc["A2", "result"] != table.loc["A2", "result"]
    assert paid.loc["A1", "title"] != "not a number"
    listed = job.call("review").stdout
    assert "job: 1 approved, 2 edited, 1 rejected." in listed
    assert "row 3 (line 4, sku A3): rejected" in listed
    lines = [json.loads(line) for line in job.call("review", "--json").stdout.splitlines()]
    assert [line.get("review") for line in lines[:4]] == table["_review"].tolist()
    assert lines[-1] == {"reviews": {"approved": 1, "edited": 2, "rejected": 1}}
    assert "Reviews:  1 approved, 2 edited, 1 rejected" in job.call("status").stdout
    assert "Reviews:  1 approved, 2 edited, 1 rejected" in job.call("report").stdout
    page = (job.output / "report.html").read_text(encoding="utf-8")
    assert "Reviews:  1 approved, 2 edited, 1 rejected" in page
    assert job.status()["reviews"] == {"approved": 1, "edited": 2, "rejected": 1}
    shown = job.call("show", "--rows", "2").stdout
    assert "ok, edited" in shown
    assert "whole" in shown
    target = job.folder / "out.csv"
    job.call("export", "--to", str(target), "--add", "result,status,review")
    assert ",rejected\n" in target.read_text("utf-8-sig").replace("\r\n", "\n")
    found = pipeline.find_job(job.spec)
    assert [row.id for row in pipeline.read_reviews(found)] == ["A1", "A2", "A3", "A4"]
    pipeline.review_job(found, "reset", ids=["A1"], column="title")
    assert pipeline.read_results(job.spec).set_index("sku").loc["A1", "title"] == "whole"


def test_every_paid_version_is_exported_with_its_decision(sandbox, make_job):
    """A rejected answer stays, and its successor has no decision."""
    job = make_job(sandbox.url, ["sku", "story"], ROWS[:2], variables={"story": "story"}, id="sku")
    job.run()
    job.call("review", "--rows", "2", "--reject")
    job.run("--again", "rejected", "--yes")
    target = job.folder / "versions.csv"
    assert job.call("export", "--versions", str(target)).returncode == 0
    with target.open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    found = [(row["row"], row["id"], row["version"], row["review"]) for row in rows]
    assert found == [("1", "A1", "1", ""), ("2", "A2", "1", "rejected"), ("2", "A2", "2", "")]
    assert all(row["result"] for row in rows)


def test_rows_that_share_an_answer_are_named_and_confirmed(sandbox, make_job):
    """Under `dedupe: true` the decision is about the answer."""
    rows = [["A1", "same"], ["A2", "other"], ["A3", "same"]]
    job = make_job(sandbox.url, ["sku", "story"], rows, variables={"story": "story"}, dedupe=True)
    job.run()
    said = job.call("review", "--rows", "1", "--approve")
    assert "1 other row with the same answer has the decision too." in said.stderr
    job.write_spec(variables={"story": "story"}, dedupe=True, id="sku")
    job.run()
    done = job.call("review", "--rows", "1", "--reject")
    assert (done.returncode, "1 other row with other ids" in done.stderr) == (2, True), done.stderr
    assert "row 3 (line 4, sku A3)" in done.stderr
    assert job.call("review", "--rows", "1", "--reject", "--yes").returncode == 0
    listed = job.call("review").stdout
    assert listed.count("rejected") == 3
