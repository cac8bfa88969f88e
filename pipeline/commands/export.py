"""`pipeline export`: the sheet goes home, with every answer beside its row."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pipeline.commands.console import finish, print_json, tell
from pipeline.commands.options import PATH, JobOptions, job_options
from pipeline.core.errors import NothingWritten
from pipeline.core.wording import counted
from pipeline.system.paths import resolved

if TYPE_CHECKING:
    from pipeline.export import Export
    from pipeline.job.job import Job


@click.command()
@job_options
@click.option("--to", "target", type=PATH, help="A .csv, .xlsx, .parquet or .jsonl file.")
@click.option("--citations", type=PATH, help="Another such file: one row for each citation.")
@click.option("--flags", is_flag=True, help="Add _flags: what makes an answer look wrong.")
@click.option("--no-excel-guard", is_flag=True, help="Leave texts that look like formulas alone.")
@click.option("--force", is_flag=True, help="Replace a file that is no earlier export.")
def export(
    target: Path | None,
    citations: Path | None,
    flags: bool,
    no_excel_guard: bool,
    force: bool,
    **given: Any,
) -> None:
    """Writes JOB's sheet with every answer beside its row. If the sheet is a workbook, an .xlsx is
    a copy of it.

    \b
    Examples:
      pipeline export jobs/stories.yaml --to stories-done.csv
      pipeline export jobs/stories.yaml --to stories-done.xlsx --citations sources.csv
    """
    said = JobOptions(**given)

    def work(job: Job) -> int:
        from pipeline.export import export_citations, export_job
        from pipeline.status.summary import as_json, read_status

        if target is not None and citations is not None and _same(target, citations):
            raise NothingWritten(f"{target}: named by --to and --citations.")
        written: dict[str, Export] = {}
        guard = not no_excel_guard
        if target is not None:
            written["exported"] = export_job(
                job, target, excel_guard=guard, flags=flags, force=force
            )
        if citations is not None:
            written["citations"] = export_citations(job, citations, excel_guard=guard, force=force)
        if not written:
            raise NothingWritten("Say with --to or --citations which file to write.")
        summary = read_status(job).summary
        if not said.quiet:
            for what, done in written.items():
                tell(*export_lines(what, **asdict(done)))
        if said.as_json:
            paths = {what: str(done.path) for what, done in written.items()}
            print_json(as_json(summary) | paths)
        return 0

    finish(said, work)


def _same(one: Path, other: Path) -> bool:
    return resolved(one) == resolved(other)


def export_lines(
    what: str,
    path: Path,
    rows: int,
    guarded: int,
    renamed: tuple[str, ...],
    aside: int,
    lost: tuple[str, ...],
) -> list[str]:
    """What an export wrote, and what is not as one would expect. `what` is exported or
    citations."""
    from pipeline.status.summary_lines import shown_path

    of = "the citations of " if what == "citations" else ""
    lines = [f"{of}{counted(rows, 'row')}: {shown_path(str(path))}"]
    if guarded:
        lines.append(
            f"{counted(guarded, 'cell')} like a formula got a ' in front; --no-excel-guard leaves "
            "such cells as they are."
        )
    if renamed:
        lines.append(
            "The sheet has columns of its own of these names, so the runner's are called "
            f"{', '.join(renamed)}."
        )
    if aside:
        lines.append(
            f"{counted(aside, 'text')} too long for a cell: in {path.stem}.files beside the "
            "workbook, where the cell says."
        )
    if lost:
        lines.append(
            f"The copy of the workbook does not have everything. Lost: {'; '.join(lost)}. The "
            "workbook itself is as it was."
        )
    return lines
