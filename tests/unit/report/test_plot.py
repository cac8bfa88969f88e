"""The axes, lines and areas of a report's pictures."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import numpy as np
import pytest

from pipeline.report.html.plot import Axes, bars, logarithmic_numbers, picture, round_numbers


@pytest.mark.parametrize("most", [2, 5, 6])
@pytest.mark.parametrize(
    ("low", "high"), [(0, 1), (0, 0.004), (0, 7), (0, 260), (3.2, 3.9), (0, 1.05e7), (99, 101)]
)
def test_round_numbers_are_few_equally_spaced_and_inside(low, high, most):
    """Each is a multiple of 1, 2 or 5 times a power of ten."""
    found = round_numbers(low, high, most)
    assert 1 <= len(found) <= most + 1
    assert low <= found[0]
    assert found[-1] <= high
    if len(found) > 1:
        steps = np.diff(found)
        assert steps == pytest.approx([steps[0]] * len(steps))
        assert f"{steps[0]:.6e}"[:3] in ("1.0", "2.0", "5.0")


def test_a_count_has_no_labels_between_whole_numbers():
    """Half a row does not exist."""
    assert round_numbers(0, 1.05, 6, whole=True) == [0, 1]
    assert [label for _, label in Axes(187, "rows", whole=True).y_ticks()] == ["0", "1"]


@pytest.mark.parametrize("low", [0.001, 0.03, 1.0, 40.0])
@pytest.mark.parametrize("factor", [21, 100, 1e4, 1e6])
def test_a_logarithmic_axis_has_a_few_round_numbers(low, factor):
    """From the shortest to the longest answer."""
    found = logarithmic_numbers(low, low * factor)
    assert 2 <= len(found) <= 7
    assert low <= found[0] < found[-1] <= low * factor


def drawn(axes: Axes) -> ElementTree.Element:
    """The picture of one panel, as a tree."""
    return ElementTree.fromstring(picture([axes], "about").source)


def test_a_line_is_interrupted_where_a_number_is_missing_and_stays_inside_its_picture():
    """No point is lost, and a larger value is higher."""
    axes = Axes(100, "rows", across=(0, 10))
    axes.line(np.array([0, 4, np.nan, 6, 10]), np.array([0, 8, np.nan, 9, 5.0]), "#0072b2")
    tree = drawn(axes)
    [line] = [node.get("d", "") for node in tree if node.get("stroke") == "#0072b2"]
    points = [tuple(map(float, point.split())) for point in re.split("[ML]", line) if point]
    assert (line.count("M"), len(points)) == (2, 4)
    assert [x for x, _ in points] == sorted(x for x, _ in points)
    assert points[2][1] < points[1][1] < points[3][1] < points[0][1]
    width, height = map(float, tree.get("viewBox", "").split()[2:])
    assert all(0 <= x <= width and 0 <= y <= height for x, y in points)


@pytest.mark.parametrize("centred", [True, False])
def test_a_label_at_the_right_edge_is_not_cut(centred):
    """A time of day with seconds was: its last digit was missing."""
    axes = Axes(100, "rows", across=(0, 10))
    axes.centred = centred
    axes.ticks = [(0, "07:48:00"), (10, "07:50:00")]
    tree = drawn(axes)
    width = float(tree.get("viewBox", "").split()[2])
    [first, last] = [float(node.get("x", "")) for node in tree if ":" in (node.text or "")]
    assert last + 0.6 * 9 * 8 / (2 if centred else 1) <= width
    assert first < last - 100
    axes.ticks.insert(1, (8.5, "07:49:30"))  # no room for both
    assert [node.text for node in drawn(axes) if ":" in (node.text or "")] == [
        "07:48:00",
        "07:49:30",
    ]


def test_values_that_are_all_zero_or_missing_are_drawn_too():
    """A run that sent nothing has an axis from 0 to 1."""
    axes = Axes(100, "rows", across=(0, 0))
    axes.area(np.array([0.0, 0.0]), np.array([0.0, 0.0]), "red", name="none")
    axes.line(np.array([np.nan]), np.array([np.nan]), "blue")
    assert "nan" not in ElementTree.tostring(drawn(axes), encoding="unicode")


def test_the_longest_bar_fills_the_picture_and_the_others_are_in_proportion():
    """A count of a millionth can still be seen."""
    tree = ElementTree.fromstring(bars([("a", 100, "red"), ("b", 50, "red")], "about").source)
    wide = [
        float(found) for found in re.findall(r"h([\d.]+)v", ElementTree.tostring(tree).decode())
    ]
    assert wide[0] == pytest.approx(2 * wide[1])
    assert [node.text for node in tree if node.tag == "text"] == ["a: 100", "b: 50"]
    tree = ElementTree.fromstring(bars([("a", 10**7, "red"), ("b", 1, "red")], "about").source)
    assert "h0.5v" in ElementTree.tostring(tree).decode()
