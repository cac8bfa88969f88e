"""Messages about mistakes, as a user reads them who does not know the code."""

from __future__ import annotations

import shlex
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ended

PORT = 9
NOWHERE = f"http://127.0.0.1:{PORT}"  # only the system may listen at so low a port
SHEET = "story,sku\na,1\nb,2\n"

# A command line, other keys of the job file, the sheet, and words of the message: where and what.
MISTAKES = [
    (["rn"], {}, SHEET, ["No such command 'rn'"]),
    (["run"], {}, SHEET, ["Missing argument 'JOB'"]),
    (["run", "JOB", "--limit", "five"], {}, SHEET, ["'--limit': 'five' is not a whole number."]),
    (["run", "JOB", "--limit", "-1"], {}, SHEET, ["'--limit': -1 is not 0 or more."]),
    (["run", "JOB", "--rate", "0"], {}, SHEET, ["'--rate': 0.0 is not within 0.001 to 1000000."]),
    (["run", "JOB", "--rate", "nan"], {}, SHEET, ["'--rate': nan is not a number."]),
    (["run", "JOB", "--drain", "nan"], {}, SHEET, ["'--drain': nan is not a number."]),
    (["run", "JOB", "--drain", "1e300"], {}, SHEET, ["'--drain': 1e+300 is not within 0 to 86400"]),
    (["status", "JOB", "--watch", "inf"], {}, SHEET, ["'--watch': inf is not within 0.1 to"]),
    (["run", "my", "job.yaml"], {}, SHEET, ["(job.yaml). A path with spaces in it needs quotes."]),
    (
        ["run", "JOB", "--only", "x"],
        {},
        SHEET,
        ["'--only'.", "an option of: check, resume, settle."],
    ),
    (["run", "JOB", "--base-url", ""], {}, SHEET, ["--base-url: this is not an https:// address"]),
    (
        ["run", "JOB", "--base-url", "https://[::1"],
        {},
        SHEET,
        ["--base-url https://[::1: this is not an"],
    ),
    (
        ["run", "JOB"],
        {"max_paid": "many"},
        SHEET,
        ["job.yaml line 4: `max_paid` must be a whole number of 0 or more"],
    ),
    (["run", "JOB"], {"input": "no.csv"}, SHEET, ["no.csv: there is no such", "job.yaml line 3"]),
    (["run", "JOB"], {"input": "sheet"}, SHEET, ["a file with no ending. It reads .csv"]),
    (["run", "JOB"], {}, "", ["sheet.csv: the file is empty"]),
    (["run", "JOB"], {}, "story,sku\n", ["sheet.csv: the sheet has no rows below"]),
    (["run", "JOB"], {}, "story,sku\na\n", ["sheet.csv line 2: this row has 1 cell, but"]),
    (["run", "JOB"], {}, "story,sku\na,\n", ["1 cell that would be sent is empty: line 2, column"]),
    (["run", "JOB"], {"encoding": "latin99"}, SHEET, ["sheet.csv: there is no encoding `latin99`"]),
    (["run", "JOB", "--until", "6pm"], {}, SHEET, ["--until 6pm: this is not a time of day"]),
    (["resume", "JOB", "--rows", "3-"], {}, SHEET, ['"3-" is not a list of rows']),
    (
        ["resume", "JOB", "--rows", "9"],
        {},
        SHEET,
        ["There is no row 9: sheet.csv has 2 data rows.", "row 2 (line 3)"],
    ),
    (["status", "JOB"], {}, SHEET, ["runs/job: no run yet."]),
    (["settle", "JOB"], {}, SHEET, ["runs/job: no run yet."]),
    (["schedule", "JOB", "--at", "2"], {}, SHEET, ["--at 2: this is not a time of day"]),
    (["run", "sheet.csv"], {}, SHEET, ["sheet.csv: this is a sheet, not a job file"]),
]


@pytest.mark.parametrize(
    ("words", "spec", "sheet", "told"), MISTAKES, ids=[" ".join(m[0]) + str(m[1]) for m in MISTAKES]
)
def test_a_message_about_a_mistake_names_its_place_and_says_that_nothing_was_sent(
    make_job, words, spec, sheet, told
):
    """Exit 2, no traceback, no word of Python."""
    job = make_job(NOWHERE)
    job.sheet.write_text(sheet, encoding="utf-8")
    job.sheet.with_suffix("").write_text(sheet, encoding="utf-8")
    job.write_spec(**spec)
    named = {"JOB": str(job.spec), "sheet.csv": str(job.sheet)}
    done = job.shell([sys.executable, "-m", "pipeline", *(named.get(word, word) for word in words)])
    assert done.returncode == 2, done.stderr
    for word in (*told, "Nothing was sent."):
        assert word in done.stderr, done.stderr
    for word in ("Traceback", "Errno", "None", "range"):
        assert word not in done.stderr
    assert done.stdout == ""


def test_a_message_ends_with_its_command_which_can_be_pasted(make_job, sandbox):
    """A full stop after it would be one more word for the shell."""
    job = make_job(sandbox.url, rows=[["a"]])
    for words in (["status"], ["settle"], ["verify"], ["resume", "--only", "gateway"]):
        said = job.call(*words).stderr.strip()
        command = said.partition("Start it with: ")[2]
        assert command == shlex.join(["pipeline", "run", str(job.spec)])
    assert job.paste(command).returncode == 0


def test_an_api_that_does_not_answer_is_named_without_class_names_of_a_library(make_job):
    """Host, port and the system's reason, and what to check."""
    job = make_job(NOWHERE, rows=[["a"]])
    process = subprocess.Popen(
        job.command("run"), env=job.environment(), stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    with process.stderr, ended(process):
        told = ""
        while "Waiting" not in told:
            told = process.stderr.readline()
    assert f"127.0.0.1 port {PORT}: Connection refused" in told
    assert "Error" not in told


def test_a_run_does_not_wait_for_the_response_that_ended_it(make_job, sandbox):
    """A refused key was once shown as one request in flight that may be paid."""
    job = make_job(sandbox.url, rows=[["a"], ["b"]])
    said = job.call("run", env={"AITUTOR_API_KEY": "sk_wrong"}).stderr
    assert "Check the key (AITUTOR_API_KEY or --key-file). Nothing is in flight." in said


def test_texts_of_one_length_are_not_shown_as_a_range(make_job):
    """One character, and not 1 to 1."""
    job = make_job(NOWHERE, rows=[["a"], ["b"]])
    assert '"story" from "story": 1 character.' in job.call("check").stdout


def test_a_rehearsal_works_with_column_names_longer_than_a_command_line(make_job):
    """The questions of a survey are column names. Linux allows 128 KB for one argument."""
    names = [f"question {n} {'what do you think? ' * 20}" for n in range(400)]
    job = make_job(NOWHERE, columns=names, rows=[["yes"] * len(names)])
    done = job.call("run", "--sandbox")
    assert done.returncode == 0, done.stderr[-500:]


def test_answers_and_citations_are_not_written_over_each_other(make_job, sandbox):
    """With one name for both, only the citations would be left."""
    job = make_job(sandbox.url, rows=[["a"]])
    job.run()
    target = str(job.folder / "done.csv")
    done = job.call("export", "--to", target, "--citations", target)
    assert done.returncode == 2
    assert (
        f"{target}: --to and --citations name the same file. Name two files. Nothing" in done.stderr
    )
    assert not Path(target).exists()


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--latency", "2"], "--latency: '2' is not a length of time"),
        (["--idle", "x"], "--idle: 'x' is not a length of time"),
        (["--model", "x"], "--model needs the model's address too. Add --model-url."),
        (["--workflows", "no.yaml"], "no.yaml: cannot be read (No such file or directory)"),
        (
            ["--book", "/no/such/book"],
            "(No such file or directory). Name another file with --book.",
        ),
    ],
)
def test_a_message_about_a_wrong_option_of_the_sandbox_names_the_option(make_job, options, told):
    """In words, without error numbers."""
    done = make_job(NOWHERE).shell(
        [sys.executable, "-m", "pipeline", "sandbox", "--port", "0", *options]
    )
    assert (done.returncode, told in done.stderr) == (2, True), done.stderr
    assert "Errno" not in done.stderr


def test_a_message_about_a_port_in_use_names_the_port(make_job):
    """And says what to do."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = make_job(NOWHERE).shell(
            [sys.executable, "-m", "pipeline", "sandbox", "--port", str(port)]
        )
    assert done.stderr == (
        f"pipeline: port {port} of 127.0.0.1: Address already in use. Choose another with --port.\n"
    )
