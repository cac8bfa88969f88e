"""Workbooks: a cell becomes text, or a refusal names the cell."""

from __future__ import annotations

import datetime
from pathlib import Path

import openpyxl
import pytest
from python_calamine import CalamineWorkbook

from pipeline.core.errors import Refused
from pipeline.inputs.formats import open_table
from pipeline.inputs.snapshot import Snapshot
from pipeline.inputs.stored import stored_cells
from pipeline.job.spec import Condition
from tests.support.workbooks import (
    cell,
    parts_of,
    rows,
    shared,
    styles,
    table,
    worksheet,
    write_workbook,
)
from tests.unit.inputs.test_inputs import read, snap, spec_for


def one_column(tmp_path: Path, *cells: str, **more) -> Path:
    """A workbook with the header `story` in A1 and `cells` from A2 on."""
    data = rows([cell("A1", "story")], *([text] for text in cells))
    return write_workbook(tmp_path / "sheet.xlsx", worksheet(data), **more)


def inline(content: str) -> str:
    return cell("A2", kind="inlineStr", raw=f"<is>{content}</is>")


def texts(path: Path, **fields: object) -> list[str]:
    return [row[0] for row in read(path, **fields)[1]]


def refusal(path: Path, **fields: object) -> str:
    """Returns the refusal that the user sees when a run reads the whole sheet."""
    with pytest.raises(Refused) as caught:
        snap(path, **fields)
    message = str(caught.value)
    assert message.startswith(str(path)) or message.startswith(str(path.with_name("job.yaml")))
    assert message.endswith("Nothing was sent.")
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("15", "15"),
        ("15.0", "15"),
        ("0.1", "0.1"),
        ("1.1000000000000001", "1.1"),
        ("-0", "0"),
        ("-7", "-7"),
        ("1E+16", "10000000000000000"),
        ("1.23456789012345E+18", "1234567890123450000"),
        ("1234567890123456789", "1234567890123456789"),
        ("1.5E-7", "0.00000015"),
        ("1E+300", "1e+300"),
        ("007", "7"),
    ],
)
def test_numbers_have_the_fewest_digits_that_mean_them(tmp_path, value, expected):
    """No `.0`, no exponent for everyday sizes, and no lost digit of a long number."""
    assert texts(one_column(tmp_path, cell("A2", value, "n"))) == [expected]


@pytest.mark.parametrize(
    ("number_format", "value", "expected"),
    [
        (0, "45293", "45293"),
        (9, "0.15", "0.15"),
        ('#,##0.00\\ "days"', "12.5", "12.5"),
        ('[Red]0.0" m"', "3", "3"),
        ("00000", "123", "00123"),
        ("00000", "1234567", "1234567"),
        (14, "45293", "2024-01-02"),
        (14, "45293.5", "2024-01-02T12:00:00"),
        (22, "45293.520983796295", "2024-01-02T12:30:13"),
        ("yyyy\\-mm\\-dd", "45293", "2024-01-02"),
        ("[$-409]mmm yy;@", "45293", "2024-01-02"),
        ('yyyy"年"m"月"d"日"', "45293", "2024-01-02"),
        (31, "45293", "2024-01-02"),
        (20, "0.35416666666666669", "08:30:00"),
        ("h:mm:ss.000", "0.0000115856", "00:00:01.001"),
        (46, "1.0625", "25:30:00"),
        ("[mm]:ss", "0.000011574074074074073", "0:00:01"),
        (14, "1", "1900-01-01"),
        (14, "60", "1900-02-29"),
        (14, "61", "1900-03-01"),
        (14, "2958465", "9999-12-31"),
    ],
)
def test_dates_are_iso_and_number_formats_change_only_leading_zeros(
    tmp_path, number_format, value, expected
):
    """A date alone has no time, and a time alone has no day. Zip codes keep their zeros."""
    parts = {"xl/styles.xml": styles(0, number_format)}
    path = one_column(tmp_path, cell("A2", value, "n", style=1), parts=parts)
    assert texts(path) == [expected]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("0.30000000000000004", "0.3"),
        ("1.0000000000000002E-2", "0.01"),
        ("1.5e3", "1500"),
        ("1E+21", "1e+21"),
        ("1.2345678901234567E+19", "12345678901234600000"),
        ("1234567890123456.7", "1234567890123460"),
        ("12345678901234567890", "12345678901234567890"),
        ("1234567890123456.0", "1234567890123456"),
        ("-1234567890123456.", "-1234567890123456"),
        (".0", "0"),
    ],
)
def test_numbers_have_15_digits_and_whole_numbers_written_in_full_have_all(
    tmp_path, value, expected
):
    """Excel itself writes more than 15 digits only of calculated numbers, and shows 15 of them.
    Other programs write long article numbers in full, some of them with `.0`."""
    assert texts(one_column(tmp_path, cell("A2", value, "n"))) == [expected]


DAY = "2024-01-02"


@pytest.mark.parametrize(
    ("number_format", "value", "expected"),
    [
        ("aaaa", "45293", DAY),
        ("aaa", "45293", DAY),
        ("e", "45293", DAY),
        ("ee", "45293", DAY),
        ('ggge"年"m"月"d"日"', "45293", DAY),
        ("bbbb", "45293", DAY),
        ("[$-D07041E]d/m/bb", "45293", DAY),
        ("[$-107041E]d mmm yyyy", "45293", DAY),
        ("[$-411]ge.m.d;@", "45293", DAY),
        ("[$-804]aaaa;@", "45293", DAY),
        ("[$-404]e/m/d;@", "45293", DAY),
        ("e-m-d", "45293", DAY),
        ('[DBNum1][$-804]yyyy"年"m"月"', "45293", DAY),
        ("B2yyyy/mm/dd", "45293", DAY),
        (71, "45293", DAY),
        (81, "45293", DAY),
        (76, "0.5", "12:00:00"),
        (79, "1.5", "36:00:00"),
        ("上午/下午hh時mm分", "0.5", "12:00:00"),
        ("[Red][>40000]yyyy;0", "45293", DAY),
        ('[=0]"";yyyy\\-mm\\-dd', "45293", DAY),
        ("yyyy;0", "-3", "-3"),
        ("yyyy;0", "45293", DAY),
        ("0;yyyy", "45293", "45293"),
        ("mm:ss.000", "0.0000115856", "00:00:01.001"),
        ("[ss],00", "0.0000115741", "0:00:01"),
        ("General", "45293", "45293"),
        ("GENERAL;[Red]General", "45293", "45293"),
        ("Standard", "45293", "45293"),
        ("0.00E+00", "45293", "45293"),
        ("##0.0e-0", "45293", "45293"),
        ('"sale"0', "45293", "45293"),
        ("0 kg/d", "45293", "45293"),
        ("EUR #,##0", "45293", "45293"),
        ("[Magenta]0.0", "45293", "45293"),
        ("[Color10]0;[Cyan]-0", "45293", "45293"),
        ("[<=100]0;[Red]0", "45293", "45293"),
        ("@", "45293", "45293"),
        ('0;0;0;"day"@', "45293", "45293"),
        ("d" * 300, "45293", "45293"),
    ],
)
def test_the_section_for_the_number_decides_whether_it_is_a_date(
    tmp_path, number_format, value, expected
):
    """Also in the formats of China, Japan and Thailand. `e` is a year, and `E+` an exponent."""
    parts = {"xl/styles.xml": styles(0, number_format)}
    path = one_column(tmp_path, cell("A2", value, "n", style=1), parts=parts)
    assert texts(path) == [expected]


@pytest.mark.parametrize(
    ("number_format", "value", "expected"),
    [
        ("00000;@", "42", "00042"),
        ("[$-409]00000", "42", "00042"),
        ("00000_)", "42", "00042"),
        ("* 00000", "42", "00042"),
        ("[Blue]00000", "42", "00042"),
        ("0000000000000", "4006381333931", "4006381333931"),
        ("0000000000000", "42", "0000000000042"),
        ("#0000", "42", "0042"),
        ("00000-0000", "12345678", "01234-5678"),
        ("000\\-00", "12345", "123-45"),
        ("000\\-00", "12345678901234567890", "123456789012345678-90"),
        ("00:00", "830", "08:30"),
        ('"SKU-"0000', "42", "SKU-0042"),
        ('"SKU-"0000', "-42", "-SKU-0042"),
        ('"SKU-"0000" A"', "42", "SKU-0042 A"),
        ('"{0}"000', "7", "{0}007"),
        ("[$Nr.-407]\\ 000", "7", "Nr. 007"),
        ("00000", "-5", "-00005"),
        ("00000;-00000", "-5", "-00005"),
        ("00000;(00000)", "-5", "(00005)"),
        ("00000;0", "-5", "-5"),
        ("[<1000]0000;000000", "42", "0042"),
        ("[<1000]0000;000000", "4200", "004200"),
        ("[<1000]0000;000000", "-42", "-42"),
        ("0000;;", "0", "0"),
        ("00000", "12.5", "12.5"),
        ("00.00", "5", "5"),
        ("0,000", "5", "5"),
        ("0000,", "5", "5"),
        ("00%", "5", "5"),
        ("00/00", "5", "5"),
        ("00E+00", "5", "5"),
        ('"SKU-"0', "5", "5"),
        ('0" m"', "5", "5"),
        ("t00000", "5", "5"),
    ],
)
def test_formats_with_zeros_before_the_number_keep_the_zeros_and_the_texts_next_to_them(
    tmp_path, number_format, value, expected
):
    """The user sees `SKU-0042`. A format with anything else in it changes no number."""
    parts = {"xl/styles.xml": styles(0, number_format)}
    path = one_column(tmp_path, cell("A2", value, "n", style=1), parts=parts)
    assert texts(path) == [expected]


@pytest.mark.parametrize("rules", [1, 2])
@pytest.mark.parametrize(
    ("number_format", "value", "expected"),
    [
        ("e", "45293", "45293"),
        ("aaaa", "45293", "45293"),
        (71, "45293", "45293"),
        ('[=0]"";yyyy', "45293", "45293"),
        ("0 kg/d", "45293", DAY),
        ("Standard", "45293", DAY),
        ("00000;@", "42", "42"),
        ("#0000", "42", "42"),
        ('"SKU-"0000', "42", "42"),
        ("00000", "42", "00042"),
        ("00000", "-5", "-5"),
        ("yyyy", "45293", DAY),
        (46, "1.0625", "25:30:00"),
    ],
)
def test_earlier_text_rules_give_the_same_texts_as_before(
    tmp_path, rules, number_format, value, expected
):
    """The rows of a folder with these rules would have another text otherwise."""
    parts = {"xl/styles.xml": styles(0, number_format)}
    path = one_column(tmp_path, cell("A2", value, "n", style=1), parts=parts)
    assert texts(path, text_rules=rules) == [expected]


@pytest.mark.parametrize(
    ("rules", "expected"),
    [(1, ["1234567890123456", "0.30000000000000004"]), (2, ["1234567890123460", "0.3"])],
)
def test_earlier_text_rules_round_numbers_as_before(tmp_path, rules, expected):
    """Rules 1 round nothing, and rules 2 also round a whole number with `.0`."""
    numbers = ("1234567890123456.0", "0.30000000000000004")
    cells = [cell(f"A{row}", number, "n") for row, number in enumerate(numbers, 2)]
    assert texts(one_column(tmp_path, *cells), text_rules=rules) == expected


def test_a_workbook_with_more_number_formats_than_any_program_writes_is_refused(tmp_path):
    """Each format takes time to split into its parts."""
    formats = [f"0.{'0' * (n % 200)}{'#' * (n // 200)}" for n in range(1500)]
    cells = [cell(f"A{n}", n, "n", style=n) for n in range(2, 1500)]
    path = one_column(tmp_path, *cells, parts={"xl/styles.xml": styles(0, *formats)})
    assert "it has over 1,000 number formats" in refusal(path)
    assert len(texts(path, text_rules=2)) == 1498


def test_dates_that_count_from_1904_are_the_same_days(tmp_path):
    """Old Macs write such workbooks."""
    parts = {"xl/styles.xml": styles(14)}
    path = one_column(
        tmp_path,
        cell("A2", "43831", "n", style=0),
        cell("A3", "0", "n", style=0),
        parts=parts,
        settings='<workbookPr date1904="1"/>',
    )
    assert texts(path) == ["2024-01-02", "1904-01-01"]


@pytest.mark.parametrize("value", ["-1", "2958466", "1E+12"])
def test_a_date_that_excel_shows_as_hashes_is_refused_by_its_cell(tmp_path, value):
    """Such a day does not exist."""
    parts = {"xl/styles.xml": styles(14)}
    message = refusal(one_column(tmp_path, cell("A2", value, "n", style=0), parts=parts))
    assert "Sheet1!A2" in message
    assert "########" in message


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (cell("A2", "00123"), "00123"),
        (cell("A2", "  two spaces "), "  two spaces "),
        (cell("A2", "a\nb"), "a\nb"),
        (cell("A2", "a_x000D_\nb"), "a\r\nb"),
        (cell("A2", "_x005F_x000D_"), "_x000D_"),
        (cell("A2", "_xD83D__xDE00_"), "😀"),
        (cell("A2", "_x41_ _xZZZZ_"), "_x41_ _xZZZZ_"),
        (cell("A2", "=1+1"), "=1+1"),
        (cell("A2", "x" * 40_000), "x" * 40_000),
        (cell("A2", "1", "b"), "TRUE"),
        (cell("A2", "0", "b"), "FALSE"),
        (cell("A2", "2024-01-02T00:00:00", "d"), "2024-01-02"),
        (cell("A2", "2024-01-02T03:04:05Z", "d"), "2024-01-02T03:04:05Z"),
        (cell("A2", "5", "n", formula="2+3"), "5"),
        (cell("A2", "text", "str", formula='"te"&"xt"'), "text"),
        (
            cell(
                "A2",
                kind="inlineStr",
                raw="<is><r><rPr><b/></rPr><t>ri</t></r><r><t>ch</t></r></is>",
            ),
            "rich",
        ),
        (
            cell(
                "A2",
                kind="inlineStr",
                raw='<is><t>東京</t><rPh sb="0" eb="2"><t>トウキョウ</t></rPh></is>',
            ),
            "東京",
        ),
        (cell("A2", kind="inlineStr", raw="<is><t><![CDATA[<b>&]]></t></is>"), "<b>&"),
    ],
)
def test_texts_booleans_and_calculated_formulas_are_read_exactly(tmp_path, content, expected):
    """Spaces, line ends, escapes, and rich text without its phonetic readings."""
    assert texts(one_column(tmp_path, content)) == [expected]


def test_shared_texts_are_read_exactly_in_any_cell(tmp_path):
    """In any order, many times, rich or plain, and more of them than fit into the cache."""
    long = [f"{n} " + "x" * 2000 for n in range(5000)]
    order = [*range(4999, -1, -1), *range(0, 5000, 7)]
    cells = [cell(f"A{r}", n + 1, "s") for r, n in enumerate(order, 2)]
    data = rows([cell("A1", 0, "s")], *([text] for text in cells))
    path = write_workbook(
        tmp_path / "sheet.xlsx",
        worksheet(data),
        parts={"xl/sharedStrings.xml": shared(["story", *long])},
    )
    assert texts(path) == [long[n] for n in order]


def test_a_table_may_begin_anywhere_and_places_are_those_of_excel(tmp_path):
    """The header is the first row that is not empty."""
    data = rows([cell("C5", "sku"), cell("D5", "story")], [cell("C6", "a")], first=5)
    path = write_workbook(tmp_path / "sheet.xlsx", worksheet(data, before='<dimension ref="A1"/>'))
    assert read(path) == (("sku", "story"), [("a", "")])
    assert "1 cell that would be sent is empty: Sheet1!D6." in refusal(path)


def test_the_header_may_be_a_row_below_titles(tmp_path):
    """`header_row:` names it, and the rows above it are not read."""
    path = write_workbook(
        tmp_path / "sheet.xlsx",
        worksheet(table([["Products 2024"], [], ["sku", "story"], ["a", "b"]])),
    )
    assert "Sheet1!B3" in refusal(path)
    assert "header_row:" in refusal(path)
    assert read(path, header_row=3) == (("sku", "story"), [("a", "b")])
    assert "row 2 is empty" in refusal(path, header_row=2)
    assert "row 9 is empty" in refusal(path, header_row=9)


def test_blank_rows_between_filled_rows_count_and_those_at_the_end_do_not(tmp_path):
    """As in every other kind of sheet, for any size that the worksheet declares."""
    data = (
        table([["story"], ["a"], [], [None], ["b"]])
        + '<row r="900000"/><row><c r="A900001"/></row>'
    )
    path = write_workbook(
        tmp_path / "sheet.xlsx",
        worksheet(data, before='<dimension ref="A1:XFD1048576"/>'),
    )
    assert texts(path) == ["a", "", "", "b"]


def test_rows_and_cells_without_an_address_follow_the_one_before(tmp_path):
    """Some programs do not write addresses."""
    inline = '<c t="inlineStr"><is><t>{}</t></is></c>'
    data = "".join(f"<row>{inline.format(a)}{inline.format(b)}</row>" for a, b in ["ab", "cd"])
    path = write_workbook(tmp_path / "sheet.xlsx", worksheet(data))
    assert read(path) == (("a", "b"), [("c", "d")])


def test_hidden_rows_and_columns_are_read_like_others(tmp_path):
    """A filter in Excel does not change which rows are sent."""
    data = rows([cell("A1", "story")]) + f'<row r="2" hidden="1">{cell("A2", "unseen")}</row>'
    hidden = '<cols><col min="1" max="1" hidden="1"/></cols>'
    path = write_workbook(tmp_path / "sheet.xlsx", worksheet(data, before=hidden))
    assert texts(path) == ["unseen"]


def test_prefixed_and_strict_workbooks_are_read(tmp_path):
    """.NET writes `x:row`, and Excel's Strict Open XML has other namespaces."""
    parts = parts_of({"Sheet1": worksheet(table([["story"], ["a"]]))})
    name = "xl/worksheets/sheet1.xml"
    for tag in ("worksheet", "sheetData", "row", "c", "is", "t"):
        parts[name] = parts[name].replace(f"<{tag}", f"<x:{tag}").replace(f"</{tag}", f"</x:{tag}")
    parts[name] = parts[name].replace("xmlns=", "xmlns:x=")
    assert texts(write_workbook(tmp_path / "net.xlsx", "", parts=parts)) == ["a"]
    strict = {
        key: text.replace("schemas.openxmlformats.org/spreadsheetml/2006", "purl.oclc.org/ooxml")
        for key, text in parts.items()
    }
    assert texts(write_workbook(tmp_path / "strict.xlsm", "", parts=strict)) == ["a"]


# -- which sheet --------------------------------------------------------------------------


def test_the_worksheet_is_the_named_one_or_the_only_visible_one(tmp_path):
    """The runner does not choose among several. The spec may name a hidden one."""
    sheets = {name: worksheet(table([["story"], [name]])) for name in ("Stories", "Notes", "Lists")}
    path = write_workbook(tmp_path / "sheet.xlsx", sheets)
    assert "It has: Stories, Notes, Lists" in refusal(path)
    assert texts(path, sheet="Notes") == ["Notes"]
    wrong = refusal(path, sheet="Storys")
    assert 'no worksheet "Storys"' in wrong
    assert 'Did you mean "Stories"?' in wrong
    states = {"Notes": "hidden", "Lists": "veryHidden"}
    path = write_workbook(tmp_path / "hidden.xlsx", sheets, states=states)
    assert texts(path) == ["Stories"]
    assert texts(path, sheet="Lists") == ["Lists"]


@pytest.mark.parametrize(
    ("ending", "fields", "words"),
    [
        (".csv", {"sheet": "Sheet1"}, ["`sheet:`", ".xlsx, .xlsm"]),
        (".parquet", {"header_row": 2}, ["`header_row:`"]),
        (".xlsx", {"encoding": "cp1252"}, ["`encoding:`", ".csv, .tsv"]),
        (".numbers", {}, ["Save the workbook as .xlsx"]),
        (".json", {}, ["rename the file to .jsonl"]),
    ],
)
def test_a_setting_or_a_file_of_another_kind_is_refused(tmp_path, ending, fields, words):
    """The user would think that a line of the spec without an effect has one."""
    path = tmp_path / f"sheet{ending}"
    path.write_text("story\nx\n")
    for word in words:
        assert word in refusal(path, **fields)


# -- cells that hold no value -------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "settings"),
    [
        (cell("B2", formula="1+1"), ""),
        (cell("B2", raw="<f>1+1</f><v></v>"), ""),
        (cell("B2", raw='<f t="shared" si="0"/><v/>'), ""),
        (cell("B2", kind="str", formula="A2"), ""),
        (cell("B2", "0", formula="1+1"), '<calcPr calcId="124519" fullCalcOnLoad="1"/>'),
    ],
)
def test_a_formula_that_was_never_calculated_is_refused_where_it_is_used(
    tmp_path, content, settings
):
    """In a column of a variable, the id or `where:`. Also if a program wrote 0 into every formula
    and asks Excel to calculate them."""
    data = rows([cell("A1", "sku"), cell("B1", "story")], [cell("A2", "a"), content])
    path = write_workbook(tmp_path / "sheet.xlsx", worksheet(data), settings=settings)
    other = (("sku", "sku"),)
    where = (Condition("story", "empty", negated=True),)
    for fields in (
        {"variables": (("x", "story"),)},
        {"variables": other, "id": "story"},
        {"variables": other, "where": where},
    ):
        message = refusal(path, **fields)
        assert "Sheet1!B2: this cell has a formula" in message
        assert "in Excel or LibreOffice and save it" in message
        assert ("fullCalcOnLoad" in message) == ("fullCalcOnLoad" in settings)
    snapshot, *_ = snap(path, variables=other)
    assert list(stored_cells(snapshot.path)) == [(1, ("a", ""))]


def test_a_formula_whose_value_is_an_empty_text_is_an_empty_cell(tmp_path):
    """`=IF(A2="","",…)` in rows that are not filled yet does not make them rows."""
    empty = '<f>IF(A2="","",1)</f><v></v>'
    path = one_column(tmp_path, cell("A2", "x"), cell("A3", kind="str", raw=empty))
    assert texts(path) == ["x"]


@pytest.mark.parametrize("formula", [{}, {"formula": "1/0"}])
def test_an_error_is_refused_if_it_would_be_sent_and_is_text_elsewhere(tmp_path, formula):
    """A failed look-up does no harm in a column that is not sent."""
    data = rows(
        [cell("A1", "sku"), cell("B1", "story")],
        [cell("A2", "#N/A", "e", **formula), cell("B2", "x")],
    )
    path = write_workbook(tmp_path / "sheet.xlsx", worksheet(data))
    assert "Sheet1!A2: #N/A would be sent as text" in refusal(path)
    assert "Sheet1!A2" in refusal(path, variables=(("story", "story"),), id="sku")
    snapshot: Snapshot = snap(path, variables=(("story", "story"),))[0]
    assert list(stored_cells(snapshot.path)) == [(1, ("#N/A", "x"))]


@pytest.mark.parametrize(
    ("ref", "mapped", "refused"),
    [
        ("B2:B3", "story", True),
        ("A2:B2", "story", True),
        ("A2:B2", "sku", False),
        ("A2:A3", "story", False),
        ("A1:A3", "sku", True),
        ("B4:B9", "story", False),
        ("B1:B1", "story", False),
    ],
)
def test_merged_cells_are_refused_if_a_cell_that_is_sent_has_no_value(
    tmp_path, ref, mapped, refused
):
    """Only the first cell of a merged range has a value."""
    data = table([["sku", "story"], ["a", "b"], ["c", "d"]])
    merged = f'<mergeCells count="1"><mergeCell ref="{ref}"/></mergeCells>'
    path = write_workbook(tmp_path / "sheet.xlsx", worksheet(data, merged))
    fields = {"variables": ((mapped, mapped),)}
    if refused:
        assert f"Sheet1!{ref}: these merged cells" in refusal(path, **fields)
    else:
        assert snap(path, **fields)[0].rows == 2


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (table([["sku", None, "story"], ["a", "b", "c"]]), ["Sheet1!B1 has no name"]),
        (table([["sku", "a", "sku"], ["a", "b", "c"]]), ['"sku" twice', "Sheet1!A1 and Sheet1!C1"]),
        (table([["sku"], ["a", "b"]]), ["Sheet1!B2", "no name in Sheet1!B1"]),
        (rows([cell("B2", "sku")], [cell("A3", "x")], first=2), ["Sheet1!A3", "Sheet1!A2"]),
        (rows([cell("A1", "#REF!", "e")], [cell("A2", "x")]), ["Sheet1!A1: the header"]),
        (rows([cell("A1", formula="B1")], [cell("A2", "x")]), ["Sheet1!A1: the header"]),
        (table([["story"]]), ["no rows"]),
        ("", ["the worksheet is empty"]),
        (table([["story"], ["_xD800_"]]), ["Sheet1!A2: this cell contains half a character"]),
        (table([["sku", "story"], ["_xD800_", "x"]]), ["Sheet1!A2: this cell contains half a"]),
    ],
)
def test_a_header_or_a_cell_that_cannot_be_used_is_refused_by_cell(tmp_path, data, words):
    """Blank and repeated names, values outside the table, halves of characters."""
    message = refusal(write_workbook(tmp_path / "sheet.xlsx", worksheet(data)))
    for word in words:
        assert word in message, message


def test_repeated_and_blank_ids_are_named_by_their_rows_in_the_sheet(tmp_path):
    """With the row numbers of Excel."""
    path = write_workbook(
        tmp_path / "sheet.xlsx", worksheet(table([[], ["sku", "x"], ["a", "b"], ["a", "c"]]))
    )
    assert "Sheet1!A4" in refusal(path, id="sku")


# -- compared with other readers ----------------------------------------------------------


def test_the_reader_agrees_with_openpyxl_and_calamine(tmp_path):
    """On a workbook that openpyxl wrote."""
    book = openpyxl.Workbook()
    page = book.active
    assert page is not None
    day, moment, clock = datetime.date, datetime.datetime, datetime.time
    lines = [
        ["text", "number", "day", "moment", "flag", "clock"],
        ["é <&> \"'", 15, day(2024, 1, 2), moment(2024, 1, 2, 3, 4, 5), True, clock(8, 30)],
        ["=not", 0.1, day(1999, 12, 31), moment(1970, 1, 1, 12), False, clock(23, 59, 59)],
    ]
    for line in lines:
        page.append(line)
    page["A3"].data_type = "s"
    path = tmp_path / "sheet.xlsx"
    book.save(path)
    columns, found = read(path)
    assert list(columns) == lines[0]

    def text(value: object) -> str:
        if isinstance(value, bool):
            return str(value).upper()
        if isinstance(value, datetime.date | datetime.time):
            return value.isoformat()
        return str(int(value) if isinstance(value, float) and value.is_integer() else value)

    assert found == [tuple(map(text, line)) for line in lines[1:]]
    other = CalamineWorkbook.from_path(path).get_sheet_by_index(0).to_python()
    assert found == [tuple(map(text, line)) for line in other[1:]]


def test_a_workbook_that_is_saved_between_its_header_and_its_rows_is_refused(tmp_path):
    """Otherwise the run would send another sheet than the one that was checked."""
    path = write_workbook(tmp_path / "sheet.xlsx", worksheet(table([["sku", "story"], ["a", "b"]])))
    opened = open_table(spec_for(path))
    write_workbook(path, worksheet(table([["story", "sku"], ["b", "a"]])))
    with pytest.raises(Refused, match="saved while the runner read it"):
        list(opened.batches())


def test_a_workbook_as_wide_as_excel_allows_is_read(tmp_path):
    """It has 16,384 columns, and addresses of up to three letters."""
    lines = [[f"c{n}" for n in range(16_384)], [str(n) for n in range(16_384)]]
    path = write_workbook(tmp_path / "sheet.xlsx", worksheet(table(lines)))
    found, [row] = read(path)
    assert list(found) == lines[0]
    assert list(row) == lines[1]


# -- as the sheet displays it -------------------------------------------------------------


def prices(tmp_path: Path, *numbers: tuple[str, str], **parts: str) -> Path:
    """A workbook with the columns Price and Note. Each number has its own format, in both."""
    cells = [
        [cell(f"A{row}", value, "n", style=row - 1), cell(f"B{row}", value, "n", style=row - 1)]
        for row, (_, value) in enumerate(numbers, 2)
    ]
    used = styles(0, *(number_format for number_format, _ in numbers))
    header = [cell("A1", "Price"), cell("B1", "Note")]
    data = worksheet(rows(header, *cells))
    return write_workbook(tmp_path / "sheet.xlsx", data, parts={"xl/styles.xml": used, **parts})


def test_the_columns_of_shown_are_read_as_the_sheet_displays_them(tmp_path):
    """Only these columns, in the language of the job."""
    euro = "#,##0.00\\ [$€-407]"
    path = prices(tmp_path, (euro, "1172.915"), ("0%", "0.1"), ("d. mmm", "45235"), ("00000", "7"))
    stored = ["1172.915", "0.1", "2023-11-05", "00007"]
    german = ["1.172,92 €", "10%", "5. Nov", "00007"]
    assert [row[0] for row in read(path)[1]] == stored
    _, found = read(path, shown=("Price",), locale="de_DE")
    assert [row[0] for row in found] == german
    assert [row[1] for row in found] == stored
    assert texts(path, shown=("Price",))[0] == "1,172.92 €"
    _, found = read(path, shown=True, locale="de_DE", variables=(("p", "Price"),))
    assert [row[0] for row in found] == german
    assert [row[1] for row in found] == stored
    _, found = read(path, shown=True, locale="de_DE", variables=(("p", "Price"),), id="Note")
    assert [row[1] for row in found] == german


def test_texts_booleans_and_the_header_are_the_same_in_a_column_of_shown(tmp_path):
    """Also the text that a formula has as its result. A number without a style has no format."""
    data = rows(
        [cell("A1", "2024", "n", style=1)],
        [cell("A2", "10%", style=1)],
        [cell("A3", "1", "b", style=1)],
        [cell("A4", "x", "str", formula='"x"', style=1)],
        [cell("A5", "1.5", "n", formula="1+0.5", style=1)],
        [cell("A6", "1.5", "n")],
    )
    parts = {"xl/styles.xml": styles(0, "0.00")}
    path = write_workbook(tmp_path / "sheet.xlsx", worksheet(data), parts=parts)
    assert read(path, shown=("2024",)) == (
        ("2024",),
        [("10%",), ("TRUE",), ("x",), ("1.50",), ("1.5",)],
    )


def test_a_cell_whose_format_is_not_known_is_refused_with_the_format(tmp_path):
    """Only in a column of `shown:`."""
    path = prices(tmp_path, ("0.00", "5"), ("ggge", "45235"))
    message = refusal(path, shown=("Price",), variables=(("p", "Price"),))
    assert "Sheet1!A3: the runner cannot show this cell as the sheet does" in message
    assert "number format `ggge`: `ggg` in it is not known for en_US" in message
    assert "take its column out of `shown:`" in message
    assert "programs differ in the short names of months for fr_FR" in refusal(
        prices(tmp_path, ("d mmm", "45235")), shown=True, locale="fr_FR"
    )
    path = prices(tmp_path, ("yyyy", "-5"))
    assert "########" in refusal(path, shown=("Price",), variables=(("p", "Price"),))


def test_shown_is_only_for_workbooks(tmp_path):
    """Other files have no number formats."""
    path = tmp_path / "sheet.csv"
    path.write_text("story\nx\n")
    assert "`shown:` is only for .xlsx, .xlsm files" in refusal(path, shown=("story",))
