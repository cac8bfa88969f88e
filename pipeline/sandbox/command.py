"""The command `pipeline sandbox`. It imports heavy modules only when it runs, not for its help."""

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
@click.option("--workflows", type=_FILE, help="YAML file with your keys, credits and workflows.")
@click.option(
    "--port",
    metavar="N",
    type=click.IntRange(0, 65535),
    default=8017,
    show_default=True,
    help="Port on 127.0.0.1; 0 picks a free one.",
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
    "--window",
    metavar="TIME",
    default="1s",
    show_default=True,
    help="Length of the limit's window.",
)
@click.option(
    "--limiter",
    type=click.Choice(LIMITERS),
    default=LIMITERS[0],
    show_default=True,
    metavar="KIND",
    help="How the limit counts.",
)
@click.option(
    "--latency",
    metavar="TIME",
    default="0s",
    show_default=True,
    help="Answer time: 2s or lognormal:20s.",
)
@click.option(
    "--max-duration",
    metavar="TIME",
    default="300s",
    show_default=True,
    help="Longest run, then a 504 page.",
)
@click.option(
    "--headers",
    type=click.Choice(["success", "every"]),
    default="success",
    metavar="WORD",
    help="Limit headers on: success (default) or every.",
)
@click.option(
    "--missing",
    type=click.Choice(["undefined", "error"]),
    default="undefined",
    metavar="WORD",
    help="Missing variable: undefined (default) or error.",
)
@click.option(
    "--idle",
    metavar="TIME",
    default="75s",
    show_default=True,
    help="How long idle connections stay open.",
)
@click.option(
    "--credits",
    metavar="N",
    type=int,
    help="The account's balance, instead of the file's.",
)
@click.option("--book", type=_FILE, help="File for the bills, instead of a temporary one.")
@click.option(
    "--spoil",
    multiple=True,
    metavar="FAULT=PERCENT",
    help="Give a share of the rows a fault. Can be repeated.",
)
@click.option("--faults", is_flag=True, help="List the faults and how to cause one.")
@click.option(
    "--model-url",
    metavar="URL",
    help="OpenAI-compatible endpoint that writes the answers.",
)
@click.option("--model", metavar="NAME", help="Name of the model at --model-url.")
def sandbox(faults: bool, spoil: tuple[str, ...], **options: Any) -> None:
    """Serves a local copy of the API. It is free and needs no key of yours.

    \b
    Examples:
      pipeline sandbox --latency lognormal:20s --spoil html-502=1
      pipeline sandbox --model-url http://127.0.0.1:11434/v1 --model llama3.2

    Use it to rehearse with a slow or failing API. For a plain rehearsal, `pipeline run JOB
    --sandbox` is enough: it starts its own sandbox. The answers are made-up text, unless a model
    at --model-url writes them. SANDBOX_MODEL_KEY is the key for that model.
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
        click.echo(f"pipeline: {error.strerror or error}. Choose another with --port.", err=True)
        sys.exit(2)


def curl_line(ready: Ready) -> str:
    """Returns a shell command that runs one workflow once."""
    body = {name: f"some {name}" for name in ready.workflow.variables}
    words = ["curl", "--request", "POST"]
    words += ["--url", f"{ready.url}/api/v1/run/{ready.workflow.workflow_id}"]
    words += ["--header", f"Authorization: Bearer {ready.key}"]
    words += ["--header", "Content-Type: application/json"]
    words += ["--data", json.dumps(body, ensure_ascii=False)]
    return shlex.join(words)


def _show(ready: Ready) -> None:
    """Prints where the server is and how to use it."""
    click.echo(
        f"The sandbox is at {ready.url} with the key {ready.key}, until you press Ctrl-C.\n\n"
        f"Send a job to it, from another terminal:\n"
        f"  AITUTOR_BASE_URL={ready.url} AITUTOR_API_KEY={ready.key} "
        "pipeline run JOB --output /tmp/rehearsal\n\n"
        f"Send one request:\n  {curl_line(ready)}\n\n"
        f"List its bills, which are stored in {ready.book}:\n  {_bills(ready)}"
    )
    if ready.token:
        click.echo(
            "\nThe key sk_sandbox is public, and any user of this machine could spend your model's "
            "money with it. So this sandbox has a random key and a random token, new at each start."
        )


def _bills(ready: Ready) -> str:
    """Returns a shell command that lists the bills, with the token if the sandbox has one."""
    url = f"{ready.url}/_sandbox/bills"
    token = f"--header 'Authorization: Bearer {ready.token}' " if ready.token else ""
    return f"curl {token}{url}"


def _listed() -> str:
    from pipeline.sandbox.faults import FAULTS

    lines = [
        "To spoil one row, write a fault's marker into one of its cells, such as #fault:html-502.",
        "To spoil a share of the rows, start the sandbox with --spoil html-502=5 (percent).",
        "To spoil a workflow, write `fault: html-502` below it in the file of --workflows.",
        '$ means that the request is billed. "The first time only" is once for each row.',
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
        raise ValueError(
            f"--spoil {text!r}: write a fault and its percentage, such as html-502=1."
        ) from None
