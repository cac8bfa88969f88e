"""Every key of a job spec: its type, what holds where it is left out, and what it says.

The loader and the page of the spec both go by this table.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from pipeline.core.model import ENGINES, MAX_RATE, MAX_WAIT_S, MIN_RATE
from pipeline.job.yaml_fields import Fields

WORKFLOW = re.compile(r"[A-Za-z0-9_-]{1,64}")
NAME = re.compile(r"[A-Za-z0-9_-]{1,100}")
EMPTY_CHOICES = ("refuse", "send", "skip")


class Type(Protocol):
    """What the value of a key may be."""

    def read(self, fields: Fields, key: str) -> Any:
        """The value, or None where the key is left out or its value was noted as a fault."""


@dataclass(frozen=True, slots=True)
class RequiredText:
    """A text that must be there. `missing` says what to write, `rule` what `pattern` admits."""

    missing: str
    pattern: re.Pattern[str] | None = None
    rule: str = ""

    def read(self, fields: Fields, key: str) -> str | None:
        return fields.text(key, self.missing, self.pattern, self.rule)


@dataclass(frozen=True, slots=True)
class Text:
    """Any text."""

    def read(self, fields: Fields, key: str) -> str | None:
        return fields.optional_text(key)


@dataclass(frozen=True, slots=True)
class FilePath:
    """A path that a file can have, relative to the spec's folder. `missing` says what to write
    where it must be there."""

    missing: str | None = None

    def read(self, fields: Fields, key: str) -> Path | None:
        return fields.path(key, self.missing)


@dataclass(frozen=True, slots=True)
class Choice:
    """One of some words."""

    choices: tuple[str, ...]

    def read(self, fields: Fields, key: str) -> str | None:
        return fields.choice(key, self.choices)


@dataclass(frozen=True, slots=True)
class Flag:
    """true or false."""

    def read(self, fields: Fields, key: str) -> bool | None:
        return fields.flag(key)


@dataclass(frozen=True, slots=True)
class Number:
    """A whole number or any, of `at_least` or more or above `above`, and of `at_most`."""

    kind: Callable[[str], Any]
    at_least: float | None = None
    above: float | None = None
    at_most: float | None = None

    def read(self, fields: Fields, key: str) -> Any:
        return fields.number(
            key, self.kind, at_least=self.at_least, above=self.above, at_most=self.at_most
        )


@dataclass(frozen=True, slots=True)
class Pairs:
    """`most` lines of `name: text`, or fewer."""

    most: int

    def read(self, fields: Fields, key: str) -> tuple[tuple[str, str], ...] | None:
        return fields.pairs(key, self.most)


@dataclass(frozen=True, slots=True)
class Key:
    """One key. `left_out` and `about` are Markdown. A `type` of None has a reader of its own."""

    name: str
    type: Type | None
    left_out: str
    about: str


KEYS = (
    Key(
        "name",
        RequiredText(
            "Give the job one, such as `name: stories`.", NAME, "letters, digits, - and _"
        ),
        "refused",
        "letters, digits, `-` and `_`; the run folder's name too",
    ),
    Key(
        "workflow",
        RequiredText(
            "Give its id on your platform, such as `workflow: wf_abc123`.",
            WORKFLOW,
            "1 to 64 letters, digits, - and _",
        ),
        "refused",
        "the workflow's id on your platform",
    ),
    Key(
        "input",
        FilePath("Name the sheet, such as `input: ../data/stories.csv`."),
        "refused",
        "the sheet, relative to this file: .csv .tsv .xlsx .xlsm .parquet .jsonl",
    ),
    Key(
        "output",
        FilePath(),
        "`runs/NAME`",
        "the run folder, relative to this file; a folder that holds other files is refused",
    ),
    Key(
        "variables",
        Pairs(16_384),  # as many as a sheet has columns
        "every column, under its own name",
        "workflow variable: column",
    ),
    Key(
        "constants",
        Pairs(1000),
        "none",
        "workflow variable: text, the same for every row; 1,000 at most",
    ),
    Key(
        "id",
        Text(),
        "none",
        "the column that names a row: with it, equal texts under two ids are two rows",
    ),
    Key(
        "empty",
        Choice(EMPTY_CHOICES),
        "`refuse`",
        "what becomes of a row with an empty cell that is to be sent: `refuse` (the sheet), `send` "
        "or `skip`",
    ),
    Key(
        "where",
        None,
        "every row",
        "conditions on columns, all of which must hold: `equals:`, `matches:` (RE2, anywhere in "
        "the cell) or `empty: true`; `not: true` turns one round. At most 100 conditions, with "
        "patterns of 2,000 characters together",
    ),
    Key("dedupe", Flag(), "`false`", "`true`: equal rows are one request, and each has its answer"),
    Key("sheet", Text(), "the only one", "the sheet of a workbook"),
    Key(
        "header_row",
        Number(int, at_least=1),
        "1",
        "the row of a workbook's column names, where there are titles above",
    ),
    Key(
        "encoding",
        Text(),
        "UTF-8, or what its byte order mark says",
        "of a text file: cp1252, gbk, …",
    ),
    Key(
        "max_paid",
        Number(int, at_least=0),
        "no limit",
        "most requests that were or may have been billed in this run folder, ever",
    ),
    Key("max_paid_per_run", Number(int, at_least=0), "no limit", "the same for one run"),
    Key("concurrency", Number(int, at_least=1), "2000", "most requests in flight"),
    Key(
        "retries",
        Number(int, at_least=0),
        "2",
        "how often a row is sent again for which the API itself said that the run failed",
    ),
    Key(
        "rate",
        Number(float, at_least=MIN_RATE, at_most=MAX_RATE),
        "learned",
        "requests per second, 0.001 to 1,000,000",
    ),
    Key(
        "deadline_s",
        Number(float, above=0, at_most=MAX_WAIT_S),
        "330",
        "seconds that one answer may take, 86,400 (a day) at most",
    ),
    Key(
        "engine",
        Choice(ENGINES),
        "`local`",
        "where requests are sent from: `local` or `ray`, see [cluster.md](cluster.md)",
    ),
    Key(
        "ray_address",
        Text(),
        "a cluster on this machine",
        "of the engine ray: `auto`, or the address",
    ),
    Key(
        "workers",
        Number(int, at_least=1),
        "one a machine, two at least",
        "of the engine ray: how many processes send",
    ),
    Key("notify", None, "nobody", "whom a run tells how it ended, see [nights.md](nights.md)"),
)
