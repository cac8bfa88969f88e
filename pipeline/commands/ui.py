"""`pipeline ui`: the page in the browser."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click

from pipeline.commands.completing import propose_jobs
from pipeline.commands.console import tell
from pipeline.commands.help import OUTPUT, WHERE, command, option
from pipeline.commands.options import PATH, options
from pipeline.core.errors import PipelineError

_TEXT_BROWSERS = ("www-browser", "links", "elinks", "lynx", "w3m")


@command("Show jobs in the browser: run, read, review, download.")
@options(
    click.argument("where", type=PATH, default=Path("."), shell_complete=propose_jobs),
    option("--no-open", is_flag=True, group=OUTPUT, help="Print the address, open no browser."),
    option(
        "--port",
        metavar="N",
        type=click.IntRange(0, 65535),
        default=0,
        group=WHERE,
        left_out="a free one",
        help="The port on 127.0.0.1.",
    ),
)
def ui(where: Path, no_open: bool, port: int) -> None:
    """Serves a page on this machine for the jobs of a folder, and opens the browser.

    \b
    Examples:
      pipeline ui
      pipeline ui jobs/stories.yaml --no-open --port 8000

    WHERE is a folder (by default the current one), or a job or a sheet in it. Ctrl-C ends the page.
    Runs that you started on it continue.
    """
    from pipeline.run.places import find_start
    from pipeline.ui.server import serve

    def started(address: str) -> None:
        tell(f"The page is at {address}", "Only this machine can open it. Ctrl-C ends it.")
        if not no_open:
            _open(address)

    try:
        root, at = find_start(where)
        serve(root, port, started, at)
    except PipelineError as error:
        tell(f"pipeline: {error}")
        sys.exit(error.exit_code)
    tell("The page has ended. Runs that it started continue: `pipeline status JOB` shows them.")


def _open(address: str) -> None:
    import webbrowser

    opened = False
    if sys.platform == "darwin" or os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"):
        try:
            # A browser in this terminal would take the place of the page's own output.
            opened = webbrowser.get().name not in _TEXT_BROWSERS and webbrowser.open(address)
        except webbrowser.Error:
            opened = False
    if not opened:
        tell("No browser opened on this machine. Copy the address into one.")
