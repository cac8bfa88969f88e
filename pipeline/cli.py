"""The command line: parse, call, print, return a code. Heavy imports wait for their command."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from pipeline import __version__
from pipeline.errors import PipelineError
from pipeline.sandbox.command import sandbox as sandbox_command

if TYPE_CHECKING:
    from pipeline.model import Summary
    from pipeline.run import Control, RunOptions
    from pipeline.spec import JobSpec

F = TypeVar("F", bound=Callable[..., Any])

_SIGNALS: dict[int, int] = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 143}


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="pipeline")
def cli() -> None:
    """Runs a paid AI workflow over every row of a spreadsheet.

    Each row is sent at most once, every answer is kept, and the same command again goes on where
    the last one ended.

    \b
    Example, without a key and without paying:
      pipeline run jobs/stories.yaml --sandbox
    """


def _options(*options: Callable[[F], F]) -> Callable[[F], F]:
    def decorate(function: F) -> F:
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


_job_options = _options(
    click.argument("job", type=click.Path(path_type=Path)),
    click.option("--output", type=click.Path(path_type=Path), help="Run folder to use."),
    click.option("--sandbox", is_flag=True, help="Use a local copy of the API; no key, no cost."),
    click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON on stdout."),
)


@cli.command()
@_job_options
@click.option("--input", "input_", type=click.Path(path_type=Path), help="Sheet to read instead.")
@click.option("--limit", type=click.IntRange(0), help="Only the first N rows of the sheet.")
@click.option("--max-paid", type=click.IntRange(0), help="Most requests that may be billed.")
@click.option("--concurrency", type=click.IntRange(1), help="Most requests in flight.")
@click.option("--rate", type=click.FloatRange(0, min_open=True), help="Requests per second.")
@click.option("--base-url", help="Another address of the API.")
@click.option("--key-file", type=click.Path(path_type=Path), help="File that holds the key.")
@click.option("--drain", type=click.FloatRange(0), help="Seconds to wait for answers at a stop.")
@click.option("--accept-changes", is_flag=True, help="Pay again for rows that a change made new.")
@click.option("--quiet", is_flag=True, help="Say nothing unless something needs you.")
def run(
    job: Path,
    output: Path | None,
    sandbox: bool,
    as_json: bool,
    input_: Path | None,
    limit: int | None,
    max_paid: int | None,
    concurrency: int | None,
    rate: float | None,
    base_url: str | None,
    key_file: Path | None,
    drain: float | None,
    accept_changes: bool,
    quiet: bool,
) -> None:
    """Sends every row of JOB that is not done yet; the same command again continues.

    \b
    Example:
      pipeline run jobs/stories.yaml --limit 5
    """
    from pipeline.progress import Progress
    from pipeline.run import Control, RunOptions, load_job

    def work() -> Summary:
        overrides: dict[str, Any] = {
            "input": input_ and input_.absolute(),
            "output": output and output.absolute(),
            "max_paid": max_paid,
            "concurrency": concurrency,
            "rate": rate,
        }
        spec = replace(load_job(job), **{k: v for k, v in overrides.items() if v is not None})
        progress = Progress()
        options = RunOptions(
            base_url=base_url,
            key_file=key_file,
            sandbox=sandbox,
            limit=limit,
            drain_s=drain,
            accept_changes=accept_changes,
            listeners=() if quiet else (progress,),
            command=("pipeline", *sys.argv[1:]),
        )
        try:
            return asyncio.run(_until_signalled(spec, options, Control()))
        finally:
            progress.close()

    _finish(work, as_json=as_json, quiet=quiet)


@cli.command()
@_job_options
def status(job: Path, output: Path | None, sandbox: bool, as_json: bool) -> None:
    """Shows where JOB stands, from its run folder; works while a run goes on.

    \b
    Example:
      pipeline status jobs/stories.yaml
    """
    from pipeline.run import load_job, read_status, run_folder

    def work() -> Summary:
        spec = load_job(job)
        if output is not None:
            spec = replace(spec, output=output.absolute())
        command = ["pipeline", "run", str(job)] + (["--sandbox"] if sandbox else [])
        return read_status(run_folder(spec, sandbox), spec.name, command)

    _finish(work, as_json=as_json, quiet=False, status_only=True)


cli.add_command(sandbox_command)


async def _until_signalled(spec: JobSpec, options: RunOptions, control: Control) -> Summary:
    """Runs the job; the first signal stops it gently, the second at once."""
    from pipeline.run import run_job_async

    loop = asyncio.get_running_loop()
    seen: list[int] = []

    def on_signal(number: int) -> None:
        seen.append(number)
        if len(seen) == 1:
            control.stop("interrupted. Once more to leave at once.", _SIGNALS[number])
        else:
            control.abandon()

    for number in _SIGNALS:
        loop.add_signal_handler(number, on_signal, number)
    return await run_job_async(spec, options, control)


def _finish(
    work: Callable[[], Summary], *, as_json: bool, quiet: bool, status_only: bool = False
) -> None:
    """Runs `work`, prints its summary, and exits with its code."""
    from pipeline.summary import as_json as to_json
    from pipeline.summary import refusal_json

    try:
        summary = work()
    except PipelineError as error:
        click.echo(f"pipeline: {error}", err=True)
        if as_json:
            click.echo(json.dumps(refusal_json(error)))
        sys.exit(error.exit_code)
    if not quiet or summary.exit_code:
        click.echo(_told(summary), err=True)
    if as_json:
        click.echo(json.dumps(to_json(summary), ensure_ascii=False))
    sys.exit(0 if status_only else summary.exit_code)


def _told(summary: Summary) -> str:
    """The summary as a person reads it."""
    counts = [f"{summary.ok} ok"]
    for name in ("failed", "ambiguous", "pending", "skipped"):
        number = getattr(summary, name)
        if number:
            counts.append(f"{number} {name}")
    lines = [f"{summary.job}: {summary.rows} rows: {', '.join(counts)}."]
    paid = str(summary.paid_max)
    if summary.paid_min != summary.paid_max:
        paid = f"{summary.paid_min} to {summary.paid_max}"
    lines.append(f"Requests paid so far: {paid}.")
    for code, number in summary.by_code.items():
        lines.append(f"  {number:>6}  {code}")
    lines.append(f"Results:  {_short(summary.results)}")
    if summary.by_code:
        lines.append(f"Failures: {_short(summary.failures)}")
    if summary.resume_command:
        lines.append(f"To go on: {summary.resume_command}")
    return "\n".join(lines)


def _short(path: str) -> str:
    relative = os.path.relpath(path)
    return path if relative.startswith("..") else relative


def main() -> None:
    """The console script."""
    cli(prog_name="pipeline")


if __name__ == "__main__":
    main()
