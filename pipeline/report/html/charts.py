"""The charts of a report, each with a caption that gives its content in numbers.

A chart that has nothing to show is None. The colours are those of Okabe and Ito, which people with
any kind of colour vision can tell apart. Lines and bars that differ in colour also differ in line
style or place.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.core.model import State
from pipeline.core.wording import counted
from pipeline.ledger.trends import History, Latencies, Numbers
from pipeline.report.groups import Group
from pipeline.report.html.markup import Markup, visible
from pipeline.report.html.plot import (
    INK,
    Axes,
    bars,
    logarithmic_numbers,
    picture,
    round_numbers,
)
from pipeline.report.html.samples import Samples
from pipeline.report.html.time_axis import Timeline
from pipeline.status.event_log import LearnedLimit

_HEIGHT = 187.0
# A line with under a tenth as many rows as the ok ones would lie on the axis. It gets its own axes.
_FEW, _HEIGHT_OF_FEW = 10, 79.0
_COLOURS = {
    State.OK: "#0072b2",
    State.FAILED: "#d55e00",
    State.AMBIGUOUS: "#e69f00",
    State.PENDING: "#999999",
}
_LINES = {State.OK: "", State.FAILED: "6 3", State.AMBIGUOUS: "2 2"}
_PACE, _LIMITED = "#56b4e9", "#d55e00"
# A limit more than four times the pace would press the curve flat. Only the caption names it.
_LIMIT_DRAWN_UNTIL = 4.0
_LABEL = 34
_MOST_CODES, _MOST_DOMAINS = 10, 10
_LATENCY_BINS = 32
# If the longest latency is over 20 times the shortest, the axis is logarithmic.
_LOGARITHMIC_FROM = 20.0


@dataclass(frozen=True, slots=True)
class Picture:
    """One chart and its caption."""

    title: str
    svg: Markup
    caption: str


def pictures(
    history: History, limits: dict[str, LearnedLimit], groups: Sequence[Group], samples: Samples
) -> list[Picture]:
    """Draws the charts that have something to show, in the order of a report."""
    drawn = (
        progress(history),
        pace(history, limits),
        latency(history.latencies),
        failures(groups),
        domains(samples),
    )
    return [one for one in drawn if one is not None]


def progress(history: History) -> Picture | None:
    """Rows that are ok, failed and ambiguous, over time. Small numbers have their own scale."""
    if not history.spans:
        return None
    last = {state: int(rows[-1]) for state, rows in history.progress[-1].rows.items()}
    states = [state for state in _LINES if last[state]]
    if not states:
        return None
    few = [state for state in states if last[state] * _FEW < last[State.OK]]
    shown = [[state for state in states if state not in few], *([few] if few else [])]
    timeline = Timeline(history.spans)
    panels = []
    for states_shown, height in zip(shown, (_HEIGHT, _HEIGHT_OF_FEW), strict=False):
        axes = Axes(height, "rows", whole=True, legend=len(states) > 1)
        for state in states_shown:
            points = [(part.at, part.rows[state]) for part in history.progress]
            line = _line(timeline, points)
            axes.line(*line, _COLOURS[state], _LINES[state], name=str(state))
        timeline.mark(axes)
        panels.append(axes)
    timeline.label(panels[-1])
    totals = ", ".join(f"{last[state]:,} {state}" for state in states)
    work = duration(sum(span.duration_s for span in history.spans))
    spans = "" if len(history.spans) == 1 else f" in {len(history.spans)} periods"
    caption = f"{totals} at the end of {work} of work{spans}."
    return _picture(panels, "Rows over time", caption)


def pace(history: History, limits: dict[str, LearnedLimit]) -> Picture | None:
    """Requests per second, the 429s among the responses, and the limit if it is known."""
    if not history.spans:
        return None
    timeline = Timeline(history.spans)
    axes = Axes(_HEIGHT, "requests per second")
    sent = _steps(timeline, [(part.edges, part.per_s) for part in history.pace])
    axes.area(*sent, _PACE, 0.55, name="requests")
    axes.line(*sent, _PACE, width=0.8)
    if any(run.rate_limited for run in history.runs):
        refused = [(part.edges, part.rate_limited_per_s) for part in history.pace]
        axes.area(*_steps(timeline, refused), _LIMITED, name="answered 429")
    known = [limits[run.run_id] for run in history.runs if run.run_id in limits]
    most = max(float(part.per_s.max()) for part in history.pace)
    if known and max(limit.per_s for limit in known) <= most * _LIMIT_DRAWN_UNTIL:
        axes.line(*_limits(timeline, history, limits), INK, "4 2", 1, name="limit")
    timeline.mark(axes)
    timeline.label(axes)
    caption = _pace_caption(history, most, known)
    return _picture([axes], "Pace", caption)


def latency(latencies: Latencies) -> Picture | None:
    """A histogram of how long answers took, with the median and the 95th percentile."""
    if not latencies.total:
        return None
    seconds = np.maximum(latencies.ms / 1000, 0.001)
    shortest, longest = float(seconds[0]), float(seconds[-1])
    logarithmic = longest / shortest > _LOGARITHMIC_FROM
    axes = Axes(_HEIGHT, "answers", whole=True, logarithmic=logarithmic)
    if logarithmic:
        edges = np.geomspace(shortest, longest + 0.001, _LATENCY_BINS + 1)
        edges = np.unique(np.floor(edges * 1000) / 1000)  # no bin lies between two milliseconds
        places = logarithmic_numbers(float(edges[0]), float(edges[-1]))
    else:
        wide = max(longest - shortest, longest / 10)  # equal latencies need an axis too
        edges = np.linspace(longest - wide, longest * 1.001, _LATENCY_BINS + 1)
        places = round_numbers(float(edges[0]), float(edges[-1]), 5)
    axes.across = float(edges[0]), float(edges[-1])
    axes.ticks = [(place, f"{place:g}") for place in places]
    axes.x_label = "seconds" + (", logarithmic" if logarithmic else "")
    heights, _ = np.histogram(seconds, edges, weights=latencies.counts)
    steps = np.repeat(edges, 2)[1:-1], np.repeat(heights, 2)
    axes.area(*steps, _COLOURS[State.OK], 0.8)
    marks = {"median": 0.5, "95 %": 0.95}
    for dash, (name, part) in zip(("", "4 2"), marks.items(), strict=True):
        within = latencies.quantile_s(part)
        # The axis may begin at a rounded number, and a logarithmic one has no 0.
        axes.mark(max(within, axes.across[0]), dash, f"{name}: {latency_words(within)}")
    half, most = (latencies.quantile_s(part) for part in marks.values())
    caption = (
        f"Of {counted(latencies.total, 'answer')} the median took {latency_words(half)}, the 95th "
        f"percentile {latency_words(most)} and the slowest "
        f"{latency_words(float(latencies.ms[-1]) / 1000)}."
    )
    return _picture([axes], "Time to an answer", caption)


def failures(groups: Sequence[Group]) -> Picture | None:
    """Rows that are not ok, by code."""
    if not groups:
        return None
    shown = groups[:_MOST_CODES]
    rows = [
        (_short(f"{group.code or '(no code)'} · {group.state}"), group.count, _COLOURS[group.state])
        for group in shown
    ]
    rest = sum(group.count for group in groups[_MOST_CODES:])
    more = f", and {counted(rest, 'row')} of {len(groups) - len(shown)} more codes" if rest else ""
    named = ", ".join(f"{g.count:,} {g.code or '(no code)'} ({g.state})" for g in shown)
    title, caption = "Rows that are not ok, by code", f"{named}{more}."
    return Picture(title, bars(rows, f"{title}. {caption}"), caption)


def domains(samples: Samples) -> Picture | None:
    """The most cited sites."""
    top = samples.domains.most_common(_MOST_DOMAINS)
    if not top:
        return None
    rows = [(_short(name), count, _COLOURS[State.OK]) for name, count in top]
    read = f"{samples.answers:,} answers"
    if samples.parts_read < samples.parts:
        read += f" (a sample: {samples.parts_read} of {samples.parts} parts of the results)"
    caption = (
        f"{samples.citations:,} citations of {counted(len(samples.domains), 'site')} in "
        f"{samples.cited:,} of {read}. The most cited is {_short(top[0][0])}, {top[0][1]:,} times."
    )
    return Picture("Most cited sites", bars(rows, f"Most cited sites. {caption}"), caption)


def _line(timeline: Timeline, parts: Sequence[tuple[Numbers, Numbers]]) -> tuple[Numbers, Numbers]:
    """The points of one line through all spans, interrupted between them. `parts` has (times,
    values) for each span."""
    pieces = [
        (np.append(timeline.place(number, at), np.nan), np.append(values, np.nan))
        for number, (at, values) in enumerate(parts)
    ]
    return np.concatenate([x for x, _ in pieces]), np.concatenate([y for _, y in pieces])


def _steps(timeline: Timeline, parts: Sequence[tuple[Numbers, Numbers]]) -> tuple[Numbers, Numbers]:
    """The same for values that are constant between the edges of bins."""
    return _line(
        timeline, [(np.repeat(edges, 2)[1:-1], np.repeat(values, 2)) for edges, values in parts]
    )


def _limits(
    timeline: Timeline, history: History, limits: dict[str, LearnedLimit]
) -> tuple[Numbers, Numbers]:
    """The limit that each run measured, drawn for as long as the run sent requests."""
    runs = {run.run: run for run in history.runs}
    x, y = [], []
    for number, span in enumerate(history.spans):
        for run in (runs[run] for run in span.runs):
            if run.run_id in limits and run.first_sent is not None:
                ends = np.array([run.first_sent, run.last_seen or run.first_sent])
                x += [*timeline.place(number, ends), np.nan]
                y += [*[limits[run.run_id].per_s] * 2, np.nan]
    return np.array(x), np.array(y)


def _picture(panels: Sequence[Axes], title: str, caption: str) -> Picture:
    return Picture(title, picture(panels, f"{title}. {caption}"), caption)


def _short(name: str) -> str:
    """A name as one short line without hidden characters: servers and sheets choose names."""
    name = visible(name[: _LABEL + 1]).replace("\n", " ").replace("\t", " ")
    return name if len(name) <= _LABEL else name[: _LABEL - 1] + "…"


def _pace_caption(history: History, most: float, known: list[LearnedLimit]) -> str:
    requests = sum(run.requests for run in history.runs)
    limited = sum(run.rate_limited for run in history.runs)
    text = f"{requests:,} requests, at most {_brief(most)} per second"
    text += f". {limited:,} met the rate limit (429)." if limited else "."
    if known:
        last = known[-1]
        text += f" The last run measured a limit of {last.limit:,} per {_brief(last.window_s)} s."
    return text


def _brief(number: float) -> str:
    """A number with three digits, or as a whole number from 100 on."""
    return f"{number:,.0f}" if number >= 100 else f"{number:.3g}"


def latency_words(seconds: float) -> str:
    """A duration of an answer. The ledger has whole milliseconds, so 0 means under 1 ms."""
    if seconds < 0.001:
        return "under 1 ms"
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{_brief(seconds)} s"


def duration(seconds: float) -> str:
    """A duration in one or two units."""
    if seconds < 60:
        return f"{seconds:.3g} s"
    minutes = math.ceil(seconds / 60)
    hours, rest = divmod(minutes, 60)
    return f"{hours:,} h {rest} min" if hours else f"{minutes} min"
