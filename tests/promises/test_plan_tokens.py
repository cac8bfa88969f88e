"""`check --json` returns a plan's token, and `run --plan` carries out exactly that plan, once."""

from __future__ import annotations

import json
import subprocess

import pytest

from tests.conftest import Job


def planned(job: Job, *options: str) -> dict:
    """The output of `check --json`."""
    return json.loads(job.call("check", "--json", *options).stdout)


def carried_out(job: Job, verb: str, token: str, *options: str) -> subprocess.CompletedProcess[str]:
    return job.call(verb, "--plan", token, "--rate", "5000", *options)


def test_a_plan_is_carried_out_once_and_without_a_question(sandbox, make_job):
    """For --again, which needs --yes without a plan, and with --yes pays each time."""
    job = make_job(sandbox.url, rows=[["a"], ["b"], ["c"]])
    job.run()
    plan = planned(job, "--again", "1")
    assert plan["to_send"] == 1
    assert "paid again: row 1 (line 2). That is at most 1 request" in plan["questions"][0]
    assert carried_out(job, "run", plan["plan"], "--again", "1").returncode == 0
    assert sum(sandbox.billed().values()) == 4
    for options in (("--again", "1"), ("--again", "1", "--yes"), ()):
        done = carried_out(job, "run", plan["plan"], *options)
        assert done.returncode == 2
        assert "already carried out" in done.stderr
    assert sum(sandbox.billed().values()) == 4


def test_a_plan_for_a_first_run_is_valid_until_anything_changes(sandbox, make_job):
    """An empty folder has no id yet. A command with another selection does not use the plan up."""
    job = make_job(sandbox.url, rows=[["a"], ["b"]])
    plan = planned(job, "--limit", "1")["plan"]
    assert carried_out(job, "run", plan).returncode == 2
    assert carried_out(job, "run", plan, "--limit", "1").returncode == 0
    done = carried_out(job, "run", plan, "--limit", "1")
    assert done.returncode == 2
    assert "no longer the plan that `check` showed" in done.stderr
    assert sandbox.received() == 1


@pytest.mark.parametrize("change", ["sheet", "order", "constant", "settled", "sent", "folder"])
def test_a_plan_that_is_no_longer_valid_sends_nothing(sandbox, make_job, change):
    """Everything that decides which rows are sent is part of the plan."""
    rows = [["a"], ["b #fault:html-504-billed"], ["c"]]
    job = make_job(sandbox.url, rows=rows)
    job.run("--limit", "2", expect=5)
    plan = planned(job, "--ambiguous")
    assert plan["to_send"] == 2
    received = sandbox.received()
    options: tuple[str, ...] = ("--ambiguous",)
    if change == "sheet":
        job.write_sheet(["story"], [*rows, ["d"]])
    elif change == "order":
        job.write_sheet(["story"], [rows[1], rows[0], rows[2]])
    elif change == "constant":
        job.write_spec(constants={"tone": "cold"})
    elif change == "settled":
        job.call("settle")
    elif change == "sent":
        job.run(expect=5)
        received += 1
    else:
        options += ("--output", str(job.folder / "other"))
    done = carried_out(job, "resume", plan["plan"], *options)
    assert done.returncode == 2, done.stderr
    assert sandbox.received() == received


@pytest.mark.parametrize("limit", ["max_paid", "max_paid_per_run"])
def test_a_plan_does_not_allow_more_bills_than_it_named(sandbox, make_job, limit):
    """Also if another limit of the job file allows more by now."""
    job = make_job(sandbox.url, rows=[[f"story {n}"] for n in range(9)], **{limit: 2})
    plan = planned(job)
    assert (plan["to_send"], plan["paid_at_most"]) == (9, 2)
    for raised in ({limit: 7}, {}):
        job.write_spec(**raised)
        assert carried_out(job, "run", plan["plan"]).returncode == 2
    assert sandbox.received() == 0
    job.write_spec(**{limit: 2})
    carried_out(job, "run", plan["plan"])
    assert sum(sandbox.billed().values()) == 2


def test_a_plan_accepts_the_bills_of_a_changed_spec(sandbox, make_job):
    """Without --accept-changes, and for no other rows."""
    job = make_job(sandbox.url, rows=[["a"], ["b"], ["c"]])
    job.run()
    job.write_spec(constants={"tone": "cold"})
    plan = planned(job, "--limit", "2")
    assert (plan["repaid"], plan["exit_code"]) == (2, 2)
    assert carried_out(job, "run", plan["plan"], "--limit", "2").returncode == 0
    assert job.call("run").returncode == 2
    assert sum(sandbox.billed().values()) == 5


def test_a_plan_stays_carried_out_after_a_kill_before_the_first_request(sandbox, make_job):
    """One commit marks its rows and the plan, so nothing can be billed before it."""
    job = make_job(sandbox.url, rows=[["a"], ["b"]], max_paid=2)
    job.run()
    plan = planned(job, "--again", "all")["plan"]
    assert carried_out(job, "run", plan, "--again", "all").returncode == 4  # max_paid
    done = carried_out(job, "run", plan, "--again", "all", "--max-paid", "9")
    assert "already carried out this plan" in done.stderr
    assert job.run("--max-paid", "9")["requests"] == 2  # a plain run finishes what is marked
    assert sum(sandbox.billed().values()) == 4


def test_a_check_of_a_resume_shows_the_rows_that_it_would_send(sandbox, make_job):
    """With the command to send them, and with the same refusals."""
    job = make_job(sandbox.url, rows=[["a"], ["b #fault:blocked"], ["c"]])
    job.run("--limit", "2", expect=3)
    assert planned(job)["to_send"] == 1
    assert planned(job, "--resume")["to_send"] == 2
    assert planned(job, "--only", "request_blocked")["to_send"] == 1
    shown = job.call("check", "--except", "gateway").stdout
    assert f"To send these rows: pipeline resume {job.spec}" in shown
    assert shown.endswith(" --except gateway\n")
    assert job.call("check", "--only", "gatewy").returncode == 2
    assert job.call("check", "--only", "gateway", "--again", "1").returncode == 2
