"""Columns that are sent as the sheet displays them: a change of `shown:` pays for no row silently.

Each test compares with the server's book of bills.
"""

from __future__ import annotations

import json
import re

import openpyxl
import pytest

from tests.conftest import Job, SandboxProcess
from tests.support.workbooks import cell, rows, styles, worksheet, write_workbook

EURO = "#,##0.00\\ [$€-407]"
CELLS = ((EURO, "172.915", "a"), ("0%", "0.1", "b"), ("General", "7", "c"))


def write_prices(job: Job, price: str = "Price", *, note: str = "0.0") -> None:
    """A workbook with a price, a number and a text in each row. The third price has no format."""
    used = styles(note, *(number_format for number_format, _, _ in CELLS))
    data = rows(
        [cell("A1", price), cell("B1", "Size"), cell("C1", "Note")],
        *(
            [cell(f"A{n}", value, "n", style=n - 1), cell(f"B{n}", 5, style=0), cell(f"C{n}", text)]
            for n, (_, value, text) in enumerate(CELLS, 2)
        ),
    )
    write_workbook(job.folder / "sheet.xlsx", worksheet(data), parts={"xl/styles.xml": used})


def spec(variables: dict[str, str], **more: object) -> dict[str, object]:
    return {"input": "sheet.xlsx", "variables": variables, **more}


@pytest.fixture
def job(sandbox: SandboxProcess, make_job) -> Job:
    made = make_job(sandbox.url, **spec({"price": "Price"}))
    write_prices(made)
    return made


def refused(job: Job, number: int) -> str:
    """Checks that a run is refused with this number of bills, and that `check` says it too."""
    done = job.call("run", "--rate", "5000")
    assert done.returncode == 2, done.stdout
    assert re.findall(r"so (?:at most )?(\d+) finished rows? would be sent", done.stderr) == [
        str(number)
    ]
    checked = json.loads(job.call("check", "--json").stdout)
    assert (checked["to_send"], checked["repaid"]) == (number, number)
    return done.stderr


def test_the_server_receives_the_displayed_text(job, sandbox):
    """In the language of the job, and only for the columns of `shown:`."""
    job.write_spec(**spec({"price": "Price", "size": "Size"}, shown=["Price"], locale="de_DE"))
    assert job.run()["ok"] == 3
    assert {json.loads(body)["price"] for body in sandbox.billed()} == {"172,92 €", "10%", "7"}
    assert {json.loads(body)["size"] for body in sandbox.billed()} == {"5"}
    assert job.run()["requests"] == 0


def test_a_change_of_shown_is_refused_with_the_number_of_rows_that_get_another_text(job, sandbox):
    """The third price has the same text, so it stays finished. Undoing the change costs nothing."""
    job.run()
    job.write_spec(**spec({"price": "Price"}, shown=["Price"]))
    message = refused(job, 2)
    assert "the columns that are sent as the sheet displays them changed from none" in message
    assert "to Price (en_US)" in message
    job.write_spec(**spec({"price": "Price"}))
    assert job.run()["requests"] == 0
    job.write_spec(**spec({"price": "Price"}, shown=["Price"]))
    assert job.run("--accept-changes")["requests"] == 2
    assert job.run()["requests"] == 0
    job.write_spec(**spec({"price": "Price"}))
    assert job.run()["requests"] == 0
    assert sum(sandbox.billed().values()) == 5


def test_another_language_is_refused_with_the_number_of_rows_that_get_another_text(job, sandbox):
    """`172.92 €` and `172,92 €`."""
    job.write_spec(**spec({"price": "Price"}, shown=["Price"]))
    job.run()
    job.write_spec(**spec({"price": "Price"}, shown=["Price"], locale="de_DE"))
    assert "from Price (en_US) to Price (de_DE)" in refused(job, 1)
    assert sum(sandbox.billed().values()) == 3


def test_true_is_the_same_as_naming_the_columns_that_are_sent(job):
    """A column that is not sent changes nothing either."""
    job.write_spec(**spec({"price": "Price"}, shown=["Price"]))
    job.run()
    for shown in (True, ["Price", "Size"]):
        job.write_spec(**spec({"price": "Price"}, shown=shown))
        assert job.run()["requests"] == 0


@pytest.mark.parametrize("shown", [True, ["Price", "Size"]])
def test_a_column_that_is_displayed_only_now_hides_no_paid_row(job, shown):
    """Both columns were sent, one of them as stored. Now only the other one is sent, and the first
    one is displayed for `where:`."""
    job.write_spec(**spec({"price": "Price", "size": "Size"}, shown=["Price"]))
    job.run()
    where = [{"column": "Size", "equals": "5.0"}]
    job.write_spec(**spec({"price": "Price"}, shown=shown, where=where))
    refused(job, 3)


def test_a_renamed_column_of_shown_hides_no_paid_row(job):
    """The column has a new name in the sheet and in the job file, and a constant is new."""
    job.write_spec(**spec({"price": "Price"}, shown=["Price"]))
    job.run()
    write_prices(job, "Cost")
    job.write_spec(**spec({"price": "Cost"}, shown=["Cost"]))
    assert job.run()["requests"] == 0
    job.write_spec(**spec({"price": "Cost"}, shown=["Cost"], constants={"tone": "cold"}))
    refused(job, 3)


def test_a_column_of_shown_that_the_sheet_lacks_is_refused_with_its_line(job, sandbox):
    """And with the nearest name."""
    job.write_spec(**spec({"price": "Price"}, shown=["Prise"]))
    for verb in ("check", "run"):
        done = job.call(verb)
        assert done.returncode == 2
        assert 'job.yaml line 5: sheet.xlsx has no column "Prise" for `shown:`' in done.stderr
        assert 'Did you mean "Price"?' in done.stderr
    assert sandbox.received() == 0


def test_a_format_that_is_not_known_is_refused_before_anything_is_sent(job, sandbox):
    """The message names the cell and the format."""
    write_prices(job, note="ggge")
    job.write_spec(**spec({"size": "Size"}, shown=["Size"]))
    done = job.call("run")
    assert done.returncode == 2
    assert "Sheet1!B2: the runner cannot show this cell as the sheet does" in done.stderr
    assert "`ggge`" in done.stderr
    assert done.stderr.endswith("Nothing was sent.\n")
    assert sandbox.received() == 0


def test_an_export_of_displayed_columns_is_a_sheet_that_sends_nothing(job, sandbox):
    """A workbook keeps the numbers and their formats. A CSV has the displayed texts."""
    book = openpyxl.Workbook()
    book.active.append(["Price"])
    for number_format, value, _ in CELLS:
        book.active.append([float(value)])
        book.active.cell(book.active.max_row, 1).number_format = number_format
    book.save(job.folder / "sheet.xlsx")
    job.write_spec(**spec({"price": "Price"}, shown=["Price"], locale="de_DE"))
    job.run()
    for name in ("done.xlsx", "done.csv"):
        assert job.call("export", "--to", str(job.folder / name)).returncode == 0
    assert job.run("--input", str(job.folder / "done.xlsx"))["requests"] == 0
    job.write_spec(**spec({"price": "Price"}) | {"input": "done.csv"})
    assert job.run()["requests"] == 0
    assert sum(sandbox.billed().values()) == 3
