"""Writes a first job file for a sheet: every column as a variable, and other keys as comments.

The file loads without any edit, for any column names, and `check` passes.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from pipeline.core.errors import NothingWritten
from pipeline.core.wording import counted, printable
from pipeline.inputs.formats import displayed_differently
from pipeline.inputs.unseen import SheetFacts
from pipeline.job.key_types import TAB
from pipeline.job.spec import JobSpec, load_spec
from pipeline.job.spec_edit import quoted
from pipeline.job.spec_keys import NAME, WORKFLOW
from pipeline.scaffold.columns import Column, Gaps, mapped_columns
from pipeline.scaffold.editor import MODELINE, may_write_schema, write_schema
from pipeline.scaffold.new_file import write_new_file
from pipeline.scaffold.preview import Preview, preview_sheet
from pipeline.system.paths import resolved

_EXAMPLE_CHARACTERS = 40
# Characters that YAML reads as line ends or rejects.
_UNPRINTABLE = re.compile("[\x7f-\x9f\u2028\u2029\ud800-\udfff\ufeff\ufffe\uffff]")
_ID_WORDS = {
    "id",
    "sku",
    "key",
    "code",
    "nr",
    "no",
    "number",
    "uuid",
    "guid",
    "ean",
    "isbn",
    "slug",
}


@dataclass(frozen=True, slots=True)
class Written:
    """The job file that was written, and facts about its sheet."""

    path: Path
    name: str
    rows: int
    variables: int
    left_out: tuple[str, ...]
    partly_empty: int = 0
    """Rows with an empty cell in the column of a variable."""
    skipped: int = 0
    """Those of them that the new job file skips."""
    skipped_for: tuple[str, ...] = ()
    """The columns whose empty cells skip a row."""
    flawed: dict[str, str] = field(default_factory=dict)
    """The columns that cannot be sent, and why."""
    sheet: SheetFacts = field(default_factory=SheetFacts)
    """What the user of the sheet may not see, such as hidden rows."""
    separator: str | None = None
    """The character between the cells of a text file, if it is not the usual one."""
    schema: Path | None = None
    """The file for editors that was written next to the job file."""


def init_job(
    sheet: Path,
    workflow: str,
    to: Path | None = None,
    *,
    encoding: str | None = None,
    separator: str | None = None,
    worksheet: str | None = None,
    header_row: int | None = None,
) -> Written:
    """Reads all of `sheet` and writes a job file for it, at `to` or at ``jobs/NAME.yaml``.

    Raises:
        Refused: if the file already exists, if `workflow` cannot be an id, and if a run would
            refuse the sheet with any variables. Nothing is written then.
    """
    if not WORKFLOW.fullmatch(workflow):
        raise NothingWritten(
            f"`{workflow}` is not a workflow id. Use 1 to 64 letters, digits, - and _."
        )
    path = to or Path("jobs") / f"{job_name(sheet)}.yaml"
    if os.path.lexists(path):
        raise NothingWritten(f"{path}: this file already exists. Choose another name with --to.")
    preview = preview_sheet(
        sheet,
        encoding=encoding,
        separator=separator,
        worksheet=worksheet,
        header_row=header_row,
    )
    schema = write_job(path, job_text(preview, path, workflow))
    load_spec(path)
    return replace(_written(preview, path), schema=schema)


def job_text(preview: Preview, path: Path, workflow: str) -> str:
    """Returns the text of a first job file for a sheet, to be written at `path`.

    Raises:
        Refused: if the sheet gets none.
    """
    if preview.refusal is not None:
        raise NothingWritten(preview.refusal)
    draft = replace(preview.draft, source=path.absolute(), name=job_name(path), workflow=workflow)
    editors = [MODELINE] if may_write_schema(path.parent) else []
    lines = [*editors, *_lines(draft, preview), *_shown_lines(draft, preview.found)]
    return "".join(f"{line}\n" for line in lines)


def _written(preview: Preview, path: Path) -> Written:
    columns, gaps = preview.found, preview.gaps
    mapped = mapped_columns(columns)
    for_empty = _for_empty(columns, preview.row_count, gaps)
    skipped_for = tuple(name for name, choice in for_empty.items() if choice == "skip")
    left_out = tuple(c.name for c in columns if c not in mapped and not c.flaw)
    return Written(
        path,
        job_name(path),
        preview.row_count,
        len(mapped),
        left_out,
        gaps.rows_in([column in mapped for column in columns]),
        gaps.rows_in([column.name in skipped_for for column in columns]),
        skipped_for,
        {column.name: column.flaw for column in columns if column.flaw},
        preview.sheet,
        preview.draft.separator,
    )


def job_name(path: Path) -> str:
    """Returns a name for the job of a sheet or a job file at `path`."""
    name = re.sub(r"[^A-Za-z0-9_-]+", "-", path.stem).strip("-")[:100]
    return name if NAME.fullmatch(name) else "job"


def _for_empty(columns: Sequence[Column], rows: int, gaps: Gaps) -> dict[str, str]:
    """Returns what the new job file does with an empty cell, for each variable that has one.

    A column that is empty in many rows is optional: its empty cells are sent. A column that is
    nearly always filled was probably forgotten in the other rows: skipping them costs nothing, and
    they are sent once they are filled. `refuse` would stop the first `check`. Blank rows do not
    count, and a column that is only empty there skips them.
    """
    blank, mapped = gaps.blank_rows, mapped_columns(columns)
    partly = [column for column in columns if column in mapped and column.empty]
    forgotten = {c.name for c in partly if c.empty - blank <= rows * _FORGOTTEN}
    skipped = gaps.rows_in([c.name in forgotten for c in columns]) - blank
    if skipped > rows * _FORGOTTEN_TOGETHER:
        # Each is rarely empty, but together they would skip many rows.
        forgotten = {c.name for c in partly if c.empty == blank}
    return {c.name: "skip" if c.name in forgotten else "send" for c in partly}


def _lines(spec: JobSpec, preview: Preview) -> Iterator[str]:
    columns, rows = preview.found, preview.row_count
    here = resolved(spec.job_file.parent)
    sheet = os.path.relpath(resolved(spec.file.parent) / spec.file.name, here)
    yield "# This is a job file. Lines that begin with # are off. To turn an option on, delete the"
    yield "# first # and the space after it."
    yield ""
    yield f"name: {quoted(spec.name)}"
    yield f"workflow: {quoted(spec.workflow)}"
    yield f"input: {quoted(sheet)}  # {counted(rows, 'row')}, path relative to this file"
    if spec.encoding is not None:
        yield f"encoding: {quoted(spec.encoding)}"
    if spec.separator is not None:
        yield f"separator: {'tab' if spec.separator == TAB else quoted(spec.separator)}"
    if spec.sheet is not None:
        yield f"sheet: {quoted(spec.sheet)}"
    if spec.header_row is not None:
        yield f"header_row: {spec.header_row}"
    yield ""
    yield "# Left, a variable of the workflow. Right, the column of the sheet that fills it."
    yield "# Write each variable exactly as it is between {{ }} in the workflow's template."
    yield "# Delete the lines of columns that the template does not use."
    yield "variables:"
    mapped = mapped_columns(columns)
    for column in columns:
        mark = "" if column in mapped else "# "
        yield f"  {mark}{quoted(column.variable)}: {quoted(column.name)}  # {_about(column, rows)}"
    yield "# constants: {tone: warm}  # variables that have the same text in every row"
    yield ""
    yield from _id_lines(columns)
    if preview.sheet.hidden_rows:
        which = f"the {counted(preview.sheet.hidden_rows, 'row')} that the workbook hides"
        yield f"# hidden: skip  # leave out {which}, also by a filter"
    for_empty = _for_empty(columns, rows, preview.gaps)
    yield from _empty_lines(columns, rows, for_empty, preview.gaps.blank_rows)
    yield from _OPTIONS


def _empty_lines(
    columns: Sequence[Column], rows: int, for_empty: dict[str, str], blank_rows: int
) -> Iterator[str]:
    yield f"# What happens to an empty cell is one of {_EMPTY}."
    if not for_empty:
        yield "# No variable has an empty cell now. The default refuses a sheet that has one."
        yield "# empty: refuse  # or for single columns: {NAME: send, OTHER: skip}"
        return
    yield "# Columns that are not named here have no empty cell now. One would refuse the sheet."
    yield "empty:"
    for column in columns:
        choice = for_empty.get(column.name)
        if choice:
            why = "often empty, so it seems optional" if choice == "send" else _SKIPS
            why = "only in blank rows, which are skipped" if column.empty == blank_rows else why
            cells = f"{column.empty} of {rows} cells {'is' if column.empty == 1 else 'are'} empty"
            yield f"  {quoted(column.name)}: {choice}  # {cells}: {why}"


_EMPTY = "refuse (send nothing), skip (leave the row out) or send (as an empty text)"
_SKIPS = "seldom, so forgotten? Fill it, or write send"
# Up to this part of all rows, the empty cells of a column look forgotten.
_FORGOTTEN = 0.05
_FORGOTTEN_TOGETHER = 0.1

_OPTIONS = (
    "",
    "# where:  # send only the rows that meet every condition here",
    "#   - {column: status, empty: true}  # or equals: TEXT, or matches: PATTERN",
    "# dedupe: true  # send equal rows only once, and give the answer to each of them",
    "",
    "# max_paid: 500  # pay for at most 500 requests, in all runs together",
    "# max_paid_per_run: 100  # pay for at most 100 requests in one run",
    "# rate: 5  # send 5 requests per second. Left out, the runner learns the limit of your key",
    "",
    "# columns:  # if the workflow answers with JSON, export its parts as columns",
    "#   title: $.title",
    "#   score: {path: $.score, type: number}",
)


def _shown_lines(spec: JobSpec, columns: Sequence[Column]) -> Iterator[str]:
    """Proposes `shown:` for columns that the sheet displays in another way than they are sent."""
    mapped = {column.name for column in mapped_columns(columns)}
    examples = {n: pair for n, pair in displayed_differently(spec).items() if n in mapped}
    if not examples:
        return
    sent, displayed = (_example(text) for text in next(iter(examples.values())))
    names = ", ".join(quoted(name) for name in examples)
    yield ""
    yield f"# shown: [{names}]  # send {displayed} as displayed instead of {sent}"
    yield "# locale: de_DE  # for `shown`: the language of your spreadsheet program, if not en_US"


def _about(column: Column, rows: int) -> str:
    if column.flaw:
        return f"cannot be sent: {_one_line(column.flaw)}"
    if column.empty == rows:
        return "every cell is empty"
    gaps = f" ({column.empty} empty)" if column.empty else ""
    return f"for example: {_example(column.example)}{gaps}"


def _example(text: str) -> str:
    example = _one_line(text)
    long = len(example) > _EXAMPLE_CHARACTERS
    return f"{example[:_EXAMPLE_CHARACTERS]}…" if long else example


def _one_line(text: str) -> str:
    return " ".join(_UNPRINTABLE.sub(" ", printable(text)).split())


def _id_lines(columns: Sequence[Column]) -> Iterator[str]:
    """Suggests an id column. An id distinguishes equal rows and shows which row an edit changed."""
    for column in columns:
        words = set(re.split(r"[^a-z]+", column.name.lower()))
        if (
            not column.flaw
            and column.unique
            and not column.blank
            and column.short
            and words & _ID_WORDS
        ):
            yield f"# id: {quoted(column.name)}  # the column that identifies a row"
            return
    yield "# id: ...  # a column that identifies each row: never blank, never the same text twice"


def write_job(path: Path, text: str) -> Path | None:
    """Writes a new job file, and the schema that its first line names. Returns the schema's path if
    it was not there.

    Raises:
        Refused: if there is a file, or if the folder cannot be written.
    """
    write_new_file(path, text, "Choose another place with --to.")
    return write_schema(path.parent) if text.startswith(MODELINE) else None
