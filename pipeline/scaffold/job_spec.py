"""Writes a first job file for a sheet: every column as a variable, and other keys as comments.

The file loads without any edit, for any column names, and `check` passes.
"""

from __future__ import annotations

import math
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import yaml

from pipeline.core.added_columns import exported_columns
from pipeline.core.errors import NothingWritten
from pipeline.core.wording import counted, printable
from pipeline.inputs.formats import displayed_differently, open_table
from pipeline.inputs.table import NO_ROWS, Table
from pipeline.job.spec import JobSpec, load_spec
from pipeline.job.spec_keys import NAME, WORKFLOW
from pipeline.system.paths import resolved

_EXAMPLE_CHARACTERS = 40
_NAME_CHARACTERS = 60
# Characters that YAML reads as line ends or rejects.
_UNPRINTABLE = re.compile("[\x7f-\x9f\u2028\u2029\ud800-\udfff\ufeff\ufffe\uffff]")
_PLAIN = re.compile(r"[A-Za-z](?:[A-Za-z0-9 _-]*[A-Za-z0-9_])?")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
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
class Column:
    """A column of the sheet. `example` is its first text. `empty` counts empty cells, and `blank`
    also counts those with only spaces. `unique` is true if no text occurs twice, and `short` if
    every text has the length of a name and no space."""

    name: str
    variable: str
    example: str
    empty: int
    blank: int
    unique: bool
    short: bool


@dataclass(frozen=True, slots=True)
class Written:
    """The job file that was written, and facts about its sheet."""

    path: Path
    name: str
    rows: int
    variables: int
    left_out: tuple[str, ...]
    partly_empty: int = 0
    """Rows with an empty cell in the column of a variable. The new job file skips them."""


def init_job(
    sheet: Path,
    workflow: str,
    to: Path | None = None,
    *,
    encoding: str | None = None,
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
    name = _job_name(to or sheet)
    path = to or Path("jobs") / f"{name}.yaml"
    if os.path.lexists(path):
        raise NothingWritten(f"{path}: this file already exists. Choose another name with --to.")
    draft = JobSpec(
        path.absolute(),
        name,
        workflow,
        sheet,
        path,
        encoding=encoding,
        sheet=worksheet,
        header_row=header_row,
    )
    table = open_table(draft)
    columns, rows, partly_empty = _read(table)
    lines = [*_lines(draft, columns, rows, partly_empty), *_shown_lines(draft, columns)]
    text = "".join(f"{line}\n" for line in lines)
    _write(path, text)
    load_spec(path)
    mapped = _mapped(columns)
    left_out = tuple(column.name for column in columns if column not in mapped)
    return Written(path, name, rows, len(mapped), left_out, partly_empty)


def quoted(text: str) -> str:
    """Returns `text` as a YAML scalar that parses to exactly this text: without quotes if that is
    safe, or else in double quotes on one line."""
    if _PLAIN.fullmatch(text) and yaml.safe_load(text) == text:
        return text
    written = yaml.safe_dump(text, default_style='"', width=math.inf, allow_unicode=True)
    return str(written).rstrip("\n")


def variable_names(columns: Sequence[str]) -> list[str]:
    """Returns for each column a name that a template can contain between ``{{`` and ``}}``.

    A name consists of ASCII letters, digits and _, and no two are equal. The only rule that the API
    documents is that names must match the template's exactly.
    """
    names: list[str] = []
    used, numbers = set(columns), Counter[str]()
    for position, column in enumerate(columns, start=1):
        used.discard(column)
        name = column
        if not (_VARIABLE.fullmatch(column) and len(column) <= _NAME_CHARACTERS):
            plain = (
                unicodedata.normalize("NFKD", column.casefold()).encode("ascii", "ignore").decode()
            )
            name = re.sub(r"[^A-Za-z0-9]+", "_", plain).strip("_")[:_NAME_CHARACTERS]
            if not name or name[0].isdigit():
                name = f"column_{name or position}"
        names.append(_unlike(name, used, numbers))
        used.add(names[-1])
    return names


def _unlike(name: str, used: set[str], numbers: Counter[str]) -> str:
    """Returns `name`, with the next of its `numbers` if another column already has it."""
    found = name
    while found in used:
        numbers[name] += 1
        found = f"{name}_{numbers[name] + 1}"
    return found


def _job_name(path: Path) -> str:
    name = re.sub(r"[^A-Za-z0-9_-]+", "-", path.stem).strip("-")[:100]
    return name if NAME.fullmatch(name) else "job"


def _read(table: Table) -> tuple[list[Column], int, int]:
    """Returns the columns, the number of rows, and how many have an empty cell in a variable."""
    width = len(table.columns)
    examples, empty, blank = [""] * width, [0] * width, [0] * width
    short = [True] * width
    hashes: list[list[np.ndarray]] = [[] for _ in range(width)]
    gaps: list[np.ndarray] = []
    for batch in table.batches():
        found = np.zeros((width, len(batch)), dtype=np.bool_)
        for position, texts in enumerate(batch.columns):
            found[position] = [not text for text in texts]
            empty[position] += int(found[position].sum())
            blank[position] += sum(not text.strip() for text in texts)
            examples[position] = examples[position] or next(filter(None, texts), "")
            short[position] &= all(len(t) <= _NAME_CHARACTERS and " " not in t for t in texts)
            hashes[position].append(np.fromiter(map(hash, texts), np.int64, len(texts)))
        gaps.append(np.packbits(found, axis=0))
    rows = sum(gap.shape[1] for gap in gaps)
    if not rows:
        raise NothingWritten(f"{table.path}: {NO_ROWS}")
    columns = [
        Column(
            name,
            variable,
            examples[position],
            empty[position],
            blank[position],
            len(np.unique(np.concatenate(hashes[position]))) == rows,
            short[position],
        )
        for position, (name, variable) in enumerate(
            zip(table.columns, variable_names(table.columns), strict=True)
        )
    ]
    mapped = _mapped(columns)
    bits = np.packbits([column in mapped for column in columns])[:, None]
    return columns, rows, sum(int((gap & bits).any(axis=0).sum()) for gap in gaps)


def _mapped(columns: Sequence[Column]) -> frozenset[Column]:
    """The columns that are variables: not those of an earlier run, and not the wholly empty ones,
    unless there are no others."""
    earlier = exported_columns(column.name for column in columns)
    own = [c for c in columns if not c.name.startswith("_") and c.name not in earlier]
    filled = [c for c in own if c.example]
    return frozenset(filled or own or columns)


def _lines(spec: JobSpec, columns: Sequence[Column], rows: int, partly_empty: int) -> Iterator[str]:
    here = resolved(spec.source.parent)
    sheet = os.path.relpath(resolved(spec.input.parent) / spec.input.name, here)
    yield "# This is a job file. Lines that begin with # are off. To turn an option on, delete the"
    yield "# first # and the space after it."
    yield ""
    yield f"name: {quoted(spec.name)}"
    yield f"workflow: {quoted(spec.workflow)}"
    yield f"input: {quoted(sheet)}  # {counted(rows, 'row')}, path relative to this file"
    if spec.encoding is not None:
        yield f"encoding: {quoted(spec.encoding)}"
    if spec.sheet is not None:
        yield f"sheet: {quoted(spec.sheet)}"
    if spec.header_row is not None:
        yield f"header_row: {spec.header_row}"
    yield ""
    yield "# Left, a variable of the workflow. Right, the column of the sheet that fills it."
    yield "# Write each variable exactly as it is between {{ }} in the workflow's template."
    yield "# Delete the lines of columns that the template does not use."
    yield "variables:"
    mapped = _mapped(columns)
    for column in columns:
        mark = "" if column in mapped else "# "
        yield f"  {mark}{quoted(column.variable)}: {quoted(column.name)}  # {_about(column, rows)}"
    yield "# constants: {tone: warm}  # variables that have the same text in every row"
    yield ""
    yield from _id_lines(columns)
    if partly_empty and any(column.empty for column in mapped):
        # `check` shows nothing of a refused sheet, and skipped rows cost nothing.
        choice = "skip" if partly_empty < rows else "send"
        have = "has" if partly_empty == 1 else "have"
        yield f"# {counted(partly_empty, 'row')} {have} an empty cell in the column of a variable."
        yield f"empty: {choice}  # {_EMPTY}"
    else:
        yield "# No variable has an empty cell now. The default refuses a sheet that has one."
        yield f"# empty: refuse  # {_EMPTY}"
    yield from _OPTIONS


_EMPTY = "refuse (send nothing), skip (leave the row out) or send (as an empty text)"

_OPTIONS = (
    "",
    "# where:  # send only the rows that meet every condition here",
    "#   - {column: status, empty: true}  # or equals: TEXT, or matches: PATTERN",
    "# dedupe: true  # send equal rows only once, and give the answer to each of them",
    "",
    "# max_paid: 500  # pay for at most 500 requests, in all runs together",
    "# max_paid_per_run: 100  # pay for at most 100 requests in one run",
    "# rate: 5  # send 5 requests per second. Left out, the runner learns the limit of your key",
)


def _shown_lines(spec: JobSpec, columns: Sequence[Column]) -> Iterator[str]:
    """Proposes `shown:` for columns that the sheet displays in another way than they are sent."""
    mapped = {column.name for column in _mapped(columns)}
    examples = {n: pair for n, pair in displayed_differently(spec).items() if n in mapped}
    if not examples:
        return
    sent, displayed = (_example(text) for text in next(iter(examples.values())))
    names = ", ".join(quoted(name) for name in examples)
    yield ""
    yield f"# shown: [{names}]  # send {displayed} as displayed instead of {sent}"
    yield "# locale: de_DE  # for `shown`: the language of your spreadsheet program, if not en_US"


def _about(column: Column, rows: int) -> str:
    if column.empty == rows:
        return "every cell is empty"
    gaps = f" ({column.empty} empty)" if column.empty else ""
    return f"for example: {_example(column.example)}{gaps}"


def _example(text: str) -> str:
    example = " ".join(_UNPRINTABLE.sub(" ", printable(text)).split())
    long = len(example) > _EXAMPLE_CHARACTERS
    return f"{example[:_EXAMPLE_CHARACTERS]}…" if long else example


def _id_lines(columns: Sequence[Column]) -> Iterator[str]:
    """Suggests an id column. An id distinguishes equal rows and shows which row an edit changed."""
    for column in columns:
        words = set(re.split(r"[^a-z]+", column.name.lower()))
        if column.unique and not column.blank and column.short and words & _ID_WORDS:
            yield f"# id: {quoted(column.name)}  # the column that identifies a row"
            return
    yield "# id: ...  # a column that identifies each row: never blank, never the same text twice"


def _write(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise NothingWritten(
            f"{path}: the runner cannot write this file ({error.strerror or error}). Choose "
            "another place with --to."
        ) from None
