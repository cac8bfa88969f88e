"""The findings of `verify` about a run folder."""

from __future__ import annotations

from dataclasses import dataclass, field

from pipeline.core.model import Summary

_ROWS_NAMED = 10

LEDGER = "ledger.sqlite"
RESULTS = "results"

KEEP_LEDGER = (
    "Do not run this job: with a wrong record the runner could pay for a row twice. Restore the "
    "whole run folder from a copy that was made after the last run: an older one would pay again. "
    "Without a copy, read the intact answers from results/ and set another `output:` in the job "
    "file for the other rows"
)
RESTORE = "Restore the file from a copy of the run folder. Until then `export` refuses to use it"


@dataclass(frozen=True, slots=True)
class Finding:
    """One problem: the file, the problem itself, and the advice.

    `count` is how often it occurs. `rows` are the first ten rows of the sheet with it, as far as
    they are known and still in the sheet.
    """

    file: str
    problem: str
    advice: str
    count: int
    rows: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Verified:
    """The result of `verify_job`: what it checked, and what it found.

    `entries` counts the rows of all tables of the ledger. `answers` counts the answers in intact
    parts and in the ledger. `parts` counts the Parquet files that the ledger has a record of.
    `summary` is the state of the job, or None if the ledger does not show it.
    """

    summary: Summary | None
    entries: int
    answers: int
    parts: int
    findings: tuple[Finding, ...]


@dataclass(slots=True)
class Findings:
    """Collects problems. The same problem in many rows is one finding."""

    _counts: dict[tuple[str, str, str], int] = field(default_factory=dict)
    _rows: dict[tuple[str, str, str], list[int]] = field(default_factory=dict)

    def add(self, file: str, problem: str, advice: str, row: object = None) -> None:
        """Adds a problem. `row` is a row of the sheet; anything except an integer is ignored."""
        key = (_line(file), _line(problem), advice)
        self._counts[key] = self._counts.get(key, 0) + 1
        rows = self._rows.setdefault(key, [])
        if isinstance(row, int) and len(rows) < _ROWS_NAMED and row not in rows:
            rows.append(row)

    def about(self, file: str) -> bool:
        """Tells whether there is a finding about a file."""
        return any(found == file for found, *_ in self._counts)

    def all(self) -> tuple[Finding, ...]:
        return tuple(
            Finding(*key, count, tuple(sorted(self._rows[key])))
            for key, count in self._counts.items()
        )


def _line(text: str) -> str:
    """Makes one printable line: SQLite's words contain line ends, and the names of foreign files
    contain anything."""
    text = "".join(c if c.isprintable() else " " for c in text)
    return " ".join(text.split())
