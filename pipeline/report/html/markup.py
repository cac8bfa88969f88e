"""HTML without unescaped text, because every text of a sheet or a server may be hostile.

Only `element` makes markup, and it escapes everything that is not markup yet. It refuses every
attribute that could run or load something. Only `link` makes links, and only to http and https.
"""

from __future__ import annotations

import html
import re
from dataclasses import dataclass
from urllib.parse import urlsplit

import idna

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9-]*")
_FRAGMENT = re.compile(r"#[\w-]+")
_VOID = frozenset(("meta", "br"))
_NEVER = frozenset(("script", "iframe", "object", "embed", "base", "form", "foreignObject"))
_LOADS = frozenset(("src", "srcset", "style", "action", "formaction", "data", "ping", "background"))
_LONGEST_URL = 2000
_IN_NO_URL = re.compile(r"[\x00-\x20\x7f-\xa0\u2028-\u202e\u2066-\u2069\ud800-\udfff\\<>\"`]")

# Control characters except tab and line feed, other line ends, characters that change the
# direction of writing, halves of surrogate pairs, and code points that are not characters.
_UNSEEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff]"
)


@dataclass(frozen=True, slots=True)
class Markup:
    """A piece of HTML that is safe wherever text is. Only `element` and `joined` make it."""

    source: str


@dataclass(frozen=True, slots=True)
class Url:
    """An address that a page may link to. Only `http_url` makes it."""

    text: str
    host: str


Child = Markup | str | None


def element(
    name: str,
    *children: Child,
    attributes: dict[str, str | Url] | None = None,
    class_: str | None = None,
) -> Markup:
    """``<name …>children</name>``. Escapes texts, and writes out the invisible characters in them.

    Raises:
        ValueError: for an element or attribute that could run or load something.
    """
    if not _NAME.fullmatch(name) or name in _NEVER:
        raise ValueError(f"no element of a report: {name}")
    given = {**({"class": class_} if class_ else {}), **(attributes or {})}
    opening = name + "".join(f" {_attribute(key, value)}" for key, value in given.items())
    if name in _VOID:
        return Markup(f"<{opening}>")
    return Markup(f"<{opening}>{joined(*children).source}</{name}>")


def joined(*children: Child) -> Markup:
    """The children one after the other, with texts escaped."""
    return Markup("".join(map(_source, children)))


def foreign(text: str, limit: int) -> Markup:
    """A text of a sheet or a server, cut to `limit` characters like `cut` does. Its direction of
    writing does not affect the text around it."""
    return element("bdi", cut(text, limit), attributes={"dir": "auto"})


def cut(text: str, limit: int) -> str:
    """The first `limit` characters of a text. If it is longer, its length follows."""
    if len(text) <= limit:
        return text
    return f"{text[:limit]}… ({len(text):,} characters in all)"


def visible(text: str) -> str:
    """`text` with invisible characters that have an effect written out, like [U+202E].

    Tabs and line feeds stay. A carriage return before a line feed is removed.
    """
    return _UNSEEN.sub(_written_out, text.replace("\r\n", "\n"))


def http_url(text: str) -> Url | None:
    """`text` as an address to link to; None unless it is a plain http or https address.

    An address with a user name or password is refused, because it can look like another host.
    """
    if len(text) > _LONGEST_URL or _IN_NO_URL.search(text):
        return None
    try:
        parts = urlsplit(text)
        host, _ = parts.hostname, parts.port  # a wrong port raises
    except ValueError:
        return None
    if parts.scheme not in ("http", "https") or not host or "@" in parts.netloc:
        return None
    try:
        return Url(text, _ascii_host(host))
    except idna.IDNAError:
        return None


def link(text: str, url: Url) -> Markup:
    """`text` as a link to `url`. The browser tells the site nothing about this page."""
    attributes: dict[str, str | Url] = {"href": url, "rel": "noopener noreferrer nofollow"}
    return element("a", element("bdi", text, attributes={"dir": "auto"}), attributes=attributes)


def _source(child: Child) -> str:
    if child is None:
        return ""
    return child.source if isinstance(child, Markup) else html.escape(visible(child))


def _attribute(name: str, value: str | Url) -> str:
    if not _NAME.fullmatch(name) or name.lower().startswith("on") or name.lower() in _LOADS:
        raise ValueError(f"no attribute of a report: {name}")
    if name == "href" and not isinstance(value, Url) and not _FRAGMENT.fullmatch(value):
        raise ValueError("only `http_url` makes an address")
    text = value.text if isinstance(value, Url) else visible(value)
    return f'{name}="{html.escape(text)}"'


def _written_out(found: re.Match[str]) -> str:
    code = ord(found[0])
    return "\N{REPLACEMENT CHARACTER}" if 0xD800 <= code <= 0xDFFF else f"[U+{code:04X}]"


def _ascii_host(host: str) -> str:
    """The host in ASCII, as the network knows it. Letters that look alike differ in this form.

    Raises:
        idna.IDNAError: for one that browsers would not open.
    """
    return host if host.isascii() else idna.encode(host, uts46=True).decode()
