"""`pipeline sandbox`. Everything heavy is imported by the command itself, not for its help."""

from __future__ import annotations

import json
import shlex
import sys
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from pipeline.sandbox.server import Ready

LIMITERS = (
    "sliding-window",
    "sliding-window-remembering",
    "fixed-window",
    "sliding-log",
    "token-bucket",
    "clumped-bucket",
)
_FILE = click.Path(dir_okay=False)


@click.command()
@click.option("--workflows", type=_FILE, help="YAML file with keys, credits and workflows.")
@click.option(
    "--port",
    metavar="N",
    type=click.IntRange(0, 65535),
    default=8017,
    show_default=True,
    help="Port on 127.0.0.1; 0 for any.",
)
@click.option(
    "--limit",
    metavar="N",
    type=click.IntRange(0),
    default=50,
    show_default=True,
    help="Requests per window and key.",
)
@click.option(
    "--window", metavar="TIME", default="1s", show_default=True, help="Length of the window."
)
@click.option(
    "--limiter",
    type=click.Choice(LIMITERS),
    default=LIMITERS[0],
    show_default=True,
    metavar="KIND",
    help=f"One of {', '.join(LIMITERS)}.",
)
@click.option(
    "--latency",
    metavar="TIME",
    default="0s",
    show_default=True,
    help="2s, uniform:1s-5s, exponential:2s or lognormal:20s.",
)
@click.option(
    "--max-duration",
    metavar="TIME",
    default="300s",
    show_default=True,
    help="When the edge answers 504 instead.",
)
@click.option(
    "--headers",
    type=click.Choice(["success", "every"]),
    default="success",
    show_default=True,
    help="Which answers carry the rate-limit headers.",
)
@click.option(
    "--missing",
    type=click.Choice(["undefined", "error"]),
    default="undefined",
    show_default=True,
    help="A variable without value: that text, or 400 missing_input.",
)
@click.option(
    "--idle",
    metavar="TIME",
    default="75s",
    show_default=True,
    help="When idle connections are closed.",
)
@click.option(
    "--credits", metavar="N", type=int, help="Balance of the account, instead of the file's."
)
@click.option("--book", type=_FILE, help="File for the book of bills; by default a temporary one.")
@click.option(
    "--spoil",
    multiple=True,
    metavar="FAULT=PERCENT",
    help="Share of bodies that meet a fault, always the same ones; may be repeated.",
)
@click.option("--faults", is_flag=True, help="List the faults, and how to ask for one.")
@click.option(
    "--model-url",
    metavar="URL",
    help="OpenAI-compatible endpoint, such as http://127.0.0.1:11434/v1.",
)
@click.option("--model", metavar="NAME", help="Name of the model there.")
def sandbox(faults: bool, spoil: tuple[str, ...], **options: Any) -> None:
    """Serves the API on this machine: no key of yours, no cost.

    The answers are made-up text, or with --model-url those of a model of yours (a key for it comes
    from SANDBOX_MODEL_KEY). Every bill is in the book, see /_sandbox/bills.

    \b
    Examples:
      pipeline sandbox --limit 10 --latency 2s
      pipeline sandbox --spoil html-502=1 --spoil json-500-once=5
      pipeline sandbox --model-url http://127.0.0.1:11434/v1 --model llama3.2
    """
    from pipeline.sandbox.server import Options, serve

    if faults:
        return click.echo(_listed())
    try:
        serve(Options(**options, spoil=dict(map(_share, spoil))), _show)
    except ValueError as error:
        click.echo(f"pipeline: {error}", err=True)
        sys.exit(2)
    except OSError as error:
        click.echo(f"pipeline: {error.strerror or error}; choose another by --port", err=True)
        sys.exit(2)


def curl_line(ready: Ready) -> str:
    """A command for a shell that runs one workflow once."""
    body = {name: f"some {name}" for name in ready.workflow.variables}
    words = ["curl", "--request", "POST"]
    words += ["--url", f"{ready.url}/api/v1/run/{ready.workflow.workflow_id}"]
    words += ["--header", f"Authorization: Bearer {ready.key}"]
    words += ["--header", "Content-Type: application/json"]
    words += ["--data", json.dumps(body, ensure_ascii=False)]
    return shlex.join(words)


def _show(ready: Ready) -> None:
    """Where the server is and how to talk to it, for a person."""
    click.echo(
        f"The API is at {ready.url} until Ctrl-C; its key is {ready.key}\n\n"
        f"Try it:\n  {curl_line(ready)}\n\n"
        f"Send a job there:\n"
        f"  AITUTOR_BASE_URL={ready.url} AITUTOR_API_KEY={ready.key} pipeline run JOB\n\n"
        f"What it billed:  {_bills(ready)}\n"
        f"           kept in {ready.book}"
    )
    if ready.token:
        click.echo(
            "\nEverybody on this machine knows the key sk_sandbox and could spend the key of your "
            "model, so key and token are new at each start."
        )


def _bills(ready: Ready) -> str:
    """Where the bills are, as a command where that needs the token."""
    url = f"{ready.url}/_sandbox/bills"
    return f"curl --header 'Authorization: Bearer {ready.token}' {url}" if ready.token else url


def _listed() -> str:
    from pipeline.sandbox.faults import FAULTS

    lines = [
        "Ask for a fault by its marker in a variable, by `fault: NAME` at a workflow, or for a",
        "share of all bodies by --spoil NAME=PERCENT. $: the run is billed.",
        "",
    ]
    for name, fault in FAULTS.items():
        lines.append(f"  #fault:{name:18} {'$' if fault.billed else ' '} {fault.what}")
    return "\n".join(lines)


def _share(text: str) -> tuple[str, float]:
    name, _, percent = text.partition("=")
    try:
        return name, float(percent.rstrip("%")) / 100
    except ValueError:
        raise ValueError(f"--spoil {text!r}: write a fault and a percentage, html-502=1") from None
