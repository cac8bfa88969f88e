"""A number becomes the text that a spreadsheet program displays, or its format is refused."""

from __future__ import annotations

import csv
import os
import shutil
import subprocess

import pytest

from pipeline.inputs.xlsx.format_code import parse
from pipeline.inputs.xlsx.locales import LOCALES, Undisplayable
from pipeline.inputs.xlsx.number_formats import Display, shown_code
from pipeline.job.spec_keys import LOCALES as ACCEPTED
from tests.support.workbooks import CONTENT_TYPES, cell, rows, styles, worksheet, write_workbook

Format = str | int


def display(number_format: Format, value: str, language: str = "en_US", **more: bool) -> str | None:
    locale = LOCALES[language]
    code, id_ = ("", number_format) if isinstance(number_format, int) else (number_format, None)
    return Display(parse(shown_code(code, id_, locale)), locale, **more).text(float(value))


# Also what LibreOffice displays, in American English.
ALIKE: list[tuple[Format, str, str]] = [
    ("General", "1234.5", "1234.5"),
    ("General", "-0.5", "-0.5"),
    ('General" pcs"', "12", "12 pcs"),
    (0, "12", "12"),
    ("0", "0.5", "1"),
    ("0", "1.5", "2"),
    ("0", "2.5", "3"),
    ("0.00", "1.005", "1.01"),
    ("0.0", "0.25", "0.3"),
    ("0.0", "-0.25", "-0.3"),
    ("0.00", "172.915", "172.92"),
    ("0.00", "1234567.891", "1234567.89"),
    ("0.000", "0.30000000000000004", "0.300"),
    ("#,##0", "1234567", "1,234,567"),
    ("#,##0", "0", "0"),
    ("#,##0", "999.5", "1,000"),
    ("#,##0.00", "1234.5", "1,234.50"),
    ("#,##0.00", "-1234.5", "-1,234.50"),
    ("#,###", "0", ""),
    ("#", "0", ""),
    ("#.00", "0.5", ".50"),
    (".00", "12.5", "12.50"),
    ("0,000", "5", "0,005"),
    ("0000", "42", "0042"),
    ("0,", "1234567", "1235"),
    ("0.0,,", "1234567", "1.2"),
    ('#,##0.0,,"M"', "1234567890", "1,234.6M"),
    ("#,##0,", "1234567", "1,235"),
    (3, "1234.5", "1,235"),
    (4, "1234.5", "1,234.50"),
    (9, "0.1", "10%"),
    (10, "0.12345", "12.35%"),
    ("0\\ %", "0.1", "10 %"),
    ("0.0%", "-0.0125", "-1.3%"),
    ("#,##0.00\\ [$€-407]", "172.915", "172.92 €"),
    ('#,##0.00\\ "€"', "1172.92", "1,172.92 €"),
    ("[$$-409]#,##0.00", "12", "$12.00"),
    ("$#,##0.00_);($#,##0.00)", "-12", "($12.00)"),
    ("$#,##0.00_);[Red]($#,##0.00)", "12", "$12.00"),
    ("#,##0_);(#,##0)", "12", "12"),
    (37, "-12", "(12)"),
    (39, "-1234.5", "(1,234.50)"),
    ('_-* #,##0.00\\ "€"_-;\\-* #,##0.00\\ "€"_-', "172.92", "172.92 €"),
    ('0;-0;"none"', "0", "none"),
    ("0;(0);-", "-5", "(5)"),
    ('0" up";0" down"', "-5", "5 down"),
    ('"yes";"yes";"no"', "1", "yes"),
    ('[=1]"yes";[=0]"no";0', "0", "no"),
    ('[=1]"yes";[=0]"no";0', "7", "7"),
    ("[<1000]0;[<1000000]0.0,\\k;0.0,,\\M", "12345", "12.3k"),
    ("[>=100][Red]0;[Blue]0.0", "12", "12.0"),
    ("000\\-00", "12345", "123-45"),
    ("(###) ###\\-####", "4155550123", "(415) 555-0123"),
    (11, "12345", "1.23E+04"),
    ("0.00E+00", "0.00012345", "1.23E-04"),
    ("0.0E+00", "99999", "1.0E+05"),
    ("0E+0", "0", "0E+0"),
    ("0.00E-00", "12345", "1.23E04"),
    (12, "0.25", "1/4"),
    (12, "5.25", "5 1/4"),
    (12, "-2.5", "-2 1/2"),
    ("# ??/??", "0.3333333", "1/3"),
    ("# ??/??", "3.14159", "3 14/99"),
    ("?/?", "1.5", "3/2"),
    ("# ???/???", "3.14159265", "3  16/113"),
    (14, "45236", "11/6/2023"),
    (15, "45236", "6-Nov-23"),
    (16, "45236", "6-Nov"),
    (17, "45236", "Nov-23"),
    (18, "45236.6", "2:24 PM"),
    (19, "0", "12:00:00 AM"),
    (20, "0.6", "14:24"),
    (21, "0.6", "14:24:00"),
    (22, "45236.6", "11/6/2023 14:24"),
    (45, "0.010740740741", "15:28"),
    (46, "1.0625", "25:30:00"),
    (47, "0.01074132", "15:28.1"),
    ("[mm]:ss", "0.0625", "90:00"),
    ("[s]", "0.001", "86"),
    ("hh:mm:ss.000", "0.5000115741", "12:00:01.000"),
    ("yyyy\\-mm\\-dd", "45293", "2024-01-02"),
    ("dddd, mmmm d, yyyy", "45293", "Tuesday, January 2, 2024"),
    ("ddd d mmm yy", "45293", "Tue 2 Jan 24"),
    ("mmmmm", "45293", "J"),
    ("h AM/PM", "0.5", "12 PM"),
    ("yyyy\\-mm\\-dd\\Thh:mm:ss", "45293.5", "2024-01-02T12:00:00"),
    ("mm/dd h:mm", "45293.0625", "01/02 1:30"),
    ("[$-407]d/\\ mmmm\\ yyyy", "45236", "6. November 2023"),
    ("[$-407]dddd", "45293", "Dienstag"),
    ("[$-407]dd/mm/yyyy", "45236", "06.11.2023"),
    ("[$-40C]dddd\\ d\\ mmmm", "45293", "mardi 2 janvier"),
    ("[$-C0A]d\\ mmmm", "45293", "2 enero"),
    ("[$-410]d\\ mmm", "45293", "2 gen"),
    ("[$-413]d\\ mmm", "45352", "1 mrt"),
    ("[$-41D]dddd\\ d\\ mmm", "45293", "tisdag 2 jan"),
    ("[$-416]dddd", "45293", "terça-feira"),
    ("[$-406]mmmm", "45293", "januar"),
    ("[$-415]dddd", "45293", "wtorek"),
    ("[$-411]aaaa", "45293", "火曜日"),
    ("[$-411]aaa", "45293", "火"),
    ("[$-804]aaaa", "45293", "星期二"),
    ('[$-411]yyyy"年"m"月"d"日"', "45293", "2024年1月2日"),
    ("[$-F800]dddd\\,\\ mmmm\\ dd\\,\\ yyyy", "45236", "Monday, November 6, 2023"),
]

# Excel's results where LibreOffice differs.
ONLY_EXCEL: list[tuple[Format, str, str]] = [
    ("0.##", "5", "5."),
    ("h:mm:ss", "0.521524", "12:31:00"),
    ("h:mm", "0.521524", "12:31"),
    ("0", "12345678901234567890", "12345678901234600000"),
    ("[$-407]mmm", "45352", "Mrz"),
    (14, "60", "2/29/1900"),
    (14, "0", "1/0/1900"),
    ("ddd", "1", "Sun"),
    ("[$-F400]h:mm:ss\\ AM/PM", "0.6", "2:24:00 PM"),
    ("@", "12.5", "12.5"),
    ("Standard", "12.5", "12.5"),
    ("上午/下午h:mm", "0.6", "下午2:24"),
]


@pytest.mark.parametrize(("number_format", "value", "expected"), ALIKE + ONLY_EXCEL)
def test_a_number_is_shown_as_excel_shows_it(number_format, value, expected):
    """Rounded half away from zero, from 15 digits."""
    assert display(number_format, value) == expected


@pytest.mark.parametrize(
    ("language", "number_format", "value", "expected"),
    [
        ("de_DE", "#,##0.00\\ [$€-407]", "1172.915", "1.172,92 €"),
        ("de_DE", '#,##0.00\\ "€"', "172.92", "172,92 €"),
        ("de_DE", "General", "0.5", "0,5"),
        ("de_DE", "0.0%", "0.125", "12,5%"),
        ("de_DE", 14, "45236", "06.11.2023"),
        ("de_DE", 15, "45236", "06. Nov 23"),
        ("de_DE", 16, "45235", "05. Nov"),
        ("de_DE", 17, "45236", "Nov 23"),
        ("de_DE", 20, "0.1", "02:24"),
        ("de_DE", 22, "45236.1", "06.11.2023 02:24"),
        ("de_DE", "d/\\ mmm", "45235", "5. Nov"),
        ("de_DE", "mm:ss.0", "0.01074132", "15:28,1"),
        ("de_DE", "[$-F800]dddd\\,\\ mmmm\\ dd\\,\\ yyyy", "45236", "Montag, 6. November 2023"),
        ("de_DE", "[$-409]mmmm", "45293", "January"),
        ("en_GB", 14, "45236", "06/11/2023"),
        ("fr_FR", "#,##0.00", "1234567.8", "1\u202f234\u202f567,80"),
        ("fr_FR", 14, "45236", "06/11/2023"),
        ("es_ES", "#,##0.00", "1234.5", "1.234,50"),
        ("it_IT", "#,##0.00", "1234.5", "1.234,50"),
        ("pt_BR", "#,##0.00", "1234.5", "1.234,50"),
        ("nl_NL", 14, "45236", "6-11-2023"),
        ("pl_PL", "#,##0.00", "1234.5", "1\u00a0234,50"),
        ("sv_SE", "#,##0.00", "1234.5", "1\u00a0234,50"),
        ("sv_SE", 14, "45236", "2023-11-06"),
        ("da_DK", "#,##0.00", "1234.5", "1.234,50"),
        ("ja_JP", "#,##0", "1234.5", "1,235"),
        ("zh_CN", "#,##0.0", "1234.5", "1,234.5"),
    ],
)
def test_signs_names_and_built_in_dates_are_those_of_the_language(
    language, number_format, value, expected
):
    """A format with the tag of a language has the names of that language."""
    assert display(number_format, value, language) == expected


@pytest.mark.parametrize(
    ("language", "number_format", "value", "words"),
    [
        ("en_US", "0 kg", "5", "`k`"),
        ("en_US", "[DBNum1]0", "5", "`DBNum1`"),
        ("en_US", "[>100]0", "5", "no section"),
        ("en_US", '"x"@', "5", "no section"),
        ("en_US", "0" * 256, "5", "no section"),
        ("en_US", "[<100]0.0;0", "-5", "minus"),
        ("en_US", "0.00", "-0.001", "rounds to 0"),
        ("en_US", "# ?/?", "-0.01", "rounds to 0"),
        ("en_US", '"cold"', "-5", "rounds to 0 or shows no digit"),
        ("en_US", "0.0.0", "5", "two decimal points"),
        ("en_US", ",0", "5", "comma"),
        ("en_US", "0.0,0", "5", "comma"),
        ("en_US", "##0.0E+0", "5", "exponent"),
        ("en_US", 48, "5", "built-in format 48"),
        ("en_US", 27, "45293", "built-in format 27"),
        ("en_US", "# ?/4", "5", "`4`"),
        ("en_US", "# ????/????", "5", "fractions"),
        ("en_US", "0/0", "5", "fractions"),
        ("en_US", "General%", "5", "General"),
        ("en_US", "ggge", "45293", "`ggg`"),
        ("en_US", "bbbb", "45293", "`bbbb`"),
        ("en_US", "aaaa", "45293", "`aaaa`"),
        ("en_US", "[$-D07041E]d/m/yyyy", "45293", "[$-D07041E]"),
        ("en_US", "[$-407]0.00", "5", "[$-407]"),
        ("en_US", "ss.0000", "5", "places"),
        ("en_US", "yyyyy", "45293", "`yyyyy`"),
        ("en_US", "hhh", "45293", "`hhh`"),
        ("en_US", "h A/P", "0.5", "A/P"),
        ("en_GB", "mmm", "45293", "short names of months"),
        ("fr_FR", 16, "45293", "short names of months"),
        ("de_DE", "h:mm AM/PM", "0.5", "AM and PM"),
        ("pl_PL", 14, "45293", "built-in format 14"),
        ("pl_PL", "d/m", "45293", "sign between"),
        ("pl_PL", "mmmm", "45293", "names of months"),
        ("ja_JP", 14, "45293", "built-in format 14"),
        ("ja_JP", "ddd", "45293", "`ddd`"),
        ("zh_CN", "aaa", "45293", "short names of days"),
        ("fr_FR", "[$-F800]dddd", "45293", "long dates"),
    ],
)
def test_a_format_outside_of_the_known_part_is_refused(language, number_format, value, words):
    """Also where two programs would show different texts."""
    with pytest.raises(Undisplayable, match=words.replace("[", r"\[").replace("$", r"\$")):
        display(number_format, value, language)


@pytest.mark.parametrize(("value", "expected"), [("-1", None), ("2958466", None)])
def test_a_date_that_does_not_exist_has_no_text(value, expected):
    """Excel shows `########`."""
    assert display(14, value) is expected


def test_dates_that_count_from_1904_are_shown_as_the_same_days():
    """Old Macs write such workbooks."""
    assert display("dddd, d mmmm yyyy", "43831", from_1904=True) == "Tuesday, 2 January 2024"


def test_the_job_file_accepts_the_languages_that_the_table_has():
    """In the same order."""
    assert tuple(LOCALES) == ACCEPTED


def as_libreoffice_shows(folder, formats: list[tuple[Format, str, str]]) -> list[str]:
    """The texts of cells with these formats and numbers, as LibreOffice writes them to a CSV."""
    cells = [[cell(f"A{n}", value, "n", style=n)] for n, (_, value, _) in enumerate(formats, 1)]
    used = styles(0, *(number_format for number_format, _, _ in formats))
    parts = {"xl/styles.xml": used, "[Content_Types].xml": CONTENT_TYPES}
    path = write_workbook(folder / "in.xlsx", worksheet(rows(*cells)), parts=parts)
    as_shown = "csv:Text - txt - csv (StarCalc):44,34,76,1,,0,false,true,true,false"
    profile = f"-env:UserInstallation={(folder / 'profile').as_uri()}"
    subprocess.run(
        ["soffice", profile, "--headless", "--convert-to", as_shown, "--outdir", folder, path],
        check=True,
        capture_output=True,
        timeout=120,
        env=os.environ | {"LC_ALL": "en_US.UTF-8"},
    )
    with (folder / "in.csv").open(encoding="utf-8", newline="") as file:
        return [line[0].strip(" ") if line else "" for line in csv.reader(file)]


@pytest.mark.skipif(not shutil.which("soffice"), reason="needs LibreOffice")
def test_libreoffice_shows_the_same_texts(tmp_path):
    """It is an independent program. Spaces at both ends are left out."""
    shown = as_libreoffice_shows(tmp_path, ALIKE)
    theirs = [(f, v, text) for (f, v, _), text in zip(ALIKE, shown, strict=True)]
    assert theirs == ALIKE
