"""Shows a number as a spreadsheet program displays it: a closed part of ECMA-376 part 1, 18.8.31.

The job file chooses this for the columns of `shown:`. A format outside of this part is refused and
never guessed, because the text is sent and paid for. Where LibreOffice differs, the text is that of
Excel. Where that is not known, the cell is refused. Spaces at both ends, which only align the
numbers of a column, are left out.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from decimal import ROUND_HALF_UP, Context, Decimal
from fractions import Fraction
from functools import partial

from pipeline.inputs.values import Shown, number_text
from pipeline.inputs.xlsx.format_code import GENERAL, FormatCode, Kind, Part, Section
from pipeline.inputs.xlsx.locales import Locale, Undisplayable, tagged
from pipeline.inputs.xlsx.moments import Moment

# A float has up to 309 digits before its decimal point, and a format up to 255 places behind it.
_EXACT = Context(prec=1000)
_SILENT = (Kind.FILL, Kind.TAG)
_MAX_DENOMINATOR_DIGITS = 3
# In a pattern with 0 for the place of a digit and x for other parts.
_SEPARATING = re.compile("0,+0")
_DIVIDING = re.compile(",+(?![0,])")
_STRAY_COMMA = re.compile("(?:^|[^0,]),")
_BUILT_IN = {
    0: "General",
    1: "0",
    2: "0.00",
    3: "#,##0",
    4: "#,##0.00",
    9: "0%",
    10: "0.00%",
    11: "0.00E+00",
    12: "# ?/?",
    13: "# ??/??",
    37: "#,##0_);(#,##0)",
    38: "#,##0_);[Red](#,##0)",
    39: "#,##0.00_);(#,##0.00)",
    40: "#,##0.00_);[Red](#,##0.00)",
    45: "mm:ss",
    46: "[h]:mm:ss",
    47: "mm:ss.0",
    49: "@",
}


def shown_code(code: str, format_id: int | None, locale: Locale) -> str:
    """Returns the format code of a style. That of a built-in date depends on the language.

    Raises:
        Undisplayable: if the format has no code and is not known.
    """
    if code or format_id is None:
        return code or "General"
    hour = locale.hour
    known = _BUILT_IN | {
        14: locale.short_date,
        15: locale.day_month_year,
        16: locale.day_month,
        17: locale.month_year,
        18: "h:mm AM/PM",
        19: "h:mm:ss AM/PM",
        20: hour and f"{hour}:mm",
        21: hour and f"{hour}:mm:ss",
        22: hour and locale.short_date and f"{locale.short_date} {hour}:mm",
    }
    found = known.get(format_id)
    if found is None:
        raise Undisplayable(f"the built-in format {format_id} is not known for {locale.name}")
    # In these formats, the signs between day, month and year are part of the language.
    return found.replace("/", "\\/") if format_id in (14, 22) else found


class Display:
    """Shows numbers in one format and one language. It looks at each section of the format once."""

    def __init__(self, code: FormatCode, locale: Locale, *, from_1904: bool = False) -> None:
        self._code = code
        self._locale = locale
        self._from_1904 = from_1904
        self._shows: dict[int, Callable[[Decimal], str | None] | Undisplayable] = {}

    def text(self, number: float) -> str | None:
        """Returns the text that a program in this language displays. None for a date that does not
        exist.

        Raises:
            Undisplayable: if the format is not in the part that this module knows.
        """
        section = self._code.section_for(number)
        if section is None or (section is GENERAL and self._code.code != "@"):
            raise Undisplayable("it has no section for this number")
        show = self._shows.get(id(section))
        if show is None:
            show = self._shows[id(section)] = self._prepared(section)
        if isinstance(show, Undisplayable):
            raise Undisplayable(str(show))  # the same error again would grow
        value = Decimal(f"{number:.15g}")  # Excel shows 15 digits of a number
        is_negative = section.shown is Shown.NUMBER and number < 0
        text = self._negative(show(-value)) if is_negative else show(value)
        return text if text is None else text.strip(" ")

    def _prepared(self, section: Section) -> Callable[[Decimal], str | None] | Undisplayable:
        try:
            return self._show(section)
        except Undisplayable as error:
            return error

    def _show(self, section: Section) -> Callable[[Decimal], str | None]:
        for part in section.parts:
            if part.kind in (Kind.UNQUOTED, Kind.UNKNOWN):
                raise Undisplayable(f"`{part.text}` in it is not known")
        if section.shown is Shown.NUMBER:
            return _number(section, self._locale)
        return Moment(section, self._locale, self._from_1904).text

    def _negative(self, text: str | None) -> str:
        if self._code.has_conditions:
            raise Undisplayable("programs show the minus of a number with a condition differently")
        text = text or ""
        if self._code.shows_minus():
            if not set(text) & set("123456789"):
                raise Undisplayable(
                    "programs differ in the minus of a number that rounds to 0 or shows no digit"
                )
            text = f"-{text}"
        return text


def _number(section: Section, locale: Locale) -> Callable[[Decimal], str]:
    """Returns the function that shows a number without its sign."""
    kinds = section.kinds
    if kinds & {Kind.TEXT, Kind.DATE, Kind.HALF_DAY, Kind.ELAPSED}:
        raise Undisplayable("it mixes a number with letters of a date or with @")
    _refuse_other_signs(section, locale)
    if Kind.GENERAL in kinds:
        return partial(_general, section, locale)
    if Kind.EXPONENT in kinds:
        return partial(_scientific, section, locale)
    if Kind.SLASH in kinds:
        return partial(_fraction, section)
    return _Places(section, locale).text


def _refuse_other_signs(section: Section, locale: Locale) -> None:
    """LibreOffice shows `[$-407]0.00` with a German comma, Excel with the sign of the system."""
    for part in section.parts:
        if part.kind is Kind.TAG and section.kinds & {Kind.POINT, Kind.COMMA, Kind.GENERAL}:
            other = tagged(part.text)
            signs = other and (other.decimal, other.thousands)
            if signs != (locale.decimal, locale.thousands):
                raise Undisplayable(
                    f"programs show the decimal sign of a number with [$-{part.text}] differently"
                )


def _general(section: Section, locale: Locale, value: Decimal) -> str:
    if section.kinds - {Kind.GENERAL, Kind.LITERAL, Kind.SPACE, *_SILENT}:
        raise Undisplayable("it has more than General in it")
    text = number_text(float(value)).upper().replace(".", locale.decimal)
    return "".join(text if p.kind is Kind.GENERAL else _fixed(p, locale) for p in section.parts)


def _fixed(part: Part, locale: Locale) -> str:
    """Returns the text of a part that does not depend on the number."""
    if part.kind in _SILENT or part.kind is Kind.COMMA:
        return ""
    if part.kind is Kind.SPACE:
        return " "
    return locale.decimal if part.kind is Kind.POINT else part.text


class _Places:
    """A section with places for digits, thousands, percent and texts, but no exponent."""

    def __init__(self, section: Section, locale: Locale) -> None:
        self._whole, self._fraction = _places(section)
        grouped, scale = _commas(section)
        self._separator = locale.thousands if grouped else ""
        percents = sum(part.kind is Kind.PERCENT for part in section.parts)
        self._scale = 2 * percents - 3 * scale
        # None for the place of a digit.
        self._texts = [
            (None if part.kind is Kind.DIGIT else _fixed(part, locale), part.kind is Kind.POINT)
            for part in section.parts
        ]

    def text(self, value: Decimal) -> str:
        value = _EXACT.scaleb(value, self._scale)
        digits, _, behind = _rounded(value, len(self._fraction)).partition(".")
        each = iter(_whole(digits, self._whole, self._separator) + _behind(behind, self._fraction))
        bare = "" if self._whole or digits == "0" else digits  # `.00` shows 12.5 as 12.50
        return "".join(
            next(each) if fixed is None else bare + fixed if is_point else fixed
            for fixed, is_point in self._texts
        )


def _rounded(value: Decimal, places: int) -> str:
    rounded = value.quantize(Decimal(1).scaleb(-places), ROUND_HALF_UP, _EXACT)
    return format(rounded, "f")


def _places(section: Section) -> tuple[str, str]:
    """Returns the places for digits before and behind the decimal point."""
    if sum(part.kind is Kind.POINT for part in section.parts) > 1:
        raise Undisplayable("it has two decimal points")
    before, behind = "", ""
    beyond = False
    for part in section.parts:
        beyond |= part.kind is Kind.POINT
        if part.kind is Kind.DIGIT:
            before, behind = (before, behind + part.text) if beyond else (before + part.text, "")
    return before, behind


def _commas(section: Section) -> tuple[bool, int]:
    """Returns whether commas separate thousands, and how often they divide the number by 1,000.

    A comma between the places before the decimal point separates. A comma behind the last place
    before the point, or behind the last of all, divides.
    """
    signs = {Kind.DIGIT: "0", Kind.COMMA: ",", Kind.POINT: "."}
    pattern = "".join(signs.get(p.kind, "x") for p in section.parts if p.kind not in _SILENT)
    before, _, behind = pattern.partition(".")
    runs = list(_DIVIDING.finditer(pattern))
    ends = [pattern[run.end() :] for run in runs]
    if (
        _STRAY_COMMA.search(pattern)
        or _SEPARATING.search(behind)
        or any("0" in end and not end.startswith(".") for end in ends)
    ):
        raise Undisplayable("it has a comma that is not between or behind digits")
    return bool(_SEPARATING.search(before)), sum(len(run[0]) for run in runs)


def _whole(digits: str, places: str, separator: str) -> list[str]:
    """Returns the text for each place before the decimal point. The first one has all digits for
    which there is no other place."""
    digits = "" if digits == "0" else digits
    texts = ["" for _ in places]
    if not places:
        return texts
    for position in reversed(range(max(len(digits), len(places)))):
        place = max(len(places) - 1 - position, 0)
        missing = {"0": "0", "?": " ", "#": ""}[places[place]]
        text = digits[-1 - position] if position < len(digits) else missing
        if separator and text and position and position % 3 == 0:
            text += " " if text == " " else separator
        texts[place] += text
    return texts


def _behind(digits: str, places: str) -> list[str]:
    """Returns the text for each place behind the decimal point."""
    texts = list(digits)
    for at in reversed(range(len(places))):
        if texts[at] != "0" or places[at] == "0":
            break
        texts[at] = " " if places[at] == "?" else ""
    return texts


def _scientific(section: Section, locale: Locale, value: Decimal) -> str:
    kinds = [part.kind for part in section.parts]
    at = kinds.index(Kind.EXPONENT)
    head, sign, tail = section.parts[:at], section.parts[at].text, section.parts[at + 1 :]
    width = 0
    while width < len(tail) and tail[width].kind is Kind.DIGIT:
        width += 1
    rest = [part.kind for part in tail[width:]]
    mantissa = Section(head)
    whole, fraction = _places(mantissa)
    if len(whole) != 1 or {Kind.DIGIT, Kind.COMMA, Kind.PERCENT, Kind.EXPONENT, Kind.SLASH} & {
        *rest,
        *(set(mantissa.kinds) - {Kind.DIGIT}),
    }:
        raise Undisplayable("it has an exponent and not exactly one place before its point")
    exponent = value.adjusted() if value else 0
    if Decimal(_rounded(value.scaleb(-exponent, _EXACT), len(fraction))) >= 10:
        exponent += 1
    shown = _Places(mantissa, locale).text(value.scaleb(-exponent, _EXACT))
    power = str(abs(exponent)).zfill(sum(part.text == "0" for part in tail[:width]))
    minus = "-" if exponent < 0 else "+" if sign[1] == "+" else ""
    return f"{shown}E{minus}{power}" + "".join(_fixed(part, locale) for part in tail[width:])


def _fraction(section: Section, value: Decimal) -> str:
    """`# ?/?` and `# ??/??`, with a whole number or without."""
    parts = [part for part in section.parts if part.kind not in _SILENT]
    pattern = "".join(part.text for part in parts)
    before, _, under = pattern.partition("/")
    whole, space, over = before.rpartition(" ")
    if (
        {part.kind for part in parts} - {Kind.DIGIT, Kind.SLASH, Kind.LITERAL, Kind.SPACE}
        or not 1 <= len(under) <= _MAX_DENOMINATOR_DIGITS
        or set(under + over) - set("?#")
        or not over
        or (whole, space) not in (("#", " "), ("0", " "), ("", ""))
    ):
        raise Undisplayable("of fractions, only forms such as # ?/? and ??/?? are known")
    exact = Fraction(value)
    units = int(exact) if whole else 0
    part = (exact - units).limit_denominator(10 ** len(under) - 1)
    if whole and part == 1:
        units, part = units + 1, Fraction(0)
    if whole and not part:
        return str(units)
    shown = f"{part.numerator:>{len(over)}}/{part.denominator}"
    return f"{units} {shown}" if units or whole == "0" else shown
