"""Charts of matplotlib as part of a page whose policy allows no style attributes.

Each figure is rebuilt from the few elements and attributes that a chart needs. Styles become
presentation attributes. Ids stay only where something refers to them. The colour `INK` becomes the
text colour of the page, so the same chart suits light pages, dark pages and paper.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from xml.etree import ElementTree

import matplotlib
from matplotlib.figure import Figure

from pipeline.report.html.markup import Markup, element, joined

INK = "#010203"
"""A colour that is replaced by the text colour of the page."""

_FONTS = ("DejaVu Sans", "Verdana", "sans-serif")
_ELEMENTS = frozenset(("svg", "g", "path", "text", "defs", "use", "clipPath", "rect"))
_ATTRIBUTES = frozenset(
    ("d", "x", "y", "width", "height", "transform", "clip-path", "opacity", "font-size")
)
_PAINTS = re.compile(r"(fill|stroke|text-anchor|font-weight)(-[a-z]+)?")
_URL = re.compile(r"url\(#([\w-]+)\)")


@contextmanager
def drawing() -> Iterator[None]:
    """Sets matplotlib to its defaults and the report's, whatever the user's settings are.

    Text stays text: it takes little space, a screen reader can read it, and it can be copied. The
    browser draws it in a font about as wide as the one that matplotlib measures with.
    """
    with matplotlib.rc_context(), warnings.catch_warnings():
        # The browser draws a glyph that this font lacks in a font of the reader's.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(
            {
                "svg.fonttype": "none",
                "svg.hashsalt": "report",
                "text.parse_math": False,
                "font.family": "DejaVu Sans",
                "font.size": 9,
                "text.color": INK,
                "axes.edgecolor": INK,
                "axes.labelcolor": INK,
                "axes.linewidth": 0.6,
                "axes.spines.top": False,
                "axes.spines.right": False,
                "xtick.color": INK,
                "ytick.color": INK,
                "legend.frameon": False,
                "hatch.linewidth": 0.6,
            }
        )
        yield


def as_markup(figure: Figure, name: str, label: str) -> Markup:
    """The figure as inline SVG. `name` separates its ids from those of other charts on the page.
    `label` describes the chart for screen readers."""
    sink = io.StringIO()
    figure.savefig(
        sink,
        format="svg",
        transparent=True,
        metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")),
    )
    root = ElementTree.fromstring(sink.getvalue())
    referred = {found for node in root.iter() for found in _references(node)}
    content = [_redrawn(child, name, referred) for child in root]
    attributes = {
        "viewBox": root.attrib["viewBox"],
        "role": "img",
        "aria-label": label,
        "font-family": ", ".join(_FONTS),
        "stroke-linejoin": "round",
    }
    return element("svg", *content, attributes=dict(attributes))


def _redrawn(node: ElementTree.Element, name: str, referred: set[str]) -> Markup | None:
    tag = _local(node.tag)
    if tag not in _ELEMENTS:
        return None
    attributes = {}
    for key, value in _presented(node).items():
        if key == "id" and value in referred:
            attributes["id"] = f"{name}-{value}"
        elif key == "href" and value.startswith("#"):
            attributes["href"] = f"#{name}-{value[1:]}"
        elif key in _ATTRIBUTES or _PAINTS.fullmatch(key):
            value = _URL.sub(rf"url(#{name}-\1)", value)
            attributes[key] = "currentColor" if value == INK else value
    text = node.text if tag == "text" else None
    children = joined(*(_redrawn(child, name, referred) for child in node))
    if tag == "g" and not attributes:
        return children
    return element(tag, text, children, attributes=dict(attributes))


def _presented(node: ElementTree.Element) -> dict[str, str]:
    """A node's attributes, with the properties of its style as attributes."""
    found = {_local(key): value for key, value in node.attrib.items()}
    for declaration in found.pop("style", "").split(";"):
        key, _, value = declaration.partition(":")
        if value:
            found[key.strip()] = value.strip()
    return found


def _references(node: ElementTree.Element) -> Iterator[str]:
    """The ids that a node refers to."""
    for key, value in _presented(node).items():
        if key == "href" and value.startswith("#"):
            yield value[1:]
        yield from _URL.findall(value)


def _local(name: str) -> str:
    return name.rpartition("}")[2]
