"""The shown state of rows and the next command, for any state of a ledger.

The tests make random ledgers through the methods that a run calls, and ask each command about them.
"""

from __future__ import annotations

import asyncio
import contextlib
import csv
import itertools
import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import pandas as pd
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import pipeline
from pipeline.core.clock import SystemClock
from pipeline.core.model import Outcome, Reply, Row, State, Summary, Verdict
from pipeline.export import export_job
from pipeline.job.job import Job, job_of
from pipeline.ledger import queries
from pipeline.ledger.ledger import SqliteLedger, open_ledger
from pipeline.ledger.queries import Counts, Ending
from pipeline.ledger.reader import reading
from pipeline.ledger.trends import count_history
from pipeline.planning.selection import Selection
from pipeline.report.html.write import write_report
from pipeline.report.overview import report_job
from pipeline.results.sealing import Sealer
from pipeline.run.check import check_job
from pipeline.run.prepare import open_sheet, prepare
from pipeline.status.next_step import next_step, stand
from pipeline.status.summary import read_status
from pipeline.verify import verify_job

OK, FAILED, AMBIGUOUS, PENDING = State.OK, State.FAILED, State.AMBIGUOUS, State.PENDING
BLOCKED, ISE, LOST = "request_blocked", "internal_server_error", "gateway"


def counts(
    endings: dict[Ending, int], pending: int = 0, skipped: int = 0, failed: str | None = None
) -> Counts:
    rows = sum(endings.values()) + pending + skipped
    return Counts(Counter(endings), 3, 5, rows, skipped, "r", None, failed)


def failed(code: str, **more: bool) -> Ending:
    return Ending(FAILED, code, **more)


def ambiguous(code: str, **more: bool) -> Ending:
    return Ending(AMBIGUOUS, code, maybe_paid=True, **more)


STEPS = [
    # The endings, how many rows are pending, and the next command with how many rows it sends.
    ({Ending(OK): 2}, 0, None),
    ({}, 3, "run: 3"),
    ({Ending(PENDING, "rate_limited"): 2}, 1, "run: 3"),
    ({failed(ISE): 1, ambiguous(LOST): 1, failed(BLOCKED): 1}, 3, "run: 3"),
    # Failed, and sending again may help.
    ({failed(ISE): 2, failed("http_403"): 1}, 0, "resume: 3"),
    ({failed(ISE): 2, failed(BLOCKED): 1}, 0, f"resume --only {ISE}: 2"),
    ({failed(ISE): 2, ambiguous(LOST): 1}, 0, "resume: 2"),
    ({failed(ISE): 2, failed(ISE, given_up=True): 1}, 0, "resume: 2"),
    ({failed(ISE, given_up=True): 1}, 0, None),
    ({failed("new_code"): 1}, 0, "resume: 1"),
    # The rows failed alike in two runs.
    ({failed(ISE, repeated=True): 2}, 0, None),
    ({failed(ISE, repeated=True): 2, failed("new_code"): 1}, 0, "resume --only new_code: 1"),
    ({failed(ISE, repeated=True): 2, failed(ISE): 1}, 0, "resume: 3"),
    # The rows failed and may have been billed: settled, or a 200 with `success: false`.
    ({failed("run_failed", maybe_paid=True): 1}, 0, None),
    ({failed("run_failed", maybe_paid=True): 1, failed(ISE): 1}, 0, f"resume --only {ISE}: 1"),
    ({failed(LOST, maybe_paid=True): 1, ambiguous(LOST): 1}, 0, None),
    ({failed(ISE, maybe_paid=True): 1, failed(ISE): 1}, 0, None),
    # Ambiguous rows: the command sends those that it asks about, and no others.
    ({ambiguous(LOST): 2, ambiguous("interrupted"): 1}, 0, "resume --ambiguous: 3"),
    ({ambiguous(LOST): 2, failed(BLOCKED): 1}, 0, f"resume --only {LOST} --ambiguous: 2"),
    ({ambiguous(LOST, repeated=True): 2}, 0, None),
    ({ambiguous("interrupted", repeated=True): 2}, 0, "resume --ambiguous: 2"),
    (
        {ambiguous("bad_response", repeated=True): 2, ambiguous(LOST): 1},
        0,
        f"resume --only {LOST} --ambiguous: 1",
    ),
    # Only an edit helps.
    ({failed(BLOCKED): 2}, 0, f"edit the cells that were refused (2 rows with {BLOCKED}), run: 2"),
    (
        {failed(BLOCKED): 2, failed("http_413"): 1, failed("missing_input"): 1},
        0,
        f"edit the cells that were refused (3 rows with http_413, {BLOCKED}), run: 3",
    ),
    (
        {failed(BLOCKED): 1, ambiguous(LOST, repeated=True): 1},
        0,
        f"edit the cells that were refused (1 row with {BLOCKED}), run: 1",
    ),
]


@pytest.mark.parametrize(("endings", "pending", "told"), STEPS)
def test_the_next_command_is_the_first_one_that_can_help(endings, pending, told):
    """One command and how many rows it sends. None if nothing can help, or during a run."""
    found = counts(endings, pending, skipped=2)
    step = next_step(stand(found, in_use=False))
    shown = step and f"{f'{step.edit}, ' if step.edit else ''}{' '.join(step.words)}: {step.rows}"
    assert shown == told
    assert next_step(stand(found, in_use=True)) is None


ALIKE = [
    ({failed("http_403"): 10, failed(BLOCKED): 500}, "http_403", "resume --only http_403: 10"),
    ({failed("http_403", repeated=True): 10}, "http_403", "resume --only http_403: 10"),
    ({failed(ISE): 10, Ending(OK): 5}, ISE, f"resume --only {ISE}: 10"),
    ({failed("missing_input"): 10}, "missing_input", "run: 40"),
    # To find the cause, rows that may have been billed are not sent again.
    ({failed("run_failed", maybe_paid=True): 10}, "run_failed", "run: 30"),
    ({failed("http_403", given_up=True): 10}, "http_403", "run: 30"),
    ({failed("http_403"): 10}, None, "run: 30"),
]


@pytest.mark.parametrize(("endings", "alike", "told"), ALIKE)
def test_rows_that_failed_alike_until_the_run_stopped_come_first(endings, alike, told):
    """They show without cost whether the cause is gone. 30 other rows wait meanwhile."""
    step = next_step(stand(counts(endings, 30), in_use=False), alike)
    assert step is not None
    assert f"{' '.join(step.words)}: {step.rows}" == told


def test_after_an_interrupted_sample_the_next_command_keeps_its_limit():
    """A user who wanted 5 rows must not pay for 1,000. After a complete sample the rest is next."""
    found = counts({Ending(OK): 2}, 998)
    step = next_step(stand(found, in_use=False), limit=5)
    assert step is not None
    assert (step.words, step.rows) == (("run", "--limit", "5"), 5)


# -- from random ledgers ----------------------------------------------------------------------

OUTCOMES = {
    "ok": Outcome(Verdict.OK, http_status=200, maybe_paid=True),
    "refused": Outcome(Verdict.REFUSED, "rate_limited", "slow down", 429),
    "to retry": Outcome(Verdict.FAILED, ISE, "it failed", 500, retryable=True),
    "failed": Outcome(Verdict.FAILED, ISE, "it failed", 500, retryable=True),
    "blocked": Outcome(Verdict.FAILED, BLOCKED, "no", 400),
    "run failed": Outcome(Verdict.FAILED, "run_failed", "no", 200, maybe_paid=True),
    "lost": Outcome(Verdict.AMBIGUOUS, LOST, "?", 502, maybe_paid=True),
    "unreadable": Outcome(Verdict.AMBIGUOUS, "bad_response", "?", 200, maybe_paid=True),
}
STATES = {
    "ok": OK,
    "refused": PENDING,
    "to retry": PENDING,
    "lost": AMBIGUOUS,
    "unreadable": AMBIGUOUS,
}
BODY = b'{"success": true, "result": "an answer"}'
FEW = 7

fates = st.sampled_from([*OUTCOMES, "left", "left", "withdrawn", None])
runs = st.lists(st.lists(fates, min_size=FEW, max_size=FEW), min_size=1, max_size=3)
texts = st.lists(st.sampled_from(["a", "b", "c", "d", "skip"]), min_size=1, max_size=FEW)


def job_in(folder: Path, rows: list[str], dedupe: bool, skipped: str = "skip") -> Job:
    """Writes a job. `skipped`: the text of the rows that it never sends."""
    with (folder / "sheet.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([["story"], *([row] for row in rows)])
    (folder / "job.yaml").write_text(
        "name: job\nworkflow: wf_story\ninput: sheet.csv\n"
        f"where: {{column: story, matches: '^({skipped})$', not: true}}\n"
        f"dedupe: {json.dumps(dedupe)}\n"
    )
    return job_of(pipeline.load_spec(folder / "job.yaml"), sandbox=True)


class Random:
    """One job whose runs end as a test orders."""

    def __init__(self, job: Job) -> None:
        self.job = job
        job.folder.create()
        self.numbers = itertools.count(1)

    def run(self, ends: list[str | None], again: bool, finished: bool) -> None:
        """Sends each row that `run` and `resume --ambiguous` would send, with outcomes `ends`."""
        with open_ledger(self.job.folder.ledger, SystemClock(), lambda: False) as ledger:
            ledger.recover()
            sealer = Sealer(ledger, self.job.folder.results, "wf_story")
            sealer.recover()
            states = frozenset({OK} if again else {PENDING, FAILED, AMBIGUOUS})
            rows = self._begin(ledger, Selection(states, again=again))
            asyncio.run(self._send(ledger, list(zip(rows, ends, strict=False))))
            if finished:
                sealer.seal_all()
                ledger.end_run(0, None, "")

    def _begin(self, ledger: SqliteLedger, selection: Selection) -> list[Row]:
        spec, folder = self.job.to_run(), self.job.folder
        sheet = open_sheet(spec, folder)
        prepared = prepare(self.job, sheet, "sandbox", selection, ledger.read, folder.new_snapshot)
        snapshot = prepared.snapshot
        about = (snapshot.snapshot_id, snapshot.rows, snapshot.skipped)
        ledger.begin_run(
            f"run-{next(self.numbers)}",
            *about,
            snapshot_sha256=snapshot.sha256,
            pins=prepared.pins.text,
            again=prepared.again,
        )
        folder.adopt_snapshot()
        here = replace(snapshot, path=folder.snapshot)
        return list(here.selected(spec, prepared.variables, prepared.plan.send))

    async def _send(self, ledger: SqliteLedger, rows: list[tuple[Row, str | None]]) -> None:
        for row, end in rows:
            if end is None:
                continue
            attempt = await ledger.intend(row)
            if end == "withdrawn":
                await ledger.withdraw(attempt)
            elif end != "left":
                reply = Reply(0.0, 0.1, OUTCOMES[end].http_status, {}, BODY if end == "ok" else b"")
                await ledger.conclude(attempt, OUTCOMES[end], reply, STATES.get(end, FAILED))

    def settle(self, numbers: set[int]) -> None:
        with open_ledger(self.job.folder.ledger, SystemClock(), lambda: False) as ledger:
            ledger.recover()
            ledger.settle(
                ledger.read(
                    lambda db: [r for r in queries.unfinished(db) if r.sheet_row in numbers]
                )
            )


def checked(job: Job, in_use: bool) -> Summary:
    """Compares every number of every command with the others and the sheet. Returns the summary."""
    status = read_status(job)
    summary = status.summary
    states = {s: getattr(summary, s) for s in ("ok", "failed", "ambiguous", "pending", "skipped")}
    assert sum(states.values()) == summary.rows
    assert min(states.values()) >= 0
    assert status.in_use == in_use
    assert status.in_flight <= (summary.pending if in_use else 0)

    report = report_job(job)
    assert replace(report.summary, report=summary.report) == summary
    assert (report.in_use, report.in_flight) == (status.in_use, status.in_flight)
    of_state, of_code = Counter[str](), Counter[str]()
    for group in report.groups:
        of_state[group.state] += group.count
        of_code[group.code] += group.count
        assert group.state in (FAILED, AMBIGUOUS, PENDING)
        assert (group.command is None) >= in_use
    assert of_code == summary.by_code
    assert (of_state[FAILED], of_state[AMBIGUOUS]) == (summary.failed, summary.ambiguous)
    assert of_state[PENDING] + report.in_flight <= summary.pending

    failures = pd.read_csv(job.folder.failures, dtype=str, keep_default_na=False)
    assert Counter(failures["_status"]) == of_state
    assert Counter(failures["_error_code"]) == of_code
    assert verify_counts(job) == summary

    export = job.folder.path.parent / "done.parquet"
    export_job(job, export, force=True)
    exported = pd.read_parquet(export)
    shown = Counter(exported["_status"])
    earlier = shown["ok"] - summary.ok  # an unfinished version does not hide a finished one
    assert earlier >= 0
    assert shown.total() == summary.rows
    guarded = summary.skipped - shown["skipped"]  # skipped rows that may be paid are ambiguous
    assert 0 <= guarded <= shown["ambiguous"]
    open_ones = sum(shown[s] - states[s] for s in ("failed", "ambiguous", "pending"))
    assert open_ones == guarded - earlier
    codes = Counter(exported["_error_code"].dropna())
    assert codes >= of_code
    assert (codes - of_code).total() == guarded

    with reading(job.folder.ledger) as read:
        drawn = read(lambda db: count_history(db, in_use)).progress[-1:]
    for state in (OK, FAILED, AMBIGUOUS) if drawn else ():
        assert drawn[0].rows[state][-1] == states[state]

    found = check_job(job)
    assert {s: getattr(found, s) for s in states} == states
    assert found.in_use == in_use
    return summary


def verify_counts(job: Job) -> Summary | None:
    """Returns the summary of `verify`."""
    return verify_job(job).summary


@contextlib.contextmanager
def maybe_locked(job: Job, in_use: bool) -> Iterator[None]:
    with job.folder.locked() if in_use else contextlib.nullcontext():
        yield


def settle_and_check(
    rows: list[str],
    ends: list[list[str | None]],
    dedupe: bool,
    again: set[int],
    settled: dict[int, set[int]],
    hidden: set[int],
    finished: bool,
    in_use: bool,
) -> None:
    """Makes a ledger with runs that end as given, and asks every command about it."""
    rows = [*rows, "e"]  # a sheet with only skipped rows shows nothing
    with TemporaryDirectory() as folder:
        random = Random(job_in(Path(folder), rows, dedupe))
        for number, run in enumerate(ends):
            skipped = "skip|a" if number in hidden else "skip"
            random.job = job = job_in(Path(folder), rows, dedupe, skipped)
            over = finished or number < len(ends) - 1
            random.run(run, number in again, over)
            if number in settled and over:
                random.settle(settled[number])
        with maybe_locked(job, in_use):
            summary = checked(job, in_use)
        if in_use:
            assert summary.resume_command is None
        else:
            check_the_command(job, summary)


ANY = {
    "rows": texts,
    "ends": runs,
    "dedupe": st.booleans(),
    "again": st.sets(st.integers(1, 2)),
    "settled": st.dictionaries(st.integers(0, 2), st.sets(st.integers(1, FEW)), max_size=2),
    "hidden": st.sets(st.integers(0, 2)),
    "finished": st.booleans(),
    "in_use": st.booleans(),
}


def made(rows: list[str], ends: list[list[str | None]], **more: object) -> dict[str, object]:
    """One state. Everything that is not given is absent from it."""
    none = {"again": set(), "settled": {}, "hidden": set()}
    rest = {"dedupe": False, "finished": False, "in_use": False}
    return {"rows": rows, "ends": ends} | none | rest | more


OURS = settings(suppress_health_check=list(HealthCheck), database=None)


@settings(OURS, max_examples=10)
@given(**ANY)
@example(**made(["a"] * 3, [["left"] * FEW], dedupe=True))
@example(**made(["a", "b", "skip"], [["ok"] * FEW, ["left"] * FEW], again={1}, in_use=True))
@example(**made(["a", "b"], [["ok"] * FEW, ["left"] * FEW], hidden={1}, again={1}))
@example(**made(["a", "b"], [["lost"] * FEW, ["to retry", "left"]], settled={0: {1}}, in_use=True))
@example(**made(["a"], [["refused"] * FEW, ["lost"] * FEW, ["ok"] * FEW], hidden={2}))
@example(**made(["a"], [["ok", "refused"], ["blocked", "ok"], ["left", "ok"]]))
def test_every_number_of_every_command_adds_up_to_the_sheet(**state):
    """After runs that end at random: with equal rows sent once or not, skipped rows, rows of
    --again, settled or given-up rows, killed or not, and with or without an active run.
    """
    settle_and_check(**state)


@pytest.mark.long
@settings(OURS, max_examples=100)
@given(**ANY)
def test_every_number_of_every_command_adds_up_to_the_sheet_at_length(**state):
    """Other examples every time."""
    settle_and_check(**state)


def check_the_command(job: Job, summary: Summary) -> None:
    """Checks with the ledger that the command sends the right rows, and as many as it says."""
    step = summary.next_step
    assert (summary.resume_command is None) == (step is None)
    with reading(job.folder.ledger) as read:
        endings = read(queries.counts).endings
    if step is None:
        assert not summary.pending
        return
    if step.words[0] == "run":
        assert step.rows >= summary.pending > 0 or step.edit
        return
    only = step.words[step.words.index("--only") + 1].split(",") if "--only" in step.words else None
    states = {FAILED, AMBIGUOUS, State.SENDING} if "--ambiguous" in step.words else {FAILED}
    sent = {
        ending: rows
        for ending, rows in endings.items()
        if ending.state in states
        and not ending.given_up
        and (only is None or ending.code in only or ending.state is State.SENDING)
    }
    assert step.rows == sum(sent.values())
    assert not any(ending.maybe_paid for ending in sent if ending.state is FAILED)
    # A row in flight still has the code of its last attempt.
    assert BLOCKED not in {ending.code for ending in sent if ending.state is not State.SENDING}


@pytest.mark.parametrize("in_use", [False, True])
def test_the_report_page_has_the_same_numbers(in_use, tmp_path):
    """report.html of a killed job and of an active one."""
    job = job_in(tmp_path, ["a", "a", "b", "c", "d", "skip", "e"], True)
    random = Random(job)
    random.run(["lost", "blocked", "left", "to retry", None], again=False, finished=False)
    with maybe_locked(job, in_use):
        text = re.sub("<[^>]+>", " ", write_report(job).read_text(encoding="utf-8"))
        summary = checked(job, in_use)
    assert pipeline.status.summary_lines.outcome_line(summary) in text
    assert ("Next: " in text) == (not in_use)
    assert "sending" not in text
    number = summary.ambiguous
    assert (number, summary.failed) == ((2, 1) if in_use else (3, 1))
    assert f"{summary.failed} failed, {number} ambiguous at the end of" in text
