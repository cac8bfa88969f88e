"""Texts inside the XML of a workbook.

The standard library's `xml.sax.saxutils` does the same, but imports an HTTP client.
"""

from __future__ import annotations

_LINE_ENDS = {"\n": "&#10;", "\r": "&#13;", "\t": "&#9;"}


def escape(text: str) -> str:
    """Returns a text as the content of an element."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def quoteattr(text: str) -> str:
    """Returns a text as the value of an attribute, with its quotes."""
    text = escape(text)
    for character, entity in _LINE_ENDS.items():
        text = text.replace(character, entity)
    if '"' not in text:
        return f'"{text}"'
    return f"'{text}'" if "'" not in text else '"{}"'.format(text.replace('"', "&quot;"))
