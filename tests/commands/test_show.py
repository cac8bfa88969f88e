"""`pipeline show`: rows for reading."""

from __future__ import annotations

import csv
import json
import os
import pty
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

import pipeline
from pipeline.core.errors import Refused, StorageFailed
from tests.conftest import KEY, Job, ended
from tests.support.screen import shown_lines

STORIES = [
    "fine",
    "#fault:blocked",
    "#fault:html-504-billed",
    "cites #fault:citations-objects",
    "#fault:result-empty",
]
ROWS = [[f"S-{number}", story, f"note {number}"] for number, story in enumerate(STORIES, 1)]
COLUMNS = ["sku", "story", "note"]
SPEC: dict[str, Any] = {"id": "sku", "variables": {"story": "story"}}


@pytest.fixture
def job(sandbox, make_job) -> Job:
    """Two rows are ok, one answer is empty, one row failed and one is ambiguous."""
    job = make_job(sandbox.url, COLUMNS, ROWS, **SPEC)
    job.run(expect=5)
    return job


def shown(job: Job, *options: str, code: int = 0) -> str:
    done = job.call("show", *options)
    assert done.returncode == code, done.stderr
    assert done.stderr == "" or code
    return done.stdout if not code else done.stderr


def objects(job: Job, *options: str) -> list[dict[str, Any]]:
    """The rows of `show --json`, without the summary."""
    *rows, summary = map(json.loads, shown(job, "--json", *options).splitlines())
    assert summary["shown"] == len(rows)
    return rows


def numbers(job: Job, *options: str) -> list[int]:
    return [row["row"] for row in objects(job, *options)]


def test_each_row_has_what_was_sent_its_answer_and_its_requests(sandbox, job):
    """The rows are named as in the report. Nothing is sent."""
    before = sandbox.received()
    text = shown(job)
    first, *blocks = text.split("\n\nrow ")
    assert re.fullmatch(
        r"job: 5 of 5 rows, as the last run read the sheet on [-\d]+ at [:\d]+\.", first
    )
    assert [block.splitlines()[0] for block in blocks] == [
        "1 (line 2, sku S-1): ok",
        "2 (line 3, sku S-2): failed (request_blocked)",
        "3 (line 4, sku S-3): ambiguous (gateway)",
        "4 (line 5, sku S-4): ok",
        "5 (line 6, sku S-5): ok, flagged empty",
    ]
    assert "  Sent:\n    story: fine\n  Answer:\n" in blocks[0]
    assert "note 1" not in text
    assert re.search(
        r"1\. [-\d]+ [:\d]+, HTTP 200, \d+\.\d\d s, ok, paid$", blocks[0], re.MULTILINE
    )
    assert "No answer:\n    The server refuses this text. Nothing was paid." in blocks[1]
    assert re.search(r"HTTP 400, .* failed \(request_blocked\), not paid: ", blocks[1])
    assert "  Sent:\n    story: #fault:html-504-billed\n" in blocks[2]
    assert "A proxy answered in place of the API, and the workflow may still" in blocks[2]
    assert re.search(r"HTTP 504, .* ambiguous \(gateway\), maybe paid: ", blocks[2])
    assert "  Citations:\n    1. Source a https://" in blocks[3]
    assert sandbox.received() == before


FITTING = {
    "--rows 2,4-5": [2, 4, 5],
    "--id S-4 --id S-1": [1, 4],
    "--status failed --status ambiguous": [2, 3],
    "--status ok": [1, 4, 5],
    "--code gateway,request_blocked": [2, 3],
    "--flag empty": [5],
    "--flag empty --rows 1-4": [],
    "--status ok --code gateway": [],
    "--status ok --rows 2-4": [4],
    "--limit 2": [1, 2],
    "--status ok --limit 2": [1, 4],
    "--status skipped": [],
    "--code timeout": [],
    "--flag refusal": [],
    "--sample 9": [1, 2, 3, 4, 5],
}


def test_a_row_is_shown_if_it_fits_every_option(job):
    """An option that is repeated lists alternatives."""
    for options, rows in FITTING.items():
        assert numbers(job, *options.split()) == rows, options


def test_no_row_that_fits_is_no_error(job):
    """Neither a text nor an object is missing: a sentence says so, or the summary."""
    said = shown(job, "--status", "skipped")
    assert said.startswith("job: no row fits these options. There are 5 rows, as the last run")
    assert json.loads(shown(job, "--status", "skipped", "--json"))["shown"] == 0


REFUSED = {
    "--rows 6": "There is no row 6: the last run's sheet has 5 data rows.",
    "--rows x": '"x" is not a list of rows.',
    "--id S-4 --id S-9": 'The sheet of the last run has no row with the sku "S-9".',
    "--status oks": 'There is no status "oks". Did you mean "ok"?',
    "--code gatway": 'There is no error code "gatway". Did you mean "gateway"?',
    "--flag empt": 'There is no flag "empt". Did you mean "empty"?',
    "--sample 0": "0 is not 1 or more.",
}


def test_what_the_job_cannot_have_is_refused(job):
    """A typo would otherwise look like a job without such rows."""
    for options, message in REFUSED.items():
        assert message in shown(job, *options.split(), code=2), options


def test_ids_are_refused_in_a_job_without_them(sandbox, make_job):
    """The message names the option that works."""
    job = make_job(sandbox.url, rows=[["a"]])
    job.run()
    assert "--rows 3,7-9" in shown(job, "--id", "a", code=2)


def test_the_same_seed_shows_the_same_sample(sandbox, make_job):
    """The seed is fixed and printed, and another one shows other rows, in the order of the
    sheet."""
    job = make_job(sandbox.url, rows=[[f"story {n}"] for n in range(60)])
    job.run()
    first = numbers(job, "--sample", "5")
    assert len(first) == 5
    assert first == sorted(first) == numbers(job, "--sample", "5", "--seed", "1")
    assert first != numbers(job, "--sample", "5", "--seed", "2")
    assert "5 of 60 rows chosen at random (--seed 1), as" in shown(job, "--sample", "5")
    last = json.loads(shown(job, "--sample", "5", "--json").splitlines()[-1])
    assert (last["shown"], last["seed"]) == (5, 1)
    assert set(numbers(job, "--sample", "5", "--rows", "1-9")) < set(range(1, 10))


def test_before_the_first_run_it_names_the_command(sandbox, make_job):
    """And if there is a rehearsal, the option that shows it."""
    job = make_job(sandbox.url, rows=[["a"]])
    assert "no run yet. Nothing was sent. Start it with: pipeline run" in shown(job, code=2)
    job.run("--sandbox")
    assert "add --sandbox to see it" in shown(job, code=2)
    text = shown(job, "--sandbox")
    assert text.startswith("job, a rehearsal: 1 of 1 row, as")
    assert "ok, billed in the sandbox" in text
    assert "paid" not in text


def test_a_run_folder_without_its_job_file_is_enough(job):
    """What was sent is in the results and in the ledger."""
    expected = objects(job)
    job.spec.unlink()
    job.spec = job.output
    assert objects(job) == expected


def test_a_sheet_that_was_sorted_and_edited_is_shown_as_the_last_run_read_it(sandbox, job):
    """Until the next run, which only sends the edited row."""
    expected = shown(job, "--rows", "1")
    job.write_sheet(COLUMNS, [["S-1", "other", ""], *reversed(ROWS[1:])])
    assert shown(job, "--rows", "1") == expected
    before = sandbox.received()
    job.run(expect=5)
    assert sandbox.received() == before + 1
    rows = objects(job)
    assert [row["id"] for row in rows] == ["S-1", "S-5", "S-4", "S-3", "S-2"]
    assert [row["variables"]["story"] for row in rows] == ["other", *reversed(STORIES[1:])]
    assert [row["status"] for row in rows] == ["ok", "ok", "ok", "ambiguous", "failed"]
    assert all(len(row["attempts"]) == 1 for row in rows)


def test_a_skipped_row_keeps_its_answer_and_its_requests(job):
    """Whether it is paid or ambiguous. A skipped row that was never sent has none."""
    job.write_sheet(COLUMNS, [*ROWS, ["S-6", "new", "note 6"]])
    job.write_spec(**SPEC, where={"column": "note", "equals": "note 2"})
    job.run(expect=3)
    rows = objects(job)
    assert [row["status"] for row in rows] == [
        *("ok", "failed", "ambiguous", "ok", "ok", "skipped")
    ]
    assert [row["skipped"] for row in rows] == [True, False, True, True, True, True]
    assert [len(row["attempts"]) for row in rows] == [1, 1, 1, 1, 1, 0]
    assert rows[2]["variables"] == {"story": "#fault:html-504-billed"}
    assert rows[2]["attempts"][0]["paid"] == "maybe paid"
    text = shown(job, "--rows", "1")
    assert "  Answer now:\n    The last run skipped this row: " in text
    assert "It keeps its answer." in text
    assert "Not sent yet. A run would send:\n    story: new" in shown(job, "--rows", "6")


def test_equal_rows_of_which_one_is_sent_share_its_request(sandbox, make_job):
    """Under `dedupe: true`."""
    job = make_job(sandbox.url, rows=[["same"], ["other"], ["same"]], dedupe=True)
    job.run()
    first, _, third = objects(job)
    assert first["attempts"] == third["attempts"] != []
    assert first["answer"] == third["answer"]
    assert len(objects(job, "--versions")[2]["versions"]) == 1


def test_it_works_during_a_run(start_sandbox, make_job):
    """A row in flight says so. After a kill it is ambiguous."""
    sandbox = start_sandbox(latency="20s")
    job = make_job(sandbox.url, rows=[["a"], ["b"]], concurrency=1)
    process = job.start()
    with ended(process):
        while not sandbox.received():
            time.sleep(0.02)
        first, second = objects(job)
        assert (first["status"], first["attempts"][0]["outcome"]) == ("pending", "in flight")
        assert first["sent"]
        assert (second["status"], second["sent"]) == ("pending", False)
        assert second["variables"] == {"story": "b"}
        assert "The run waits for it." in shown(job, "--rows", "1")
        process.send_signal(signal.SIGKILL)
    first, _ = objects(job)
    assert (first["status"], first["error_code"]) == ("ambiguous", "interrupted")
    assert first["attempts"][0]["outcome"] == "ambiguous"
    assert first["attempts"][0]["paid"] == "maybe paid"
    assert "The runner ended before the response came." in shown(job, "--rows", "1")


def test_all_paid_versions_are_shown_with_the_words_that_changed(sandbox, make_job):
    """The oldest first. Each is one bill, also if a newer one is unfinished."""
    job = make_job(sandbox.url, rows=[["a fox"], ["a dog"]], workflow="wf_mine")
    for template in ("once {{story}} ran", "twice {{story}} ran", "thrice {{story}} ran"):
        sandbox.publish("wf_mine", template)
        job.run(*(["--again", "1", "--yes"] if sandbox.received() else []))
    sandbox.publish("wf_mine", "#fault:html-504-billed {{story}}")
    job.run("--again", "1", "--yes", expect=5)
    first, second = objects(job, "--versions")
    assert sandbox.billed()['{"story":"a fox"}'] == 4
    assert [version["version"] for version in first["versions"]] == [1, 2, 3]
    assert first["versions"][-1]["answer"] == first["answer"]
    assert ["once a fox" in v["answer"] for v in first["versions"]] == [True, False, False]
    assert len(second["versions"]) == 1
    assert [one["paid"] for one in first["attempts"]] == [*["paid"] * 3, "maybe paid"]
    text = shown(job, "--versions", "--rows", "1")
    assert "[-once-]{+twice+} a fox" in text
    assert re.search(r"\{\+[^}]*thrice\+\} a fox ran", text)
    assert "  Answer now:\n    A newer answer was asked for: gateway." in text
    assert "versions" not in objects(job)[0]


def test_json_has_a_line_for_each_row_and_ends_with_the_summary(sandbox, make_job):
    """Columns have their types and the digits of the answer. The last line is as for other
    commands."""
    answer = '{"title": "::error::#x", "score": 1.10, "more": {"b": [1.50]}}'
    job = make_job(sandbox.url, ["text"], [[answer], ["no"]])
    columns = {
        "title": "$.title",
        "score": {"path": "$.score", "type": "number"},
        "more": {"path": "$.more", "type": "json"},
    }
    job.write_spec(workflow="wf_json", variables={"text": "text"}, columns=columns)
    sandbox.publish("wf_json", "{{text}}")
    job.run()
    lines = shown(job, "--json").splitlines()
    assert '"score": 1.10, "more": {"b":[1.50]}' in lines[0]
    first, second, summary = map(json.loads, lines)
    assert list(first) == [
        *("row", "name", "id", "status", "error_code", "error_message", "skipped", "flags"),
        *("sent", "variables", "answer", "columns", "citations", "attempts", "review", "earlier"),
        "answer_id",
    ]
    assert first["columns"] == {"title": "::error::#x", "score": 1.1, "more": {"b": [1.5]}}
    assert second["columns"] == {"title": None, "score": None, "more": None}
    assert second["flags"] == ["not_json"]
    assert (summary["job"], summary["ok"], summary["shown"]) == ("job", 2, 2)
    assert numbers(job, "--flag", "not_json") == [2]
    assert "  Columns:\n    title: -\n    score: -\n" in shown(job, "--flag", "not_json")
    refused = job.call("show", "--json", "--rows", "9")
    assert json.loads(refused.stdout)["exit_code"] == 2


def test_quiet_prints_only_the_rows(job):
    """For a file to keep."""
    assert shown(job, "--quiet", "--rows", "1").startswith("row 1 (line 2, sku S-1): ok\n")


def test_an_altered_part_or_ledger_ends_with_6(job):
    """Without a traceback, and without the answers that were altered."""
    part = max(job.results.glob("part-*.parquet"))
    whole = part.read_bytes()
    part.write_bytes(whole[:-20] + b"x" * 20)
    assert "cannot use this part of the results" in shown(job, "--rows", "1", code=6)
    part.unlink()
    assert "Restore the file" in shown(job, code=6)
    part.write_bytes(whole)
    ledger = job.output / "ledger.sqlite"
    content = ledger.read_bytes()
    for text, altered, what in (
        (b"request_blocked", b"request_bl0cked", "the record of a row"),
        (b"#fault:html-504-billed", b"#fault:html-504-bill3d", "the stored request (row 3"),
    ):
        assert text in content
        ledger.write_bytes(content.replace(text, altered))
        assert f"is damaged: {what}" in shown(job, code=6)


def test_a_reader_that_leaves_early_ends_it_quietly(sandbox, make_job):
    """As `| head -1` does. A full disk does not: a part of the rows would look like all."""
    job = make_job(sandbox.url, rows=[[f"story {n} " + "x" * 2000] for n in range(200)])
    job.run()
    for options in ([], ["--json"]):
        command = subprocess.Popen(
            job.command("show", *options),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=job.environment(),
            text=True,
        )
        assert command.stdout is not None
        assert command.stderr is not None
        with command:
            assert command.stdout.readline()
            command.stdout.close()
            assert command.stderr.read() == ""
        assert command.returncode == 0
        with Path("/dev/full").open("w", encoding="utf-8") as full:
            done = subprocess.run(
                job.command("show", *options),
                stdout=full,
                stderr=subprocess.PIPE,
                env=job.environment(),
                text=True,
                check=False,
            )
        assert done.returncode == 6
        assert "The rows could not be printed on stdout (No space left" in done.stderr


def on_terminal(job: Job, *options: str, **more: str) -> str:
    """What a terminal of 80 columns gets from `pipeline show`."""
    reader, writer = pty.openpty()
    environment = job.environment(COLUMNS="80", LINES="24", TERM="xterm", **more)
    with ended(
        subprocess.Popen(
            job.command("show", *options),
            stdin=writer,
            stdout=writer,
            stderr=writer,
            env=environment,
        )
    ):
        os.close(writer)
        drawn = b""
        while True:
            try:
                more_bytes = os.read(reader, 65536)
            except OSError:
                break
            if not more_bytes:
                break
            drawn += more_bytes
    os.close(reader)
    return drawn.decode().replace("\r\n", "\n")


def test_a_terminal_gets_a_pager_colours_and_lines_of_its_width(sandbox, make_job, tmp_path):
    """The pager does not get the key. `--no-pager` and NO_COLOR do without."""
    job = make_job(sandbox.url, rows=[["long " * 60 + "\x1b[31m"]])
    job.run()
    pager = tmp_path / "pager"
    pager.write_text(f"#!/bin/sh\nenv > {tmp_path}/environment\necho PAGED\ncat\n")
    pager.chmod(0o700)
    drawn = on_terminal(job, PAGER=str(pager))
    assert drawn.startswith("PAGED\n")
    assert KEY not in (tmp_path / "environment").read_text(encoding="utf-8")
    plain = on_terminal(job, "--no-pager", NO_COLOR="1", PAGER=str(pager))
    assert "PAGED" not in plain
    assert "\x1b" not in plain
    assert max(map(len, shown_lines(plain, 200))) <= 80
    coloured = on_terminal(job, "--no-pager")
    assert "\x1b[1mrow 1 (line 2): ok\x1b[0m" in coloured
    assert re.sub(r"\x1b\[\d+m", "", coloured) == plain
    assert "\x1b[31m" not in coloured


def test_a_terminal_that_lacks_a_character_gets_a_question_mark(job):
    """A traceback would end it in the middle."""
    job.write_sheet(COLUMNS, [["S-1", "東京", ""]])
    job.run()
    done = job.shell(job.command("show"), {"PYTHONIOENCODING": "latin-1", "PYTHONUTF8": "0"})
    assert done.returncode == 0, done.stderr
    assert "story: ??" in done.stdout


def test_from_python_the_rows_come_one_at_a_time(job):
    """With types, and without reading further than the caller wants."""
    rows = pipeline.show_job(pipeline.find_job(job.spec), statuses=["ok"])
    first = next(rows)
    rows.close()
    assert isinstance(first, pipeline.ShownRow)
    assert (first.row, first.id, first.status) == (1, "S-1", "ok")
    assert first.variables == {"story": "fine"}
    assert first.attempts[0].sent_at.tzinfo is not None
    found = pipeline.find_job(job.spec)
    assert [row.row for row in pipeline.show_job(found, rows=pipeline.parse_rows("2-3"))] == [2, 3]
    assert [row.flags for row in pipeline.show_job(found, flags=["empty"])] == [("empty",)]
    with pytest.raises(Refused):
        next(pipeline.show_job(found, codes=["nope"]))
    with pytest.raises(Refused):
        next(pipeline.show_job(found, limit=-1))
    shutil.rmtree(job.results)
    with pytest.raises(StorageFailed):
        next(pipeline.show_job(found))


def test_an_answer_of_five_million_characters_needs_little_memory(sandbox, make_job):
    """Also in two versions."""
    job = make_job(sandbox.url, rows=[["#fault:result-5mb"]])
    job.run()
    job.run("--again", "1", "--yes")
    for options in ([], ["--json"], ["--versions"]):
        done = job.measured("show", *options, most_cpu_s=10)
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("x") >= 5_000_000
        assert done.peak_bytes < 400e6


@pytest.mark.long
def test_many_rows_are_shown_in_bounded_memory(start_sandbox, make_job):
    """50,000 answers of 2 KB need no more than 5,000 and the arrays of a few bytes for each
    row."""
    sandbox = start_sandbox()
    job = make_job(sandbox.url)
    peaks = []
    for rows in (5_000, 50_000):
        with job.sheet.open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([["story"], *([f"{n} {'x' * 2000}"] for n in range(rows))])
        job.run("--accept-changes")
        done = job.measured("show", "--json", "--limit", str(rows))
        assert done.stdout.count("\n") == rows + 1
        peaks.append(done.peak_bytes)
    assert peaks[1] < peaks[0] + 150e6
