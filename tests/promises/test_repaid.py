"""With a changed job file, rows that were paid under any settings of the folder stay finished.

Each test compares the number in the refusal, and the requests of a run with --accept-changes, with
the server's book of bills.
"""

from __future__ import annotations

import re

import pandas as pd
import pytest

from tests.conftest import Job, SandboxProcess

STORIES = [[f"story {n}"] for n in range(20)]


def refused(job: Job, *options: str) -> int:
    """Returns how many finished rows a refused run says it would pay for again."""
    done = job.call("run", "--rate", "5000", *options)
    assert done.returncode == 2, done.stderr
    [number] = re.findall(r"so (?:at most )?(\d+) finished rows? would be sent", done.stderr)
    checked = job.call("check", *options)
    assert f"{number} finished row" in checked.stdout, checked.stdout
    return int(number)


def bills(sandbox: SandboxProcess) -> int:
    return sum(sandbox.billed().values())


@pytest.mark.parametrize("seen", ["none", "two"])
def test_rows_that_a_where_hid_from_the_last_run_are_still_finished(sandbox, make_job, seen):
    """20 paid rows, a run with a `where:` that matches none or two of them, another constant."""
    job = make_job(sandbox.url, rows=STORIES)
    job.run()
    pattern = {"none": "nothing", "two": "^story [12]$"}[seen]
    job.write_spec(where=[{"column": "story", "matches": pattern}])
    job.run()
    job.write_spec(constants={"tone": "cold"})
    assert refused(job) == 20
    assert bills(sandbox) == 20
    assert job.run("--accept-changes")["requests"] == 20
    assert job.run()["requests"] == 0
    assert bills(sandbox) == 40


def test_accepting_a_test_sheet_accepts_only_its_own_rows(sandbox, make_job):
    """`--input` of a sheet with two of the rows."""
    job = make_job(sandbox.url, rows=STORIES)
    job.run()
    tried = job.folder / "try.csv"
    tried.write_text("story\nstory 3\nstory 4\n")
    job.write_spec(constants={"tone": "cold"})
    assert refused(job, "--input", str(tried)) == 2
    assert job.run("--input", str(tried), "--accept-changes")["requests"] == 2
    assert refused(job) == 18
    assert bills(sandbox) == 22


def test_accepting_a_sample_accepts_no_other_row(sandbox, make_job):
    """The refusal counts the rows within --limit. The other rows need another confirmation."""
    job = make_job(sandbox.url, rows=STORIES[:6])
    job.run()
    job.write_spec(constants={"tone": "cold"})
    assert refused(job, "--limit", "2") == 2
    assert job.run("--accept-changes", "--limit", "2")["requests"] == 2
    assert refused(job) == 4
    job.write_sheet(["story"], [*STORIES[:6], ["new"]])
    assert refused(job) == 4
    assert job.run("--accept-changes")["requests"] == 5
    assert bills(sandbox) == 6 + 2 + 5


def test_accepted_rows_continue_after_a_stop_without_another_confirmation(start_sandbox, make_job):
    """The credits run out in the middle."""
    sandbox = start_sandbox()
    job = make_job(sandbox.url, rows=STORIES, concurrency=1)
    job.run()
    sandbox.set_credits(0)
    job.write_spec(constants={"tone": "cold"}, concurrency=1)
    job.run("--accept-changes", expect=4)
    sandbox.set_credits(1_000_000)
    assert job.run()["ok"] == 20
    assert bills(sandbox) == 40


def test_an_earlier_setting_brings_back_its_answers_and_a_third_one_is_refused(sandbox, make_job):
    """Rows of the first setting are finished, also if the second setting never paid for them."""
    job = make_job(sandbox.url, rows=STORIES[:5], constants={"tone": "warm"})
    job.run()
    job.write_spec(constants={"tone": "cold"})
    job.run("--accept-changes", "--limit", "2")
    job.write_spec(constants={"tone": "dry"})
    assert refused(job) == 5
    job.write_spec(constants={"tone": "warm"})
    assert job.run()["requests"] == 0
    assert bills(sandbox) == 7


@pytest.mark.parametrize("verb", ["run", "resume"])
def test_a_row_pending_under_one_setting_and_paid_under_another_is_refused(
    start_sandbox, make_job, verb
):
    """The API rejected it under the first setting, so it is not new there."""
    sandbox = start_sandbox()
    story = "a #fault:blocked" if verb == "resume" else "a"
    sandbox.set_credits(1_000_000 if verb == "resume" else 0)
    job = make_job(sandbox.url, rows=[[story]], constants={"tone": "warm"})
    job.run(expect=3 if verb == "resume" else 4)
    sandbox.set_credits(1_000_000)
    job.write_spec(constants={"tone": "cold"}, variables={"story": "paid"})
    job.write_sheet(["story", "paid"], [[story, "b"]])
    job.run()
    job.write_spec(constants={"tone": "warm"}, variables={"story": "story"})
    done = job.call(verb)
    assert "so 1 finished row would be sent and paid again" in done.stderr
    assert done.returncode == 2
    assert sum(sandbox.billed().values()) == 1


def test_equal_rows_are_counted_as_often_as_they_were_paid(sandbox, make_job):
    """Three of them were paid. The fourth and the row with another text are new."""
    job = make_job(sandbox.url, rows=[["same"]] * 3)
    job.run()
    job.write_sheet(["story"], [["same"]] * 4 + [["other"]])
    job.write_spec(constants={"tone": "cold"})
    assert refused(job) == 3
    assert job.run("--accept-changes")["requests"] == 5


def test_rows_that_are_new_in_any_case_need_no_confirmation(sandbox, make_job):
    """A column was renamed and an equal row added. Its text was paid for two rows, not three."""
    job = make_job(sandbox.url, rows=[["same"]] * 2, variables={"story": "story"})
    job.run()
    job.write_sheet(["idea"], [["same"]] * 3)
    job.write_spec(variables={"story": "idea"})
    assert job.run()["requests"] == 1


def test_adding_or_removing_the_id_is_a_change(sandbox, make_job):
    """Answers belong to (id, texts) with an id, and to the texts alone without."""
    rows = [[f"A{n}", f"story {n}"] for n in range(4)]
    job = make_job(sandbox.url, ["sku", "story"], rows, variables={"story": "story"})
    job.run()
    job.write_spec(variables={"story": "story"}, id="sku")
    assert refused(job) == 4
    job.run("--accept-changes")
    job.write_spec(variables={"story": "story", "sku": "sku"}, id="sku")
    assert refused(job) == 4


def test_equal_rows_that_are_sent_once_are_counted_once(sandbox, make_job):
    """`dedupe: true`: one request for three rows with different ids."""
    rows = [[f"A{n}", "same"] for n in range(3)] + [["B", "other"]]
    job = make_job(
        sandbox.url, ["sku", "story"], rows, variables={"story": "story"}, id="sku", dedupe=True
    )
    job.run()
    fields = {"variables": {"story": "story"}, "id": "sku", "dedupe": True}
    job.write_spec(**fields, constants={"tone": "cold"})
    assert refused(job) == 2
    assert job.run("--accept-changes")["requests"] == 2


def test_another_encoding_is_refused_with_the_number_of_rows_that_it_changes(sandbox, make_job):
    """Two of three cells have the same text in both encodings, so they stay finished."""
    job = make_job(sandbox.url, encoding="cp1252")
    job.sheet.write_bytes("story\nplain\nGrün\nalso plain\n".encode("cp1250"))
    job.run()
    job.sheet.write_bytes("story\nplain\nGrø\nalso plain\n".encode("cp1252"))
    assert job.run()["requests"] == 1
    job.write_spec(encoding="cp1250")
    assert refused(job) == 1
    assert job.run("--accept-changes")["requests"] == 1
    assert bills(sandbox) == 5


def test_an_upper_bound_is_shown_if_the_old_texts_cannot_be_computed(sandbox, make_job):
    """The sheet has lost a column that was sent."""
    rows = [[f"story {n}", "note"] for n in range(4)]
    job = make_job(sandbox.url, ["story", "note"], rows)
    job.run()
    job.write_sheet(["story"], [[story] for story, _ in rows] + [["new"], ["newer"]])
    assert refused(job) == 4
    assert "at most 4 finished rows" in job.call("run").stderr
    assert job.run("--accept-changes")["requests"] == 6
    job.write_sheet(["story"], [[story] for story, _ in rows] + [["new"], ["newest"]])
    assert job.run()["requests"] == 1
    assert set(sandbox.billed().values()) == {1}


def test_a_workbook_is_read_with_the_text_rules_that_its_folder_began_with(sandbox, make_job):
    """Rules 2 round fractions to 15 digits. A folder without a number has rules 1."""
    job = make_job(sandbox.url, variables={"story": "Price"}, input="sheet.xlsx")
    frame = pd.DataFrame({"Price": [0.1 + 0.2, 1.5, 2.0]})
    frame.to_excel(job.folder / "sheet.xlsx", index=False)
    assert job.run()["ok"] == 3
    assert set(sandbox.billed()) == {'{"story":"0.3"}', '{"story":"1.5"}', '{"story":"2"}'}
