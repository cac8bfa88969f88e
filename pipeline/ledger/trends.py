"""A job over time, from its ledger: its runs, its pace, and how long answers took.

SQL does all the counting, so a million attempts take as much memory as a thousand. Nothing can
compare a count with checksums afterwards. So the caller has the ledger checked before
(`integrity.check_ledger`).
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from pipeline.core.model import State
from pipeline.ledger.past_runs import RunFacts, run_facts
from pipeline.ledger.shown import shown_state

Numbers = npt.NDArray[np.float64]

_PROGRESS_BINS = 240
_PACE_BINS = 120
# A pace is requests per second, so a bin is at least a second long.
_SHORTEST_PACE_BIN_S = 1.0
_SHORTEST_SPAN_S = 0.001
# Runs are drawn as one if the gap between them is at most this part of the whole working time.
_MERGED_GAP = 0.05
# More spans would be slivers, and the page would have megabytes. Those with the smallest gaps are
# joined.
_MOST_SPANS = 200


@dataclass(frozen=True, slots=True)
class Span:
    """A time of sending, by one run or by several runs with small gaps between them."""

    begun: float
    ended: float
    runs: tuple[int, ...]

    @property
    def duration_s(self) -> float:
        return max(self.ended - self.begun, _SHORTEST_SPAN_S)

    def bins(self, width_s: float) -> int:
        """Returns the number of bins of about `width_s` seconds in the span."""
        return max(1, round(self.duration_s / width_s))


@dataclass(frozen=True, slots=True)
class RowsOverTime:
    """The number of rows that had reached their current state, by state, at each edge of a span's
    bins. Counts all earlier spans, too."""

    at: Numbers
    rows: dict[State, Numbers]


@dataclass(frozen=True, slots=True)
class SpanPace:
    """Requests, and 429 responses, per second in each bin of a span. `edges` has one entry more
    than there are bins."""

    edges: Numbers
    per_s: Numbers
    rate_limited_per_s: Numbers


@dataclass(frozen=True, slots=True)
class Latencies:
    """How long answers took: whole milliseconds, and the number of answers for each."""

    ms: npt.NDArray[np.int64]
    counts: npt.NDArray[np.int64]

    @property
    def total(self) -> int:
        return int(self.counts.sum())

    def quantile_s(self, part: float) -> float:
        """Returns the seconds, to the millisecond, within which `part` of the answers came."""
        ms = np.quantile(self.ms, part, weights=self.counts, method="inverted_cdf")
        return float(ms) / 1000


@dataclass(frozen=True, slots=True)
class History:
    """A job over time. `progress` and `pace` have one entry for each span. `checked` is the number
    of attempts, which the caller has had checked."""

    runs: tuple[RunFacts, ...]
    spans: tuple[Span, ...]
    progress: tuple[RowsOverTime, ...]
    pace: tuple[SpanPace, ...]
    latencies: Latencies
    checked: int


def count_history(db: sqlite3.Connection, in_use: bool = False) -> History:
    """Counts the job over time. Takes about two microseconds for each attempt.

    `in_use`: a run is active, and its rows in flight are not counted yet. Does not test checksums:
    the caller has the ledger checked (see `integrity.check_ledger`).
    """
    runs = run_facts(db)
    spans = _spans(runs)
    _mark_spans(db, spans)
    history = History(
        runs,
        spans,
        _progress(db, spans, in_use),
        _pace(db, spans),
        _latencies(db),
        sum(run.requests for run in runs),
    )
    db.execute("DROP TABLE temp.spans")
    return history


def _spans(runs: Iterable[RunFacts]) -> tuple[Span, ...]:
    at_work = sorted(
        (run.first_sent, max(run.last_seen or 0.0, run.first_sent), run.run)
        for run in runs
        if run.first_sent is not None
    )
    most_gap_s = _MERGED_GAP * sum(ended - begun for begun, ended, _ in at_work)
    gaps = sorted(
        (begun - before for (_, before, _), (begun, *_) in pairwise(at_work)), reverse=True
    )
    if len(gaps) >= _MOST_SPANS:
        most_gap_s = max(most_gap_s, gaps[_MOST_SPANS - 1])
    spans: list[Span] = []
    for begun, ended, run in at_work:
        if spans and begun - spans[-1].ended <= most_gap_s:
            last = spans.pop()
            spans.append(Span(last.begun, max(last.ended, ended), (*last.runs, run)))
        else:
            spans.append(Span(begun, ended, (run,)))
    return tuple(spans)


def _mark_spans(db: sqlite3.Connection, spans: tuple[Span, ...]) -> None:
    """Writes the span and the bins of each run into a temporary table."""
    total_s = sum(span.duration_s for span in spans)
    db.execute(
        "CREATE TEMP TABLE spans (run INTEGER PRIMARY KEY, span INTEGER, begun REAL,"
        " progress_bins INTEGER, progress_s REAL, pace_bins INTEGER, pace_s REAL)"
    )
    for number, span in enumerate(spans):
        progress = span.bins(total_s / _PROGRESS_BINS)
        pace = span.bins(max(total_s / _PACE_BINS, _SHORTEST_PACE_BIN_S))
        bins = (progress, span.duration_s / progress, pace, span.duration_s / pace)
        db.executemany(
            "INSERT INTO spans VALUES (?, ?, ?, ?, ?, ?, ?)",
            [(run, number, span.begun, *bins) for run in span.runs],
        )


# Each row of the ledger, with the number of the sheet's rows that share its state. Then the rows
# that are skipped now and keep their answer.
_REACHED = (
    "SELECT last_attempt attempt, state, 1 + coalesce(equal.rows, 0) rows FROM rows NOT INDEXED"
    " LEFT JOIN (SELECT first_row, count(*) rows FROM duplicates GROUP BY 1) equal"
    " ON equal.first_row = sheet_row WHERE sheet_row IS NOT NULL AND state <> 'pending'"
    " UNION ALL SELECT ok_attempt, 'ok', 1 FROM skipped_answers JOIN rows USING (row_id)"
)


def _progress(
    db: sqlite3.Connection, spans: tuple[Span, ...], in_use: bool
) -> tuple[RowsOverTime, ...]:
    bins = _bins(db, "progress")
    ended = {
        state: [np.zeros(number) for number in bins]
        for state in (State.OK, State.FAILED, State.AMBIGUOUS)
    }
    for span, place, state, count in db.execute(
        "SELECT span, max(0, min(progress_bins - 1, CAST((coalesce(finished_at, sent_at) - begun)"
        " / progress_s AS INTEGER))) place, r.state, sum(r.rows)"
        f" FROM ({_REACHED}) r JOIN attempts a ON a.attempt_id = r.attempt"
        " CROSS JOIN spans USING (run) GROUP BY 1, 2, 3"
    ):
        shown = shown_state(State(state), in_use)
        if shown in ended:
            ended[shown][span][place] += count
    progress = []
    before = dict.fromkeys(ended, 0.0)
    for number, span in enumerate(spans):
        at = span.begun + span.duration_s * np.arange(bins[number] + 1) / bins[number]
        rows = {}
        for state, counts in ended.items():
            rows[state] = before[state] + np.concatenate([[0.0], np.cumsum(counts[number])])
            before[state] = float(rows[state][-1])
        progress.append(RowsOverTime(at, rows))
    return tuple(progress)


def _pace(db: sqlite3.Connection, spans: tuple[Span, ...]) -> tuple[SpanPace, ...]:
    bins = _bins(db, "pace")
    sent = [np.zeros(number) for number in bins]
    limited = [np.zeros(number) for number in bins]
    for span, place, requests, rate_limited in db.execute(
        "SELECT span, max(0, min(pace_bins - 1, CAST((sent_at - begun) / pace_s AS INTEGER)))"
        " place, count(*), sum(code IS 'rate_limited')"
        " FROM attempts a CROSS JOIN spans USING (run)"
        " WHERE code IS NOT 'not_sent' GROUP BY 1, 2"
    ):
        sent[span][place], limited[span][place] = requests, rate_limited
    paces = []
    for number, span in enumerate(spans):
        width_s = span.duration_s / bins[number]
        edges: Numbers = span.begun + width_s * np.arange(bins[number] + 1, dtype=np.float64)
        # Without this, a span shorter than a second could show thousands of requests per second.
        over_s = max(width_s, _SHORTEST_PACE_BIN_S)
        paces.append(SpanPace(edges, sent[number] / over_s, limited[number] / over_s))
    return tuple(paces)


def _bins(db: sqlite3.Connection, kind: str) -> list[int]:
    query = f"SELECT {kind}_bins FROM spans GROUP BY span ORDER BY span"
    return [number for (number,) in db.execute(query)]


def _latencies(db: sqlite3.Connection) -> Latencies:
    found = db.execute(
        "SELECT CAST(latency_s * 1000 AS INTEGER), count(*) FROM attempts"
        " WHERE verdict = 'ok' AND latency_s IS NOT NULL GROUP BY 1 ORDER BY 1"
    ).fetchall()
    ms, counts = zip(*found, strict=True) if found else ((), ())
    return Latencies(np.array(ms, np.int64), np.array(counts, np.int64))
