"""What keeps a spreadsheet from calculating a server's text in a text file.

A spreadsheet takes a cell that begins with = for a formula, and Excel also many that begin with + -
or @. It skips characters that it does not show. Whoever opens the file with another separator than
it was written with cuts cells at that one, and at line breaks: then quotes in the middle of a cell
protect nothing. So the text is judged at its beginning, after each separator and after each line
break.
"""

from __future__ import annotations

import re

from pipeline.core.wording import UNSEEN

# Tab and line breaks are text. Spreadsheets drop the others, or stop at them.
_CONTROLS = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ufffe\uffff]")
# The wide ones are what East Asian keyboards write.
_SIGNS = "=+\\-@\uff1d\uff0b\uff0d\uff20"
_EQUALS = "=\uff1d"
_BREAKS = "\n\r\u2028\u2029"
_GAP = rf'(?:[^\S\t{_BREAKS}]|{UNSEEN}|")*+'
_FIRST = re.compile(rf"(?:\s|{UNSEEN})*+([{_SIGNS}])")
_ANY_LATER = re.compile(rf"[,;|\t{_BREAKS}]{_GAP}[{_SIGNS}]")
_CALL = rf"(|!{_EQUALS}"
"""A formula needs one of these to call a function or another program, or to read another file."""
_CALLS = re.compile(f"[{_CALL}]")
_PIECE = re.compile(rf"([,;|\t{_BREAKS}])({_GAP})([{_SIGNS}])|[{_CALL}{_BREAKS}]")
_REFERENCE = rf"\$?[A-Za-z]{{1,3}}\$?\d{{1,7}}\s*+(?:\Z|[-+*/^&<>:%,;|\t{_BREAKS}])"
# `- a list item`, `-5 °C`, `+49 170`, `@name` and a dash are neither a sum nor a call nor a cell.
_PLAIN = re.compile(
    rf"[-+]\s++(?!\d|{_REFERENCE})|[-+]\s*+[\d., :]{{1,40}}+%?+(?![\d+*/^&<>%-])"
    rf"|@(?!{_REFERENCE})\w|[-+]++(?:\Z|[,;|\t{_BREAKS}])"
)


def unformulaic(text: str, delimiter: str = ",") -> str:
    """`text` as a cell that no spreadsheet calculates, whatever separator it is opened with.

    A ' stands in front of what would begin a formula, and control characters are removed. A list
    item, a number or a name after a sign stays as it is if nothing follows that a formula needs to
    call a function or another program: in the whole text if it begins with the sign, and otherwise
    in the same line. `delimiter` is the file's own, as a file may have a rare one. Takes time in
    proportion to the text.
    """
    text = _CONTROLS.sub("", text)
    if delimiter not in ",;|\t" and delimiter in text:
        text = re.sub(rf"({re.escape(delimiter)}{_GAP})(?=[{_SIGNS}])", r"\1'", text)
    if _ANY_LATER.search(text):
        text = _without_later_ones(text)
    return f"'{text}" if _begins_formula(text) else text


def _begins_formula(text: str) -> bool:
    """Looks for calls in the whole text, because the next line may be a part of the formula."""
    found = _FIRST.match(text)
    if found is None:
        return False
    at = found.start(1)
    return _CALLS.search(text, at) is not None or _PLAIN.match(text, at) is None


def _without_later_ones(text: str) -> str:
    """From the end, so that it is known of each sign whether a call follows in its line."""
    pieces: list[str] = []
    end, calls = len(text), False
    for found in reversed(list(_PIECE.finditer(text))):
        before, _, sign = found.groups()
        if sign is None:
            calls = found[0] not in _BREAKS
            continue
        at = found.start(3)
        if sign in _EQUALS or calls or not _PLAIN.match(text, at):
            pieces += [text[at:end], "'"]
            end = at
        calls = before not in _BREAKS and (calls or sign in _EQUALS or before == "|")
    return text[:end] + "".join(reversed(pieces))
