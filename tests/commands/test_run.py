"""Whole runs, from the sheet to the Parquet parts, against the server's book of bills."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import time
from importlib import resources

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.conftest import KEY, ended
from tests.promises.test_signals import until
from tests.support.servers import Server

ODD = [
    "00123",
    "NA",
    "null",
    "1e5",
    "TRUE",
    "1.10",
    "2024-01-02",
    "9007199254740993123",
    "  leading spaces",
    "trailing spaces  ",
    "a 🐙 and a 👩🏽‍🚀",
    "two\u2028lines",
    "line\nbreak\r\nand another",
    'quotes " and \\ backslash \\n',
    "שלום ‏עולם",
    "tab\tand \x0b control \x7f",
    "=SUM(A1)",
    "e\u0301 is not é",
    "{{story}} $$ $&",
    "\ufeffa mark inside",
]


def stories(count: int) -> list[list[str]]:
    return [[f"a story about dog number {n}"] for n in range(count)]


def test_a_messy_public_table_goes_through_and_is_never_sent_twice(sandbox, make_job):
    """2,500 airports from a public table, with blank cells. They need more than one part."""
    path = resources.files("airportsdata") / "airports.csv"
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.reader(file)
        columns = next(reader)
        rows = [row for _, row in zip(range(2500), reader, strict=False)]
    assert any("" in row for row in rows)
    mapping = {"name": "name", "features": "city", "tone": "tz"}
    job = make_job(
        sandbox.url,
        columns,
        rows,
        workflow="wf_product",
        variables=mapping,
        id="icao",
        empty="send",
    )
    summary = job.run()
    assert summary["rows"] == 2500
    assert summary["ok"] + summary["failed"] + summary["ambiguous"] + summary["pending"] == 2500
    assert summary["ok"] == 2500
    results = pd.read_parquet(job.results).set_index("row").to_dict("index")
    book = {entry["body"]: entry for entry in sandbox.bills()}
    for number, row in enumerate(rows, start=1):
        sent = dict(zip(columns, row, strict=True))
        body = {"features": sent["city"], "name": sent["name"], "tone": sent["tz"]}
        kept = results[number]
        assert json.loads(kept["variables"]) == body
        assert kept["id"] == sent["icao"]
        assert kept["result"] == book[kept["variables"]]["result"]
    assert sum(entry["billed"] for entry in book.values()) == 2500 == summary["paid_max"]
    again = job.run()
    assert again["requests"] == 0
    assert sum(sandbox.billed().values()) == 2500


def test_text_arrives_byte_for_byte(sandbox, make_job):
    """The text of a cell is sent unchanged, and the answer is stored unchanged."""
    job = make_job(sandbox.url, rows=[[text] for text in ODD])
    job.run()
    sent = {json.loads(body)["story"] for body in sandbox.billed()}
    assert sent == set(ODD)
    results = pd.read_parquet(job.results).sort_values("row")
    assert [json.loads(text)["story"] for text in results["variables"]] == ODD
    for text, result in zip(ODD, results["result"], strict=True):
        assert text in result or "{{" in text


def test_parquet_and_tsv_are_sent_like_csv(sandbox, make_job):
    """The same texts from three kinds of file give the same bodies."""
    job = make_job(sandbox.url)
    table = pa.table({"story": ODD, "row": list(range(len(ODD)))})
    pq.write_table(table, job.folder / "sheet.parquet")
    job.write_spec(input="sheet.parquet", variables={"story": "story"})
    assert job.run()["ok"] == len(ODD)
    with (job.folder / "sheet.tsv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, delimiter="\t").writerows([["story"], *[[text] for text in ODD]])
    job.write_spec(input="sheet.tsv", variables={"story": "story"})
    assert job.run()["requests"] == 0
    assert sum(sandbox.billed().values()) == len(ODD)


def test_citations_are_exported_as_a_table(sandbox, make_job):
    """With URLs from a workflow with web search. Without one, the list is empty and never null."""
    job = make_job(
        sandbox.url, ["question"], [["why is the sky blue?"], ["who?"]], workflow="wf_research"
    )
    job.run()
    results = pd.read_parquet(job.results)
    for _, row in results.iterrows():
        assert [c["url"] for c in row["citations"]] == json.loads(row["citations_raw"])
        assert all(c["url"].startswith("https://example.") for c in row["citations"])
    plain = make_job(sandbox.url, rows=[["a dog"]], name="plain")
    plain.run("--output", str(plain.folder / "plain"))
    kept = pd.read_parquet(plain.folder / "plain" / "results")
    assert [len(c) for c in kept["citations"]] == [0]
    assert kept["citations_raw"].isna().all()


def test_a_wrong_key_stops_the_job_and_leaves_its_rows_pending(sandbox, make_job):
    """Exit 4, and nothing is billed. With the right key the same command finishes the job."""
    job = make_job(sandbox.url, rows=stories(300), concurrency=5)
    summary = job.run(expect=4, env={"AITUTOR_API_KEY": "sk_wrong"})
    assert (summary["stopped"], summary["pending"]) == ("unauthorized", 300)
    assert summary["paid_max"] == 0
    assert sandbox.statuses()["401"] <= 5
    assert job.run()["ok"] == 300


def test_an_empty_account_stops_the_job_and_a_top_up_finishes_it(start_sandbox, make_job):
    """After the last credit, at most the rows in flight are sent."""
    sandbox = start_sandbox(credits=100)
    job = make_job(sandbox.url, rows=stories(300), concurrency=5)
    summary = job.run(expect=4)
    assert summary["stopped"] == "invalid_billing"
    assert summary["ok"] == summary["paid_max"] == sum(sandbox.billed().values())
    assert 0 < summary["pending"] < 300
    assert sandbox.statuses()["402"] <= 5
    sandbox.set_credits(1_000_000)
    assert job.run()["ok"] == 300
    assert set(sandbox.billed().values()) == {1}


def test_an_unknown_workflow_stops_the_job(sandbox, make_job):
    """Exit 4. Once it is published, the same command finishes the job."""
    job = make_job(sandbox.url, rows=stories(40), workflow="wf_new", concurrency=4)
    summary = job.run(expect=4)
    assert (summary["stopped"], summary["pending"]) == ("workflow_not_found", 40)
    assert sandbox.statuses()["404"] <= 4
    sandbox.publish("wf_new", "{{story}}")
    assert job.run()["ok"] == 40


def test_each_kind_of_failure_has_its_class_and_its_code(sandbox, make_job):
    """One row each, billed at most once. failures.csv names them all."""
    faults = {
        "json-500": ("failed", "internal_server_error", "no"),
        "blocked": ("failed", "request_blocked", "no"),
        "success-false": ("failed", "run_failed", "yes"),
        "html-502": ("ambiguous", "gateway", "yes"),
        "html-504-billed": ("ambiguous", "gateway", "yes"),
        "not-json": ("ambiguous", "bad_response", "yes"),
        "no-result": ("ambiguous", "bad_response", "yes"),
    }
    rows = [[f"#fault:{name}", "note"] for name in faults] + [["#fault:json-500-once", ""]]
    job = make_job(sandbox.url, ["story", "my note"], rows, variables={"story": "story"})
    summary = job.run(expect=5)
    assert (summary["ok"], summary["failed"], summary["ambiguous"]) == (1, 3, 4)
    assert summary["by_code"]["gateway"] == 2
    failures = pd.read_csv(job.output / "failures.csv", dtype=str, keep_default_na=False)
    assert list(failures["my note"]) == ["note"] * 7
    for name, (status, code, maybe_paid) in faults.items():
        row = failures.set_index("story").loc[f"#fault:{name}"]
        assert (row["_status"], row["_error_code"], row["_maybe_paid"]) == (
            status,
            code,
            maybe_paid,
        ), name
    assert failures.set_index("story").loc["#fault:json-500", "_attempts"] == "3"
    billed = sandbox.billed()
    assert max(billed.values()) == 1
    assert summary["paid_min"] <= sum(billed.values()) <= summary["paid_max"]
    received = sandbox.received()
    assert job.run(expect=5)["requests"] == 0
    assert sandbox.received() == received


def test_a_redirect_stops_the_job_and_makes_its_row_ambiguous(sandbox, make_job):
    """A redirect does not prove a refusal: the request did arrive at a server."""
    job = make_job(sandbox.url, rows=[["#fault:redirect"]])
    summary = job.run(expect=4)
    assert (summary["stopped"], summary["ambiguous"]) == ("redirect", 1)


def test_equal_rows_are_each_sent_once(sandbox, make_job):
    """Three equal rows are three requests, and three rows of results."""
    job = make_job(sandbox.url, rows=[["twin"], ["other"], ["twin"], ["twin"]])
    assert job.run()["ok"] == 4
    assert sorted(sandbox.billed().values()) == [1, 3]
    assert sorted(pd.read_parquet(job.results)["row"]) == [1, 2, 3, 4]
    assert job.run()["requests"] == 0


def test_a_sample_counts_for_the_whole(sandbox, make_job):
    """After `--limit 5` and then all rows, the first five are paid once."""
    job = make_job(sandbox.url, rows=stories(30))
    sample = job.run("--limit", "5")
    assert (sample["ok"], sample["pending"], sample["exit_code"]) == (5, 25, 0)
    assert job.run()["requests"] == 25
    assert set(sandbox.billed().values()) == {1}


def test_only_new_and_changed_rows_are_sent_when_the_sheet_changes(sandbox, make_job):
    """Inserting, sorting and deleting rows gives no answer to another input."""
    job = make_job(sandbox.url, rows=stories(20))
    job.run()
    job.write_sheet(
        ["note", "story"], [["x", "brand new"], *[["", s] for [s] in stories(20)][::-1]]
    )
    job.write_spec(variables={"story": "story"})
    assert job.run()["requests"] == 1
    job.write_sheet(["story"], stories(10))
    summary = job.run()
    assert (summary["rows"], summary["ok"], summary["requests"]) == (10, 10, 0)
    assert len(pd.read_parquet(job.results)) == 21
    assert set(sandbox.billed().values()) == {1}


def test_a_change_that_would_pay_for_finished_rows_again_is_refused(sandbox, make_job):
    """The message has the number of rows. `--accept-changes` allows the change."""
    job = make_job(sandbox.url, rows=stories(7))
    job.run()
    job.write_spec(constants={"tone": "warm"})
    done = job.call("run")
    assert done.returncode == 2
    assert "job.yaml: the constants changed (tone), so 7 finished rows would be" in done.stderr
    assert sum(sandbox.billed().values()) == 7
    assert job.run("--accept-changes")["ok"] == 7
    assert sum(sandbox.billed().values()) == 14


def test_a_refused_change_is_shown_with_the_old_and_the_new_value(sandbox, make_job):
    """Each of several changes is shown, and nothing that did not change."""
    job = make_job(sandbox.url, rows=stories(1))
    job.run()
    job.write_spec(workflow="wf_other", variables={"plot": "story"})
    said = job.call("run").stderr
    assert "the workflow changed from wf_story to wf_other and the variables" in said
    assert "their columns changed (story, plot), so 1 finished row would be" in said


def test_a_rehearsal_in_the_folder_of_a_paid_run_is_named_as_a_rehearsal(make_job):
    """Only `--sandbox` continues it, and no address does."""
    job = make_job("http://127.0.0.1:1", rows=stories(1))
    assert job.call("run", "--sandbox").returncode == 0
    job.output.with_name(f"{job.output.name}.sandbox").rename(job.output)
    done = job.call("run")
    assert done.returncode == 2
    assert "To continue the rehearsal, add --sandbox" in done.stderr


def test_another_host_is_always_refused(start_sandbox, make_job):
    """Answers of two servers never mix in one folder."""
    first, second = start_sandbox(), start_sandbox()
    job = make_job(first.url, rows=stories(3))
    job.run("--limit", "1")
    done = job.call("run", "--accept-changes", "--base-url", second.url)
    assert done.returncode == 2
    assert "another host" in done.stderr
    assert second.received() == 0


def test_two_runs_never_work_in_one_folder(start_sandbox, make_job):
    """The second one says so at once with exit 75. When the first is killed, the folder is free."""
    sandbox = start_sandbox(latency="20s")
    job = make_job(sandbox.url, rows=stories(3))
    first = job.start()
    with ended(first):
        while not sandbox.received():
            pass
        second = job.call("run", "--json")
        assert second.returncode == 75
        assert str(first.pid) in second.stderr
        assert json.loads(second.stdout)["exit_code"] == 75
    assert sandbox.received() <= 3
    left_out = job.run("--limit", "0")
    assert (left_out["requests"], left_out["by_code"]) == (0, {"interrupted": sandbox.received()})


def test_max_paid_is_never_passed(start_sandbox, make_job):
    """Over several runs. A failed row frees its place in the budget, an ambiguous one does not."""
    sandbox = start_sandbox(latency="20ms")
    rows = stories(40)
    rows[2], rows[4], rows[6] = ["#fault:html-504-billed"], ["#fault:blocked"], ["#fault:not-json"]
    job = make_job(sandbox.url, rows=rows, concurrency=8, max_paid=10)
    for _ in range(3):
        summary = job.run(expect=4)
        assert summary["stopped"] == "max_paid"
        assert sum(sandbox.billed().values()) <= 10
    assert summary["paid_max"] == 10 == sum(sandbox.billed().values())
    job.write_spec(concurrency=8, max_paid=1000, max_paid_per_run=5)
    done = job.call("run", "--json")
    assert json.loads(done.stdout)["requests"] == 5
    assert "The run reached `max_paid_per_run`: " in done.stderr
    assert sum(sandbox.billed().values()) == 15


def test_the_run_folder_has_the_options_of_a_run(sandbox, make_job):
    """The job file may change later. Addresses of monitors may be secrets and are left out."""
    notify = {"webhook": "http://127.0.0.1:9/s3cret"}
    job = make_job(sandbox.url, rows=[["a"]], notify=notify)
    assert job.call("run", "--concurrency", "3").returncode == 0
    text = (job.output / "run.json").read_text(encoding="utf-8")
    options = json.loads(text)["options"]
    assert options["concurrency"] == 3
    assert options["deadline_s"] == 330
    assert options["input"] == str(job.sheet)
    assert "s3cret" not in text


def test_empty_cells_are_refused_skipped_or_sent(sandbox, make_job):
    """As the job file says. By default nothing is sent."""
    job = make_job(sandbox.url, rows=[["a"], [""], ["c"]])
    done = job.call("run")
    assert done.returncode == 2
    assert 'line 3, column "story"' in done.stderr
    assert sandbox.received() == 0
    job.write_spec(empty="skip")
    summary = job.run()
    assert (summary["rows"], summary["ok"], summary["skipped"]) == (3, 2, 1)
    assert list(pd.read_parquet(job.results)["row"]) == [1, 3]
    job.write_spec(empty="send")
    assert job.run()["requests"] == 1
    assert '{"story":""}' in sandbox.billed()


def test_each_column_can_have_another_choice_for_empty_cells(sandbox, make_job):
    """The others are refused, or do what "*" says. A column that is not there is refused."""
    columns, rows = ["story", "note", "price"], [["a", "", "1"], ["b", "x", ""], ["c", "", "3"]]
    job = make_job(sandbox.url, columns, rows)
    for empty, words in (
        ({"note": "send"}, ['line 3, column "price"', "1 cell"]),
        ({"notes": "send"}, ["job.yaml line", '"notes" for `empty:`', 'Did you mean "note"?']),
    ):
        job.write_spec(empty=empty)
        refused = job.call("run")
        assert refused.returncode == 2
        assert all(word in refused.stderr for word in words), refused.stderr
    assert sandbox.received() == 0
    job.write_spec(empty={"note": "send", "*": "skip"})
    summary = job.run()
    assert (summary["ok"], summary["skipped"]) == (2, 1)
    assert '{"note":"","price":"1","story":"a"}' in sandbox.billed()
    assert list(job.export()["_error_message"])[1] == 'empty cell in column "price"'


def test_429s_use_up_no_retries_and_lose_no_row(start_sandbox, make_job):
    """Far faster than the limit and with `retries=0`, every row is ok and billed once."""
    sandbox = start_sandbox(limit=20, window="1s")
    job = make_job(sandbox.url, rows=stories(100), retries=0)
    summary = job.run("--rate", "200")
    assert summary["rate_limited"] > 0
    assert summary["ok"] == 100
    assert set(sandbox.billed().values()) == {1}


def test_the_pace_is_learned_from_the_headers(start_sandbox, make_job):
    """With a limit of 20 per 1 s and no given rate: few 429s, and most of the limit is used."""
    sandbox = start_sandbox(limit=20, window="1s")
    job = make_job(sandbox.url, rows=stories(200))
    done = job.call("run", "--json")
    summary = json.loads(done.stdout.splitlines()[-1])
    assert summary["ok"] == 200
    assert summary["rate_limited"] <= 20
    assert summary["duration_s"] < 2 * 200 / 20


def test_an_embedded_sandbox_rehearses_a_job_without_a_key(make_job):
    """With any workflow id and any variables. Its folder is not the one of the paid run."""
    job = make_job(
        "http://127.0.0.1:9", ["who", "what"], [["a", "b"], ["c", "d"]], workflow="wf_mine"
    )
    env = {k: v for k, v in job.environment().items() if not k.startswith("AITUTOR")}
    done = subprocess.run(
        job.command("run", "--sandbox", "--json"),
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert not job.output.exists()
    results = pd.read_parquet(f"{job.output}.sandbox/results")
    assert "who: a" in results.sort_values("row")["result"].iloc[0]


def test_no_file_of_the_run_contains_the_key(sandbox, make_job):
    """Nor can other users read the folder."""
    job = make_job(sandbox.url, rows=stories(5))
    job.run()
    for path in job.output.rglob("*"):
        assert path.stat().st_mode & 0o077 == 0, path
        if path.is_file():
            assert KEY.encode() not in path.read_bytes(), path


def test_without_a_key_nothing_starts(make_job):
    """The message names the variable, and `--sandbox`, which needs no key."""
    job = make_job("http://127.0.0.1:9", rows=stories(1))
    done = job.call("run", env={"AITUTOR_API_KEY": ""})
    assert done.returncode == 2
    assert "AITUTOR_API_KEY" in done.stderr
    assert "--sandbox" in done.stderr


@pytest.mark.parametrize("key", ["sk with space", "sk\nX-Evil: 1", "clé"])
def test_a_key_that_could_break_the_header_is_refused_and_not_shown(make_job, key):
    """A key with a space, a line end or a non-ASCII letter. A trailing newline is only stripped."""
    job = make_job("http://127.0.0.1:9", rows=stories(1))
    done = job.call("run", env={"AITUTOR_API_KEY": key})
    assert done.returncode == 2
    assert key not in done.stderr


def test_status_reads_the_folder_during_a_run(start_sandbox, make_job):
    """It reads from another process and does not disturb the run."""
    sandbox = start_sandbox(latency="200ms")
    job = make_job(sandbox.url, rows=stories(60), concurrency=4)
    process = job.start()
    with ended(process):
        while sum(sandbox.billed().values()) < 10:
            pass
        done = job.call("status", "--json")
        seen = json.loads(done.stdout)
        assert done.returncode == 0
        assert 0 < seen["ok"] < 60
        assert (
            seen["rows"]
            == 60
            == sum(seen[s] for s in ("ok", "failed", "ambiguous", "pending", "skipped"))
        )
        assert process.wait(timeout=60) == 0
    assert json.loads(job.call("status", "--json").stdout)["ok"] == 60


def test_a_low_limit_of_open_files_is_raised_or_the_concurrency_reduced(start_sandbox, make_job):
    """With 256 descriptors and 400 requests in flight, no row is lost and none fails."""
    sandbox = start_sandbox(latency="300ms")
    job = make_job(sandbox.url, rows=stories(500), concurrency=400)
    command = " ".join(job.command("run", "--rate", "2000", "--json"))
    done = subprocess.run(
        ["bash", "-c", f"ulimit -n 256; exec {command}"],
        env=job.environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    summary = json.loads(done.stdout.splitlines()[-1])
    assert (summary["ok"], summary["by_code"]) == (500, {})
    assert os.path.exists(summary["results"])


def test_no_more_requests_are_in_flight_than_files_may_be_open(make_job):
    """The server counts them and answers none."""
    with Server() as server:
        server.holding = True
        job = make_job(server.url, rows=stories(400), concurrency=400)
        command = " ".join(job.command("run", "--rate", "2000"))
        words = ["bash", "-c", f"ulimit -n 160; exec {command}"]
        with subprocess.Popen(words, env=job.environment(), stderr=subprocess.PIPE) as process:
            with ended(process):
                until(lambda: server.in_flight >= 60, 30)
                time.sleep(1.0)  # further requests would arrive now
                assert server.most_in_flight == 60
                server.holding = False
                assert process.stderr is not None
                assert b"At most 60 requests will be in flight" in process.stderr.read()
                assert process.wait(timeout=60) == 0
        assert server.most_in_flight == 60


def test_an_answer_that_takes_most_of_the_deadline_is_ok_and_paid_once(start_sandbox, make_job):
    """290 of 330 s in the soak, scaled down here, next to a slow drip that ends at the deadline."""
    sandbox = start_sandbox(latency="3500ms")
    job = make_job(sandbox.url, rows=[["slow"], ["#fault:slow-drip"]], deadline_s=5)
    summary = job.run(expect=5)
    assert (summary["ok"], summary["by_code"]) == (1, {"timeout": 1})
    assert sorted(sandbox.billed().values()) == [1, 1]
