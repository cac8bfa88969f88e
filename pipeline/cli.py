"""The command line: parse, call, print, return a code. Heavy imports wait for their command."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pipeline import __version__
from pipeline.commands.console import PATH as _PATH
from pipeline.commands.console import (
    Said,
    fill_closed_streams,
    in_plain_words,
    person_there,
    show_usage,
)
from pipeline.commands.console import answer as _answer
from pipeline.commands.console import explain as _explain
from pipeline.commands.console import finish as _finish
from pipeline.commands.console import job_options as _job_options
from pipeline.commands.console import options as _options
from pipeline.commands.console import print_json as _print_json
from pipeline.commands.console import show as _show
from pipeline.commands.console import show_run as _show_run
from pipeline.commands.console import tell as _tell
from pipeline.commands.console import words_said as _words
from pipeline.commands.history import history
from pipeline.commands.schedule import schedule
from pipeline.commands.verify import verify
from pipeline.errors import PipelineError, Refused
from pipeline.model import ENGINES
from pipeline.sandbox.command import sandbox as sandbox_command

if TYPE_CHECKING:
    from pipeline.events import Event
    from pipeline.job import Job
    from pipeline.model import Stopped, Summary
    from pipeline.plan import RowNumbers, Selection
    from pipeline.run import Control, RunOptions

_SIGNALS: dict[int, int] = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 143}
# Objects made and not yet freed before Python looks for cycles among the young ones.
_COLLECT_AT = 100_000


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="pipeline")
def cli() -> None:
    """Runs a paid AI workflow over every row of a spreadsheet.

    Each row is sent at most once, every answer is kept, and the same command again goes on where
    the last one ended. JOB is a job spec, or the run folder that one was run into.

    What status, report, check, history and verify find is on stdout; messages are on stderr.

    \b
    Example, without a key and without paying:
      pipeline run jobs/stories.yaml --sandbox
    """


_OF_SPEC = "the spec's"
_RATE = click.option(
    "--rate",
    metavar="N",
    type=click.FloatRange(0, min_open=True),
    show_default=f"{_OF_SPEC}, else what is learned",
    help="Requests per second.",
)
_sheet_options = _options(
    click.option("--input", type=_PATH, show_default=_OF_SPEC, help="Sheet to read."),
    click.option(
        "--limit", metavar="N", type=click.IntRange(0), help="Only the first N rows of the sheet."
    ),
    click.option(
        "--max-paid",
        metavar="N",
        show_default=_OF_SPEC,
        type=click.IntRange(0),
        help="Most requests that may be billed.",
    ),
    click.option(
        "--base-url",
        metavar="URL",
        show_default="AITUTOR_BASE_URL, else the platform",
        help="Another address of the API.",
    ),
    click.option(
        "--accept-changes", is_flag=True, help="Pay again for rows that a change made new."
    ),
)
_send_options = _options(
    _sheet_options,
    click.option(
        "--concurrency",
        metavar="N",
        show_default=_OF_SPEC,
        type=click.IntRange(1),
        help="Most requests in flight.",
    ),
    _RATE,
    click.option(
        "--key-file", type=_PATH, show_default="AITUTOR_API_KEY", help="File that holds the key."
    ),
    click.option(
        "--engine",
        type=click.Choice(ENGINES),
        show_default=_OF_SPEC,
        help="Where requests are sent from.",
    ),
    click.option(
        "--ray-address",
        metavar="ADDRESS",
        show_default=_OF_SPEC,
        help="Ray cluster to send from: auto, or its address.",
    ),
    click.option(
        "--workers",
        metavar="N",
        show_default=_OF_SPEC,
        type=click.IntRange(1),
        help="Processes of the Ray cluster to use.",
    ),
    click.option("--yes", is_flag=True, help="Agree beforehand to what may be paid twice."),
    click.option(
        "--if-locked",
        type=click.Choice(["fail", "skip", "wait"]),
        default="fail",
        show_default=True,
        help="When another run works in the folder.",
    ),
    click.option(
        "--until",
        metavar="HH:MM",
        help="Send nothing after this time of day, nor what would be answered later.",
    ),
    click.option(
        "--drain",
        show_default="the spec's deadline_s",
        metavar="SECONDS",
        type=click.FloatRange(0),
        help="How long to wait for answers at a stop.",
    ),
    click.option(
        "--fail-on",
        type=click.Choice(["any", "new", "none"]),
        default="any",
        show_default=True,
        help="Rows that raise the exit code, of those that the command is about: any, those of "
        "this run, or none.",
    ),
)


@cli.command()
@_job_options
@_send_options
@click.option("--again", metavar="ROWS", help="Ask anew for ok rows: all, or like 3,7-9.")
def run(again: str | None, limit: int | None, **said: Any) -> None:
    """Sends every row of JOB that is not done yet; the same command again continues.

    \b
    Examples:
      pipeline run jobs/stories.yaml --limit 5
      pipeline run jobs/stories.yaml --again 3,7-9
    """

    def selection() -> Selection:
        from pipeline.plan import Selection, parse_rows, select_again

        if again is None:
            return Selection(limit=limit)
        return select_again(None if again == "all" else parse_rows(again), limit)

    _send(selection, said)


@cli.command()
@_job_options
@_send_options
@click.option("--only", metavar="CODES", help="Only rows with these error codes.")
@click.option("--except", "except_", metavar="CODES", help="No rows with these error codes.")
@click.option("--rows", metavar="ROWS", help="Only these rows, like 3,7-9.")
@click.option("--ambiguous", is_flag=True, help="Also rows that may have been paid already.")
def resume(
    only: str | None,
    except_: str | None,
    rows: str | None,
    ambiguous: bool,
    limit: int | None,
    **said: Any,
) -> None:
    """Sends the failed rows of JOB again, and those that are not done yet.

    Ambiguous rows may have been paid: they are sent only with --ambiguous.

    \b
    Examples:
      pipeline resume jobs/stories.yaml
      pipeline resume jobs/stories.yaml --only gateway --ambiguous
    """

    def selection() -> Selection:
        from pipeline.plan import select_resume

        return select_resume(
            only=_codes(only),
            excluded=_codes(except_),
            rows=_rows(rows),
            ambiguous=ambiguous,
            limit=limit,
        )

    _send(selection, said)


@cli.command()
@click.argument("sheet", type=_PATH)
@click.option("--workflow", metavar="ID", help="The workflow's id on your platform.")
@click.option("--to", type=_PATH, help="The spec to write.  [default: jobs/NAME.yaml]")
@click.option("--encoding", metavar="NAME", help="Encoding of a text file that is not UTF-8.")
@click.option("--sheet", "worksheet", metavar="NAME", help="The sheet of a workbook.")
@click.option(
    "--header-row",
    metavar="N",
    type=click.IntRange(1),
    help="The row of a workbook's column names.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout.")
def init(
    sheet: Path,
    workflow: str | None,
    to: Path | None,
    encoding: str | None,
    worksheet: str | None,
    header_row: int | None,
    as_json: bool,
) -> None:
    """Writes a job spec for SHEET, with every column in it. Sends nothing.

    \b
    Example:
      pipeline init data/products.csv --workflow wf_abc123
    """
    from pipeline.init import init_job
    from pipeline.report.written import written_lines

    try:
        if workflow is None:
            if not person_there():
                raise Refused("Name the workflow by --workflow ID. Nothing was written.")
            workflow = click.prompt("Workflow id (such as wf_abc123)", err=True)
        written = init_job(
            sheet,
            workflow,
            to,
            encoding=encoding,
            worksheet=worksheet,
            header_row=header_row,
        )
    except PipelineError as error:
        _explain(error, None, {"as_json": as_json, "quiet": False}, error.exit_code)
        if any(f"`{key}:`" in str(error) for key in ("sheet", "header_row", "encoding")):
            _tell("There is no spec yet: say it by --sheet, --header-row or --encoding.")
        sys.exit(error.exit_code)
    _tell(*written_lines(written))
    if as_json:
        _print_json(asdict(written) | {"path": str(written.path), "exit_code": 0})


@cli.command()
@_job_options
@_sheet_options
@_RATE
@click.option("--key-file", type=_PATH, help="File that holds the key whose pace was learned.")
def check(**said: Any) -> None:
    """Shows what `run` would send for JOB: texts, equal rows, cost and time. Sends nothing and
    changes nothing.

    \b
    Example:
      pipeline check jobs/stories.yaml
    """

    def work(job: Job) -> int:
        from pipeline.check import check_job
        from pipeline.plan import Selection
        from pipeline.report.checked import check_lines

        checked = check_job(
            job,
            base_url=said["base_url"],
            key_file=said["key_file"],
            selection=Selection(limit=said["limit"]),
            accept_changes=said["accept_changes"],
        )
        code = 0 if checked.refusal is None else Refused.exit_code
        if not said["quiet"] or code:
            more = _words(said, ("accept_changes", "rate", "key_file"))
            _answer(said, *check_lines(checked, job.command("run", *more)))
        if said["as_json"]:
            _print_json(asdict(checked) | {"exit_code": code})
        return code

    _finish(said, work)


@cli.command()
@_job_options
@click.option(
    "--watch",
    "every_s",
    is_flag=False,
    flag_value=2.0,
    type=click.FloatRange(0.1),
    metavar="[SECONDS]",
    help="Look again every 2 s, or as often as said, until no run goes on.",
)
def status(every_s: float | None, **said: Any) -> None:
    """Shows where JOB stands, from its run folder; works while a run goes on.

    \b
    Examples:
      pipeline status jobs/stories.yaml
      pipeline status jobs/stories.yaml --watch
    """

    def work(job: Job) -> int:
        from pipeline.commands.watch import watch
        from pipeline.report.terminal import last_run_line
        from pipeline.summary import as_json, read_status

        found = read_status(job) if every_s is None else watch(job, every_s)
        _show(job, found.summary, said)
        if not said["quiet"]:
            _answer(said, last_run_line(found.last_run, found.in_use, found.in_flight))
        if said["as_json"]:
            more = asdict(found)
            del more["summary"]
            _print_json(as_json(found.summary) | more)
        return 0

    _finish(said, work)


@cli.command()
@_job_options
@click.option("--open", "open_", is_flag=True, help="Open report.html in a browser.")
def report(open_: bool, **said: Any) -> None:
    """Shows what failed in JOB by error code, with advice and the command that sends it again, and
    which answers look wrong.

    Writes the same, with pictures and sample answers, into report.html in the run folder: one file
    that loads nothing and can be forwarded.

    \b
    Examples:
      pipeline report jobs/stories.yaml
      pipeline report jobs/stories.yaml --open
    """

    def work(job: Job) -> int:
        from pipeline.report.groups import as_json as groups_json
        from pipeline.report.html import write_report
        from pipeline.report.overview import report_job
        from pipeline.report.terminal import (
            all_well_line,
            group_lines,
            marked_lines,
            shown_path,
        )
        from pipeline.summary import as_json

        found = report_job(job)
        # Before the page is drawn: that takes a while, and parts of the results may be damaged.
        _show(job, found.summary, said)
        if not said["quiet"]:
            _answer(said, *(group_lines(found.groups) or [all_well_line(found.summary)]))
            _answer(said, *marked_lines(found.marked, found.unread))
        path = write_report(job, found)
        if not said["quiet"]:
            _answer(said, "", f"To read and forward: {shown_path(str(path))}")
        if said["as_json"]:
            summary = as_json(replace(found.summary, report=str(path)))
            marked = [asdict(mark) for mark in found.marked]
            groups = groups_json(found.groups)
            counts = {"in_use": found.in_use, "in_flight": found.in_flight}
            _print_json(summary | counts | {"groups": groups, "marked": marked})
        if open_:
            _open(path)
        return 0

    _finish(said, work)


@cli.command()
@_job_options
@click.option("--to", "target", type=_PATH, help="A .csv, .xlsx, .parquet or .jsonl file.")
@click.option("--citations", type=_PATH, help="Another such file: one row for each citation.")
@click.option("--flags", is_flag=True, help="Add _flags: what makes an answer look wrong.")
@click.option("--no-excel-guard", is_flag=True, help="Leave texts that look like formulas alone.")
@click.option("--force", is_flag=True, help="Replace a file that is no earlier export.")
def export(
    target: Path | None,
    citations: Path | None,
    flags: bool,
    no_excel_guard: bool,
    force: bool,
    **said: Any,
) -> None:
    """Writes JOB's sheet with every answer beside its row. If the sheet is a workbook, an .xlsx is
    a copy of it.

    \b
    Examples:
      pipeline export jobs/stories.yaml --to stories-done.csv
      pipeline export jobs/stories.yaml --to stories-done.xlsx --citations sources.csv
    """

    def work(job: Job) -> int:
        from pipeline.export import Export, export_citations, export_job
        from pipeline.report.terminal import export_lines
        from pipeline.summary import as_json, read_status

        if target is not None and citations is not None and _same(target, citations):
            raise Refused(f"{target}: named by --to and --citations. Nothing was written.")
        written: dict[str, Export] = {}
        guard = not no_excel_guard
        if target is not None:
            written["exported"] = export_job(
                job, target, excel_guard=guard, flags=flags, force=force
            )
        if citations is not None:
            written["citations"] = export_citations(job, citations, excel_guard=guard, force=force)
        if not written:
            raise Refused("Say with --to or --citations which file to write. Nothing was written.")
        summary = read_status(job).summary
        if not said["quiet"]:
            for done in written.values():
                _tell(*export_lines(**asdict(done)))
        if said["as_json"]:
            paths = {what: str(done.path) for what, done in written.items()}
            _print_json(as_json(summary) | paths)
        return 0

    _finish(said, work)


@cli.command()
@_job_options
@click.option("--only", metavar="CODES", help="Only rows with these error codes.")
@click.option("--rows", metavar="ROWS", help="Only these rows, like 3,7-9.")
def settle(only: str | None, rows: str | None, **said: Any) -> None:
    """Decides about rows of JOB without sending them: ambiguous ones are taken as failed, and
    failed ones that --only or --rows names are given up.

    \b
    Example:
      pipeline settle jobs/stories.yaml --only timeout
    """

    def work(job: Job) -> int:
        from pipeline.report.terminal import settled_lines
        from pipeline.settle import settle_job
        from pipeline.summary import read_status

        decided = settle_job(job, only=_codes(only), rows=_rows(rows))
        summary = read_status(job).summary
        if not said["quiet"]:
            _tell(*settled_lines(decided, summary.by_code))
        _show_run(job, summary, said)
        return 0

    _finish(said, work)


cli.add_command(history)
cli.add_command(schedule)
cli.add_command(verify)
cli.add_command(sandbox_command)


def _send(selection: Callable[[], Selection], said: Said) -> None:
    """`run` and `resume`: one after the other they differ only in the rows that they send."""

    def work(job: Job) -> int:
        from pipeline.commands.cluster import own_words_only
        from pipeline.consent import Consent
        from pipeline.events import Stopping
        from pipeline.progress import Progress, why
        from pipeline.run import Control, RunOptions
        from pipeline.summary import FailOn, needs_person
        from pipeline.until import find_until

        # All that lives now lives until the end. Python would otherwise look through it, and
        # through every request in flight, at each 700 new objects: a sixth of a run's CPU time.
        gc.freeze()
        gc.set_threshold(_COLLECT_AT)
        # Nobody set up logging: Python would print what the exporters log into the progress bar,
        # with the collector's whole address.
        logging.getLogger("opentelemetry").addHandler(logging.NullHandler())
        progress = Progress()
        stops: list[Stopped] = []

        def note_stop(event: Event) -> None:
            if isinstance(event, Stopping):
                stops.append(event.stopped)

        until = None if said["until"] is None else find_until(said["until"], time.time())
        if until is not None and not said["quiet"]:  # a time that has passed is tomorrow's
            _tell(f"Nothing is sent after {datetime.fromtimestamp(until):%Y-%m-%d %H:%M:%S}.")
        options = RunOptions(
            base_url=said["base_url"],
            key_file=said["key_file"],
            selection=selection(),
            drain_s=said["drain"],
            if_locked=said["if_locked"],
            until=until,
            fail_on=FailOn(said["fail_on"]),
            consent=Consent(
                said["accept_changes"],
                said["yes"],
                _confirm if person_there() else None,
            ),
            listeners=(note_stop,) if said["quiet"] else (progress,),
        )
        try:
            with own_words_only(job.spec):
                summary = asyncio.run(_until_signalled(job, options, Control()))
        finally:
            progress.close()
        with contextlib.suppress(KeyboardInterrupt):  # all is saved: only the words are cut short
            if needs_person(summary):
                _tell(*(f"Stopped: {why(stopped)}" for stopped in stops))
            _show_run(job, summary, said)
        return summary.exit_code

    _finish(said, work)


async def _until_signalled(job: Job, options: RunOptions, control: Control) -> Summary:
    """Runs the job; the first signal stops it gently, the second at once."""
    from pipeline.run import run_job_async

    loop = asyncio.get_running_loop()
    seen: list[int] = []

    def on_signal(number: int) -> None:
        seen.append(number)
        if len(seen) == 1:
            control.stop(f"Interrupted by {_name(number)}.", _SIGNALS[number])
        else:
            control.abandon()

    for number in _SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:  # as `nohup` wants it
            loop.add_signal_handler(number, on_signal, number)
    return await run_job_async(job, options, control=control)


def _name(number: int) -> str:
    return "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name


def _confirm(question: str) -> bool:
    """Asks on the terminal. The event loop, whose handler Ctrl-C has, stands still meanwhile."""
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        return click.confirm(f"{question}\nSend them?", err=True)
    finally:
        signal.signal(signal.SIGINT, handler)


def _same(one: Path, other: Path) -> bool:
    return one.resolve() == other.resolve()


def _codes(text: str | None) -> frozenset[str] | None:
    return None if text is None else frozenset(code.strip() for code in text.split(","))


def _rows(text: str | None) -> RowNumbers | None:
    from pipeline.plan import parse_rows

    return None if text is None else parse_rows(text)


def _open(path: Path) -> None:
    import webbrowser

    if not webbrowser.open(path.absolute().as_uri()):
        _tell(f"No browser could be started here. Open {path} yourself.")


def _elsewhere(error: click.ClickException) -> list[str]:
    """A hint for an option that stands behind the wrong command."""
    option = error.option_name if isinstance(error, click.NoSuchOption) else ""
    having = [
        name
        for name, command in cli.commands.items()
        if any(option in parameter.opts for parameter in command.params)
    ]
    return [f"{option} is an option of: {', '.join(having)}."] if having else []


def main() -> None:
    """The console script."""
    fill_closed_streams()
    # Arrow's own allocator keeps 60 MB that it does not use; it is chosen when pyarrow is imported.
    os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")
    try:
        sys.exit(cli(prog_name="pipeline", standalone_mode=False) or 0)
    except click.ClickException as error:
        show_usage(error, _elsewhere(error))
        if "--json" in sys.argv:
            from pipeline.summary import as_json, summarize_error

            refused = Refused(in_plain_words(error))
            _print_json(as_json(summarize_error(None, refused)) | {"error": str(refused)})
        sys.exit(error.exit_code)
    except click.Abort:
        click.echo("pipeline: nothing was sent.", err=True)
        sys.exit(130)


if __name__ == "__main__":
    main()
