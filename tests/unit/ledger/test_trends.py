"""The history that a report counts from a ledger, and the layout of its pictures."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from pipeline.core.model import Outcome, Reply, Row, State, Verdict
from pipeline.ledger import matching, queries
from pipeline.ledger.ledger import SqliteLedger, open_ledger
from pipeline.ledger.reader import reading
from pipeline.ledger.trends import History, Latencies, Span, count_history
from pipeline.report.html.charts import duration, latency, pictures
from pipeline.report.html.plot import Axes
from pipeline.report.html.samples import Samples, domain
from pipeline.report.html.time_axis import Timeline
from pipeline.status.event_log import LearnedLimit, ended_paces

MIDNIGHT = 1_800_000_000.0
NOTHING_READ = Samples((), Counter(), 0, 0, 0, 0, 0)
OK = Outcome(Verdict.OK, http_status=200, maybe_paid=True)
BLOCKED = Outcome(Verdict.FAILED, "request_blocked", "no", 400)
LIMITED = Outcome(Verdict.REFUSED, "rate_limited", "slower", 429)


@dataclass
class Clock:
    """A clock that shows the time that a test sets."""

    now: float = MIDNIGHT

    def wall(self) -> float:
        return self.now

    def monotonic(self) -> float:
        return self.now


@dataclass
class Nights:
    """Fills a ledger through its own methods, each call at the time that a test gives."""

    ledger: SqliteLedger
    clock: Clock
    path: Path
    number: int = 0

    def begin(self, at: float, rows: int = 1000) -> None:
        self.clock.now = MIDNIGHT + at
        self.ledger.read(matching.begin)
        known = range(1, self.number + 1)
        self.ledger.read(matching.look_up([(n, n.to_bytes(16, "big"), 0) for n in known]))
        self.ledger.begin_run(f"run at {at:g}", "snapshot", rows, 0)

    def send(self, at: float, latency_s: float = 1.0, outcome: Outcome = OK) -> None:
        """Sends one row. Its answer comes at `at`."""
        asyncio.run(self._send(MIDNIGHT + at, latency_s, outcome))

    async def _send(self, at: float, latency_s: float, outcome: Outcome) -> None:
        self.number += 1
        key = self.number.to_bytes(16, "big")
        self.clock.now = at - latency_s
        attempt = await self.ledger.intend(Row(self.number, key, key, 0, b"{}"))
        self.clock.now = at
        states = {Verdict.OK: State.OK, Verdict.REFUSED: State.PENDING}
        state = states.get(outcome.verdict, State.FAILED)
        reply = Reply(0.0, latency_s, outcome.http_status, {}, b'{"success":true,"result":"x"}')
        await self.ledger.conclude(attempt, outcome, reply, state)

    def history(self) -> History:
        with reading(self.path) as read:
            return read(count_history)


@pytest.fixture
def nights(tmp_path: Path) -> Iterator[Nights]:
    """An empty ledger."""
    clock, path = Clock(), tmp_path / "ledger.sqlite"
    with open_ledger(path, clock) as ledger:
        yield Nights(ledger, clock, path)


def test_runs_with_small_gaps_are_one_span_and_each_night_is_its_own_span(nights):
    """A killed run and the next one are drawn as one. A day between two runs is cut out."""
    for begun in (0, 103, 86_400):
        nights.begin(begun)
        nights.send(begun + 1)
        nights.send(begun + 100)
    spans = nights.history().spans
    assert [span.runs for span in spans] == [(1, 2), (3,)]
    assert [(s.begun - MIDNIGHT, s.ended - MIDNIGHT) for s in spans] == [(0, 203), (86_400, 86_500)]


def test_the_drawn_numbers_add_up_to_the_counts_of_the_ledger(nights):
    """Requests and 429s in the bins of the pace, and rows at the end of the progress."""
    for begun in (0, 50_000):
        nights.begin(begun)
        for step in range(40):
            outcome = {0: BLOCKED, 1: LIMITED}.get(step % 10, OK)
            nights.send(begun + 7.3 * (step + 1), 1 + step / 10, outcome)
    history = nights.history()
    counts = nights.ledger.read(queries.counts)
    widths = [np.diff(part.edges) for part in history.pace]
    requests = sum(float(p.per_s @ w) for p, w in zip(history.pace, widths, strict=True))
    limited = sum(
        float(p.rate_limited_per_s @ w) for p, w in zip(history.pace, widths, strict=True)
    )
    assert requests == pytest.approx(80)
    assert limited == pytest.approx(8)
    assert [(run.requests, run.ok, run.rate_limited) for run in history.runs] == [(40, 32, 4)] * 2
    last = {state: rows[-1] for state, rows in history.progress[-1].rows.items()}
    assert last[State.OK] == counts.states[State.OK] == 64
    assert last[State.FAILED] == counts.states[State.FAILED] == 8
    assert history.progress[0].rows[State.OK][-1] == history.progress[1].rows[State.OK][0] == 32
    assert history.checked == 80


def test_latencies_are_exact_to_the_millisecond(nights):
    """Only answers count. The time of an error response tells nothing."""
    nights.begin(0)
    times_s = [0.5, 2.25, 2.25, 3.125, 40.0]
    for number, latency_s in enumerate(times_s):
        nights.send(100 + number, latency_s)
    nights.send(200, 0.001, BLOCKED)
    latencies = nights.history().latencies
    assert latencies.total == 5
    assert [latencies.quantile_s(part) for part in (0.01, 0.5, 0.95, 1)] == [0.5, 2.25, 40.0, 40.0]


def test_a_clock_that_is_set_back_breaks_no_picture(nights):
    """Answers from before the first request are drawn at the edge."""
    nights.begin(1000)
    nights.send(1005)
    nights.send(1006)
    nights.send(10, 1.0)
    nights.begin(500)
    nights.send(501)
    history = nights.history()
    assert history.progress[-1].rows[State.OK][-1] == 4
    assert len(pictures(history, {}, [], NOTHING_READ)) == 3


@pytest.mark.parametrize("length_s", [0.0, 0.004, 3, 45, 600, 9 * 3600, 5 * 86_400, 40 * 86_400])
def test_a_run_of_any_length_has_a_few_readable_ticks(length_s):
    """From a thousandth of a second to a month."""
    timeline = Timeline([Span(MIDNIGHT + 12.3, MIDNIGHT + 12.3 + length_s, (1,))])
    axes = Axes(187, "rows")
    timeline.mark(axes)
    timeline.label(axes)
    ticks = [tick for tick, _ in axes.ticks if 0 <= tick <= timeline.length_s]
    assert 2 <= len(ticks) <= 6
    assert "UTC" in axes.x_label


@pytest.mark.parametrize("nights_number", [2, 3, 30, 400])
def test_many_nights_leave_room_for_the_work_and_for_its_labels(nights_number):
    """Gaps take at most a quarter of the axis, labels do not touch, and times keep their order."""
    begins = [MIDNIGHT + 86_400 * night for night in range(nights_number)]
    timeline = Timeline([Span(begin, begin + 3, (n,)) for n, begin in enumerate(begins)])
    axes = Axes(187, "rows")
    timeline.mark(axes)
    timeline.label(axes)
    work_s = 3 * nights_number
    assert work_s < timeline.length_s <= 1.26 * work_s
    ticks = [tick for tick, _ in axes.ticks]
    assert 1 <= len(ticks) <= 4
    assert len(ticks) == 1 or min(np.diff(ticks)) >= timeline.length_s / 4
    assert axes.ticks[0][1] == "15 Jan\n08:00"
    placed = np.concatenate(
        [timeline.place(n, np.array([s.begun, s.ended])) for n, s in enumerate(timeline.spans)]
    )
    assert (np.diff(placed) > 0).all()


def test_years_of_nights_make_a_small_page_in_a_few_seconds(nights):
    """250 runs are drawn as at most 200 spans, with all their rows."""
    for night in range(250):
        nights.begin(86_400.0 * night)
        nights.send(86_400.0 * night + 1 + night % 7)
    history = nights.history()
    assert len(history.spans) <= 200
    assert sum(len(span.runs) for span in history.spans) == 250
    assert history.progress[-1].rows[State.OK][-1] == 250
    limits = {run.run_id: LearnedLimit(5, 1.0) for run in history.runs}
    begun = time.monotonic()
    drawn = pictures(history, limits, [], NOTHING_READ)
    assert time.monotonic() - begun < 5
    assert sum(len(picture.svg.source) for picture in drawn) < 500_000


def test_the_limit_comes_from_the_log_and_not_from_text_of_a_server(tmp_path):
    """A server's message may look like the event. Cut or odd lines are skipped."""
    log = tmp_path / "log.jsonl"
    event = '"event": "pace_ended"'
    log.write_text(
        f'{{"run_id": "a", {event}, "limit": 50, "window_s": 1.25}}\n'
        f'{{"run_id": "b", {event}, "limit": null, "window_s": null}}\n'
        '{"run_id": "a", "event": "notice", "message": "\\"event\\": \\"pace_ended\\", 9"}\n'
        f'{{"run_id": "c", {event}, "limit": -1, "window_s": 1}}\n'
        f'{{"run_id": "c", {event}, "limit": 7, "window_s": Infinity}}\n'
        f'[{event}\n{{"run_id": "d", {event}, "lim',
        encoding="utf-8",
    )
    paces = ended_paces(log, 1000)
    assert {run: pace.limit for run, pace in paces.items()} == {
        "a": LearnedLimit(50, 1.25),
        "b": None,
        "c": None,
    }
    assert LearnedLimit(50, 1.25).per_s == 40
    assert ended_paces(tmp_path / "none.jsonl", 1000) == {}


def test_a_picture_with_nothing_to_show_is_left_out(nights):
    """If no run sent anything, there is no picture. With refusals only, there is the pace."""
    nights.begin(0)
    assert pictures(nights.history(), {}, [], NOTHING_READ) == []
    nights.send(5, outcome=LIMITED)
    drawn = pictures(nights.history(), {}, [], NOTHING_READ)
    assert [picture.title for picture in drawn] == ["Pace"]


def test_captions_give_the_numbers_of_the_picture(nights):
    """Each picture's label for screen readers has the same words."""
    nights.begin(0)
    for second in range(1, 61):
        nights.send(float(second), 1.0, LIMITED if second == 30 else OK)
    samples = Samples((), Counter({"a.example": 3, "b.example": 1}), 4, 40, 4, 20, 50)
    limits = {"run at 0": LearnedLimit(600, 60.0)}
    drawn = {p.title: p for p in pictures(nights.history(), limits, [], samples)}
    assert drawn["Rows over time"].caption == "59 ok at the end of 1 min of work."
    assert drawn["Pace"].caption == (
        "60 requests, at most 1 per second. 1 met the rate limit (429). "
        "The last run measured a limit of 600 per 60 s."
    )
    assert "the median took 1 s" in drawn["Time to an answer"].caption
    assert "20 of 50 parts" in drawn["Most cited sites"].caption
    for title, picture in drawn.items():
        assert f'role="img" aria-label="{title}. {picture.caption}"' in picture.svg.source
        assert "style=" not in picture.svg.source


def test_a_limit_far_above_the_pace_is_written_but_not_drawn(nights):
    """The pace would be a flat line at the axis."""
    nights.begin(0)
    for second in range(1, 61):
        nights.send(float(second))
    near, far = (
        pictures(nights.history(), {"run at 0": LearnedLimit(limit, 1.0)}, [], NOTHING_READ)[1]
        for limit in (3, 300)
    )
    assert (">limit<" in near.svg.source, ">limit<" in far.svg.source) == (True, False)
    assert far.caption.endswith("300 per 1 s.")


def test_a_host_of_a_million_characters_makes_a_small_picture(nights):
    """It is drawn as plain text, without mathematics, markup or another writing direction."""
    nights.begin(0)
    host = "$x^2$\u202e<b>&\x00" + "漢" * 1_000_000
    samples = Samples((), Counter({host: 3}), 3, 1, 1, 1, 1)
    [picture] = pictures(nights.history(), {}, [], samples)
    assert len(picture.svg.source) < 5000
    assert len(picture.caption) < 200
    assert "$x^2$[U+202E]&lt;b&gt;&amp;[U+0000]漢" in picture.svg.source


def test_a_domain_is_the_host_of_an_http_address():
    """Without www, port or path. Other addresses have none."""
    assert domain("https://www.Good.example:8443/a?b") == "good.example"
    for address in (
        "",
        "javascript:x",
        "ftp://a.example",
        "https:///x",
        "https://[::1",
        "a.example",
    ):
        assert domain(address) is None


def test_durations_have_one_or_two_units():
    """As a person writes them."""
    assert [duration(s) for s in (0.0128, 9.66, 61, 3600, 9.5 * 3600)] == [
        "0.0128 s",
        "9.66 s",
        "2 min",
        "1 h 0 min",
        "9 h 30 min",
    ]


@pytest.mark.parametrize(
    ("ms", "words"),
    [
        ([0, 0, 1], "the median took under 1 ms, the 95th percentile 1 ms and the slowest 1 ms."),
        ([0], "median took under 1 ms, the 95th percentile under 1 ms and the slowest under 1 ms."),
        ([3, 4, 250], "the median took 4 ms, the 95th percentile 250 ms and the slowest 250 ms."),
        ([999, 1500], "the median took 999 ms, the 95th percentile 1.5 s and the slowest 1.5 s."),
    ],
)
def test_answers_that_take_milliseconds_are_shown_in_milliseconds(ms, words):
    """No answer takes 0 s."""
    numbers, counts = np.unique(np.array(ms, np.int64), return_counts=True)
    drawn = latency(Latencies(numbers, counts))
    assert drawn is not None
    assert drawn.caption.endswith(words)
    assert "0 s" not in drawn.caption
