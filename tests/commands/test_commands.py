"""The commands as a user types them, compared with the bills of the server."""

from __future__ import annotations

import gzip
import json
import os
import shlex
import signal
import sys
import time
from collections import Counter
from pathlib import Path

import pandas as pd
import pytest

from pipeline.job.run_folder import RunFolder
from pipeline.ledger.schema import connect
from tests.conftest import Job, SandboxProcess, closed_port, ended

MIXED = [
    "a plain story",
    "#fault:json-500",
    "#fault:blocked",
    "#fault:success-false",
    "#fault:html-504-billed",
    "#fault:not-json",
    "another plain story",
    "left for later",
    "left for later too",
]


def received(sandbox: SandboxProcess) -> Counter[str]:
    """Requests that reached the server, by story."""
    return Counter(
        {json.loads(entry["body"])["story"]: entry["received"] for entry in sandbox.bills()}
    )


def contents(folder: Path) -> dict[Path, bytes]:
    """Every file of a run folder except SQLite's own two, which appear when the ledger is read."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path: path.read_bytes() for path in files if "sqlite-" not in path.name}


def mixed_job(sandbox: SandboxProcess, make_job, **spec) -> Job:
    """Rows 1 and 7 ok, 2 to 4 failed, 5 and 6 ambiguous, 8 and 9 pending."""
    job = make_job(sandbox.url, rows=[[text] for text in MIXED], retries=0, **spec)
    summary = job.run("--limit", "7", expect=5)
    assert [summary[n] for n in ("ok", "failed", "ambiguous", "pending")] == [2, 3, 2, 2]
    return job


WHAT_IS_SENT = [
    ("run", [], [8, 9]),
    ("resume", [], [2, 3, 4, 8, 9]),
    ("resume", ["--only", "request_blocked"], [3]),
    ("resume", ["--only", "run_failed,internal_server_error"], [2, 4]),
    ("resume", ["--only", "gateway"], []),
    ("resume", ["--only", "gateway", "--ambiguous", "--yes"], [5]),
    ("resume", ["--only", "nothing_like_that"], []),
    ("resume", ["--except", "request_blocked"], [2, 4]),
    ("resume", ["--except", "request_blocked", "--ambiguous", "--yes"], [2, 4, 5, 6]),
    ("resume", ["--rows", "1,3,5-8"], [3, 8]),
    ("resume", ["--rows", "1,3,5-8", "--ambiguous", "--yes"], [3, 5, 6, 8]),
    ("resume", ["--ambiguous", "--yes"], [2, 3, 4, 5, 6, 8, 9]),
    ("resume", ["--limit", "3"], [2, 3]),
    ("run", ["--again", "all", "--yes"], [1, 7]),
    ("run", ["--again", "3,7-9", "--yes"], [7]),
]


def test_each_command_sends_the_rows_of_the_table_and_no_others(sandbox, make_job):
    """Each line of the table starts from the same state. The server counts the requests."""
    job = mixed_job(sandbox, make_job)
    for number, (verb, options, rows) in enumerate(WHAT_IS_SENT):
        copy = job.copied(f"copy-{number}")
        before = received(sandbox)
        done = job.call(verb, *options, "--json", "--output", str(copy))
        sent = received(sandbox) - before
        assert sent == Counter(MIXED[row - 1] for row in rows), (verb, options, done.stderr)
        assert json.loads(done.stdout.splitlines()[-1])["requests"] == len(rows)


@pytest.mark.parametrize(
    ("verb", "options"), [("resume", ["--ambiguous"]), ("run", ["--again", "all"])]
)
def test_rows_that_may_be_paid_twice_are_sent_only_with_yes(sandbox, make_job, verb, options):
    """The runner cannot ask without a terminal: exit 2 with the worst case, nothing is sent."""
    job = mixed_job(sandbox, make_job)
    before = sandbox.received()
    done = job.call(verb, *options, "--json")
    assert done.returncode == 2
    assert "--yes" in done.stderr
    # One failed row may have been paid too, and `resume` sends it as well.
    assert f"at {'worst, 3 requests' if verb == 'resume' else 'most 2 requests'}" in (
        done.stderr.lower()
    )
    assert json.loads(done.stdout)["exit_code"] == 2
    assert sandbox.received() == before


def test_each_pasted_command_of_the_report_sends_its_rows_once(sandbox, make_job):
    """Three kinds of failure, ambiguous and skipped rows. The server then works again, and the
    second paste sends nothing."""
    rows = [
        "#fault:blocked a",
        "#fault:blocked b",
        "#fault:html-502",
        "fine",
        "",
        "#fault:json-500",
        "#fault:success-false",
    ]
    job = make_job(
        sandbox.url, rows=[[r] for r in rows], retries=0, empty="skip", workflow="wf_mine"
    )
    sandbox.publish("wf_mine", "{{story}}")
    summary = job.run(expect=5)
    assert [summary[n] for n in ("ok", "failed", "ambiguous", "skipped")] == [1, 4, 1, 1]
    sandbox.publish("wf_mine", "nothing of the row")
    report = json.loads(job.call("report", "--json").stdout)
    groups = {group["code"]: group for group in report["groups"]}
    assert groups["request_blocked"]["first_rows"] == [1, 2]
    assert groups["gateway"]["count"] == groups["gateway"]["maybe_paid"] == 1
    shown = job.call("report").stdout
    for group in groups.values():
        assert group["command"] in shown
        before = received(sandbox)
        if group["code"] == "request_blocked":  # an unedited row is not sent again
            job.paste(group["command"])
            assert received(sandbox) == before
            job.write_sheet(["story"], [["edited a"], ["edited b"], *([r] for r in rows[2:])])
        job.paste(group["command"], "--yes")
        assert (received(sandbox) - before).total() == group["count"]
        job.paste(group["command"], "--yes")
        assert (received(sandbox) - before).total() == group["count"]
    assert job.run()["ok"] == 6
    assert max(sandbox.billed().values()) <= 2


def test_resume_names_the_failed_rows_that_may_have_been_paid(sandbox, make_job):
    """A 200 with `success: false` may have been billed. `resume` names that row, then sends it."""
    job = mixed_job(sandbox, make_job)
    done = job.call("resume")
    assert "1 of the failed rows to send again may have been paid already: row 4" in done.stderr


def test_rows_that_a_command_leaves_out_do_not_change_its_exit_code(sandbox, make_job):
    """With --fail-on new neither do old failures, and with none no failure does."""
    job = mixed_job(sandbox, make_job)
    assert job.call("run", "--limit", "1").returncode == 0
    assert job.call("resume", "--rows", "1,8").returncode == 0
    assert job.call("resume", "--only", "timeout").returncode == 0
    assert job.call("run", "--fail-on", "new").returncode == 0
    assert job.call("run", "--fail-on", "none").returncode == 0
    assert job.call("run").returncode == 5
    assert job.call("resume", "--only", "request_blocked", "--fail-on", "new").returncode == 3


def test_a_settled_row_is_sent_again_only_after_a_question(sandbox, make_job):
    """It counts as failed because the user said so, but it may have been paid."""
    job = make_job(sandbox.url, rows=[["a"], ["b #fault:html-504-billed"]])
    job.run(expect=5)
    assert job.call("settle").returncode == 0
    received = sandbox.received()
    for options in ((), ("--rows", "2"), ("--only", "gateway")):
        done = job.call("resume", *options)
        assert done.returncode == 2, options
        assert "would be sent again: row 2 (line 3)." in done.stderr
    assert sandbox.received() == received
    assert job.call("resume", "--yes").returncode == 5
    assert sandbox.received() == received + 1


def test_settle_gives_rows_up_without_sending_them(sandbox, make_job):
    """Ambiguous rows become failed and stay maybe paid. Failed rows are given up."""
    job = mixed_job(sandbox, make_job)
    job.run(expect=5)
    before, paid = sandbox.received(), job.status()["paid_max"]
    assert job.call("settle", "--only", "gateway").returncode == 0
    summary = job.status()
    assert (summary["failed"], summary["ambiguous"], summary["paid_max"]) == (4, 1, paid)
    assert job.call("settle", "--rows", "6").returncode == 0
    assert job.run(expect=3)["ambiguous"] == 0
    assert job.call("settle").returncode == 0
    assert job.call("settle", "--only", "request_blocked").returncode == 0
    assert sandbox.received() == before
    sent = received(sandbox)
    job.call("resume", "--yes")
    assert "#fault:blocked" not in received(sandbox) - sent
    assert "#fault:html-504-billed" in received(sandbox) - sent
    job.call("resume", "--rows", "3")
    assert "#fault:blocked" in received(sandbox) - sent


def test_a_plain_run_finishes_an_again_that_was_killed(start_sandbox, make_job):
    """Four rows are billed exactly once more and export the new text. The others are unchanged."""
    sandbox = start_sandbox()
    stories = [f"story {n}" for n in range(1, 13)]
    job = make_job(sandbox.url, rows=[[s] for s in stories], workflow="wf_mine", concurrency=1)
    sandbox.publish("wf_mine", "old {{story}}")
    job.run()
    sandbox.publish("wf_mine", "new {{story}}")
    process = job.start("--again", "3,7-9", "--yes", rate="1.5")
    with ended(process):
        while sandbox.received() < 14:
            time.sleep(0.01)
        time.sleep(0.2)
        process.send_signal(signal.SIGKILL)
    assert job.status()["pending"] == 2
    halfway = job.export()
    assert list(halfway["_status"]) == ["ok"] * 12
    refused = job.call("run", "--again", "1", "--yes")
    assert (refused.returncode, "--again" in refused.stderr) == (2, True)
    assert job.run()["requests"] == 2
    again = {"story 3", "story 7", "story 8", "story 9"}
    for body, billed in sandbox.billed().items():
        assert billed == (2 if json.loads(body)["story"] in again else 1)
    table = job.export()
    for story, result in zip(table["story"], table["result"], strict=True):
        assert ("new " if story in again else "old ") + story in result
    results = pd.read_parquet(job.results)
    assert Counter(results["version"]) == {1: 12, 2: 4}


def test_an_again_that_fails_keeps_the_last_answer_in_the_export(sandbox, make_job):
    """The code of the failed request is next to the answer, and `resume` sends the row again."""
    job = make_job(sandbox.url, rows=[["one"], ["two"]], workflow="wf_mine", retries=0)
    sandbox.publish("wf_mine", "old {{story}}")
    job.run()
    sandbox.publish("wf_mine", "#fault:blocked {{story}}")
    assert job.run("--again", "2", "--yes", expect=3)["failed"] == 1
    table = job.export()
    assert list(table["_status"]) == ["ok", "ok"]
    assert list(table["_error_code"]) == [None, "request_blocked"]
    assert "old two" in table["result"][1]
    sandbox.publish("wf_mine", "new {{story}}")
    resumed = job.call("resume", "--json")
    assert json.loads(resumed.stdout)["ok"] == 2
    assert "new two" in job.export()["result"][1]


def test_check_shows_what_a_run_would_send_and_sends_nothing(sandbox, make_job):
    """It shows the exact bodies, empty cells and changes. The folder stays unchanged."""
    job = make_job(sandbox.url, rows=[["a"], [""], ["b"]], empty="send", max_paid=100)
    checked = json.loads(job.call("check", "--json").stdout)
    assert checked["to_send"] == checked["paid_at_most"] == 3
    assert checked["requests_at_most"] == 9
    assert checked["empty_cells"] == {"story": 1}
    assert checked["first_bodies"][0] == {"row": 1, "body": '{"story":"a"}'}
    assert checked["drift"] is None
    assert not job.output.exists()
    assert sandbox.received() == 0
    job.run()
    job.write_sheet(["story"], [["a, edited"], [""], ["b"], ["c"]])
    before = contents(job.output)
    checked = json.loads(job.call("check", "--json").stdout)
    assert checked["drift"] == {"same": 2, "changed": 1, "new": 1, "gone": 0}
    assert (checked["ok"], checked["pending"], checked["to_send"]) == (2, 2, 2)
    assert contents(job.output) == before
    assert sandbox.received() == 3


def test_check_says_what_a_changed_job_file_would_cost(sandbox, make_job):
    """Exit 2 with the number of rows, as from `run`."""
    job = make_job(sandbox.url, rows=[["a"], ["b"]])
    job.run()
    job.write_spec(constants={"tone": "warm"})
    done = job.call("check")
    assert done.returncode == 2
    assert "2 finished rows" in done.stdout
    assert job.call("check", "--accept-changes").returncode == 0


@pytest.mark.parametrize("with_id", [False, True])
def test_only_new_rows_are_sent_and_answers_stay_with_their_rows_however_a_sheet_changes(
    sandbox, make_job, with_id
):
    """Insert, sort, delete one of three equal rows, edit and undo, add and reorder columns."""
    rows = [[f"{n:02}", f"story {n}"] for n in range(10)]
    if not with_id:
        rows[3][1] = rows[5][1] = rows[8][1] = "one of three"
    spec = {"variables": {"story": "story"}} | ({"id": "no"} if with_id else {})
    job = make_job(sandbox.url, ["no", "story"], rows, **spec)

    def step(columns: list[str], sheet: list[list[str]], sends: int) -> None:
        job.write_sheet(columns, sheet)
        assert job.run()["requests"] == sends
        table = job.export()
        assert list(table.columns[: len(columns)]) == columns
        assert [list(row) for row in table[columns].itertuples(index=False)] == sheet
        for story, result in zip(table["story"], table["result"], strict=True):
            assert story in result

    step(["no", "story"], rows, sends=10)
    step(["no", "story"], [["99", "a new one"], *rows], sends=1)
    step(["no", "story"], sorted(rows, key=lambda row: row[1], reverse=True), sends=0)
    step(["no", "story"], rows[:5] + rows[6:], sends=0)
    step(["no", "story"], rows, sends=0)
    edited = [*rows[:2], ["02", "edited"], *rows[3:]]
    step(["no", "story"], edited, sends=1)
    step(["no", "story"], rows, sends=0)
    step(["no", "story", "note"], [[*row, "x"] for row in rows], sends=0)
    step(["note", "story", "no"], [["x", *row[::-1]] for row in rows], sends=0)
    assert sum(sandbox.billed().values()) == 12


def test_undoing_an_accepted_change_costs_nothing(sandbox, make_job):
    """The folder still has the first answers."""
    job = make_job(sandbox.url, rows=[["a"], ["b"]])
    job.run()
    job.write_spec(constants={"tone": "warm"})
    assert job.call("run").returncode == 2
    assert job.run("--accept-changes")["requests"] == 2
    job.write_spec()
    assert job.run()["requests"] == 0


def test_failures_csv_can_be_the_sheet_of_another_job(sandbox, make_job):
    """Its ambiguous rows are skipped without --ambiguous. Its own run folder refuses it."""
    job = mixed_job(sandbox, make_job)
    failures = job.output / "failures.csv"
    refused = job.call("run", "--input", str(failures))
    assert (refused.returncode, "own run folder" in refused.stderr) == (2, True)
    before = received(sandbox)
    other = str(job.folder / "runs" / "other")
    done = job.call("run", "--input", str(failures), "--output", other, "--json")
    assert received(sandbox) - before == Counter(MIXED[1:4])
    assert json.loads(done.stdout)["skipped"] == 2
    assert "2 rows skipped" in done.stderr
    job.call("resume", "--input", str(failures), "--output", other, "--ambiguous", "--only", "x")
    job.call("resume", "--input", str(failures), "--output", other, "--ambiguous")
    assert received(sandbox) - before == Counter(MIXED[1:4] * 2 + MIXED[4:6])


BAD_INPUT = [
    ("no,story\n1,a\n", {"variables": {"story": "stori"}}, ["line 4", '"stori"', 'mean "story"']),
    ("no,story\n1,a\n", {"id": "NO "}, ["job.yaml line 4", '"NO "', 'mean "no"']),
    ("story\na\nb,c\n", {}, ["line 3", "2 cells"]),
    ("story,story\na,b\n", {}, ['"story" twice']),
    ("story\na\n", {"varaibles": {"story": "story"}}, ["line 4", '"variables"']),
    ("story\na\n", {"api_key": "sk_1"}, ["never contains the key"]),
    ("story\na\n", {"base_url": "https://x"}, ["never contains the API's address"]),
    ("id,story\n1,a\n ,b\n", {"id": "id"}, ["line 3", "blank"]),
    ("id,story\n1,a\n2,b\n1,c\n", {"id": "id"}, ['"1" in line 4, column', "also in line 2"]),
    ("story\na\n", {"input": "nowhere.csv"}, ["nowhere.csv", "no such file"]),
    ("story\na\n", {"input": "."}, ["jobs"]),
    ("story\n", {}, ["no rows"]),
    ("story,result\na,b\n", {}, ['"result"', "map it"]),
]


@pytest.mark.parametrize(("sheet", "spec", "words"), BAD_INPUT)
def test_bad_input_causes_one_message_with_its_place_and_nothing_is_sent(
    sandbox, make_job, sheet, spec, words
):
    """Exit 2, one line on stderr, one object on stdout."""
    job = make_job(sandbox.url)
    job.sheet.write_text(sheet, encoding="utf-8")
    job.write_spec(**spec)
    done = job.call("run", "--json")
    assert done.returncode == 2, done.stderr
    for word in words:
        assert word in done.stderr
    assert done.stderr.rstrip().endswith("Nothing was sent.")
    assert done.stderr.count("\n") == 1
    assert json.loads(done.stdout)["exit_code"] == 2
    assert sandbox.received() == 0


def test_a_wrong_option_is_refused_with_a_json_object_too(make_job):
    """These are the refusals of click itself: exit 2."""
    job = make_job("http://127.0.0.1:9", rows=[["a"]])
    done = job.call("run", "--json", "--limmit", "5")
    assert done.returncode == 2
    assert json.loads(done.stdout)["exit_code"] == 2


def _one(job: Job, story: str = "fine", **spec) -> None:
    job.write_sheet(["story"], [[story]])
    job.write_spec(retries=0, **spec)


def test_every_exit_code_is_produced_for_real(start_sandbox, make_job, tmp_path):
    """By the command line, each with its own cause."""
    sandbox = start_sandbox()
    job = make_job(sandbox.url)
    codes = {}
    for story, code in (("fine", 0), ("#fault:blocked", 3), ("#fault:not-json", 5)):
        _one(job, story)
        codes[code] = job.call("run", "--output", str(tmp_path / str(code))).returncode
    codes[2] = job.call("run", "--limit", "-1").returncode
    stopped = ("--output", str(tmp_path / "4"), "--yes")
    codes[4] = job.call("run", *stopped, env={"AITUTOR_API_KEY": "no"})
    codes[4] = codes[4].returncode
    (tmp_path / "0" / "ledger.sqlite").write_bytes(b"not a database" * 1000)
    damaged = job.call("run", "--output", str(tmp_path / "0"), "--json")
    codes[6] = damaged.returncode
    assert json.loads(damaged.stdout)["stopped"] == "storage"
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "aiolimiter.py").write_text("raise RuntimeError('a bug')\n")
    codes[1] = job.call("run", env={"PYTHONPATH": str(broken)}).returncode
    assert codes == {code: code for code in (0, 1, 2, 3, 4, 5, 6)}


def test_every_exit_code_of_a_run_that_ends_early_is_produced_for_real(start_sandbox, make_job):
    """75 from a lock and from --until, 130 and 143 from signals. Each outranks the 3 of a row."""
    sandbox = start_sandbox(latency="500ms")
    job = make_job(sandbox.url, rows=[["#fault:blocked"], ["b"], ["c"]], concurrency=1)
    assert job.run("--limit", "1", expect=3)["stopped"] is None
    with RunFolder(job.output).locked():
        assert job.run(expect=75)["stopped"] is None
    soon = time.strftime("%H:%M:%S", time.localtime(time.time() + 60))
    new = ("--output", str(job.folder / "new"), "--until", soon)
    assert job.run(*new, expect=75)["stopped"] == "until"
    for number, code in ((signal.SIGINT, 130), (signal.SIGTERM, 143)):
        sent = sandbox.received()
        process = job.start()
        with ended(process):
            while sandbox.received() == sent:
                time.sleep(0.02)
            process.send_signal(number)
            assert process.wait(20) == code
    assert job.run(expect=3)["ok"] == 2
    assert sandbox.received() == 3


@pytest.mark.parametrize("mode", ["fail", "skip", "wait"])
def test_a_locked_folder_fails_is_skipped_or_waited_for(start_sandbox, make_job, mode):
    """Exit 75, exit 0, or the job is done after the other run. Nothing is billed twice."""
    sandbox = start_sandbox(latency="3000ms")
    job = make_job(sandbox.url, rows=[["a"], ["b"]])
    first = job.start("--limit", "1")
    with ended(first):
        while not sandbox.received():
            time.sleep(0.02)
        done = job.call("run", "--json", "--if-locked", mode)
        first.wait(timeout=20)
    assert done.returncode == {"fail": 75, "skip": 0, "wait": 0}[mode]
    assert sum(sandbox.billed().values()) == (2 if mode == "wait" else 1)
    assert json.loads(done.stdout.splitlines()[-1])["rows"] == 2


def test_ten_ambiguous_rows_stop_the_run_and_the_next_one_tries_one_row_first(sandbox, make_job):
    """Exit 5. The next run sends one request at a time until it gets a readable response."""
    bad = [f"#fault:not-json {n}" for n in range(40)]
    job = make_job(sandbox.url, rows=[[s] for s in bad], concurrency=3)
    stopped = job.run(expect=5)
    assert stopped["stopped"] == "ambiguous"
    assert 10 <= stopped["ambiguous"] <= 12
    probe = job.run(expect=5)
    assert (probe["stopped"], probe["requests"]) == ("ambiguous", 1)
    job.write_sheet(
        ["story"], [["fine"], *[[s] for s in bad[:3]], *[[f"ok {n}"] for n in range(9)]]
    )
    assert job.run(expect=5)["ok"] == 10


def test_ten_rows_that_fail_alike_stop_a_job_without_answers(sandbox, make_job):
    """All ten are blocked: exit 4, and nothing is paid."""
    rows = [[f"#fault:blocked {n}"] for n in range(60)]
    job = make_job(sandbox.url, rows=rows, concurrency=2)
    summary = job.run(expect=4)
    assert summary["stopped"] == "alike"
    assert summary["failed"] <= 12
    assert summary["paid_max"] == 0


def test_quiet_prints_nothing_unless_something_needs_a_person(sandbox, make_job):
    """Nothing when every row is ok, the summary when a row failed."""
    job = make_job(sandbox.url, rows=[["a"]])
    done = job.call("run", "--quiet")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    job.write_sheet(["story"], [["a"], ["#fault:blocked"]])
    done = job.call("run", "--quiet")
    assert done.returncode == 3
    assert "request_blocked" in done.stderr


def test_a_run_folder_works_as_the_job_and_is_readable_without_its_job_file(sandbox, make_job):
    """`run` accepts the folder. Without the job file only `run` is refused."""
    job = make_job(sandbox.url, rows=[["a"], ["#fault:blocked"]], retries=0)
    job.run(expect=3)
    folder = str(job.output)
    command = [sys.executable, "-m", "pipeline"]
    assert job.shell([*command, "run", folder]).returncode == 3
    job.spec.rename(job.spec.with_suffix(".moved"))
    assert job.shell([*command, "status", folder]).returncode == 0
    assert "request_blocked" in job.shell([*command, "report", folder]).stdout
    assert job.shell([*command, "export", folder, "--to", f"{job.folder}/x.csv"]).returncode == 0
    gone = job.shell([*command, "run", folder])
    assert (gone.returncode, "the job file of this run folder is missing" in gone.stderr) == (
        2,
        True,
    )


def test_before_the_first_paid_run_the_message_names_the_rehearsal(make_job):
    """It comes before the command that costs money."""
    job = make_job("http://127.0.0.1:9", rows=[["a"]])
    assert job.call("run", "--sandbox").returncode == 0
    for command in (("status",), ("export", "--to", str(job.folder / "x.csv")), ("history",)):
        said = job.call(*command).stderr
        assert "There is a rehearsal: add --sandbox to see it." in said


def test_status_says_whether_the_last_run_is_active_was_killed_or_ended(start_sandbox, make_job):
    """If it ended, how. Before the first run, how to start one."""
    sandbox = start_sandbox(latency="8s")
    job = make_job(sandbox.url, rows=[["a"]])
    assert "pipeline run" in job.call("status").stderr
    process = job.start()
    with ended(process):
        while not sandbox.received():
            time.sleep(0.02)
        shown = job.call("status").stdout
        assert "it is active with 1 request in flight; that row counts as pending" in shown
        assert "Next: " not in shown
        found = job.status()
        assert [found[n] for n in ("pending", "in_flight", "ambiguous")] == [1, 1, 0]
        assert (found["exit_code"], found["resume_command"]) == (0, None)
        report = json.loads(job.call("report", "--json").stdout)
        assert [report[n] for n in ("pending", "in_flight", "ambiguous", "in_use")] == [1, 1, 0, 1]
        skipped = job.call("run", "--if-locked", "skip", "--json")
        said = json.loads(skipped.stdout)
        assert (skipped.returncode, said["exit_code"], said["ambiguous"]) == (0, 0, 0)
        assert str(process.pid) in said["notice"]
        assert "error" not in said
    assert "it did not record its end" in job.call("status").stdout
    assert (job.status()["ambiguous"], job.status()["in_flight"]) == (1, 0)
    job.run(expect=5)
    assert "exit 5" in job.call("status").stdout
    assert job.status()["last_run"]["exit_code"] == 5


def test_status_never_locks_a_run_out(sandbox, make_job):
    """`status` reads the folder two hundred times while a run starts."""
    job = make_job(sandbox.url, rows=[["a"]])
    job.run()
    folder = RunFolder(job.output)
    process = job.start()
    with ended(process):
        while process.poll() is None:
            assert folder.in_use in (True, False)
        assert process.returncode == 0


def test_the_resume_command_of_a_summary_continues_the_job(sandbox, make_job):
    """It works when pasted, with the options that name the job."""
    job = make_job(sandbox.url, rows=[["a"], ["b"], ["c"]])
    other = job.folder / "elsewhere"
    summary = job.run("--limit", "1", "--output", str(other))
    words = shlex.split(summary["resume_command"])
    assert words[:2] == ["pipeline", "run"]
    assert "--limit" not in words
    job.paste(summary["resume_command"])
    assert len(pd.read_parquet(other / "results")) == 3


def test_a_question_is_asked_on_a_terminal_and_no_sends_nothing(sandbox, make_job):
    """A pseudo-terminal types the answer."""
    job = mixed_job(sandbox, make_job)
    before = sandbox.received()
    for answer, code, sent in (("n", 2, 0), ("y", 5, 2)):
        command = job.command("resume", "--only", "gateway,bad_response", "--ambiguous")
        process, terminal = _on_a_terminal(command, job.environment())
        seen = b""
        while b"[y/N]" not in seen:
            seen += os.read(terminal, 4096)
        os.write(terminal, answer.encode() + b"\n")
        assert _exit_code(process, terminal) == code
        assert b"At worst, 2 requests would be paid twice" in seen.replace(b"\r\n", b" ")
        assert sandbox.received() == before + sent


def _on_a_terminal(command: list[str], environment: dict[str, str]) -> tuple[int, int]:
    pid, terminal = os.forkpty()
    if pid == 0:
        os.execvpe(command[0], command, environment)
    return pid, terminal


def _exit_code(pid: int, terminal: int) -> int:
    try:
        while os.read(terminal, 4096):
            pass
    except OSError:
        pass  # the terminal closes with the process
    _, status = os.waitpid(pid, 0)
    os.close(terminal)
    return os.waitstatus_to_exitcode(status)


def test_the_summary_has_paths_that_exist_and_stdout_has_nothing_else(sandbox, make_job):
    """For scripts."""
    job = make_job(sandbox.url, rows=[["a"]])
    done = job.call("run", "--json")
    summary = json.loads(done.stdout)
    assert Path(summary["results"]).is_dir()
    assert Path(summary["failures"]).is_file()
    assert summary == json.loads((job.output / "summary.json").read_text())


@pytest.mark.parametrize(
    "redirect", ["2>&-", ">&-", "2>&- >&-", "2>/dev/full", ">/dev/full", "| true"]
)
def test_closed_or_broken_streams_change_neither_the_run_nor_its_exit_code(
    sandbox, make_job, redirect
):
    """Every row is ok, exit 0."""
    job = make_job(sandbox.url, rows=[[f"story {n}"] for n in range(30)], rate=500)
    command = shlex.join(job.command("run", "--json"))
    script = f"set -o pipefail; {command} {redirect}"
    assert job.shell(["bash", "-c", script]).returncode == 0
    assert job.status()["ok"] == 30


@pytest.mark.parametrize(
    "command", ["status", "history", "report", "check", "verify", "show", "show --versions"]
)
def test_a_command_without_open_streams_does_its_work(sandbox, make_job, command):
    """A scheduler may close them. Nothing is printed, and no traceback is in stderr."""
    job = make_job(sandbox.url, rows=[["a"]])
    job.run()
    verb, *options = command.split()
    words = shlex.join(job.command(verb, *options))
    for closed in (">&-", "<&- >&-"):
        done = job.shell(["bash", "-c", f"{words} {closed}"])
        assert (done.returncode, done.stderr) == (0, "")


def test_another_column_for_a_variable_is_refused_and_a_renamed_one_is_free(sandbox, make_job):
    """A column is pinned by its texts, not only by its name: what counts is the cost."""
    job = make_job(sandbox.url, ["a", "b"], [["x", "y"]] * 3, variables={"story": "a"})
    job.run()
    job.write_spec(variables={"story": "b"})
    done = job.call("run")
    assert (done.returncode, "3 finished rows" in done.stderr) == (2, True)
    job.write_sheet(["renamed", "b"], [["x", "y"]] * 3)
    job.write_spec(variables={"story": "renamed"})
    assert job.run()["requests"] == 0
    assert sum(sandbox.billed().values()) == 3


def test_rows_that_a_kill_left_ambiguous_are_new_for_the_run_that_finds_them(
    start_sandbox, make_job
):
    """With --fail-on new that run exits with 5, and the later ones with 0."""
    sandbox = start_sandbox(latency="5s")
    job = make_job(sandbox.url, rows=[["a"], ["b"]])
    process = job.start("--limit", "1")
    with ended(process):
        while not sandbox.received():
            time.sleep(0.02)
    assert job.run("--limit", "1", "--fail-on", "new", expect=5)["requests"] == 0
    assert job.run("--limit", "1", "--fail-on", "new", expect=0)["ambiguous"] == 1


def test_a_report_after_a_kill_names_the_rows_in_flight(start_sandbox, make_job):
    """With a command to paste."""
    sandbox = start_sandbox(latency="5s")
    job = make_job(sandbox.url, rows=[["a"], ["b"], ["c"]])
    process = job.start()
    with ended(process):
        while sandbox.received() < 3:
            time.sleep(0.02)
        assert "with 3 requests in flight; those rows count as pending" in job.call("status").stdout
    report = json.loads(job.call("report", "--json").stdout)
    [group] = report["groups"]
    assert [group[n] for n in ("state", "code", "count", "maybe_paid")] == [
        *("ambiguous", "interrupted", 3, 3),
    ]
    asked = job.paste(group["command"])
    assert (asked.returncode, "At worst, 3 requests would be paid twice" in asked.stderr) == (
        2,
        True,
    )
    assert sandbox.received() == 3


def to_go_on(said: str) -> str:
    """The command that continues, from the line that names it."""
    [line] = [line for line in said.splitlines() if line.startswith("Next: ")]
    return line.removeprefix("Next: ")


def test_commands_to_paste_repeat_the_options_that_change_how_rows_are_sent(sandbox, make_job):
    """Those of every command do, also if that command had fewer options."""
    job = make_job("https://nowhere.invalid", rows=[["a"], ["#fault:blocked"], ["c"]], retries=0)
    options = ("--base-url", sandbox.url, "--max-paid", "1")
    done = job.call("run", *options)
    assert done.returncode == 4
    assert "The run reached `max_paid`: " in done.stderr
    assert "With the next command at most 3 requests may be paid in all runs.\n" in done.stderr
    assert "\nNext: pipeline run " in done.stderr
    report = json.loads(job.call("report", "--json").stdout)
    assert report["resume_command"].endswith("--max-paid 1")
    assert report["resume_needs"] == ["--base-url"]  # which no command takes from a folder
    proposed = to_go_on(job.call("status").stdout)
    assert job.paste(proposed, "--base-url", sandbox.url).returncode == 3
    zero = job.call("run", "--base-url", sandbox.url, "--max-paid", "0", "--json")
    assert f"pipeline report {job.spec}\n" in zero.stderr
    assert "--max-paid 3" in to_go_on(zero.stderr)


def test_after_max_paid_of_the_job_file_the_next_command_names_the_limit_that_the_rest_needs(
    sandbox, make_job
):
    """One more for each row that is left, and it works when pasted. JSON keeps the old limit: a
    program that runs the command must not raise a limit."""
    job = make_job(sandbox.url, rows=[["a"], ["b"], ["c"], ["d"]], max_paid=3)
    assert job.run("--limit", "2")["resume_command"].endswith("job.yaml --rate 5000.0")
    stopped = job.run(expect=4)
    for program in (stopped["resume_command"], job.status()["resume_command"]):
        assert "--max-paid" not in program
        assert job.paste(program).returncode == 4
    command = to_go_on(job.call("status").stdout)
    assert "--max-paid 4" in command
    assert job.paste(command).returncode == 0
    assert (job.status()["ok"], sum(sandbox.billed().values())) == (4, 4)


def test_a_selection_that_sends_nothing_says_why(sandbox, make_job):
    """Its rows need --ambiguous, no row has the code now, or the rows were given up."""
    job = mixed_job(sandbox, make_job)
    assert "To send them too, add --ambiguous." in job.call("resume", "--rows", "5").stderr
    done = job.call("resume", "--only", "timeout")
    assert 'No row has the error code "timeout" now. The codes here are: bad_' in done.stderr
    job.call("settle", "--only", "request_blocked")
    before = sandbox.received()
    done = job.call("resume", "--only", "request_blocked")
    assert sandbox.received() == before
    assert "1 row left out that you gave up with `settle`: row 3 (line 4)." in done.stderr
    [line] = [line for line in done.stderr.splitlines() if "gave up" in line]
    job.paste(line.partition("name them with --rows: ")[2])
    assert sandbox.received() == before + 1


@pytest.mark.parametrize(
    ("verb", "option"), [("resume", "--only"), ("resume", "--except"), ("settle", "--only")]
)
def test_an_unknown_error_code_is_refused_and_the_known_ones_are_named(
    sandbox, make_job, verb, option
):
    """Exit 2. Otherwise a typo would select no row without a message."""
    job = mixed_job(sandbox, make_job)
    before = sandbox.received(), job.status()
    done = job.call(verb, option, "gatway")
    assert done.returncode == 2
    assert 'There is no error code "gatway". Did you mean "gateway"?' in done.stderr
    assert "bad_response, gateway, internal_server_error, request_blocked" in done.stderr
    assert (sandbox.received(), job.status()) == before
    for code in ("timeout", "http_418"):
        assert job.call(verb, "--only", code).returncode in (0, 5)


def test_settle_names_the_codes_if_it_gives_up_no_row_and_refuses_unknown_rows(sandbox, make_job):
    """Exit 0 for a code that no row has now, exit 2 for a row that is not in the sheet."""
    job = mixed_job(sandbox, make_job)
    done = job.call("settle", "--only", "timeout")
    assert "There is no row to give up. The error codes here are:" in done.stderr
    assert "Nothing was sent." in done.stderr
    done = job.call("settle", "--rows", "10")
    assert (done.returncode, "There is no row 10" in done.stderr) == (2, True)


def test_resume_of_a_job_that_was_never_run_says_so(sandbox, make_job):
    """With --only it is refused. Without it, it sends the same rows as `run`."""
    job = make_job(sandbox.url, rows=[["a"], ["b"]])
    done = job.call("resume", "--only", "gateway")
    assert (done.returncode, sandbox.received()) == (2, 0)
    assert "no run yet, so no row has an error code" in done.stderr
    done = job.call("resume")
    assert (done.returncode, sandbox.received()) == (0, 2)
    assert "None of these rows was sent before" in done.stderr
    job.write_sheet(["story"], [["a"], ["#fault:blocked"]])
    job.call("run")
    assert "None of these rows" not in job.call("resume").stderr


def test_failed_rows_are_not_announced_as_new_if_there_are_as_many_new_ones(sandbox, make_job):
    """A user reads that line before paying again: the failed row is sent, not the pending one."""
    job = make_job(sandbox.url, rows=[["a"], ["#fault:blocked"]])
    job.run(expect=3)
    job.write_sheet(["story"], [["a"], ["#fault:blocked"], ["new"]])
    done = job.call("resume", "--only", "request_blocked")
    assert "1 of 3 rows to send" in done.stderr
    assert "None of these rows was sent before" not in done.stderr
    assert "None of these rows was sent before" in job.call("resume", "--rows", "3").stderr


def test_a_report_of_a_job_that_sent_nothing_mentions_no_row_that_was_sent(sandbox, make_job):
    """Runs with `--limit 0` and with a limit of 0."""
    job = make_job(sandbox.url, rows=[["a"]])
    job.run("--limit", "0")
    shown = job.call("report").stdout
    assert "No row was sent yet." in shown
    assert "is ok" not in shown
    job.run()
    assert "Every row that was sent is ok." in job.call("report").stdout


def test_commands_that_only_read_print_their_result_on_stdout_and_nothing_else_there(
    sandbox, make_job
):
    """For a pager or grep. With --json stdout has one object, and messages are on stderr."""
    job = mixed_job(sandbox, make_job)
    for verb, words in (
        ("status", "9 rows: 2 ok, 3 failed"),
        ("report", "1 failed request_blocked"),
        ("check", "9 rows: 2 ok, 3 failed"),
        ("history", "began"),
        ("verify", "complete and unaltered"),
    ):
        done = job.call(verb)
        assert (words in done.stdout, done.stderr) == (True, ""), (verb, done.stderr)
        told = job.call(verb, "--json")
        assert words in told.stderr
        assert json.loads(told.stdout)
    for verb, *options in (("run", "--limit", "1"), ("settle", "--only", "timeout")):
        done = job.call(verb, *options)
        assert (done.stdout, "9 rows" in done.stderr) == ("", True)


def test_a_folder_belongs_to_the_first_host_that_answered(start_sandbox, make_job):
    """Not to a mistyped address, but to one that refused the key, although nothing was paid."""
    first, second = start_sandbox(), start_sandbox()
    job = make_job(f"http://127.0.0.1:{closed_port()}", rows=[["a"]])
    log = job.output / "log.jsonl"
    process = job.start()
    with ended(process):
        while not log.exists() or "waiting" not in log.read_text():
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=20) == 143
    wrong = {"AITUTOR_API_KEY": "wrong"}
    assert job.call("run", "--base-url", first.url, env=wrong).returncode == 4
    refused = job.call("run", "--base-url", second.url)
    assert (refused.returncode, second.received()) == (2, 0)
    assert job.run("--base-url", first.url)["ok"] == 1


def test_a_folder_belongs_to_a_path_of_its_host(sandbox, make_job):
    """A gateway has several APIs on one host. A slash at the end makes no difference."""
    job = make_job(sandbox.url, rows=[["a"], ["b"]])
    assert job.run("--limit", "1")["ok"] == 1
    done = job.call("run", "--base-url", f"{sandbox.url}/gateway")
    assert done.returncode == 2
    assert f"belongs to 127.0.0.1:{sandbox.port}, not to 127.0.0.1:{sandbox.port}/gateway" in (
        done.stderr
    )
    assert sandbox.received() == 1
    assert job.run("--base-url", f"{sandbox.url}/")["ok"] == 2


def test_a_refused_first_run_does_not_count_as_a_run(sandbox, make_job):
    """`status` says how to start one, and no half-read file is left."""
    job = make_job(sandbox.url, rows=[["a"], [""], ["c"]])
    assert job.call("run").returncode == 2
    done = job.call("status")
    assert (done.returncode, "no run yet" in done.stderr) == (2, True)
    assert not list(job.output.glob(".*"))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["run", "--output", ""], "must not be empty"),
        (["run", "--only", "gateway"], "--only is an option of: check, resume, settle"),
        (["settle", "--reread", "--rows", "1"], "Leave out --only and --rows"),
        (["run", "--sandbox", "--base-url", "http://127.0.0.1:1"], "Leave out --base-url"),
        (["run", "--base-url", "http://127.0.0.1:1/api/v1"], "remove /api/v1"),
    ],
)
def test_options_that_make_no_sense_together_are_refused(make_job, options, words):
    """Exit 2 and what to do."""
    job = make_job("http://127.0.0.1:9", rows=[["a"]])
    done = job.call(options[0], *options[1:])
    assert done.returncode == 2
    assert words in done.stderr


def test_a_file_that_an_option_names_is_not_looked_for_in_the_job_file(make_job):
    """The message about it names no line there."""
    job = make_job("http://127.0.0.1:9", rows=[["a"]])
    done = job.call("run", "--input", "nowhere.csv")
    assert done.returncode == 2
    assert "nowhere.csv: there is no such file" in done.stderr
    assert "job.yaml" not in done.stderr
    job.sheet.unlink()
    assert "job.yaml line " in job.call("run").stderr


def test_the_command_for_pending_rows_keeps_the_limit_of_a_sample_that_stopped(sandbox, make_job):
    """A user who wanted a sample must not pay for the whole sheet."""
    job = make_job(sandbox.url, rows=[["a"], ["b"], ["c"]])
    assert job.call("run", "--limit", "2", env={"AITUTOR_API_KEY": "sk_wrong"}).returncode == 4
    [group] = json.loads(job.call("report", "--json").stdout)["groups"]
    assert (group["state"], group["code"]) == ("pending", "unauthorized")
    assert group["command"].endswith("--limit 2")


def test_a_sheet_given_as_a_job_is_recognised(make_job):
    """Users mix them up."""
    job = make_job("http://127.0.0.1:9", rows=[["a"]])
    done = job.shell([sys.executable, "-m", "pipeline", "run", str(job.sheet)])
    assert (done.returncode, "this is a sheet, not a job file" in done.stderr) == (2, True)


@pytest.mark.parametrize("command", ["run", "refused run", "settle"])
@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["as it is", "gzip"])
def test_a_kept_response_that_a_later_release_can_read_becomes_an_answer_without_a_request(
    sandbox, make_job, command, pack
):
    """A complete response is kept unchanged and read later. Half a response stays ambiguous."""
    job = make_job(sandbox.url, rows=[["#fault:not-json"], ["#fault:cut-body"], ["fine"]])
    job.run(expect=5)
    db = connect(job.output / "ledger.sqlite", read_only=False)
    whole = "SELECT attempt_id FROM fragments WHERE whole"
    [(attempt,)] = db.execute(whole).fetchall()
    readable = b'{"success":true,"result":"as a later release reads it"}'
    db.execute("UPDATE fragments SET body = ? WHERE attempt_id = ?", (pack(readable), attempt))
    db.close()
    billed = sandbox.billed()
    if command == "run":
        summary = job.run(expect=5)
        assert summary["requests"] == 0
    elif command == "refused run":
        job.write_spec(constants={"tone": "warm"})
        summary = job.run(expect=2)
        job.write_spec()
    else:
        done = job.call("settle", "--reread", "--json")
        assert (done.returncode, "so their rows are ok: 1." in done.stderr) == (0, True)
        summary = json.loads(done.stdout)
        assert "as a later" not in (job.output / "failures.csv").read_text()
    assert (summary["ok"], summary["ambiguous"]) == (2, 1)
    assert (summary["paid_min"], summary["paid_max"]) == (2, 3)
    assert sandbox.billed() == billed
    table = job.export()
    assert list(table["_status"]) == ["ok", "ambiguous", "ok"]
    assert table["result"][0] == "as a later release reads it"
    assert job.call("verify").returncode == 0


def test_reread_says_so_if_no_kept_response_can_be_read(sandbox, make_job):
    """They are kept for another release."""
    job = make_job(sandbox.url, rows=[["#fault:not-json"], ["fine"]])
    assert job.call("settle", "--reread").returncode == 2  # no run yet
    job.run(expect=5)
    done = job.call("settle", "--reread")
    assert (done.returncode, "No kept response can be read" in done.stderr) == (0, True)
    assert (job.status()["ok"], job.status()["ambiguous"]) == (1, 1)
    assert sandbox.received() == 2
