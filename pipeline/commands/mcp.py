"""`pipeline mcp`: tools for agents."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from pipeline.commands.console import tell
from pipeline.commands.help import LIMITS, OUTPUT, command, option
from pipeline.commands.options import PATH, options
from pipeline.core.errors import PipelineError


@command("Serve tools for agents (MCP): list, check, status, report, show.")
@options(
    click.argument("where", type=PATH, default=Path(".")),
    option(
        "--allow-run", is_flag=True, group=LIMITS, help="Also the tools run and resume, which pay."
    ),
    option(
        "--max-paid-per-run",
        metavar="N",
        type=click.IntRange(1),
        group=LIMITS,
        help="With --allow-run: most requests that one run may pay for.",
    ),
    option(
        "--export-to",
        metavar="FOLDER",
        type=PATH,
        group=OUTPUT,
        left_out="no exports",
        help="Also the tool export, which writes new files there.",
    ),
)
def mcp(where: Path, allow_run: bool, max_paid_per_run: int | None, export_to: Path | None) -> None:
    """Serves tools for agents on standard input and output, for the jobs of a folder.

    \b
    Examples:
      pipeline mcp
      pipeline mcp --allow-run --max-paid-per-run 50

    WHERE is the folder (by default the current one). It needs the extra mcp. No tool pays twice for
    a row, sends ambiguous rows or reviews answers.
    """
    if allow_run != (max_paid_per_run is not None):
        raise click.UsageError("--allow-run and --max-paid-per-run belong together.")
    from pipeline.agent.tools import Tools
    from pipeline.run.places import Places, find_start

    try:
        from pipeline.agent.server import serve
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "mcp":
            raise
        tell("pipeline: `pipeline mcp` needs the extra: pip install 'paidrows[mcp]'.")
        sys.exit(2)
    try:
        root, _ = find_start(where)
    except PipelineError as error:
        tell(f"pipeline: {error}")
        sys.exit(error.exit_code)
    serve(Tools(Places(root), export_to, max_paid_per_run))
