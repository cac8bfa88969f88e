"""No process that the runner starts imports a foreign file, or gets variables it does not need.

Each command is run in a folder with modules that have the names of those that the children import.
Each of these modules records that it ran.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.system.children import import_path, start_python
from tests.conftest import Job
from tests.support.servers import Answer, Server

KEY = "sk_live_Zm9v+/=%&'x7Q"
PIPELINE = str(Path(sys.executable).with_name("pipeline"))
# Modules of the sandbox, of the start of each child, and of both and the runner.
OF_CHILDREN = ("uvicorn", "starlette", "h11", "websockets", "uvloop", "runpy")
OF_ALL = ("pipeline", "json", "sqlite3", "httpx", "asyncio", "subprocess", "typing", "click")
# A sqlite3 that first records its importer, with its command line and environment.
PROBE = """
import json, os, sys
with open({probed!r}, "a") as file:
    told = {{"words": sys.orig_argv, "env": dict(os.environ), "cwd": os.getcwd()}}
    file.write(json.dumps(told) + chr(10))
places = [place for place in sys.path if place != {folder!r}]
sys.path[:], before = places, sys.path[:]
del sys.modules["sqlite3"]
import sqlite3
sys.path[:] = before
"""


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    """Makes a folder without modules yet. The file `ran` next to it names the modules that ran."""
    folder = tmp_path / "here"
    folder.mkdir()
    return folder


def lay_out(folder: Path, modules: tuple[str, ...]) -> None:
    for module in modules:
        code = f"open({str(folder.with_name('ran'))!r}, 'a').write(__file__ + chr(10))\n"
        (folder / f"{module}.py").write_text(code)


def what_ran(folder: Path) -> str:
    ran = folder.with_name("ran")
    return ran.read_text() if ran.exists() else ""


def given(job: Job, here: Path, words: list[str], **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        words, cwd=here, env=job.environment(**more), capture_output=True, text=True, check=False
    )


def long_answer(body: bytes) -> Answer:
    """Answers 1 MB. With twenty of these answers, a child process checks the ledger."""
    return 200, {}, json.dumps({"success": True, "result": "x" * 1_000_000}).encode()


def test_no_module_of_the_current_folder_is_imported_and_no_child_gets_the_key(
    make_job, tmp_path, hostile
):
    """By any command, also if a child checks the ledger or serves the sandbox."""
    job = make_job("", rows=[[f"story {n}"] for n in range(20)])
    lay_out(hostile, OF_CHILDREN + OF_ALL)
    probe, probed = tmp_path / "probe", tmp_path / "probed"
    probe.mkdir()
    code = PROBE.format(probed=str(probed), folder=str(probe))
    (probe / "sqlite3.py").write_text(code)
    with Server(long_answer) as server:
        job.base_url = server.url
        for verb, *options in (
            ("run",),
            ("run",),
            ("run", "--sandbox"),
            ("check",),
            ("status",),
            ("report",),
            ("export", "--to", str(tmp_path / "all.csv")),
            ("verify",),
        ):
            words = [PIPELINE, verb, str(job.spec), *options]
            secret = {"AITUTOR_API_KEY": KEY, "ANOTHER": KEY, "PYTHONPATH": str(probe)}
            done = given(job, hostile, words, **secret)
            assert done.returncode == 0, done.stderr
        assert (job.output / "ledger.sqlite").stat().st_size > 16 << 20
        assert server.received.total() == 20
    assert what_ran(hostile) == ""
    told = [json.loads(line) for line in probed.read_text().splitlines()]
    children = [child for child in told if "-I" in child["words"]]
    modules = ("pipeline.ledger.integrity", "pipeline.sandbox.server")
    assert {word for child in children for word in child["words"] if word in modules} == {*modules}
    for child in children:
        assert KEY not in child["env"].values()
        assert child["cwd"] == "/"
    assert any(KEY in process["env"].values() for process in told), "the runner itself has it"


@pytest.mark.parametrize("python_path", ["", ":", ":/nowhere", ".", "/nowhere::/elsewhere"])
def test_no_form_of_pythonpath_brings_the_current_folder_into_a_child(
    make_job, hostile, python_path
):
    """An empty entry means the current folder, as in `PYTHONPATH=$PYTHONPATH:/my/lib`."""
    job = make_job("", rows=[["a"]])
    lay_out(hostile, OF_CHILDREN)
    words = [PIPELINE, "run", str(job.spec), "--sandbox"]
    done = given(job, hostile, words, PYTHONPATH=python_path)
    assert done.returncode == 0, done.stderr
    assert what_ran(hostile) == ""


def test_python_minus_m_imports_no_modules_from_the_current_folder(make_job, hostile):
    """Except for a `pipeline` there, which Python finds before any code of this package runs."""
    job = make_job("", rows=[["a"]])
    lay_out(hostile, tuple({*OF_CHILDREN, *OF_ALL} - {"pipeline", "runpy"}))
    words = [sys.executable, "-m", "pipeline", "run", str(job.spec), "--sandbox"]
    done = given(job, hostile, words)
    assert done.returncode == 0, done.stderr
    assert what_ran(hostile) == ""


TELLING = """
import json, os, sys
import pipeline
print(json.dumps({"env": dict(os.environ), "path": sys.path, "words": sys.argv[1:],
                  "pipeline": pipeline.__file__}))
"""


def test_a_child_gets_variables_by_an_allow_list_and_the_same_modules(monkeypatch, tmp_path):
    """A secret may have any name. A child can import the same modules as this process."""
    (tmp_path / "telling.py").write_text(TELLING)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    for name in ("AITUTOR_API_KEY", "CREDENTIALS_DIRECTORY", "SANDBOX_MODEL_KEY", "MY_TOKEN"):
        monkeypatch.setenv(name, KEY)
    with start_python("telling", "a word", more={"GIVEN": "this"}) as child:
        told = json.loads(child.communicate()[0])
    assert KEY not in told["env"].values()
    assert (told["env"]["TZ"], told["env"]["GIVEN"]) == ("Asia/Tokyo", "this")
    assert told["words"] == ["a word"]
    assert told["path"] == import_path()
    import pipeline

    assert told["pipeline"] == pipeline.__file__


def test_a_sandbox_that_does_not_start_ends_in_a_message(make_job):
    """For example if its book is a folder. Exit 75, as if the API were away, and no traceback."""
    job = make_job("", rows=[["a"]])
    folder = job.output.with_name("job.sandbox")
    (folder / "sandbox-book.sqlite").mkdir(parents=True)
    done = job.call("run", "--sandbox", "--json")
    assert done.returncode == 75, done.stderr
    assert "Traceback" not in done.stderr
    assert "The sandbox did not start: " in done.stderr
    assert "sandbox-book.sqlite: cannot be used as a book of bills" in done.stderr
    assert "Nothing was sent." in done.stderr
    assert json.loads(done.stdout)["exit_code"] == 75
    os.rmdir(folder / "sandbox-book.sqlite")
    assert job.run("--sandbox")["ok"] == 1


def test_the_browser_of_report_open_does_not_get_the_key(sandbox, make_job, tmp_path):
    """Nor the path of systemd's credentials."""
    job = make_job(sandbox.url, rows=[["a"]])
    job.run()
    browser, told = tmp_path / "browser", tmp_path / "told"
    browser.write_text(f"#!/bin/sh\nenv > {told}\n")
    browser.chmod(0o755)
    secrets = {"AITUTOR_API_KEY": KEY, "CREDENTIALS_DIRECTORY": str(tmp_path)}
    words = [PIPELINE, "report", str(job.spec), "--open"]
    done = given(job, tmp_path, words, BROWSER=f"{browser} %s", WITH="it", **secrets)
    assert done.returncode == 0, done.stderr
    names = dict(line.split("=", 1) for line in told.read_text().splitlines() if "=" in line)
    assert names["WITH"] == "it"
    assert not {*secrets} & {*names}
