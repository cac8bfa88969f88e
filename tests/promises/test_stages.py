"""A job that reads another job's answers pays for each of them once. The book counts the bills."""

from __future__ import annotations

import contextlib
import fcntl
import json
import re
import sqlite3
from collections import Counter
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import openpyxl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import pipeline
from pipeline.core.errors import Refused
from pipeline.job.job import find_job
from pipeline.results.source_rows import open_source
from tests.conftest import Job, SandboxProcess

ROWS = [["A1", "cats"], ["A2", "dogs"], ["A3", "birds"], ["A4", "fish"]]
CHANGED = "a changed topic"
"""A text that meets no fault in any stage."""
COLUMNS = {"title": "$.title", "score": {"path": "$.score", "type": "number"}}


class Chain:
    """Two jobs: `first` answers with JSON that has the row's topic in it, and `second` reads it."""

    def __init__(self, sandbox: SandboxProcess, first: Job, second: Job) -> None:
        self.sandbox, self.first, self.second = sandbox, first, second

    def write_first(self, **more: Any) -> None:
        mapped = {"workflow": "wf_first", "variables": {"topic": "topic"}, "name": "outline"}
        self.first.write_spec(**mapped | {"as": "outline", "columns": COLUMNS} | more)

    def write_second(self, **more: Any) -> None:
        mapped = {"workflow": "wf_second", "variables": {"title": "title"}, "name": "article"}
        self.second.write_spec(
            **mapped | {"input": {"job": "outline.yaml"}, "as": "article"} | more
        )

    def billed(self, variable: str) -> Counter[str]:
        """How often each text of a variable was billed."""
        found: Counter[str] = Counter()
        for body, times in self.sandbox.billed().items():
            if variable in (sent := json.loads(body)):
                found[sent[variable]] += times
        return +found

    def refused(self, *options: str, code: int = 2) -> str:
        """Checks that `run` of the second job is refused and sends nothing. Returns the message."""
        before = self.sandbox.received()
        done = self.second.call("run", *options)
        assert done.returncode == code, done.stderr
        assert self.sandbox.received() == before
        return done.stderr


@pytest.fixture
def chain(sandbox: SandboxProcess, make_job: Callable[..., Job]) -> Chain:
    return chained(sandbox, make_job)


def chained(sandbox: SandboxProcess, make_job: Callable[..., Job]) -> Chain:
    sandbox.publish("wf_first", '{"title": "On {{topic}}", "score": 1.50}')
    sandbox.publish("wf_second", "An article: {{title}}")
    first = make_job(sandbox.url, ["sku", "topic"], ROWS)
    first.spec = first.folder / "outline.yaml"
    second = Job(first.folder, first.folder / "article.yaml", first.sheet, sandbox.url)
    made = Chain(sandbox, first, second)
    made.write_first()
    made.write_second()
    return made


def exported(job: Job) -> list[dict[str, Any]]:
    target = job.folder / "out.jsonl"
    done = job.call("export", "--to", str(target))
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in target.read_text(encoding="utf-8").splitlines()]


def test_each_answer_of_a_source_is_sent_once_and_both_jobs_stand_in_one_export(chain):
    """A second run of both sends nothing."""
    for _ in range(2):
        chain.first.run()
        chain.second.run()
    assert chain.billed("title") == {f"On {topic}": 1 for _, topic in ROWS}
    first, *_ = exported(chain.second)
    assert (first["sku"], first["title"], first["score"]) == ("A1", "On cats", 1.5)
    assert "On cats" in first["article"]
    assert (first["_outline_status"], first["_article_status"]) == ("ok", "ok")


def test_columns_of_earlier_stages_keep_their_types(chain):
    """In a third stage too, and without a value where a row failed."""
    chain.first.write_sheet(["sku", "topic"], [*ROWS, ["A5", "#fault:blocked"]])
    third = third_of(chain, {"story": "article"})
    done = third.call("run", "--stages", "--quiet")
    assert done.returncode == 3, done.stderr
    target = third.folder / "third.parquet"
    assert third.call("export", "--to", str(target)).returncode == 0
    table = pq.read_table(target)
    assert table.schema.field("score").type == pa.float64()
    assert table["score"].to_pylist() == [1.5, 1.5, 1.5, 1.5, None]
    assert table["_third_status"].to_pylist() == ["ok"] * 4 + ["skipped"]
    why = "article: skipped, outline: failed (request_blocked)"
    assert table["_third_error_message"].to_pylist()[4] == why


def test_an_edit_of_the_first_sheet_is_one_bill_and_its_undoing_none(chain):
    """A row whose text is the earlier one again gets its paid answer back."""
    chain.first.run()
    chain.second.run()
    chain.first.write_sheet(["sku", "topic"], [["A1", "cows"], *ROWS[1:]])
    chain.first.run()
    checked = json.loads(chain.second.call("check", "--json").stdout)
    assert (checked["stale"], checked["to_send"], checked["source"]) == (1, 1, "outline.yaml")
    assert "1 finished row is stale" in chain.second.call("check").stdout
    chain.second.run()
    assert chain.billed("title") == {"On cats": 1, "On cows": 1} | {
        f"On {topic}": 1 for _, topic in ROWS[1:]
    }
    chain.first.write_sheet(["sku", "topic"], ROWS)
    chain.first.run()
    before = chain.sandbox.billed()
    chain.second.run()
    assert chain.sandbox.billed() == before
    assert "On cats" in exported(chain.second)[0]["article"]


def test_a_row_waits_until_its_source_is_ok_and_says_why(chain):
    """Failed rows, rows that were not sent, and rows that are being asked again."""
    chain.first.write_sheet(["sku", "topic"], [*ROWS, ["A5", "#fault:blocked"]])
    chain.first.run("--limit", "3")
    chain.second.run()
    assert sum(chain.billed("title").values()) == 3
    words = [row["_article_error_message"] for row in exported(chain.second)]
    assert words == [None, None, None, "outline: not sent yet", "outline: not sent yet"]
    chain.first.run(expect=3)
    chain.second.run()
    rows = exported(chain.second)
    assert [row["_article_status"] for row in rows] == ["ok"] * 4 + ["skipped"]
    assert rows[4]["_article_error_message"] == "outline: failed (request_blocked)"


def test_a_row_whose_source_is_asked_again_keeps_its_answer_and_a_new_one_waits(chain):
    """The run that asks again stops before it gets the second answer."""
    chain.first.run("--limit", "2")
    chain.second.run()
    chain.first.run("--limit", "3")
    chain.first.write_spec(
        **{"workflow": "wf_first", "variables": {"topic": "topic"}, "name": "outline"},
        **{"as": "outline", "columns": COLUMNS, "max_paid": 3},
    )
    chain.first.run("--again", "all", "--yes", expect=4)
    chain.second.run()
    assert sum(chain.billed("title").values()) == 2
    rows = exported(chain.second)
    assert [row["_article_status"] for row in rows] == ["ok", "ok", "skipped", "skipped"]
    assert rows[2]["_article_error_message"] == "outline: being asked again"


def test_changed_columns_of_the_source_are_refused_with_the_number_of_bills(chain):
    """And with --accept-changes paid once."""
    chain.first.run()
    chain.second.run()
    chain.write_first(columns=COLUMNS | {"title": "$.score"})
    said = chain.refused()
    assert "the columns of the job that the rows come from changed (title)" in said
    assert "4 finished rows would be sent" in said
    chain.write_first()
    chain.second.run()
    assert sum(chain.billed("title").values()) == 4


def test_changed_columns_of_a_job_two_stages_earlier_are_refused_too(chain):
    """The stage in between passes the column on and sends something else."""
    chain.write_second(variables={"topic": "topic"})
    third = third_of(chain, {"x": "article", "title": "title"})
    chain.sandbox.publish("wf_second", "Always the same")
    assert third.call("run", "--stages", "--quiet").returncode == 0
    chain.write_first(columns=COLUMNS | {"title": "$.score"})
    bills = chain.sandbox.billed()
    done = third.call("run", "--stages")
    assert (done.returncode, "(title)" in done.stderr) == (2, True), done.stderr
    assert chain.sandbox.billed() == bills


def test_the_worst_case_of_all_stages_is_never_too_low(chain):
    """New rows, and an edit of a column that only a later stage sends."""
    chain.write_second(variables={"title": "title", "note": "sku"})
    for rows, most in (
        (ROWS, 8),
        (ROWS, 0),
        ([*ROWS, *([f"B{n}", f"topic {n}"] for n in range(6))], 12),
        ([["A0", "cats"], *ROWS[1:], *([f"B{n}", f"topic {n}"] for n in range(6))], 1),
    ):
        chain.first.write_sheet(["sku", "topic"], rows)
        before = sum(chain.sandbox.billed().values())
        code, _, said = stages(chain)
        assert code == 0
        [named] = re.findall(r"At most (\d+) requests? would be paid", said)
        assert sum(chain.sandbox.billed().values()) - before == most <= int(named)
        assert most or named == "0"


def test_a_stage_that_is_locked_is_skipped_or_refused_as_the_option_says(chain):
    """Nights use `skip`, and cron mails every other exit code than 0."""
    chain.first.run()
    lock = chain.first.folder / "runs" / "outline" / "lock"
    with lock.open("rb+") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        for options, code in ((["--if-locked", "skip"], 0), ([], 75)):
            assert chain.second.call("run", "--stages", *options).returncode == code
    assert not chain.billed("title")


def test_a_moved_source_leaves_the_answers_of_the_stage_readable(chain):
    """By its run folder. The message says so."""
    stages(chain)
    chain.first.spec.rename(chain.first.folder / "moved.yaml")
    said = chain.second.call("status").stderr
    assert "must name the file of the earlier job" in said
    assert "name its run folder" in said
    folder = str(chain.second.folder / "runs" / "article")
    done = chain.second.paste(f"pipeline status {folder}")
    assert (done.returncode, "article: 4 rows: 4 ok." in done.stdout) == (0, True)


def third_of(chain: Chain, variables: dict[str, str], **more: Any) -> Job:
    third = Job(
        chain.first.folder, chain.first.folder / "third.yaml", chain.first.sheet, chain.sandbox.url
    )
    third.write_spec(
        **{"name": "third", "workflow": "wf_story", "input": {"job": "article.yaml"}},
        **{"variables": variables, "as": "third"} | more,
    )
    return third


def test_a_stage_inherits_the_id_of_its_source(chain):
    """Equal answers of two rows are then two rows, wherever these stand."""
    chain.write_first(id="sku")
    chain.sandbox.publish("wf_first", '{"title": "The same"}')
    chain.first.run()
    chain.second.run()
    assert chain.billed("title") == {"The same": 4}
    chain.first.write_sheet(["sku", "topic"], [*reversed(ROWS), ["A5", "mice"]])
    chain.first.run()
    chain.second.run()
    assert chain.billed("title") == {"The same": 5}


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (lambda c: c.write_second(input={"job": "none.yaml"}), "the runner cannot read this job"),
        (lambda c: c.write_second(input={"job": "article.yaml"}), "in a circle: article.yaml"),
        (lambda c: c.write_first(input={"job": "article.yaml"}), "in a circle: article.yaml"),
        (lambda c: c.write_second(variables={"title": "titel"}), 'no column "titel"'),
        (lambda c: c.write_second(name="outline"), "the same run folder as this job"),
        (lambda c: c.write_second(encoding="cp1252"), "`encoding:` is for the files of sheets"),
        (lambda c: c.write_second(input={"jobb": "outline.yaml"}), "`input` has no key `jobb`"),
        (lambda c: c.write_second(input={"job": ""}), "`job` is empty"),
        (lambda c: c.write_second(variables=None), "`variables:` is missing"),
    ],
)
def test_a_source_that_cannot_be_read_is_refused_and_nothing_is_sent(chain, prepare, message):
    if "same run folder" not in message:
        chain.first.run()
    prepare(chain)
    if chain.first.spec.read_text().count("article.yaml"):
        chain.first.write_spec(
            **{"workflow": "wf_first", "variables": {"topic": "topic"}, "name": "outline"},
            **{"input": {"job": "article.yaml"}},
        )
    said = chain.refused()
    assert message in said, said
    assert "Nothing was sent." in said or "send" in said


def test_a_source_that_was_never_run_is_refused_with_the_command(chain):
    said = chain.refused()
    assert f"no run yet. Nothing was sent. Start it with: pipeline run {chain.first.spec}" in said


def test_a_source_that_was_altered_is_refused(chain):
    """Checksums show it."""
    chain.first.run()
    part, *_ = (chain.first.folder / "runs" / "outline" / "results").glob("*.parquet")
    part.chmod(0o600)
    part.write_bytes(part.read_bytes()[:-1] + b"x")
    assert "is not as the runner wrote it" in chain.refused(code=6)


def test_a_rehearsal_never_feeds_a_paid_job(chain):
    """Not even through the name of its folder."""
    assert chain.first.call("run", "--sandbox").returncode == 0
    chain.write_first(output="runs/outline.sandbox")
    assert "are those of a rehearsal" in chain.refused()


def test_answers_of_another_host_are_refused(chain, start_sandbox):
    chain.first.run()
    other = start_sandbox()
    done = chain.second.call("run", env={"AITUTOR_BASE_URL": other.url})
    assert done.returncode == 2
    assert "this job sends to" in done.stderr
    assert other.received() == 0


def test_a_rehearsal_reads_the_rehearsal_of_its_source(chain):
    assert chain.first.call("run", "--sandbox").returncode == 0
    done = chain.second.call("run", "--sandbox", "--json")
    assert json.loads(done.stdout)["rows"] == 4
    assert chain.sandbox.received() == 0


def test_a_rehearsal_says_that_it_reads_paid_answers(chain):
    """Only if its source has no rehearsal."""
    chain.first.run()
    words = "There is no rehearsal of outline.yaml, so this one reads its paid answers."
    bills = chain.sandbox.billed()
    assert words in chain.second.call("check", "--sandbox").stdout
    assert words in chain.second.call("run", "--sandbox").stderr
    assert chain.sandbox.billed() == bills
    assert words not in chain.second.call("check").stdout
    assert chain.first.call("run", "--sandbox").returncode == 0
    assert words not in chain.second.call("check", "--sandbox").stdout


def source_of(path: Path) -> list[tuple[int, ...]]:
    with contextlib.closing(sqlite3.connect(path)) as db:
        return db.execute("SELECT source_row, source_attempt FROM lineage").fetchall()


def test_the_ledger_notes_which_answer_each_request_was_made_from(chain):
    chain.first.run()
    chain.second.run()
    assert source_of(chain.second.folder / "runs" / "article" / "ledger.sqlite") == [
        (n, n) for n in range(1, 5)
    ]


def stages(chain: Chain, *options: str) -> tuple[int, dict[str, Any], str]:
    """Runs all stages. Returns the exit code, the JSON object and the messages."""
    done = chain.second.call("run", "--stages", "--json", "--rate", "5000", *options)
    return done.returncode, json.loads(done.stdout.splitlines()[-1]), done.stderr


def test_three_stages_with_faults_in_each_bill_every_row_once_and_a_changed_row_once_more(
    start_sandbox, make_job
):
    """One row in ten of each stage fails, and one in ten is billed without an answer. The
    faults depend on the texts, so a second night sends nothing, and a changed row of the first
    sheet is one row to send in each stage."""
    sandbox = start_sandbox(spoil={"blocked": 0.1, "html-502-billed": 0.1})
    chain = chained(sandbox, make_job)
    rows = [[f"A{n}", f"topic {n}"] for n in range(200)]
    chain.first.write_sheet(["sku", "topic"], rows)
    few = {"concurrency": 4}  # else the failures come first, and look like those of a wrong job
    chain.write_first(**few)
    chain.write_second(**few)
    third = third_of(chain, {"story": "article"}, **few)
    for _ in range(2):
        assert third.call("run", "--stages", "--quiet", "--rate", "5000").returncode == 5
        billed = chain.sandbox.billed()
        assert set(billed.values()) <= {0, 1}
    jobs = [chain.first, chain.second, third]
    counts = [json.loads(job.call("status", "--json").stdout) for job in jobs]
    assert all(one["failed"] > 3 and one["ambiguous"] > 3 for one in counts)
    assert counts[0]["ok"] > counts[1]["ok"] > counts[2]["ok"] > 60
    assert [one["pending"] for one in counts] == [0, 0, 0]
    assert sum(billed.values()) == sum(one["ok"] + one["ambiguous"] for one in counts)

    first = min(n for n, cells in enumerate(exported(third)) if cells["_third_status"] == "ok")
    rows[first][1] = CHANGED
    chain.first.write_sheet(["sku", "topic"], rows)
    for job, before in zip(jobs, counts, strict=True):
        checked = json.loads(job.call("check", "--json").stdout)
        assert (checked["to_send"], checked["stale"]) == (1, 0 if job is chain.first else 1)
        assert job.run(expect=5)["ok"] == before["ok"]
    last = sandbox.billed()
    assert sum(last.values()) == sum(billed.values()) + 3
    assert all(CHANGED in body for body in last.keys() - billed.keys())
    assert third.call("run", "--stages", "--quiet", "--rate", "5000").returncode == 5
    assert sandbox.billed() == last
    assert set(last.values()) <= {0, 1}


def test_a_night_of_all_stages_ends_in_time_and_the_same_command_continues(start_sandbox, make_job):
    """With 75, as the first of the stages' exit codes in their order. No later stage starts."""
    sandbox = start_sandbox(latency="300ms")
    chain = chained(sandbox, make_job)
    chain.write_first(deadline_s=1, rate=8)
    chain.write_second(deadline_s=1)
    chain.first.write_sheet(["sku", "topic"], [[f"A{n}", f"topic {n}"] for n in range(60)])
    ends = datetime.now().replace(microsecond=0) + timedelta(seconds=5)
    done = chain.second.call("run", "--stages", "--json", "--until", f"{ends:%H:%M:%S}")
    assert done.returncode == 75, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert [(one["job"], one["exit_code"]) for one in found["stages"]] == [("outline", 75)]
    assert max(bill["last_received_at"] for bill in sandbox.bills()) < ends.timestamp()
    assert max(bill["billed_at"] for bill in sandbox.bills()) < ends.timestamp() + 1
    assert 0 < len(sandbox.bills()) < 60
    assert chain.second.call("run", "--stages", "--quiet", "--rate", "5000").returncode == 0
    assert Counter(sandbox.billed().values()) == {1: 120}


def test_a_stage_knows_what_the_stage_before_it_sent_in_the_window(start_sandbox, make_job):
    """Both have one key, so the limit counts the requests of both. Its 15 rows fit into the limit
    of 20, but not into what the stage before has left of it, so they are not sent all at once."""
    sandbox = start_sandbox(limit=20, window="2s")
    chain = chained(sandbox, make_job)
    topics = [f"topic {n}" if n % 3 else f"#fault:blocked {n}" for n in range(45)]
    chain.first.write_sheet(["sku", "topic"], [[f"A{n}", one] for n, one in enumerate(topics)])
    chain.write_second(where={"column": "sku", "matches": "^A([1-9]|1[0-9]|2[01])$"})
    done = chain.second.call("run", "--stages", "--json")
    assert done.returncode == 3, done.stderr
    first, second = json.loads(done.stdout.splitlines()[-1])["stages"]
    assert (first["ok"], second["ok"], second["requests"]) == (30, 14, 14)
    assert second["rate_limited"] == 0


def test_all_stages_run_in_their_order_and_each_row_is_billed_once_in_each(chain):
    """A second time nothing is sent."""
    for bills in (8, 0):
        before = sum(chain.sandbox.billed().values())
        code, found, said = stages(chain)
        assert (code, found["ok"], found["job"]) == (0, 4, "article")
        assert [stage["job"] for stage in found["stages"]] == ["outline", "article"]
        assert sum(chain.sandbox.billed().values()) - before == bills
        assert "Stage 1 of 2: outline" in said
        assert (
            f"At most {bills} requests would be paid in all of them together" in said or not before
        )


def test_a_stage_starts_after_failed_rows_and_the_first_exit_code_of_all_counts(chain):
    chain.first.write_sheet(["sku", "topic"], [*ROWS, ["A5", "#fault:blocked"]])
    code, found, _ = stages(chain)
    assert (code, found["exit_code"]) == (3, 3)
    assert [stage["exit_code"] for stage in found["stages"]] == [3, 0]
    assert sum(chain.billed("title").values()) == 4


def test_no_stage_starts_after_one_that_stopped(chain):
    """Here its cap is reached."""
    chain.write_first(max_paid=2)
    code, found, _ = stages(chain)
    assert (code, [stage["stopped"] for stage in found["stages"]]) == (4, ["max_paid"])
    assert not chain.billed("title")


def test_a_later_stage_that_would_be_refused_stops_the_first_before_it_pays(chain):
    chain.first.run()
    chain.second.run()
    chain.first.write_sheet(["sku", "topic"], [*ROWS, ["A5", "mice"]])
    chain.write_first(columns=COLUMNS | {"title": "$.score"})
    assert "finished rows would be sent" in chain.refused("--stages")


@pytest.mark.parametrize(
    "option",
    [
        ["--again", "all"],
        ["--rows", "3"],
        ["--accept-changes"],
        ["--plan", "x"],
        ["--yes"],
        ["--max-paid", "3"],
        ["--input", "x.csv"],
        ["--output", "x"],
    ],
    ids=" ".join,
)
def test_options_for_one_job_are_refused_with_stages(chain, option):
    assert f"{option[0]} is for one job" in chain.refused("--stages", *option)


def test_a_rehearsal_of_all_stages_pays_nothing(chain):
    """Although no stage has a rehearsal yet, and the first one has paid answers."""
    chain.first.run("--limit", "2")
    before = chain.sandbox.received()
    done = chain.second.call("run", "--stages", "--sandbox", "--json")
    assert (done.returncode, json.loads(done.stdout)["rows"]) == (0, 4), done.stderr
    assert chain.sandbox.received() == before


def test_stages_run_from_python(chain, monkeypatch):
    import pipeline

    monkeypatch.setenv("AITUTOR_API_KEY", "sk_sandbox")
    monkeypatch.setenv("AITUTOR_BASE_URL", chain.sandbox.url)
    ends = pipeline.run_stages(chain.second.spec)
    assert [(end.job.name, end.summary.ok, end.exit_code) for end in ends] == [
        ("outline", 4, 0),
        ("article", 4, 0),
    ]


def test_status_and_report_of_the_last_job_show_all_stages(chain):
    chain.first.write_sheet(["sku", "topic"], [*ROWS, ["A5", "#fault:blocked"]])
    stages(chain)
    line = "Earlier stage outline: 5 rows: 4 ok, 1 failed. Next there: pipeline run"
    for command in ("status", "report"):
        assert line in chain.second.call(command).stdout
        found = json.loads(chain.second.call(command, "--json").stdout)
        assert [(one["job"], one["failed"]) for one in found["sources"]] == [("outline", 1)]
    page = (chain.second.folder / "runs" / "article" / "report.html").read_text(encoding="utf-8")
    assert "Earlier stage outline: 5 rows" in page


def test_history_of_the_last_job_lists_the_runs_of_all_stages(chain):
    """A stage that never ran has none."""
    chain.first.run()
    assert chain.second.call("history").returncode == 2
    chain.second.run()
    chain.first.run()
    lines = chain.second.call("history").stdout.splitlines()
    assert (lines[0], lines[4], lines[5]) == ("Earlier stage outline:", "", "article:")
    assert len(lines) == 8
    found = json.loads(chain.second.call("history", "--json", "--last", "1").stdout)
    assert [run["requests"] for run in found["runs"]] == [4]
    assert [(one["job"], len(one["runs"])) for one in found["sources"]] == [("outline", 1)]


def test_a_shown_row_of_a_stage_has_the_columns_of_the_earlier_ones(chain):
    """On the screen without the texts that were sent, which stand there as variables."""
    stages(chain)
    job = pipeline.find_job(chain.second.spec)
    [row] = pipeline.show_job(job, rows=pipeline.parse_rows("1"))
    exported = chain.second.export().iloc[0]
    assert row.earlier["outline"] == exported["outline"]
    assert row.earlier["_outline_status"] == "ok"
    assert set(row.earlier) < set(exported.index)
    text = chain.second.call("show", "--rows", "1").stdout
    earlier = text.partition("From earlier stages:")[2].partition("Sent:")[0]
    assert f"    outline: {row.earlier['outline']}" in earlier
    assert "    _outline_status: ok" in earlier
    assert "title:" not in earlier
    shown = json.loads(chain.second.call("show", "--rows", "1", "--json").stdout.splitlines()[0])
    assert shown["earlier"] == row.earlier


def test_nights_of_a_stage_run_all_stages_and_wait_for_the_disks_of_all(chain):
    """A GitHub workflow keeps only one run folder, so it is refused."""
    done = chain.second.call("schedule", "--at", "02:00")
    runs = chain.first.folder / "runs"
    assert f"RequiresMountsFor={runs}/outline {runs}/article" in done.stdout
    assert " --stages " in done.stdout
    for options in (["--as", "github"], ["--output", "elsewhere"]):
        refused = chain.second.call("schedule", "--at", "02:00", *options)
        assert (refused.returncode, "several" in refused.stderr) == (2, True)


def test_a_workbook_comes_home_with_the_columns_of_all_stages(chain):
    """It is the workbook of the first job, with everything else as it was."""
    book = openpyxl.Workbook()
    book.active.title = "Topics"
    for row in (["sku", "topic"], *ROWS):
        book.active.append(row)
    book.active["D1"] = "a note that nobody sends"
    book.create_sheet("Other")["A1"] = "kept"
    sheet = chain.first.folder / "topics.xlsx"
    book.save(sheet)
    chain.write_first(input=sheet.name, sheet="Topics")
    assert stages(chain)[0] == 0
    target = chain.second.folder / "home.xlsx"
    for _ in range(2):
        done = chain.second.call("export", "--to", str(target))
        assert done.returncode == 0, done.stderr
        home = openpyxl.load_workbook(target)
        assert home["Other"]["A1"].value == "kept"
        header, first, *_ = home["Topics"].iter_rows(values_only=True)
        row = dict(zip(header, first, strict=True))
        assert (row["sku"], row["score"], row["_article_status"]) == ("A1", 1.5, "ok")
        assert "On cats" in row["article"]
        # The copy as the next sheet: its columns are renewed, and nothing is sent.
        bills = chain.sandbox.billed()
        chain.write_first(input=target.name, sheet="Topics")
        assert stages(chain)[0] == 0
        assert chain.sandbox.billed() == bills
        target = chain.second.folder / "again.xlsx"
    names = [name for name in header if name]
    assert len(names) == len(set(names))
    assert not any("_2" in name for name in names)


def reviewed(job: Job, row: int, *options: str) -> None:
    done = job.call("review", "--rows", str(row), *options)
    assert done.returncode == 0, done.stderr


def test_an_edit_of_a_source_answer_is_one_bill_and_its_reset_none(chain, tmp_path):
    """The edited text goes to the next stage, and the ledger notes the edit."""
    chain.first.run()
    chain.second.run()
    text = tmp_path / "edit.txt"
    text.write_text("My cats", encoding="utf-8")
    reviewed(chain.first, 1, "--edit", str(text), "--column", "title")
    chain.second.run()
    assert chain.billed("title")["My cats"] == 1
    assert "My cats" in exported(chain.second)[0]["article"]
    before = chain.sandbox.billed()
    reviewed(chain.first, 1, "--reset")
    chain.second.run()
    assert chain.sandbox.billed() == before
    assert "On cats" in exported(chain.second)[0]["article"]
    with contextlib.closing(
        sqlite3.connect(chain.second.folder / "runs" / "article" / "ledger.sqlite")
    ) as db:
        assert db.execute("SELECT source_edit FROM lineage").fetchall() == [
            *[(None,)] * 4,
            ("1",),
        ]


def test_a_rejected_source_answer_sends_nothing_and_only_approved_rows_can_be_chosen(chain):
    chain.first.run()
    reviewed(chain.first, 1, "--reject")
    reviewed(chain.first, 2, "--approve")
    chain.write_second(where={"column": "_outline_review", "equals": "approved"})
    chain.second.run()
    assert chain.billed("title") == {"On dogs": 1}
    chain.write_second()
    chain.second.run()
    assert chain.billed("title") == {"On dogs": 1, "On birds": 1, "On fish": 1}
    assert exported(chain.second)[0]["_article_error_message"] == "outline: rejected"
    reviewed(chain.first, 1, "--reset")
    chain.second.run()
    assert sum(chain.billed("title").values()) == 4


def test_a_reviewed_row_of_a_stage_is_not_sent_when_its_source_changes(chain):
    chain.write_first(id="sku")
    chain.first.run()
    chain.second.run()
    reviewed(chain.second, 1, "--approve")
    chain.first.write_sheet(["sku", "topic"], [["A1", "cows"], ["A2", "wolves"], *ROWS[2:]])
    chain.first.run()
    chain.second.run()
    assert chain.billed("title")["On cows"] == 0
    assert chain.billed("title")["On wolves"] == 1
    assert "On cats" in exported(chain.second)[0]["article"]


def test_a_new_column_of_the_sheet_with_the_name_of_an_answer_is_refused(chain):
    """The name means another column then, and its cells would be paid for."""
    chain.write_second(variables={"title": "outline"})
    assert stages(chain)[0] == 0
    chain.first.write_sheet(["sku", "topic", "outline"], [[*row, "mine"] for row in ROWS])
    chain.first.run()
    assert "4 finished rows would be sent" in chain.refused()
    assert "4 finished rows would be sent" in chain.refused("--stages")


def test_a_column_that_no_stage_will_have_is_refused_before_the_first_one_pays(chain):
    chain.write_second(variables={"title": "titel"})
    assert 'no column "titel"' in chain.refused("--stages")


def test_a_new_column_of_the_sheet_can_be_sent_by_a_later_stage(chain):
    """The first stage brings it."""
    assert stages(chain)[0] == 0
    chain.first.write_sheet(["sku", "topic", "note"], [[*row, "n"] for row in ROWS])
    chain.write_second(variables={"title": "title", "note": "note"})
    chain.second.call("run", "--stages", "--accept-changes")
    done = chain.second.call("run", "--stages")
    assert (done.returncode, "4 finished rows" in done.stderr) == (2, True), done.stderr


def test_a_kill_before_the_first_run_of_a_stage_blocks_no_later_command(chain):
    """It leaves a ledger without a run."""
    folder = chain.first.folder / "runs" / "outline"
    process = chain.first.start()
    while not (folder / "ledger.sqlite").exists():
        pass
    process.kill()
    process.wait()
    assert stages(chain)[0] == 0


def test_a_source_that_gets_other_columns_while_it_is_opened_is_refused(chain):
    """Otherwise the cells of another column would be sent."""
    chain.first.run()
    table = open_source(find_job(chain.first.spec))
    assert sum(len(batch) for batch in table.batches()) == 4
    chain.first.write_sheet(["note", "sku", "topic"], [["n", *row] for row in ROWS])
    chain.first.run()
    with pytest.raises(Refused, match="other columns while they were read"):
        next(table.batches())
