"""Every key of a job file: its type, its default, and its description.

The loader reads job files by this table. docs/job-file.md and the JSON Schema are made from it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from pipeline.core.added_columns import ANSWER_NAME, KINDS
from pipeline.core.model import ENGINES, MAX_RATE, MAX_WAIT_S, MIN_RATE
from pipeline.job.key_types import (
    Choice,
    ColumnNames,
    FilePath,
    Flag,
    Number,
    Pairs,
    RequiredText,
    Rows,
    Separator,
    Text,
    Type,
    Words,
)

WORKFLOW = re.compile(r"[A-Za-z0-9_-]{1,64}")
NAME = re.compile(r"[A-Za-z0-9_-]{1,100}")
EMPTY_CHOICES = ("refuse", "send", "skip")
DEFAULT_LOCALE = "en_US"
LOCALES = (
    DEFAULT_LOCALE,
    "en_GB",
    "de_DE",
    "fr_FR",
    "es_ES",
    "it_IT",
    "pt_BR",
    "nl_NL",
    "pl_PL",
    "sv_SE",
    "da_DK",
    "ja_JP",
    "zh_CN",
)
"""The languages in which the runner can show numbers and dates as a spreadsheet displays them."""
OTHER_COLUMNS = "*"
"""Under `empty:`, this name stands for all columns that are not named there."""


@dataclass(frozen=True, slots=True)
class Key:
    """One key. `left_out` and `about` are Markdown. `load_spec` reads a key without a `type`."""

    name: str
    type: Type | None
    left_out: str
    about: str


KEYS = (
    Key(
        "name",
        RequiredText(
            "Give the job a name, such as `name: stories`.", NAME, "letters, digits, - and _"
        ),
        "required",
        "The name of the job, which is also the name of its run folder: up to 100 letters, digits, "
        "`-` and `_`.",
    ),
    Key(
        "workflow",
        RequiredText(
            "Write the workflow's id on your platform, such as `workflow: wf_abc123`.",
            WORKFLOW,
            "1 to 64 letters, digits, - and _",
        ),
        "required",
        "The id of the workflow on your platform.",
    ),
    Key(
        "input",
        Rows("Name the sheet, such as `input: ../data/stories.csv`."),
        "required",
        "The sheet: a .csv, .tsv, .txt, .xlsx, .xlsm, .ods, .xls, .xlsb, .parquet or .jsonl file. "
        "Or another job, `{job: outline.yaml}`: its sheet with its answers is then the sheet of "
        "this one, see [Stages](stages.md). Paths are relative to the job file.",
    ),
    Key(
        "output",
        FilePath(),
        "`runs/NAME`",
        "The run folder, which gets all answers and records of the job. The path is relative to "
        "the job file. The runner refuses a folder that contains other files but no run.",
    ),
    Key(
        "variables",
        Pairs(16_384),  # as many as a sheet has columns
        "each column fills the variable of the same name",
        "Which column fills which variable of the workflow, in lines of `variable: column`.",
    ),
    Key(
        "constants",
        Pairs(1000),
        "none",
        "Variables that have the same text in every row, in lines of `variable: text`. At most "
        "1,000.",
    ),
    Key(
        "id",
        Text(),
        "none",
        "The column that identifies a row, such as an article number. No two rows can have the "
        "same id, and no id can be blank. A row with a new id is a new row, even if its texts are "
        "equal to those of another row.",
    ),
    Key(
        "empty",
        None,
        "`refuse`",
        "What the runner does if a cell that it would send is empty: `refuse` the whole sheet and "
        "send nothing, `skip` the row, or `send` the row with an empty text. One word is for all "
        "columns. Lines of `column: word` are for single columns, such as `empty: {Note: send}`. "
        'For the other columns it stays `refuse`, unless `"*": send` or `"*": skip` changes it.',
    ),
    Key(
        "where",
        None,
        "every row is sent",
        "Conditions for sending a row. The runner skips each row that does not meet all of them. A "
        "condition has a `column` and one test: `equals: TEXT`, `matches: PATTERN` (RE2 syntax, "
        "found anywhere in the cell) or `empty: true`. `not: true` reverses the test. At most 100 "
        "conditions, with 2,000 characters in all patterns together.",
    ),
    Key(
        "dedupe",
        Flag(),
        "`false`",
        "With `true`, the runner sends equal rows only once and gives the answer to each of them. "
        "Rows that differ only in their `id` count as equal.",
    ),
    Key(
        "sheet",
        Text(),
        "the only worksheet",
        "The name of the worksheet, if the sheet is a workbook with more than one.",
    ),
    Key(
        "header_row",
        Number(int, at_least=1),
        "1",
        "The row of the workbook, or the line of the text file, that contains the column names, if "
        "there are titles above it.",
    ),
    Key(
        "encoding",
        Text(),
        "UTF-8, or the encoding of the file's byte order mark",
        "The encoding of a text file, such as `cp1252` or `gbk`.",
    ),
    Key(
        "shown",
        ColumnNames(16_384),  # as many as a sheet has columns
        "`false`",
        "Columns of a workbook whose numbers and dates are sent as the sheet displays them, such "
        "as `[Price, Discount]`, or `true` for every column that the job uses. See "
        "[Spreadsheets](spreadsheets.md).",
    ),
    Key(
        "locale",
        Choice(LOCALES),
        "American English (`en_US`)",
        "For `shown`: the language of your spreadsheet program, which decides the decimal sign and "
        f"the names of months: {', '.join(f'`{name}`' for name in LOCALES)}.",
    ),
    Key(
        "separator",
        Separator(),
        "comma, semicolon or tab, whichever the header has",
        'The character between the cells of a text file, such as `"|"`, or `tab`.',
    ),
    Key(
        "hidden",
        Choice(("send", "skip")),
        "`send`",
        "What the runner does with the hidden rows of a .xlsx, also those that a filter hides: "
        "`send` them like the others, or `skip` them.",
    ),
    Key(
        "max_paid",
        Number(int, at_least=0),
        "no limit",
        "The most requests that all runs in this run folder together may pay for. Requests that "
        "are maybe paid count too.",
    ),
    Key(
        "max_paid_per_run",
        Number(int, at_least=0),
        "no limit",
        "The most requests that one run may pay for. Requests that are maybe paid count too.",
    ),
    Key(
        "concurrency",
        Number(int, at_least=1),
        "2000",
        "The most requests that can wait for a response at the same time.",
    ),
    Key(
        "retries",
        Number(int, at_least=0),
        "2",
        "How often the runner sends a row again by itself if the API says that its run failed.",
    ),
    Key(
        "rate",
        Number(float, at_least=MIN_RATE, at_most=MAX_RATE),
        "learned from the server",
        "How many requests the runner sends per second: 0.001 to 1,000,000.",
    ),
    Key(
        "deadline_s",
        Number(float, above=0, at_most=MAX_WAIT_S),
        "330",
        "How many seconds the runner waits for a response, at most 86,400 (one day). After that, "
        "the row is ambiguous: it may be paid, and the runner does not send it again by itself.",
    ),
    Key(
        "engine",
        Choice(ENGINES),
        "`local`",
        "Where requests are sent from: `local` (this machine) or `ray` (a Ray cluster, see "
        "[Many machines](many-machines.md)).",
    ),
    Key(
        "ray_address",
        Text(),
        "a new cluster on this machine",
        "For `engine: ray`: the address of the cluster, or `auto` for the cluster that this "
        "machine is in.",
    ),
    Key(
        "workers",
        Number(int, at_least=1),
        "one per machine, at least two",
        "For `engine: ray`: how many processes send requests.",
    ),
    Key(
        "as",
        Text(
            ANSWER_NAME,
            "up to 60 letters, digits and _, with a letter first, but not `http`, which "
            "failures.csv needs",
        ),
        "the usual names, such as `result`",
        "The name of the answer's column in exports. `as: outline` also names the other columns: "
        "`outline_citations`, `_outline_status` and so on.",
    ),
    Key(
        "columns",
        None,
        "none",
        "Columns for the parts of answers that are JSON, in lines of `name: path` or `name: {path: "
        "PATH, type: TYPE, join: TEXT}`. See [Answers as columns](answer-columns.md).",
    ),
    Key(
        "add",
        Words(KINDS),
        "all but `flags`",
        "The columns that an export adds, in a list: `result`, `columns` (those of `columns:`), "
        "`citations`, `status`, `error_code`, `error_message` and `flags`.",
    ),
    Key(
        "notify",
        None,
        "nowhere",
        "Where the runner reports how a run ended, see [Every night](nights.md).",
    ),
)
