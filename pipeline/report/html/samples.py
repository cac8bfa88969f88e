"""A few answers of a job, and the sites that its answers cite. Reads at most twenty parts.

These are the first part, the last, and some between them, the same in each report. Each part is
compared with its checksum and read from the same bytes, so nothing altered is shown.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa

from pipeline.inputs.arrow import as_numpy, call, taken
from pipeline.job.run_folder import RunFolder
from pipeline.ledger import queries
from pipeline.ledger.queries import Part
from pipeline.ledger.reader import Read
from pipeline.results.lookup import read_part
from pipeline.results.schema import results_table
from pipeline.system.addresses import domain_of

_MOST_PARTS = 20
_MOST_UNSEALED = 2000
# Citations of one part. A million in all parts take two seconds.
_MOST_URLS = 50_000
_FIRST, _RANDOM = 2, 3
# Candidates of a part. Some of their rows may no longer be in the sheet.
_OF_A_PART = 6
_SEED = 1
_COLUMNS = ["row", "run_id", "variables", "result", "citations"]


@dataclass(frozen=True, slots=True)
class SampleAnswer:
    """The answer of `sheet_row`, with the variables (JSON text) that were sent. `why` says why it
    is shown: first, random or longest. Citations are (title, url)."""

    why: str
    sheet_row: int
    run_id: str
    variables: str
    result: str
    citations: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Samples:
    """Some answers, and citations by domain, from `answers` answers in `parts_read` of `parts`
    parts. `cited` answers have a citation."""

    shown: tuple[SampleAnswer, ...]
    domains: Counter[str]
    citations: int
    answers: int
    cited: int
    parts_read: int
    parts: int


def read_samples(folder: RunFolder, read: Read) -> Samples:
    """Reads at most twenty parts. If there is no part yet, reads answers from the ledger.

    Raises:
        StorageFailed: when a part, or an answer in the ledger, was altered.
    """
    parts = [part for part in read(queries.sealed_parts) if part.rows]
    chosen = _chosen(parts)
    chance = random.Random(_SEED)
    tally = _CitationTally()
    candidates: list[SampleAnswer] = []
    tables = (read_part(folder, part, _COLUMNS) for part in chosen) if parts else _unsealed(read)
    for table in tables:
        tally.add(table)
        candidates += _candidates(table, chance)
    places = read(queries.rows_of_answers([(c.run_id, c.sheet_row) for c in candidates]))
    standing = [replace(candidates[place], sheet_row=row) for place, row in places]
    shown = _shown(standing, chance)
    return Samples(
        tuple(shown),
        tally.domains,
        tally.citations,
        tally.answers,
        tally.cited,
        len(chosen),
        len(parts),
    )


def domain(url: str) -> str | None:
    """The host of an http or https address, without `www.`; None for anything else."""
    http = url.lstrip().lower().startswith(("http:", "https:"))
    return (domain_of(url) or None) if http else None


class _CitationTally:
    """Counts citations by domain, part by part."""

    def __init__(self) -> None:
        self.domains: Counter[str] = Counter()
        self.citations = self.answers = self.cited = 0

    def add(self, table: pa.Table) -> None:
        citations = table["citations"].combine_chunks()
        self.answers += len(table)
        self.cited += int(np.count_nonzero(as_numpy(call("list_value_length", citations))))
        urls = call("list_flatten", citations).field("url")[:_MOST_URLS]
        self.citations += len(urls)
        for found in call("value_counts", urls):
            host = domain(found["values"].as_py() or "")
            if host is not None:
                self.domains[host] += found["counts"].as_py()


def _chosen(parts: Sequence[Part]) -> list[Part]:
    """The first part, the last, and random ones between them, in their order."""
    if len(parts) <= _MOST_PARTS:
        return list(parts)
    between = random.Random(_SEED).sample(range(1, len(parts) - 1), _MOST_PARTS - 2)
    return [parts[place] for place in (0, *sorted(between), len(parts) - 1)]


def _unsealed(read: Read) -> Iterator[pa.Table]:
    first = read(lambda db: db.execute("SELECT min(seq) FROM payloads").fetchone()[0])
    if first is not None:
        found = read(queries.finished(first, first + _MOST_UNSEALED - 1))
        yield results_table(found, "").select(_COLUMNS)


def _candidates(table: pa.Table, chance: random.Random) -> list[SampleAnswer]:
    """The first answers of a part, its longest ones and some random ones, in no order."""
    size = len(table)
    lengths = as_numpy(call("utf8_length", table["result"]))
    longest = np.argsort(-lengths, kind="stable")[:_FIRST].tolist()
    some = chance.sample(range(size), min(size, _OF_A_PART))
    places = dict.fromkeys((*range(min(size, _FIRST)), *longest, *some))
    return [
        SampleAnswer(
            "",
            found["row"],
            found["run_id"],
            found["variables"],
            found["result"],
            tuple((c["title"] or "", c["url"] or "") for c in found["citations"]),
        )
        for found in taken(table, np.array(list(places))).to_pylist()
    ]


def _shown(standing: list[SampleAnswer], chance: random.Random) -> Iterator[SampleAnswer]:
    """The first in the sheet, then random ones, then the longest of the rest."""
    first, left = standing[:_FIRST], standing[_FIRST:]
    longest = max(left, key=lambda answer: len(answer.result), default=None)
    left = [answer for answer in left if answer is not longest]
    some = sorted(chance.sample(left, min(len(left), _RANDOM)), key=lambda a: a.sheet_row)
    for why, answers in (("first", first), ("random", some), ("longest", [longest])):
        for answer in answers:
            if answer is not None:
                yield replace(answer, why=why)
