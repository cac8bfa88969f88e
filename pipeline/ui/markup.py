"""The elements that only the page has: forms, fields, and addresses within it.

Texts go through the builder of the report, which escapes them. An address is made from a fixed path
and quoted values, so no text of a sheet can become one.
"""

from __future__ import annotations

import html
from collections.abc import Mapping
from urllib.parse import quote, urlencode

from pipeline.report.html.markup import Child, Markup, Url, element, joined, visible

_HEAD = (
    '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
    '<meta name="viewport" content="width=device-width, initial-scale=1">'
    '<meta name="color-scheme" content="light dark">'
    # htmx would add a style element, evaluate texts and run scripts of answers otherwise.
    '<meta name="htmx-config" content="{&quot;includeIndicatorStyles&quot;:false,'
    "&quot;allowEval&quot;:false,&quot;allowScriptTags&quot;:false,&quot;selfRequestsOnly&quot;"
    ':true,&quot;historyCacheSize&quot;:0,&quot;refreshOnHistoryMiss&quot;:true}">'
    '<link rel="stylesheet" href="/static/page.css"><link rel="icon" href="/static/icon.svg">'
    '<script src="/static/htmx.min.js" defer></script>'
    '<script src="/static/page.js" defer></script>'
)


def document(title: str, *body: Child) -> str:
    """A whole page of the browser."""
    skip = element("a", "To the content", attributes={"href": "#content"}, class_="skip")
    main = element("main", *body, attributes={"id": "content"})
    heading = element("title", title)
    return f"{_HEAD}{heading.source}</head><body>{joined(skip, main).source}</body></html>\n"


def local(path: str, **values: object) -> Url:
    """The address of a page below `path`, with `values` as its query. Leaves out None and ""."""
    query = urlencode(
        {k: str(v) for k, v in values.items() if v not in (None, "")}, quote_via=quote
    )
    return Url(f"{path}?{query}" if query else path, "")


def to(text: Child, address: Url, **attributes: str) -> Markup:
    """A link within the page."""
    return element("a", text, attributes={"href": address, **_named(attributes)})


def form(
    path: str, hidden: Mapping[str, object], *children: Child, method: str = "post", **more: str
) -> Markup:
    """A form that sends its fields, and the `hidden` ones, to `path`. Leaves out None."""
    fields = [
        field("hidden", name, str(value)) for name, value in hidden.items() if value is not None
    ]
    given = "".join(f' {name}="{_escaped(value)}"' for name, value in _named(more).items())
    inside = joined(*fields, *children).source
    return Markup(f'<form method="{method}" action="{_escaped(path)}"{given}>{inside}</form>')


def field(kind: str, name: str, value: str = "", **more: str) -> Markup:
    """An input field. A value keeps every character, so that it returns as it was sent."""
    given = {"type": kind, "name": name, "value": value, **_named(more)}
    return Markup(f"<input{_exact_all(given)}>")


def area(name: str, text: str, rows: int, **more: str) -> Markup:
    """A field for several lines."""
    given = {"name": name, "rows": str(rows), **_named(more)}
    # HTML drops the first line end in a text area.
    return Markup(f"<textarea{_exact_all(given)}>\n{_exact(text)}</textarea>")


def choice(name: str, options: Mapping[str, str], chosen: str, label: str) -> Markup:
    """A list to choose one of `options` from (value: text)."""
    found = [
        Markup(
            f'<option value="{_exact(value)}"{" selected" if value == chosen else ""}>'
            f"{joined(text).source}</option>"
        )
        for value, text in options.items()
    ]
    return element("label", label, " ", element("select", *found, attributes={"name": name}))


def button(text: str, *, kind: str | None = None, **more: str) -> Markup:
    """A button that sends its form. `kind` is its class: main, danger or None."""
    return element("button", text, attributes={"type": "submit", **_named(more)}, class_=kind)


def paragraph(*children: Child, class_: str | None = None) -> Markup:
    return element("p", *children, class_=class_)


def column_head(name: Child) -> Markup:
    """The name of a column of a table."""
    return element("th", name, attributes={"scope": "col"})


def bdi(text: str) -> Markup:
    """A text of a sheet. Its direction of writing does not affect the text around it."""
    return element("bdi", text, attributes={"dir": "auto"})


def _named(attributes: Mapping[str, str]) -> dict[str, str]:
    return {name.strip("_").replace("_", "-"): value for name, value in attributes.items()}


def _escaped(text: str) -> str:
    return html.escape(visible(text))


def _exact_all(attributes: Mapping[str, str]) -> str:
    return "".join(f' {name}="{_exact(value)}"' for name, value in attributes.items())


def _exact(text: str) -> str:
    return html.escape(text.encode("utf-8", "replace").decode())
