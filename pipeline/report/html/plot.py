"""Draws axes with lines, areas and marks as SVG, for a page whose policy allows no styles.

Lengths are points. Text stays text: a screen reader can read it, and it can be copied. The text
colour of the page draws the axes, so the same chart suits light pages, dark pages and paper.

A plotting library for the same five charts, with all that it needs, was 81 MB of an installation
and took 1.4 of the 1.8 s of CPU time of a report on 260 rows.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from pipeline.ledger.trends import Numbers
from pipeline.report.html.markup import Markup, element, joined

INK = "currentColor"
WIDTH = 302.0
"""About the width of a page on a phone, so that the text in a chart is as large as on the page."""
_FONT, _SMALL = 9.0, 8.0
_RIGHT, _LEGEND, _LINE = 8.0, 15.0, 11.0
# The widest of the fonts needs about this share of the font's size for a character.
_CHARACTER = 0.6
_ROUND = (1, 2, 5, 10)


@dataclass(slots=True)
class Axes:
    """One panel. `across` is the range of its horizontal axis; the vertical one begins at 0.

    `ticks` has the places and labels of the horizontal axis. A label may have several lines. They
    are centred, or begin at their tick.
    """

    height: float
    y_label: str
    whole: bool = False
    logarithmic: bool = False
    across: tuple[float, float] = (0.0, 1.0)
    ticks: list[tuple[float, str]] = field(default_factory=list)
    centred: bool = True
    x_label: str = ""
    legend: bool = True
    _lines: list[tuple[Numbers, Numbers, dict[str, str]]] = field(default_factory=list)
    _areas: list[tuple[Numbers, Numbers, dict[str, str]]] = field(default_factory=list)
    _bands: list[tuple[float, float]] = field(default_factory=list)
    _marks: list[tuple[float, dict[str, str]]] = field(default_factory=list)
    _names: list[tuple[str, dict[str, str]]] = field(default_factory=list)

    def line(
        self,
        x: Numbers,
        y: Numbers,
        colour: str,
        dash: str = "",
        width: float = 1.8,
        name: str = "",
    ) -> None:
        """Adds a line. It is interrupted where a number is not one."""
        paint = _stroke(colour, dash, width)
        self._lines.append((x, y, paint))
        self._named(name, paint)

    def area(self, x: Numbers, y: Numbers, colour: str, opacity: float = 1, name: str = "") -> None:
        """Adds an area between a line and the horizontal axis."""
        paint = {"fill": colour, "fill-opacity": f"{opacity:g}", "stroke": "none"}
        self._areas.append((x, y, paint))
        self._named(name, _stroke(colour, "", 6) | {"stroke-opacity": f"{opacity:g}"})

    def band(self, begin: float, width: float) -> None:
        """Adds a grey part of the horizontal axis."""
        self._bands.append((begin, begin + width))

    def mark(self, x: float, dash: str, name: str) -> None:
        """Adds a vertical line."""
        paint = _stroke(INK, dash, 1)
        self._marks.append((x, paint))
        self._named(name, paint)

    def _named(self, name: str, paint: dict[str, str]) -> None:
        if name:
            self._names.append((name, paint))

    @property
    def _top(self) -> float:
        """The largest value, with a little space above it."""
        values = [y for _, y, _ in (*self._lines, *self._areas)]
        return (
            1.05 * max((float(np.nanmax(y)) for y in values if np.isfinite(y).any()), default=1)
            or 1
        )

    def y_ticks(self) -> list[tuple[float, str]]:
        """The places and labels of the vertical axis."""
        most = round(self.height / 30)  # so that two labels do not touch
        form = "{:,.0f}" if self.whole else "{:,g}"
        return [(at, form.format(at)) for at in round_numbers(0, self._top, most, whole=self.whole)]

    def drawn(self, top: float, left: float, *, labelled: bool) -> Markup:
        """The panel from `top` on, with `left` points for the labels of the vertical axis."""
        named = self._names if self.legend else []
        below = (
            (
                3
                + _LINE * max((label.count("\n") + 1 for _, label in self.ticks), default=0)
                + (_LINE + 2 if self.x_label else 0)
            )
            if labelled
            else 6
        )
        high, low = top + (_LEGEND if named else 4), top + self.height - below
        begin, end = np.log10(self.across) if self.logarithmic else self.across
        per_unit = (WIDTH - _RIGHT - left) / ((end - begin) or 1)

        def x_of(at: Numbers) -> Numbers:
            return left + ((np.log10(at) if self.logarithmic else at) - begin) * per_unit

        def y_of(at: Numbers) -> Numbers:
            return low - at * (low - high) / self._top

        parts = [
            _path(
                f"M{_n(a)} {_n(high)}H{_n(b)}V{_n(low)}H{_n(a)}Z",
                {"fill": "#808080", "fill-opacity": "0.3"},
            )
            for a, b in (x_of(np.array(band)) for band in self._bands)
        ]
        for x, y, paint in self._areas:
            for px, py in _pieces(x_of(x), y_of(y)):
                edge = f"{_joined_points(px, py)}L{_n(px[-1])} {_n(low)}L{_n(px[0])} {_n(low)}Z"
                parts.append(_path(edge, paint))
        for x, y, paint in self._lines:
            text = "".join(_joined_points(*piece) for piece in _pieces(x_of(x), y_of(y)))
            parts.append(_path(text, paint))
        for at, paint in self._marks:
            parts.append(_path(f"M{_n(x_of(np.array(at)))} {_n(low)}V{_n(high)}", paint))
        frame = f"M{_n(left)} {_n(high)}V{_n(low)}H{_n(WIDTH - _RIGHT)}"
        for at, label in self.y_ticks():
            level = float(y_of(np.array(at)))
            frame += f"M{_n(left)} {_n(level)}h-3"
            parts.append(_text(left - 5, level + 3, label, "end"))
        labelled_to = 0.0
        for at, label in self.ticks:
            place = float(x_of(np.array(at)))
            frame += f"M{_n(place)} {_n(low)}v3"
            if not labelled:
                continue
            lines, anchor = label.split("\n"), "middle" if self.centred else "start"
            wide = _CHARACTER * _FONT * max(map(len, lines))
            before = wide / 2 if self.centred else 0.0
            inside = min(place, WIDTH - wide + before)  # the right edge must not cut it
            if inside < place and inside - before < labelled_to:
                continue
            labelled_to = inside - before + wide
            parts += [
                _text(inside, low + 3 + _LINE * (n + 1) - 2, line, anchor)
                for n, line in enumerate(lines)
            ]
        parts.append(_path(frame, _stroke(INK, "", 0.6)))
        if labelled and self.x_label:
            parts.append(_text((left + WIDTH) / 2, top + self.height - 3, self.x_label, "middle"))
        middle = (high + low) / 2
        turned = {"transform": f"rotate(-90 9 {_n(middle)})"}
        parts.append(_text(9, middle, self.y_label, "middle", more=turned))
        return joined(*parts, _legend(named, left, top + 8))


def round_numbers(low: float, high: float, most: int, *, whole: bool = False) -> list[float]:
    """At most `most` + 1 round numbers between two numbers, at equal distances."""
    step = max((high - low) / most, 1 if whole else 1e-12)
    size = 10.0 ** math.floor(math.log10(step))
    step = next(factor * size for factor in _ROUND if factor * size >= step * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [float(f"{n * step:.12g}") for n in range(first, last + 1)]


def logarithmic_numbers(low: float, high: float) -> list[float]:
    """Round numbers for a logarithmic axis: 1, 2 and 5 times each power, or the powers alone."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    found = [float(f"{n}e{power}") for power in powers for n in (1, 2, 5)]
    found = [number for number in found if low <= number <= high]
    powers_alone = [number for number in found if f"{number:e}".startswith("1.0")]
    return found if len(found) <= 6 or len(powers_alone) < 2 else powers_alone


def picture(panels: Sequence[Axes], label: str) -> Markup:
    """The panels below each other as inline SVG. `label` describes them for screen readers."""
    longest = max(len(text) for axes in panels for _, text in axes.y_ticks())
    left = 16 + 5 + longest * _FONT * _CHARACTER
    tops = [sum(axes.height for axes in panels[:n]) for n in range(len(panels))]
    drawn = [
        axes.drawn(top, left, labelled=axes is panels[-1])
        for axes, top in zip(panels, tops, strict=True)
    ]
    return _svg(drawn, sum(axes.height for axes in panels), label)


def bars(rows: Sequence[tuple[str, int, str]], label: str) -> Markup:
    """Bars with their names above them, because a name may be long and a page narrow."""
    most, step = max(count for _, count, _ in rows), 26.0
    parts = []
    for n, (name, count, colour) in enumerate(rows):
        wide = max((WIDTH - _RIGHT) * count / most, 0.5)
        parts.append(_text(0, n * step + 10, f"{name}: {count:,}", "start"))
        parts.append(_path(f"M0 {_n(n * step + 13)}h{_n(wide)}v9H0Z", {"fill": colour}))
    return _svg(parts, len(rows) * step, label)


def _svg(parts: Iterable[Markup], height: float, label: str) -> Markup:
    attributes = {
        "viewBox": f"0 0 {_n(WIDTH)} {_n(height)}",
        "role": "img",
        "aria-label": label,
        "font-family": "DejaVu Sans, Verdana, sans-serif",
        "stroke-linejoin": "round",
        "fill": INK,
    }
    return element("svg", *parts, attributes=dict(attributes))


def _legend(names: Sequence[tuple[str, dict[str, str]]], x: float, y: float) -> Markup:
    parts = []
    for name, paint in names:
        parts.append(_path(f"M{_n(x)} {_n(y - 3)}h16", paint))
        parts.append(_text(x + 20, y, name, "start", _SMALL))
        x += 32 + len(name) * _SMALL * _CHARACTER
    return joined(*parts)


def _stroke(colour: str, dash: str, width: float) -> dict[str, str]:
    paint = {"fill": "none", "stroke": colour, "stroke-width": f"{width:g}"}
    return paint | ({"stroke-dasharray": dash} if dash else {})


def _path(text: str, paint: dict[str, str]) -> Markup:
    return element("path", attributes={"d": text, **paint})


def _text(
    x: float,
    y: float,
    text: str,
    anchor: str,
    size: float = _FONT,
    more: dict[str, str] | None = None,
) -> Markup:
    place = {"x": _n(x), "y": _n(y), "font-size": f"{size:g}", "text-anchor": anchor}
    return element("text", text, attributes={**place, **(more or {})})


def _pieces(x: Numbers, y: Numbers) -> list[tuple[Numbers, Numbers]]:
    """The points between those that are not numbers."""
    good = np.isfinite(x) & np.isfinite(y)
    edges = np.flatnonzero(np.diff(np.concatenate(([False], good, [False])).astype(int)))
    return [(x[a:b], y[a:b]) for a, b in edges.reshape(-1, 2)]


def _joined_points(x: Numbers, y: Numbers) -> str:
    """A path through points. Of points that are drawn at the same place, it has one."""
    points = dict.fromkeys(f"{_n(a)} {_n(b)}" for a, b in zip(x, y, strict=True))
    return "M" + "L".join(points)


def _n(number: float | Numbers) -> str:
    return f"{float(number):.1f}".removesuffix(".0")
