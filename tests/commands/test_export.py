"""Exports: every cell of the sheet unchanged, every answer next to its row."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from openpyxl import Workbook, load_workbook
from openpyxl.utils.escape import unescape

import pipeline
from pipeline.export.files import write_csv
from pipeline.results.answered_sheet import Exported
from tests.conftest import Job
from tests.support.servers import Answer, Server
from tests.support.workbooks import worksheet, write_workbook

SHEET = [
    ["-5", "a plain story", "+49 170"],
    ["007", "#fault:blocked", "=SUM(A1)"],
    ["", "#fault:html-504-billed", ""],
    [" x", "line\none\r\ntwo\u2028three", "@home"],
]
COLUMNS = ["no", "story", "_note"]
ADDED = ["result", "citations", "_status", "_error_code", "_error_message"]


@pytest.fixture
def job(sandbox, make_job) -> Job:
    """Two rows ok, one failed, one ambiguous; answers that begin like formulas."""
    job = make_job(sandbox.url, COLUMNS, SHEET, variables={"story": "story"}, workflow="wf_mine")
    sandbox.publish("wf_mine", "{{story}}", web_search=True)
    job.run(expect=5)
    return job


def test_csv_keeps_the_sheet_unchanged_and_guards_only_the_added_columns(job):
    """A byte order mark for Excel. -5 and +49 stay, and formulas of the server do not run."""
    target = job.folder / "out.csv"
    done = job.call("export", "--to", str(target))
    assert done.returncode == 0
    raw = target.read_bytes()
    assert raw.startswith(b"\xef\xbb\xbf")
    with target.open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.reader(file))
    assert rows[0] == COLUMNS + ADDED
    assert [row[:3] for row in rows[1:]] == SHEET
    assert [row[5] for row in rows[1:]] == ["ok", "failed", "ambiguous", "ok"]
    assert rows[2][6:] == ["request_blocked", "Request blocked"]
    assert rows[1][4].startswith("https://example.")
    assert "\n".join(rows[4][4].splitlines()) == rows[4][4]


def test_a_formula_from_a_server_is_guarded_and_counted(tmp_path):
    """Unless the user turns it off. The sheet's own cells are never changed."""
    batch = pa.record_batch({"a": ["=1"], "result": ["=HYPERLINK(1)"], "_status": ["ok"]})
    kinds = {"result": "result", "_status": "status"}
    exported = Exported(batch.schema, 1, kinds, lambda: iter([batch]))
    target = tmp_path / "guarded.csv"
    assert write_csv(exported, target, True) == 1
    assert "=1,'=HYPERLINK(1),ok" in target.read_text("utf-8-sig")
    assert write_csv(exported, target, False) == 0
    assert "=1,=HYPERLINK(1),ok" in target.read_text("utf-8-sig")


def test_parquet_and_jsonl_are_exact(job):
    """Citations are tables, unknown values are null, and JSONL has one object per line."""
    parquet, jsonl = job.folder / "out.parquet", job.folder / "out.jsonl"
    assert job.call("export", "--to", str(parquet)).returncode == 0
    assert job.call("export", "--to", str(jsonl)).returncode == 0
    rows = pq.read_table(parquet).to_pylist()
    assert [[row[c] for c in COLUMNS] for row in rows] == SHEET
    assert [row["result"] is None for row in rows] == [False, True, True, False]
    assert rows[0]["citations"][0]["url"].startswith("https://")
    lines = jsonl.read_text("utf-8").splitlines()
    assert [json.loads(line) for line in lines] == rows


def test_an_export_can_be_the_sheet_of_another_folder_and_loses_nothing(job):
    """Its columns are not sent, and stay. The new ones have the same number in their names."""
    exported = job.folder / "again.csv"
    job.call("export", "--to", str(exported))
    other = str(job.folder / "runs" / "other")
    # The folder next to it has paid for the same rows, so this one needs --yes.
    done = job.call("run", "--input", str(exported), "--output", other, "--json", "--yes")
    assert json.loads(done.stdout)["skipped"] == 1
    target = job.folder / "second.parquet"
    exported = job.call("export", "--output", other, "--to", str(target))
    numbered = [f"{name}_2" for name in ADDED]
    assert f"are called {', '.join(numbered)}" in exported.stderr
    table = pd.read_parquet(target)
    assert list(table.columns) == COLUMNS + ADDED + numbered
    assert list(table["_status"]) == ["ok", "failed", "ambiguous", "ok"]
    assert list(table["_status_2"]) == ["ok", "failed", "skipped", "ok"]


def test_a_column_of_the_user_keeps_its_name(sandbox, make_job):
    """The added column gets another name, and a message says so."""
    job = make_job(sandbox.url, ["result", "story"], [["mine", "a"]], variables={"story": "story"})
    job.run()
    target = job.folder / "out.parquet"
    done = job.call("export", "--to", str(target))
    assert "result_2, citations_2, _status_2" in done.stderr
    table = pd.read_parquet(target)
    assert table["result"][0] == "mine"
    assert "a" in table["result_2"][0]


def test_answers_that_are_not_sealed_yet_are_exported_too(start_sandbox, make_job):
    """After a kill, and while a run is active."""
    sandbox = start_sandbox(latency="500ms", limit=100_000)
    # Without a pace to learn, requests are in flight at every moment.
    rows = [[f"story {n}"] for n in range(400)]
    job = make_job(sandbox.url, rows=rows, concurrency=8, rate=1000)
    process = job.start()
    try:
        while sum(sandbox.billed().values()) < 20:
            pass
        during = job.export()
        assert (during["_status"] == "ok").sum() >= 10
        # The run waits for the requests in flight.
        assert set(during["_status"]) == {"ok", "pending"}
    finally:
        process.kill()
        process.wait()
    after = job.export()
    assert "ambiguous" in set(after["_status"])
    ok = after[after["_status"] == "ok"]
    assert len(ok) >= 20 - 8
    assert all(story in result for story, result in zip(ok["story"], ok["result"], strict=True))
    assert not list(job.results.glob("part-00001*"))


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("sheet.csv", "the sheet of the job"),
        ("link.csv", "the sheet of the job"),
        ("runs/job/results/part-00001.parquet", "run folder"),
        ("runs/job/ledger.jsonl", "run folder"),
        ("out.xls", "the ending .xls."),
        ("nowhere/out.csv", "does not exist. Make it first."),
    ],
)
def test_an_export_to_a_forbidden_place_is_refused(job, target, words):
    """Exit 2, and nothing there changes."""
    (job.folder / "link.csv").symlink_to(job.sheet)
    path = job.folder / target
    before = path.read_bytes() if path.exists() else None
    done = job.call("export", "--to", str(path))
    assert done.returncode == 2
    assert words in done.stderr
    assert (path.read_bytes() if path.exists() else None) == before


def test_a_removed_part_is_named_and_no_export_is_written(job):
    """Exit 6. No row is left out silently."""
    (job.results / "part-00001.parquet").unlink()
    target = job.folder / "out.csv"
    assert job.call("export", "--to", str(target)).returncode == 6
    assert not target.exists()


def test_a_report_shows_what_failed_even_if_answers_cannot_be_read(job):
    """First the failed rows, then exit 6 and why the answers could not be checked."""
    (job.results / "part-00001.parquet").unlink()
    done = job.call("report")
    assert done.returncode == 6
    assert "request_blocked: row 2" in done.stdout
    assert "could not check the answers" in done.stdout
    assert "part-00001.parquet" in done.stderr


def test_before_the_first_run_there_is_nothing_to_export(make_job):
    """The message says what to do."""
    job = make_job("http://127.0.0.1:9", rows=[["a"]])
    done = job.call("export", "--to", str(Path(job.folder) / "out.csv"))
    assert (done.returncode, "pipeline run" in done.stderr) == (2, True)


def test_a_sheet_with_semicolons_is_exported_with_semicolons(sandbox, make_job):
    """The Excel that wrote it reads nothing else."""
    job = make_job(sandbox.url)
    job.sheet.write_text("no;story\n1;a, b\n", encoding="utf-8")
    job.write_spec(variables={"story": "story"})
    job.run()
    target = job.folder / "out.csv"
    assert job.call("export", "--to", str(target)).returncode == 0
    lines = target.read_text("utf-8-sig").splitlines()
    assert lines[0] == "no;story;result;citations;_status;_error_code;_error_message"
    assert lines[1].startswith("1;a, b;")


NAUGHTY = [
    "a\x00b\x01c\x0bd\x1f",
    "cr\r alone, \r\n both, \n\n",
    "\u202eRTL\u200f \u2028 \x85",
    "=cmd|' /C calc'!A0",
    "+1",
    "#N/A",
    "_x0041_ __x000D_ _x005F_x0041_",
    "\ufffe\uffff\x7f",
    " leading and trailing\t",
    "x" * 40_000,
    "\U0001f600" * 20_000,
    '\'quoted, "twice"; and\tmore',
]


def naughty(body: bytes) -> Answer:
    """The text of that number; half of a surrogate pair for one beyond."""
    number = int(json.loads(body)["story"])
    result = [*NAUGHTY, "half \ud83d of a pair"][number]
    citations = [{"url": "https://www.example.com:8/a", "title": "=1"}, {"url": "no host"}]
    answer = {"success": True, "result": result, "citations": citations[:number]}
    return 200, {}, json.dumps(answer).encode()


@pytest.fixture(scope="module")
def naughty_job(tmp_path_factory) -> Job:
    """Answers that no file format likes; the last one comes repaired."""
    folder = tmp_path_factory.mktemp("naughty")
    with Server(naughty) as server:
        job = Job(folder, folder / "job.yaml", folder / "sheet.csv", server.url)
        job.write_sheet(["story"], [[str(n)] for n in range(len(NAUGHTY) + 1)])
        job.write_spec(id="story")
        job.run()
        assert server.received.total() == len(NAUGHTY) + 1
    return job


def exported(job: Job, name: str, **options: bool) -> Path:
    """A file that an export wrote."""
    return pipeline.export_job(pipeline.find_job(job.spec), job.folder / name, **options).path


def test_naughty_texts_are_exported_byte_for_byte_to_every_kind_of_file(naughty_job):
    """Control characters, line ends, direction marks, formulas, escapes, 40,000 characters."""
    wanted = [*NAUGHTY, "half \ufffd of a pair"]
    with exported(naughty_job, "out.csv", excel_guard=False).open(
        encoding="utf-8-sig", newline=""
    ) as file:
        csv.field_size_limit(100_000)
        assert [row["result"] for row in csv.DictReader(file)] == wanted
    assert pq.read_table(exported(naughty_job, "out.parquet"))["result"].to_pylist() == wanted
    lines = exported(naughty_job, "out.jsonl").read_text("utf-8").splitlines()
    assert [json.loads(line)["result"] for line in lines] == wanted
    page = load_workbook(exported(naughty_job, "out.xlsx")).worksheets[0]
    found = [page.cell(row, 2) for row in range(2, len(wanted) + 2)]
    assert {cell.data_type for cell in found} == {"s"}
    assert all(cell.quotePrefix and cell.alignment.wrap_text for cell in found)
    texts = [unescape(cell.value) for cell in found]
    for place, name in ((9, "row-11-result.txt"), (10, "row-12-result.txt")):
        assert texts[place].endswith(f"too long for a cell: out.files/{name})")
        texts[place] = (naughty_job.folder / "out.files" / name).read_bytes().decode()
    assert texts == wanted


def test_texts_next_to_a_workbook_are_replaced_with_it(naughty_job):
    """Files of the earlier export are removed. A file of the user stays."""
    beside = naughty_job.folder / "beside.files"
    beside.mkdir()
    (beside / "row-99-result.txt").write_text("of an earlier export")
    (beside / "notes.txt").write_text("mine")
    done = naughty_job.call("export", "--to", str(naughty_job.folder / "beside.xlsx"))
    assert "2 texts too long for a cell: see beside.files next to the workbook." in done.stderr
    names = sorted(path.name for path in beside.iterdir())
    assert names == ["notes.txt", "row-11-result.txt", "row-12-result.txt"]
    assert not list(naughty_job.folder.glob(".beside*"))


def test_a_new_workbook_freezes_its_header_and_sums_up_the_run(naughty_job):
    """The numbers of the sheet are numbers, and a second worksheet has the counts."""
    book = load_workbook(exported(naughty_job, "new.xlsx"))
    page, summary = book.worksheets
    assert [cell.value for cell in page[1]] == ["story", *ADDED]
    assert (page["A2"].value, page["A2"].data_type, page.freeze_panes) == (0, "n", "A2")
    said = {row[0]: row[1] for row in summary.iter_rows(values_only=True)}
    assert (said["rows"], said["ok"], said["failed"]) == (13, 13, 0)
    assert (said["requests paid, at least"], said["requests paid, at most"]) == (13, 13)
    assert said["last run"] == naughty_job.status()["run_id"]


def test_citations_are_exported_as_a_table(naughty_job):
    """Row, id, position, address, title and domain, in every kind of file. Formulas are guarded."""
    parquet = naughty_job.folder / "sources.parquet"
    csv_file, xlsx = parquet.with_suffix(".csv"), parquet.with_suffix(".xlsx")
    done = naughty_job.call("export", "--citations", str(csv_file))
    assert done.returncode == 0, done.stderr
    for target in (parquet, xlsx, parquet.with_suffix(".jsonl")):
        pipeline.export_citations(pipeline.find_job(naughty_job.spec), target)
    rows = pq.read_table(parquet).to_pylist()
    assert len(rows) == 1 + 2 * 11
    url = "https://www.example.com:8/a"
    first = {"row": 2, "id": "1", "position": 1, "url": url, "title": "=1"}
    assert rows[0] == first | {"domain": "example.com"}
    second = {"row": 3, "id": "2", "position": 2, "url": "no host", "title": ""}
    assert rows[2] == second | {"domain": ""}
    assert csv_file.read_text("utf-8-sig").splitlines()[1] == f"2,1,1,{url},'=1,example.com"
    page = load_workbook(xlsx).worksheets[0]
    assert [cell.value for cell in page[2]] == [2, "1", 1, url, "=1", "example.com"]
    assert page["E2"].data_type == "s"
    lines = parquet.with_suffix(".jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == rows


def test_an_export_without_to_and_citations_is_refused(job):
    """Exit 2, and the message names both options."""
    done = job.call("export")
    assert (done.returncode, "--citations" in done.stderr) == (2, True)


def test_a_skipped_row_says_why(sandbox, make_job):
    """Its empty cell by column, or that it was ambiguous in another run."""
    columns = ["story", "tone", "_status"]
    rows = [["a", "warm", ""], ["b", "", ""], ["c", "warm", "ambiguous"]]
    variables = {"story": "story", "tone": "tone"}
    job = make_job(sandbox.url, columns, rows, variables=variables, empty="skip")
    assert job.run()["skipped"] == 2
    assert len(sandbox.billed()) == 1
    table = job.export()
    assert list(table["_status"]) == ["", "", "ambiguous"]
    assert list(table["_status_2"]) == ["ok", "skipped", "skipped"]
    assert table["_error_message_2"][1] == 'empty cell in column "tone"'
    assert "left it ambiguous" in table["_error_message_2"][2]


def test_an_export_replaces_an_earlier_one_and_nothing_else(job):
    """A file of the user stays unless --force is given, for every kind of file."""
    found = pipeline.find_job(job.spec)
    for kind in ("csv", "parquet", "jsonl", "xlsx"):
        target = job.folder / f"mine.{kind}"
        target.write_text("result,of,another,kind\n1,2,3,4\n")
        if kind == "xlsx":
            book = Workbook()
            book.worksheets[0].append(["result", "of", "another", "kind"])
            book.save(target)
        before = target.read_bytes()
        with pytest.raises(pipeline.Refused, match="--force"):
            pipeline.export_job(found, target)
        assert target.read_bytes() == before
        pipeline.export_job(found, target, force=True)
        written = target.read_bytes()
        assert written != before
        pipeline.export_job(found, target)
    target.write_bytes(before)
    assert job.call("export", "--to", str(target)).returncode == 2
    assert job.call("export", "--to", str(target), "--force").returncode == 0


ODD_TARGETS = {
    "a number.jsonl": b"5",
    "nothing.jsonl": b"null",
    "lists.jsonl": b"[[1]]",
    "deep.jsonl": b"[" * 200_000,
    "no text.csv": b"\xff\xfe\x00\xd8,\x00",
    "zeros.csv": bytes(100),
    "cut.parquet": b"PAR1\xff\xff\xff\x7fPAR1",
    "short.parquet": b"PAR1",
    "cut.xlsx": b"PK\x03\x04",
}


@pytest.mark.parametrize("name", [*ODD_TARGETS, "no such text.xlsx", "broken.xlsx"])
def test_an_odd_file_does_not_count_as_an_earlier_export(job, name):
    """Nor does one that a reader fails on."""
    target = job.folder / name
    if name in ODD_TARGETS:
        target.write_bytes(ODD_TARGETS[name])
    else:
        row = "<row" if name == "broken.xlsx" else '<row r="1"><c r="A1" t="s"><v>7</v></c></row>'
        write_workbook(target, worksheet(row))
    done = job.call("export", "--to", str(target))
    assert done.returncode == 2, done.stderr
    assert "this file exists and is not an earlier export" in done.stderr


def test_flags_are_exported_with_the_option_flags(make_job):
    """The flags of each answer, `repeated` among them."""
    same = "The very same text for everybody, whatever was asked."
    texts = {"a": same, "b": same, "c": "As an AI language model, I cannot.", "d": "fine"}

    def answer(body: bytes) -> Answer:
        result = texts[json.loads(body)["story"]]
        return 200, {}, json.dumps({"success": True, "result": result}).encode()

    with Server(answer) as server:
        job = make_job(server.url, rows=[["a"], ["b"], ["c"], ["d"], ["a"]])
        job.run()
        assert server.received.total() == 5
    target = job.folder / "out.parquet"
    assert job.call("export", "--to", str(target), "--flags").returncode == 0
    rows = pq.read_table(target).to_pylist()
    assert [row["_flags"] for row in rows] == [["repeated"]] * 2 + [["refusal"], [], ["repeated"]]
    assert "_flags" not in pq.read_schema(exported(job, "plain.parquet")).names
    report = job.call("report", "--json")
    assert "3 repeated: rows 1, 2, 5 (lines 2, 3, 6): another row" in report.stderr
    marked = {one["mark"]: one["first_rows"] for one in json.loads(report.stdout)["marked"]}
    assert marked == {"refusal": [3], "repeated": [1, 2, 5]}
