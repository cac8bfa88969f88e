"""`pipeline show`: shows rows for reading."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from pipeline.commands.console import (
    answer,
    choice_said,
    finish,
    is_terminal,
    page_through,
    pour,
    print_json,
)
from pipeline.commands.help import OUTPUT, command, option
from pipeline.commands.options import (
    JOB,
    OUTPUT_FOLDER,
    SANDBOX,
    JobOptions,
    choice_of,
    choice_options,
    options,
)
from pipeline.core.wording import counted

if TYPE_CHECKING:
    from pipeline.job.job import Job
    from pipeline.show.choice import Choice
    from pipeline.show.rows import Shown


@command("Show rows for reading: what was sent, the answer, every request.")
@options(JOB, OUTPUT_FOLDER, SANDBOX)
@choice_options("shows")
@option(
    "--versions",
    is_flag=True,
    group=OUTPUT,
    help="All paid answers of a row, with the words that changed.",
)
@option(
    "--json",
    "as_json",
    is_flag=True,
    group=OUTPUT,
    help="One JSON object for each row, one a line, then the summary.",
)
@option("--no-pager", is_flag=True, group=OUTPUT, help="Print on the terminal without a pager.")
@option("--quiet", is_flag=True, group=OUTPUT, help="Print only the rows.")
def show(versions: bool, no_pager: bool, **given: Any) -> None:
    """Shows rows of JOB for reading: what was sent, the answer, every request.

    \b
    Examples:
      pipeline show jobs/stories.yaml --rows 3,7-9
      pipeline show jobs/stories.yaml --flag refusal --sample 20

    Rows must fit every option; --id, --status and --flag can be repeated. Works during a run.
    """
    wanted, said = choice_of(given), JobOptions(**given)

    def work(job: Job) -> int:
        from pipeline.show.rows import showing

        choice = choice_said(wanted)
        with showing(job, choice, versions=versions) as shown:
            if said.as_json:
                _print_objects(shown, choice, versions)
            elif not shown.count:
                answer(said, _nothing_line(shown))
            elif no_pager or not (is_terminal(sys.stdin) and is_terminal(sys.stdout)):
                pour(_texts(shown, choice, said))
            else:
                _hide_secrets()
                page_through(_texts(shown, choice, said), _colour())
        return 0

    finish(said, work)


def _print_objects(shown: Shown, choice: Choice, versions: bool) -> None:
    from pipeline.ledger import queries
    from pipeline.show.as_json import row_json
    from pipeline.status.summary import as_json, summarize

    columns = shown.source.columns.columns
    if not pour(row_json(row, columns, versions=versions) + "\n" for row in shown.rows()):
        return
    counts = shown.source.read(queries.counts)
    summary = summarize(shown.job, counts, in_use=shown.source.in_use)
    seed = None if choice.sample is None else choice.seed
    print_json(as_json(summary) | {"shown": shown.count, "seed": seed})


def _texts(shown: Shown, choice: Choice, said: JobOptions) -> Iterator[str]:
    """The rows as text, each a moment before it is printed."""
    from pipeline.show.text import Page

    terminal = is_terminal(sys.stdout)
    width = shutil.get_terminal_size().columns if terminal else None
    page = Page(width, terminal and _colour(), shown.job.sandbox)
    if not said.quiet:
        yield from page.message(_first_line(shown, choice))
    for number, row in enumerate(shown.rows()):
        yield "" if said.quiet and not number else "\n"
        yield from page.printed(row)


def _colour() -> bool:
    return not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def _first_line(shown: Shown, choice: Choice) -> str:
    """Which rows these are, and of which sheet."""
    total = counted(shown.source.rows, "row")
    sampled = "" if choice.sample is None else f" chosen at random (--seed {choice.seed})"
    return (
        f"{shown.job.name}{', a rehearsal' if shown.job.sandbox else ''}: {shown.count} of {total}"
        f"{sampled}, {_as_read(shown)}."
    )


def _nothing_line(shown: Shown) -> str:
    total = counted(shown.source.rows, "row")
    return f"{shown.job.name}: no row fits these options. There are {total}, {_as_read(shown)}."


def _as_read(shown: Shown) -> str:
    """When the runner read the sheet that is shown."""
    from pipeline.ledger import queries

    last = shown.source.read(queries.last_run)
    assert last is not None  # refused before the first run
    began = datetime.fromtimestamp(last.started_at, UTC).astimezone()
    return f"as the last run read the sheet on {began:%Y-%m-%d} at {began:%H:%M:%S}"


def _hide_secrets() -> None:
    """Removes the key from the environment of the pager, which can start other programs."""
    from pipeline.job.access import SECRETS

    for name in SECRETS:
        os.environ.pop(name, None)
