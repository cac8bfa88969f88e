"""Files that are broken or made to exhaust the machine are refused soon and in little memory.

The kinds follow public collections: the corpora of zip and XML bombs ("billion laughs", nested
tags, lying directories), the odd workbooks in the issue trackers of calamine and openpyxl, and the
bad data of parquet-testing. All files are made here.
"""

from __future__ import annotations

import io
import json
import random
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.core.errors import Refused
from tests.support.workbooks import (
    HEAD,
    cell,
    parts_of,
    rows,
    shared,
    styles,
    table,
    worksheet,
    write_workbook,
)
from tests.unit.inputs.test_inputs import read, sheet

SHEET = "xl/worksheets/sheet1.xml"
PLAIN = worksheet(table([["story"], ["x"]]))
TEXTS = worksheet(rows([cell("A1", 0, "s")], [cell("A2", 0, "s")]))
OLE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(504)

LAUGHS = '<!DOCTYPE x [<!ENTITY a "ha">' + "".join(
    f'<!ENTITY {b} "{f"&{a};" * 10}">' for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)


def zipped(parts: dict[str, str | bytes], compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", compression, compresslevel=1) as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
    return made.getvalue()


def book(part: str = SHEET, content: str | bytes = PLAIN, **more) -> bytes:
    """A workbook in which one part has this content."""
    plain = TEXTS if part == "xl/sharedStrings.xml" else PLAIN
    return zipped(parts_of({"Sheet1": plain}) | {part: content}, **more)


def repeated(part: str, before: str, block: str, megabytes: int, after: str) -> bytes:
    """A workbook in which one part repeats a block."""
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        plain = TEXTS if part == "xl/sharedStrings.xml" else PLAIN
        for name, content in parts_of({"Sheet1": plain}).items():
            if name != part:
                archive.writestr(name, content)
        chunk = (block * ((1 << 20) // len(block))).encode()
        with archive.open(part, "w") as file:
            file.write(before.encode())
            for _ in range(megabytes):
                file.write(chunk)
            file.write(after.encode())
    return made.getvalue()


def patched(raw: bytes, old: bytes, new: bytes, last: bool = True) -> bytes:
    at = raw.rindex(old) if last else raw.index(old)
    return raw[:at] + new + raw[at + len(old) :]


def lying(more: int) -> bytes:
    """A workbook whose directory states a wrong size for its sheet."""
    made = book()
    size = struct.pack("<L", len(PLAIN))
    lie = struct.pack("<L", len(PLAIN) + more)
    at = made.index(size, made.index(b"PK\1\2"))
    while made[at + 22 : at + 22 + len(SHEET)] != SHEET.encode():
        at = made.index(size, at + 1)
    return made[:at] + lie + made[at + 4 :]


HEADS, ENDS = PLAIN.split("</sheetData>")[0], "</sheetData></worksheet>"

BROKEN: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "the file is empty"),
    "text": (b"story\nx\n", "rename it to .csv"),
    "web page": (b"\n<html><table>", "a web page"),
    "old xls": (OLE, "Rename it to sheet.xls"),
    "password": (OLE + "EncryptedPackage".encode("utf-16-le"), "password"),
    "cut": (book()[:-40], "not readable as a workbook"),
    "cut early": (book()[:700], "not readable as a workbook"),
    "ods": (zipped({"mimetype": "x", "content.xml": "x"}), "save it as .xlsx"),
    "xlsb": (zipped({"xl/workbook.bin": b"x"}), "Rename it to sheet.xlsb"),
    "a part twice": (zipped({"XL/workbook.xml": "x", "xl/workbook.xml": "x"}), "twice"),
    "zip password": (
        patched(book(), b"PK\1\2\x14\3\x14\0\0\0", b"PK\1\2\x14\3\x14\0\1\0"),
        "encrypted",
    ),
    "odd compression": (book(compression=zipfile.ZIP_LZMA), "no spreadsheet uses"),
    "no sheet part": (
        zipped({k: v for k, v in parts_of({"a": PLAIN}).items() if k != SHEET}),
        "no worksheet",
    ),
    "a sheet outside": (
        book(
            "xl/_rels/workbook.xml.rels",
            parts_of({"a": PLAIN})["xl/_rels/workbook.xml.rels"].replace(
                "worksheets/", "../../../etc/"
            ),
        ),
        "no worksheet",
    ),
    "no styles": (
        zipped({k: v for k, v in parts_of({"a": PLAIN}).items() if k != "xl/styles.xml"}),
        "styles",
    ),
    "no XML": (book(content="nonsense"), "not well-formed"),
    "half XML": (book(content=PLAIN[:-30]), "not well-formed"),
    "no worksheet": (book(content="<a/>"), "has no cells"),
    "odd encoding": (book(content='<?xml version="1.0" encoding="nonsense"?><a/>'), "nonsense"),
    "a row twice": (book(content=worksheet(rows([cell("A1", "a")]) * 2)), "row 1 comes after"),
    "a row beyond": (book(content=worksheet('<row r="1048577"/>')), "row 1048577"),
    "a cell of another row": (book(content=worksheet(rows([cell("A2", "a")]))), "A2 in row 1"),
    "cells in disorder": (
        book(content=worksheet(rows([cell("B1", "a"), cell("A1", "b")]))),
        "out of order",
    ),
    "a column beyond": (book(content=worksheet(rows([cell("XFE1", "a")]))), "out of order"),
    "no column": (book(content=worksheet(rows([cell("-1", "a")]))), "a cell '-'"),
    "nested rows": (book(content=worksheet("<row><row/></row>")), "a row within"),
    "nested cells": (book(content=worksheet("<row><c><c/></c></row>")), "a cell within"),
    "no number": (book(content=worksheet(rows([cell("A1", "x1", "n")]))), "A1 refers to nothing"),
    "infinity": (book(content=worksheet(rows([cell("A1", "1E999", "n")]))), "A1 refers to nothing"),
    "NaN": (book(content=worksheet(rows([cell("A1", "nan", "n")]))), "A1 refers to nothing"),
    "odd kind": (book(content=worksheet(rows([cell("A1", "x", "zz")]))), "A1 refers to nothing"),
    "odd boolean": (book(content=worksheet(rows([cell("A1", "x", "b")]))), "A1 refers to nothing"),
    "no such text": (book(content=worksheet(rows([cell("A1", 5, "s")]))), "A1 refers to nothing"),
    "no such style": (
        book(content=worksheet(rows([cell("A1", 5, "n", style=7)]))),
        "A1 refers to nothing",
    ),
    "odd text number": (
        book(content=worksheet(rows([cell("A1", "-1", "s")]))),
        "A1 refers to nothing",
    ),
    "odd merge": (book(content=worksheet(table([["a"]]), '<mergeCell ref="A:B"/>')), "range"),
    "laughs": (
        book("xl/sharedStrings.xml", f"{LAUGHS}]><sst><si><t>&i;</t></si></sst>"),
        "DTD",
    ),
    "laughs in the sheet": (book(content=f"{LAUGHS}]><worksheet>&i;</worksheet>"), "DTD"),
    "a file from elsewhere": (
        book(content='<!DOCTYPE x [<!ENTITY f SYSTEM "file:///etc/passwd">]><a>&f;</a>'),
        "DTD",
    ),
    "larger than it says": (lying(-100), "CRC"),
}

BOMBS: dict[str, Callable[[], bytes]] = {
    "300 MB of spaces": lambda: repeated(SHEET, HEADS, " ", 300, ENDS),
    "300 MB of one text": lambda: repeated(
        "xl/sharedStrings.xml", f"{HEAD}<sst><si><t>", "x", 300, "</t></si></sst>"
    ),
    "a part of 4 GB, as it says": lambda: lying(4_000_000_000),
    "six million nested tags": lambda: repeated(SHEET, HEADS, "<a>", 18, ""),
    "six million nested texts": lambda: repeated(
        "xl/sharedStrings.xml", f"{HEAD}<sst><si>", "<t>", 18, ""
    ),
    "six million nested formulas": lambda: repeated(SHEET, HEADS + "<row><c>", "<f>", 18, ""),
    "an attribute of 18 MB": lambda: repeated(SHEET, HEADS + '<row a="', "x", 18, '"/>' + ENDS),
    "a comment of 18 MB": lambda: repeated(SHEET, HEADS + "<!--", "x", 18, "-->" + ENDS),
    "an attribute for every letter": lambda: book(
        content=HEADS + "<row " + " ".join(f'a{n}=""' for n in range(1_300_000)) + "/>" + ENDS
    ),
    "a million merged ranges": lambda: repeated(
        SHEET, PLAIN.replace("</worksheet>", ""), '<mergeCell ref="B5:C9"/>', 25, "</worksheet>"
    ),
    "more parts than sheets": lambda: zipped({f"{n:0200}": b"" for n in range(20_000)}),
    "a lone cell in the last corner": lambda: book(
        content=worksheet(
            rows([cell(f"{column}1", f"c{n}") for n, column in enumerate(columns(16_384))])
            + f'<row r="1048576">{cell("XFD1048576", "x")}</row>'
        )
    ),
    "a lone cell in the last row": lambda: book(
        content=worksheet(table([["story"], ["x"]]) + rows([cell("A1048576", "x")], first=1 << 20))
    ),
    "16,384 columns, hardly filled": lambda: book(
        content=worksheet(
            rows([cell(f"{column}1", f"c{n}") for n, column in enumerate(columns(16_384))])
            + "".join(f'<row r="{n}">{cell(f"A{n}", "x")}</row>' for n in range(2, 20_000))
        )
    ),
}


def columns(number: int) -> Iterator[str]:
    letters = [chr(65 + n) for n in range(26)]
    pairs = [a + b for a in letters for b in letters]
    yield from [*letters, *pairs, *(a + b for a in letters for b in pairs)][:number]


CHILD = """
import gc, json, sys, time
from pathlib import Path
from pipeline.core.errors import Refused
from tests.unit.inputs.test_inputs import snap

for line in sys.stdin:
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    begun = time.monotonic()
    try:
        told = f"read {snap(Path(line.strip()))[0].rows} rows"
    except Refused as error:
        told = str(error)
    status = Path("/proc/self/status").read_text()
    peak_kb = int(status.split("VmHWM:")[1].split()[0])
    print(json.dumps([told, time.monotonic() - begun, peak_kb]), flush=True)
"""


@pytest.fixture(scope="module")
def reader() -> Iterator[subprocess.Popen[str]]:
    """A process that reads sheets as a run does, and returns the outcome, time and memory."""
    with subprocess.Popen(
        [sys.executable, "-c", CHILD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        yield process
        process.kill()


def told_by(reader: subprocess.Popen[str], path: Path) -> tuple[str, float, int]:
    assert reader.stdin is not None
    assert reader.stdout is not None
    reader.stdin.write(f"{path}\n")
    reader.stdin.flush()
    told, seconds, peak_kb = json.loads(reader.stdout.readline())
    return told, seconds, peak_kb


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_workbook_is_refused_with_what_is_wrong(tmp_path, name):
    """One line says what to do and that nothing was sent."""
    content, words = BROKEN[name]
    with pytest.raises(Refused) as caught:
        read(sheet(tmp_path, content, "sheet.xlsx"))
    message = str(caught.value)
    assert words in message, message
    assert message.endswith("Nothing was sent.")
    assert "\n" not in message


@pytest.mark.parametrize("name", BOMBS)
@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read from /proc")
def test_a_workbook_that_is_a_bomb_is_refused_within_ten_seconds_and_500_mb(tmp_path, reader, name):
    """Whatever it is made of."""
    path = sheet(tmp_path, BOMBS[name](), "sheet.xlsx")
    told, seconds, peak_kb = told_by(reader, path)
    assert told.startswith(str(path)), told
    assert told.endswith("Nothing was sent.")
    assert seconds < 10
    assert peak_kb < 500_000, peak_kb


@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read from /proc")
def test_a_million_blank_rows_cost_neither_time_nor_memory(tmp_path, reader):
    """Every cell has a style, as in a formatted column."""
    blank = "".join(f'<row r="{n}"><c r="A{n}" s="0"/></row>' for n in range(3, 300_001))
    content = worksheet(rows([cell("A1", "story")], [cell("A2", "x")]) + blank)
    path = write_workbook(tmp_path / "sheet.xlsx", content)
    told, seconds, peak_kb = told_by(reader, path)
    assert told == "read 1 rows"
    assert seconds < 10
    assert peak_kb < 500_000


def flipped(raw: bytes, dice: random.Random) -> bytes:
    """`raw` with a few flipped bits, or cut."""
    altered = bytearray(raw)
    for _ in range(dice.choice([1, 1, 3])):
        altered[dice.randrange(len(raw))] ^= 1 << dice.randrange(8)
    return bytes(altered[: dice.randrange(len(raw))] if dice.random() < 0.1 else altered)


@pytest.mark.parametrize("seed", range(4))
def test_flipped_bits_of_a_workbook_give_the_same_rows_or_a_refusal(tmp_path, seed):
    """The zip's own checksums find changes that nothing else finds."""
    data = rows(
        [cell("A1", 0, "s"), cell("B1", 1, "s")],
        *(
            [cell(f"A{n}", n % 3, "s"), cell(f"B{n}", 40_000 + n, "n", style=1)]
            for n in range(2, 99)
        ),
    )
    parts = {"xl/sharedStrings.xml": shared(["a", "b c", "cé"]), "xl/styles.xml": styles(0, 14)}
    compression = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)[seed % 2]
    raw = zipped(parts_of({"Sheet1": worksheet(data)}) | parts, compression)
    whole = read(sheet(tmp_path, raw, "whole.xlsx"))
    dice = random.Random(seed)
    refused = 0
    for _ in range(150):
        path = sheet(tmp_path, flipped(raw, dice), "sheet.xlsx")
        try:
            assert read(path) == whole
        except Refused:
            refused += 1
    assert refused > 75


@pytest.mark.parametrize("seed", range(4))
def test_flipped_bytes_within_the_parts_of_a_workbook_are_read_or_refused(tmp_path, seed):
    """A valid zip with broken XML in it never gives anything but rows or a refusal."""
    parts = parts_of({"Sheet1": worksheet(table([["a", "b"], ["1", "2"], ["3", "4"]]))})
    dice = random.Random(seed)
    outcomes = set()
    for _ in range(100):
        name = dice.choice(list(parts))
        altered = bytearray(parts[name].encode())
        for _ in range(dice.choice([1, 2])):
            altered[dice.randrange(len(altered))] = dice.choice(b'<>"/0:\0\xff')
        path = sheet(tmp_path, zipped(parts | {name: bytes(altered)}), "sheet.xlsx")
        try:
            read(path)
            outcomes.add("read")
        except Refused:
            outcomes.add("refused")
    assert outcomes == {"read", "refused"}


@pytest.mark.parametrize("seed", range(4))
def test_flipped_bits_of_a_parquet_sheet_are_refused_if_it_has_checksums(tmp_path, seed):
    """Never a traceback. Without checksums the reader cannot notice a flipped letter."""
    checksums = seed % 2 == 0
    content = {"a": [f"text {n} é" for n in range(500)], "n": list(range(500))}
    whole = tmp_path / "whole.parquet"
    pq.write_table(pa.table(content), whole, write_page_checksum=checksums)
    expected = read(whole)
    raw = whole.read_bytes()
    dice = random.Random(seed)
    refused = 0
    for _ in range(150):
        path = sheet(tmp_path, flipped(raw, dice), "sheet.parquet")
        try:
            found = read(path)
            assert found == expected or not checksums or found[0] != expected[0]
        except Refused:
            refused += 1
    assert refused > 40
