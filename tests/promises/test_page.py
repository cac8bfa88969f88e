"""The page: what a click sends and pays, and who may click. Bills are those of the server."""

from __future__ import annotations

import html
import os
import re
import resource
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import httpx
import pandas as pd
import pytest

from pipeline.job.run_folder import RunFolder
from tests.conftest import Job, SandboxProcess
from tests.support.browser import PageClient, eventually, serving
from tests.support.servers import Server

ROWS = [[f"story {n}"] for n in range(12)]


@pytest.fixture
def job(make_job, sandbox: SandboxProcess) -> Job:
    return make_job(sandbox.url, rows=ROWS)


@pytest.fixture
def page(job: Job) -> Iterator[PageClient]:
    with serving(job.folder, job.environment()) as (_, client):
        yield client


def _ended(job: Job) -> None:
    """Waits until the run that a click started has ended."""
    eventually(lambda: not _in_use(job))


def _in_use(job: Job) -> bool:
    return RunFolder(job.output).in_use


def test_the_page_rehearses_tries_five_rows_and_sends_the_rest(job: Job, page: PageClient, sandbox):
    actions = page.get("/actions", at="job.yaml")
    assert "Rehearse all rows" in actions
    assert page.click(actions, "/rehearse").status_code == 303
    rehearsal = RunFolder(job.output.with_name("job.sandbox"))
    eventually(lambda: rehearsal.summary.exists() and not rehearsal.in_use)
    assert sandbox.received() == 0

    actions = page.get("/actions", at="job.yaml")
    assert "At most 5 requests may be billed." in actions
    assert page.click(actions, "/start").status_code == 303
    _ended(job)
    assert sum(sandbox.billed().values()) == 5

    actions = page.get("/actions", at="job.yaml")
    assert "At most 7 requests may be billed." in actions
    assert page.click(actions, "/start").status_code == 303
    eventually(lambda: sum(sandbox.billed().values()) == 12)
    _ended(job)
    assert "Nothing to send" in page.get("/actions", at="job.yaml")
    assert set(sandbox.billed().values()) == {1}


def test_a_double_click_and_a_replayed_click_send_each_row_once(job: Job, page, sandbox):
    plan = page.get("/plan", at="job.yaml")
    fields = page.form(plan, "/start")
    for _ in range(3):
        page.post("/start", fields)
    _ended(job)
    assert set(sandbox.billed().values()) == {1}
    assert len(sandbox.billed()) == 12


def test_a_replayed_ask_again_is_one_bill(job: Job, page, sandbox):
    job.run()
    row = page.get("/row", at="job.yaml", row="3")
    plan = page.http.get(_link(row, "again=")).text
    assert "At most 1 request may be billed." in plan
    assert "Yes, send them" in plan
    fields = page.form(plan, "/start")
    first = page.post("/start", fields)
    assert first.status_code == 303
    _ended(job)
    again = page.post("/start", fields)
    assert again.status_code == 400
    assert "already carried out this plan" in again.text
    assert sorted(sandbox.billed().values()) == [1] * 11 + [2]


def test_ask_again_follows_its_answer_when_the_sheet_was_sorted(job: Job, page, sandbox):
    job.run()
    address = _link(page.get("/row", at="job.yaml", row="1"), "again=")
    job.write_sheet(["story"], ROWS[::-1])
    fields = page.form(page.http.get(address).text, "/start")
    assert page.post("/start", fields).status_code == 303
    _ended(job)
    twice = [body for body, billed in sandbox.billed().items() if billed == 2]
    assert ["story 0" in body for body in twice] == [True]


def _link(text: str, wanted: str) -> str:
    """The first address of a page that has this text in it."""
    return html.unescape(re.search(rf'href="([^"]*{wanted}[^"]*)"', text)[1])


def test_a_click_without_the_plan_of_the_page_sends_nothing(job: Job, page, sandbox):
    fields = page.form(page.get("/plan", at="job.yaml", limit="2"), "/start")
    for forged in (
        {"plan": ""},
        {"limit": "9"},
        {"plan": "plan1-0123456789abcdef0123456789abcdef"},
        {"do": "resume"},
        {"do": "settle"},
        {"limit": "--yes"},
        {"only": "x", "do": "resume"},
    ):
        answer = page.post("/start", fields | forged)
        assert answer.status_code == 400, (forged, answer.text)
    job.write_sheet(["story"], [["other"], *ROWS])
    assert page.post("/start", fields).status_code == 400
    assert sandbox.received() == 0


def test_two_clicks_on_stop_lose_no_answer(make_job):
    with Server(latency_s=0.0) as server:
        server.holding = True
        job = make_job(server.url, rows=ROWS, concurrency=4)
        with serving(job.folder, job.environment()) as (_, page):
            page.click(page.get("/plan", at="job.yaml"), "/start")
            eventually(lambda: server.in_flight == 4)
            for _ in range(3):
                stop = page.get("/actions", at="job.yaml")
                assert page.click(stop, "/stop").status_code == 303
            assert "4 requests are in flight" in page.get("/stop-now", at="job.yaml")
            server.holding = False
            _ended(job)
        status = job.status()
        assert (status["ok"], status["ambiguous"], status["pending"]) == (4, 0, 8)
        assert server.received.total() == 4


def test_stop_now_leaves_the_named_requests_ambiguous(make_job):
    with Server() as server:
        server.holding = True
        job = make_job(server.url, rows=ROWS, concurrency=4)
        with serving(job.folder, job.environment()) as (_, page):
            page.click(page.get("/plan", at="job.yaml"), "/start")
            eventually(lambda: server.in_flight == 4)
            asked = page.get("/stop-now", at="job.yaml")
            fields = page.form(asked, "/stop") | {"now": "1"}
            assert page.post("/stop", fields).status_code == 303
            _ended(job)
            server.holding = False
        assert job.status()["ambiguous"] == 4
        assert server.received.total() == 4


def test_a_run_goes_on_when_its_page_ends_and_a_killed_run_is_resumed_from_another(make_job):
    with Server() as server:
        server.holding = True
        job = make_job(server.url, rows=ROWS, concurrency=4)
        with serving(job.folder, job.environment()) as (process, page):
            page.click(page.get("/plan", at="job.yaml"), "/start")
            eventually(lambda: server.in_flight == 4)
            process.send_signal(signal.SIGINT)
            assert process.wait(30) == 0
        assert _in_use(job)
        os.kill(int((job.output / "lock").read_text()), signal.SIGKILL)
        _ended(job)
        server.holding = False
        with serving(job.folder, job.environment()) as (_, page):
            actions = page.get("/actions", at="job.yaml")
            assert "At most 8 requests may be billed." in actions
            page.click(actions, "/start")
            eventually(lambda: server.received.total() == 12)
            _ended(job)
        status = job.status()
        assert (status["ok"], status["ambiguous"]) == (8, 4)
        assert set(server.received.values()) == {1}


def test_only_the_browser_that_has_the_token_reaches_the_page(job: Job, page: PageClient):
    port = page.base.rsplit(":", 1)[1]
    with_token = page.address.removeprefix(page.base)
    with page.without_cookie() as stranger:
        for path in ("/", "/job?at=job.yaml", "/static/page.js", "/live?at=job.yaml", "/?token=x"):
            assert stranger.get(path).status_code == 403
        assert stranger.post("/start", headers={"origin": page.base}).status_code == 403
        for host in ("evil.example", f"evil.example:{port}", "127.0.0.1", "127.0.0.1:1"):
            assert page.http.get("/", headers={"host": host}).status_code == 403
            assert stranger.get(with_token, headers={"host": host}).status_code == 403


def test_a_form_of_another_site_changes_nothing(job: Job, page: PageClient, sandbox):
    fields = page.form(page.get("/plan", at="job.yaml"), "/start")
    for origin in ("http://evil.example", "null", "http://127.0.0.1:1", "https://127.0.0.1"):
        assert page.post("/start", fields, origin=origin).status_code == 403
        assert page.http.get("/", headers={"origin": origin}).status_code == 403
    assert page.http.post("/start", data=fields).status_code == 403
    for site in ("cross-site", "same-site"):
        answer = page.post("/start", fields, **{"sec-fetch-site": site})
        assert answer.status_code == 403
    assert page.http.get("/start").status_code == 405
    assert sandbox.received() == 0


@pytest.mark.parametrize(
    "name", ["../secret.yaml", "/etc/passwd", "link.yaml", "a/../../secret.yaml", "", "\0"]
)
def test_a_path_outside_the_started_folder_is_refused(job: Job, page, name: str):
    secret = job.folder.parent / "secret.yaml"
    secret.write_text("name: secret\nworkflow: wf\ninput: x.csv\n")
    (job.folder / "link.yaml").symlink_to(secret)
    for path in ("/job", "/actions", "/plan", "/rows", "/failures", "/files"):
        answer = page.http.get(path, params={"at": name})
        assert answer.status_code == 400, (path, answer.text)
        assert "workflow" not in answer.text


def test_no_form_of_a_rehearsal_pays(job: Job, page: PageClient, sandbox):
    """A run folder of paid answers has no rehearsal: its commands send paid requests."""
    job.run("--limit", "2")
    forms: tuple[tuple[str, dict[str, str]], ...] = (
        ("/rehearse", {"at": "runs/job"}),
        ("/rehearse", {"at": "runs/job", "rehearsal": "1"}),
        ("/start", {"at": "runs/job", "rehearsal": "1", "plan": "plan1-0"}),
    )
    for action, fields in forms:
        refused = page.post(action, fields)
        assert refused.status_code == 400
        assert "Nothing was read or sent." in refused.text
    _ended(job)
    assert sum(sandbox.billed().values()) == 2
    assert page.http.get("/job", params={"at": "runs/job", "rehearsal": "1"}).status_code == 400


def test_a_changed_job_file_pays_again_only_after_the_page_has_asked(job: Job, page, sandbox):
    """The form says so before it saves the change, and a replayed click pays nothing."""
    job.run()
    job.spec.write_text("name: job\nworkflow: wf_story\ninput: sheet.csv\nretries: 1\n")
    form = page.filled(page.get("/edit", at="job.yaml"), "/edit")
    sandbox.publish("wf_other", "{{story}} again")
    shown = page.post("/edit", form | {"do": "show", "workflow": "wf_other"}).text
    assert "12 finished rows would be sent and paid again" in shown
    assert page.post("/edit", page.filled(shown, "/edit")).status_code == 303
    actions = page.get("/actions", at="job.yaml")
    assert "12 finished rows would be sent again" in actions
    assert "/start" not in actions
    plan = page.http.get(_link(actions, "/plan")).text
    assert "At most 12 requests may be billed." in plan
    fields = page.form(plan, "/start")
    assert page.post("/start", fields).status_code == 303
    _ended(job)
    assert page.post("/start", fields).status_code == 400
    assert sorted(entry["billed"] for entry in sandbox.bills()) == [1] * 24


def test_a_reached_limit_is_named_in_place_of_a_button(job: Job, page: PageClient, sandbox):
    job.write_spec(max_paid=5)
    job.call("run")
    for path in ("/actions", "/plan"):
        shown = page.get(path, at="job.yaml")
        assert "raise `max_paid:`" in shown
        assert "/start" not in shown
    assert sum(sandbox.billed().values()) == 5


def test_the_page_asks_before_it_sends_failed_rows_that_may_have_been_paid(job: Job, page, sandbox):
    job.write_sheet(["story"], [["a #fault:success-false"], ["b"]])
    job.call("run")
    plan = page.get("/plan", at="job.yaml", do="resume")
    assert "Yes, send them" in plan
    assert "1 of the failed rows to send again may have been paid already: row 1" in plan
    assert page.click(plan, "/start").status_code == 303
    _ended(job)
    assert sorted(sandbox.billed().values()) == [1, 2]


@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="only Linux has it")
def test_a_refusal_that_cannot_be_printed_has_a_message(job: Job, sandbox):
    """As on a full disk: no file of the page and of its commands can grow."""
    job.run("--limit", "2")
    (job.output / "page.log").write_text("x" * 5000)
    with serving(job.folder, job.environment()) as (process, page):
        fields = page.form(page.get("/plan", at="job.yaml"), "/start")
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (4000, 4000))
        refused = page.post("/start", fields)
    assert refused.status_code == 400
    assert "Is the disk full?" in refused.text
    assert sum(sandbox.billed().values()) == 2


@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="only Linux has it")
def test_a_job_file_that_the_disk_refuses_stays_and_the_page_says_so(job: Job):
    before = job.spec.read_text()
    with serving(job.folder, job.environment()) as (process, page):
        fields = {"at": "job.yaml", "text": f"{before}# {'x' * 5000}\n"}
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (4000, 4000))
        refused = page.post("/edit", fields)
    assert "the disk refused this file" in refused.text
    assert "Nothing was saved." in refused.text
    assert "stopped sending" not in refused.text
    assert job.spec.read_text() == before


@pytest.mark.parametrize("path", ["/edit", "/upload?name=x.csv"])
def test_a_browser_that_leaves_in_the_middle_saves_and_prints_nothing(job: Job, path: str):
    with serving(job.folder, job.environment()) as (process, page):
        url = httpx.URL(page.base)
        cookies = "; ".join(f"{name}={value}" for name, value in page.http.cookies.items())
        with socket.create_connection((url.host, url.port)) as browser:
            head = f"POST {path} HTTP/1.1\r\nHost: {url.netloc.decode()}\r\nOrigin: {page.base}\r\n"
            head += f"Cookie: {cookies}\r\nContent-Length: 1000\r\n\r\nstory"
            browser.sendall(head.encode())
            page.get("/")
        eventually(lambda: not (job.folder / "x.csv").exists())
        page.get("/")
        process.send_signal(signal.SIGINT)
        printed = process.communicate()[1].decode()
    assert "Traceback" not in printed


def test_a_refused_click_leads_back_to_its_job(job: Job, page: PageClient):
    fields = page.form(page.get("/plan", at="job.yaml"), "/start")
    job.write_sheet(["story"], [["other"], *ROWS])
    refused = page.post("/start", fields)
    assert refused.status_code == 400
    assert 'href="/job?at=job.yaml"' in refused.text


def test_the_key_never_reaches_the_browser(job: Job, page: PageClient):
    page.click(page.get("/plan", at="job.yaml"), "/start")
    _ended(job)
    for path in ("/", "/job", "/actions", "/plan", "/rows", "/failures", "/files"):
        assert "sk_sandbox" not in page.get(path, at="job.yaml")


def test_the_page_says_who_works_in_the_folder(make_job):
    with Server() as server:
        server.holding = True
        job = make_job(server.url, rows=ROWS, concurrency=4)
        process = job.start()
        try:
            eventually(lambda: server.in_flight == 4)
            with serving(job.folder, job.environment()) as (_, page):
                refused = page.http.get("/plan", params={"at": "job.yaml"})
                assert refused.status_code == 400
                assert f"Process {process.pid} works in the run folder." in refused.text
                with page.http.stream("GET", "/live", params={"at": "job.yaml"}) as live:
                    first = next(live.iter_text())
                assert f"Process {process.pid} works in the run folder." in first
                server.holding = False
        finally:
            process.kill()
            process.wait()


def test_every_answer_forbids_inline_scripts(page: PageClient):
    for path in ("/", "/job?at=job.yaml", "/job?at=none.yaml", "/nothing", "/static/page.js"):
        headers = page.http.get(path).headers
        assert "script-src 'self'" in headers["content-security-policy"]
        assert "unsafe" not in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"


def test_the_run_note_of_a_click_is_that_of_a_command(job: Job, page: PageClient, tmp_path: Path):
    page.click(page.get("/plan", at="job.yaml"), "/start")
    _ended(job)
    assert job.call("verify").returncode == 0
    assert (job.output / "page.log").stat().st_mode & 0o777 == 0o600


def test_a_row_opens_with_all_columns_of_its_sheet(make_job, sandbox):
    """The table has only the first six of them."""
    columns = ["story", *(f"column {n}" for n in range(9))]
    job = make_job(sandbox.url, columns, [["a", *(f"cell {n}" for n in range(9))]])
    job.run()
    with serving(job.folder, job.environment()) as (_, page):
        assert "Each row opens with 4 more columns of the sheet." in page.get(
            "/rows", at="job.yaml"
        )
        assert "cell 8" in page.get("/row", at="job.yaml", row="1")


def test_an_upload_never_replaces_a_file(job: Job, page: PageClient):
    """It gets a free name in the folder, wherever its name leads. Only sheets are taken."""
    before = job.sheet.read_bytes()

    def upload(name: str) -> int:
        own = {"origin": page.base}
        return page.http.post(
            "/upload", params={"name": name}, content=b"a,b\n1,2\n", headers=own
        ).status_code

    assert [upload(name) for name in ("sheet.csv", "../sheet.csv", "/tmp/sheet.csv")] == [200] * 3
    assert [upload(name) for name in ("x.exe", "", "..", ".hidden.csv")] == [400] * 4
    assert job.sheet.read_bytes() == before
    made = sorted(path.name for path in job.folder.glob("*.csv"))
    assert made == ["sheet-2.csv", "sheet-3.csv", "sheet-4.csv", "sheet.csv"]


@pytest.mark.parametrize("rehearsal", [{}, {"rehearsal": "1"}])
def test_no_view_of_a_job_gives_it_another_run_folder(job: Job, page: PageClient, rehearsal):
    """The rehearsal shows the same job file. With another name, its paid answers would be paid
    again. Other keys can change."""
    job.run()
    assert job.call("run", "--sandbox").returncode == 0
    before = job.spec.read_text()
    fields = {"at": "job.yaml", **rehearsal}
    answer = page.post("/edit", fields | {"text": before.replace('name: "job"', "name: other")})
    assert "its answers would be paid again" in answer.text, answer.status_code
    assert job.spec.read_text() == before
    text = f"{before}concurrency: 3\n"
    assert page.post("/edit", fields | {"text": text}).status_code == 303
    assert job.spec.read_text() == text


def test_one_row_without_an_answer_is_sent_again_alone(make_job, sandbox):
    """Where it may be paid twice, there is a question first."""
    rows = [["a"], ["b #fault:blocked"], ["c #fault:cut-body"], ["d #fault:blocked"]]
    job = make_job(sandbox.url, rows=rows, concurrency=1)
    job.call("run")
    with serving(job.folder, job.environment()) as (_, page):
        assert "rows=1" not in page.get("/row", at="job.yaml", row="1")
        assert sandbox.received() == 4
        for number, asks in (("2", False), ("3", True)):
            row = page.get("/row", at="job.yaml", row=number)
            plan = page.http.get(_link(row, f"rows={number}")).text
            assert "1 row to send" in plan
            assert ("Yes, send them" in plan) is asks
            assert page.post("/start", page.form(plan, "/start")).status_code == 303
            _ended(job)
        assert sandbox.received() == 6
        assert {body: n for body, n in sandbox.billed().items() if n > 1} == {
            next(body for body in sandbox.billed() if "cut-body" in body): 2
        }


def test_one_column_of_an_answer_is_edited(make_job, sandbox):
    """The text has to fit the type of its column. The other columns keep the paid answer."""
    job = make_job(sandbox.url, rows=ROWS[:2])
    job.write_spec(
        variables={"story": "story"},
        columns={"title": "$.title", "n": {"path": "$.n", "type": "integer"}},
    )
    job.run()
    with serving(job.folder, job.environment()) as (_, page):
        row = page.get("/row", at="job.yaml", row="1")
        fields = page.form(row, "/review") | {"decision": "edited"}
        refused = page.post("/review", fields | {"column": "n", "text": "many"})
        assert "does not fit the column" in refused.text
        assert page.post("/review", fields | {"column": "none", "text": "1"}).status_code == 400
        for column, text in (("title", "<b>Mine</b>"), ("n", "7")):
            assert f'value="{column}"' in row
            answer = page.post("/review", fields | {"column": column, "text": text})
            assert answer.status_code == 303
        assert "&lt;b&gt;Mine&lt;/b&gt;" in page.get("/row", at="job.yaml", row="1")
    found = job.export()
    assert (found["title"][0], found["n"][0]) == ("<b>Mine</b>", 7)
    assert found["result"].notna().all()
    assert set(sandbox.billed().values()) == {1}


def test_a_decision_keeps_the_filter(job: Job, page: PageClient):
    """The forms of a row know the filter of the table next to it, and nothing else as a filter."""
    job.run()
    wanted = {"status": "ok", "text": "story 1 & ü", "column": "story"}
    job.sheet.write_text("story\nstory 1 & ü\n")
    job.run()
    rows = page.get("/rows", at="job.yaml", **wanted)
    row = page.http.get(_link(rows, "/row[?]")).text
    fields = {name: html.unescape(text) for name, text in page.form(row, "/review").items()}
    answer = page.post("/review", fields | {"decision": "approved"})
    location = httpx.URL(answer.headers["location"])
    assert dict(location.params) == {"at": "job.yaml", "open": "1", **wanted}
    assert "Review: approved." in page.http.get(str(location)).text
    for hostile in ("at=/etc/passwd&open=9&status=ok", "&" * 900, "%ff=%ed%a0%80"):
        answer = page.click(row, "/review", decision="approved", back=hostile)
        location = httpx.URL(answer.headers["location"])
        assert (location.path, location.params["at"]) == ("/rows", "job.yaml")


def test_a_filter_that_fits_nothing_is_shown_again_with_the_reason(job: Job, page: PageClient):
    job.run()
    for fields in ({"flag": "nonsense"}, {"code": "nonsense"}, {"column": "no", "text": "x"}):
        shown = page.get("/rows", at="job.yaml", **fields)
        assert 'class="problem"' in shown
        assert page.filled(shown, "/rows").items() >= fields.items()


def test_a_decision_about_shared_answers_asks_first(make_job, sandbox):
    columns = ["id", "story"]
    job = make_job(sandbox.url, columns, [["A", "x"], ["B", "x"], ["C", "y"]])
    job.write_spec(id="id", dedupe=True, variables={"story": "story"})
    job.run()
    with serving(job.folder, job.environment()) as (_, page):
        row = page.get("/row", at="job.yaml", row="1")
        asked = page.click(row, "/review", decision="approved")
        assert "1 other row with other ids has the same answer" in asked.text
        assert "Review: " not in page.get("/row", at="job.yaml", row="1")
        assert page.click(asked.text, "/review").status_code == 303
        reviews = [page.get("/row", at="job.yaml", row=n).count("Review: approved.") for n in "123"]
        assert reviews == [1, 1, 0]


def test_every_download_is_a_whole_file(job: Job, page: PageClient, tmp_path: Path):
    job.run()
    page.click(page.get("/row", at="job.yaml", row="2"), "/review", decision="approved")
    got = {}
    for kind in ("xlsx", "csv", "parquet", "jsonl", "report", "review"):
        answer = page.http.get("/download", params={"at": "job.yaml", "kind": kind})
        assert answer.status_code == 200
        name = re.search(r'filename="([^"]*)"', answer.headers["content-disposition"])[1]
        got[kind] = tmp_path / name
        got[kind].write_bytes(answer.content)
    tables = [
        pd.read_excel(got["xlsx"], engine="calamine"),
        pd.read_csv(got["csv"]),
        pd.read_parquet(got["parquet"]),
        pd.read_json(got["jsonl"], lines=True),
        pd.read_excel(got["review"], engine="calamine"),
    ]
    assert [(len(table), table["story"].tolist()[11]) for table in tables] == [(12, "story 11")] * 5
    assert "12 ok" in got["report"].read_text()
    assert job.call("review", "--from", str(got["review"])).returncode == 0


def test_rows_are_filtered_by_text_flag_and_column(make_job, sandbox):
    """A text means its characters, not a pattern. Wrong words are refused with what there is."""
    rows = [["100% [a-z]*", "x"], ["x_y", "100%"], ["#fault:result-empty", "z"]]
    job = make_job(sandbox.url, ["story", "note"], rows)
    job.write_spec(variables={"story": "story"})
    job.call("run")
    with serving(job.folder, job.environment()) as (_, page):

        def found(**values: str) -> list[str]:
            text = page.get("/rows", at="job.yaml", **values)
            return re.findall(r">row (\d+) \(", text)

        assert found(text="100%") == ["1", "2"]
        assert found(text="100%", column="note") == ["2"]
        assert found(text="[A-Z]*", column="story") == ["1"]
        assert found(text="x_y") == ["2"]
        assert found(text="' OR 1=1 --") == []
        assert found(flag="empty") == ["3"]
        assert found(flag="empty", status="failed") == []
        for values in ({"flag": "none"}, {"text": "x", "column": "none"}, {"status": "done"}):
            text = page.get("/rows", at="job.yaml", **values)
            assert re.search(r"There is no (flag|column|status) &quot;(none|done)&quot;", text)
