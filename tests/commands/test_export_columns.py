"""The columns that an export adds: which, under which names, and what they do to the next run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import pytest
from openpyxl import load_workbook

import pipeline
from tests.conftest import Job
from tests.support.tables import read_export

STORIES = [["1", "a plain story"], ["2", "#fault:blocked"], ["3", "#fault:html-504-billed"]]
ROWS = [*STORIES, ["4", "another"]]
ADDED = ["result", "citations", "_status", "_error_code", "_error_message"]
KINDS = ("csv", "xlsx", "parquet", "jsonl")
# Each pair takes five seconds. The others run only in `make soak`.
ALWAYS = {("csv", None), ("xlsx", "outline")}
SOME = [
    pytest.param(kind, answer, marks=() if (kind, answer) in ALWAYS else pytest.mark.long)
    for kind in KINDS
    for answer in (None, "outline")
]


@pytest.fixture
def job(sandbox, make_job) -> Job:
    """Two rows ok, one failed, one ambiguous. Every column is sent."""
    job = make_job(sandbox.url, ["no", "story"], ROWS, workflow="wf_mine")
    job.fields = {"workflow": "wf_mine"}
    sandbox.publish("wf_mine", "{{no}} {{story}}", web_search=True)
    job.run(expect=5)
    return job


def change(job: Job, **fields: Any) -> None:
    """Changes keys of the job file."""
    job.fields |= fields
    job.write_spec(**job.fields)


def export(job: Job, target: Path, *options: str) -> list[str]:
    """Exports, and returns the columns of the file."""
    done = job.call("export", "--to", str(target), *options)
    assert done.returncode == 0, done.stderr
    return list(read_export(target).columns)


def run_from(job: Job, sheet: Path, *options: str) -> dict[str, int]:
    """Runs the job with another sheet, and returns the numbers of the run."""
    change(job, input=str(sheet))
    done = job.call("run", "--json", "--yes", *options)
    assert done.returncode in (0, 3, 5), done.stderr
    return json.loads(done.stdout)


def settled(job: Job) -> None:
    """Decides that the ambiguous row failed, so that no row is ambiguous."""
    done = job.call("settle", "--only", "gateway")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("answer", [None, "outline"])
def test_nights_renew_the_columns_of_this_folder_where_they_stand(job, sandbox, kind, answer):
    """The second export of an export has the same columns, and its run sends nothing."""
    if answer:
        change(job, **{"as": answer})
    first, second = job.folder / f"first.{kind}", job.folder / f"second.{kind}"
    names = ["no", "story", *(_named(answer) if answer else ADDED)]
    assert export(job, first) == names
    bills = sandbox.billed()
    assert run_from(job, first)["requests"] == 0
    assert export(job, second) == names
    assert run_from(job, second)["requests"] == 0
    assert sandbox.billed() == bills
    assert read_export(second).equals(read_export(first))


def _named(answer: str) -> list[str]:
    rest = [f"_{answer}{name}" for name in ADDED[2:]]
    return [answer, f"{answer}_citations", *rest]


def test_a_column_of_this_folder_is_renewed_at_its_place(job):
    """The user has moved it to the front, and has added a column behind it."""
    first, moved, second = (job.folder / name for name in ("first.csv", "moved.csv", "second.csv"))
    export(job, first)
    table = read_export(first)[["result", "no", "story", "_status", *ADDED[3:], "citations"]]
    table["_note"] = "mine"
    table.loc[0, "result"] = "an old text"
    table.to_csv(moved, index=False)
    run_from(job, moved)
    assert export(job, second) == list(table.columns)
    now = read_export(second)
    assert set(now["_note"]) == {"mine"}
    assert "a plain story" in now["result"][0]
    assert "an old text" not in set(now["result"])


@pytest.mark.parametrize("kind", KINDS)
def test_the_columns_of_another_job_stay_as_they_are(job, sandbox, make_job, kind):
    """Also in the second night of this job, which renews only its own."""
    first = job.folder / f"first.{kind}"
    export(job, first)
    other = ("--output", str(job.folder / "runs" / "other"))
    assert run_from(job, first, *other)["skipped"] == 1
    second, third = job.folder / f"second.{kind}", job.folder / f"third.{kind}"
    names = ["no", "story", *ADDED, *(f"{name}_2" for name in ADDED)]
    assert export(job, second, *other) == names
    run_from(job, second, *other)
    bills = sandbox.billed()
    assert export(job, third, *other) == names
    before, after = read_export(first), read_export(third)
    assert after[["no", "story", *ADDED]].equals(before)
    assert list(after["_status"]) == ["ok", "failed", "ambiguous", "ok"]
    assert sandbox.billed() == bills


@pytest.mark.parametrize(("kind", "answer"), SOME)
def test_an_ambiguous_row_of_an_export_is_sent_in_no_other_folder(job, sandbox, kind, answer):
    """Under whatever name the status stands, and with every choice of columns that is allowed."""
    if answer:
        change(job, **{"as": answer})
    for number, add in enumerate(("status", "result,status", "status,flags,citations")):
        target = job.folder / f"out-{number}.{kind}"
        change(job, input="sheet.csv")
        export(job, target, "--add", add)
        sheet = job.folder / f"sheet-{number}.{kind}"
        shutil.copy(target, sheet)
        other = ("--output", str(job.folder / "runs" / f"other-{number}"))
        before = sandbox.billed()
        assert run_from(job, sheet, *other)["skipped"] == 1
        ambiguous = {body for body in sandbox.billed() if "html-504" in body}
        assert {b: n for b, n in sandbox.billed().items() if b in ambiguous} == {
            b: n for b, n in before.items() if b in ambiguous
        }
        assert sandbox.billed().keys() == before.keys()


@pytest.mark.parametrize(("kind", "answer"), SOME)
def test_every_choice_of_columns_can_be_the_next_sheet(job, sandbox, kind, answer):
    """Nothing is sent in the folder that wrote it, and a night replaces its own file."""
    settled(job)
    if answer:
        change(job, **{"as": answer})
    bills = sandbox.billed()
    for number, add in enumerate(("result", "result,citations", "error_code,flags", "citations")):
        target = job.folder / f"out-{number}.{kind}"
        names = export(job, target, "--add", add)
        assert run_from(job, target)["requests"] == 0
        again = job.folder / f"again-{number}.{kind}"
        assert export(job, again, "--add", add) == names
        assert export(job, again, "--add", add) == names
    assert sandbox.billed() == bills


def test_a_choice_without_the_status_is_refused_while_rows_are_ambiguous(job):
    """Exit 2 with their number. Afterwards it is written."""
    target = job.folder / "out.csv"
    done = job.call("export", "--to", str(target), "--add", "result,error_code")
    assert done.returncode == 2
    assert "1 row is ambiguous" in done.stderr
    assert not target.exists()
    settled(job)
    assert export(job, target, "--add", "error_code,result") == [
        *("no", "story"),
        *("result", "_error_code"),
    ]


def test_an_unknown_column_is_refused_with_the_nearest_word(job):
    """Exit 2, on the command line and in the job file."""
    target = job.folder / "out.csv"
    done = job.call("export", "--to", str(target), "--add", "result,state")
    assert (done.returncode, 'Did you mean "status"?' in done.stderr) == (2, True)
    change(job, add=["result", "state"])
    done = job.call("export", "--to", str(target))
    assert (done.returncode, 'Did you mean "status"?' in done.stderr) == (2, True)
    for name in ("2x", "a b", "http", "_x", ""):
        change(job, **{"as": name})
        assert job.call("export", "--to", str(target)).returncode == 2
    assert not target.exists()


def test_the_job_file_chooses_columns_and_the_option_wins(job):
    """Always in the same order. --flags adds the flags."""
    change(job, add=["status", "result"])
    target = job.folder / "out.parquet"
    assert export(job, target) == ["no", "story", "result", "_status"]
    assert export(job, target, "--flags") == ["no", "story", "result", "_status", "_flags"]
    assert export(job, target, "--add", "status") == ["no", "story", "_status"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_of_the_user_with_few_columns_is_not_replaced(job, kind):
    """Only a file that this folder wrote at that place, with those columns."""
    change(job, add=["status"])
    target, copy = job.folder / f"out.{kind}", job.folder / f"copy.{kind}"
    export(job, target)
    export(job, target)
    shutil.copy(target, copy)
    assert job.call("export", "--to", str(copy)).returncode == 2
    other = pd.DataFrame({"_status": ["mine"], "something": ["else"]})
    if kind == "csv":
        other.to_csv(target, index=False)
    elif kind == "xlsx":
        other.to_excel(target, index=False)
    elif kind == "parquet":
        other.to_parquet(target)
    else:
        other.to_json(target, orient="records", lines=True)
    assert job.call("export", "--to", str(target)).returncode == 2


def test_a_damaged_note_of_exports_counts_as_none(job):
    """The export gets numbered columns, and nothing of the sheet is lost."""
    first = job.folder / "first.csv"
    export(job, first)
    run_from(job, first)
    note = job.folder / "runs" / "job" / "exports.json"
    assert note.stat().st_mode & 0o777 == 0o600
    good = json.loads(note.read_text())
    assert good == {"columns": ADDED, "files": {}}
    numbered = ["no", "story", *ADDED, *(f"{name}_2" for name in ADDED)]
    for text in (
        *("", "[]", "{}", "[" * 100_000, '{"columns": "result", "files": {}}'),
        json.dumps({"columns": ADDED, "files": {"x": {}}}),
        json.dumps({"columns": [*ADDED, 5], "files": {}}),
        json.dumps({"columns": ["result"] * 2000, "files": {}}),
        '{"columns": ["' + "x" * 2_000_000 + '"], "files": {}}',
    ):
        note.write_text(text)
        assert export(job, job.folder / "out.csv") == numbered
    assert job.call("verify").returncode == 0


def test_a_folder_that_cannot_be_written_is_no_error_of_an_export(job):
    """Its note is a folder, so that nobody can replace it."""
    note = job.folder / "runs" / "job" / "exports.json"
    note.mkdir()
    (note / "mine").touch()
    assert export(job, job.folder / "out.csv") == ["no", "story", *ADDED]


def test_columns_that_look_like_statuses_are_sent_only_if_they_are_mapped(sandbox, make_job):
    """`_outline_status` makes `outline` an export's column. A mapped one guards nothing."""
    columns = ["story", "outline", "outline_citations", "_outline_status"]
    rows = [["a", "x", "", "ok"], ["b", "y", "", "ambiguous"]]
    job = make_job(sandbox.url, columns, rows)
    assert job.run()["skipped"] == 1
    assert [json.loads(body) for body in sandbox.billed()] == [{"story": "a"}]
    mapped = {"story": "story", "state": "_outline_status"}
    job.write_spec(variables=mapped, output="second")
    assert job.run()["skipped"] == 0


def test_a_column_with_the_name_of_the_answer_is_refused_until_it_is_mapped(sandbox, make_job):
    """As `result` is. It would be mistaken for an answer."""
    job = make_job(sandbox.url, ["story", "outline"], [["a", "b"]], **{"as": "outline"})
    done = job.call("run")
    assert done.returncode == 2
    assert 'the column "outline" would be mistaken for an answer' in done.stderr
    assert sandbox.received() == 0


def test_init_leaves_the_columns_of_an_export_out(job, tmp_path):
    """Under every name."""
    change(job, **{"as": "outline"})
    target = job.folder / "out.csv"
    export(job, target)
    written = pipeline.init_job(target, "wf_x", tmp_path / "new.yaml")
    assert written.left_out == tuple(_named("outline"))


def test_a_workbook_shows_each_kind_of_column_in_its_width(job):
    """Also under other names."""
    change(job, **{"as": "outline"})
    target = job.folder / "out.xlsx"
    export(job, target)
    widths = load_workbook(target).worksheets[0].column_dimensions
    assert (widths["C"].width, widths["E"].width) == (70, 12)


def test_schema_of_a_parquet_export_is_the_same_every_night(job):
    """A renewed column has its type again."""
    first, second = job.folder / "first.parquet", job.folder / "second.parquet"
    export(job, first, "--flags")
    run_from(job, first)
    export(job, second)
    assert pq.read_schema(first).equals(pq.read_schema(second))
    assert pq.read_table(first).equals(pq.read_table(second))


@pytest.mark.parametrize("names", [["result", "_status"] * 2, ["_status", "_status"]])
def test_any_of_two_status_columns_with_one_name_guards_a_row(sandbox, make_job, names):
    """As when a person pastes two exports next to each other."""
    cells = {"result": "r", "_status": "ok"}
    rows = [
        ["x #fault:html-504-billed", *(cells[name] for name in names[:-1]), " Ambiguous "],
        ["y", *(cells[name] for name in names)],
    ]
    job = make_job(sandbox.url, variables={"story": "story"})
    lines = [",".join(row) for row in (["story", *names], *rows)]
    job.sheet.write_text("\n".join(lines) + "\n")
    assert job.run()["skipped"] == 1
    assert not any("html-504" in body for body in sandbox.billed())


def test_a_result_of_the_user_is_kept_although_the_folder_once_wrote_one(job):
    """Without the status of the runner next to it, the column is the user's own."""
    export(job, job.folder / "first.csv")
    job.sheet.write_text("no,story,result\n1,a,mine\n2,b,mine too\n")
    job.write_spec(variables={"story": "story"})
    job.call("run", "--yes")
    columns = export(job, job.folder / "second.csv")
    assert columns == ["no", "story", "result", *(f"{name}_2" for name in ADDED)]
    assert "mine too" in (job.folder / "second.csv").read_text("utf-8-sig")


def test_a_text_that_an_export_put_aside_is_not_sent_as_the_name_of_its_file(sandbox, make_job):
    """A cell of a workbook cannot hold it. The run of the export is refused with the cell."""
    job = make_job(sandbox.url, rows=[["y" * 40_000], ["short"]])
    job.run()
    target = job.folder / "out.xlsx"
    assert job.call("export", "--to", str(target)).returncode == 0
    billed = sandbox.billed()
    done = job.call("run", "--input", str(target))
    assert (done.returncode, "job!A2: the text of this cell is in the file" in done.stderr) == (
        2,
        True,
    ), done.stderr
    assert sandbox.billed() == billed
