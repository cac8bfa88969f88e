"""The text of a number cell, by the text rules of the run folder or as the sheet displays it."""

from __future__ import annotations

from collections.abc import Callable

from pipeline.core.wording import shortened
from pipeline.inputs.values import (
    Shown,
    literal_text,
    padded_width,
    serial_text,
    shown_by,
    without_zero_fraction,
)
from pipeline.inputs.xlsx.format_code import FormatCode, parse
from pipeline.inputs.xlsx.locales import LOCALES, Undisplayable
from pipeline.inputs.xlsx.number_formats import Display, shown_code
from pipeline.inputs.xlsx.workbook import Style, Workbook
from pipeline.inputs.xlsx.xml_stream import Malformed
from pipeline.job.spec_keys import DEFAULT_LOCALE

NO_DATE = "########"
"""The text that Excel shows for a date that does not exist."""

# How many digits Excel shows of a number, whatever its cell contains.
_SIGNIFICANT = 15
# Excel has at most 250 formats in a workbook. Each takes up to 0.3 ms to split.
_MAX_FORMATS = 1000
_BUILT_IN = {Shown.DATE: "yyyy", Shown.TIME: "h", Shown.ELAPSED: "[h]", Shown.NUMBER: "General"}
# ECMA-376 part 1, 18.8.30: the built-in formats of the Thai Excel.
_THAI_DATES, _THAI_TIMES, _THAI_ELAPSED = {71, 72, 73, 74, 77, 81}, {75, 76, 78, 80}, 79

Reading = Callable[[str, str], str | None]
"""Returns a number's text from its text without a format and its text in the file."""


class Numbers:
    """Reads the number cells of a workbook. `locale` is the language for `displayed`."""

    def __init__(self, workbook: Workbook, text_rules: int, locale: str | None = None) -> None:
        self._rules = text_rules
        self._locale = locale
        self._significant = _SIGNIFICANT if text_rules >= 2 else None
        self._from_1904 = workbook.from_1904
        self._styles = {"0": Style()} | {str(n): one for n, one in enumerate(workbook.styles)}
        self._readings: dict[str, Reading | None] = {}
        self._displays: dict[Style, Display | Undisplayable] = {}
        self._codes: dict[str, FormatCode] = {}

    def text(self, style: str | None, raw: str) -> str | None:
        """Returns the text of the number `raw` of the file, or NO_DATE. None if the file is
        damaged."""
        if not raw:
            return ""
        if self._rules >= 3:
            raw = without_zero_fraction(raw)
        text = literal_text(raw, self._significant)
        if style is None or text is None:
            return text
        try:
            reading = self._readings[style]
        except KeyError:
            if style not in self._styles:
                return None
            reading = self._readings[style] = self._reading(self._styles[style])
        return text if reading is None else reading(text, raw)

    def displayed(self, style: str | None, raw: str) -> str | None:
        """Returns the text that the sheet displays, or NO_DATE. None if the file is damaged.

        Raises:
            Undisplayable: for a format that `number_formats` does not know.
        """
        known = Style() if style is None else self._styles.get(style)
        if known is None or literal_text(raw) is None:
            return None if raw else ""
        try:
            if known not in self._displays:
                self._displays[known] = self._display(known)
            display = self._displays[known]
            if isinstance(display, Undisplayable):
                raise Undisplayable(str(display))  # the same error again would grow
            text = display.text(float(raw))
        except Undisplayable as error:
            named = f"number format `{shortened(known.code)}`: " if known.code else ""
            raise Undisplayable(f"{named}{error}") from None
        return NO_DATE if text is None else text

    def _display(self, style: Style) -> Display | Undisplayable:
        locale = LOCALES[self._locale or DEFAULT_LOCALE]
        try:
            code = self._parsed(shown_code(style.code, style.format_id, locale))
        except Undisplayable as error:
            return error
        return Display(code, locale, from_1904=self._from_1904)

    def _reading(self, style: Style) -> Reading | None:
        """Returns how the numbers of a style become text. None if their format changes nothing."""
        if self._rules >= 3:
            code = self._parsed(style.code or _built_in(style.format_id))
            return None if code.is_plain else lambda text, raw: self._by_section(code, text, raw)
        shown, width = shown_by(style.code, style.format_id), padded_width(style.code)
        if shown is not Shown.NUMBER:
            return lambda text, raw: self._moment(raw, shown)
        return (lambda text, raw: text.zfill(width) if text.isdigit() else text) if width else None

    def _by_section(self, code: FormatCode, text: str, raw: str) -> str:
        """Text rules 3."""
        number = float(raw)
        section = code.section_for(number)
        if section is None:
            return text
        if section.shown is not Shown.NUMBER:
            return self._moment(raw, section.shown)
        digits = text.removeprefix("-")
        if not section.pads or not digits.isdigit() or (number < 0 and code.has_conditions):
            return text
        minus = "-" if number < 0 and code.shows_minus() else ""
        return minus + section.padded(digits)

    def _moment(self, raw: str, shown: Shown) -> str:
        return serial_text(float(raw), shown, self._from_1904) or NO_DATE

    def _parsed(self, code: str) -> FormatCode:
        if code not in self._codes:
            if len(self._codes) == _MAX_FORMATS:
                raise Malformed(f"it has over {_MAX_FORMATS:,} number formats")
            self._codes[code] = parse(code)
        return self._codes[code]


def _built_in(format_id: int | None) -> str:
    """Returns a format with the same kind of text as the built-in one."""
    shown = shown_by("", format_id)
    if format_id in _THAI_DATES:
        shown = Shown.DATE
    elif format_id in _THAI_TIMES:
        shown = Shown.TIME
    elif format_id == _THAI_ELAPSED:
        shown = Shown.ELAPSED
    return _BUILT_IN[shown]
