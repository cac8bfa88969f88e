"""The command line: its commands and its exit. A command imports heavy modules when it runs."""

from __future__ import annotations

import gc
import os
import sys

import click

from pipeline import __version__
from pipeline.commands.check import check
from pipeline.commands.completion import completion
from pipeline.commands.console import (
    fill_closed_streams,
    in_plain_words,
    pour,
    print_json,
    show_usage,
)
from pipeline.commands.export import export
from pipeline.commands.help import LIMITS, WHERE, OrderedGroup, regrouped
from pipeline.commands.history import history
from pipeline.commands.init import init
from pipeline.commands.mcp import mcp
from pipeline.commands.overview import overview_lines
from pipeline.commands.report import report
from pipeline.commands.review import review
from pipeline.commands.schedule import schedule
from pipeline.commands.schema import schema
from pipeline.commands.send import resume, run
from pipeline.commands.settle import settle
from pipeline.commands.show import show
from pipeline.commands.status import status
from pipeline.commands.ui import ui
from pipeline.commands.verify import verify
from pipeline.core.errors import Refused
from pipeline.core.wording import printable
from pipeline.sandbox.command import sandbox

# In the order in which a user needs them; `pipeline --help` lists them so.
_COMMANDS = {
    "init": init,
    "check": check,
    "run": run,
    "status": status,
    "report": report,
    "show": show,
    "review": review,
    "resume": resume,
    "settle": settle,
    "export": export,
    "history": history,
    "verify": verify,
    "schedule": schedule,
    "ui": ui,
    "mcp": mcp,
    "schema": schema,
    "completion": completion,
    "sandbox": regrouped(
        sandbox,
        "Serve a local copy of the API to rehearse with.",
        {
            "What it answers": (
                "workflows",
                "missing",
                "model_url",
                "model",
                "latency",
                "max_duration",
                "spoil",
                "faults",
            ),
            LIMITS: ("limit", "window", "limiter", "headers", "credits"),
            WHERE: ("port", "idle", "book"),
        },
    ),
}


@click.group(
    cls=OrderedGroup,
    commands=_COMMANDS,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    invoke_without_command=True,
)
@click.version_option(__version__, prog_name="pipeline")
@click.pass_context
def cli(context: click.Context) -> None:
    """Runs a paid AI workflow over every row of a spreadsheet.

    \b
    Examples, without a key and without cost:
      pipeline init sheet.csv --workflow ID
      pipeline run jobs/sheet.yaml --sandbox

    No row is paid twice unless you say so. JOB is a job file (jobs/NAME.yaml) or its run folder.

    status, report, show, check, history and verify print on stdout. All other messages are on
    stderr. Without a command, pipeline shows the jobs of this folder.
    """
    if context.invoked_subcommand is None:
        pour(f"{printable(line)}\n" for line in overview_lines())


def _elsewhere(error: click.ClickException) -> list[str]:
    """A hint for an option that was given to the wrong command."""
    option = error.option_name if isinstance(error, click.NoSuchOption) else ""
    having = [
        name
        for name, command in cli.commands.items()
        if any(option in parameter.opts for parameter in command.params)
    ]
    return [f"{option} is an option of: {', '.join(having)}."] if having else []


def main() -> None:
    """Runs the command line and exits. The entry point of the console script."""
    fill_closed_streams()
    # Arrow's own allocator keeps 60 MB that it does not use. pyarrow reads this when imported.
    os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")
    # numpy would start a thread per core for linear algebra. Starting them takes 0.1 s of CPU time.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    try:
        sys.exit(cli(prog_name="pipeline", standalone_mode=False) or 0)
    except click.ClickException as error:
        show_usage(error, _elsewhere(error))
        if "--json" in sys.argv:
            from pipeline.status.summary import as_json, summarize_error

            refused = Refused(in_plain_words(error), closing="")
            print_json(as_json(summarize_error(None, refused)) | {"error": str(refused)})
        sys.exit(error.exit_code)
    except click.Abort:
        click.echo("pipeline: You cancelled. Nothing was sent.", err=True)
        sys.exit(130)
    finally:
        # At its exit, Python would look through every object of the libraries. That takes 0.03 s.
        gc.freeze()


if __name__ == "__main__":
    main()
