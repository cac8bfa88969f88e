"""The copy of a workbook: answers in new columns, and everything else as it was, byte for byte.

Each workbook of `workbook_kinds` goes through a run, an export and a run of the export.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import warnings
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import openpyxl
import pytest

import pipeline
from tests.conftest import Job
from tests.support.servers import Answer, Server
from tests.support.workbook_kinds import (
    FIRST,
    HEADER_ROW,
    KINDS,
    LAST,
    STORIES,
    anchored,
    by_hand,
    listed_table,
    story_rows,
    with_picture,
    with_table,
)
from tests.support.workbooks import cell

TABLE = {"sheet": "Stories", "header_row": HEADER_ROW}
VARIABLES, ONE = {"Story": "Story", "No": "No"}, {"Story": "Story"}
ADDED = ["result", "citations", "_status", "_error_code", "_error_message"]
_MAY_DIFFER = {
    "[Content_Types].xml",
    "xl/workbook.xml",
    "xl/_rels/workbook.xml.rels",
    "xl/styles.xml",
    "xl/worksheets/sheet1.xml",
}


# A copy of a copy differs from a copy only in these. The others run only in `make soak`.
_COPIED_TWICE = ("written by hand", "prefixed", "a table", "wide formats")


def each_second_time(kinds: Iterable[str]) -> list[Any]:
    return [pytest.param(k, marks=() if k in _COPIED_TWICE else pytest.mark.long) for k in kinds]


def answer(body: bytes) -> Answer:
    """The story again, unless the server has to block it."""
    story = json.loads(body)["Story"]
    if story == "blocked":
        return 403, {}, b'{"success": false, "error": "=Request blocked", "code": "blocked"}'
    told = "y" * 40_000 if story == "x" else f"{story}\n" * 3
    return 200, {}, json.dumps({"success": True, "result": told}).encode()


@pytest.fixture(scope="module")
def server():
    with Server(answer) as server:
        yield server


def run_on(
    folder: Path, server: Server, make: Callable[[Path], None], name: str = "book.xlsx"
) -> Job:
    """A job on a workbook, after its first run."""
    job = Job(folder, folder / "job.yaml", folder / name, server.url)
    make(job.sheet)
    job.write_spec(input=name, **TABLE, variables=VARIABLES)
    before = server.received.total()
    assert job.run(expect=3)["ok"] == 4
    assert server.received.total() == before + 5
    return job


def used_as_sheet(job: Job, path: Path) -> None:
    """Replaces the sheet of the job with an export of it, and runs the job. It sends nothing."""
    shutil.copy(path, job.sheet)
    assert job.run(expect=3)["requests"] == 0


def exported(job: Job, name: str = "done.xlsx", *options: str) -> Path:
    """A file that `pipeline export` wrote."""
    target = job.folder / name
    done = job.call("export", "--to", str(target), *options)
    assert done.returncode == 0, done.stderr
    return target


def load_workbook(path: Path) -> openpyxl.Workbook:
    """A workbook as another program reads it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # one of the workbooks has no styles
        return openpyxl.load_workbook(path)


def parts(path: Path) -> dict[str, bytes]:
    """The parts of a workbook by their usual names: one of the workbooks has them at the root."""
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        names = archive.namelist()
        prefix = "" if "xl/workbook.xml" in names else "xl/"
        return {
            name if name in ("[Content_Types].xml", "_rels/.rels") else f"{prefix}{name}": (
                archive.read(name)
            )
            for name in names
        }


def cells_of(sheet: bytes) -> dict[str, str]:
    """Each cell of a worksheet with its attributes and content, by its place."""
    found, row_number = {}, 0
    for row in ElementTree.fromstring(sheet).iter():
        if row.tag.rpartition("}")[2] != "row":
            continue
        row_number = int(row.get("r", row_number + 1))
        column = 0
        for one in row:
            letters = one.get("r", "").rstrip("0123456789")
            column = _column(letters) if letters else column + 1
            one.attrib.pop("r", None)
            found[f"{row_number},{column}"] = ElementTree.tostring(one, encoding="unicode").strip()
    return found


def inline_texts(sheet: bytes) -> dict[tuple[int, int], str]:
    """The texts that stand in the cells of a worksheet themselves, by row and column."""
    found = {}
    for place, xml in cells_of(sheet).items():
        cell = ElementTree.fromstring(xml)
        if cell.get("t") == "inlineStr":
            row, column = map(int, place.split(","))
            found[row, column] = "".join(cell.itertext())
    return found


def _column(letters: str) -> int:
    number = 0
    for letter in letters:
        number = number * 26 + ord(letter) - 64
    return number


@pytest.mark.parametrize("kind", KINDS)
def test_a_copy_of_any_workbook_adds_cells_and_changes_nothing_else(tmp_path, server, kind):
    """The other parts have the same bytes, the old cells are the same, and a run of the copy sends
    nothing."""
    job = run_on(tmp_path, server, KINDS[kind])
    target = exported(job)
    before, after = parts(job.sheet), parts(target)
    may_differ = _MAY_DIFFER | ({"xl/tables/table1.xml"} if kind == "a table" else set())
    assert {n for n in before if after.get(n) != before[n]} <= may_differ
    added = set(after) - set(before)
    assert len(added) == 1, added
    old, new = (cells_of(one["xl/worksheets/sheet1.xml"]) for one in (before, after))
    changed = {place for place in old if new[place] != old[place]}
    # A blank cell without a value may get one.
    assert all("<" not in old[place][1:].replace("</", "") for place in changed), changed
    assert kind == "wide formats" or not changed
    texts = inline_texts(after["xl/worksheets/sheet1.xml"])
    first = next(column for (row, column), text in texts.items() if text == "result")
    assert [texts.get((HEADER_ROW, first + n)) for n in range(5)] == ADDED
    rows = range(FIRST, LAST + 1)
    assert [texts[row, first + 2] for row in rows] == ["ok", "ok", "ok", "failed", "ok"]
    assert texts[6, first] == "=a formula\n" * 3
    assert texts[8, first + 4] == "=Request blocked"
    assert texts[9, first].endswith("done.files/row-9-result.txt)")
    assert not [place for place in texts if place[1] >= first and place[0] not in range(4, 10)]
    received = server.received.total()
    used_as_sheet(job, target)
    assert server.received.total() == received


@pytest.mark.parametrize("kind", ["a namespace on the sheet", "prefixed", "exact values"])
def test_another_program_reads_the_copy(tmp_path, server, kind):
    """Its list of sheets is well-formed, and the summary is a second sheet."""
    book = load_workbook(exported(run_on(tmp_path, server, KINDS[kind])))
    assert book.sheetnames == ["Stories", "Summary"]
    assert book["Stories"]["E4"].value == "result"


def test_new_columns_stand_behind_sparklines(tmp_path, server):
    """A sparkline is drawn in a cell that has no value."""
    job = run_on(tmp_path, server, KINDS["unknown parts"])
    assert load_workbook(exported(job)).worksheets[0]["F4"].value == "result"


@pytest.mark.parametrize("kind", each_second_time(KINDS))
def test_a_copy_of_a_copy_renews_the_columns(tmp_path, server, kind):
    """It has the same columns in the same places, and one summary."""
    job = run_on(tmp_path, server, KINDS[kind])
    first = exported(job)
    used_as_sheet(job, first)
    second = exported(job, "second.xlsx")
    was, now = parts(first), parts(second)
    assert set(was) == set(now)
    differing = {name for name in was if was[name] != now[name]}
    assert all(
        name.startswith(("xl/worksheets/", "xl/styles", "xl/workbook")) for name in differing
    )
    old, new = (inline_texts(one["xl/worksheets/sheet1.xml"]) for one in (was, now))
    assert old.keys() == new.keys()
    assert {text for place, text in new.items() if text != old[place]} == {
        text for text in new.values() if "second.files/row-9-result.txt" in text
    }
    used_as_sheet(job, second)


@pytest.mark.skipif(not shutil.which("soffice"), reason="needs LibreOffice")
def test_libreoffice_opens_every_copy(tmp_path, server):
    """And shows the answers in the rows of their stories."""
    books = []
    for kind in set(KINDS) - {"backslashes"}:  # LibreOffice shows nothing of such a workbook
        folder = tmp_path / kind.replace(" ", "-")
        folder.mkdir()
        target = exported(run_on(folder, server, KINDS[kind]))
        books.append(target.rename(tmp_path / f"{folder.name}.xlsx"))
    profile = f"-env:UserInstallation={(tmp_path / 'profile').as_uri()}"
    into = [
        "--convert-to",
        "csv:Text - txt - csv (StarCalc):44,34,76,1,,0,false,true,false",
        "--outdir",
        tmp_path,
    ]
    subprocess.run(
        ["soffice", profile, "--headless", *into, *books], check=True, capture_output=True
    )
    for book in books:
        text = book.with_suffix(".csv").read_text("utf-8")
        assert ",result,citations,_status,_error_code,_error_message" in text, book.stem
        assert "a plain story\na plain story" in text, book.stem


def test_macros_stay_in_an_xlsm_and_are_left_out_of_an_xlsx(tmp_path, server):
    """A message says so. Excel opens an .xlsx only without macros."""
    rels = "xl/_rels/workbook.xml.rels"

    def with_macros(path: Path) -> None:
        def edit(name: str, content: str) -> str:
            if name == rels:
                link = f'<Relationship Id="rId5" Type="{kind}" Target="vbaProject.bin"/>'
                return content.replace("</Relationships>", f"{link}</Relationships>")
            return content.replace(
                "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet.main+xml",
                "application/vnd.ms-excel.sheet.macroEnabled.main+xml",
            )

        kind = "http://schemas.microsoft.com/office/2006/relationships/vbaProject"
        by_hand(path, parts={"xl/vbaProject.bin": b"\0macro" * 1000}, edit=edit)

    job = run_on(tmp_path, server, with_macros, "book.xlsm")
    kept = parts(exported(job, "done.xlsm"))
    assert kept["xl/vbaProject.bin"] == b"\0macro" * 1000
    assert b"macroEnabled" in kept["[Content_Types].xml"]
    done = job.call("export", "--to", str(tmp_path / "done.xlsx"))
    assert "The macros of your workbook are not in it" in done.stderr
    without = parts(tmp_path / "done.xlsx")
    assert "xl/vbaProject.bin" not in without
    assert b"vbaProject" not in without[rels]
    assert b"macroEnabled" not in without["[Content_Types].xml"]
    assert without["[Content_Types].xml"].count(b"spreadsheetml.sheet.main+xml") == 1
    assert load_workbook(tmp_path / "done.xlsx").sheetnames == ["Stories", "Summary"]
    used_as_sheet(job, tmp_path / "done.xlsm")


@pytest.mark.parametrize(
    ("drawing", "place"),
    [
        (anchored(4, 5, 9, 7), "I4"),  # next to the rows, in F to H
        (anchored(0, 5, 2, 7), "E4"),  # above them
        (anchored(4, 5, 9, 16_383), "E4"),  # a line to the last column of Excel
    ],
)
def test_new_columns_stand_behind_a_picture_that_lies_next_to_the_rows(
    tmp_path, server, drawing, place
):
    """And under one that ends above them."""
    job = run_on(tmp_path, server, lambda path: with_picture(path, drawing))
    assert load_workbook(exported(job)).worksheets[0][place].value == "result"


def test_a_table_grows_with_the_new_columns(tmp_path, server):
    """So its filter and its stripes reach over the answers, and its row of totals stays out."""
    job = run_on(tmp_path, server, with_table)
    page = load_workbook(exported(job)).worksheets[0]
    [table] = page.tables.values()
    assert (table.ref, table.autoFilter.ref) == ("B4:I9", "B4:I9")
    assert [c.name for c in table.tableColumns] == ["No", "Story", "When", *ADDED]
    assert [c.id for c in table.tableColumns] == list(range(1, 9))


@pytest.mark.parametrize(
    "table",
    [
        listed_table("B4:D9", ' tableType="queryTable"'),
        listed_table("B4:D9", ' headerRowCount="0"'),
        listed_table("B4:D9", names=("No", "RESULT", "When")),
        listed_table("B4:C9", names=("No", "Story")),
    ],
    ids=["of a query", "without a header", "with that name", "not next to them"],
)
def test_a_table_that_cannot_grow_stays_as_it_was(tmp_path, server, table):
    """Excel calls a table damaged whose columns come from elsewhere or have the same name twice."""
    job = run_on(tmp_path, server, lambda path: with_table(path, table))
    target = exported(job)
    assert parts(target)["xl/tables/table1.xml"] == parts(job.sheet)["xl/tables/table1.xml"]


def test_widths_and_the_extent_of_the_sheet_fit_the_new_columns(tmp_path, server):
    """One width for all columns of Excel is cut at the new ones, and a wrapped row gets its height
    unless a person set one."""
    job = run_on(tmp_path, server, KINDS["wide formats"])
    sheet = parts(exported(job))["xl/worksheets/sheet1.xml"].decode()
    assert '<dimension ref="B1:K9"/>' in sheet
    assert '<col min="3" max="4" width="30" style="1"/><col min="5" max="5" width="70"' in sheet
    assert '<col min="10" max="16384" width="30" style="1"/></cols>' in sheet
    assert "spans=" not in sheet[sheet.index('r="5"') :]
    page = load_workbook(job.folder / "done.xlsx").worksheets[0]
    assert page.row_dimensions[5].height == 60
    (tmp_path / "other").mkdir()
    job = run_on(tmp_path / "other", server, KINDS["openpyxl"])
    page = load_workbook(exported(job)).worksheets[0]
    assert (page.row_dimensions[6].height, page.row_dimensions[5].height) == (44, 60)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"C5": cell("C5", "another story")}, 'Stories row 5, column "Story" was changed'),
        ({"B9": cell("B9", 10)}, 'Stories row 9, column "No" was changed'),
        (
            {"C5": cell("C5", STORIES[6]), "C6": cell("C6", STORIES[5])},
            'Stories row 5, column "Story" was changed, and 1 more cell was changed too.',
        ),
    ],
    ids=["edited", "a number", "sorted"],
)
def test_a_workbook_that_was_changed_since_the_run_is_not_filled(tmp_path, server, change, words):
    """No answer is written next to another text. Nothing is written."""
    job = run_on(tmp_path, server, by_hand)
    by_hand(job.sheet, story_rows(change))
    target = job.folder / "done.xlsx"
    done = job.call("export", "--to", str(target))
    assert (done.returncode, words in done.stderr) == (2, True), done.stderr
    assert "Nothing was written." in done.stderr
    assert not target.exists()


def test_a_row_that_was_inserted_since_the_run_is_named(tmp_path, server):
    """A run sends it, and then the export has it."""
    job = run_on(tmp_path, server, by_hand)
    more = cell("B10", 10) + cell("C10", "a new one")
    by_hand(job.sheet, story_rows() + f'<row r="10">{more}</row>')
    done = job.call("export", "--to", str(job.folder / "done.xlsx"))
    assert "Stories row 10 was added" in done.stderr
    job.run(expect=3)
    page = load_workbook(exported(job)).worksheets[0]
    assert page["E10"].value == "a new one\n" * 3


def test_cells_that_are_not_sent_may_change_and_are_copied(tmp_path, server):
    """Only the texts that were sent have to be unchanged."""
    job = run_on(tmp_path, server, by_hand)
    by_hand(job.sheet, story_rows({"D5": cell("D5", "whenever")}))
    assert load_workbook(exported(job)).worksheets[0]["D5"].value == "whenever"


def test_a_formula_in_a_renewed_column_is_not_overwritten(tmp_path, server):
    """The export is refused with the cell: the formula may be a person's work."""
    job = run_on(tmp_path, server, by_hand)
    target = exported(job)
    used_as_sheet(job, target)
    content = parts(target)
    sheet = content["xl/worksheets/sheet1.xml"].decode()
    start = sheet.index('<c r="E5"')
    end = sheet.index("</c>", start) + 4
    formula = '<c r="E5" t="str"><f>C5</f><v>mine</v></c>'
    content["xl/worksheets/sheet1.xml"] = (sheet[:start] + formula + sheet[end:]).encode()
    with zipfile.ZipFile(job.sheet, "w") as archive:
        for name, one in content.items():
            archive.writestr(name, one)
    done = job.call("export", "--to", str(tmp_path / "second.xlsx"))
    assert done.returncode == 2
    assert "Cell E5 has a formula" in done.stderr


def test_blank_rows_between_the_stories_get_their_status(tmp_path, server):
    """Also where the file has no row at all."""
    data = story_rows()
    start = data.index('<row r="7"')
    data = data[:start] + data[data.index("</row>", start) + len("</row>") :]
    job = Job(tmp_path, tmp_path / "job.yaml", tmp_path / "book.xlsx", server.url)
    by_hand(job.sheet, data)
    job.write_spec(input="book.xlsx", **TABLE, variables=ONE, empty="skip")
    assert job.run(expect=3)["skipped"] == 1
    page = load_workbook(exported(job)).worksheets[0]
    assert [page.cell(row, 7).value for row in STORIES] == ["ok", "ok", "skipped", "failed", "ok"]
    assert page["I7"].value == 'empty cell in column "Story"'


def test_the_summary_of_another_job_stays(tmp_path, server):
    """Only the summary of the same job is replaced."""
    job = run_on(tmp_path, server, by_hand)
    first = exported(job)
    other = Job(tmp_path, tmp_path / "other.yaml", first, server.url)
    other.write_spec(name="other", input="done.xlsx", **TABLE, variables=ONE)
    options = ("--output", str(tmp_path / "elsewhere"))
    other.call("run", "--yes", "--json", "--rate", "5000", *options)
    second = tmp_path / "second.xlsx"
    done = other.call("export", "--to", str(second), *options)
    assert done.returncode == 0, done.stderr
    book = load_workbook(second)
    assert book.sheetnames == ["Stories", "Summary", "Summary 1"]
    assert [book[name]["B2"].value for name in book.sheetnames[1:]] == ["job", "other"]
    header = [c.value for c in book["Stories"][HEADER_ROW] if c.value]
    assert header == ["No", "Story", "When", *ADDED, *(f"{name}_2" for name in ADDED)]


@pytest.mark.long
def test_a_copy_takes_little_memory(tmp_path, server):
    """20,000 rows of ten cells: half a kilobyte a cell would be 100 MB."""
    rows = "".join(
        f'<row r="{n}">' + "".join(cell(f"{c}{n}", n, "n") for c in "ABCDEFGHIJ") + "</row>"
        for n in range(2, 20_002)
    )
    header = "".join(cell(f"{c}1", f"column {c}") for c in "ABCDEFGHIJ")
    job = Job(tmp_path, tmp_path / "job.yaml", tmp_path / "book.xlsx", server.url)
    by_hand(job.sheet, f'<row r="1">{header}</row>{rows}')
    job.write_spec(input="book.xlsx", variables={"Story": "column A"}, max_paid=1)
    job.call("run", "--limit", "1", "--yes")
    small = job.measured("export", "--to", str(tmp_path / "done.csv"))
    large = job.measured("export", "--to", str(tmp_path / "done.xlsx"))
    assert large.returncode == 0, large.stderr
    assert large.peak_bytes < small.peak_bytes + 40e6


def test_python_reports_texts_in_files_of_their_own(tmp_path, server):
    """As the command does."""
    job = run_on(tmp_path, server, by_hand)
    done = pipeline.export_job(pipeline.find_job(job.spec), tmp_path / "done.xlsx")
    assert (done.rows, done.aside, done.without_macros) == (5, 1, False)
