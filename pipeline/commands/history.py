"""`pipeline history`: lists the runs of a job."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime
from typing import TYPE_CHECKING, Any

import click

from pipeline.commands.console import answer, finish, print_json
from pipeline.commands.help import OUTPUT, command, option
from pipeline.commands.options import JobOptions, job_options

if TYPE_CHECKING:
    from pipeline.job.job import Job
    from pipeline.status.history import PastRun

_COLUMNS = {
    "began": str.ljust,
    "took": str.rjust,
    "rows": str.rjust,
    "ok": str.rjust,
    "failed": str.rjust,
    "ambiguous": str.rjust,
    "paid": str.rjust,
    "requests": str.rjust,
    "share": str.rjust,
    "exit": str.ljust,
}


@command("List the runs: when, what they sent, what they cost.")
@job_options
@option(
    "--last",
    metavar="N",
    type=click.IntRange(1),
    group=OUTPUT,
    left_out="all",
    help="Only the last N runs.",
)
def history(last: int | None, **given: Any) -> None:
    """Lists the runs of JOB: when they began, what they cost and how they ended.

    \b
    Example:
      pipeline history jobs/stories.yaml --last 30

    ok, failed and ambiguous count the rows that the run sent; share is the part of the rate limit
    that it used. The earlier stages of the job come first. It works while a run is active.
    """
    said = JobOptions(**given)

    def work(job: Job) -> int:
        from pipeline.status.history import read_history
        from pipeline.status.stages import read_source_histories

        runs = read_history(job)[-(last or 0) :]
        earlier = [(one, found[-(last or 0) :]) for one, found in read_source_histories(job)]
        if not said.quiet:
            for stage, found in earlier:
                lines = history_lines(found, job.sandbox) if found else ["It has no run yet."]
                answer(said, f"Earlier stage {stage.name}:", *lines, "")
            answer(said, *([f"{job.name}:"] if earlier else []), *history_lines(runs, job.sandbox))
        if said.as_json:
            sources = [_json(stage, found) for stage, found in earlier]
            more = {"sources": sources} if sources else {}
            print_json({"schema_version": 1, **_json(job, runs), "exit_code": 0, **more})
        return 0

    finish(said, work)


def _json(job: Job, runs: list[PastRun]) -> dict[str, Any]:
    return {"job": job.name, "runs": [asdict(run) for run in runs]}


def history_lines(runs: list[PastRun], rehearsal: bool) -> list[str]:
    """A table of the runs with times in local time, oldest first."""
    names = ("billed" if rehearsal and name == "paid" else name for name in _COLUMNS)
    table = [tuple(names), *map(_cells, runs)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = []
    for row in table:
        placed = zip(row, widths, _COLUMNS.values(), strict=True)
        lines.append("  ".join(just(cell, width) for cell, width, just in placed).rstrip())
    return lines


def _cells(run: PastRun) -> tuple[str, ...]:
    from pipeline.core.wording import lasting

    began = datetime.fromtimestamp(run.started_at).strftime("%Y-%m-%d %H:%M:%S")
    paid = str(run.paid_max)
    if run.paid_min != run.paid_max:
        paid = f"{run.paid_min}-{run.paid_max}"
    ended = "-" if run.exit_code is None else str(run.exit_code)
    return (
        began,
        lasting(run.duration_s),
        str(run.rows),
        *(str(number) for number in (run.ok, run.failed, run.ambiguous)),
        paid,
        str(run.requests),
        "-" if run.limit_used is None else f"{run.limit_used:.0%}",
        f"{ended} {run.stopped}" if run.stopped else ended,
    )
