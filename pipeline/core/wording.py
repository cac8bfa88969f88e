"""How messages count (one row, two rows, rows 3, 7 and 9) and what of them may be printed.

Texts of servers and sheets end up in terminals, which obey control sequences, and in the logs of
hosted CI, which obey lines such as ``::error::`` (GitHub) and ``##vso[…]`` (Azure).
"""

from __future__ import annotations

import difflib
import json
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

_NAMED = 10
_COMPARED_CHARACTERS = 100
_MESSAGE_CHARACTERS = 100
CODES_SHOWN = 20
"""How many codes are named one by one where people and monitors look."""
# Control characters but tab and line feed, other line ends, what turns the direction of writing or
# marks it, what cannot be seen and only hides text (tags, zero-width spaces), and halves of
# surrogate pairs, which no stream takes.
_UNPRINTABLE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff"
    "\ufff9-\ufffb\ud800-\udfff\U000e0000-\U000e0fff]"
)
UNSEEN = (
    "[\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u2028-\u202e\u2060-\u206f"
    "\u2800\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff9-\ufffb\U000e0000-\U000e0fff]"
)
"""The class, for a pattern, of characters without a picture. Letters of some languages and emoji
need several of them, so they stay in what is printed; but programs that compare texts by the rules
of a language skip them, so `:`, one of them and `:` are `::`."""
_COMMAND_LINE = re.compile(rf"^((?:[^\S\n]|{UNSEEN})*+:)(?={UNSEEN}*+:)", re.MULTILINE)
_COMMAND_ANYWHERE = re.compile(rf"#(?={UNSEEN}*+#(?:[\w.-]|{UNSEEN})*+\[)")
_TWO_SIGNS = re.compile(rf"#(?={UNSEEN}*+#)")


def printable(text: str) -> str:
    """`text` without what a terminal or hosted CI would take as a command. Its line feeds stay."""
    text = _UNPRINTABLE.sub("\N{REPLACEMENT CHARACTER}", text)
    return _COMMAND_ANYWHERE.sub("# ", _COMMAND_LINE.sub(r"\1 ", text))


def json_line(value: Any) -> str:
    """`value` as one line of JSON that is printable in the same sense, and reads back the same."""
    text = json.dumps(value, ensure_ascii=False)
    text = _UNPRINTABLE.sub(lambda found: json.dumps(found[0])[1:-1], text)
    return _TWO_SIGNS.sub(r"\\u0023", text)


def counted(number: int, noun: str) -> str:
    """``1 row``, ``2 rows``: `noun` in the singular, its plural by an s."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def lasting(seconds: float) -> str:
    """``40 s``, ``12 min``, ``3 h 20 min``, ``2 days 4 h``: as exactly as one plans by it."""
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
    """The first of some row numbers; `total` is how many there are where `rows` is a part."""
    more = (len(rows) if total is None else total) - min(len(rows), _NAMED)
    numbers = ", ".join(map(str, rows[:_NAMED]))
    word = "row" if len(rows) == 1 and not more else "rows"
    return f"{word} {numbers}" + (f" and {more} more" if more > 0 else "")


def one_line(text: str, most: int) -> str:
    """`text` in one line of at most `most` characters."""
    line = " ".join(text.split())
    return line if len(line) <= most else f"{line[: most - 1]}…"


def few_words(words: Iterable[str], most: int = 20) -> str:
    """The first `most` words, and the number of the others."""
    words = list(words)
    more = f" and {len(words) - most} more" if len(words) > most else ""
    return ", ".join(words[:most]) + more


def nearest(word: str, known: Iterable[str]) -> str:
    """A hint like ` Did you mean "story"?`, or nothing."""

    def plain(name: str) -> str:  # comparing takes the square of the length
        return name.casefold().strip()[:_COMPARED_CHARACTERS]

    by_plain = {plain(name): name for name in known}
    close = difflib.get_close_matches(plain(word), list(by_plain), n=1)
    return f' Did you mean "{by_plain[close[0]]}"?' if close else ""


def shortened(text: str) -> str:
    """One line without control characters, for texts that a server wrote."""
    line = "".join(
        " " if unicodedata.category(character) in ("Cc", "Cf", "Zl", "Zp") else character
        for character in text
    )
    return line if len(line) <= _MESSAGE_CHARACTERS else line[: _MESSAGE_CHARACTERS - 1] + "…"


def few_codes(by_code: Mapping[str, int], rest: str = "other") -> dict[str, int]:
    """The most frequent codes with their rows, and all others as one, called `rest`.

    A code is what a server says, or a ledger of somebody else: each may be another one. The rows
    add up to the same number.
    """
    found = sorted(by_code.items(), key=lambda one: -one[1])
    few = dict(found[:CODES_SHOWN])
    more = sum(rows for _, rows in found[CODES_SHOWN:])
    if more:
        few[rest] = few.get(rest, 0) + more
    return few
