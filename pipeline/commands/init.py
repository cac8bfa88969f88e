"""`pipeline init`: the first job spec of a sheet."""

from __future__ import annotations

import shlex
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pipeline.commands.console import explain, person_there, print_json, tell
from pipeline.commands.options import PATH, OutputOptions
from pipeline.core.errors import NothingWritten, PipelineError
from pipeline.core.wording import counted

if TYPE_CHECKING:
    from pipeline.scaffold.job_spec import Written


@click.command()
@click.argument("sheet", type=PATH)
@click.option("--workflow", metavar="ID", help="The workflow's id on your platform.")
@click.option("--to", type=PATH, help="The spec to write.  [default: jobs/NAME.yaml]")
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
    from pipeline.scaffold.job_spec import init_job

    try:
        if workflow is None:
            if not person_there():
                raise NothingWritten(
                    "Name the workflow by --workflow ID, its id on your platform; to rehearse, any "
                    "will do."
                )
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
        explain(error, None, OutputOptions(as_json=as_json, quiet=False), error.exit_code)
        said = {"sheet": worksheet, "header_row": header_row, "encoding": encoding}
        if any(f"`{key}:`" in str(error) and value is None for key, value in said.items()):
            tell("There is no spec yet: say it by --sheet, --header-row or --encoding.")
        sys.exit(error.exit_code)
    tell(*written_lines(written))
    if as_json:
        print_json(asdict(written) | {"path": str(written.path), "exit_code": 0})


def written_lines(written: Written) -> list[str]:
    """What is in the spec, which columns are not, and the next commands."""
    spec = shlex.quote(str(written.path))
    lines = [
        f"{written.path}: {counted(written.variables, 'variable')}, "
        f"{counted(written.rows, 'row')}. Compare the names with your workflow's template."
    ]
    if written.left_out:
        lines.append(
            "Left out, as comments (the runner's own columns, and empty ones): "
            f"{', '.join(written.left_out)}."
        )
    return [
        *lines,
        f"What would be sent, free:     pipeline check {spec}",
        f"Rehearse on this machine:     pipeline run {spec} --sandbox --limit 5",
    ]
