"""An answer as safe markup: JSON with indents, a small part of Markdown, or plain text.

Only `element` makes the markup, and only `http_url` makes the links, so an answer brings no
elements, no pictures and no addresses other than http and https. All patterns are linear.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from itertools import groupby, pairwise

from pipeline.report.html.markup import Child, Markup, element, http_url, link
from pipeline.ui.markup import bdi

_MOST = 200_000
_DEEPEST = 40
"""Levels with an indent. With all levels, a hostile answer would become 1,000 times as long."""
_HEADING = re.compile(r"#{1,6} +(.*)")
_BULLET = re.compile(r"(?:[-*+]|\d{1,9}[.)]) +(.*)")
_INLINE = re.compile(
    r"`([^`\n]{1,500})`|\*\*([^*\n]{1,500})\*\*|\*([^*\s][^*\n]{0,500})\*"
    r"|\[([^\[\]\n]{1,500})\]\(([^()\s]{1,2000})\)"
)
_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*+"|[\[\]{}:,]|[^\s\[\]{}:,"]++')
_FENCE = "```"


def rendered(text: str) -> Markup:
    """The answer for reading."""
    if len(text) > _MOST:
        return element("pre", bdi(text))
    found = _json(text)
    if found is not None:
        return element("pre", element("code", found))
    lines = _kinds(text.replace("\r\n", "\n").split("\n"))
    blocks = groupby(lines, lambda one: one[:2])
    return element("div", *(_block(kind, [t for *_, t in part]) for (kind, _), part in blocks))


def _json(text: str) -> str | None:
    """The text with indents if it is a JSON object or list.

    Only spaces and escaped letters change. Python's values would change numbers such as 1.10, and
    would lose the first of two equal keys.
    """
    if text.strip()[:1] not in ("{", "["):
        return None
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return None
    return "".join(_indented(_TOKEN.findall(text)))


def _indented(tokens: list[str]) -> Iterator[str]:
    depth = 0
    for before, token in pairwise(["", *tokens]):
        opened, closed = before in ("[", "{"), token in ("]", "}")
        depth += opened - closed
        if before == "," or opened != closed:
            yield "\n" + "  " * min(depth, _DEEPEST)
        yield _readable(token) + (" " if token == ":" else "")


def _readable(token: str) -> str:
    """A text with its letters instead of their numbers, unless one cannot be written."""
    if "\\u" not in token:
        return token
    letters = json.dumps(json.loads(token), ensure_ascii=False)
    return letters if letters.isprintable() else token


def _kinds(lines: Iterable[str]) -> Iterator[tuple[str, int, str]]:
    """Yields (element, number of its block, text) for each line. Empty lines separate blocks."""
    fenced, number = False, 0
    for line in lines:
        words = line.strip()
        if words.startswith(_FENCE):
            fenced, number = not fenced, number + 1
        elif fenced:
            yield "pre", number, line
        elif not words:
            number += 1
        elif heading := _HEADING.fullmatch(words):
            number += 1
            yield "h4", number, heading[1]
        elif bullet := _BULLET.fullmatch(words):
            yield "ul", number, bullet[1]
        else:
            yield "p", number, line


def _block(kind: str, lines: list[str]) -> Markup:
    match kind:
        case "pre":
            return element("pre", element("code", "\n".join(lines)))
        case "ul":
            items = (element("li", *_inline(line), attributes={"dir": "auto"}) for line in lines)
            return element("ul", *items)
        case _:
            return element(kind, *_inline("\n".join(lines)), attributes={"dir": "auto"})


def _inline(text: str) -> Iterator[Child]:
    """The text with its code, emphasis and links as elements."""
    end = 0
    for found in _INLINE.finditer(text):
        yield text[end : found.start()]
        code, strong, emphasis, words, address = found.groups()
        url = http_url(address) if address else None
        if code is not None:
            yield element("code", code)
        elif strong is not None:
            yield element("strong", strong)
        elif emphasis is not None:
            yield element("em", emphasis)
        else:
            yield found[0] if url is None else link(words, url)
        end = found.end()
    yield text[end:]
