"""Shows a date, a time or elapsed time as a spreadsheet program displays it, for `number_formats`.

Excel rounds to the last unit that it shows of a second. A time without seconds is rounded to whole
seconds first, and a date without a time is not rounded.
"""

from __future__ import annotations

from decimal import ROUND_FLOOR, ROUND_HALF_UP, Decimal
from itertools import accumulate

from pipeline.inputs.values import calendar_day
from pipeline.inputs.xlsx.format_code import Kind, Part, Section, parse
from pipeline.inputs.xlsx.locales import Locale, Undisplayable, known, tagged

_NEVER_IN_DATES = {Kind.PERCENT, Kind.EXPONENT, Kind.TEXT, Kind.GENERAL}
_SYSTEM_DATES = ("f800", "x-sysdate")
_SYSTEM_TIMES = ("f400", "x-systime")
# For `ddd`, Excel shows English names of days here, and LibreOffice those of the language.
_WEEKDAY_IS_A = ("ja_JP", "zh_CN")


class Moment:
    """A section that shows a date, a time or elapsed time."""

    def __init__(self, section: Section, locale: Locale, from_1904: bool) -> None:
        self._parts, self._locale = _for_system(section.parts, locale)
        self._from_1904 = from_1904
        letters = [part.letter for part in self._parts]
        # The letter of a date or time before each part.
        self._before = list(accumulate(letters, lambda was, letter: letter or was, initial=""))[:-1]
        self._is_minute = _minutes(self._parts, self._before)
        self._fraction = sum(part.kind is Kind.DIGIT for part in self._parts)
        self._places = list(accumulate(part.kind is Kind.DIGIT for part in self._parts))
        self._half_day = next((p.text for p in self._parts if p.kind is Kind.HALF_DAY), None)
        self._has_time = bool({"h", "s"} & set(letters)) or any(
            part.kind is Kind.ELAPSED for part in self._parts
        )
        kinds = {part.kind for part in self._parts}
        if (
            kinds & _NEVER_IN_DATES
            or self._fraction > 3
            or (self._fraction and Kind.COMMA in kinds)
        ):
            raise Undisplayable("it mixes a date or a time with places of a number")

    def text(self, serial: Decimal) -> str | None:
        if not 0 <= serial < 3_000_000:
            return None
        step = Decimal(1).scaleb(-self._fraction)
        rounding = ROUND_HALF_UP if self._has_time else ROUND_FLOOR
        total = (serial * 86_400).quantize(Decimal("0.001"), ROUND_HALF_UP).quantize(step, rounding)
        days = int(total // 86_400)
        day = calendar_day(days, self._from_1904)
        if day is None:
            return None
        return "".join(self._shown(at, total, days, day) for at in range(len(self._parts)))

    def _shown(self, at: int, total: Decimal, days: int, day: tuple[int, int, int]) -> str:
        part = self._parts[at]
        if part.kind is Kind.ELAPSED:
            return self._elapsed(part, total)
        if part.kind is Kind.DATE:
            if self._is_minute[at]:
                return _padded(int(total // 60 % 60), part.text)
            if part.letter in "hs":
                return self._clock(part, total)
            return self._date(part, days, day)
        if part.kind is Kind.HALF_DAY:
            return self._morning_or_afternoon(part, total)
        if part.kind is Kind.DIGIT:
            return str(int(total.scaleb(self._places[at])) % 10)
        if part.kind is Kind.SLASH:
            return known(self._locale.between, "the sign between day and month", self._locale)
        if part.kind is Kind.POINT:
            is_fraction = self._fraction and self._before[at] == "s"
            return self._locale.decimal if is_fraction else "."
        if part.kind is Kind.COMMA:
            return ","
        return part.text if part.kind is Kind.LITERAL else " " * (part.kind is Kind.SPACE)

    def _elapsed(self, part: Part, total: Decimal) -> str:
        seconds = {"h": 3600, "m": 60, "s": 1}[part.letter]
        return str(int(total // seconds)).zfill(len(part.text))

    def _clock(self, part: Part, total: Decimal) -> str:
        if part.letter == "s":
            return _padded(int(total.to_integral_value(ROUND_FLOOR)) % 60, part.text)
        hour = int(total // 3600 % 24)
        return _padded((hour + 11) % 12 + 1 if self._half_day else hour, part.text)

    def _morning_or_afternoon(self, part: Part, total: Decimal) -> str:
        afternoon = int(total // 3600 % 24) >= 12
        if part.text.upper() == "A/P":
            raise Undisplayable("programs differ in A/P")
        if part.text.isascii():
            return known(self._locale.half_days, "AM and PM", self._locale)[afternoon]
        return part.text.split("/")[afternoon]

    def _date(self, part: Part, days: int, day: tuple[int, int, int]) -> str:
        letter, width = part.letter, len(part.text)
        if letter == "y" and width <= 4:
            return f"{day[0] % 100:02}" if width < 3 else str(day[0])
        if letter == "m" and width <= 5:
            return self._month(day[1], width)
        if letter == "d" and width <= 2:
            return _padded(day[2], part.text)
        if letter == "d" and width <= 4 and self._locale.name not in _WEEKDAY_IS_A:
            return self._day_name(days, short=width == 3)
        if letter == "a" and width <= 4 and self._locale.name in _WEEKDAY_IS_A:
            return self._day_name(days, short=width == 3)
        raise Undisplayable(f"`{part.text}` in it is not known for {self._locale.name}")

    def _month(self, month: int, width: int) -> str:
        locale = self._locale
        if width <= 2:
            return f"{month:0{width}}"
        if width == 3:
            return known(locale.short_months, "the short names of months", locale)[month - 1]
        name = known(locale.months, "the names of months", locale)[month - 1]
        return name if width == 4 else name[0]

    def _day_name(self, days: int, short: bool) -> str:
        locale = self._locale
        names = locale.short_days if short else locale.days
        what = "the short names of days" if short else "the names of days"
        return known(names, what, locale)[(days + (1468 if self._from_1904 else 6)) % 7]


def _minutes(parts: tuple[Part, ...], before: list[str]) -> list[bool]:
    """Tells for each part whether it is `m` or `mm` as a minute: behind an hour or before a second.
    `before` has the letter before each part."""
    minutes, behind = [], ""
    for part, letter in zip(reversed(parts), reversed(before), strict=True):
        is_m = part.letter == "m" and part.kind is Kind.DATE and len(part.text) <= 2
        minutes.append(is_m and (letter == "h" or behind == "s"))
        behind = part.letter or behind
    return minutes[::-1]


def _for_system(parts: tuple[Part, ...], locale: Locale) -> tuple[tuple[Part, ...], Locale]:
    """Returns the parts of a date and its language. `[$-407]` names a language, and `[$-F800]` and
    `[$-F400]` mean the date and the time of the system's language."""
    for part in parts:
        if part.kind is not Kind.TAG:
            continue
        tag = part.text.lower()
        if tag in _SYSTEM_DATES:
            return parse(known(locale.long_date, "long dates", locale)).sections[0].parts, locale
        if tag in _SYSTEM_TIMES:
            return parse(known(locale.long_time, "long times", locale)).sections[0].parts, locale
        named = tagged(part.text)
        if named is None:
            raise Undisplayable(f"the language or calendar [$-{part.text}] in it is not known")
        locale = named
    return parts, locale


def _padded(number: int, letters: str) -> str:
    if len(letters) > 2:
        raise Undisplayable(f"`{letters}` in it is not known")
    return f"{number:0{len(letters)}}"
