"""Counts and lists for messages ("2 rows", "rows 3, 7"), and removal of unsafe characters.

Messages contain texts from servers and sheets. Terminals obey control sequences in them, and the
logs of hosted CI obey lines such as ``::error::`` (GitHub) and ``##vso[…]`` (Azure).
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

NAMED = 10
"""The number of rows that a message names one by one."""
_COMPARED_CHARACTERS = 100
_MESSAGE_CHARACTERS = 100
CODES_SHOWN = 20
"""The number of error codes that reports and metrics name one by one."""
# Control characters except tab and line feed, other line ends, characters that change or mark the
# direction of writing, invisible characters that only hide text (tags, zero-width spaces), and
# lone surrogates, which no stream can encode.
_UNPRINTABLE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff"
    "\ufff9-\ufffb\ud800-\udfff\U000e0000-\U000e0fff]"
)
UNSEEN = (
    "[\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u2028-\u202e\u2060-\u206f"
    "\u2800\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff9-\ufffb\U000e0000-\U000e0fff]"
)
"""The characters that print nothing, as a class for a pattern.

Some languages and emoji need several of them, so printed texts keep them. But programs that compare
texts by the rules of a language skip them, so `:`, one of these and `:` count as `::`.
"""
_COMMAND_LINE = re.compile(rf"^((?:[^\S\n]|{UNSEEN})*+:)(?={UNSEEN}*+:)", re.MULTILINE)
_COMMAND_ANYWHERE = re.compile(rf"#(?={UNSEEN}*+#(?:[\w.-]|{UNSEEN})*+\[)")
_TWO_SIGNS = re.compile(rf"#(?={UNSEEN}*+#)")


def printable(text: str) -> str:
    """Returns `text` without commands to a terminal or hosted CI. Its line feeds stay."""
    text = _UNPRINTABLE.sub("\N{REPLACEMENT CHARACTER}", text)
    return _COMMAND_ANYWHERE.sub("# ", _COMMAND_LINE.sub(r"\1 ", text))


def json_line(value: Any) -> str:
    """Returns `value` as one printable line of JSON, which parses to the same value."""
    return printable_json(json.dumps(value, ensure_ascii=False))


def printable_json(text: str) -> str:
    """Returns one line of JSON as a printable one, which parses to the same value."""
    text = _UNPRINTABLE.sub(lambda found: json.dumps(found[0])[1:-1], text)
    return _TWO_SIGNS.sub(r"\\u0023", text)


def counted(number: int, noun: str) -> str:
    """Returns ``1 row`` or ``2 rows``. `noun` is in the singular and forms its plural with an s."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def lasting(seconds: float) -> str:
    """Returns ``40 s``, ``12 min``, ``3 h 20 min`` or ``2 days 4 h``: exact enough to plan with."""
    if seconds < 100:
        return f"{max(seconds, 1):.0f} s"
    minutes = round(seconds / 60)
    if minutes < 100:
        return f"{minutes} min"
    if minutes < 48 * 60:
        return f"{minutes // 60} h {minutes % 60} min"
    hours = round(minutes / 60)
    return f"{hours // 24} days {hours % 24} h"


def listed(rows: Sequence[int], total: int | None = None) -> str:
    """Lists the first row numbers. `total` is the number of all rows if `rows` is only a part."""
    more = (len(rows) if total is None else total) - min(len(rows), NAMED)
    numbers = ", ".join(map(str, rows[:NAMED]))
    word = "row" if len(rows) == 1 and not more else "rows"
    return f"{word} {numbers}" + (f" and {more} more" if more > 0 else "")


def one_line(text: str, most: int) -> str:
    """Returns `text` as one line of at most `most` characters."""
    line = " ".join(text.split())
    return line if len(line) <= most else f"{line[: most - 1]}…"


def few_words(words: Iterable[str], most: int = 20) -> str:
    """Returns the first `most` words, and the number of the others."""
    words = list(words)
    more = f" and {len(words) - most} more" if len(words) > most else ""
    return ", ".join(words[:most]) + more


def nearest(word: str, known: Iterable[str]) -> str:
    """Returns a hint like ` Did you mean "story"?`, or an empty text."""

    def plain(name: str) -> str:  # the comparison takes time by the square of the length
        return name.casefold().strip()[:_COMPARED_CHARACTERS]

    import difflib  # only a refusal needs it

    by_plain = {plain(name): name for name in known}
    close = difflib.get_close_matches(plain(word), list(by_plain), n=1)
    return f' Did you mean "{by_plain[close[0]]}"?' if close else ""


def shortened(text: str) -> str:
    """Returns a server's text as one line of at most 100 characters, none of them a control one."""
    line = "".join(
        " " if unicodedata.category(character) in ("Cc", "Cf", "Zl", "Zp") else character
        for character in text
    )
    return line if len(line) <= _MESSAGE_CHARACTERS else line[: _MESSAGE_CHARACTERS - 1] + "…"


def few_codes(by_code: Mapping[str, int], rest: str = "other") -> dict[str, int]:
    """Returns the most frequent codes with their rows, and all others together under `rest`.

    Codes come from a server, or from a ledger that somebody else wrote, so each row may have a
    different one. The rows add up to the same number as before.
    """
    found = sorted(by_code.items(), key=lambda one: -one[1])
    few = dict(found[:CODES_SHOWN])
    more = sum(rows for _, rows in found[CODES_SHOWN:])
    if more:
        few[rest] = few.get(rest, 0) + more
    return few
