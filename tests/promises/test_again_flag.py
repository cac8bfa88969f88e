"""`run --again FLAG` pays once more for exactly the rows whose answer has the flag."""

from __future__ import annotations

import json
import signal
import time
from collections import Counter
from dataclasses import replace

import pytest

import pipeline
from tests.conftest import Job, SandboxProcess, ended

EMPTY = "#fault:result-empty"
COLUMNS = ["sku", "story", "fault"]
VARIABLES = {"story": "story", "fault": "fault"}


def made(sandbox: SandboxProcess, make_job, rows: list[list[str]], **spec) -> Job:
    """A job whose answers are empty where the sheet says so, until `heal`."""
    sandbox.publish("wf_mine", "{{story}} {{fault}}")
    return make_job(
        sandbox.url,
        COLUMNS,
        rows,
        **({"workflow": "wf_mine", "variables": VARIABLES, "empty": "send"} | spec),
    )


def heal(sandbox: SandboxProcess) -> None:
    sandbox.publish("wf_mine", "{{story}}")


def received(sandbox: SandboxProcess) -> Counter[str]:
    """Requests by their story. The book has one line for each text, also if it was never billed."""
    found: Counter[str] = Counter()
    for entry in sandbox.bills():
        found[json.loads(entry["body"])["story"]] += entry["received"]
    return found


def billed(sandbox: SandboxProcess) -> Counter[str]:
    found: Counter[str] = Counter()
    for body, times in sandbox.billed().items():
        found[json.loads(body)["story"]] += times
    return found


def sent_by(sandbox: SandboxProcess, job: Job, *options: str, expect: int = 0) -> Counter[str]:
    """Runs `run` with `options`, and returns what the server billed for it, by story."""
    before = billed(sandbox)
    job.run(*options, expect=expect)
    return billed(sandbox) - before


def refused(sandbox: SandboxProcess, job: Job, *options: str) -> str:
    """Checks that the command is refused and sends nothing. Returns the message."""
    before = sandbox.received()
    done = job.call("run", *options)
    assert done.returncode == 2, done.stderr
    assert "Nothing was sent." in done.stderr
    assert sandbox.received() == before
    return done.stderr


ROWS = [["A1", "one", ""], ["A2", "two", EMPTY], ["A3", "three", ""], ["A4", "four", EMPTY]]


@pytest.mark.parametrize("spec", [{}, {"id": "sku"}, {"dedupe": True}], ids=["", "id", "dedupe"])
def test_flagged_answers_are_asked_for_again_wherever_their_rows_stand_now(sandbox, make_job, spec):
    """The sheet was sorted, got a row, and lost one since the last run. An edited row is new, so
    its old answer does not count for it."""
    rows = [*ROWS, ["A5", "five", EMPTY], ["A6", "six", EMPTY]]
    job = made(sandbox, make_job, rows, **spec)
    job.run()
    heal(sandbox)
    edited = ["A5", "five, edited", EMPTY]
    job.write_sheet(COLUMNS, [["A0", "zero", ""], edited, *reversed(ROWS)])
    assert sent_by(sandbox, job, "--again", "empty", "--yes") == {"two": 1, "four": 1}
    assert refused(sandbox, job, "--again", "empty", "--yes").startswith(
        'pipeline: No answer has the flag "empty" now.'
    )
    assert sent_by(sandbox, job) == {"zero": 1, "five, edited": 1}
    exported = job.export()
    assert set(exported["_status"]) == {"ok"}
    for story, result in exported[["story", "result"]].itertuples(index=False):
        assert story in result


def test_the_question_says_which_flag_which_rows_and_the_worst_case(sandbox, make_job):
    """Without a terminal the run is refused and names --yes."""
    job = made(sandbox, make_job, ROWS, id="sku")
    job.run()
    said = refused(sandbox, job, "--again", "empty")
    assert (
        '2 rows whose answer has the flag "empty" would be sent and paid again: rows 2, 4 (lines '
        "3, 5; sku A2, A4). That is at most 2 requests. The answers that you have stay in the "
        "results. Add --yes to confirm."
    ) in said
    assert "columns" not in said


def test_a_row_that_gets_the_same_flag_twice_is_left_out_until_its_number_is_named(
    sandbox, make_job
):
    """Otherwise each repetition of the command would pay for it. The notice counts these rows."""
    job = made(sandbox, make_job, ROWS)
    job.run()
    assert sent_by(sandbox, job, "--again", "empty", "--yes") == {"two": 1, "four": 1}
    said = refused(sandbox, job, "--again", "empty", "--yes")
    assert "2 rows left out: rows 2, 4 (lines 3, 5). You asked for the last version of" in said
    assert f"`pipeline show {job.spec} --rows 2,4`" in said
    assert said.endswith("--again empty --rows 2,4\n")
    job.write_sheet(COLUMNS, [*ROWS, ["A5", "five", EMPTY]])
    job.run()
    plan = json.loads(job.call("check", "--again", "empty", "--json").stdout)
    assert plan["to_send"] == 1
    assert "2 rows left out that got the same flag again." in plan["questions"][0]
    before = billed(sandbox)
    done = job.call("run", "--again", "empty", "--yes")
    assert "2 rows left out: rows 2, 4" in done.stderr
    assert billed(sandbox) - before == {"five": 1}
    assert sent_by(sandbox, job, "--again", "empty", "--rows", "1,4", "--yes") == {"four": 1}


def test_the_report_shows_answers_that_were_asked_for_again_in_vain(sandbox, make_job):
    """The command that asks for them again would be refused."""
    job = made(sandbox, make_job, ROWS)
    job.run()
    assert "--again empty" in job.call("report").stdout
    job.run("--again", "empty", "--yes")
    said = job.call("report").stdout
    assert "--again" not in said
    shown = job.paste(next(line.strip() for line in said.splitlines() if "--flag empty" in line))
    assert "2 of 4 rows" in shown.stdout


def test_a_row_whose_newer_answer_is_unknown_is_found_as_ambiguous_and_as_ok(sandbox, make_job):
    """`status` counts it as ambiguous, and an export shows the earlier answer."""
    job = made(sandbox, make_job, ROWS)
    job.run()
    sandbox.publish("wf_mine", "{{story}} #fault:html-504-billed")
    job.run("--again", "empty", "--yes", expect=5)
    assert job.status()["ambiguous"] == 2
    for status in ("ambiguous", "ok"):
        lines = job.call("show", "--json", "--status", status, "--rows", "2,4").stdout.splitlines()
        assert [json.loads(line)["row"] for line in lines[:-1]] == [2, 4]
    said = refused(sandbox, job, "--again", "2", "--yes")
    assert said.endswith(f"To send ambiguous rows: pipeline resume {job.spec} --ambiguous\n")


def test_rows_that_were_asked_for_by_number_or_for_another_flag_are_not_left_out(sandbox, make_job):
    """Only a repetition for the same flag is one. `repeated` needs two answers of one text."""
    job = made(sandbox, make_job, [["A1", "one", ""], ["A2", "two", ""]])
    sandbox.publish("wf_mine", f"always the same text for every row {EMPTY}")
    job.run()
    assert sent_by(sandbox, job, "--again", "1", "--yes") == {"one": 1}
    sandbox.publish("wf_mine", "always the same text for every row")
    both = ("--again", "empty", "--again", "repeated", "--yes")
    assert sent_by(sandbox, job, *both) == {"one": 1, "two": 1}
    assert "No answer has the flag" in refused(sandbox, job, "--again", "empty", "--yes")
    assert sent_by(sandbox, job, *both) == {"one": 1, "two": 1}
    assert "left out" in refused(sandbox, job, *both)


def test_rows_and_limit_narrow_the_flagged_rows(sandbox, make_job):
    """Neither adds a row without the flag."""
    job = made(sandbox, make_job, ROWS)
    job.run()
    heal(sandbox)
    assert "2 answers with the flag" in refused(sandbox, job, "--again", "empty", "--rows", "1")
    assert "2 answers with the flag" in refused(sandbox, job, "--again", "empty", "--limit", "1")
    assert "There is no row 9" in refused(sandbox, job, "--again", "empty", "--rows", "9")
    assert sent_by(sandbox, job, "--again", "empty", "--limit", "3", "--yes") == {"two": 1}
    assert sent_by(sandbox, job, "--again", "empty", "--rows", "1-4", "--yes") == {"four": 1}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--again", "emty"), 'There is no flag "emty". Did you mean "empty"? The flags of this'),
        (("--again", "EMPTY "), 'Did you mean "empty"?'),
        (("--again", "ALL"), 'Did you mean "all"?'),
        (("--again", "empty,refusal"), 'There is no flag "empty,refusal".'),
        (("--again", ""), 'There is no flag "".'),
        (("--again", "not_json"), 'There is no flag "not_json".'),
        (("--again", "\x1b[31m" + "x" * 5000), "The flags of this job are: empty, refusal,"),
        (("--again", "refusal"), 'No answer has the flag "refusal" now.'),
        (("--again", "empty", "--again", "3"), "not several of these kinds"),
        (("--again", "all", "--again", "empty"), "not several of these kinds"),
        (("--again", "all", "--again", "3"), "not several of these kinds"),
        (("--again", "3", "--rows", "3"), "`--again FLAG --rows 3,7-9`"),
        (("--rows", "3"), "`resume --rows 3,7-9` sends failed rows"),
        (("--again", "3x"), '"3x" is not a list of rows'),
    ],
)
def test_a_selection_that_makes_no_sense_is_refused(sandbox, make_job, options, words):
    """A typo never chooses other rows than those that the user means."""
    job = made(sandbox, make_job, ROWS)
    job.run()
    said = refused(sandbox, job, *options, "--yes")
    assert words in said
    assert "\x1b" not in said
    assert len(said) < 1000
    assert json.loads(job.call("check", *options, "--json").stdout)["exit_code"] in (0, 2)


def test_a_flag_before_the_first_run_and_row_numbers_given_twice(sandbox, make_job):
    """Without answers there are no flags. Numbers stay numbers, in one option or in several."""
    job = made(sandbox, make_job, ROWS)
    assert "No answer has" in refused(sandbox, job, "--again", "empty", "--yes")
    job.run()
    heal(sandbox)
    sent = sent_by(sandbox, job, "--again", "1", "--again", "3-4", "--yes")
    assert sent == {"one": 1, "three": 1, "four": 1}


def test_a_plan_for_a_flag_is_carried_out_once(sandbox, make_job):
    """The order of the options does not matter. Another flag or another sheet is another plan."""
    job = made(sandbox, make_job, ROWS)
    job.run()
    options = ("--again", "refusal", "--again", "empty")
    plan = json.loads(job.call("check", *options, "--json").stdout)
    assert (plan["to_send"], plan["exit_code"]) == (2, 0)
    before = sandbox.received()
    for other in (("--again", "empty"), (*options, "--rows", "2"), ("--again", "all")):
        done = job.call("run", *other, "--plan", plan["plan"])
        assert (done.returncode, sandbox.received()) == (2, before), done.stderr
    turned = ("--again", "empty", "--again", "refusal")
    done = job.call("run", *turned, "--plan", plan["plan"])
    assert done.returncode == 0, done.stderr
    assert sandbox.received() == before + 2
    done = job.call("run", *turned, "--plan", plan["plan"])
    assert (done.returncode, "already carried out" in done.stderr) == (2, True)
    assert sandbox.received() == before + 2


def test_check_prints_the_command_with_every_flag(sandbox, make_job):
    """So that it can be pasted."""
    job = made(sandbox, make_job, ROWS)
    job.run()
    options = ("--again", "empty", "--again", "refusal", "--rows", "2")
    shown = job.call("check", *options).stdout
    assert shown.splitlines()[-1].endswith(" ".join(options))
    assert "--resume" not in shown
    done = job.call("check", "--again", "empty", "--only", "gateway")
    assert (done.returncode, "two commands" in done.stderr) == (2, True)


def test_skipped_ambiguous_failed_and_missing_rows_are_not_sent_because_of_an_old_answer(
    sandbox, make_job
):
    """Each has an empty answer. Only the ok row of the sheet is sent, and only it counts for the
    exit code."""
    names = ("skipped", "ambiguous", "failed", "gone", "ok")
    rows = [[f"A{n}", name, EMPTY] for n, name in enumerate(names)]
    job = made(sandbox, make_job, rows, retries=0)
    job.run()
    sandbox.publish("wf_mine", "{{story}} #fault:html-504-billed")
    job.run("--again", "2", "--yes", expect=5)
    sandbox.publish("wf_mine", "{{story}} #fault:blocked")
    job.run("--again", "3", "--yes", expect=3)
    heal(sandbox)
    job.write_sheet(COLUMNS, [row for row in rows if row[1] != "gone"])
    where = {"column": "story", "matches": "skipped", "not": True}
    job.write_spec(workflow="wf_mine", variables=VARIABLES, where=where, retries=0)
    assert sent_by(sandbox, job, "--again", "empty", "--yes") == {"ok": 1}
    said = refused(sandbox, job, "--again", "empty", "--yes")
    assert '3 answers with the flag "empty" left out: the row is skipped, edited, failed' in said


def test_equal_rows_that_share_a_flagged_answer_are_one_request(sandbox, make_job):
    """Under `dedupe: true`. Without it, each of them has its own answer."""
    rows = [["A1", "same", EMPTY], ["A2", "other", ""], ["A3", "same", EMPTY]]
    job = made(sandbox, make_job, rows, dedupe=True)
    job.run()
    heal(sandbox)
    job.write_sheet(COLUMNS, list(reversed(rows)))
    plan = json.loads(job.call("check", "--again", "empty", "--rows", "3", "--json").stdout)
    assert plan["to_send"] == 1
    assert sent_by(sandbox, job, "--again", "empty", "--yes") == {"same": 1}
    assert all(job.export()["result"])
    sandbox.publish("wf_mine", "{{story}} {{fault}}")
    assert sent_by(sandbox, job, "--again", "1", "--yes") == {"same": 1}
    job.write_spec(workflow="wf_mine", variables=VARIABLES, empty="send")
    assert sent_by(sandbox, job) == {"same": 1}
    heal(sandbox)
    assert sent_by(sandbox, job, "--again", "empty", "--yes") == {"same": 2}


def test_of_equal_rows_only_those_with_the_flag_are_asked_for_again(sandbox, make_job):
    """They have the same text, so only their answers differ. It does not matter which of them
    stands first."""
    rows = [["A1", "same", ""], ["A2", "same", ""], ["A3", "same", ""]]
    job = made(sandbox, make_job, rows)
    sandbox.publish("wf_mine", "{{story}}", fault="result-empty")
    job.run("--limit", "1")
    heal(sandbox)
    job.run()
    job.write_sheet(COLUMNS, [["A0", "other", ""], *rows])
    assert sent_by(sandbox, job, "--again", "empty", "--yes") == {"same": 1}
    assert sent_by(sandbox, job) == {"other": 1}
    assert all(job.export()["result"])
    assert "No answer has" in refused(sandbox, job, "--again", "empty", "--yes")


def test_a_row_number_that_now_means_another_row_is_confirmed_with_a_flag_too(sandbox, make_job):
    """The flag follows the answer. The number does not, so it is shown with both rows."""
    job = made(sandbox, make_job, ROWS, id="sku")
    job.run()
    heal(sandbox)
    job.write_sheet(COLUMNS, list(reversed(ROWS)))
    said = refused(sandbox, job, "--again", "empty", "--rows", "1")
    assert 'row 1 (line 2) was "A1" and is "A4"' in said
    assert sent_by(sandbox, job, "--again", "empty", "--rows", "1", "--yes") == {"four": 1}


def test_a_changed_job_file_makes_no_flagged_row_new(sandbox, make_job):
    """Under another constant every row is another one, so no answer counts for it."""
    job = made(sandbox, make_job, ROWS)
    job.run()
    job.write_spec(workflow="wf_mine", variables=VARIABLES, empty="send", constants={"tone": "dry"})
    for more in ((), ("--accept-changes",)):
        said = refused(sandbox, job, "--again", "empty", "--yes", *more)
        assert "2 answers with the flag" in said


def test_a_killed_run_for_a_flag_is_finished_by_a_plain_run(start_sandbox, make_job):
    """Each flagged row is billed once more in the end. Until then its earlier answer is exported,
    and another --again is refused."""
    sandbox = start_sandbox()
    stories = [f"story {n}" for n in range(8)]
    rows = [[f"A{n}", story, EMPTY if n % 2 else ""] for n, story in enumerate(stories)]
    job = made(sandbox, make_job, rows, concurrency=1)
    job.run()
    heal(sandbox)
    process = job.start("--again", "empty", "--yes", rate="1.5")
    with ended(process):
        while sandbox.received() < 10:
            time.sleep(0.01)
        time.sleep(0.2)
        process.send_signal(signal.SIGKILL)
    assert job.status()["pending"] == 2
    assert list(job.export()["_status"]) == ["ok"] * 8
    assert "not finished" in refused(sandbox, job, "--again", "empty", "--yes")
    job.write_sheet(COLUMNS, list(reversed(rows)))
    assert job.run()["requests"] == 2
    odd = {story: 2 if n % 2 else 1 for n, story in enumerate(stories)}
    assert billed(sandbox) == received(sandbox) == odd
    assert "No answer has" in refused(sandbox, job, "--again", "empty", "--yes")
    assert job.call("verify").returncode == 0


def test_the_command_of_the_report_sends_the_rows_of_its_flag(sandbox, make_job):
    """Once pasted. It raises a `max_paid` that the job has reached, as other commands do."""
    job = made(sandbox, make_job, ROWS, max_paid=4)
    job.run()
    heal(sandbox)
    [marked] = json.loads(job.call("report", "--json").stdout)["marked"]
    assert (marked["mark"], marked["count"], marked["first_rows"]) == ("empty", 2, [2, 4])
    assert marked["command"] == f"pipeline run {job.spec} --rate 5000.0 --max-paid 6 --again empty"
    assert f"    {marked['command']}\n" in job.call("report").stdout
    before = billed(sandbox)
    done = job.paste(marked["command"], "--yes")
    assert done.returncode == 0, done.stderr
    assert billed(sandbox) - before == {"two": 1, "four": 1}


def test_a_rehearsal_and_a_program_ask_for_flags_too(sandbox, make_job):
    """Options and messages are the same as for a paid run on the command line."""
    job = made(sandbox, make_job, ROWS)
    found = pipeline.find_job(job.spec, sandbox=True)
    pipeline.run_job(found)
    selection = pipeline.select_again(flags="empty", limit=2)
    consent = pipeline.Consent(yes=True)
    assert pipeline.run_job(found, selection=selection, consent=consent).requests == 1
    only = replace(selection, limit=None)
    assert pipeline.check_job(found, selection=only).to_send == 1
    with pytest.raises(pipeline.Refused, match="no flag"):
        pipeline.check_job(found, selection=pipeline.select_again(flags=["emty"]))


def test_answers_that_do_not_fit_the_columns_are_asked_for_again(sandbox, make_job):
    """`not_json` as any flag. If most answers do not fit, the question says first that another path
    costs nothing: after it, no answer has the flag."""
    faults = ["", "", "", "#fault:result-prose-once", "", "#fault:result-prose-once"]
    rows = [[f"A{n}", f"story {n}", fault] for n, fault in enumerate(faults)]
    columns = {"title": "$.title", "score": {"path": "$.scores", "type": "number"}}
    spec = {"workflow": "wf_mine", "variables": VARIABLES, "empty": "send"}
    sandbox.publish("wf_mine", "{{story}} {{fault}}", answer={"title": "text", "score": "number"})
    job = make_job(sandbox.url, COLUMNS, rows)
    job.write_spec(columns=columns, **spec)
    job.run()
    assert "columns" not in refused(sandbox, job, "--again", "not_json")
    assert sent_by(sandbox, job, "--again", "not_json", "--yes") == {"story 3": 1, "story 5": 1}
    words = (
        "pipeline: Changing `columns:` in the job file costs nothing, so check its paths and types "
        'first: 6 of 6 answers do not fit them. 6 rows whose answer has one of the flags "empty", '
        '"missing:score" would be sent and paid again: rows 1, 2, 3, 4, 5, 6 (lines'
    )
    flags = ("--again", "missing:score", "--again", "empty")
    assert refused(sandbox, job, *flags).startswith(words)
    assert 'Did you mean "missing:score"?' in refused(sandbox, job, "--again", "missing:scores")
    job.write_spec(columns=columns | {"score": {"path": "$.score", "type": "number"}}, **spec)
    assert "No answer has the flag" in refused(sandbox, job, "--again", "missing:score", "--yes")
    assert job.export()["score"].notna().all()
