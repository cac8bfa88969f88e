"""What a call of `run_frame` shows, how an interrupt ends it, and the notebook of docs/."""

from __future__ import annotations

import ast
import asyncio
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Coroutine
from dataclasses import fields
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import pipeline
from pipeline.core.events import Event, Listener, Notice
from pipeline.job.frame_call import frame_call, in_python
from pipeline.job.spec_keys import KEYS
from pipeline.notebook.frames import FrameOptions
from pipeline.run.in_thread import run_in_thread
from tests.commands.test_docs import blocks
from tests.conftest import TOP, Job, SandboxProcess
from tests.support.screen import screen

NOTEBOOK = TOP / "docs" / "dataframes.ipynb"
OF_FILES = {"input", "sheet", "header_row", "encoding", "shown", "locale", "separator", "hidden"}


def cells() -> list[str]:
    """Returns the code of the notebook, cell by cell."""
    notebook = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    return ["".join(one["source"]) for one in notebook["cells"] if one["cell_type"] == "code"]


def test_the_options_of_a_call_are_those_of_a_run_and_of_a_job_file():
    """Except for the keys of files, and those that are arguments."""
    of_run = {field.name for field in fields(pipeline.RunOptions)}
    of_job = {"answer_column" if key.name == "as" else key.name for key in KEYS}
    arguments = {"workflow", "output", "variables", "id"}
    assert set(FrameOptions.__annotations__) == of_run | (of_job - OF_FILES - arguments)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"max_payd": 5}, 'there is no option `max_payd`. Did you mean "max_paid"?'),
        ({"listener": ()}, 'there is no option `listener`. Did you mean "listeners"?'),
        ({"answer_colum": "x"}, 'Did you mean "answer_column"?'),
        ({"output": ""}, "`output` is empty"),
        ({"sheet": "x"}, "there is no option `sheet`. It is for the files of sheets."),
        ({"max_paid": -1}, "`max_paid` must be a whole number of 0 or more"),
        ({"max_paid": float("nan")}, "`max_paid` must be a whole number"),
        ({"empty": "skp"}, '`empty="skp"` is not one of refuse, send, skip. Did you mean "skip"?'),
        ({"where": [{"column": "x"}]}, "needs a `column` and exactly one of"),
        ({"columns": {"t": "nope"}}, "`nope` is not a path"),
        ({"constants": {"n": 5}}, '`n`: `5` is a number. Write a text: "5"'),
        ({"constants": {"n": object()}}, "contains an object of the type object"),
        ({"constants": {"n": "x" * 500_000}}, "The options of the call have over 400 KB"),
        ({"workflow": "bad id"}, "is not allowed"),
        ({"name": "a b"}, "is not allowed"),
        ({"if_locked": "never"}, "use one of fail, wait"),
        ({"variables": {"story": "storry"}}, 'no column "storry" for the variable "story"'),
        ({"id": "n"}, 'run_frame(id=…): the frame has no column "n"'),
    ],
)
def test_a_wrong_option_is_refused_in_words_of_the_call(tmp_path, options, words):
    """With the nearest name. Nothing is written."""
    frame = pd.DataFrame({"story": ["a"]})
    known = {"workflow": "wf_story", "output": tmp_path / "runs" / "x", "sandbox": True}
    with pytest.raises(pipeline.Refused) as caught:
        pipeline.run_frame(frame, **(known | {"progress": False} | options))
    assert words in str(caught.value)
    assert str(caught.value).count("Nothing was sent.") == 1
    assert "--" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_number_of_numpy_is_a_number(tmp_path):
    """As a frame's own sum is."""
    numbers = pd.Series([1, 2])
    done = pipeline.run_frame(
        pd.DataFrame({0: ["a", "b"]}),
        workflow="wf_story",
        variables={"story": 0},  # type: ignore[dict-item]
        output=tmp_path / "x",
        sandbox=True,
        progress=False,
        max_paid=numbers.sum() - 2,
    )
    assert done["_status"].tolist().count("ok") == 1
    assert done.columns.tolist()[0] == 0


@pytest.mark.parametrize(
    ("verb", "options", "selection"),
    [
        ("run", ("--limit", "5"), pipeline.Selection(limit=5)),
        ("resume", (), pipeline.select_resume()),
        (
            "resume",
            ("--only", "gateway,a'b", "--ambiguous"),
            pipeline.select_resume(only=frozenset({"gateway", "a'b"}), ambiguous=True),
        ),
        ("resume", ("--rows", "3,7-9"), pipeline.select_resume(rows=pipeline.parse_rows("3,7-9"))),
        ("run", (), None),
        ("check", ("--json",), None),
    ],
)
def test_the_next_step_is_a_call_that_python_accepts(verb, options, selection):
    """It chooses the same rows as the command."""
    call = frame_call(verb, ("--max-paid", "7", *options))
    assert call.startswith("pipeline.run_frame(frame, …, max_paid=7")
    tree = ast.parse(call.replace("…", "*more"), mode="eval")
    assert isinstance(tree.body, ast.Call)
    given = {one.arg: ast.unparse(one.value) for one in tree.body.keywords}
    found = eval(given["selection"], {"pipeline": pipeline}) if "selection" in given else None
    assert found == selection


def test_messages_use_the_words_of_the_call():
    """Commands that work in a shell stay as they are."""
    assert in_python("Set `output:` or --output to a new folder. Add --yes.") == (
        "Set `output=` or output= to a new folder. Add consent=pipeline.Consent(yes=True)."
    )
    same = "`settle --reread` reads it again. Next: pipeline report /data/my--folder/x"
    assert in_python(same) == same


PROGRAM = """
import sys, pandas as pd, pipeline
frame = pd.DataFrame({"story": ["a", "b #fault:blocked", "c"]})
done = pipeline.run_frame(
    frame, workflow="wf_story", output=sys.argv[1], progress=sys.argv[2] == "yes", rate=5000
)
print(done["_status"].tolist())
"""


def run_program(
    sandbox: SandboxProcess, folder: Path, progress: str, **more: Any
) -> subprocess.CompletedProcess[str]:
    job = Job(folder, folder / "none.yaml", folder / "none.csv", sandbox.url)
    command = [sys.executable, "-c", PROGRAM, str(folder / "runs" / "x"), progress]
    return subprocess.run(
        command, env=job.environment(), text=True, stdout=subprocess.PIPE, check=False, **more
    )


def test_a_call_prints_lines_where_there_is_no_terminal_and_nothing_without_progress(
    sandbox, tmp_path
):
    """The last line is the next step, in Python. Only the program itself writes to stdout."""
    quiet = run_program(sandbox, tmp_path / "quiet", "no", stderr=subprocess.PIPE)
    assert quiet.stderr == ""
    shown = run_program(sandbox, tmp_path / "shown", "yes", stderr=subprocess.PIPE)
    assert shown.stdout == quiet.stdout == "['ok', 'failed', 'ok']\n"
    folder = tmp_path / "shown" / "runs" / "x"
    lines = shown.stderr.splitlines()
    assert lines[0] == "3 of 3 rows to send."
    assert "x: 3 rows: 2 ok, 1 failed." in lines
    assert f"What failed and why: pipeline report {folder}" in lines
    assert lines[-1] == "Next: pipeline.run_frame(frame, …)"


def test_a_call_draws_a_bar_on_a_terminal(sandbox, tmp_path):
    """As the command does."""
    with screen(100) as terminal:
        done = run_program(sandbox, tmp_path, "yes", stderr=terminal.stream)
        lines = terminal.lines()
    assert done.returncode == 0, lines
    assert re.fullmatch(r"100%\|.*\| 3/3, 1 failed, took \d+ s", lines[0]), lines
    assert "Next: pipeline.run_frame(frame, …)" in lines


def test_an_error_of_a_listener_stops_the_run_and_is_raised():
    """No thread sends on without its caller, and no row in flight is given up."""
    control = pipeline.Control()
    seen: list[Event] = []

    def broken(event: Event) -> None:
        seen.append(event)
        raise RuntimeError("a broken display")

    def work(tell: Listener) -> Coroutine[Any, Any, int]:
        async def run() -> int:
            tell(Notice("one"))
            tell(Notice("two"))
            while control.stopped is None:
                await asyncio.sleep(0.01)
            return 1

        return run()

    with pytest.raises(RuntimeError, match="a broken display"):
        run_in_thread(work, control, broken)
    assert len(seen) == 1
    assert control.stopped is not None
    assert not control.abandoned


def test_the_notebook_has_the_code_of_its_page_and_no_output():
    """So that both stay the same. Its last cell awaits the call."""
    page = [code.rstrip("\n") for code in blocks("python", "docs/dataframes.md")]
    assert cells()[:-1] == page
    assert "await pipeline.run_frame_async(" in cells()[-1]
    notebook = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    assert all(not one.get("outputs") for one in notebook["cells"])


CELLS = """
import ast, asyncio, json, sys

async def main():
    names = {}
    for cell in json.load(sys.stdin):
        code = compile(cell, "cell", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        waiting = eval(code, names)
        if waiting is not None:
            await waiting

asyncio.run(main())
"""


def test_the_cells_of_the_notebook_run_one_by_one_in_a_running_loop(tmp_path):
    """As in a kernel. `make test-recipes` runs them in a real one."""
    (tmp_path / "data").symlink_to(TOP / "data")
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", CELLS],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(TOP), *sys.path[1:2]])},
        input=json.dumps(cells()),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "described: 20 rows: 20 ok." in done.stderr
    assert "5 of 25 rows to send." in done.stderr
    assert done.stdout.endswith("0 requests\n"), done.stdout
    assert time.monotonic() - started < 60
