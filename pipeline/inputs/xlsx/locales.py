"""How spreadsheet programs write numbers and dates in each language that `locale:` accepts.

The texts become part of the requests, so a change here changes the rows of existing run folders. A
field is None where Excel and LibreOffice, or two versions of one of them, disagree. Cells that need
it are refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")
Names = tuple[str, ...]


class Undisplayable(Exception):
    """The runner does not know how a sheet displays a number. The message says why."""


@dataclass(frozen=True, slots=True)
class Locale:
    """The signs and names of one language, and its built-in formats as English format codes.

    `between` stands between day and month where a format has `/`. `short_date` is format 14, and
    `day_month_year`, `day_month` and `month_year` are 15 to 17. `hour` begins formats 20 to 22.
    `long_date` and `long_time` are the formats of the system. Names of days begin with Sunday.
    """

    name: str
    decimal: str
    thousands: str
    between: str | None
    months: Names | None = None
    short_months: Names | None = None
    days: Names | None = None
    short_days: Names | None = None
    short_date: str | None = None
    day_month_year: str | None = None
    day_month: str | None = None
    month_year: str | None = None
    hour: str | None = None
    long_date: str | None = None
    long_time: str | None = None
    half_days: tuple[str, str] | None = None


def _names(text: str) -> Names:
    return tuple(text.split())


_ENGLISH_MONTHS = _names(
    "January February March April May June July August September October November December"
)
_ENGLISH_DAYS = _names("Sunday Monday Tuesday Wednesday Thursday Friday Saturday")
_ENGLISH_SHORT_MONTHS = tuple(month[:3] for month in _ENGLISH_MONTHS)
_ENGLISH_SHORT_DAYS = tuple(day[:3] for day in _ENGLISH_DAYS)

_ALL = (
    Locale(
        "en_US",
        ".",
        ",",
        "/",
        _ENGLISH_MONTHS,
        _ENGLISH_SHORT_MONTHS,
        _ENGLISH_DAYS,
        _ENGLISH_SHORT_DAYS,
        "m/d/yyyy",
        "d-mmm-yy",
        "d-mmm",
        "mmm-yy",
        "h",
        "dddd, mmmm d, yyyy",
        "h:mm:ss AM/PM",
        ("AM", "PM"),
    ),
    Locale(
        "en_GB",
        ".",
        ",",
        "/",
        _ENGLISH_MONTHS,
        None,  # September is Sep or Sept
        _ENGLISH_DAYS,
        _ENGLISH_SHORT_DAYS,
        "dd/mm/yyyy",
        "dd-mmm-yy",
        "dd-mmm",
        "mmm-yy",
        "hh",
    ),
    Locale(
        "de_DE",
        ",",
        ".",
        ".",
        _names(
            "Januar Februar März April Mai Juni Juli August September Oktober November Dezember"
        ),
        _names("Jan Feb Mrz Apr Mai Jun Jul Aug Sep Okt Nov Dez"),
        _names("Sonntag Montag Dienstag Mittwoch Donnerstag Freitag Samstag"),
        _names("So Mo Di Mi Do Fr Sa"),
        "dd.mm.yyyy",
        "dd. mmm yy",
        "dd. mmm",
        "mmm yy",
        "hh",
        "dddd, d. mmmm yyyy",
        "hh:mm:ss",
    ),
    Locale(
        "fr_FR",
        ",",
        "\u202f",
        "/",
        _names(
            "janvier février mars avril mai juin juillet août septembre octobre novembre décembre"
        ),
        None,
        _names("dimanche lundi mardi mercredi jeudi vendredi samedi"),
        None,
        "dd/mm/yyyy",
        "dd-mmm-yy",
        "dd-mmm",
        "mmm-yy",
        "hh",
    ),
    Locale(
        "es_ES",
        ",",
        ".",
        "/",
        _names(
            "enero febrero marzo abril mayo junio julio agosto septiembre octubre noviembre "
            "diciembre"
        ),
        None,
        _names("domingo lunes martes miércoles jueves viernes sábado"),
        None,
        "dd/mm/yyyy",
        "dd-mmm-yy",
        "dd-mmm",
        "mmm-yy",
        "h",
    ),
    Locale(
        "it_IT",
        ",",
        ".",
        "/",
        _names(
            "gennaio febbraio marzo aprile maggio giugno luglio agosto settembre ottobre novembre "
            "dicembre"
        ),
        _names("gen feb mar apr mag giu lug ago set ott nov dic"),
        _names("domenica lunedì martedì mercoledì giovedì venerdì sabato"),
        _names("dom lun mar mer gio ven sab"),
        "dd/mm/yyyy",
        "dd-mmm-yy",
        "dd-mmm",
        "mmm-yy",
    ),
    Locale(
        "pt_BR",
        ",",
        ".",
        "/",
        _names(
            "janeiro fevereiro março abril maio junho julho agosto setembro outubro novembro "
            "dezembro"
        ),
        None,
        _names("domingo segunda-feira terça-feira quarta-feira quinta-feira sexta-feira sábado"),
    ),
    Locale(
        "nl_NL",
        ",",
        ".",
        "-",
        _names(
            "januari februari maart april mei juni juli augustus september oktober november "
            "december"
        ),
        _names("jan feb mrt apr mei jun jul aug sep okt nov dec"),
        _names("zondag maandag dinsdag woensdag donderdag vrijdag zaterdag"),
        _names("zo ma di wo do vr za"),
        "d-m-yyyy",
        "d-mmm-yy",
        "d-mmm",
        "mmm-yy",
    ),
    # In Polish, the name of a month depends on whether a day stands before it.
    Locale(
        "pl_PL",
        ",",
        "\u00a0",
        None,
        days=_names("niedziela poniedziałek wtorek środa czwartek piątek sobota"),
    ),
    Locale(
        "sv_SE",
        ",",
        "\u00a0",
        "-",
        _names(
            "januari februari mars april maj juni juli augusti september oktober november december"
        ),
        _names("jan feb mar apr maj jun jul aug sep okt nov dec"),
        _names("söndag måndag tisdag onsdag torsdag fredag lördag"),
        None,
        "yyyy-mm-dd",
        "dd-mmm-yy",
        "dd-mmm",
        "mmm-yy",
        "hh",
    ),
    Locale(
        "da_DK",
        ",",
        ".",
        None,
        _names(
            "januar februar marts april maj juni juli august september oktober november december"
        ),
        None,
        _names("søndag mandag tirsdag onsdag torsdag fredag lørdag"),
    ),
    Locale(
        "ja_JP",
        ".",
        ",",
        "/",
        days=_names("日曜日 月曜日 火曜日 水曜日 木曜日 金曜日 土曜日"),
        short_days=_names("日 月 火 水 木 金 土"),
    ),
    Locale(
        "zh_CN",
        ".",
        ",",
        "/",
        days=_names("星期日 星期一 星期二 星期三 星期四 星期五 星期六"),
    ),
)

LOCALES = {locale.name: locale for locale in _ALL}

_LANGUAGE_IDS = {
    0x409: "en_US",
    0x809: "en_GB",
    0x407: "de_DE",
    0x40C: "fr_FR",
    0x40A: "es_ES",
    0xC0A: "es_ES",
    0x410: "it_IT",
    0x416: "pt_BR",
    0x413: "nl_NL",
    0x415: "pl_PL",
    0x41D: "sv_SE",
    0x406: "da_DK",
    0x411: "ja_JP",
    0x804: "zh_CN",
}


def tagged(tag: str) -> Locale | None:
    """Returns the language of `[$-TAG]`: a number such as 407, or a name such as de-DE. None if it
    is not in the table, or if the tag also asks for another calendar or other digits."""
    try:
        return LOCALES.get(_LANGUAGE_IDS.get(int(tag, 16), ""))
    except ValueError:
        return LOCALES.get(tag.replace("-", "_"))


def known(value: T | None, what: str, locale: Locale) -> T:
    """Returns a field of `locale`.

    Raises:
        Undisplayable: if the field is None. `what` says in words which field it is.
    """
    if value is None:
        raise Undisplayable(f"programs differ in {what} for {locale.name}")
    return value
