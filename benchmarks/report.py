"""Measures seconds, memory and size of `pipeline report` for run folders of many rows.

The runner's own ledger, sealer and log make the folders, with a scripted clock: several nights of
work at 50 requests a second, where one row in 500 is refused first. In one folder one row in 50 is
not ok, in the other every second one (--not-ok). Nothing is sent.

    python benchmarks/report.py [--rows 1000000] [--not-ok 50 2] [--folder DIR]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

from pipeline.core.events import PaceEnded, RunStarted
from pipeline.core.model import ErrorCode, Outcome, Reply, Row, State, Verdict
from pipeline.job.job import Job, find_job
from pipeline.ledger.ledger import SqliteLedger, open_ledger
from pipeline.ledger.queries import counts
from pipeline.planning.prepared import Prepared
from pipeline.planning.selection import Selection
from pipeline.results.failures_csv import rewrite_failures
from pipeline.results.sealing import Sealer
from pipeline.run.prepare import open_sheet, prepare
from pipeline.status.event_log import EventLog
from pipeline.status.summary import as_json, summarize
from pipeline.system.files import write_json

NIGHT_ROWS = 400_000
AT_ONCE = 2000
Ended = tuple[Outcome, State]
PER_S = 50.0
FIRST_NIGHT = 1_790_000_000.0
CODES = (
    (Outcome(Verdict.FAILED, "request_blocked", "Request blocked", 400), State.FAILED),
    (Outcome(Verdict.FAILED, "internal_server_error", "Failed", 500), State.FAILED),
    (Outcome(Verdict.AMBIGUOUS, "gateway", "<html>504</html>", 504, True), State.AMBIGUOUS),
    (Outcome(Verdict.AMBIGUOUS, "timeout", "no answer", None, True), State.AMBIGUOUS),
)
REFUSED = Outcome(Verdict.REFUSED, ErrorCode.RATE_LIMITED, "Rate limit exceeded", 429)
OK = Outcome(Verdict.OK, None, "", 200, True)


@dataclass
class ScriptedClock:
    """A clock that advances by `step_s` at each reading."""

    now: float
    step_s: float = 0.0

    def wall(self) -> float:
        self.now += self.step_s
        return self.now

    def monotonic(self) -> float:
        return self.now


def answer(row: int, chance: random.Random) -> bytes:
    """Returns an answer of about 1 KB with up to four citations."""
    sites = [f"https://site{chance.randrange(400)}.example/page/{row}" for _ in range(row % 5)]
    citations = [{"title": f"Source {n}", "url": url} for n, url in enumerate(sites)]
    text = "Once upon a time. " * (20 + row % 60)
    return json.dumps({"success": True, "result": text, "citations": citations}).encode()


def make_job(folder: Path, rows: int) -> Job:
    """Writes a job with a sheet of `rows` rows."""
    with (folder / "sheet.csv").open("w", encoding="utf-8") as file:
        file.write("story\n")
        file.writelines(f"a story about dog number {n}\n" for n in range(rows))
    spec = folder / "job.yaml"
    spec.write_text("name: nights\nworkflow: wf_story\ninput: sheet.csv\n", encoding="utf-8")
    return find_job(spec)


def fill(job: Job, rows: int, not_ok: int) -> None:
    """Writes the ledger and files of all nights, as if every row had been sent."""
    spec, folder = job.to_run(), job.folder
    folder.create()
    clock = ScriptedClock(FIRST_NIGHT)
    with open_ledger(folder.ledger, clock) as ledger, EventLog(folder.log, clock) as log:
        Sealer(ledger, folder.results, spec.workflow).recover()
        for first in range(0, rows, NIGHT_ROWS):
            sheet = open_sheet(spec, folder)
            night = Selection(limit=first + NIGHT_ROWS)
            prepared = prepare(job, sheet, "example.com", night, ledger.read, folder.new_snapshot)
            clock.now = FIRST_NIGHT + first // NIGHT_ROWS * 86_400
            asyncio.run(one_night(job, ledger, log, clock, prepared, not_ok))


async def one_night(
    job: Job,
    ledger: SqliteLedger,
    log: EventLog,
    clock: ScriptedClock,
    prepared: Prepared,
    not_ok: int,
) -> None:
    """Writes one run, from its beginning to its summary."""
    folder, snapshot = job.folder, prepared.snapshot
    run_id = f"night-{clock.now:.0f}"
    ledger.begin_run(
        run_id,
        snapshot.snapshot_id,
        snapshot.rows,
        0,
        snapshot_sha256=snapshot.sha256,
        pins=prepared.pins.text,
    )
    folder.adopt_snapshot()
    write_json(folder.run, {"job": job.name, "spec": str(job.to_run().source), "host": "example"})
    log(RunStarted(run_id, snapshot.rows, prepared.plan.to_send, prepared.plan.kept))
    chance = random.Random(run_id)
    sealer = Sealer(ledger, folder.results, job.to_run().workflow)
    stored = replace(snapshot, path=folder.snapshot)
    chosen = stored.selected(job.to_run(), prepared.variables, prepared.plan.send)

    def outcome_of(row: Row) -> Ended:
        return chance.choice(CODES) if row.number % not_ok == 0 else (OK, State.OK)

    while batch := list(islice(chosen, AT_ONCE)):
        turned_away = [row for row in batch if row.number % 500 == 0]
        await send(ledger, clock, turned_away, chance, lambda _: (REFUSED, State.PENDING))
        await send(ledger, clock, batch, chance, outcome_of)
        sealer.seal_all()
    requests = prepared.plan.to_send
    log(PaceEnded(50, 1.0, 0.98, requests, requests // 500))
    rewrite_failures(folder, ledger.read)
    summary = summarize(job, ledger.read(counts), run_id=run_id)
    ledger.end_run(summary.exit_code, None, write_json(folder.summary, as_json(summary)))


async def send(
    ledger: SqliteLedger,
    clock: ScriptedClock,
    rows: list[Row],
    chance: random.Random,
    outcome_of: Callable[[Row], Ended],
) -> None:
    """Writes intents and outcomes of some rows, in two commits."""
    attempts = await asyncio.gather(*(ledger.intend(row) for row in rows))
    concluding = []
    for attempt in attempts:
        latency_s = chance.lognormvariate(3.0, 0.6)
        outcome, state = outcome_of(attempt.row)
        body = answer(attempt.row.number, chance) if outcome is OK else b""
        reply = Reply(0.0, latency_s, outcome.http_status, {}, body)
        concluding.append(ledger.conclude(attempt, outcome, reply, state))
    clock.step_s = 1 / PER_S
    await asyncio.gather(*concluding)
    clock.step_s = 0.0


def measured(command: list[str]) -> tuple[float, float, float]:
    """Runs a command. Returns (seconds, CPU seconds with its children, peak memory in MiB)."""
    begun = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"{command} ended with exit code {process.returncode}")
    return time.monotonic() - begun, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def folders(given: Path | None) -> Iterator[Path]:
    if given is not None:
        given.mkdir(parents=True, exist_ok=True)
        yield given
        return
    with tempfile.TemporaryDirectory() as made:
        yield Path(made)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--not-ok",
        type=int,
        nargs="+",
        default=[50, 2],
        help="One row in this many is not ok; one folder for each.",
    )
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument(
        "--folder", type=Path, help="Write the run folders here, or use the existing ones."
    )
    options = parser.parse_args()
    for folder in folders(options.folder):
        for not_ok in options.not_ok:
            measure(folder / f"one-in-{not_ok}", options.rows, not_ok)


def measure(folder: Path, rows: int, not_ok: int) -> None:
    """Prints the figures for the report of one folder, which is made if it does not exist."""
    if not (folder / "job.yaml").exists():
        folder.mkdir(exist_ok=True)
        # In a spawned process: a child's memory counts from that of its parent.
        filling = multiprocessing.get_context("spawn").Process(
            target=fill_new, args=(folder, rows, not_ok)
        )
        filling.start()
        filling.join()
        if filling.exitcode:
            sys.exit("The run folder could not be made.")
    job = find_job(folder / "job.yaml")
    command = [sys.executable, "-m", "pipeline", "report", str(folder / "job.yaml")]
    seconds, cpu_s, mib = measured(command)
    size = job.folder.report.stat().st_size / 1024
    print(
        f"{rows:,} rows, one in {not_ok} not ok: {seconds:.1f} s, {cpu_s:.1f} s of CPU, "
        f"{mib:.0f} MiB, {size:.0f} KiB",
        flush=True,
    )


def fill_new(folder: Path, rows: int, not_ok: int) -> None:
    fill(make_job(folder, rows), rows, not_ok)


if __name__ == "__main__":
    main()
