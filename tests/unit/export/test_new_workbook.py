"""A new workbook: numbers and dates that can be calculated with, and that mean the same text."""

from __future__ import annotations

import datetime
import shutil
import subprocess
import zipfile
from pathlib import Path

import openpyxl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.core.errors import Refused
from pipeline.export.xlsx.typed import kinds_of_schema, kinds_of_texts
from pipeline.export.xlsx.workbook import write_workbook
from pipeline.results.answered_sheet import Exported
from tests.conftest import Job

ROWS = {
    "Article": ["007", "12345", "9"],
    "Pieces": ["12", "", "-3"],
    "Price": ["1.10", "172.92", "0.50"],
    "Share": ["0.1", "0.25", "3"],
    "EAN": ["4006381333931", "4006381333948", "4006381333955"],
    "When": ["2024-02-29", "1999-12-31", ""],
    "Seen": ["2024-02-29T10:00:01", "2024-02-29T00:00:00", "2024-03-01T10:00:00"],
    "Sold": ["TRUE", "FALSE", "TRUE"],
    "Mixed": ["12", "a dozen", "13"],
    "Note": ["=1+1", "ü < & >", " two\nlines"],
}


@pytest.fixture
def job(sandbox, make_job) -> Job:
    """Every column but Price is sent."""
    rows = [list(row) for row in zip(*ROWS.values(), strict=True)]
    sent = {name: name for name in ROWS if name != "Price"}
    job = make_job(sandbox.url, list(ROWS), rows, variables=sent, empty="send", id="Article")
    job.run()
    return job


def exported(job: Job) -> Path:
    target = job.folder / "done.xlsx"
    done = job.call("export", "--to", str(target))
    assert done.returncode == 0, done.stderr
    return target


def test_a_column_of_numbers_or_dates_is_typed_and_other_texts_stay(job):
    """One cell that is not a number makes the column a column of texts."""
    page = openpyxl.load_workbook(exported(job)).worksheets[0]
    columns = {column[0].value: [c.value for c in column[1:]] for column in page.iter_cols()}
    assert columns["Article"] == ["007", "12345", "9"]
    assert columns["Pieces"] == [12, None, -3]
    assert columns["Price"] == [1.10, 172.92, 0.5]
    assert columns["Share"] == [0.1, 0.25, 3]
    assert columns["EAN"] == ROWS["EAN"]
    moments = [datetime.datetime(2024, 2, 29), datetime.datetime(1999, 12, 31), None]
    assert columns["When"] == moments
    assert columns["Seen"] == ROWS["Seen"]  # midnight would be another text
    assert columns["Sold"] == [True, False, True]
    assert columns["Mixed"] == ROWS["Mixed"]
    assert columns["Note"] == ROWS["Note"]
    formats = {cell.value: page.cell(2, cell.column).number_format for cell in page[1]}
    assert (formats["Price"], formats["When"]) == ("0.00", "yyyy-mm-dd")
    assert {page.cell(row, 10).data_type for row in (2, 3, 4)} == {"s"}


def test_a_run_of_the_new_workbook_sends_nothing(job, sandbox):
    """The texts that were sent are the same, also those that are numbers and dates now."""
    billed = sandbox.billed()
    summary = job.run("--input", str(exported(job)))
    assert (summary["requests"], summary["ok"]) == (0, 3)
    assert sandbox.billed() == billed


def test_the_header_is_frozen_and_filters_and_columns_are_as_wide_as_their_texts(job):
    """Within bounds, so that one long text does not fill the screen."""
    book = openpyxl.load_workbook(exported(job))
    page = book.worksheets[0]
    assert (page.freeze_panes, page.auto_filter.ref) == ("A2", "A1:O4")
    assert page.column_dimensions["A"].width == 9
    assert page.column_dimensions["E"].width == 15
    assert page.column_dimensions["K"].width == 70
    assert page["A1"].font.b
    assert book.sheetnames == ["job", "Summary"]


@pytest.mark.skipif(not shutil.which("soffice"), reason="needs LibreOffice")
def test_libreoffice_calculates_with_the_numbers(job, tmp_path):
    """It reads numbers and dates as such, and shows the prices with two digits."""
    target = exported(job)
    profile = f"-env:UserInstallation={(tmp_path / 'profile').as_uri()}"
    kind = "fods:OpenDocument Spreadsheet Flat XML"
    command = ["soffice", profile, "--headless", "--convert-to", kind, "--outdir", tmp_path, target]
    subprocess.run(command, check=True, capture_output=True)
    text = (tmp_path / "done.fods").read_text("utf-8")
    assert 'office:value-type="float" office:value="1.1"' in text
    assert "<text:p>1.10</text:p>" in text
    assert 'office:date-value="2024-02-29"' in text


def test_odd_names_of_jobs_and_columns_make_a_valid_workbook(tmp_path):
    """Characters that XML or Excel forbid, in names of columns and of the worksheet."""
    batch = pa.record_batch({"a<b>&\"'\x01": pa.array(["x"], pa.large_string())})
    exported = Exported(batch.schema, 1, {}, lambda: iter([batch]))
    write_workbook(exported, tmp_path / "odd.xlsx", "it's [a] <job> & more" * 3, [])
    page = openpyxl.load_workbook(tmp_path / "odd.xlsx").worksheets[0]
    assert page.title == "it's _a_ <job> & moreit's _a_ <"
    assert page["A1"].value == "a<b>&\"'_x0001_"
    assert page.auto_filter.ref == "A1:A2"
    with zipfile.ZipFile(tmp_path / "odd.xlsx") as archive:
        assert b"'it''s _a_ &lt;job&gt;" in archive.read("xl/workbook.xml")


def test_more_rows_than_excel_has_are_refused_and_other_formats_named(tmp_path):
    """Before anything is written."""
    exported = Exported(pa.schema([("a", pa.string())]), 1_048_576, {}, lambda: iter([]))
    with pytest.raises(Refused, match=r"\.parquet instead"):
        write_workbook(exported, tmp_path / "large.xlsx", "job", [])
    assert not (tmp_path / "large.xlsx").exists()


TYPES = pa.schema(
    [
        ("i", pa.int64()),
        ("f", pa.float64()),
        ("d", pa.date32()),
        ("b", pa.bool_()),
        ("s", pa.string()),
    ]
)


@pytest.mark.parametrize(
    ("column", "text", "sent", "alone"),
    [
        ("i", "5", "5", "5"),
        ("i", "123456789012", "123456789012", "123456789012"),
        ("i", "1234567890123456", None, None),
        ("f", "0.30000000000000004", None, "0.30000000000000004"),
        ("f", "0.25", "0.25", "0.25"),
        ("f", "1e+21", "1e+21", "1e+21"),
        ("f", "", None, None),
        ("d", "1900-02-28", None, None),
        ("d", "2024-02-29", "45351", "45351"),
        ("d", "2024-02-29T12:00:00", "45351.5", "45351.5"),
        ("d", "2024-02-29T00:00:00", None, None),
        ("d", "2024-02-29T12:00:00+01:00", None, None),
        ("b", "TRUE", "1", "1"),
        ("s", "5", None, None),
    ],
)
def test_a_cell_of_a_typed_column_is_typed_if_excel_keeps_it(column, text, sent, alone):
    """A column that is sent needs the same text again. A text stays a text."""
    for columns, digits in (((column,), sent), ((), alone)):
        typed = kinds_of_schema(TYPES, columns)[column](text)
        assert (typed and typed.digits) == digits


def test_a_parquet_sheet_becomes_a_workbook_with_its_types(sandbox, make_job):
    """And a run of the workbook sends nothing, whatever digits the numbers have."""
    table = pa.table(
        {
            "sku": ["12", "007"],
            "pieces": [5, None],
            "price": [0.1 + 0.2, 2.5],
            "single": pa.array([0.1, 3.0], pa.float32()),
            "big": [2**60, 1],
            "when": [datetime.date(2024, 2, 29), None],
            "seen": [datetime.datetime(2024, 2, 29), datetime.datetime(2024, 2, 29, 10)],
            "sold": [True, False],
        }
    )
    job = make_job(sandbox.url, input="sheet.parquet", id="sku", empty="send")
    pq.write_table(table, job.folder / "sheet.parquet")
    job.run()
    target = exported(job)
    page = openpyxl.load_workbook(target).worksheets[0]
    values = [[cell.value for cell in row[:8]] for row in page.iter_rows(min_row=2)]
    day = datetime.datetime(2024, 2, 29)
    price, big = str(0.1 + 0.2), str(2**60)
    assert values[0] == ["12", 5, price, 0.1, big, day, "2024-02-29T00:00:00", True]
    assert values[1] == ["007", None, 2.5, 3, 1, None, day.replace(hour=10), False]
    billed = sandbox.billed()
    assert job.run("--input", str(target))["requests"] == 0
    assert sandbox.billed() == billed


@pytest.mark.parametrize(
    "texts",
    [["1", "01"], ["1e5"], ["+5"], ["1,5"], ["-0"], [".5"], ["0.10"], ["٣"], ["1" * 12], [""], []],
)
def test_a_column_of_other_texts_is_no_column_of_numbers(texts):
    """Each of these would come back as another text, or is a name."""
    batch = {"a": pa.array(texts, pa.large_string())}
    assert kinds_of_texts([batch], {"a"}) == {}
