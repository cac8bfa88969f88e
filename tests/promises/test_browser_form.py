"""The page in Chromium: a sheet that is dropped, and a messy workbook from the drop to the
download."""

from __future__ import annotations

import base64
from pathlib import Path

import openpyxl
import pytest
from playwright.sync_api import Browser, Page

from tests.conftest import Job, SandboxProcess
from tests.support.browser import serving
from tests.support.workbook_kinds import write_messy

_DROP = """([name, content]) => {
  const bytes = Uint8Array.from(atob(content), (one) => one.charCodeAt(0));
  const data = new DataTransfer();
  data.items.add(new File([bytes], name));
  const drop = document.querySelector("[data-drop]");
  const event = (kind) => new DragEvent(
    kind, { dataTransfer: data, bubbles: true, cancelable: true });
  const refused = drop.dispatchEvent(event("dragover"));
  drop.dispatchEvent(event("drop"));
  return refused;
}"""
"""Drops a file as a mouse would. Returns whether the browser would open the file itself."""


def _drop(page: Page, path: Path, name: str | None = None) -> object:
    return page.evaluate(_DROP, [name or path.name, base64.b64encode(path.read_bytes()).decode()])


@pytest.fixture
def job(make_job, sandbox: SandboxProcess) -> Job:
    return make_job(sandbox.url, rows=[["one"], ["two"]])


def test_a_dropped_sheet_is_uploaded_and_read(opened, job: Job, tmp_path: Path):
    mine = tmp_path / "Ideas & more.csv"
    mine.write_text("Idea\nfirst\n", "utf-8")
    with serving(job.folder, job.environment()) as (_, client):
        page = opened(client.address)
        assert _drop(page, mine) is False
        page.wait_for_url("**/new?**")
        page.get_by_role("cell", name="first").wait_for()
        assert (job.folder / "Ideas & more.csv").read_bytes() == mine.read_bytes()


def test_a_dropped_file_that_is_no_sheet_is_refused_where_it_was_dropped(
    chromium: Browser, job: Job
):
    before = sorted(job.folder.glob("*.*"))
    with serving(job.folder, job.environment()) as (_, client):
        page = chromium.new_page()
        page.goto(client.address)
        _drop(page, job.sheet, "tool.exe")
        page.get_by_text("the page reads .csv").wait_for()
        page.close()
    assert sorted(job.folder.glob("*.*")) == before


def test_a_messy_workbook_goes_from_the_drop_to_the_download(
    opened, job: Job, sandbox: SandboxProcess, tmp_path: Path
):
    """It asks for the worksheet and the row of the names, shows each cell that cannot be sent, and
    the answers stand next to the rows that were sent."""
    messy = write_messy(tmp_path / "messy.xlsx")
    sandbox.publish("wf_messy", "{{story}} {{tone}}")
    with serving(job.folder, job.environment()) as (_, client):
        page = opened(client.address)
        _drop(page, messy)
        page.wait_for_url("**/new?**")
        page.get_by_label("Worksheet").select_option("Ideas")
        page.get_by_role("button", name="Read the sheet again").click()
        page.get_by_text("If that is a title").wait_for()
        page.get_by_label("Row of the column names").fill("3")
        page.get_by_role("button", name="Read the sheet again").click()
        for said in ("Ideas!E6: #DIV/0!", "Ideas!E7: this cell has a formula", "G8:G9: these"):
            page.get_by_text(said).wait_for()
        page.get_by_label("Workflow id").fill("wf_messy")
        page.get_by_label("Variable 1").fill("story")
        page.get_by_label("Column, and its first text").first.select_option(
            label="Story · story 0 xxx"
        )
        page.get_by_label("Variable 2").fill("tone")
        page.get_by_label("Column, and its first text").nth(1).select_option(
            label="(the same text in every row)"
        )
        page.get_by_label("Text", exact=True).nth(1).fill("warm")
        page.get_by_label("Column, and its first text").nth(2).select_option(label="(left out)")
        page.get_by_label("Hidden rows").select_option(label="skip them")
        page.get_by_role("button", name="Show the job file").click()
        text = page.get_by_label("The job file").input_value()
        assert "variables:\n  story: Story  # for example: story 0 xxx\n" in text
        assert '{"story":"story 0 xxx","tone":"warm"}' in page.locator("pre").first.inner_text()
        page.get_by_role("button", name="Save the job file").click()
        page.get_by_role("link", name="Run all rows…").click()
        page.get_by_text("At most 5 requests may be billed.").wait_for()
        page.get_by_role("button", name="Send").click()
        page.get_by_text("Requests paid so far: 5.").wait_for()
        page.get_by_text("Nothing to send").wait_for()
        page.get_by_role("link", name="Download").click()
        with page.expect_download() as found:
            page.get_by_role("button", name="Download").click()
        target = tmp_path / "answers.xlsx"
        found.value.save_as(target)
    assert len(sandbox.billed()) == 5
    assert set(sandbox.billed().values()) == {1}
    assert any("x" * 300 in body for body in sandbox.billed())
    sheet = openpyxl.load_workbook(target)["Ideas"]
    names = [cell.value for cell in sheet[3]]
    answers = [sheet.cell(row, names.index("result") + 1).value for row in range(4, 10)]
    assert [bool(answer) for answer in answers] == [True, False, True, True, True, True]
    assert "story 2" in answers[2]
