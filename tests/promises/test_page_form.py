"""The form of the page for a job file: what it writes, what it keeps, and what it never answers."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator

import openpyxl
import pytest

from pipeline.scaffold.job_spec import init_job
from tests.conftest import Job, SandboxProcess
from tests.support.browser import PageClient, serving
from tests.support.workbook_kinds import write_messy

SHEET = "SKU,Story idea,Tone\n0012,a <b> dog,warm\n0013,a cat,\n0014,a cow,cold\n"
SPEC = """\
# Our stories.
name:   job   # the name
workflow: wf_story
input: 'sheet.csv'

variables:
    story:   "story"   # for example: x
    # tone: Tone
where:
  - {column: story, empty: true, not: true}
max_paid: 7
"""


@pytest.fixture
def job(make_job, sandbox: SandboxProcess) -> Job:
    made = make_job(sandbox.url, rows=[["one"], ["two"], ["three"]])
    (made.folder / "ideas.csv").write_text(SHEET, "utf-8")
    return made


@pytest.fixture
def page(job: Job) -> Iterator[PageClient]:
    with serving(job.folder, job.environment()) as (_, client):
        yield client


def _new(page: PageClient, sheet: str = "ideas.csv") -> dict[str, str]:
    return page.filled(page.get("/new", sheet=sheet), "/new")


def _code(fields: dict[str, str], text: str, column: str) -> str:
    return re.search(rf'<option value="([0-9a-f]{{12}})"[^>]*>{re.escape(column)} ·', text)[1]


def test_an_unchanged_form_writes_the_file_that_init_writes(job: Job, page: PageClient):
    init_job(job.folder / "ideas.csv", "wf_story", job.folder / "by-init" / "ideas.yaml")
    wanted = (
        (job.folder / "by-init" / "ideas.yaml").read_text().replace("../ideas.csv", "ideas.csv")
    )
    fields = _new(page) | {"workflow": "wf_story", "do": "show"}
    shown = page.post("/new", fields)
    assert shown.status_code == 200, shown.text
    assert not (job.folder / "ideas.yaml").exists()
    assert '{"SKU":"0012","Story_idea"' not in shown.text
    draft = page.filled(shown.text, "/new")
    assert draft["text"] == wanted
    saved = page.post("/new", draft)
    assert (saved.status_code, saved.headers["location"]) == (303, "/job?at=ideas.yaml")
    assert (job.folder / "ideas.yaml").read_text() == wanted


def test_every_choice_of_the_form_reaches_the_request_of_row_1(job: Job, page: PageClient, sandbox):
    text = page.get("/new", sheet="ideas.csv")
    fields = page.filled(text, "/new")
    story, sku = _code(fields, text, "Story idea"), _code(fields, text, "SKU")
    fields |= {"workflow": "wf_story", "name": "tales", "max_paid": "50", "rate": "2.5"}
    fields |= {"id": sku, "dedupe": "1", "do": "show"}
    fields |= {"v0.name": "story", "v0.source": story, "v0.empty": "skip"}
    fields |= {"v1.name": "voice", "v1.source": "=", "v1.text": 'say "hi"\r\nto all'}
    fields |= {"v2.source": ""}
    shown = page.post("/new", fields).text
    assert "a &lt;b&gt; dog" in shown
    draft = page.filled(shown, "/new")
    found = draft["text"]
    for line in (
        "name: tales\n",
        "  story: Story idea  # for example: a <b> dog\n",
        "# constants: {tone: warm}  # variables that have the same text in every row\nconstants:\n",
        '  voice: "say \\"hi\\"\\nto all"\n',
        "id: SKU\n",
        "dedupe: true\n",
        "max_paid: 50\n",
        "rate: 2.5\n",
    ):
        assert line in found, found
    assert page.post("/new", draft).status_code == 303
    assert (job.folder / "tales.yaml").read_text() == found
    job.spec = job.folder / "tales.yaml"
    assert job.call("run", "--yes").returncode == 0
    bodies = sorted(sandbox.billed())
    assert len(bodies) == 3
    assert all('"voice":"say \\"hi\\"\\nto all"' in body for body in bodies)


def test_an_error_stands_at_its_field_and_keeps_what_was_typed(job: Job, page: PageClient):
    fields = _new(page) | {"do": "show", "workflow": "not an id", "name": "job", "max_paid": "many"}
    fields |= {
        "v0.name": "",
        "v1.name": "tone",
        "v2.name": "tone",
        "v3.name": "x",
        "v3.source": "?",
    }
    answer = page.post("/new", fields)
    assert answer.status_code == 400
    for name in ("workflow", "name", "max_paid", "v0", "v2", "v3"):
        assert f'id="e-{name}"' in answer.text, name
    again = page.filled(answer.text, "/new")
    kept = {name: text for name, text in fields.items() if name != "do"}
    assert {name: again[name] for name in kept} == kept
    assert "job.yaml exists already" in answer.text
    assert sorted(path.name for path in job.folder.glob("*.yaml")) == ["job.yaml"]


def test_a_name_that_is_taken_in_the_meantime_keeps_the_text(job: Job, page: PageClient):
    shown = page.post("/new", _new(page) | {"workflow": "wf", "do": "show"}).text
    draft = page.filled(shown, "/new") | {"text": page.filled(shown, "/new")["text"] + "# mine\n"}
    (job.folder / "ideas.yaml").write_text("theirs")
    answer = page.post("/new", draft)
    assert answer.status_code == 400
    assert "exists already" in answer.text
    assert page.filled(answer.text, "/new")["text"].endswith("# mine\n")
    assert (job.folder / "ideas.yaml").read_text() == "theirs"


def test_a_workbook_is_read_step_by_step(job: Job, page: PageClient):
    """Worksheet first, then the row of the names. What was typed stays."""
    write_messy(job.folder / "messy.xlsx")
    text = page.get("/new", sheet="messy.xlsx")
    assert "which worksheet has the rows?" in text
    fields = page.filled(text, "/new") | {"sheet": "Ideas", "do": "read"}
    answer = page.post("/new", fields)
    assert "If that is a title" in answer.text
    assert "Spring campaign" in answer.text
    fields = page.filled(answer.text, "/new") | {"header_row": "3", "do": "read"}
    answer = page.post("/new", fields)
    assert answer.status_code == 200
    for said in (
        "5 (hidden)",
        "<small>date</small>",
        "<small>mixed</small>",
        "<small>empty</small>",
        "Ideas!E6: #DIV/0! would be sent as text",
        "Ideas!E7: this cell has a formula",
        "these merged cells have only one value",
        "the header names &quot;Tag&quot; twice, in Ideas!C3 and Ideas!H3",
        "1 row is hidden in the sheet (Ideas row 5)",
        "6 rows.",
    ):
        assert said in answer.text, said
    fields = page.filled(answer.text, "/new") | {"workflow": "wf", "hidden": "skip", "do": "show"}
    shown = page.post("/new", fields).text
    text = page.filled(shown, "/new")["text"]
    assert "sheet: Ideas\nheader_row: 3\n" in text
    assert "\nhidden: skip\n" in text
    answer = page.post("/new", fields | {"header_row": "4", "do": "read"})
    assert page.filled(answer.text, "/new")["v0.name"] == "column_000"
    fields = page.filled(page.post("/new", fields | {"do": "read"}).text, "/new")
    answer = page.post("/new", fields | {"header_row": "x", "do": "read"})
    assert 'id="e-header_row"' in answer.text
    assert page.filled(answer.text, "/new")["workflow"] == "wf"


def test_a_column_of_formulas_is_one_line_of_the_form(job: Job, page: PageClient):
    """An error of the form stands where the browser goes after the click."""
    book = openpyxl.Workbook()
    book.active.append(["story", "total"])
    for number in range(20):
        book.active.append([f"story {number}", f"={number}+1"])
    book.save(job.folder / "sums.xlsx")
    text = page.get("/new", sheet="sums.xlsx")
    assert "cannot be sent: 20" in text
    assert text.count("<li>") == 1
    assert "B2 and 19 more cells: this cell has a formula" in text
    answer = page.post("/new", page.filled(text, "/new") | {"do": "show"})
    assert answer.status_code == 400
    assert 'id="draft"' in answer.text


def test_a_sheet_that_is_too_wide_for_a_form_is_text(job: Job, page: PageClient):
    names = [f"c{number}" for number in range(200)]
    (job.folder / "wide.csv").write_text(f"{','.join(names)}\n{','.join(names)}\n")
    text = page.get("/new", sheet="wide.csv")
    assert "too many variables and columns" in text
    assert len(text) < 200_000
    draft = page.filled(text, "/new")
    draft["text"] = draft["text"].replace("workflow: wf", "workflow: wf_wide")
    assert page.post("/new", draft).status_code == 303
    assert "c199: c199" in (job.folder / "wide.yaml").read_text()
    assert "too many variables and columns" in page.get("/edit", at="wide.yaml")


def test_one_field_changes_one_line_of_an_existing_file(job: Job, page: PageClient):
    job.spec.write_text(SPEC)
    text = page.get("/edit", at="job.yaml")
    assert "`where:`" in text
    fields = page.filled(text, "/edit") | {"max_paid": "9", "do": "show"}
    shown = page.post("/edit", fields)
    assert shown.status_code == 200, shown.text
    draft = page.filled(shown.text, "/edit")
    assert draft["text"] == SPEC.replace("max_paid: 7", "max_paid: 9")
    assert job.spec.read_text() == SPEC
    assert page.post("/edit", draft).status_code == 303
    assert job.spec.read_text() == SPEC.replace("max_paid: 7", "max_paid: 9")
    again = page.filled(page.get("/edit", at="job.yaml"), "/edit") | {
        "v0.name": "tale",
        "do": "show",
    }
    shown = page.post("/edit", again).text
    assert '    tale:   "story"   # for example: x\n' in page.filled(shown, "/edit")["text"]


def test_errors_of_an_edit_stand_at_their_fields(job: Job, page: PageClient):
    job.spec.write_text(SPEC)
    fields = page.filled(page.get("/edit", at="job.yaml"), "/edit")
    fields |= {"max_paid": "-1", "v0.source": "", "do": "show"}
    answer = page.post("/edit", fields)
    assert answer.status_code == 400
    assert 'id="e-max_paid"' in answer.text
    assert 'id="e-variables"' in answer.text
    assert page.filled(answer.text, "/edit")["max_paid"] == "-1"
    assert job.spec.read_text() == SPEC


def test_line_ends_the_first_bytes_the_mode_and_a_link_stay(job: Job, page: PageClient):
    content = b"\xef\xbb\xbf" + SPEC.replace("\n", "\r\n").encode()
    real = job.folder / "real.yaml"
    real.write_bytes(content)
    real.chmod(0o644)
    job.spec.unlink()
    job.spec.symlink_to("real.yaml")
    fields = page.filled(page.get("/edit", at="job.yaml"), "/edit") | {"retries": "0", "do": "show"}
    draft = page.filled(page.post("/edit", fields).text, "/edit")
    assert page.post("/edit", draft).status_code == 303
    assert real.read_bytes() == content + b"retries: 0\r\n"
    assert real.stat().st_mode & 0o777 == 0o644
    assert job.spec.is_symlink()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("name: job\nworkflow: &w wf\ninput: sheet.csv\n", "an anchor"),
        ("name: job\nworkflow: !!str wf\ninput: sheet.csv\n", "a tag"),
        ("{name: job, workflow: wf, input: sheet.csv}\n", "one pair of { }"),
        ("name: job\nworkflow: wf\ninput: sheet.csv\nconstants: {a: b}\n", "`constants:`, because"),
        ("name: job\nworkflow: wf\ninput: sheet.csv\nretry: 2\n", "unknown key `retry`"),
        ("name: [job\n", "not valid YAML"),
        ("name: job\nname: job\n", "twice"),
        ("name: job\nworkflow: wf\ninput: gone.csv\n", "there is no such file"),
        ("", "the job file is empty"),
        ("name: job\nworkflow: wf\ninput: sheet.csv\nsheet: x\n", "`sheet:` is only for"),
        ("name: job\nworkflow: wf\ninput: {job: other.yaml}\nvariables: {a: b}\n", "other.yaml"),
    ],
)
def test_what_a_form_cannot_change_opens_as_text_with_the_reason(
    job: Job, page: PageClient, text: str, said: str
):
    job.spec.write_text(text)
    shown = page.get("/edit", at="job.yaml")
    assert said in shown, shown
    assert page.filled(shown, "/edit")["text"] == text
    assert "v0.name" not in shown
    assert page.get("/")  # its card says the same, and leads here
    good = "name: job\nworkflow: wf\ninput: sheet.csv\n"
    answer = page.post("/edit", page.filled(shown, "/edit") | {"text": good})
    assert answer.status_code == 303, answer.text
    assert job.spec.read_text() == good


def test_no_kind_of_file_in_the_place_of_a_job_file_is_an_error_of_the_page(job: Job, page):
    """A folder, a FIFO, a device, 100 MB, other bytes, a file that was just deleted, and a run
    folder without its job file."""
    job.run()
    folder = job.folder
    (folder / "folder.yaml").mkdir()
    os.mkfifo(folder / "fifo.yaml")
    with (folder / "large.yaml").open("wb") as file:
        file.truncate(100 << 20)
    (folder / "latin.yaml").write_bytes(b"name: caf\xe9\n")
    (folder / "nul.yaml").write_bytes(b"name: a\0b\n")
    (folder / "secret.yaml").symlink_to("/etc/hostname")
    (folder / "loop.yaml").symlink_to("loop.yaml")
    os.rename(job.spec, folder / "moved")
    names = [path.name for path in folder.glob("*.yaml")]
    for at in (*names, "job.yaml", "runs/job", "runs", ".", "sheet.csv", "no/such.yaml"):
        for path in ("/edit", "/job", "/actions", "/plan", "/rows", "/row", "/failures", "/files"):
            answer = page.http.get(path, params={"at": at})
            assert answer.status_code in (200, 400, 409), (path, at, answer.text)
        for fields in ({"text": "name: x"}, {"do": "show"}, {"do": "read"}, {}):
            answer = page.post("/edit", {"at": at, **fields})
            assert answer.status_code in (200, 303, 400), (at, fields, answer.text)
        for path in ("/start", "/rehearse", "/stop", "/continue"):
            answer = page.post(path, {"at": at, "sheet": "sheet.csv"})
            assert answer.status_code in (303, 400), (path, at, answer.text)
    assert "is not UTF-8 text" in page.get("/edit", at="latin.yaml")
    assert (folder / "latin.yaml").read_bytes() == b"name: caf\xe9\n"
    gone = page.http.get("/edit", params={"at": "runs/job"}).text
    assert "job.yaml: the page cannot read this job file" in gone
    for sheet in ("folder.yaml", "fifo.yaml", "gone.csv", "runs", "latin.yaml", "", "../x.csv"):
        answer = page.http.get("/new", params={"sheet": sheet})
        assert answer.status_code in (200, 400), (sheet, answer.text)
        answer = page.post("/new", {"sheet_file": sheet, "do": "show"})
        assert answer.status_code in (200, 400), (sheet, answer.text)


def test_no_other_file_of_the_folder_is_shown_or_replaced(job: Job, page: PageClient):
    """Such as a file with the key."""
    for name in ("key", "key.txt", ".env", "tool.py"):
        (job.folder / name).write_text("sk_secret = 1\n")
        answer = page.http.get("/edit", params={"at": name, "as": "text"})
        assert answer.status_code == 400
        assert "sk_secret" not in answer.text
        good = job.spec.read_text()
        assert page.post("/edit", {"at": name, "text": good}).status_code == 400
        assert (job.folder / name).read_text() == "sk_secret = 1\n"
    os.rename(job.spec, job.folder / "stories")  # a job file can have any name
    assert "v0.name" in page.get("/edit", at="stories")


def test_the_run_folder_opens_its_job_file(job: Job, page: PageClient):
    job.run()
    assert page.filled(page.get("/edit", at="runs/job"), "/edit")["at"] == "job.yaml"


def test_a_file_with_an_error_gets_no_other_run_folder_either(job: Job, page: PageClient):
    """Its answers are known by the run folder that names it, also while its name cannot be read."""
    job.run()
    good = job.spec.read_text()
    other = good.replace('"job"', "other")
    assert other != good
    for broken in (f"{good}retry: 1\n", "name: [\n"):
        job.spec.write_text(broken)
        answer = page.post("/edit", {"at": "job.yaml", "text": other})
        assert answer.status_code == 400
        assert "its answers would be paid again" in answer.text
        assert job.spec.read_text() == broken
    assert page.post("/edit", {"at": "job.yaml", "text": good}).status_code == 303


def test_a_change_by_an_editor_is_not_overwritten(job: Job, page: PageClient):
    job.spec.write_text(SPEC)
    fields = page.filled(page.get("/edit", at="job.yaml"), "/edit")
    draft = page.filled(page.post("/edit", fields | {"do": "show", "retries": "1"}).text, "/edit")
    job.spec.write_text(f"{SPEC}# theirs\n")
    for sent in (draft, fields | {"do": "show", "retries": "1"}):
        answer = page.post("/edit", sent)
        assert answer.status_code == 400
        assert "in the meantime" in answer.text
    assert job.spec.read_text() == f"{SPEC}# theirs\n"


def test_a_job_continues_with_a_sheet_of_the_same_columns(job: Job, page: PageClient, sandbox):
    """The numbers are those of the plan, and then those of the bills."""
    job.spec.write_text(SPEC.replace("input: 'sheet.csv'", "input: 'sheet.csv'  # 3 rows"))
    job.run()
    before = sandbox.billed()
    (job.folder / "june.csv").write_text("n,story\n1,three\n2,four\n3,one\n4,five\n")
    text = page.get("/new", sheet="june.csv")
    assert "Continue job with this sheet (2 paid, 2 new)" in text
    assert text.index("Continue job with this sheet") < text.index("The first rows")
    assert "Continue" not in page.get("/new", sheet="ideas.csv")
    assert page.click(text, "/continue").headers["location"] == "/job?at=job.yaml"
    assert 'input: "june.csv"  # 3 rows\n' in job.spec.read_text()
    assert sandbox.billed() == before
    actions = page.get("/actions", at="job.yaml")
    assert "At most 2 requests may be billed." in actions
    job.run()
    assert set(sandbox.billed().values()) == {1}
    assert len(sandbox.billed()) == 5


def test_a_sheet_that_a_job_cannot_take_changes_nothing(job: Job, page: PageClient):
    job.spec.write_text(SPEC)
    for sheet in ("ideas.csv", "gone.csv", "../x.csv", "job.yaml", ""):
        answer = page.post("/continue", {"at": "job.yaml", "sheet": sheet})
        assert answer.status_code == 400, answer.text
    (job.folder / "june.csv").write_text("story\n\n")
    assert "no rows" in page.get("/new", sheet="june.csv")
    assert job.spec.read_text() == SPEC


def test_a_job_file_that_moves_the_paid_folder_is_refused_in_the_form(job: Job, page: PageClient):
    job.run()
    text = page.get("/edit", at="job.yaml")
    assert re.search(r'name="name"[^>]*readonly', text)
    fields = page.filled(text, "/edit") | {"name": "other", "do": "show"}
    shown = page.post("/edit", fields)
    assert "its answers would be paid again" in shown.text
    answer = page.post("/edit", page.filled(shown.text, "/edit"))
    assert answer.status_code == 400
    assert "other" not in job.spec.read_text()
