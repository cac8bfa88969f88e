"""`pipeline init` writes a job file for any sheet, which loads and can be rehearsed unchanged."""

from __future__ import annotations

import csv
import json
import os
import pty
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

import openpyxl
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from pipeline.core.errors import Refused
from pipeline.inputs.formats import open_table
from pipeline.job.run_folder import RunFolder
from pipeline.job.schema import job_schema
from pipeline.job.spec import JobSpec, load_spec
from pipeline.job.spec_edit import quoted
from pipeline.run.prepare import open_sheet
from pipeline.scaffold.columns import variable_names
from pipeline.scaffold.job_spec import init_job
from tests.support.workbooks import cell, rows, worksheet, write_workbook

ODD = [
    "Größe (cm)", "it's", 'say "hi"', "a: b", "#1", "two\nlines", "😀", "yes", "0123", "null",
    "- x", "{a}", "[b]", "&c", "*d", "!e", "%f", "@g", "`h`", "| i", "> j", "?", "a\\b", "a\u2028b",
    "\u200b", "~", "<<", "=", "1e5", "2024-01-02", "name", "NAME", "Name ", " name", "a_b", "a-b",
    "a b", "\x85x", "x\x7f", "{{story}}", "ключ",
]  # fmt: skip

CELLS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)


def written(path: Path, columns: list[str], rows: list[list[str]]) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(rows)
    return path


def pipeline(where: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pipeline", *words],
        cwd=where,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        check=False,
    )


def test_the_new_job_file_can_be_checked_and_rehearsed_with_the_printed_commands(tmp_path):
    """It has an example of each column and the path of the sheet."""
    (tmp_path / "data").mkdir()
    rows = [["A1", "Mug: large", "", ""], ["A2", "Pen # 3", "blue", ""]]
    written(tmp_path / "data" / "my sheet.csv", ["SKU", "Product name", "note", "old"], rows)
    done = pipeline(tmp_path, "init", "data/my sheet.csv", "--workflow", "wf_abc123")
    assert done.returncode == 0, done.stderr
    text = (tmp_path / "jobs" / "my-sheet.yaml").read_text(encoding="utf-8")
    assert "  product_name: Product name  # for example: Mug: large\n" in text
    assert "  note: note  # for example: blue (1 empty)\n" in text
    assert "  # old: old  # every cell is empty\n" in text
    assert "# id: SKU " in text
    assert "\nempty:\n  note: send  # 1 of 2 cells is empty" in text
    spec = load_spec(tmp_path / "jobs" / "my-sheet.yaml")
    assert (spec.name, spec.workflow) == ("my-sheet", "wf_abc123")
    assert spec.input.samefile(tmp_path / "data" / "my sheet.csv")
    commands = [line.split("pipeline ")[1] for line in done.stderr.splitlines()[-2:]]
    assert commands == [
        "check jobs/my-sheet.yaml",
        "run jobs/my-sheet.yaml --sandbox --limit 5",
    ]
    for command in commands:
        ran = pipeline(tmp_path, *command.split(), *(["--sandbox"] if "check" in command else []))
        assert ran.returncode == 0, ran.stderr


def test_every_option_in_a_comment_is_a_valid_line_of_a_job_file(tmp_path):
    """Without its # it loads."""
    init_job(written(tmp_path / "s.csv", ["SKU", "b"], [["1", "x"]]), "wf", tmp_path / "s.yaml")
    lines = (tmp_path / "s.yaml").read_text(encoding="utf-8").splitlines()
    # The first line is for editors.
    options = [line.removeprefix("# ") if ":" in line else "" for line in lines[1:]]
    (tmp_path / "all.yaml").write_text("\n".join(options), encoding="utf-8")
    spec = load_spec(tmp_path / "all.yaml")
    assert (spec.id, spec.max_paid, spec.rate, spec.dedupe) == ("SKU", 500, 5, True)
    assert [condition.column for condition in spec.where] == ["status"]


def test_odd_column_names_load_from_the_job_file_unchanged(tmp_path):
    """`check` passes for all of them."""
    sheet = written(tmp_path / "odd.csv", ODD, [[f"{n} # x" for n in range(len(ODD))]])
    assert pipeline(tmp_path, "init", str(sheet), "--workflow", "yes").returncode == 0
    spec = load_spec(tmp_path / "jobs" / "odd.yaml")
    assert spec.variables is not None
    assert [column for _, column in spec.variables] == ODD
    done = pipeline(tmp_path, "check", "jobs/odd.yaml", "--sandbox", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["to_send"] == 1


@settings(max_examples=60)
@given(
    st.lists(CELLS.filter(str.strip), min_size=1, max_size=4, unique=True).flatmap(
        lambda columns: st.tuples(
            st.just(columns),
            st.lists(
                st.lists(CELLS, min_size=len(columns), max_size=len(columns)),
                min_size=1,
                max_size=4,
            ).filter(lambda rows: any(map(any, rows))),
        )
    )
)
@example((["result", "_status", "citations"], [["a", "ok", ""]]))
@example((["_only"], [["x"]]))
@example((["a", "result"], [["x", "y"]]))
def test_the_job_file_for_any_sheet_loads_and_fits_the_sheet(sheet):
    """With random column names and cells."""
    columns, rows = sheet
    with TemporaryDirectory() as name:
        folder = Path(name)
        path = written(folder / "sheet.csv", columns, rows)
        assume(readable(path))
        init_job(path, "wf_abc123", folder / "job.yaml")
        spec = load_spec(folder / "job.yaml")
        assert spec.variables is not None
        opened = open_sheet(spec, RunFolder(spec.output))
        assert len(opened.variables.mapped) == len(spec.variables)


def readable(path: Path) -> bool:
    """Whether the reader can open the sheet. It cannot split every header as it was written."""
    try:
        return any(open_table(JobSpec(path, "job", "wf", path, path)).batches())
    except Refused:
        return False


@given(st.text(max_size=20))
@example("\ud800")
def test_a_quoted_text_is_one_line_of_yaml_with_the_same_value(text):
    """For every text except lone surrogates, which no sheet contains."""
    line = quoted(text)
    assert len(line.splitlines()) <= 1 or not line
    if not any("\ud800" <= character <= "\udfff" for character in text):
        assert yaml.safe_load(f"a: {line}  # x\n") == {"a": text}


def test_variables_have_names_that_a_template_can_contain():
    """A name that fits stays, and two columns never share one."""
    assert variable_names(["story", "Größe (cm)", "😀", "2 b", "a b", "a_b", "a-b", "Story"]) == [
        "story", "grosse_cm", "column_3", "column_2_b", "a_b_2", "a_b", "a_b_3", "Story",
    ]  # fmt: skip


def test_the_added_columns_of_an_export_become_comments(tmp_path):
    """They are answers, and not variables."""
    columns = ["story", "result", "citations", "_status", "_error_code"]
    sheet = written(tmp_path / "done.csv", columns, [["a", "x", "", "ok", ""]])
    found = init_job(sheet, "wf", tmp_path / "job.yaml")
    assert (found.variables, found.left_out) == (1, tuple(columns[1:]))
    own = written(tmp_path / "own.csv", ["story", "result"], [["a", "x"]])
    assert init_job(own, "wf", tmp_path / "own.yaml").variables == 2


def test_a_title_above_a_text_table_is_skipped_by_header_row(tmp_path):
    """With and without separators in the title. The refusal says so, and a run reads the same."""
    for title in ("Our articles", "Our articles,,", '"Our, articles",,'):
        text = f"{title}\nname,price,story\na,1,b\n"
        (tmp_path / "list.csv").write_text(text, encoding="utf-8")
        done = pipeline(tmp_path, "init", "list.csv", "--workflow", "wf_x")
        assert done.returncode == 2
        assert "No job file exists yet, so use the option --header-row" in done.stderr
        to = ("--header-row", "2", "--to", "job.yaml")
        more = pipeline(tmp_path, "init", "list.csv", "--workflow", "wf_x", *to)
        assert more.returncode == 0, more.stderr
        checked = pipeline(tmp_path, "check", "job.yaml", "--sandbox")
        assert '{"name":"a","price":"1","story":"b"}' in checked.stdout
        (tmp_path / "job.yaml").unlink()


def test_columns_that_cannot_be_sent_are_comments_with_the_reason(tmp_path):
    """In a workbook, Parquet and JSON Lines: `init` accepts each sheet that a run can send."""
    text = [cell("A1", "story"), cell("B1", "price"), cell("C1", "price"), cell("D1", ""),
            cell("E1", "sum"), cell("F1", "look-up"), cell("G1", "group"),
            cell("H1", "end")]  # fmt: skip
    first = [cell("A2", "x"), cell("B2", "1"), cell("C2", "2"), cell("D2", "3"),
             cell("E2", formula="1+1"), cell("F2", "#N/A", "e"), cell("G2", "g"), cell("H2", "z"),
             cell("J2", "note")]  # fmt: skip
    merged = '<mergeCells count="1"><mergeCell ref="G2:G3"/></mergeCells>'
    data = rows(text, first, [cell("A3", "y"), cell("H3", "z")])
    write_workbook(tmp_path / "s.xlsx", worksheet(data, behind=merged))
    done = pipeline(tmp_path, "init", "s.xlsx", "--workflow", "wf", "--to", "book.yaml")
    assert done.returncode == 0, done.stderr
    job = (tmp_path / "book.yaml").read_text(encoding="utf-8")
    for line in (
        '# price: price  # cannot be sent: the header names "price" twice, in Sheet1!B1 and',
        '"price (column C)"  # cannot be sent: the header names "price" twice',
        '"(column D)"  # cannot be sent: Sheet1!D1 has no name in the header',
        "# sum: sum  # cannot be sent: Sheet1!E2: this cell has a formula that was never",
        "# cannot be sent: Sheet1!F2: #N/A would be sent as text",
        "# group: group  # cannot be sent: Sheet1!G2:G3: these merged cells have only one",
    ):
        assert line in job, job
    assert load_spec(tmp_path / "book.yaml").variables == (("story", "story"), ("end", "end"))
    odd = {
        "story": ["a"],
        "tags": [["x"]],
        "box": [{"a": 1}],
        "raw": [b"\xff"],
        "for": [timedelta(1)],
    }
    pq.write_table(pa.table(odd), tmp_path / "s.parquet")
    (tmp_path / "s.jsonl").write_text('{"story": "a", "tags": ["x"], "box": {"a": 1}}\n')
    for kind, flawed in (("parquet", ["tags", "box", "raw", "for"]), ("jsonl", ["tags", "box"])):
        found = init_job(tmp_path / f"s.{kind}", "wf", tmp_path / f"{kind}.yaml")
        assert list(found.flawed) == flawed
    for name in ("book", "parquet", "jsonl"):
        ran = pipeline(tmp_path, "run", f"{name}.yaml", "--sandbox", "--json")
        assert json.loads(ran.stdout.splitlines()[-1])["failed"] == 0
        out = pipeline(tmp_path, "export", f"{name}.yaml", "--sandbox", "--to", f"{name}.csv")
        assert out.returncode == 0, out.stderr


def test_a_sheet_with_no_column_that_can_be_sent_is_refused_with_a_reason(tmp_path):
    """Nothing is written."""
    pq.write_table(pa.table({"tags": [["x"]]}), tmp_path / "s.parquet")
    done = pipeline(tmp_path, "init", "s.parquet", "--workflow", "wf")
    assert done.returncode == 2
    assert "no column can be sent" in done.stderr
    assert "type list" in done.stderr


@pytest.mark.parametrize(
    ("name", "content", "separator", "words"),
    [
        ("s.csv", "a|b\n1|2, 3\n", "|", "`|`"),
        ("s.csv", "a^b\n1^2\n", "^", "`^`"),
        ("s.csv", "a;b\n1;2\n", ";", "semicolons"),
        ("s.txt", "\ufeffa\tb\r\n1\t2\r\n".encode("utf-16-le"), "\t", "tabs"),
        ("s.tsv", "a\tb\n1\t2\n", None, ""),
        ("s.csv", "a,b\n1,2\n", None, ""),
    ],
)
def test_another_separator_is_said_and_written_into_the_job_file(
    tmp_path, name, content, separator, words
):
    """It is also an option, and a run never guesses an unusual one."""
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    done = pipeline(tmp_path, "init", name, "--workflow", "wf", "--to", "job.yaml")
    assert done.returncode == 0, done.stderr
    assert ("separated by" in done.stderr) == (words in done.stderr) == bool(words) or not words
    spec = load_spec(tmp_path / "job.yaml")
    assert (spec.separator, open_table(spec).columns) == (separator, ("a", "b"))
    if separator:
        option = "tab" if separator == "\t" else separator
        said = init_job(path, "wf", tmp_path / "said.yaml", separator=option)
        assert (said.separator, said.variables) == (separator, 2)


def test_a_csv_export_has_the_same_names_twice_as_its_sheet(tmp_path):
    """Other kinds of files call the second one by its letter. A run from the export is free."""
    (tmp_path / "s.csv").write_text("a,price,price,\nx,1,2,3\n")
    init_job(tmp_path / "s.csv", "wf", tmp_path / "job.yaml")
    assert pipeline(tmp_path, "run", "job.yaml", "--sandbox").returncode == 0
    for kind in ("csv", "jsonl"):
        pipeline(tmp_path, "export", "job.yaml", "--sandbox", "--to", f"out.{kind}")
    header = (tmp_path / "out.csv").read_text(encoding="utf-8-sig").partition("\n")[0]
    assert header.strip().startswith("a,price,price,,result")
    assert '"price (column C)": "2"' in (tmp_path / "out.jsonl").read_text().replace('":"', '": "')
    (tmp_path / "s.csv").write_bytes((tmp_path / "out.csv").read_bytes())
    again = pipeline(tmp_path, "run", "job.yaml", "--sandbox", "--json")
    assert json.loads(again.stdout.splitlines()[-1])["requests"] == 0


def test_a_run_says_how_to_name_an_unusual_separator(tmp_path):
    """Without the key, the file has one column."""
    (tmp_path / "s.csv").write_text("a|b\n1|2\n")
    (tmp_path / "job.yaml").write_text("name: j\nworkflow: wf\ninput: s.csv\nvariables: {x: a}\n")
    done = pipeline(tmp_path, "check", "job.yaml", "--sandbox")
    assert done.returncode == 2
    assert "set `separator:`" in done.stderr
    (tmp_path / "job.yaml").write_text("name: j\nworkflow: wf\ninput: s.csv\nseparator: '|'\n")
    assert '{"a":"1","b":"2"}' in pipeline(tmp_path, "check", "job.yaml", "--sandbox").stdout
    (tmp_path / "job.yaml").write_text("name: j\nworkflow: wf\ninput: s.csv\nseparator: ab\n")
    assert "line 4: `separator` must be one character" in (
        pipeline(tmp_path, "check", "job.yaml", "--sandbox").stderr
    )


def test_two_sheets_with_the_same_file_name_can_have_two_jobs(tmp_path):
    """As with a file for every week. With one job, they would share their answers."""
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        written(tmp_path / name / "list.csv", ["story"], [[f"{name} {n}"] for n in range(2)])
        spec = f"jobs/list-{name}.yaml"
        made = pipeline(tmp_path, "init", f"{name}/list.csv", "--workflow", "wf_x", "--to", spec)
        assert made.returncode == 0, made.stderr
        assert load_spec(tmp_path / spec).name == f"list-{name}"


def test_two_job_files_with_the_same_name_and_two_sheets_never_share_a_run_folder(tmp_path):
    """Neither to send nor to read. A renamed job file continues in its own folder."""
    for name in ("a", "b"):
        written(tmp_path / f"{name}.csv", ["story"], [[f"{name} {n}"] for n in range(2)])
        text = f"name: weekly\nworkflow: wf_x\ninput: {name}.csv\n"
        (tmp_path / f"{name}.yaml").write_text(text, encoding="utf-8")
    assert pipeline(tmp_path, "run", "a.yaml", "--sandbox").returncode == 0
    for command in (("run",), ("status",), ("export", "--to", "out.csv")):
        refused = pipeline(tmp_path, command[0], "b.yaml", "--sandbox", *command[1:])
        assert refused.returncode == 2
        for part in ("a.yaml", "b.yaml", "a.csv", "`name:`", "Nothing was sent"):
            assert part in refused.stderr
    assert not (tmp_path / "out.csv").exists()
    (tmp_path / "a.yaml").rename(tmp_path / "c.yaml")
    again = pipeline(tmp_path, "run", "c.yaml", "--sandbox")
    assert "0 of 2 rows to send" in again.stderr


def test_an_existing_job_file_is_never_overwritten(tmp_path):
    """The command ends with 2, even if the file is a broken link."""
    sheet = written(tmp_path / "s.csv", ["a"], [["x"]])
    (tmp_path / "kept.yaml").write_text("mine", encoding="utf-8")
    (tmp_path / "link.yaml").symlink_to("nowhere")
    for name in ("kept.yaml", "link.yaml"):
        done = pipeline(tmp_path, "init", str(sheet), "--workflow", "wf", "--to", name, "--json")
        assert done.returncode == 2
        assert "already exists" in json.loads(done.stdout)["error"]
    assert (tmp_path / "kept.yaml").read_text(encoding="utf-8") == "mine"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["s.csv"], "--workflow"),
        (["s.csv", "--workflow", "a/b"], "not a workflow id"),
        (["t.csv", "--workflow", "wf"], '"s.csv"'),
        (["empty.csv", "--workflow", "wf"], "no rows"),
    ],
)
def test_an_impossible_job_is_refused_and_nothing_is_written(tmp_path, words, said):
    """Without a terminal, the command asks no question."""
    written(tmp_path / "s.csv", ["a"], [["x"]])
    written(tmp_path / "empty.csv", ["a"], [])
    done = pipeline(tmp_path, "init", *words)
    assert done.returncode == 2
    assert said in done.stderr
    assert not list(tmp_path.glob("**/*.yaml"))


def test_on_a_terminal_the_command_asks_for_a_missing_workflow(tmp_path):
    """The answer goes into the job file."""
    written(tmp_path / "s.csv", ["a"], [["x"]])
    master, slave = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "pipeline", "init", "s.csv"],
        cwd=tmp_path,
        stdin=slave,
        stdout=slave,
        stderr=slave,
    )
    os.close(slave)
    os.write(master, b"wf_asked\n")
    assert process.wait(30) == 0
    os.close(master)
    assert load_spec(tmp_path / "jobs" / "s.yaml").workflow == "wf_asked"


def test_a_parquet_file_is_also_a_sheet(tmp_path):
    """Nulls are empty cells."""
    pd.DataFrame({"a": ["x", None], "n": [1, 2]}).to_parquet(tmp_path / "s.parquet")
    found = init_job(tmp_path / "s.parquet", "wf", tmp_path / "s.yaml")
    assert (found.rows, found.variables) == (2, 2)
    assert load_spec(found.path).empty_in("a") == "send"


def test_an_optional_column_loses_no_row_and_a_forgotten_cell_skips_its_row(tmp_path):
    """The file says why, and the terminal how many rows. The sheet of the README loses none."""
    rows = [[f"item {n}", "" if n % 2 else "x", "" if n == 7 else "5"] for n in range(40)]
    written(tmp_path / "s.csv", ["Item", "Note", "Price"], rows)
    done = pipeline(tmp_path, "init", "s.csv", "--workflow", "wf", "--to", "s.yaml")
    text = (tmp_path / "s.yaml").read_text(encoding="utf-8")
    assert "  Note: send  # 20 of 40 cells are empty: often" in text
    assert "  Price: skip  # 1 of 40 cells is empty: seldom" in text
    assert (
        "1 row would be skipped, because the row is blank, or a cell is empty in a column"
        in done.stderr
    )
    checked = pipeline(tmp_path, "check", "s.yaml", "--sandbox", "--json")
    found = json.loads(checked.stdout)
    assert (found["to_send"], found["skipped_by"]) == (39, {"empty": 1})
    assert "1 because a cell that would be sent is empty" in checked.stderr
    first, again = (pipeline(tmp_path, "run", "s.yaml", "--sandbox").stderr for _ in range(2))
    assert "1 row skipped: 1 because a cell that would be sent is empty" in first
    assert "skipped:" not in again
    products = Path(__file__).parents[2] / "data" / "products.csv"
    assert init_job(products, "wf", tmp_path / "p.yaml").skipped == 0


def test_a_blank_row_makes_no_column_optional_and_is_skipped(tmp_path):
    """Otherwise it would be paid for."""
    rows = [["a", "x", "1"], ["b", "", "2"], ["", "", ""], ["c", "", "3"]]
    written(tmp_path / "s.csv", ["Item", "Note", "Price"], rows)
    found = init_job(tmp_path / "s.csv", "wf", tmp_path / "s.yaml")
    assert (found.skipped, found.skipped_for) == (1, ("Item", "Price"))
    assert "only in blank rows" in (tmp_path / "s.yaml").read_text(encoding="utf-8")
    checked = pipeline(tmp_path, "check", "s.yaml", "--sandbox", "--json")
    assert json.loads(checked.stdout)["to_send"] == 3


def test_columns_that_are_each_rarely_empty_never_skip_many_rows_together(tmp_path):
    """Here every row would be skipped."""
    rows = [["" if row == column else "x" for column in range(30)] for row in range(30)]
    written(tmp_path / "s.csv", [f"c{n}" for n in range(30)], rows)
    found = init_job(tmp_path / "s.csv", "wf", tmp_path / "s.yaml")
    assert (found.partly_empty, found.skipped) == (30, 0)


def test_a_workbook_with_a_title_and_two_worksheets_is_described_by_options(tmp_path):
    """The refusal names the options, as no job file exists yet. Then the job file has the keys."""
    book = openpyxl.Workbook()
    page = book.active
    assert page is not None
    page.title = "Products"
    for line in (["Our list"], [], ["sku", "name"], ["1", "lamp"]):
        page.append(line)
    book.create_sheet("Notes").append(["x"])
    book.save(tmp_path / "list.xlsx")

    def init(*options: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "pipeline", "init", "list.xlsx", "--workflow", "wf_a"]
        return subprocess.run(
            [*command, *options], cwd=tmp_path, capture_output=True, text=True, check=False
        )

    for options in ([], ["--sheet", "Products"]):
        refused = init(*options)
        assert refused.returncode == 2
        assert "No job file exists yet, so use the option --" in refused.stderr
    done = init("--sheet", "Products", "--header-row", "3")
    assert done.returncode == 0, done.stderr
    spec = load_spec(tmp_path / "jobs" / "list.yaml")
    assert (spec.sheet, spec.header_row) == ("Products", 3)
    assert open_table(spec).columns == ("sku", "name")


def test_columns_that_a_workbook_displays_in_another_way_are_proposed_in_a_comment(tmp_path):
    """Not a column whose format the runner does not know, and not one without a difference."""
    book = openpyxl.Workbook()
    book.active.append(["SKU", "Unit price", "Discount", "Since", "Count", "Empty"])
    for count in range(3):
        book.active.append(["A", 172.92, 0.1, 45293, count])
    for row in book.active.iter_rows(min_row=2):
        formats = ("@", "#,##0.00\\ [$€-407]", "0%", "ggge", "0")
        for one, number_format in zip(row, formats, strict=False):
            one.number_format = number_format
    book.active["B2"] = 5
    book.active["B2"].number_format = "General"
    book.save(tmp_path / "prices.xlsx")
    done = pipeline(tmp_path, "init", "prices.xlsx", "--workflow", "wf_x", "--to", "job.yaml")
    assert done.returncode == 0, done.stderr
    text = (tmp_path / "job.yaml").read_text()
    line = "# shown: [Unit price, Discount]  # send 172.92 € as displayed instead of 172.92\n"
    assert line in text
    assert load_spec(tmp_path / "job.yaml").shown is False
    (tmp_path / "job.yaml").write_text(text.replace("# shown", "shown").replace("# loc", "loc"))
    done = pipeline(tmp_path, "check", "job.yaml", "--sandbox")
    assert '"Discount":"10%"' in done.stdout, done.stderr
    assert '"unit_price":"172,92 €"' in done.stdout


def test_a_sheet_that_is_displayed_as_it_is_sent_gets_no_such_comment(tmp_path):
    """Also a file without formats."""
    pd.DataFrame({"a": ["x"], "n": [1.5]}).to_excel(tmp_path / "a.xlsx", index=False)
    written(tmp_path / "b.csv", ["a"], [["x"]])
    for name in ("a.xlsx", "b.csv"):
        pipeline(tmp_path, "init", name, "--workflow", "wf_x", "--to", f"{name}.yaml")
        assert "shown" not in (tmp_path / f"{name}.yaml").read_text()


def test_the_refusal_of_a_sheet_instead_of_a_job_file_names_pipeline_init(tmp_path):
    """This is the first mistake of a new user."""
    (tmp_path / "list.xlsx").write_bytes(b"PK\x03\x04\xff\xfe")
    with pytest.raises(Refused, match="pipeline init"):
        load_spec(tmp_path / "list.xlsx")


def test_an_editor_finds_the_schema_next_to_the_job_file(tmp_path: Path):
    """It is that of this release, also where an older one stood. A file of the user stays."""
    written(tmp_path / "sheet.csv", ["a"], [["x"]])
    schema = tmp_path / "jobs" / "job.schema.json"

    def first_line(name: str) -> str:
        done = pipeline(tmp_path, "init", "sheet.csv", "--workflow", "wf", "--to", f"jobs/{name}")
        assert done.returncode == 0, done.stderr
        assert ("with it, editors know" in done.stderr) is (name != "same.yaml")
        return (tmp_path / "jobs" / name).read_text("utf-8").partition("\n")[0]

    line = first_line("new.yaml")
    assert line == "# yaml-language-server: $schema=./job.schema.json"
    assert json.loads(schema.read_text("utf-8")) == job_schema()
    assert first_line("same.yaml") == line
    schema.write_text(json.dumps({"title": job_schema()["title"]}))
    assert first_line("newer.yaml") == line
    assert json.loads(schema.read_text("utf-8")) == job_schema()


@pytest.mark.parametrize("content", ["{}", "not json", "[]", '{"title": "mine"}'])
def test_a_file_of_the_user_with_the_name_of_the_schema_stays(tmp_path: Path, content: str):
    written(tmp_path / "sheet.csv", ["a"], [["x"]])
    (tmp_path / "job.schema.json").write_text(content)
    init_job(tmp_path / "sheet.csv", "wf", tmp_path / "job.yaml")
    assert (tmp_path / "job.schema.json").read_text() == content
    assert "yaml-language-server" not in (tmp_path / "job.yaml").read_text()
