"""A number format, split into its sections and their parts: ECMA-376 part 1, 18.8.31.

Each section is for some numbers, for example for the negative ones. Text rules 3 read from it
whether a number is a date, and which zeros and texts stand before and between its digits.
`number_formats` shows a number exactly as its section says.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum
from functools import cached_property

from pipeline.inputs.values import Shown

MAX_CHARACTERS = 255
"""The longest number format that Excel accepts."""


class Kind(Enum):
    """What one part of a section stands for."""

    LITERAL = "text in quotes or after a backslash, a currency, or a character such as -"
    UNQUOTED = "a letter that is no code and not in quotes"
    SPACE = "a space as wide as a character"
    FILL = "a character that fills the column"
    GENERAL = "the number without a format"
    DIGIT = "a place for a digit"
    POINT = "the decimal sign"
    COMMA = "the sign between thousands"
    PERCENT = "percent"
    EXPONENT = "the exponent"
    SLASH = "the bar of a fraction, or the sign between day and month"
    TEXT = "the text of the cell"
    DATE = "letters of a date or a time"
    HALF_DAY = "morning or afternoon"
    ELAPSED = "hours, minutes or seconds without an upper limit"
    TAG = "a language"
    UNKNOWN = "another code in brackets"


@dataclass(frozen=True, slots=True)
class Part:
    """One part of a section, and its text without quotes and brackets."""

    kind: Kind
    text: str

    @property
    def letter(self) -> str:
        """The letter of a date or time, in lower case. Empty for other parts."""
        return self.text[0].lower() if self.kind in (Kind.DATE, Kind.ELAPSED) else ""


_TOKEN = re.compile(
    r"""
    "(?P<quoted>[^"]*)(?:"|$) | \\(?P<escaped>.) | _(?P<space>.) | \*(?P<fill>.)
  | \[(?P<bracket>[^\]]*)\]
  | (?P<general>General|Standard) | (?P<half_day>AM/PM|A/P|上午/下午|午前/午後|오전/오후)
  | (?P<exponent>E[+-](?=[0#?]))
  | (?P<date>y+|m+|d+|h+|s+|e+|g+|a{3,}|b{2,}|b[12])
  | (?P<digit>[0#?]) | (?P<point>\.) | (?P<comma>,) | (?P<percent>%) | (?P<slash>/)
  | (?P<text>@) | (?P<end>;) | (?P<other>.)
    """,
    re.IGNORECASE | re.VERBOSE | re.DOTALL,
)
_KINDS = {
    "quoted": Kind.LITERAL,
    "escaped": Kind.LITERAL,
    "space": Kind.SPACE,
    "fill": Kind.FILL,
    "general": Kind.GENERAL,
    "half_day": Kind.HALF_DAY,
    "exponent": Kind.EXPONENT,
    "date": Kind.DATE,
    "digit": Kind.DIGIT,
    "point": Kind.POINT,
    "comma": Kind.COMMA,
    "percent": Kind.PERCENT,
    "slash": Kind.SLASH,
    "text": Kind.TEXT,
}
_PLAIN_LITERALS = "$-+():^&'~{}<>= "
_COLOUR = re.compile(r"black|blue|cyan|green|magenta|red|white|yellow|colou?r ?\d{1,2}", re.I)
_ELAPSED = re.compile(r"h+|m+|s+", re.IGNORECASE)
_CONDITION = re.compile(r"(<=|>=|<>|<|>|=)\s*(-?\d{1,20}(?:\.\d{1,20})?)")
_TESTS: dict[str, Callable[[float, float], bool]] = {
    "<=": operator.le,
    ">=": operator.ge,
    "<>": operator.ne,
    "<": operator.lt,
    ">": operator.gt,
    "=": operator.eq,
}
_SHOWN_NEXT_TO_ZEROS = {Kind.LITERAL, Kind.SPACE, Kind.FILL, Kind.DIGIT, Kind.TAG}


@dataclass(frozen=True)
class Section:
    """The parts of one section. `condition` is a test in brackets, such as `[<100]`."""

    parts: tuple[Part, ...]
    condition: tuple[str, float] | None = None

    def accepts(self, number: float) -> bool:
        """Returns whether the condition is true for `number`."""
        return self.condition is not None and _TESTS[self.condition[0]](number, self.condition[1])

    @cached_property
    def kinds(self) -> frozenset[Kind]:
        return frozenset(part.kind for part in self.parts)

    @cached_property
    def shown(self) -> Shown:
        """The kind of text that this section makes of a number. A section with places for digits
        makes a number, whatever its letters: `0 kg/d`."""
        letters = {part.letter for part in self.parts}
        if Kind.GENERAL in self.kinds or self._has_digits():
            return Shown.NUMBER
        if Kind.ELAPSED in self.kinds:
            return Shown.ELAPSED
        if letters & set("ydeab") or ("m" in letters and not letters & set("hs")):
            return Shown.DATE
        return Shown.TIME if letters & set("hs") else Shown.NUMBER

    @cached_property
    def pads(self) -> bool:
        """Whether this section only adds zeros and texts to the digits of a whole number: `00000`,
        `000-00` and `"SKU-"0000` do."""
        places = "".join(part.text for part in self.parts if part.kind is Kind.DIGIT)
        return bool(re.fullmatch("#*00+", places)) and self.kinds <= _SHOWN_NEXT_TO_ZEROS

    def padded(self, digits: str) -> str:
        """Returns the digits of a whole number with the zeros and texts of this section. The first
        place has all digits for which there is no other place."""
        zeros, places, template = self._padding
        digits = digits.zfill(zeros)
        more = max(len(digits) - places, 0) + 1
        first = [""] * (places - len(digits)) + [digits[:more]]
        return template.format(*first, *digits[more:])

    @cached_property
    def _padding(self) -> tuple[int, int, str]:
        """The number of zeros and of all places, and the texts with `{}` at each place."""
        places = [part.text for part in self.parts if part.kind is Kind.DIGIT]
        literals = [p.text.replace("{", "{{").replace("}", "}}") for p in self.parts]
        template = "".join(
            "{}" if part.kind is Kind.DIGIT else literal
            for part, literal in zip(self.parts, literals, strict=True)
            if part.kind in (Kind.DIGIT, Kind.LITERAL)
        )
        return places.count("0"), len(places), template

    def _has_digits(self) -> bool:
        """Whether there is a place for a digit. The zeros of `ss.000` belong to the time."""
        before, in_fraction = "", False
        for part in self.parts:
            if part.kind is not Kind.DIGIT:
                in_fraction = before == "s" and part.text in (".", ",")
                before = part.letter
            elif not in_fraction:
                return True
        return False


GENERAL = Section((Part(Kind.GENERAL, "General"),))
"""The section of a format that has none for numbers, such as `@`."""


@dataclass(frozen=True)
class FormatCode:
    """A whole number format: its sections for numbers, without the one for texts."""

    code: str
    sections: tuple[Section, ...]

    @cached_property
    def has_conditions(self) -> bool:
        return any(section.condition for section in self.sections)

    @cached_property
    def is_plain(self) -> bool:
        """Whether text rules 3 send the number without a change, for every number."""
        return not any(s.shown is not Shown.NUMBER or s.pads for s in self.sections)

    def section_for(self, number: float) -> Section | None:
        """Returns the section that shows `number`. None if Excel shows `########`, or if only the
        second section has a condition."""
        if self.has_conditions:
            return self._by_condition(number)
        if len(self.sections) == 3 and number == 0:
            return self.sections[2]
        return self.sections[1 if number < 0 and len(self.sections) > 1 else 0]

    def shows_minus(self) -> bool:
        """Returns whether a minus is shown before a negative number. A section for negative numbers
        has its own sign."""
        return len(self.sections) == 1

    def _by_condition(self, number: float) -> Section | None:
        first, *others = self.sections
        if first.condition is None:
            return None
        if first.accepts(number):
            return first
        if others and others[0].condition is not None:
            if others[0].accepts(number):
                return others[0]
            others = others[1:]
        return others[0] if others else None


def parse(code: str) -> FormatCode:
    """Splits a number format. A longer one than Excel accepts has no effect."""
    if len(code) > MAX_CHARACTERS:
        return FormatCode(code, (GENERAL,))
    sections = list(_sections(code))[:4]
    # The fourth section is for texts, and so is the last one if it shows the text of the cell.
    if len(sections) == 4 or Kind.TEXT in sections[-1].kinds:
        sections.pop()
    return FormatCode(code, tuple(sections) or (GENERAL,))


def _sections(code: str) -> Iterator[Section]:
    parts: list[Part] = []
    condition = None
    for token in _TOKEN.finditer(code):
        name, text = token.lastgroup or "", token[token.lastgroup or 0]
        if name == "end":
            yield Section(tuple(parts), condition)
            parts, condition = [], None
        elif name == "bracket" and (test := _CONDITION.fullmatch(text)):
            condition = (test[1], float(test[2]))
        else:
            parts += _parts(name, text)
    yield Section(tuple(parts), condition)


def _parts(name: str, text: str) -> list[Part]:
    if name == "bracket":
        return _in_brackets(text)
    if name == "other":
        literal = text in _PLAIN_LITERALS or not text.isascii()
        return [Part(Kind.LITERAL if literal else Kind.UNQUOTED, text)]
    return [Part(_KINDS[name], text)]


def _in_brackets(text: str) -> list[Part]:
    if text.startswith("$"):
        currency, _, tag = text[1:].partition("-")
        # The language of a currency says how the currency is written, and nothing of the number.
        return [Part(Kind.LITERAL, currency) if currency else Part(Kind.TAG, tag)]
    if _ELAPSED.fullmatch(text):
        return [Part(Kind.ELAPSED, text)]
    return [] if _COLOUR.fullmatch(text) else [Part(Kind.UNKNOWN, text)]
