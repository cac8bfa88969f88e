"""The time axis of a chart: work is drawn to scale, and the time between is cut out.

A run of three seconds, a run of nine hours, and a month of nightly runs all read from left to
right. Each pause takes only a sliver.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from itertools import accumulate

import numpy as np

from pipeline.ledger.trends import Numbers, Span
from pipeline.report.html.plot import Axes, round_numbers

_STEPS_S = (1, 2, 5, 10, 15, 30, *(60 * n for n in (1, 2, 5, 10, 15, 30)))
_STEPS_S += tuple(3600 * n for n in (1, 2, 3, 6, 12, 24, 48, 96, 168))
_MOST_TICKS = 5
_MOST_LABELS = 4
# Shorter axes count seconds since the first request, which say more than times of day.
_COUNTED_UNDER_S = 20.0
# All gaps together take at most the first share of the axis, and one gap at most the second.
_GAPS, _GAP = 0.25, 0.03


class Timeline:
    """Maps the moments of some spans to an axis whose unit is seconds of work.

    `begins` is where each span begins, `gap_s` how wide a gap is drawn.
    """

    def __init__(self, spans: Sequence[Span]) -> None:
        self.spans = spans
        work_s = sum(span.duration_s for span in spans)
        self.gap_s = work_s * min(_GAP, _GAPS / len(spans))
        steps = [span.duration_s + self.gap_s for span in spans]
        self.begins = [0.0, *accumulate(steps)][:-1]
        self.length_s = self.begins[-1] + spans[-1].duration_s

    def place(self, span: int, at: Numbers) -> Numbers:
        """The places on the axis of moments of a span; moments outside the axis at its edge."""
        placed: Numbers = self.begins[span] + (at - self.spans[span].begun)
        return np.clip(placed, 0.0, self.length_s)

    def mark(self, axes: Axes) -> None:
        """Sets the length of `axes` to that of the work, and draws the gaps."""
        for begin in self.begins[1:]:
            axes.band(begin - self.gap_s, self.gap_s)
        axes.across = 0.0, self.length_s

    def label(self, axes: Axes) -> None:
        """Puts ticks and their labels on the time axis of `axes`."""
        if len(self.spans) > 1:
            self._label_spans(axes)
        elif self.length_s < _COUNTED_UNDER_S:
            begun = datetime.fromtimestamp(self.spans[0].begun, UTC)
            places = round_numbers(0, self.length_s, _MOST_TICKS)
            axes.ticks = [(place, f"{place:g}") for place in places]
            axes.x_label = f"seconds since {begun:%Y-%m-%d %H:%M:%S} UTC"
        else:
            self._label_clock(axes)

    def _label_spans(self, axes: Axes) -> None:
        begins = self.begins
        kept: list[int] = []
        for number, begin in enumerate(begins):
            if not kept or begin - begins[kept[-1]] >= self.length_s / _MOST_LABELS:
                kept.append(number)
        if self.length_s - begins[kept[-1]] < self.length_s / 8 and len(kept) > 1:
            kept.pop()  # its label would be cut by the edge
        times = [datetime.fromtimestamp(self.spans[n].begun, UTC) for n in kept]
        labels = [f"{t:%d %b}\n{t:%H:%M}" for t in times]
        axes.ticks = list(zip([begins[n] for n in kept], labels, strict=True))
        axes.centred = False
        axes.x_label = "UTC; grey: no work, not to scale"

    def _label_clock(self, axes: Axes) -> None:
        span = self.spans[0]
        step_s = next((s for s in _STEPS_S if span.duration_s / s <= _MOST_TICKS), _STEPS_S[-1])
        ticks = list(_ticks(span, step_s))
        form = "%H:%M:%S" if step_s < 60 else "%H:%M" if step_s < 86_400 else "%d %b"
        labels = [datetime.fromtimestamp(tick, UTC).strftime(form) for tick in ticks]
        axes.ticks = [(tick - span.begun, text) for tick, text in zip(ticks, labels, strict=True)]
        axes.x_label = f"UTC, from {datetime.fromtimestamp(span.begun, UTC):%Y-%m-%d %H:%M}"


def _ticks(span: Span, step_s: int) -> Iterator[float]:
    tick = math.ceil(span.begun / step_s) * step_s
    while tick <= span.begun + span.duration_s:
        yield float(tick)
        tick += step_s
