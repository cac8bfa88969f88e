"""Hidden rows and totals rows of a workbook: sent or skipped as the job says, and paid once."""

from __future__ import annotations

import json
import zipfile

import pytest

from tests.unit.inputs.test_unseen import book


def test_a_paid_answer_of_a_row_that_is_hidden_later_stays_in_the_export(sandbox, make_job):
    """`hidden: skip` sends nothing again, and neither does the way back."""
    job = make_job(sandbox.url)
    book(job.folder / "book.xlsx", hidden=())
    fields = {"input": "book.xlsx", "variables": {"story": "story"}}
    job.write_spec(**fields)
    assert job.run()["ok"] == 4
    assert len(sandbox.billed()) == 4
    assert not any("Total" in body for body in sandbox.billed())
    book(job.folder / "book.xlsx", hidden=(3,))
    job.write_spec(**fields, hidden="skip")
    summary = job.run()
    assert (summary["requests"], summary["ok"], summary["skipped"]) == (0, 4, 1)
    table = job.export()
    assert list(table["_status"]) == ["ok", "ok", "ok", "ok", "skipped"]
    assert table["result"][1]
    assert "the sheet hides it" in table["_error_message"][1]
    assert "totals row" in table["_error_message"][4]
    job.write_spec(**fields)
    assert job.run()["requests"] == 0
    assert len(sandbox.billed()) == 4
    assert job.call("verify").returncode == 0


def test_check_and_the_first_run_say_what_the_user_may_not_see(sandbox, make_job):
    """Later runs do not. With `hidden: skip`, the rows are skipped with this reason."""
    job = make_job(sandbox.url)
    book(job.folder / "book.xlsx", hidden=(3, 5))
    fields = {"input": "book.xlsx", "variables": {"story": "story", "cost": "cost"}}
    job.write_spec(**fields)
    checked = job.call("check")
    said = (
        "2 rows are hidden in the sheet, by a filter or by hand (Sheet1 row 3, Sheet1 row 5): sent",
        'Hidden columns, which are sent if `variables:` names them: "cost"',
        "The totals row of a table is never sent: Sheet1 row 6",
    )
    assert all(words in checked.stdout for words in said), checked.stdout
    assert "Skipped: 1 because it is the totals row of a table" in checked.stdout
    job.write_spec(**fields, hidden="skip")
    found = json.loads(job.call("check", "--json").stdout.splitlines()[-1])
    assert found["skipped_by"] == {"hidden": 2, "totals": 1}
    assert (found["sheet"]["hidden_rows"], found["to_send"]) == (2, 2)
    first, second = job.call("run"), job.call("run")
    assert "skipped (`hidden: skip`)" in first.stderr
    assert "3 rows skipped: 2 because the sheet hides it" in first.stderr
    assert "hidden" not in second.stderr
    assert len(sandbox.billed()) == 2


@pytest.mark.parametrize("left_out", ["totals", "hidden"])
def test_an_error_in_a_row_that_is_never_sent_refuses_nothing(sandbox, make_job, left_out):
    """A totals row often has a formula that no program calculated."""
    job = make_job(sandbox.url)
    path = job.folder / "book.xlsx"
    book(path, hidden=(3,) if left_out == "hidden" else ())
    row = "3" if left_out == "hidden" else "6"
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name).decode() for name in archive.namelist()}
    sheet = parts["xl/worksheets/sheet1.xml"]
    start = sheet.index(f'<c r="B{row}"')
    end = min(
        sheet.index(mark, start) + len(mark) for mark in ("</c>", "/>") if mark in sheet[start:]
    )
    error = f'<c r="B{row}" t="e"><v>#DIV/0!</v></c>'
    parts["xl/worksheets/sheet1.xml"] = sheet[:start] + error + sheet[end:]
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
    variables = {"story": "story", "cost": "cost"}
    job.write_spec(input="book.xlsx", variables=variables, hidden="skip", empty="send")
    done = job.call("run")
    assert done.returncode == 0, done.stderr
    assert not any("#DIV" in body for body in sandbox.billed())


@pytest.mark.parametrize("named", [{}, {"id": "sku"}, {"dedupe": True}])
def test_an_ambiguous_row_that_is_left_out_later_is_ambiguous_in_an_export(
    sandbox, make_job, named
):
    """So another job that uses the export as its sheet does not send the row again."""
    rows = [["1", "a", "yes"], ["2", "lost #fault:html-504-billed", "yes"], ["3", "c", "yes"]]
    fields = {"variables": {"story": "story"}, **named}
    job = make_job(sandbox.url, ["sku", "story", "wanted"], rows, **fields)
    job.run(expect=5)
    billed = sandbox.billed()
    rows[1][2] = "no"
    job.write_sheet(["sku", "story", "wanted"], rows)
    job.write_spec(**fields, where=[{"column": "wanted", "equals": "yes"}])
    summary = job.run()
    assert (summary["requests"], summary["skipped"]) == (0, 1)
    table = job.export()
    assert list(table["_status"]) == ["ok", "ambiguous", "ok"]
    assert "`where:`" in table["_error_message"][1]
    refused = job.call("export", "--to", str(job.folder / "short.csv"), "--add", "result")
    assert (refused.returncode, "1 row is ambiguous" in refused.stderr) == (2, True)
    job.write_spec(input="exported.parquet", output="elsewhere", **fields)
    job.call("run", "--yes", "--json")
    # `--yes` lets the new folder pay for the rows that have an answer, but never for this one.
    assert sandbox.billed()[lost(sandbox)] == billed[lost(sandbox)] == 1


def lost(sandbox) -> str:
    """The body of the row whose outcome is not known."""
    return next(body for body in sandbox.billed() if "html-504" in body)
