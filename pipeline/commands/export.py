"""`pipeline export`: writes the user's sheet with every answer next to its row."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.commands.console import finish, print_json, tell
from pipeline.commands.help import OUTPUT, command, option
from pipeline.commands.options import PATH, JobOptions, job_options
from pipeline.core.errors import NothingWritten
from pipeline.core.wording import counted
from pipeline.system.paths import resolved

if TYPE_CHECKING:
    from pipeline.core.model import Summary
    from pipeline.export import Export
    from pipeline.job.job import Job


_HOW_TO_REVIEW = "Write approved, edited, rejected or reset into _review, or a text into _edit."


@command("Write your sheet with the answers next to their rows.")
@job_options
@option(
    "--to",
    "target",
    type=PATH,
    group=OUTPUT,
    help="The file to write: .csv, .tsv, .xlsx, .parquet or .jsonl.",
)
@option(
    "--citations", type=PATH, group=OUTPUT, help="Another such file, with one row per citation."
)
@option(
    "--versions", type=PATH, group=OUTPUT, help="Another such file, with one row per paid answer."
)
@option(
    "--review",
    type=PATH,
    group=OUTPUT,
    help="A review sheet: fill in _review and _edit, and read it by `review --from`.",
)
@option(
    "--add",
    metavar="COLUMNS",
    group=OUTPUT,
    help="The columns to add: result,columns,citations,status,flags,review,"
    "error_code,error_message.",
)
@option(
    "--flags", is_flag=True, group=OUTPUT, help="Add a column _flags: why an answer looks wrong."
)
@option(
    "--no-excel-guard",
    is_flag=True,
    group=OUTPUT,
    help="Put no ' before texts that look like formulas.",
)
@option("--force", is_flag=True, group=OUTPUT, help="Replace a file that is not an earlier export.")
def export(
    target: Path | None,
    citations: Path | None,
    versions: Path | None,
    review: Path | None,
    add: str | None,
    flags: bool,
    no_excel_guard: bool,
    force: bool,
    **given: Any,
) -> None:
    """Writes JOB's sheet to a new file, with every answer next to its row.

    \b
    Examples:
      pipeline export jobs/stories.yaml --to done.csv
      pipeline export jobs/stories.yaml --to done.xlsx --citations sources.csv
      pipeline export jobs/stories.yaml --to short.csv --add result,status

    If the sheet is a workbook, an .xlsx is a copy of it with the answers added.
    """
    said = JobOptions(**given)

    def work(job: Job) -> int:
        from pipeline.commands.rows_shown import rows_shown
        from pipeline.export import (
            export_citations,
            export_job,
            export_review,
            export_versions,
        )
        from pipeline.status.summary import as_json, read_status

        named = {"--to": target, "--citations": citations, "--versions": versions}
        _refuse_same(named | {"--review": review})
        written: dict[str, Export] = {}
        guard = not no_excel_guard
        if target is not None:
            with rows_shown(said) as on_rows:
                written["exported"] = export_job(
                    job,
                    target,
                    excel_guard=guard,
                    add=_words(add),
                    flags=flags,
                    force=force,
                    on_rows=on_rows,
                )
        if citations is not None:
            written["citations"] = export_citations(job, citations, excel_guard=guard, force=force)
        if versions is not None:
            written["versions"] = export_versions(job, versions, excel_guard=guard, force=force)
        if review is not None:
            written["review"] = export_review(job, review, excel_guard=guard, force=force)
        if not written:
            raise NothingWritten(
                "Name the file to write with --to, --citations, --versions or --review."
            )
        from pipeline.status.summary_lines import shown_path

        summary = read_status(job).summary
        if not said.quiet:
            for what, done in written.items():
                tell(*export_lines(what, summary, job.sandbox, **asdict(done)))
                if what == "review":
                    back = job.command("review", "--from", shown_path(str(done.path)))
                    tell(f"{_HOW_TO_REVIEW} Then use: {back}")
        if said.as_json:
            paths = {what: str(done.path) for what, done in written.items()}
            print_json(as_json(summary) | paths)
        return 0

    finish(said, work)


def _words(given: str | None) -> list[str] | None:
    return None if given is None else [word.strip() for word in given.split(",") if word.strip()]


def _refuse_same(named: dict[str, Path | None]) -> None:
    by_path: dict[Path, str] = {}
    for option_name, path in named.items():
        other = None if path is None else by_path.setdefault(resolved(path), option_name)
        if other not in (None, option_name):
            raise NothingWritten(
                f"{path}: {other} and {option_name} name the same file. Name two files."
            )


def export_lines(
    what: str,
    summary: Summary,
    rehearsal: bool,
    path: Path,
    rows: int,
    guarded: int,
    renamed: tuple[str, ...],
    aside: int,
    without_macros: bool,
) -> list[str]:
    """What an export wrote, and what differs from the sheet. `what` is exported, citations,
    versions or review."""
    from pipeline.status.summary_lines import shown_path, states_text

    where = f"{' of the rehearsal' if rehearsal else ''} to {shown_path(str(path))}"
    if what == "citations":
        lines = [f"Wrote the citations of {counted(rows, 'row')}{where}."]
    elif what == "versions":
        lines = [f"Wrote {counted(rows, 'paid answer')}{where}."]
    else:
        lines = [f"Wrote {counted(rows, 'row')}{where}: {states_text(summary)}."]
        lines += [] if summary.ok else ["No row has an answer yet."]
    if guarded:
        lines.append(
            f"{counted(guarded, 'cell')} that would act as a formula got a ' in front. "
            "--no-excel-guard leaves such cells unchanged."
        )
    if renamed:
        lines.append(
            "The sheet already has columns with these names, so the runner's columns are called "
            f"{', '.join(renamed)}."
        )
    if aside:
        lines.append(
            f"{counted(aside, 'text')} too long for a cell: see {path.stem}.files next to the "
            "workbook. Each cell names its file."
        )
    if without_macros:
        lines.append(
            "The macros of your workbook are not in it, because an .xlsx has none. To keep them, "
            "export to a file that ends in .xlsm."
        )
    return lines
