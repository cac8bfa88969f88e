"""Flags: what makes a paid answer look wrong, decided from its text and the variables it is for.

They are stored with the answer. Three more kinds are computed whenever answers are read, because
they depend on the job file and on other rows: `not_json`, `missing:NAME` and `type:NAME` of
`columns:`, and `repeated`. `all_flags` puts them together.

A flagged row is ok all the same: it was paid, and only its reader knows whether it will do. So a
flag prefers to miss one over crying wolf. `repeated` needs the other answers: see `lookup`.

An answer that is slow to look at would stop its run folder for good, as it is looked at again at
each start. So each pattern takes time in proportion to the text, whatever the text is, and the
text has a bound. Patterns use `++` and `*+`, which never give a character back. A new pattern
belongs into `tests/promises/test_linear.py` with its worst text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable

from pipeline.job.answer_columns import AnswerColumn, flags_of_columns
from pipeline.policy.answer import EMPTY

REFUSAL = "refusal"
UNDEFINED = "undefined"
TEMPLATE = "template"
REPEATED = "repeated"
FLAGS = (EMPTY, REFUSAL, UNDEFINED, TEMPLATE, REPEATED)
NOTES = (
    "result_not_text",
    "result_repaired",
    "citations_odd",
    "citations_cut",
    "charset_guessed",
)
"""Flags of answers that the runner had to change to store them (see `policy.answer`). They do not
make an answer look wrong, so the report leaves them out."""

REPEATED_FROM_CHARACTERS = 40
"""Shorter answers, such as a label or a yes, are equal by right."""

LOOKED_AT_CHARACTERS = 1_000_000
"""Flags are looked for in this many first characters of an answer: 0.3 s of CPU time at most."""

# Quotes and the like before the first word. Markdown's own signs are taken out of the beginning.
_LEAD = r"\W*"
_MARKDOWN = str.maketrans("", "", "*_`")
_CANNOT = (
    r"(?:can(?:['’]?t|not| not)|(?:am |['’]m )(?:not able|unable) to|won['’]t(?: be able to)?)"
)
_DO = (
    r"(?:assist|help|fulfil\w*|comply|provide|generate|create|write|produce|answer|support|engage|"
    r"continue|do that|discuss|complete|process|access|browse|share|offer|respond|recommend)\b"
)
_SORRY = r"(?:i['’]?m|i am)\s+(?:\w+\s+){0,2}sorry|sorry|my apologies|i apologi[sz]e|unfortunately"
_REFUSAL = re.compile(
    rf"{_LEAD}(?:"
    # "I'm sorry, but I can't …", "Unfortunately, I am unable to …"
    rf"(?:{_SORRY})(?:\s+for\s[^.,\n]{{1,40}})?[^\w\n]{{1,3}}(?:but\s+)?"
    rf"(?:as an ai\b|i\s?(?:{_CANNOT})\s+(?:\w+\s+)?{_DO})"
    # "I cannot assist with that": here the object has to follow, "I can't help but" is a story
    rf"|i\s?(?:{_CANNOT})\s+(?:\w+\s+)?(?:(?:assist|help)\s+(?:you\s+)?(?:with|in)\b|comply\b"
    r"|(?:fulfil\w*|process|complete|support|engage|respond|answer|provide|generate|create|write)"
    r"\s+(?:\w+\s+){0,3}(?:request|prompt|content)\b|do that\b)"
    r"|as an? (?:ai|artificial intelligence)(?: language)?(?: model| assistant)?,"
    r"|i (?:must|have to) (?:respectfully )?decline\b"
    r"|i['’]?m (?:just )?an ai (?:language )?(?:model|assistant)\b"
    r")",
    re.IGNORECASE,
)
_NOTHINGS = r"(?:undefined|null|NaN|\[object Object\])"
_ONLY_NOTHING = re.compile(rf"[\s\"'`]*{_NOTHINGS}(?:[\s,;]+{_NOTHINGS})*[\s\"'`.]*")
_TO_NOBODY = re.compile(r"\W*(?:Dear|Hello|Hi)\s+(?:undefined|null|NaN)\b")
_OBJECT = "[object Object]"
_MARKER = re.compile(r"\{\{\s*+[#/^&>!]?+\s*+[\w.\- ]{1,80}+\s*+\}\}")
# How templates of several kinds write the place of a variable: {name} (so ${name} too), $$name$$,
# %name% and [[name]]. Looking ahead, as the end of one place may be the beginning of another.
_PLACE = re.compile(
    r"\{(?=([^{}]++)\})|\$(?=\$([^$]++)\$\$)|%(?=([^%]++)%)|\[(?=\[([^\[\]]++)\]\])"
)
_BEGINNING = 400


def known_flags(columns: Iterable[AnswerColumn]) -> tuple[str, ...]:
    """Returns every flag that an answer of a job with these columns can have."""
    return (*FLAGS, *NOTES, *flags_of_columns(columns))


def all_flags(stored: Iterable[str], of_columns: Iterable[str], repeated: bool) -> list[str]:
    """Returns the flags of one answer in the order of `known_flags`."""
    return [*stored, *([REPEATED] if repeated else []), *of_columns]


def flags_of(result: str, request: str) -> tuple[str, ...]:
    """Returns the flags of an answer's text except `empty`, in the order of `FLAGS`.

    `request` is the JSON object of the variables as they were sent. An answer may repeat the text
    of a variable: that alone is no reason for a flag. Only the first `LOOKED_AT_CHARACTERS` of
    `result` count.
    """
    result = result[:LOOKED_AT_CHARACTERS]
    variables = {name: str(text) for name, text in json.loads(request).items()}
    sent = "\n".join(variables.values())
    checks = {
        REFUSAL: _REFUSAL.match(result[:_BEGINNING].translate(_MARKDOWN)) is not None,
        UNDEFINED: _is_undefined(result, sent),
        TEMPLATE: _is_template(result, variables, sent),
    }
    return tuple(flag for flag, found in checks.items() if found)


def _is_undefined(result: str, sent: str) -> bool:
    if _OBJECT in result:
        return _OBJECT not in sent
    if _TO_NOBODY.match(result[:_BEGINNING]):
        return True
    return _ONLY_NOTHING.fullmatch(result) is not None and result.strip() not in sent


def _is_template(result: str, names: Collection[str], sent: str) -> bool:
    found = _places(result, names)
    return bool(found) and not found <= _places(sent, names)


def _places(text: str, names: Collection[str]) -> set[object]:
    """The places in `text` that a template has for a variable: in double braces for any, else for
    those of `names`."""
    if not any(sign in text for sign in "{$%["):
        return set()
    places = ((place.lastindex, place[place.lastindex or 0]) for place in _PLACE.finditer(text))
    return {*_MARKER.findall(text), *(place for place in places if place[1] in names)}
