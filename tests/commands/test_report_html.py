"""report.html: one file that loads nothing, and texts of sheets and servers do nothing in it."""

from __future__ import annotations

import base64
import hashlib
import http.server
import json
import os
import re
import shutil
import socketserver
import sqlite3
import stat
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

import pipeline
from pipeline.core.model import State
from pipeline.ledger.past_runs import RunFacts
from pipeline.ledger.trends import History, Latencies
from pipeline.report.groups import Group
from pipeline.report.html import samples
from pipeline.report.html.markup import element, http_url, link, visible
from pipeline.report.html.page import PageFacts, page
from pipeline.report.overview import FlaggedAnswers
from pipeline.results.flags import FLAGS
from pipeline.status.summary import summarize_error
from tests.conftest import TOP, Job, started_sandbox
from tests.support.servers import Answer, Server

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
ELEMENTS = frozenset(
    """html head meta title style body main footer section article h1 h2 h3 p b small ul ol li div
    dl dt dd pre code span bdi a figure figcaption table thead tbody tr th td
    svg path text""".split()  # noqa: SIM905
)
ATTRIBUTES = frozenset(
    """lang charset http-equiv content name class dir href rel role id aria-label viewbox d x y
    transform font-size font-family text-anchor fill fill-opacity stroke stroke-width stroke-opacity
    stroke-dasharray stroke-linejoin""".split()  # noqa: SIM905
)


def hostile_texts(canary: str) -> list[str]:
    """Each text would act on a careless page: change the document, or request the canary."""
    act = f"document.documentElement.dataset.hacked=1;fetch('{canary}/fetch')"
    return [
        f"<script>{act}</script><script src={canary}/script></script>",
        f'"><img src="{canary}/img" onerror="{act}">',
        f"<svg onload=\"{act}\"><image href='{canary}/svg'/></svg>",
        "W" * 150,
        f"</style><style>@import '{canary}/style';</style>",
        f"]]><!-- --!><link rel=stylesheet href={canary}/link>",
        f"<!-- </title><body onload={act}>",
        f"javascript:{act}",
        "\x1b[31mred\x1b[0m \x9b2J \x07 \x7f",
        "\u202egnp.exe\u202c \u2066isolated\u2069 \u2028 \x00",
        "مرحبا بالعالم 123",
        "&lt;b&gt; &amp;#60; ' \" `",
        f"<a href=javascript:{act}>x</a><iframe srcdoc='<script>{act}</script>'></iframe>",
    ]


def hostile_answer(body: bytes, canary: str) -> Answer:
    """Repeats the question in each place of an answer; how it ends is the question's first word."""
    story = json.loads(body)["story"]
    kind = story.split(" ")[0]
    refusal = {"success": False, "error": story, "code": "request_blocked"}
    if kind == "blocked":
        return 400, {}, json.dumps(refusal).encode()
    if kind == "odd":
        return 422, {}, json.dumps(refusal | {"code": "<b>odd</b>"}).encode()
    if kind == "failed":
        return 200, {}, json.dumps(refusal | {"code": "run_failed"}).encode()
    if kind == "gateway":
        return 502, {}, story.encode()
    citations = [
        {"title": story, "url": f"javascript:fetch('{canary}/cited')"},
        {"title": story, "url": "https://good.example/a?b=<c>&d"},
        {"title": story[:40], "url": "https://good.example/a?b=c&d='"},
        {"title": "bank.example", "url": "https://bank.example:pw@evil.example/"},
        {"title": "\u202ebidi", "url": "http://xn--.example/ü"},
        {"title": "", "url": "data:text/html,<script>1</script>"},
        {"title": "", "url": "https://<b>odd</b>$x$/"},
    ]
    answer = {"success": True, "result": f"{story}\ud800\x00", "citations": citations}
    return 200, {}, json.dumps(answer).encode()


@contextmanager
def counting() -> Iterator[tuple[str, list[str]]]:
    """(its address, the paths that were requested): a server that no page may contact."""
    asked: list[str] = []

    class Counting(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Counting) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}", asked
        server.shutdown()


class Hostile:
    """A mixed run of hostile texts, its report, and the canary that they point to."""

    def __init__(self, folder: Path, canary: str, asked: list[str]) -> None:
        self.canary, self.asked = canary, asked
        self.texts = hostile_texts(canary)
        self.job = Job(folder, folder / "job.yaml", folder / "sheet.csv", "")
        sent = [text.replace("\x00", "") for text in self.texts]  # no CSV holds that
        rows = [*sent, " ".join(sent) * 3]
        rows += [f"{kind} {text}" for kind in ("blocked", "odd", "failed") for text in sent[:5]]
        rows += [f"gateway {text}" for text in sent[:2]]
        self.job.write_sheet(["<i>idea</i>"], [[row] for row in rows])
        self.job.write_spec(variables={"story": "<i>idea</i>"}, retries=0)
        with Server(lambda body: hostile_answer(body, canary)) as server:
            self.job.base_url = server.url
            self.summary = self.job.run(expect=5)
            done = self.job.call("report")
        assert done.returncode == 0, done.stderr
        self.path = self.job.output / "report.html"
        self.page = self.path.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hostile]:
    """Made once: no test changes it."""
    with counting() as (canary, asked):
        yield Hostile(tmp_path_factory.mktemp("hostile"), canary, asked)


class Parsed(HTMLParser):
    """The elements, attributes and texts of a page."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: set[str] = set()
        self.attributes: set[str] = set()
        self.links: list[dict[str, str | None]] = []
        self.metas: list[dict[str, str | None]] = []
        self.labels: list[str] = []
        self.text = ""
        self.commands: list[str] = []
        self.declarations = 0
        self._in: list[str] = []
        self.feed(page)
        self.close()
        assert not self._in, self._in

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.elements.add(tag)
        self.attributes |= set(found)
        if tag == "a":
            self.links.append(found)
        if tag == "meta":
            self.metas.append(found)
            return
        if tag == "svg":
            assert found["role"] == "img"
            self.labels.append(found["aria-label"] or "")
        if tag == "code":
            self.commands.append("")
        if tag != "a" and "href" in found:
            assert (found["href"] or "").startswith("#")
        self._in.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._in.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data
        if "code" in self._in:
            self.commands[-1] += data

    def handle_comment(self, data: str) -> None:
        raise AssertionError(f"a comment: {data}")

    def handle_decl(self, decl: str) -> None:
        self.declarations += 1

    def unknown_decl(self, data: str) -> None:
        raise AssertionError(f"a declaration: {data}")


def test_a_page_of_hostile_texts_has_only_the_elements_of_a_report(hostile):
    """No element, attribute, comment or unclosed tag that the report itself did not write."""
    parsed = Parsed(hostile.page)
    assert parsed.elements <= ELEMENTS, parsed.elements - ELEMENTS
    assert parsed.attributes <= ATTRIBUTES, parsed.attributes - ATTRIBUTES
    assert parsed.declarations == 1
    assert {"a", "svg", "table", "figure", "code"} <= parsed.elements
    assert hostile.summary["ok"] == 14
    assert (hostile.summary["failed"], hostile.summary["ambiguous"]) == (15, 2)


def test_hostile_texts_can_be_read_unchanged(hostile):
    """Invisible characters with an effect are written out. Nothing else of a text changes."""
    text = Parsed(hostile.page).text
    for one in hostile.texts:
        assert visible(one.replace("\x00", "")) in text, one
    for written_out in (
        "[U+001B][31mred",
        "[U+009B]2J",
        "[U+0007]",
        "[U+007F]",
        "[U+202E]gnp.exe",
        "[U+0000]",
    ):
        assert written_out in text
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]", hostile.page)
    assert "<b>odd<: 14" in text.replace("\n", "")  # in the picture


def test_only_plain_http_addresses_are_links(hostile):
    """Not those with a password, and not those that browsers read differently. Others are text."""
    parsed = Parsed(hostile.page)
    assert {found["href"] for found in parsed.links} == {
        "https://good.example/a?b=c&d='",
        "http://xn--.example/ü",
    }
    assert {found["rel"] for found in parsed.links} == {"noopener noreferrer nofollow"}
    for shown in ("https://bank.example:pw@evil.example/", "data:text/html,<script>1</script>"):
        assert shown in parsed.text


@pytest.mark.parametrize(
    ("text", "host"),
    [
        ("https://good.example/ü", "good.example"),
        ("https://faß.de/", "xn--fa-hia.de"),
        ("https://βόλος.com/", "xn--nxasmm1c.com"),
        ("https://аpple.com/", "xn--pple-43d.com"),
        ("https://MÜNCHEN.de/", "xn--mnchen-3ya.de"),
    ],
)
def test_the_host_shown_is_the_one_that_a_browser_opens(text, host):
    """By the rules of today's browsers. Those of 2003 would show ß as ss, which is another host."""
    url = http_url(text)
    assert url is not None
    assert url.host == host


@pytest.mark.parametrize(
    "text", ["https://foo_bar.é.com/", "https://a..é/", f"http://{'é' * 64}.de"]
)
def test_a_host_that_no_browser_opens_is_not_a_link(text):
    """There is no host to show for it."""
    assert http_url(text) is None


def test_the_policy_allows_the_one_style_sheet_and_nothing_else(hostile):
    """By its hash. The page has no style attribute, which the policy would forbid."""
    [policy] = [m["content"] for m in Parsed(hostile.page).metas if "http-equiv" in m]
    [style] = re.findall("<style>(.*?)</style>", hostile.page, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert policy == (
        f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    )
    assert "url(" not in style
    assert "@import" not in style


def chromium(page: Path, profile: Path, *options: str) -> tuple[str, str]:
    """(the document after a browser has loaded it, the complaints of the browser)."""
    assert CHROMIUM is not None
    done = subprocess.run(
        [
            *(CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu"),
            *("--enable-logging=stderr", "--virtual-time-budget=2000"),
            *(f"--user-data-dir={profile}", *options, "--dump-dom", page.as_uri()),
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    return done.stdout, "\n".join(console)


@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")
def test_in_a_browser_no_script_runs_and_nothing_is_fetched(hostile, tmp_path):
    """The policy blocks nothing that the page needs. A careless page would be noticed."""
    careless = tmp_path / "careless.html"
    careless.write_text("".join(hostile.texts[:3]), encoding="utf-8")
    document, _ = chromium(careless, tmp_path / "profile")
    assert "data-hacked" in document
    assert {"/img", "/script", "/fetch"} <= set(hostile.asked)
    hostile.asked.clear()
    document, complaints = chromium(hostile.path, tmp_path / "profile")
    assert "<svg" in document
    assert "data-hacked" not in document.partition("<body")[0]
    assert Parsed(document.replace("<br>", "")).elements <= ELEMENTS
    assert complaints == ""
    assert hostile.asked == []


@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")
def test_a_page_of_long_words_is_no_wider_than_a_phone(hostile, tmp_path):
    """A reader must not have to scroll sideways."""
    frame = tmp_path / "frame.html"
    frame.write_text(
        f'<iframe src="{hostile.path.as_uri()}" style="width:390px;height:800px;border:0"></iframe>'
        "<script>onload = () => { const page ="
        " document.querySelector('iframe').contentDocument.documentElement;"
        " document.title = `${page.scrollWidth} of ${page.clientWidth}` }</script>",
        encoding="utf-8",
    )
    document, _ = chromium(frame, tmp_path / "profile", "--allow-file-access-from-files")
    [(needed, given)] = re.findall(r"<title>(\d+) of (\d+)</title>", document)
    assert int(needed) == int(given) <= 390


def test_each_command_on_the_page_sends_exactly_its_rows(sandbox, make_job):
    """Pasted from the page. The server counts the requests."""
    rows = [
        "fine",
        "a #fault:blocked",
        "b #fault:blocked",
        "c #fault:html-502",
        "d #fault:html-413",
    ]
    job = make_job(sandbox.url, rows=[[row] for row in rows])
    job.run(expect=5)
    job.call("report")
    page = Parsed((job.output / "report.html").read_text(encoding="utf-8"))
    expected = {"gateway": {3}}
    command_of = {c.split("--only ")[1].split(" ")[0]: c for c in page.commands if "--only" in c}
    assert set(command_of) == set(expected)
    run = f"pipeline run {job.spec} --rate 5000.0"
    assert page.commands.count(run) == 2  # for the rows that need an edit
    assert json.loads(job.call("report", "--json").stdout)["resume_command"] in page.commands
    for code, command in command_of.items():
        before = {entry["body"]: entry["received"] for entry in sandbox.bills()}
        done = job.paste(command, *(["--yes"] if "--ambiguous" in command else []))
        assert done.returncode in (3, 5), done.stderr
        after = {entry["body"]: entry["received"] for entry in sandbox.bills()}
        sent = {json.loads(body)["story"] for body in after if after[body] != before.get(body)}
        assert sent == {rows[row] for row in expected[code]}
    before = sandbox.received()
    assert job.paste(run).returncode == 5
    assert sandbox.received() == before
    job.write_sheet(["story"], [["fine"], ["A"], ["B"], [rows[3]], ["D"]])
    assert job.paste(run).returncode == 5
    assert sandbox.received() == before + 3
    assert sum(sandbox.billed().values()) == 4


def test_the_page_is_private_named_in_the_summary_and_not_written_by_a_run(sandbox, make_job):
    """`report` is null until the file exists."""
    job = make_job(sandbox.url, rows=[["a"], ["b #fault:blocked"]])
    assert job.run(expect=3)["report"] is None
    path = job.output / "report.html"
    assert not path.exists()
    done = job.call("report", "--json")
    assert json.loads(done.stdout)["report"] == str(path)
    assert f"Report to read and forward: {path}" in done.stderr
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert not list(job.output.glob(".report*"))
    assert job.status()["report"] == str(path)
    assert job.call("verify").returncode == 0


def test_open_starts_the_browser_and_nothing_else_does(reported, tmp_path):
    """With the file's own address."""
    browser, opened = tmp_path / "browser", tmp_path / "opened"
    browser.write_text(f'#!/bin/sh\necho "$1" >> "{opened}"\n')
    browser.chmod(0o755)
    environment = {"BROWSER": f"{browser} %s"}
    assert reported.call("report", env=environment).returncode == 0
    assert not opened.exists()
    assert reported.call("report", "--open", env=environment).returncode == 0
    assert opened.read_text().strip() == (reported.output / "report.html").as_uri()


def test_the_same_folder_makes_the_same_page(hostile):
    """Byte for byte except its date: ids and samples are not random."""
    path = pipeline.write_report(pipeline.find_job(hostile.job.spec))
    page = path.read_text(encoding="utf-8")
    without_date = [re.sub("Written .{19} UTC", "", text) for text in (hostile.page, page)]
    assert without_date[0] == without_date[1]


@pytest.fixture(scope="module")
def reported(tmp_path_factory: pytest.TempPathFactory) -> Job:
    """A job with an ok and a failed row and its report. To be copied, not changed."""
    folder = tmp_path_factory.mktemp("reported")
    sandbox = started_sandbox(book=str(folder / "book.sqlite"))
    job = Job(folder, folder / "job.yaml", folder / "sheet.csv", sandbox.url)
    job.write_sheet(["story"], [["a"], ["b #fault:blocked"]])
    job.write_spec()
    job.run(expect=3)
    sandbox.stop()
    pipeline.write_report(pipeline.find_job(job.spec))
    return job


@pytest.mark.parametrize(
    ("table", "which", "change"),
    [
        ("attempts", "min", "latency_s = 9.5"),
        ("rows", "max", "state = 'ok'"),
        ("rows", "max", "sheet_row = NULL"),
        ("rows", "min", "sheet_row = NULL"),
        ("rows", "min", "last_attempt = 2"),
        ("runs", "max", "run_id = 'another'"),
        ("requests", "max", "body = '{}'"),
    ],
)
def test_nothing_altered_is_counted_or_shown(reported, table, which, change):
    """The earlier page stays unchanged."""
    folder = reported.copied(f"{table}-{which}-{change.split()[0]}")
    before = (folder / "report.html").read_bytes()
    alter(folder / "ledger.sqlite", table, which, change)
    with pytest.raises(pipeline.StorageFailed, match="is not as the runner wrote it"):
        pipeline.write_report(pipeline.find_job(folder))
    assert (folder / "report.html").read_bytes() == before


def alter(ledger: Path, table: str, which: str, change: str) -> None:
    """Changes the first or last row of a table and leaves its checksum as it was."""
    db = sqlite3.connect(ledger, isolation_level=None)
    row, kept = db.execute(f"SELECT {which}(rowid), sum FROM {table}").fetchone()
    db.create_function("row_sum", -1, lambda *_: kept, deterministic=True)
    db.execute("PRAGMA trusted_schema = ON")
    db.execute(f"UPDATE {table} SET {change} WHERE rowid = ?", (row,))
    db.close()


def test_an_altered_part_is_named_and_not_shown(reported):
    """One byte is enough, and the command exits with 6."""
    folder = reported.copied("part")
    part = folder / "results" / "part-00001.parquet"
    content = bytearray(part.read_bytes())
    content[len(content) // 2] ^= 1
    part.write_bytes(content)
    (folder / "report.html").unlink()
    done = reported.shell([sys.executable, "-m", "pipeline", "report", str(folder), "--json"])
    assert done.returncode == 6
    assert str(part) in json.loads(done.stdout)["error"]
    assert "failed request_blocked: row" in done.stderr  # the failures come from the ledger
    assert not (folder / "report.html").exists()


def test_a_report_shows_no_answer_of_a_row_that_is_no_longer_in_the_sheet(sandbox, make_job):
    """Its answer stays in the results."""
    job = make_job(sandbox.url, rows=[["kept one"], ["gone one"]])
    job.run()
    job.write_sheet(["story"], [["new one"], ["kept one"]])
    job.run()
    path = pipeline.write_report(pipeline.find_job(job.spec))
    text = Parsed(path.read_text(encoding="utf-8")).text
    assert "kept one" in text
    assert "new one" in text
    assert "gone one" not in text
    assert "Row 2 " in text.partition("kept one")[0]


def test_the_page_names_the_answers_that_look_wrong_after_the_failed_rows(make_job):
    """With the same words and rows as the terminal. Their rows count as ok."""
    texts = {"a": "I'm sorry, but I can't help with that.", "b": "undefined", "c": "fine"}

    def answer(body: bytes) -> Answer:
        story = json.loads(body)["story"]
        if story == "blocked":
            return 400, {}, b'{"success": false, "error": "no", "code": "request_blocked"}'
        return 200, {}, json.dumps({"success": True, "result": texts[story]}).encode()

    with Server(answer) as server:
        job = make_job(server.url, rows=[["a"], ["b"], ["c"], ["blocked"], ["b"]])
        job.run(expect=3)
    said = job.call("report").stdout
    page = Parsed((job.output / "report.html").read_text(encoding="utf-8"))
    text = page.text
    for line in ("1 refusal: row 1 (line 2)", "2 undefined: rows 2, 5 (lines 3, 6)"):
        assert line in said
        assert line in text
    assert text.index("1 failed request_blocked") < text.index("1 refusal") < text.index("Charts")
    assert "Answers that look wrong" in text
    command = f"pipeline run {job.spec} --rate 5000.0 --again refusal"
    assert command in page.commands
    assert f"    {command}\n" in said


def test_a_page_without_suspicious_answers_has_no_section_for_them(reported):
    """Nor an empty heading."""
    assert "Answers that look wrong" not in (reported.output / "report.html").read_text()


def test_a_killed_run_can_be_reported_with_its_answers_in_no_part(start_sandbox, make_job):
    """They are shown from the ledger. Rows in flight are ambiguous."""
    sandbox = start_sandbox()
    job = make_job(sandbox.url, rows=[["one"], ["two #fault:hang"]])
    process = job.start()
    while sandbox.received() < 2:
        pass
    while not job.output.joinpath("ledger.sqlite").exists() or job.status()["ok"] < 1:
        pass
    process.kill()
    process.wait()
    done = job.call("report")
    assert done.returncode == 0, done.stderr
    text = Parsed((job.output / "report.html").read_text(encoding="utf-8")).text
    assert "1 ok, 1 ambiguous" in text
    assert "1 of the 1 answers, the ones that this report read." in text


def test_the_largest_page_of_the_most_hostile_texts_is_under_two_megabytes():
    """Hundreds of codes, thousands of runs, endless texts, and every character written out."""
    worst = "\u202e" * 10_000
    url = "https://a.example/?" + "&'" * 900
    variables = json.dumps({f"{n}{worst}": worst for n in range(100)})
    groups = [
        Group(State.FAILED, f"code_{n}", 9, 9, (1, 2, 3, 4, 5), worst, "advice", "pipeline x")
        for n in range(300)
    ]
    run = RunFacts(0, worst, 1e9, 2e9, 1, 0, 3, worst, 1, 1, 1, 0, None, None)
    runs = tuple(replace(run, run=n) for n in range(5000))
    nothing = Latencies(np.array([], np.int64), np.array([], np.int64))
    answer = samples.SampleAnswer("first", 1, "run", variables, worst, ((worst, url),) * 10_000)
    facts = PageFacts(
        summary=replace(summarize_error(None, pipeline.Refused("")), job=worst),
        groups=groups,
        last_run=None,
        in_use=False,
        in_flight=0,
        rehearsal=False,
        workflow=worst,
        history=History(runs, (), (), (), nothing, 5000),
        samples=samples.Samples((answer,) * 6, Counter(), 0, 0, 0, 0, 0),
        sent=dict.fromkeys(range(6), variables),
        pictures=[],
        written_at=1e9,
        version="1",
        marked=[FlaggedAnswers(flag, 10**6, (1, 2, 3, 4, 5)) for flag in FLAGS],
    )
    text = page(facts)
    assert Parsed(text).elements <= ELEMENTS
    assert 500_000 < len(text.encode()) < 1_900_000
    for said in ("and 9994 more", "and 92 variables more", "4970 earlier runs not shown."):
        assert said in text
    assert "And 2592 rows of 288 more codes: see failures.csv." in text


def test_only_http_url_makes_an_address_and_no_attribute_runs_anything():
    """Not even by accident."""
    for attributes in (
        {"href": "https://good.example"},
        {"href": "#a b"},
        {"onclick": "x"},
        {"OnLoad": "x"},
        {"style": "color: red"},
        {"src": "x"},
        {"a b": "x"},
    ):
        with pytest.raises(ValueError, match=r"no attribute|only `http_url`"):
            element("p", attributes=attributes)
    for name in ("script", "iframe", "p onclick=1", ""):
        with pytest.raises(ValueError, match="no element"):
            element(name)
    assert element("p", "<b>", None, element("b", "'")).source == "<p>&lt;b&gt;<b>&#x27;</b></p>"


@pytest.mark.parametrize(
    "address",
    [
        "javascript:alert(1)",
        " https://a.example",
        "https://a.example/\x00",
        "https:///path",
        "https://a.example:port/",
        "https://a.example:99999/",
        "https://user@a.example/",
        "https://@a.example/",
        "https:\\\\a.example",
        "https://[::1",
        "ftp://a.example/",
        "//a.example/",
        "https://a.example/\u202e",
        "https://a.example/" + "a" * 2000,
        "",
    ],
)
def test_an_address_that_is_not_plain_is_not_a_link(address):
    """It is shown as text."""
    assert http_url(address) is None


def test_a_link_says_which_host_it_leads_to():
    """Letters that look alike differ in it."""
    url = http_url("HTTPS://Exаmple.com/a?b=1&c='x")  # the third letter is Cyrillic
    assert url is not None
    assert url.host == "xn--exmple-4nf.com"
    assert "&amp;c=&#x27;x" in link("text", url).source


def test_surrogates_and_code_points_without_a_character_do_not_break_the_page():
    """The page is UTF-8 for every input."""
    source = element("p", "a\ud800b\udfffc\ufffe\r\nd\re").source
    assert source == "<p>a\ufffdb\ufffdc[U+FFFE]\nd[U+000D]e</p>"
    assert source.encode()


@pytest.mark.long(first=True)
def test_a_report_of_300_000_rows_is_small_and_quick(tmp_path):
    """CPU seconds, memory and size as in the benchmark, with every second row failed."""
    script = TOP / "benchmarks" / "report.py"
    done = subprocess.run(
        [sys.executable, script, "--rows", "300000", "--not-ok", "2", "--folder", tmp_path],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"XDG_CACHE_HOME": str(tmp_path / "cache")},
    )
    measured = re.search(r"([\d.]+) s of CPU, (\d+) MiB, (\d+) KiB", done.stdout)
    assert measured, done.stdout
    cpu_s, mib, kib = map(float, measured.groups())
    assert 0 < kib < 2000
    assert mib < 400
    assert cpu_s < 30  # 6 to 12 on a busy machine; work that grows with the square would take hours
