"""`columns:`: the parts of JSON answers in exports and in the report."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import openpyxl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import pipeline
from pipeline.core.errors import Refused
from tests.conftest import Job, SandboxProcess

COLUMNS = {
    "title": "$.title",
    "score": {"path": "$.score", "type": "number"},
    "pages": {"path": "$.pages", "type": "integer"},
    "sure": {"path": "$.sure", "type": "boolean"},
    "day": {"path": "$.day", "type": "date"},
    "tags": {"path": "$.tags[*]", "join": "; "},
    "more": {"path": "$.more", "type": "json"},
}
FULL = (
    '{"title": "One", "score": 1.10, "pages": 7, "sure": true, "day": "2026-11-28", '
    '"tags": ["a", "b"], "more": {"b": 1.50, "a": null}}'
)
ANSWERS = [
    FULL,
    '{"title": "=1+1", "score": "no", "pages": 1.5}',
    "no JSON at all",
    "#fault:blocked",
]


def make(sandbox: SandboxProcess, make_job: Any, answers: list[str], **fields: Any) -> Job:
    """Makes a job whose answers contain the text of each row."""
    job = make_job(sandbox.url, ["no", "text"], [[str(n), a] for n, a in enumerate(answers, 1)])
    sandbox.publish("wf_json", "{{text}}")
    job.fields = {"workflow": "wf_json", "variables": {"text": "text"}, "columns": COLUMNS}
    job.write_spec(**job.fields | fields)
    return job


@pytest.fixture
def job(sandbox, make_job) -> Job:
    """One answer fits, one fits in part, one is not JSON, and one row failed."""
    job = make(sandbox, make_job, ANSWERS)
    job.run(expect=3)
    return job


def exported(job: Job, name: str, *options: str) -> Path:
    target = job.spec.with_name(name)
    done = job.call("export", "--to", str(target), *options)
    assert done.returncode == 0, done.stderr
    return target


def rows_of_csv(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file))


def test_a_csv_has_the_digits_of_the_answer(job):
    """Texts that look like formulas get a ' in front, as in the other columns of the runner."""
    first, second, third, fourth = rows_of_csv(exported(job, "done.csv", "--flags"))
    names = list(first)
    assert names[names.index("result") + 1 : names.index("citations")] == list(COLUMNS)
    assert [first[name] for name in COLUMNS] == [
        *("One", "1.10", "7", "true", "2026-11-28", "a; b", '{"b":1.50,"a":null}')
    ]
    assert (first["_status"], first["_flags"]) == ("ok", "")
    assert [second[name] for name in COLUMNS] == ["'=1+1", "", "", "", "", "", ""]
    assert second["_flags"].split("\n") == [
        *("type:score", "type:pages", "missing:sure", "missing:day", "missing:tags"),
        "missing:more",
    ]
    assert (third["title"], third["_status"], third["_flags"]) == ("", "ok", "not_json")
    assert (fourth["title"], fourth["_status"], fourth["_flags"]) == ("", "failed", "")


def test_a_parquet_file_has_types(job):
    """The type of a column does not depend on its values."""
    table = pq.read_table(exported(job, "done.parquet"))
    kinds = [pa.string(), pa.float64(), pa.int64(), pa.bool_(), pa.date32(), pa.string()]
    assert [table.schema.field(name).type for name in COLUMNS] == [*kinds, pa.string()]
    assert table["score"].to_pylist() == [1.1, None, None, None]
    assert [str(day) for day in table["day"].to_pylist()] == ["2026-11-28", "None", "None", "None"]


def test_a_jsonl_file_has_json(job):
    """Numbers keep their digits, and a column of JSON is JSON."""
    first, second, *_ = exported(job, "done.jsonl").read_text(encoding="utf-8").splitlines()
    assert '"score": 1.10, "pages": 7, "sure": true, "day": "2026-11-28"' in first
    assert '"more": {"b":1.50,"a":null}' in first
    assert json.loads(second)["score"] is None


@pytest.mark.parametrize("sheet", ["csv", "xlsx"])
def test_a_workbook_has_numbers_dates_and_truth_values(sandbox, make_job, sheet):
    """Both a new workbook and the copy of one. A second copy adds no further styles."""
    job = make(sandbox, make_job, ANSWERS)
    if sheet == "xlsx":
        book = openpyxl.Workbook()
        for row in csv.reader(job.sheet.read_text(encoding="utf-8").splitlines()):
            book.active.append(row)
        book.save(job.sheet.with_suffix(".xlsx"))
        job.fields["input"] = str(job.sheet.with_suffix(".xlsx"))
        job.write_spec(**job.fields)
    job.run(expect=3)
    done = exported(job, "done.xlsx")
    cells = next(
        row for row in openpyxl.load_workbook(done).worksheets[0].iter_rows(min_row=2, max_row=2)
    )
    first = {head.value: cell for head, cell in zip(_header(done), cells, strict=True)}
    assert (first["score"].value, first["score"].data_type) == (1.1, "n")
    assert (first["pages"].value, first["sure"].value) == (7, True)
    assert str(first["day"].value) == "2026-11-28 00:00:00"
    assert first["day"].is_date
    assert first["more"].value == '{"b":1.50,"a":null}'
    if sheet == "xlsx":
        job.fields["input"] = str(done)
        job.write_spec(**job.fields)
        job.run(expect=3)
        again = exported(job, "again.xlsx")
        assert _header(again)[-1].column == len(_header(done))
        count = len(openpyxl.load_workbook(done)._cell_styles)
        assert len(openpyxl.load_workbook(again)._cell_styles) == count


def _header(path: Path) -> tuple[Any, ...]:
    return next(openpyxl.load_workbook(path).worksheets[0].iter_rows(max_row=1))


def test_changed_columns_send_nothing_and_the_export_is_right(job, sandbox):
    """The server's book has as many requests as before."""
    received = sandbox.received()
    job.fields["columns"] = {"name": "$.title", "pages": {"path": "$.pages", "type": "text"}}
    job.write_spec(**job.fields)
    assert job.run(expect=3)["requests"] == 0
    rows = rows_of_csv(exported(job, "done.csv"))
    assert [row["name"] for row in rows] == ["One", "'=1+1", "", ""]
    assert [row["pages"] for row in rows] == ["7", "1.5", "", ""]
    assert "title" not in rows[0]
    assert sandbox.received() == received


@pytest.mark.parametrize("ending", ["csv", "xlsx", "parquet", "jsonl"])
def test_an_export_as_the_next_sheet_gets_its_columns_again_in_place(sandbox, make_job, ending):
    """Each column is sent here, so a column of the export would be a variable: it is none. Rows
    that are skipped keep the values that the sheet brought, also in their types."""
    job = make(sandbox, make_job, ANSWERS[:2], variables=None)
    sandbox.publish("wf_json", "{{no}} {{text}}")
    job.run()
    bills = sandbox.billed()
    done = exported(job, f"done.{ending}", "--flags")
    names = list(pq.read_schema(done).names) if ending == "parquet" else None
    for number in range(2):
        job.write_spec(**job.fields | {"variables": None, "input": str(done)})
        assert job.run()["requests"] == 0
        done = exported(job, f"again-{number}.{ending}", "--flags")
    if names is not None:
        assert pq.read_schema(done).names == names
    other = shutil.copy(done, job.spec.with_name(f"other.{ending}"))
    job.write_spec(
        **job.fields
        | {"variables": {"text": "text"}, "input": str(other), "output": "other-run"}
        | {"where": [{"column": "no", "equals": "none"}]}
    )
    assert job.run()["skipped"] == 2
    kept = exported(job, f"kept.{ending}", "--flags")
    if ending == "parquet":
        before, after = pq.read_table(done), pq.read_table(kept)
        assert after.select(list(COLUMNS)).equals(before.select(list(COLUMNS)))
    if ending == "csv":
        assert [r["score"] for r in rows_of_csv(kept)] == ["1.10", ""]
        assert [r["more"] for r in rows_of_csv(kept)] == ['{"b":1.50,"a":null}', ""]
    assert sandbox.billed() == bills


def test_a_name_that_the_sheet_has_gets_a_number_in_the_export(sandbox, make_job):
    """So have all columns of the same export. The user's own column stays."""
    job = make(sandbox, make_job, [FULL], columns={"no": "$.pages"})
    job.run()
    [row] = rows_of_csv(exported(job, "done.csv"))
    assert (row["no"], row["no_2"], row["_status_2"]) == ("1", "7", "ok")
    assert "result" not in row


def test_a_column_of_the_user_is_kept_although_the_folder_once_wrote_one(sandbox, make_job):
    """The earlier export had no status, so only the cells show whose column it is."""
    job = make(sandbox, make_job, [FULL] * 3)
    job.run()
    first = exported(job, "first.csv", "--add", "columns")
    rows = [[str(n), FULL, "mine"] for n in range(1, 4)]
    job.write_sheet(["no", "text", "score"], rows)
    job.run("--yes")
    second = exported(job, "second.csv", "--add", "columns")
    header = second.read_text("utf-8-sig").splitlines()[0].split(",")
    assert header == ["no", "text", "score", *(f"{name}_2" for name in COLUMNS)]
    assert {row["score"] for row in rows_of_csv(second)} == {"mine"}
    job.sheet.write_bytes(first.read_bytes())
    job.run("--yes")
    third = exported(job, "third.csv", "--add", "columns")
    assert rows_of_csv(third) == rows_of_csv(first)


def test_a_name_in_other_letters_is_taken(sandbox, make_job):
    """Excel and SQL do not tell them apart."""
    job = make_job(sandbox.url, ["no", "text", "Title", "RESULT"], [["1", FULL, "t", "r"]])
    sandbox.publish("wf_json", "{{text}}")
    job.write_spec(workflow="wf_json", variables={"text": "text"}, columns={"title": "$.title"})
    job.run()
    [row] = rows_of_csv(exported(job, "done.csv", "--add", "result,columns"))
    assert list(row) == ["no", "text", "Title", "RESULT", "result_2", "title_2"]
    again = exported(job, "again.csv", "--add", "result,columns")
    assert list(rows_of_csv(again)[0]) == list(row)


def test_add_chooses_the_columns(job):
    """`columns` stands for all of them."""
    rows = rows_of_csv(exported(job, "some.csv", "--add", "columns,status"))
    assert list(rows[0]) == ["no", "text", *COLUMNS, "_status"]
    rows = rows_of_csv(exported(job, "few.csv", "--add", "result,status"))
    assert list(rows[0]) == ["no", "text", "result", "_status"]


def test_the_report_counts_and_explains_the_flags(job):
    """In words on the terminal and on the page, and as data in JSON."""
    done = job.call("report")
    assert "1 not_json: row 3 (line 4): the text is not JSON" in done.stdout
    assert "1 missing:sure: row 2 (line 3): the JSON has no value at the path" in done.stdout
    assert "1 type:score: row 2 (line 3): the value at the path" in done.stdout
    page = (job.output / "report.html").read_text(encoding="utf-8")
    assert "not_json" in page
    found = {f.mark: f.first_rows for f in pipeline.report_job(pipeline.find_job(job.spec)).marked}
    assert found["not_json"] == (3,)
    assert found["type:pages"] == (2,)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ("title", "`columns` needs `name: path` lines, such as `title: $.title`"),
        ({"a": "title"}, "line 5: `title` is not a path: "),
        ({"a": {"path": "$.a..b..c"}}, "line 5: `$.a..b..c` is not a path: `..` may stand"),
        ({"a": {"path": "$.a", "type": "decimal"}}, "line 5: `type: decimal` is not one of text"),
        ({"a": {"path": "$.a", "typ": "text"}}, 'the column "a" has no key `typ`. Did you mean'),
        ({"a": {"type": "text"}}, "`path:` is missing"),
        ({"a": {"path": "$.a", "type": "number", "join": ","}}, "line 5: `join` makes a text"),
        ({"a": ["$.a"]}, "`a` must be a text, not a list"),
        ({"a": 7}, "YAML reads `7` as a number"),
        ({"result": "$.a"}, 'cannot have the name "result": a column that an export adds has it.'),
        ({"Citations": "$.a"}, 'cannot have the name "Citations": a column that an export adds'),
        ({"a": "$.a", "A": "$.b"}, 'cannot have the name "A": another of these columns has it'),
        ({"=1+1": "$.a"}, "a spreadsheet would run it as a formula"),
        ({"_a": "$.a"}, "names that begin with _ are for the runner"),
        ({" a": "$.a"}, "printable characters, without a space"),
        ({"a\nb": "$.a"}, "printable characters, without a space"),
        ({"": "$.a"}, "printable characters, without a space"),
        ({"x" * 101: "$.a"}, "1 to 100 printable characters"),
        ({f"c{n}": "$.a" for n in range(501)}, "501 columns, and the limit is 500"),
    ],
)
def test_columns_that_cannot_be_are_refused_with_the_line(sandbox, make_job, columns, message):
    """Before anything is sent."""
    job = make(sandbox, make_job, [FULL], columns=columns)
    with pytest.raises(Refused) as refused:
        pipeline.load_spec(job.spec)
    assert message in str(refused.value)


def test_a_check_shows_the_columns_and_sends_nothing(job, sandbox):
    """So that a user sees what a changed path gives before the export."""
    received = sandbox.received()
    done = job.call("check")
    assert "Columns of the 3 answers, 1 of them not JSON:\n" in done.stdout
    assert "  score (number) from $.score: 1 filled, 1 of another type.\n" in done.stdout
    assert "  sure (boolean) from $.sure: 1 filled, 1 without a value.\n" in done.stdout
    found = json.loads(job.call("check", "--json").stdout)["columns"]
    assert (found["answers"], found["not_json"]) == (3, 1)
    assert found["columns"][0] == {
        **{"name": "title", "path": "$.title", "type": "text"},
        **{"filled": 2, "missing": 0, "another_type": 0},
    }
    assert sandbox.received() == received


def test_a_check_before_the_first_run_names_the_columns(sandbox, make_job):
    """There is no answer to read yet."""
    job = make(sandbox, make_job, ANSWERS)
    done = job.call("check")
    assert "Columns of the answers: title (text), score (number)" in done.stdout


def test_errors_in_columns_have_their_lines(tmp_path):
    """All are reported together."""
    job = tmp_path / "job.yaml"
    job.write_text(
        "name: a\nworkflow: w\ninput: a.csv\ncolumns:\n  title: title\n  score:\n"
        "    path: $.score\n    type: float\n  result: $.x\n",
        encoding="utf-8",
    )
    with pytest.raises(Refused) as refused:
        pipeline.load_spec(job)
    lines = str(refused.value).splitlines()
    assert [line.split(": ")[0].strip() for line in lines[1:4]] == ["line 5", "line 8", "line 9"]


@pytest.fixture
def thousand(sandbox, make_job) -> Job:
    """A job whose answers fit, except that every hundredth row got a sentence the first time."""
    job = make(
        sandbox,
        make_job,
        [
            f'{{"title": "T{n}{"#fault:result-prose-once" if n % 100 == 7 else ""}", '
            f'"score": {n}.25, "pages": {n}, "sure": true, "day": "2026-11-28"}}'
            for n in range(1000)
        ],
        columns={name: COLUMNS[name] for name in ("title", "score", "pages", "sure", "day")},
    )
    job.run()
    return job


def test_of_a_thousand_rows_those_that_do_not_fit_are_found_read_and_paid_once_more(
    thousand, sandbox
):
    """And no other: the server's book says so."""
    expected = list(range(8, 1000, 100))
    [found] = json.loads(thousand.call("report", "--json").stdout)["marked"]
    assert (found["mark"], found["count"]) == ("not_json", 10)
    *shown, _ = map(
        json.loads, thousand.call("show", "--flag", "not_json", "--json").stdout.splitlines()
    )
    assert [row["row"] for row in shown] == expected
    assert {row["answer"] for row in shown} == {"I found more than one answer."}
    before = sandbox.billed()
    assert set(before.values()) == {1}
    thousand.run("--again", "not_json", "--yes")
    again = {body for body, times in sandbox.billed().items() if times != before[body]}
    assert again == {body for body in before if "#fault" in body}
    assert {sandbox.billed()[body] for body in again} == {2}
    thousand.run()
    assert sum(sandbox.billed().values()) == 1010
    rows = rows_of_csv(exported(thousand, "done.csv", "--flags"))
    assert [row["score"] for row in rows] == [f"{n}.25" for n in range(1000)]
    assert {row["_flags"] for row in rows} == {""}


@pytest.mark.skipif(shutil.which("soffice") is None, reason="needs LibreOffice")
def test_libreoffice_calculates_with_the_columns_of_a_thousand_rows(thousand, tmp_path):
    """Numbers are numbers there, and nothing is lost."""
    thousand.run("--again", "not_json", "--yes")
    done = exported(thousand, "done.xlsx")
    subprocess.run(
        ["soffice", "--headless", "--convert-to", "csv", "--outdir", str(tmp_path / "out"), done],
        check=True,
        capture_output=True,
        timeout=120,
    )
    rows = rows_of_csv(tmp_path / "out" / "done.csv")
    assert sum(float(row["score"]) for row in rows) == 1000 * 499.5 + 250
    assert {row["sure"] for row in rows} == {"TRUE"}
    assert {row["day"] for row in rows} == {"2026-11-28"}
    sheet = openpyxl.load_workbook(done).worksheets[0]
    column = [cell.value for cell in sheet[1]].index("score") + 1
    assert all(isinstance(row[0].value, float) for row in sheet.iter_rows(2, 1001, column, column))
