"""A workbook is exported as a copy: answers next to its rows, and nothing else changed."""

from __future__ import annotations

import datetime
import importlib.util
import json
import shutil
import warnings
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from openpyxl import Workbook, load_workbook
from openpyxl.chart import BarChart, Reference
from openpyxl.comments import Comment
from openpyxl.styles import Font, PatternFill
from openpyxl.worksheet.worksheet import Worksheet

import pipeline
from pipeline.core.errors import Refused
from pipeline.export.copying import Copied, write_copy
from pipeline.export.xlsx.workbook import summary_rows, write_workbook
from pipeline.inputs.table import Batch, Table
from pipeline.results.answered_sheet import opened, sheet_table
from tests.conftest import Job
from tests.support.servers import Answer, Server

ADDED = ["result", "citations", "_status", "_error_code", "_error_message"]
HEADER_ROW, FIRST, LAST = 4, 5, 9
# By Excel row; row 7 is blank, and skipped.
STORIES = {5: "a plain story; " * 100, 6: "=a formula", 7: "", 8: "blocked", 9: "x" * 20_000}
READS_WORKBOOKS = importlib.util.find_spec("pipeline.inputs.xlsx.reader") is not None


def answer(body: bytes) -> Answer:
    """The story again, a long one twice, unless the server has to block it."""
    story = json.loads(body)["Story"]
    if story == "blocked":
        return 403, {}, b'{"success": false, "error": "=Request blocked", "code": "blocked"}'
    told = story * 2 if len(story) >= 20_000 else story
    return 200, {}, json.dumps({"success": True, "result": told}).encode()


def make_book(path: Path) -> None:
    """Formulas, dates, colours, merged cells, widths, a comment, a chart, and a second sheet."""
    book = Workbook()
    notes = book.worksheets[0]
    notes.title = "Notes"
    notes["A1"], notes["B2"] = "do not touch", datetime.date(2024, 2, 29)
    notes.merge_cells("C3:D4")
    page = book.create_sheet("Ideas")
    for column, name in enumerate(["No", "Story", "When", "Twice"], start=2):
        cell = page.cell(HEADER_ROW, column, name)
        cell.font, cell.fill = Font(bold=True), PatternFill("solid", fgColor="FFFFCC00")
    for row, story in STORIES.items():
        if not story:
            continue
        page.cell(row, 2, row).number_format = "00000"
        page.cell(row, 3).value = story
        page.cell(row, 3).data_type = "s"
        page.cell(row, 4, datetime.datetime(2024, 1, row, 12, 30)).number_format = "dd.mm.yyyy"
        page.cell(row, 5, f"=B{row}*2").fill = PatternFill("solid", fgColor="FF00FF00")
    page["B12"] = "a remark below the table"
    page.merge_cells("B12:E12")
    page.column_dimensions["C"].width = 33
    page.row_dimensions[6].height = 44
    page.row_dimensions[5].height = 15  # as programs save it for untouched rows
    page["C5"].comment = Comment("why not", "me")
    chart = BarChart()
    chart.add_data(Reference(page, min_col=2, min_row=5, max_row=6))
    notes.add_chart(chart, "F1")
    book.save(path)


def book_table(path: Path) -> Table:
    """The worksheet, as a reader of workbooks returns it."""

    def batches() -> Iterator[Batch]:
        page = load_workbook(path)["Ideas"]
        rows = range(FIRST, LAST + 1)
        columns = [[str(page.cell(r, c).value or "") for r in rows] for c in range(2, 6)]
        yield Batch(columns, list(rows))

    return Table(path, ("No", "Story", "When", "Twice"), "Ideas row", batches)


@pytest.fixture(scope="module")
def ran(tmp_path_factory) -> Job:
    """A run of the workbook's rows, and the workbook next to it."""
    folder = tmp_path_factory.mktemp("book")
    job = Job(folder, folder / "job.yaml", folder / "sheet.csv", "")
    make_book(folder / "book.xlsx")
    [batch] = book_table(folder / "book.xlsx").batches()
    job.write_sheet(
        ["No", "Story", "When", "Twice"], [list(r) for r in zip(*batch.columns, strict=True)]
    )
    job.write_spec(variables={"Story": "Story"}, empty="skip")
    with Server(answer) as server:
        job.base_url = server.url
        assert job.run(expect=3)["skipped"] == 1
        assert server.received.total() == 4
    return job


@pytest.fixture
def job(ran, tmp_path) -> Job:
    """A copy of it that a test may change."""
    shutil.copytree(ran.folder, tmp_path / "book")
    return replace(ran, folder=tmp_path / "book", spec=tmp_path / "book" / "job.yaml")


def export_copy(job: Job, target: Path) -> Copied:
    """Exports a job on the workbook, and returns the copy."""
    book = job.folder / "book.xlsx"
    found = pipeline.find_job(job.spec)
    spec = replace(found.to_run(), input=book, sheet="Ideas")
    with opened(found, target.parent) as source:
        return write_copy(
            spec,
            book_table(book),
            source.snapshot,
            sheet_table(source),
            target,
            summary_rows(found, source.read, source.in_use),
        )


def look(page: Worksheet) -> dict[str, tuple[object, ...]]:
    """The value and the format of every cell of a worksheet."""
    return {
        cell.coordinate: (
            cell.value,
            cell.data_type,
            cell.number_format,
            cell.fill.fgColor.rgb,
            cell.font.b,
            cell.comment and cell.comment.text,
        )
        for row in page.iter_rows()
        for cell in row
        if cell.value is not None or cell.has_style
    }


def test_the_copy_changes_no_cell_of_the_workbook(job):
    """Cell by cell: values, kinds, formats, fills, comments; merged ranges, widths, heights."""
    target = job.folder / "done.xlsx"
    export_copy(job, target)
    before, after = load_workbook(job.folder / "book.xlsx"), load_workbook(target)
    assert after.sheetnames == ["Notes", "Ideas", "Summary"]
    for was in before.worksheets:
        now = after[was.title]
        kept = look(now)
        for coordinate, looks in look(was).items():
            assert kept[coordinate] == looks
        assert now.merged_cells.ranges == was.merged_cells.ranges
        assert len(now._charts) == len(was._charts)
    ideas = after["Ideas"]
    assert ideas.column_dimensions["C"].width == 33
    assert (ideas.row_dimensions[6].height, ideas.row_dimensions[5].height) == (44, 180)
    assert set(look(after["Notes"])) == set(look(before["Notes"]))


def test_answers_are_in_new_columns_on_their_own_rows(job):
    """After the last used column, with a frozen header like that of the sheet, no formula."""
    target = job.folder / "done.xlsx"
    assert export_copy(job, target).aside == 1
    page = load_workbook(target)["Ideas"]
    assert [page.cell(HEADER_ROW, c).value for c in range(6, 11)] == ADDED
    assert page.cell(HEADER_ROW, 6).fill.fgColor.rgb == "FFFFCC00"
    assert page.freeze_panes == "A5"
    status = {row: page.cell(row, 8).value for row in STORIES}
    assert status == {5: "ok", 6: "ok", 7: "skipped", 8: "failed", 9: "ok"}
    assert page["F5"].value == STORIES[5]
    assert (page["F6"].value, page["F6"].data_type, page["F6"].quotePrefix) == (
        "=a formula",
        "s",
        True,
    )
    assert page["F6"].alignment.wrap_text
    assert page["J7"].value == 'empty cell in column "Story"'
    assert (page["J8"].value, page["J8"].data_type) == ("=Request blocked", "s")
    assert page["F9"].value.endswith("done.files/row-9-result.txt)")
    assert (job.folder / "done.files" / "row-9-result.txt").read_text() == STORIES[9] * 2
    assert all(page.cell(r, c).value is None for r in (1, 2, 3, 10, 11) for c in range(6, 11))


@pytest.mark.parametrize(
    ("place", "text", "words"),
    [
        ("C5", "another story", 'Ideas row 5, column "Story" was changed'),
        ("C7", "a new one", 'Ideas row 7, column "Story" was changed'),
    ],
)
def test_a_workbook_that_was_changed_since_the_run_is_not_filled(job, place, text, words):
    """No answer is written next to another text. Nothing is written."""
    book = load_workbook(job.folder / "book.xlsx")
    book["Ideas"][place] = text
    book.save(job.folder / "book.xlsx")
    target = job.folder / "done.xlsx"
    with pytest.raises(Refused, match="Nothing was written") as refused:
        export_copy(job, target)
    assert words in str(refused.value)
    assert not target.exists()


def test_a_refused_copy_says_how_many_cells_were_changed(job):
    """It names the first cell. It names added rows only if no cell was changed."""
    book = load_workbook(job.folder / "book.xlsx")
    page, at = book["Ideas"], job.folder / "book.xlsx"
    last = page.max_row
    for place, more in (("C5", ""), ("C6", ", and 1 more cell was changed too."), ("C7", "2 more")):
        page[place] = "another"
        book.save(at)
        with pytest.raises(Refused, match='Ideas row 5, column "Story" was changed') as refused:
            export_copy(job, job.folder / "done.xlsx")
        assert more in str(refused.value)
        assert ("more cell" in str(refused.value)) == bool(more)
    assert last >= 7


def test_cells_that_are_not_sent_may_change_and_are_copied(job):
    """Only the texts that were sent have to be unchanged."""
    book = load_workbook(job.folder / "book.xlsx")
    book["Ideas"]["B5"] = 77
    book.save(job.folder / "book.xlsx")
    export_copy(job, job.folder / "done.xlsx")
    assert load_workbook(job.folder / "done.xlsx")["Ideas"]["B5"].value == 77


def test_an_export_names_what_the_copy_cannot_keep(job):
    """From the parts of the file: macros, pictures, sparklines."""
    path = job.folder / "book.xlsx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the same name twice in one archive
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr("xl/vbaProject.bin", b"macro")
            archive.writestr("xl/media/image1.png", b"picture")
            archive.writestr("xl/worksheets/sheet9.xml", b"<a><x14:sparklineGroups/></a>")
            archive.writestr("xl/worksheets/sheet8.xml", b"<a><x14:sparklineGroup t='1'/></a>")
    lost = export_copy(job, job.folder / "done.xlsx").lost
    assert lost == ("macros", "pictures", "sparklines")


def test_more_rows_than_excel_has_are_refused_and_other_formats_named(job):
    """Before anything is written."""
    found = pipeline.find_job(job.spec)
    with opened(found, job.folder) as source:
        exported = replace(sheet_table(source), rows=1_048_576)
        with pytest.raises(Refused, match=r"\.parquet instead"):
            write_workbook(exported, job.folder / "large.xlsx", "job", [])
    assert not (job.folder / "large.xlsx").exists()


def test_formulas_keep_their_last_calculated_values(job):
    """Numbers, texts, booleans and errors, for programs that read the copy without calculating."""
    kinds = {
        "E5": ("n", "10"),
        "E6": ("str", "a &amp; b"),
        "E8": ("b", "1"),
        "E9": ("e", "#DIV/0!"),
    }
    path = job.folder / "book.xlsx"
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    page = parts["xl/worksheets/sheet2.xml"].decode()
    for place, (kind, text) in kinds.items():
        start = page.index("<v", page.index(f'<c r="{place}"'))
        page = page[:start] + page[start:].replace("<v />", f"<v>{text}</v>", 1)
        page = page.replace(f'<c r="{place}"', f'<c r="{place}" t="{kind}"')
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in parts.items():
            archive.writestr(name, page if name == "xl/worksheets/sheet2.xml" else content)
    export_copy(job, job.folder / "done.xlsx")
    ideas = load_workbook(job.folder / "done.xlsx", data_only=True)["Ideas"]
    assert [ideas[place].value for place in kinds] == [10, "a & b", True, "#DIV/0!"]
    kept = load_workbook(job.folder / "done.xlsx")
    assert kept["Ideas"]["E5"].value == "=B5*2"
    assert kept.calculation.fullCalcOnLoad  # unchanged: made by openpyxl and never calculated


@pytest.mark.skipif(not READS_WORKBOOKS, reason="workbooks are no sheets yet")
def test_a_workbook_can_be_run_exported_and_run_again_with_commands_only(job):
    """Nothing is paid twice, and the copy of the copy has the added columns once."""
    book = load_workbook(job.folder / "book.xlsx")
    for row in STORIES:
        book["Ideas"].cell(row, 5).value = "calculated"
    book["Ideas"].unmerge_cells("B12:E12")
    book["Ideas"]["B12"] = None
    book.save(job.folder / "book.xlsx")
    job.write_spec(input="book.xlsx", sheet="Ideas", variables={"Story": "Story"}, empty="skip")
    with Server(answer) as server:
        job.base_url = server.url
        output = ("--output", str(job.folder / "again"))
        job.run(*output, expect=3)
        target = job.folder / "done.xlsx"
        done = job.call("export", "--to", str(target), *output)
        assert done.returncode == 0, done.stderr
        page = load_workbook(target)["Ideas"]
        assert {row: page.cell(row, 8).value for row in STORIES} == {
            5: "ok",
            6: "ok",
            7: "skipped",
            8: "failed",
            9: "ok",
        }
        before = server.received.total()
        job.write_spec(input=str(target), sheet="Ideas", variables={"Story": "Story"}, empty="skip")
        job.run(*output, expect=3)
        assert server.received.total() == before == 4
        second = job.folder / "second.xlsx"
        job.call("export", "--to", str(second), *output)
    was, now = load_workbook(target), load_workbook(second)
    assert now.sheetnames == was.sheetnames
    cells = {place: cell for place, cell in look(was["Ideas"]).items() if place != "F9"}
    assert {k: v for k, v in look(now["Ideas"]).items() if k != "F9"} == cells
