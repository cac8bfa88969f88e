"""Every command refuses paths that no file can have, and none ends in a traceback."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

BAD = {
    "a long name": "x" * 256,
    "a long path": "x" * 99 + ("/" + "x" * 99) * 45,
    "many folders": "x/" * 300 + "x",
    "a control character": "a\x1bb",
}
COMMANDS = {
    "job": ["check", "{}"],
    "--output": ["run", "JOB", "--sandbox", "--output", "{}"],
    "--input": ["check", "JOB", "--input", "{}"],
    "--key-file": ["run", "JOB", "--key-file", "{}"],
    "--to": ["export", "JOB", "--to", "{}.csv"],
    "--citations": ["export", "JOB", "--citations", "{}.csv"],
    "--bodies": ["report", "JOB", "--bodies", "{}"],
    "sheet": ["init", "{}.csv", "--workflow", "w"],
    "init --to": ["init", "SHEET", "--workflow", "w", "--to", "{}.yaml"],
}


def called(job, words: list[str]) -> subprocess.CompletedProcess[str]:
    known = {"JOB": str(job.spec), "SHEET": str(job.sheet)}
    return job.shell([sys.executable, "-m", "pipeline", *(known.get(w, w) for w in words)])


@pytest.mark.parametrize("kind", BAD)
def test_a_command_line_with_an_impossible_path_is_refused(make_job, kind):
    """In every argument and option that takes a path."""
    job = make_job("http://127.0.0.1:9", rows=[["a"]])
    for where, words in COMMANDS.items():
        done = called(job, [word.format(BAD[kind]) for word in words])
        assert done.returncode == 2, (where, done.stderr)
        assert "Traceback" not in done.stderr
        assert "Error: Invalid value for" in done.stderr
        assert done.stderr.rstrip().endswith("Nothing was sent.")


@pytest.mark.parametrize(
    "fields",
    [
        {"input": "loop"},
        {"input": "loop/s.csv"},
        {"output": "loop"},
        {"output": "loop/x"},
        {"notify": {"textfile": "loop.prom"}},
        {"notify": {"textfile": "a\0.prom"}},
        {"output": "a\0b"},
        {"input": "a\0.csv"},
    ],
)
def test_a_job_file_with_an_impossible_path_is_refused_before_anything_is_sent(
    sandbox, make_job, fields
):
    """By `check` and `run`: links that lead to themselves, and NUL, which YAML can contain."""
    job = make_job(sandbox.url, rows=[["a"]], **fields)
    for name in ("loop", "loop.prom"):
        (job.folder / name).symlink_to(name)
    for verb in ("check", "run", "status"):
        done = job.call(verb)
        assert "Traceback" not in done.stderr, done.stderr
        if verb != "status":
            assert done.returncode == 2, (verb, done.stdout, done.stderr)
    assert sandbox.received() == 0


def test_a_rehearsal_refuses_a_run_folder_that_is_too_long_or_links_to_itself(make_job):
    """`--sandbox` makes the name of the run folder longer."""
    job = make_job("", rows=[["a"]], output="x" * 250)
    done = job.call("check", "--sandbox")
    assert (done.returncode, "258 bytes" in done.stderr) == (2, True), done.stderr
    job.write_spec()
    (job.folder / "runs").mkdir()
    (job.folder / "runs" / "job.sandbox").symlink_to("job.sandbox")
    done = job.call("run", "--sandbox")
    assert (done.returncode, "leads to itself" in done.stderr) == (2, True), done.stderr


def test_the_longest_possible_names_work(sandbox, make_job):
    """They have 255 bytes. This includes a textfile, whose draft has another name."""
    sheet, output, metrics = "s" * 251 + ".csv", "o" * 255, "m" * 250 + ".prom"
    job = make_job(sandbox.url, input=sheet, output=output, notify={"textfile": metrics})
    (job.folder / sheet).write_text("story\na\n", encoding="utf-8")
    done = job.call("run", "--json", "--rate", "5000")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["ok"] == 1
    assert "could not notify" not in done.stderr
    assert {sheet, output, metrics} <= set(os.listdir(job.folder))
