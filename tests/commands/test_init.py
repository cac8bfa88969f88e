"""`pipeline init`: a spec for any sheet, that loads and can be rehearsed as it stands."""

from __future__ import annotations

import csv
import json
import os
import pty
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import openpyxl
import pandas as pd
import pytest
import yaml
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from pipeline.core.errors import Refused
from pipeline.inputs.formats import open_table
from pipeline.job.run_folder import RunFolder
from pipeline.job.spec import JobSpec, load_spec
from pipeline.run.prepare import open_sheet
from pipeline.scaffold.job_spec import init_job, quoted, variable_names

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


def test_a_spec_is_written_that_can_be_checked_and_rehearsed_as_it_says(tmp_path):
    """With an example of each column, the sheet's place, and the next commands."""
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
    assert "\nempty: skip" in text
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


def test_every_commented_line_is_a_line_of_a_spec(tmp_path):
    """Taken out of its comment it loads."""
    init_job(written(tmp_path / "s.csv", ["SKU", "b"], [["1", "x"]]), "wf", tmp_path / "s.yaml")
    lines = (tmp_path / "s.yaml").read_text(encoding="utf-8").splitlines()
    taken = [
        line.removeprefix("# ") if ":" in line and not line.startswith("# Workflow") else ""
        for line in lines
    ]
    (tmp_path / "all.yaml").write_text("\n".join(taken), encoding="utf-8")
    spec = load_spec(tmp_path / "all.yaml")
    assert (spec.id, spec.max_paid, spec.rate, spec.dedupe) == ("SKU", 500, 5, True)
    assert [condition.column for condition in spec.where] == ["status"]


def test_odd_column_names_are_written_so_that_they_read_back(tmp_path):
    """And `check` passes for all of them."""
    sheet = written(tmp_path / "odd.csv", ODD, [[f"{n} # x" for n in range(len(ODD))]])
    assert pipeline(tmp_path, "init", str(sheet), "--workflow", "yes").returncode == 0
    spec = load_spec(tmp_path / "jobs" / "odd.yaml")
    assert spec.variables is not None
    assert [column for _, column in spec.variables] == ODD
    done = pipeline(tmp_path, "check", "jobs/odd.yaml", "--sandbox", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["to_send"] == 1


@settings(max_examples=60, deadline=None)
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
def test_a_spec_for_any_sheet_loads_and_fits_it(sheet):
    """Whatever stands in it."""
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
    """Not every text is a header that a reader can split as it was written."""
    try:
        return any(open_table(JobSpec(path, "job", "wf", path, path)).batches())
    except Refused:
        return False


@given(st.text(max_size=20))
@example("\ud800")
def test_a_quoted_text_is_one_line_of_yaml_that_reads_back(text):
    """For any text but halves of surrogate pairs, which no sheet holds."""
    line = quoted(text)
    assert len(line.splitlines()) <= 1 or not line
    if not any("\ud800" <= character <= "\udfff" for character in text):
        assert yaml.safe_load(f"a: {line}  # x\n") == {"a": text}


def test_variables_have_names_that_a_template_can_hold():
    """A name that fits is kept; two columns never share one."""
    assert variable_names(["story", "Größe (cm)", "😀", "2 b", "a b", "a_b", "a-b", "Story"]) == [
        "story", "grosse_cm", "column_3", "column_2_b", "a_b_2", "a_b", "a_b_3", "Story",
    ]  # fmt: skip


def test_an_export_of_the_runner_gives_its_own_columns_as_comments(tmp_path):
    """They are answers, not questions."""
    columns = ["story", "result", "citations", "_status", "_error_code"]
    sheet = written(tmp_path / "done.csv", columns, [["a", "x", "", "ok", ""]])
    found = init_job(sheet, "wf", tmp_path / "job.yaml")
    assert (found.variables, found.left_out) == (1, tuple(columns[1:]))
    own = written(tmp_path / "own.csv", ["story", "result"], [["a", "x"]])
    assert init_job(own, "wf", tmp_path / "own.yaml").variables == 2


def test_a_title_above_a_text_table_is_told_what_to_do_about(tmp_path):
    """Whether it has separators in it or none, and without advice that is refused next."""
    for title in ("Our articles", "Our articles,,"):
        text = f"{title}\nname,price,story\na,1,b\n"
        (tmp_path / "list.csv").write_text(text, encoding="utf-8")
        done = pipeline(tmp_path, "init", "list.csv", "--workflow", "wf_x")
        assert done.returncode == 2
        assert "title, remove it" in done.stderr
        more = pipeline(tmp_path, "init", "list.csv", "--workflow", "wf_x", "--header-row", "2")
        assert more.returncode == 2
        assert "No job file exists yet" not in more.stderr


def test_sheets_of_one_name_have_jobs_of_their_own(tmp_path):
    """As files of every week do. Their answers would otherwise be one another's."""
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        written(tmp_path / name / "list.csv", ["story"], [[f"{name} {n}"] for n in range(2)])
        spec = f"jobs/list-{name}.yaml"
        made = pipeline(tmp_path, "init", f"{name}/list.csv", "--workflow", "wf_x", "--to", spec)
        assert made.returncode == 0, made.stderr
        assert load_spec(tmp_path / spec).name == f"list-{name}"


def test_two_specs_with_one_name_and_two_sheets_never_share_a_run_folder(tmp_path):
    """Neither to send nor to look; a spec that was renamed goes on with its own."""
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


def test_a_spec_that_is_there_is_never_written_over(tmp_path):
    """Exit 2, also where it is a link to nowhere."""
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
def test_what_cannot_be_a_job_is_refused_and_nothing_is_written(tmp_path, words, said):
    """Without a terminal nothing is asked."""
    written(tmp_path / "s.csv", ["a"], [["x"]])
    written(tmp_path / "empty.csv", ["a"], [])
    done = pipeline(tmp_path, "init", *words)
    assert done.returncode == 2
    assert said in done.stderr
    assert not list(tmp_path.glob("**/*.yaml"))


def test_on_a_terminal_the_workflow_is_asked_for(tmp_path):
    """When it was not given."""
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


def test_a_parquet_sheet_is_a_sheet_too(tmp_path):
    """Nulls are empty cells."""
    pd.DataFrame({"a": ["x", None], "n": [1, 2]}).to_parquet(tmp_path / "s.parquet")
    found = init_job(tmp_path / "s.parquet", "wf", tmp_path / "s.yaml")
    assert (found.rows, found.variables) == (2, 2)
    assert load_spec(found.path).empty == "skip"


def test_a_workbook_with_a_title_and_several_sheets_is_told_by_options(tmp_path):
    """The refusal names them, as there is no spec yet; the spec that is written does the same."""
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


def test_a_sheet_in_the_place_of_a_spec_is_told_what_writes_one(tmp_path):
    """It is the first mistake that one makes."""
    (tmp_path / "list.xlsx").write_bytes(b"PK\x03\x04\xff\xfe")
    with pytest.raises(Refused, match="pipeline init"):
        load_spec(tmp_path / "list.xlsx")
