"""A new workbook: numbers and dates that can be calculated with, and that mean the same text."""

from __future__ import annotations

import datetime
import decimal
import shutil
import subprocess
import zipfile
from pathlib import Path

import openpyxl
import pyarrow as pa
import pytest

from pipeline.core.errors import Refused
from pipeline.export.xlsx.typed import kinds_of_texts, of_value
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


@pytest.mark.parametrize(
    ("value", "exact", "digits"),
    [
        (5, True, "5"),
        (10**15, True, None),
        (0.1 + 0.2, False, "0.30000000000000004"),
        (0.1 + 0.2, True, None),
        (0.25, True, "0.25"),
        (float("nan"), False, None),
        (float("inf"), False, None),
        (decimal.Decimal("1.10"), True, None),
        (decimal.Decimal("1.10"), False, "1.10"),
        (decimal.Decimal("1.5"), True, "1.5"),
        (datetime.date(1900, 2, 28), False, None),
        (datetime.date(2024, 2, 29), True, "45351"),
        (datetime.datetime(2024, 2, 29), True, None),
        (datetime.datetime(2024, 2, 29, 12), True, "45351.5"),
        (datetime.datetime(2024, 2, 29, 12, tzinfo=datetime.UTC), False, None),
        (datetime.time(6), True, "0.25"),
        (True, True, "1"),
        ("5", True, None),
        ([1], False, None),
        (None, False, None),
    ],
)
def test_a_value_is_typed_if_excel_keeps_it(value, exact, digits):
    """With `exact` also only if the reader makes the same text of it."""
    typed = of_value(value, exact)
    assert (typed and typed.digits) == digits


@pytest.mark.parametrize(
    "texts",
    [["1", "01"], ["1e5"], ["+5"], ["1,5"], ["-0"], [".5"], ["0.10"], ["٣"], ["1" * 12], [""], []],
)
def test_a_column_of_other_texts_is_no_column_of_numbers(texts):
    """Each of these would come back as another text, or is a name."""
    batch = {"a": pa.array(texts, pa.large_string())}
    assert kinds_of_texts([batch], {"a"}) == {}
