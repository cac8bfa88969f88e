"""`pipeline init`: writes the first job file for a sheet."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterable
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pipeline.commands.completing import propose_workflows
from pipeline.commands.console import explain, person_there, print_json, tell
from pipeline.commands.help import OUTPUT, SEND, command, option
from pipeline.commands.options import JSON, PATH, OutputOptions
from pipeline.core.errors import NothingWritten, PipelineError
from pipeline.core.wording import counted, few_words, shortened

if TYPE_CHECKING:
    from pipeline.scaffold.job_spec import Written


@command("Write the job file for a sheet.")
@click.argument("sheet", type=PATH)
@option(
    "--workflow",
    metavar="ID",
    group=SEND,
    shell_complete=propose_workflows,
    left_out="asked on a terminal",
    help="The workflow's id on your platform; for a rehearsal, any.",
)
@option(
    "--sheet",
    "worksheet",
    metavar="NAME",
    group=SEND,
    left_out="the only one",
    help="The worksheet of a workbook.",
)
@option(
    "--header-row",
    metavar="N",
    type=click.IntRange(1),
    group=SEND,
    left_out="1",
    help="The row of a workbook, or the line of a text file, that has the column names.",
)
@option(
    "--encoding",
    metavar="NAME",
    group=SEND,
    left_out="utf-8",
    help="Encoding of a text file that is not UTF-8, such as cp1252.",
)
@option(
    "--separator",
    metavar="CHAR",
    group=SEND,
    left_out="comma, semicolon or tab",
    help='The character between the cells of a text file, such as "|", or tab.',
)
@option(
    "--to",
    type=PATH,
    group=OUTPUT,
    left_out="`jobs/NAME.yaml`",
    help="The job file to write, instead of jobs/NAME.yaml.",
)
@JSON
def init(
    sheet: Path,
    workflow: str | None,
    to: Path | None,
    encoding: str | None,
    separator: str | None,
    worksheet: str | None,
    header_row: int | None,
    as_json: bool,
) -> None:
    """Writes a job file for SHEET, with every column in it. Sends nothing.

    \b
    Example:
      pipeline init data/products.csv --workflow wf_abc123

    SHEET is a .csv, .tsv, .txt, .xlsx, .ods, .xls, .parquet or .jsonl file. It
    is never changed.
    """
    from pipeline.scaffold.job_spec import init_job

    try:
        if workflow is None:
            if not person_there():
                raise NothingWritten(
                    "Name the workflow with --workflow ID, its id on your platform. For a "
                    "rehearsal any id will do."
                )
            workflow = click.prompt("Workflow id (such as wf_abc123)", err=True)
        written = init_job(
            sheet,
            workflow,
            to,
            encoding=encoding,
            separator=separator,
            worksheet=worksheet,
            header_row=header_row,
        )
    except PipelineError as error:
        explain(error, None, OutputOptions(as_json=as_json, quiet=False), error.exit_code)
        said = {
            "sheet": worksheet,
            "header_row": header_row,
            "encoding": encoding,
            "separator": separator,
        }
        named = [
            f"--{key.replace('_', '-')}"
            for key, value in said.items()
            if f"`{key}:`" in str(error) and value is None
        ]
        if named:
            tell(f"No job file exists yet, so use the option {' or '.join(named)}.")
        sys.exit(error.exit_code)
    tell(*written_lines(written))
    if as_json:
        schema = None if written.schema is None else str(written.schema)
        paths = {"path": str(written.path), "schema": schema}
        print_json(asdict(written) | paths | {"exit_code": 0})


_NAMED = 20


def _first(items: Iterable[tuple[str, str]]) -> Iterable[tuple[str, str]]:
    return islice(items, _NAMED)


def written_lines(written: Written) -> list[str]:
    """What the new job file has, which columns it leaves out, and the next commands."""
    from pipeline.inputs.unseen import DELIMITER_NAMES, unseen_lines

    spec = shlex.quote(str(written.path))
    lines = [
        f"Wrote {written.path}: {counted(written.variables, 'variable')}, "
        f"{counted(written.rows, 'row')}. Compare the names of the variables with your workflow's "
        "template."
    ]
    if written.left_out:
        lines.append(
            "Columns that are in it only as comments, because they are empty or the runner's own: "
            f"{', '.join(written.left_out)}."
        )
    if written.flawed:
        lines.append("Columns that cannot be sent, so they are in it only as comments:")
        lines += [
            f"  {shortened(name)}: {reason}." for name, reason in _first(written.flawed.items())
        ]
        more = len(written.flawed) - _NAMED
        lines += [f"  and {more} more."] if more > 0 else []
    if written.separator:
        name = DELIMITER_NAMES.get(written.separator, f"`{written.separator}`")
        lines.append(f"The cells are separated by {name}: the job file says so (`separator:`).")
    lines += unseen_lines(written.sheet, "send")
    sent = written.partly_empty - written.skipped
    if sent:
        lines.append(
            f"{counted(sent, 'row')} would be sent with an empty text, because a cell is empty. To "
            "skip or refuse such rows, change `empty:`."
        )
    if written.skipped:
        names = few_words([f'"{shortened(name)}"' for name in written.skipped_for])
        lines.append(
            f"{counted(written.skipped, 'row')} would be skipped, because the row is blank, or a "
            f"cell is empty in a column that is nearly always filled: {names}. Fill the cells, or "
            "change `empty:`."
        )
    if written.schema is not None:
        lines.append(f"Wrote {written.schema}: with it, editors know the keys of a job file.")
    return [
        *lines,
        f"See what would be sent:    pipeline check {spec}",
        f"Rehearse without cost:     pipeline run {spec} --sandbox --limit 5",
    ]
