"""Sheets of other kinds (.ods, .xls, .txt), in other encodings, or with a wrong ending."""

from __future__ import annotations

import json
import uuid
import zipfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.core.errors import Refused
from pipeline.inputs.formats import open_table
from tests.support.workbooks import table, worksheet, write_repeated, write_workbook
from tests.unit.inputs.test_inputs import read, sheet, snap, spec_for


def refused(path: Path, **fields: object) -> str:
    with pytest.raises(Refused) as caught:
        read(path, **fields)
    return str(caught.value)


BOOKS = Path(__file__).parents[2] / "support" / "sheets"
"""The same workbook, saved by LibreOffice as .ods and as .xls."""
COLUMNS = ("text", "whole", "part", "day", "moment", "flag", "span", "sum")


@pytest.mark.parametrize("kind", ["ods", "xls"])
def test_other_workbooks_become_text_by_the_rules_for_xlsx(kind):
    """Blank rows between are rows. The kind .ods stores no difference between TRUE and 1."""
    columns, lines = read(BOOKS / f"book.{kind}")
    assert columns == COLUMNS
    flag, span = ("1", "PT30H00M00S") if kind == "ods" else ("TRUE", "30:00:00")
    day, moment = "2024-01-02", "2024-01-02T12:00:00"
    assert lines[0] == (" x ", "5", "0.3", day, moment, flag, span, "2")
    assert lines[1:] == [("",) * 8, ("a\nb", "", "", "e", "", "", "", "")]
    assert open_table(spec_for(BOOKS / f"book.{kind}")).cell_at(3, 4) == "Sheet1!D4"
    assert "has no worksheet" in refused(BOOKS / f"book.{kind}", sheet="Sheet2")


@pytest.mark.parametrize("name", ["s.jsonl", "s.xlsx"])
def test_a_sheet_that_goes_away_before_its_rows_are_read_is_refused_as_a_missing_one(
    tmp_path, name
):
    path = tmp_path / name
    write_workbook(path, worksheet(table([["story"], ["a"]])))
    if name == "s.jsonl":
        path.write_text('{"story": "a"}\n')
    spec = spec_for(path)
    opened = open_table(spec)
    path.unlink()
    said = []
    for read_it in (lambda: list(opened.batches()), lambda: open_table(spec)):
        with pytest.raises(Refused) as caught:
            read_it()
        said.append(str(caught.value))
    assert said == [f"{path}: there is no such file. Nothing was sent."] * 2


@pytest.mark.parametrize(("lines", "words"), [(1 << 20, "cells"), (5000, "too much memory")])
def test_a_small_workbook_of_many_cells_ends_soon_in_little_memory(tmp_path, lines, words):
    """calamine has a place in memory for each cell up to the last one."""
    write_repeated(tmp_path / "far.ods", lines)
    assert words in refused(tmp_path / "far.ods")


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("s.csv", "xlsx", "an Excel workbook, but its name ends in .csv. Rename it to s.xlsx"),
        ("s.jsonl", "xlsx", "Rename it to s.xlsx"),
        ("s.csv", "ods", "an OpenDocument workbook, but its name ends in .csv"),
        ("s.xlsx", "ods", "Rename it to s.ods"),
        ("s.xlsx", "xls", "an old Excel workbook, but its name ends in .xlsx. Rename it to s.xls"),
        ("s.ods", "xls", "Rename it to s.xls"),
        ("s.txt", "xls", "Rename it to s.xls"),
        ("s.xls", "a,b\n1,2\n", "If it is text, rename it to .csv"),
        ("s.xls", "<html><table><tr>", "a web page"),
        ("s.ods", "", "the file is empty"),
    ],
)
def test_a_sheet_of_another_kind_than_its_name_says_is_refused(tmp_path, name, content, words):
    """With the name that it should have. Nothing of a workbook is read as text."""
    path = tmp_path / name
    if content == "xlsx":
        write_workbook(path, worksheet(table([["a"], ["x"]])))
    else:
        path.write_bytes(
            (BOOKS / f"book.{content}").read_bytes()
            if content in ("ods", "xls")
            else content.encode()
        )
    assert words in refused(path)


@pytest.mark.parametrize(
    ("text", "encoding", "line"),
    [
        ("a;b\nfine;1\ncafé;2\n", "cp1252", "café;2"),
        ("имя;цена\nкнига;5\n", "cp1251", "имя;цена"),
        ("名前,値段\nテーブル,7\n" * 9, "cp932", "名前,値段"),
        ("名称,价格\n桌子,7\n" * 20, "gb18030", "名称,价格"),
    ],
)
def test_a_refusal_for_another_encoding_names_the_likely_one(tmp_path, text, encoding, line):
    """With a line as it would read it. The named encoding then reads the sheet."""
    path = sheet(tmp_path, text.encode(encoding))
    message = refused(path)
    assert f"`encoding: {encoding}` reads it as: {line}" in message
    columns, lines = read(path, encoding=encoding)
    assert [columns, *lines] == [tuple(r.split(columns_mark(text))) for r in text.split()]


def columns_mark(text: str) -> str:
    return ";" if ";" in text else ","


def test_utf16_without_a_mark_is_refused_with_its_encoding(tmp_path):
    """Both byte orders."""
    for order in ("le", "be"):
        path = sheet(tmp_path, "a,b\n1,2\n".encode(f"utf-16-{order}"))
        assert f"Set `encoding: utf-16-{order}`" in refused(path)
        assert read(path, encoding=f"utf-16-{order}")[1] == [("1", "2")]


def test_a_second_byte_order_mark_is_no_part_of_the_first_name(tmp_path):
    """As programs leave it that add a mark to a file that has one."""
    mark = "\ufeff" * 2
    assert read(sheet(tmp_path, f"{mark}a,b\n1,2\n"))[0] == ("a", "b")
    assert read(sheet(tmp_path, f"{mark}sep=;\na;b\n1;2\n"))[0] == ("a", "b")
    assert read(sheet(tmp_path, f"{mark}a\n1\n".encode("utf-16-le")))[0] == ("a",)
    assert read(sheet(tmp_path, f'{mark}{{"a": "1"}}\n', "s.jsonl"))[0] == ("a",)


def test_nul_characters_inside_a_text_are_text(tmp_path):
    """JSON and Parquet may contain them, so exports do too. A cell of nothing else is damage."""
    assert read(sheet(tmp_path, 'a,b\n1,x\0y\n2,"\0z\n"\n'))[1] == [("1", "x\0y"), ("2", "\0z\n")]
    assert "line 3: this row has a cell of NUL bytes" in refused(
        sheet(tmp_path, "a\nxxxxxxx\n" + "\0" * 3)
    )


def test_uuids_and_bytes_become_text(tmp_path):
    """Bytes are UTF-8 or refused. In a column that is not sent they are shown as digits."""
    one = uuid.UUID(int=7)
    kind = pa.uuid()
    key = pa.ExtensionArray.from_storage(kind, pa.array([one.bytes, None], pa.binary(16)))
    raw = pa.array(["é".encode(), b""])
    pq.write_table(pa.table({"key": key, "raw": raw}), tmp_path / "s.parquet")
    assert read(tmp_path / "s.parquet")[1] == [(str(one), "é")]
    pq.write_table(pa.table({"a": ["x"], "raw": [b"\xff\x00"]}), tmp_path / "s.parquet")
    assert 'column "raw"' in refused(tmp_path / "s.parquet")
    assert read(tmp_path / "s.parquet", variables=(("a", "a"),))[1] == [("x", "ff00")]


def test_equal_and_missing_names_are_refused_only_where_they_are_used(tmp_path):
    """The copy of the sheet gives each column another name."""
    for name, content in (
        ("s.csv", "a,price,price,\nx,1,2,3\n"),
        ("s.txt", "a\tprice\tprice\t\nx\t1\t2\t3\n"),
    ):
        path = sheet(tmp_path, content, name)
        snapshot, *_ = snap(path, variables=(("a", "a"),))
        assert snapshot.columns == ("a", "price", "price (column C)", "(column D)")
        for used in ("price", "price (column C)"):
            assert 'the header names "price" twice' in refused(path, variables=(("a", used),))
        assert "twice" in refused(path, variables=(("a", "a"),), id="price")
    table_ = pa.table([pa.array(["x"]), pa.array(["1"]), pa.array(["2"])], names=["a", "p", "p"])
    pq.write_table(table_, tmp_path / "s.parquet")
    assert read(tmp_path / "s.parquet", variables=(("a", "a"),))[0] == ("a", "p", "p (column C)")
    assert (
        json.dumps(read(tmp_path / "s.parquet", variables=(("a", "a"),))[1]) == '[["x", "1", "2"]]'
    )


def test_a_row_that_is_repeated_a_million_times_is_refused(tmp_path):
    """A few bytes of an .ods can say so."""
    row = (
        '<table:table-row table:number-rows-repeated="1000000"><table:table-cell '
        'office:value-type="string"><text:p>x</text:p></table:table-cell></table:table-row>'
    )
    path = tmp_path / "sheet.ods"
    name = "urn:oasis:names:tc:opendocument:xmlns:"
    content = (
        f'<office:document-content xmlns:office="{name}office:1.0" xmlns:table="{name}table:1.0" '
        f'xmlns:text="{name}text:1.0"><office:body><office:spreadsheet><table:table '
        f'table:name="S">{row}</table:table></office:spreadsheet></office:body>'
        "</office:document-content>"
    )
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("mimetype", "application/vnd.oasis.opendocument.spreadsheet")
        archive.writestr("content.xml", content)
        archive.writestr("META-INF/manifest.xml", "<manifest/>")
    with pytest.raises(Refused, match="far more than in a real sheet"):
        for _ in open_table(spec_for(path)).batches():
            pass
