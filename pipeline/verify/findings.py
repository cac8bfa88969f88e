"""What `verify` says of a run folder."""

from __future__ import annotations

from dataclasses import dataclass, field

from pipeline.core.model import Summary

_ROWS_NAMED = 10

LEDGER = "ledger.sqlite"
RESULTS = "results"

KEEP_LEDGER = (
    "Do not run this job: with a wrong record the runner could pay for a row twice. Restore the "
    "whole run folder from a copy. Without a copy, export the answers that are intact and set "
    "another `output:` in the job file for the other rows"
)
RESTORE = "Restore the file from a copy of the run folder. Until then `export` refuses to use it"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is not as it should be: in which file, what, and what to do.

    `count` is how often; `rows` are the first ten rows of the sheet that it is about, if it is
    about rows that are still in it.
    """

    file: str
    problem: str
    advice: str
    count: int
    rows: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Verified:
    """What was checked, and what was found.

    `entries` counts the ledger's rows of all tables, `answers` those in whole parts and in the
    ledger, `parts` the Parquet files that the ledger knows. `summary` is where the job stands,
    None where the ledger does not tell.
    """

    summary: Summary | None
    entries: int
    answers: int
    parts: int
    findings: tuple[Finding, ...]


@dataclass(slots=True)
class Findings:
    """Collects; the same problem of many rows is one finding."""

    _counts: dict[tuple[str, str, str], int] = field(default_factory=dict)
    _rows: dict[tuple[str, str, str], list[int]] = field(default_factory=dict)

    def add(self, file: str, problem: str, advice: str, row: object = None) -> None:
        """`row` is the number of a row of the sheet, or nothing that could be one."""
        key = (_line(file), _line(problem), advice)
        self._counts[key] = self._counts.get(key, 0) + 1
        rows = self._rows.setdefault(key, [])
        if isinstance(row, int) and len(rows) < _ROWS_NAMED and row not in rows:
            rows.append(row)

    def about(self, file: str) -> bool:
        """Whether something was found in a file."""
        return any(found == file for found, *_ in self._counts)

    def all(self) -> tuple[Finding, ...]:
        return tuple(
            Finding(*key, count, tuple(sorted(self._rows[key])))
            for key, count in self._counts.items()
        )


def _line(text: str) -> str:
    """One printable line: SQLite's words have line ends, names of foreign files anything."""
    text = "".join(c if c.isprintable() else " " for c in text)
    return " ".join(text.split())
