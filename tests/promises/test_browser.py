"""The page in Chromium: a whole job with mouse and keyboard, and hostile sheets and answers."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import openpyxl
import pytest
from playwright.sync_api import Browser, Page

from pipeline.job.run_folder import RunFolder
from tests.conftest import Job, SandboxProcess
from tests.support.browser import PageClient, eventually, serving
from tests.support.servers import Server

HOSTILE = (
    "<script>window.hit=1</script>",
    '"><img src=x onerror=window.hit=1>',
    "<svg onload=window.hit=1></svg>",
    "[x](javascript:window.hit=1)",
    "![x](http://127.0.0.1:9/pixel.png)",
    '<div hx-get="/stop" hx-trigger="load" data-live="/x">x</div>',
    "</td></table><form action=/start method=post><button>x",
    "=HYPERLINK(1)\u202e\u0000x",
)


def _idle(folder: Path) -> None:
    eventually(lambda: not RunFolder(folder).in_use)


def test_a_person_walks_through_a_whole_job(
    opened, make_job, sandbox: SandboxProcess, tmp_path: Path
):
    """Drop a sheet, write the job, rehearse, try five rows, run, read, edit, approve, download."""
    job: Job = make_job(sandbox.url, rows=[["x"]])
    job.spec.unlink()
    job.sheet.unlink()
    mine = tmp_path / "Ideas 2026.csv"
    mine.write_text("Story idea\n" + "".join(f"idea {n}\n" for n in range(12)), "utf-8")
    sandbox.publish("wf_new", "{{story_idea}}")
    with serving(job.folder, job.environment()) as (_, client):
        page = opened(client.address)
        page.get_by_label("Drop a sheet here").set_input_files(mine)
        page.wait_for_url("**/new?**")
        page.get_by_role("cell", name="idea 3").wait_for()
        page.get_by_label("Name of the job").fill("ideas")
        page.get_by_label("Workflow id").fill("wf_new")
        page.get_by_role("button", name="Show the job file").click()
        assert "story_idea" in page.get_by_label("The job file").input_value()
        assert "idea 0" in page.locator("pre").first.inner_text()
        page.get_by_role("button", name="Save the job file").click()

        page.get_by_role("button", name="Rehearse all rows").click()
        folder = job.folder / "runs" / "ideas"
        page.get_by_text("This is a rehearsal").wait_for()
        _idle(folder.with_name("ideas.sandbox"))
        assert sandbox.received() == 0

        page.get_by_role("link", name="Back to the job itself").click()
        page.get_by_role("button", name="Try 5 rows").click()
        page.get_by_text("Requests paid so far: 5.").wait_for()
        page.get_by_role("button", name="Run").or_(
            page.get_by_role("button", name="Continue")
        ).click()
        page.get_by_text("Requests paid so far: 12.").wait_for()
        page.get_by_text("Nothing to send").wait_for()

        page.get_by_role("link", name="Rows").click()
        page.get_by_label("Status").select_option("ok")
        page.get_by_role("button", name="Filter").click()
        page.wait_for_url("**/rows?**status=ok**")  # the page before has these links too
        page.get_by_role("link", name="row 2 (").click()
        beside = page.get_by_label("One row")
        beside.get_by_text("Edit the answer").click()
        beside.get_by_label("The edited answer").fill("My own text")
        beside.get_by_role("button", name="Save this text").click()
        page.get_by_label("One row").get_by_text("Review: edited.").wait_for()
        page.get_by_role("link", name="row 3 (").click()
        page.get_by_label("One row").get_by_role("heading", name="row 3 (").wait_for()
        page.get_by_label("One row").get_by_role("button", name="Approve").click()
        page.get_by_label("One row").get_by_text("Review: approved.").wait_for()

        page.get_by_role("link", name="Download").click()
        with page.expect_download() as found:
            page.get_by_role("button", name="Download").click()
        target = tmp_path / "answers.xlsx"
        found.value.save_as(target)
    cells = list(openpyxl.load_workbook(target).active.iter_rows(values_only=True))
    assert cells[0][:2] == ("Story idea", "result")
    assert cells[2][1] == "My own text"
    assert len(cells) == 13
    assert set(sandbox.billed().values()) == {1}


def test_hostile_sheets_and_answers_run_nothing(opened, make_job):
    """The answers are those of the sheet, and the columns have hostile names too."""
    with Server() as server:
        rows = [[text, str(number)] for number, text in enumerate(HOSTILE)]
        columns = ["<script>window.hit=1</script>", "n"]
        job = make_job(server.url, columns, rows, name="job", variables={"a": columns[0]})
        assert job.call("run").returncode == 0
        with serving(job.folder, job.environment()) as (_, client):
            page = opened(client.address)
            for path in ("/", "/job", "/rows", "/failures", "/files", "/edit", "/plan"):
                page.goto(f"{client.base}{path}?at=job.yaml")
                assert page.evaluate("window.hit") is None
            page.goto(f"{client.base}/new?sheet=sheet.csv")
            assert page.evaluate("window.hit") is None
            page.goto(f"{client.base}/rows?at=job.yaml")
            for number in range(len(HOSTILE)):
                page.get_by_role("link", name=f"row {number + 1} (").click()
                beside = page.get_by_label("One row")
                beside.get_by_role("heading", name=f"row {number + 1} (").wait_for()
                assert page.evaluate("window.hit") is None
                frames = page.evaluate(
                    "document.querySelectorAll('img, iframe, object, svg, [hx-trigger=load],"
                    ' a[href^="javascript"]\').length'
                )
                assert frames == 0


def test_a_run_that_was_killed_is_seen_and_resumed(opened, make_job):
    with Server() as server:
        server.holding = True
        job = make_job(server.url, rows=[[f"story {n}"] for n in range(8)], concurrency=3)
        with serving(job.folder, job.environment()) as (_, client):
            page = opened(client.address)
            page.goto(f"{client.base}/plan?at=job.yaml")
            page.get_by_role("button", name="Send").click()
            page.get_by_text("with 3 requests in flight").wait_for()
            os.kill(int((job.output / "lock").read_text()), signal.SIGKILL)
            page.get_by_text("it did not record its end").wait_for()
            server.holding = False
            page.get_by_role("button", name="Run").click()
            eventually(lambda: server.received.total() == 8)
            _idle(job.output)
        assert set(server.received.values()) == {1}
        assert (job.status()["ok"], job.status()["ambiguous"]) == (5, 3)


def test_the_keyboard_alone_reaches_the_button(opened, make_job, sandbox: SandboxProcess):
    job = make_job(sandbox.url, rows=[["a"], ["b"]])
    with serving(job.folder, job.environment()) as (_, client):
        page = opened(client.address)
        page.goto(f"{client.base}/plan?at=job.yaml")
        for _ in range(12):
            page.keyboard.press("Tab")
            if page.evaluate("document.activeElement.textContent") == "Send":
                break
        page.keyboard.press("Enter")
        page.get_by_text("Requests paid so far: 2.").wait_for()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_screen_is_wider_than_its_window(opened, make_job, sandbox, scheme):
    """Tables scroll within their own box. PAGE_PICTURES names a folder that gets the screens."""
    rows = [[f"story {n} about a dog and a very long road", "x" * 90] for n in range(9)]
    job = make_job(sandbox.url, ["story", "notes"], [*rows, ["#fault:blocked", ""]])
    job.write_spec(variables={"story": "story"}, id=None)
    job.call("run")
    pictures = os.environ.get("PAGE_PICTURES")
    with serving(job.folder, job.environment()) as (_, client):
        page: Page = opened(client.address, color_scheme=scheme)
        for name, path in (
            ("jobs", "/"),
            ("job", "/job"),
            ("rows", "/rows?open=2"),
            ("failures", "/failures"),
            ("files", "/files"),
            ("edit", "/edit"),
            ("text", "/edit?as=text"),
            ("new", "/new?sheet=sheet.csv"),
            ("plan", "/plan"),
        ):
            mark = "&" if "?" in path else "?"
            page.goto(f"{client.base}{path}{mark}at=job.yaml")
            for width in (1280, 800, 390):
                page.set_viewport_size({"width": width, "height": 900})
                page.wait_for_timeout(100)
                if pictures:
                    page.screenshot(path=Path(pictures, f"{name}-{width}-{scheme}.png"))
                wide = page.evaluate("document.documentElement.scrollWidth - innerWidth")
                assert wide <= 0, (name, width, wide)


def test_a_row_that_was_opened_on_a_narrow_screen_is_in_view(opened, make_job, sandbox):
    """It stands below the table there. Without an open row, the table has the whole width."""
    job = make_job(sandbox.url, rows=[[f"story {n}"] for n in range(40)])
    job.run()
    with serving(job.folder, job.environment()) as (_, client):
        page = opened(client.address, viewport={"width": 390, "height": 700})
        for path in ("/rows?at=job.yaml", "/rows?at=job.yaml&open=3"):
            page.goto(f"{client.base}{path}")
            if "open" not in path:
                page.get_by_role("link", name="row 1 (").click()
            heading = page.get_by_label("One row").get_by_role("heading").first
            heading.wait_for()
            eventually(
                lambda heading=heading: heading.evaluate(
                    "e => e.getBoundingClientRect().top >= 0"
                    " && e.getBoundingClientRect().bottom <= innerHeight"
                )
            )
        page.set_viewport_size({"width": 1280, "height": 700})
        page.goto(f"{client.base}/rows?at=job.yaml")
        assert page.locator(".wide").bounding_box()["width"] > 900


def test_another_origin_cannot_click(chromium: Browser, make_job, sandbox: SandboxProcess):
    """A page of another server on this machine sends a form, with the cookie of this browser."""
    job = make_job(sandbox.url, rows=[["a"], ["b"]])
    with serving(job.folder, job.environment()) as (_, client), Server() as evil:
        context = chromium.new_context()
        page = context.new_page()
        page.goto(client.address)
        fields = PageClient.form(client, client.get("/plan", at="job.yaml"), "/start")
        inputs = "".join(f"<input name={k} value={v}>" for k, v in fields.items())
        form = f"<form method=post action={client.base}/start>{inputs}</form>"
        page.route(
            f"{evil.url}/**", lambda route: route.fulfill(body=form, content_type="text/html")
        )
        page.goto(f"{evil.url}/")
        with page.expect_navigation() as found:
            page.evaluate("document.forms[0].submit()")
        assert found.value.status == 403
        context.close()
    assert sandbox.received() == 0
