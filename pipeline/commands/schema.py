"""`pipeline schema`: the JSON Schemas of job files and of what commands print."""

from __future__ import annotations

import json

import click

from pipeline.commands.console import pour
from pipeline.commands.help import command


def _propose(context: click.Context, parameter: click.Parameter, begun: str) -> list[str]:
    from pipeline.commands.schemas import COMMANDS

    return [name for name in ("job", *COMMANDS) if name.startswith(begun)]


@command("Print the JSON Schema of job files, or of a command's output.")
@click.argument("what", default="job", metavar="[COMMAND]", shell_complete=_propose)
def schema(what: str) -> None:
    """Prints the JSON Schema of job files, for editors and programs.

    \b
    Examples:
      pipeline schema > job.schema.json
      pipeline schema report

    With COMMAND, it is the schema of each object that this command prints with --json.
    """
    from pipeline.commands.schemas import COMMANDS, schema_of_output
    from pipeline.core.wording import few_words, nearest
    from pipeline.job.schema import job_schema

    if what == "job":
        found = job_schema()
    elif what in COMMANDS:
        found = schema_of_output(what)
    else:
        raise click.UsageError(
            f'There is no schema "{what}".{nearest(what, COMMANDS)} Use job, or one of: '
            f"{few_words(COMMANDS)}."
        )
    pour([json.dumps(found, indent=2, ensure_ascii=False), "\n"])
