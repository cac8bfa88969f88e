"""If the sheet changed in a way that the user may not intend, the runner asks first."""

from __future__ import annotations

import json
import random
import sqlite3
from contextlib import closing

import pytest

from tests.conftest import Job


def asked(job: Job, words: str, *command: str) -> None:
    """Checks that the command is refused with these words without a terminal, and sends nothing."""
    verb, *options = command
    done = job.call(verb, *options)
    assert done.returncode == 2, done.stderr
    assert words in done.stderr
    assert done.stderr.endswith("Nothing was sent.\n")


@pytest.mark.parametrize("ids", [False, True])
def test_a_row_number_that_now_means_another_row_is_shown_and_confirmed(sandbox, make_job, ids):
    """After a sort, row 1 is not the row that the report called row 1."""
    rows = [["A1", "beta"], ["A2", "alpha"], ["A3", "gamma"]]
    spec = {"variables": {"story": "story"}} | ({"id": "sku"} if ids else {})
    job = make_job(sandbox.url, ["sku", "story"], rows, **spec)
    job.run()
    job.write_sheet(["sku", "story"], sorted(rows, key=lambda row: row[1]))
    names = ('"A1"', '"A2"') if ids else ('"beta"', '"alpha"')
    asked(job, f"row 1 (line 2) was {names[0]} and is {names[1]}", "run", "--again", "1")
    asked(job, "row 2 (line 3) was", "resume", "--rows", "2-3")
    assert sandbox.received() == 3
    assert job.run("--again", "1", "--yes")["requests"] == 1
    assert sandbox.billed()['{"story":"alpha"}'] == 2
    # That run has read the new order, and its report uses the new numbers.
    assert job.run("--again", "3", "--yes")["requests"] == 1


def test_row_numbers_need_no_question_while_the_rows_keep_their_places(sandbox, make_job):
    """Another column, a new row at the end and equal rows that change places change nothing."""
    job = make_job(sandbox.url, rows=[["a #fault:blocked"], ["same"], ["same"]])
    job.run(expect=3)
    job.write_sheet(["story", "note"], [["a #fault:blocked", "x"], ["same", "2"], ["same", "1"]])
    job.write_spec(variables={"story": "story"})
    assert job.call("resume", "--rows", "1").returncode == 3
    assert sandbox.received() == 4


def test_a_new_run_folder_says_how_many_rows_are_paid_in_another_one(sandbox, make_job):
    """A changed `name:` would pay for every row again."""
    job = make_job(sandbox.url, rows=[[f"story {n}"] for n in range(6)])
    job.run("--limit", "4")
    job.write_spec(name="renamed")
    words = f"4 of these 6 rows are already paid or maybe paid in another run folder, {job.output}"
    asked(job, words, "run")
    checked = json.loads(job.call("check", "--json").stdout)
    assert words in checked["questions"][0]
    assert sandbox.received() == 4
    done = job.call("run", "--plan", checked["plan"])
    assert done.returncode == 0, done.stderr
    assert sandbox.received() == 10
    job.write_spec(name="third")
    asked(job, "6 of these 6 rows are already paid or maybe paid in", "run")


def test_a_run_names_the_other_run_folders_that_another_program_has_locked(sandbox, make_job):
    """The run does not know whether they have paid for its rows. A timer cannot close the program,
    so the run continues."""
    job = make_job(sandbox.url, rows=[["a"], ["b"]])
    job.run()
    job.write_spec(name="renamed")
    with closing(sqlite3.connect(job.output / "ledger.sqlite", isolation_level=None)) as db:
        db.execute("PRAGMA locking_mode = EXCLUSIVE")
        db.create_function("row_sum", -1, lambda *_: b"", deterministic=True)
        db.execute("BEGIN EXCLUSIVE")
        line = f"Another program has locked the ledger of {job.output}. So the runner could not"
        assert line in job.call("check").stdout
        found = json.loads(job.call("check", "--json").stdout)
        assert (found["locked_folders"], found["questions"]) == ([str(job.output)], [])
        done = job.call("run", "--limit", "1")
        assert (done.returncode, line in done.stderr) == (0, True), done.stderr
    assert set(sandbox.billed().values()) == {1, 2}
    assert json.loads(job.call("check", "--json").stdout)["locked_folders"] == []


def test_a_sample_of_new_rows_does_not_hide_the_rows_that_another_folder_paid_for(
    sandbox, make_job
):
    """The first run of the folder sends one row that is paid nowhere."""
    job = make_job(sandbox.url, rows=[["a"], ["b"], ["c"], ["d"]])
    job.run()
    job.write_sheet(["story"], [["new"], ["a"], ["b"], ["c"], ["d"]])
    job.write_spec(name="renamed")
    assert job.run("--limit", "1")["requests"] == 1
    words = "4 of these 4 rows are already paid or maybe paid in another run folder"
    asked(job, words, "run")
    assert set(sandbox.billed().values()) == {1}
    job.write_spec(name="renamed", max_paid_per_run=2)
    job.call("run", "--yes")
    assert sum(sandbox.billed().values()) == 7
    # Who agreed is not asked about the rest: a timer could not answer.
    done = job.call("run")
    assert "Add --yes" not in done.stderr
    assert sum(sandbox.billed().values()) == 9


def test_the_folder_of_another_job_of_the_workflow_counts_at_any_place(sandbox, make_job):
    """Its job file is next to this one. Rehearsals and other hosts do not count."""
    job = make_job(sandbox.url, rows=[["a"], ["b"]], output="far/away/kept")
    job.run()
    job.call("run", "--sandbox")
    other = Job(job.folder, job.folder / "other.yaml", job.sheet, job.base_url)
    other.write_spec(name="other")
    asked(other, "2 of these 2 rows are already paid or maybe paid in", "run")
    assert other.call("run", "--sandbox").returncode == 0
    other.write_spec(name="other", constants={"tone": "cold"})
    assert other.run()["requests"] == 2


def test_equal_rows_count_as_often_as_another_folder_paid_for_them(sandbox, make_job):
    """One of three."""
    job = make_job(sandbox.url, rows=[["same"]])
    job.run()
    job.write_sheet(["story"], [["same"]] * 3)
    job.write_spec(name="renamed")
    asked(job, "1 of these 3 rows are already paid", "run")


ROWS = [[f"A{n}", f"a lamp number {n}, of brass and glass", "en"] for n in range(40)]
COLUMNS = ["sku", "story", "lang"]


@pytest.mark.parametrize("ids", [False, True])
def test_another_text_in_most_finished_rows_needs_a_confirmation(sandbox, make_job, ids):
    """A program rewrote a column, so the run would pay for 30 of 40 finished rows again."""
    spec = {"variables": {"story": "story"}} | ({"id": "sku"} if ids else {})
    job = make_job(sandbox.url, COLUMNS, ROWS, **spec)
    job.run()
    job.write_sheet(COLUMNS, [[a, f"{b} ", c] for a, b, c in ROWS[:30]] + ROWS[30:])
    words = "30 of 40 finished rows have another text " + (
        "under the same id" if ids else "in the same place"
    )
    asked(job, words, "run")
    assert words in job.call("check").stdout
    asked(job, words, "run", "--yes")
    assert sandbox.received() == 40
    assert job.run("--accept-changes")["requests"] == 30
    assert job.run()["requests"] == 0


@pytest.mark.parametrize("ids", [False, True])
def test_a_new_sheet_a_few_edits_and_a_sorted_sheet_need_no_confirmation(sandbox, make_job, ids):
    """Only new and edited rows are sent, as on every night."""
    spec = {"variables": {"story": "story"}} | ({"id": "sku"} if ids else {})
    job = make_job(sandbox.url, COLUMNS, ROWS, **spec)
    job.run()
    edited = [[a, f"{b}!", c] for a, b, c in ROWS[:19]] + ROWS[19:]
    job.write_sheet(COLUMNS, edited)
    assert job.run()["requests"] == 19
    random.Random(1).shuffle(edited)
    job.write_sheet(COLUMNS, edited)
    assert job.run()["requests"] == 0
    words = [
        "river",
        "stone",
        "cloud",
        "paper",
        "engine",
        "winter",
        "salt",
        "garden",
        "copper",
        "music",
    ]
    fresh = [[f"B{n}", f"{words[n % 10]} {words[n // 10]} tale {n}", "en"] for n in range(40)]
    job.write_sheet(COLUMNS, fresh)
    assert job.run()["requests"] == 40


@pytest.mark.parametrize(
    ("text", "first", "second"),
    [
        (
            "Text|\nred;a|\ngreen;b|\n",
            {"variables": {"x": "Text"}, "separator": "|"},
            {"variables": {"x": "Text|"}, "separator": ","},
        ),
        (
            "T1,T2\na,b\n1,2\n3,4\n",
            {"variables": {"x": "a"}, "header_row": 2},
            {"variables": {"x": "T2"}},
        ),
    ],
    ids=["separator", "header_row"],
)
def test_another_layout_with_other_variables_is_refused_with_the_number_of_bills(
    sandbox, make_job, text, first, second
):
    """The cells of the sheet are the same, so their rows are not new ones."""
    job = make_job(sandbox.url)
    job.sheet.write_text(text)
    job.write_spec(**first)
    job.run()
    billed = sandbox.billed()
    job.write_spec(**second)
    done = job.call("run")
    assert (done.returncode, "2 finished rows would be" in done.stderr) == (2, True), done.stderr
    assert sandbox.billed() == billed
