"""Small files and answers that would cost hours or all memory end soon, in little memory.

Each command is a separate process. The kernel ends it after 10 s of CPU time, and its peak memory
is measured. The hostile files are made here. Each gives a refusal or the right result.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.inputs.table import address
from tests.conftest import Job
from tests.support.servers import Answer, Server
from tests.support.workbooks import (
    cell,
    rows,
    shared,
    styles,
    table,
    worksheet,
    write_repeated,
    write_workbook,
)

CPU_S = 10
PEAK_BYTES = 500e6
MB = 1_000_000


def bounded(job: Job, verb: str, *options: str) -> tuple[int, str]:
    """Returns (exit code, output) of a command that stays within the bounds."""
    done = job.measured(verb, *options, most_cpu_s=CPU_S)
    spent = f"{done.cpu_s:.1f} s, {done.peak_bytes / 1e6:.0f} MB"
    said = done.stdout + done.stderr
    if "COSTS" in os.environ:
        print(f"\n{verb}: {done.returncode}, {spent}: {said[:160]!r}", file=sys.stderr)
    assert done.returncode >= 0, f"{done.returncode}: {spent}"
    assert done.peak_bytes < PEAK_BYTES, spent
    assert "Traceback" not in said, said[-2000:]
    return done.returncode, said


# -- sheets -------------------------------------------------------------------------------


def workbook(content: str, **more: object) -> Callable[[Path], None]:
    return lambda path: write_workbook(path, content, **more) and None


def workbook_of(
    sheets: Callable[[], str | dict[str, str]],
    parts: Callable[[], dict[str, str]] = dict,
) -> Callable[[Path], object]:
    return lambda path: write_workbook(path, sheets(), parts=parts())


# These run only in `make soak`. For each, `make test` has a quicker case of the same kind, except
# for the dense answers, which all take long.
LONG = {
    "a page that unpacks to a gigabyte",
    "a quote that never ends",
    "10 MB of blank rows of two columns",
    "two million blank cells",
    "another sheet of two million blank cells",
    "short citations",
    "citations with titles",
    "fields that nobody reads",
    "citations",
    "300,000 merges of whole rows",
    "formulas that share a long one",
    "a validation of a million places",
    "a link of the whole sheet",
    "1,000 merges of whole rows",
    "o.xlsx",
}


def each(cases: Iterable[str]) -> list[Any]:
    return [pytest.param(c, marks=pytest.mark.long if c in LONG else ()) for c in cases]


PLAIN = table([["story"], ["x"]])
DIGITS = "1234567890" * 4000


def columns(number: int) -> list[str]:
    letters = [""] + [chr(65 + n) for n in range(26)]
    every = (a + b + c for a in letters for b in letters for c in letters[1:])
    return [next(every) for _ in range(number)]


def number_cells(*numbers: str, formats: int = 2) -> str:
    cells = [[cell(f"A{n}", number, "n", style=n % formats)] for n, number in enumerate(numbers, 2)]
    return rows([cell("A1", "story")], *cells)


def parquet(path: Path, columns: dict[str, pa.Array], **more: object) -> None:
    pq.write_table(pa.table(columns), path, **more)


def repeated(value: str, times: int) -> pa.Array:
    """Repeats `value` without remembering earlier ones."""
    return pa.DictionaryArray.from_arrays(pa.nulls(times, pa.int32()).fill_null(0), [value])


def million_columns(path: Path) -> None:
    names = ",".join(f"c{n}" for n in range(999_999))
    path.write_text(f"story,{names}\n{',' * 999_999}\n", encoding="utf-8")


LONG_NAMES = [f"{n:05d}" + "x" * 1995 for n in range(16_000)]


def long_header(path: Path) -> None:
    """32 MB of names."""
    path.write_text(f"{','.join(LONG_NAMES)},story\n{',' * 16_000}x\n", encoding="utf-8")


def growing_jsonl(path: Path) -> None:
    """A file with another long name in each line."""
    with path.open("w", encoding="utf-8") as file:
        file.writelines(f'{{"{name}":"x","story":"x"}}\n' for name in LONG_NAMES)


def long_header_parquet(path: Path) -> None:
    names = [*LONG_NAMES[:4000], "story"]
    parquet(path, {name: pa.array(["x"]) for name in names})


def sparse_jsonl(path: Path) -> None:
    """16,000 names in one line, and none of them in 300,000 other lines."""
    first = json.dumps({f"n{n}": "x" for n in range(16_000)} | {"story": "x"})
    path.write_text(f"{first}\n" + '{"story":"x"}\n' * 300_000, encoding="utf-8")


def text(*pieces: str | int) -> Callable[[Path], None]:
    """A file of these texts. A number says how often the text before it is repeated."""

    def write(path: Path) -> None:
        with path.open("w", encoding="utf-8", newline="") as file:
            for piece, times in zip(pieces[::2], pieces[1::2], strict=True):
                for _ in range(times // 1000):
                    file.write(piece * 1000)
                file.write(piece * (times % 1000))

    return write


NO_TEXT = b"story\n" + b"\xff" * 3 * MB


SHEETS: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "numbers of 40,000 digits": (
        "xlsx",
        workbook(
            worksheet(number_cells(DIGITS, f"-{DIGITS}", f"0.{DIGITS}", f"1e{DIGITS}")),
            parts={"xl/styles.xml": styles(0, 14)},
        ),
        "refers to nothing",
    ),
    "number formats of 80,000 brackets": (
        "xlsx",
        workbook(
            worksheet(number_cells("1", "2")),
            parts={"xl/styles.xml": styles("[" * 80_000, "[h" * 40_000, "[$" * 40_000)},
        ),
        "2 rows",
    ),
    "1,000 number formats of the longest kind": (
        "xlsx",
        workbook(
            worksheet(number_cells(*["1"] * 990, formats=990)),
            parts={"xl/styles.xml": styles(*(f"s.{'0' * 240};{n}" for n in range(990)))},
        ),
        "990 rows",
    ),
    "300,000 merges of whole rows": (
        "xlsx",
        workbook(
            worksheet(PLAIN, "".join('<mergeCell ref="A1:XFD1"/>' for _ in range(300_000))),
        ),
        "1 row",
    ),
    "a million defined names": (
        "xlsx",
        workbook(
            worksheet(PLAIN),
            settings="<definedNames>"
            + "".join(f'<definedName name="n{n}">A1</definedName>' for n in range(400_000))
            + "</definedNames>",
        ),
        "mean nothing",
    ),
    "a million formats": (
        "xlsx",
        workbook(
            worksheet(PLAIN), parts={"xl/styles.xml": styles(*(f"0.{n}" for n in range(200_000)))}
        ),
        "",
    ),
    "many parts below the bound for one": (
        "xlsx",
        lambda path: [
            write_workbook(
                path,
                worksheet(PLAIN),
                parts={f"xl/media/{n}.xml": " " * (18 << 20) for n in range(20)},
            )
        ],
        "times its size",
    ),
    "an object of 20,000 names": (
        "jsonl",
        lambda path: path.write_text(json.dumps({f"n{n}": "x" for n in range(20_000)})),
        "over 16384",
    ),
    "16,000 names that nearly no line has": ("jsonl", sparse_jsonl, "nearly all"),
    "a line of 9 million zeros": (
        "jsonl",
        text('{"story":"x","more":[', 1, "0,", 9 * MB, "0]}\n", 1),
        "line 1",
    ),
    "a line of 6 million lists": (
        "jsonl",
        text('{"story":"x","more":[', 1, "[],", 6 * MB, "0]}\n", 1),
        "line 1",
    ),
    "a line of a hundred thousand brackets": (
        "jsonl",
        text('{"story":"x","more":', 1, "[", 100_000, "]", 100_000, "}\n", 1),
        "nested too deeply",
    ),
    "a number of 10 million digits": ("jsonl", text('{"story":', 1, "1", 10 * MB, "}\n", 1), ""),
    "a text of 10 million characters, each in 4 bytes": (
        "jsonl",
        text('{"story":"', 1, "a", 10 * MB, '\U0001f600"}\n', 1),
        "1 row",
    ),
    "10 MB of line feeds": ("csv", text("story\nx\n", 1, "\n", 10 * MB), "1 row"),
    "10 MB of line feeds before the last row": (
        "csv",
        text("story\nx\n", 1, "\n", 10 * MB, "y\n", 1),
        "nearly all",
    ),
    "10 MB of blank rows of two columns": (
        "csv",
        text("story,b\nx,y\n", 1, ",\n", 5 * MB),
        "1 row",
    ),
    "10 MB of rows that look blank": (
        "csv",
        text("story\nx\n", 1, " \n", 5 * MB),
        "only look empty",
    ),
    "3 MB of bytes that are no text": ("csv", lambda path: path.write_bytes(NO_TEXT), "not utf-8"),
    "an .ods of one cell that is repeated": ("ods", write_repeated, "too much memory"),
    "a million columns": ("csv", million_columns, "columns"),
    "a quoted cell of 10 million characters, each in 4 bytes": (
        "csv",
        text('story\n"', 1, "a", 10 * MB, '\U0001f600"\n', 1),
        "1 row",
    ),
    "a quote that never ends": ("csv", text('story\n"', 1, "a\n", 30 * MB), "line 2"),
    "16,000 names of 2,000 characters": ("csv", long_header, "together have"),
    "names of 2,000 characters in cells": (
        "xlsx",
        lambda path: write_workbook(
            path,
            worksheet(
                rows([cell(address(n, 1), name) for n, name in enumerate(LONG_NAMES[:4000], 1)])
            ),
        ),
        "together have",
    ),
    "4,000 names of 2,000 characters in a schema": (
        "parquet",
        long_header_parquet,
        "together have",
    ),
    "16,000 lines with a long name each": ("jsonl", growing_jsonl, "together have"),
    "one name of 20 million characters": (
        "csv",
        text("x", 20 * MB, ",story\nx,y\n", 1),
        "column 1",
    ),
    "387 bytes of 100 million rows": (
        "parquet",
        lambda path: parquet(
            path, {"story": repeated("x", 100 * MB)}, compression="zstd", data_page_size=1 << 30
        ),
        "rows",
    ),
    "one long value, again and again": (
        "parquet",
        lambda path: parquet(path, {"story": repeated("x" * MB, 5000)}, compression="zstd"),
        "",
    ),
    "a page that unpacks to a gigabyte": (
        "parquet",
        lambda path: parquet(path, {"story": pa.array(["x" * 300 * MB])}, compression="brotli"),
        "286 MB",
    ),
    "20 million blank rows": (
        "parquet",
        lambda path: parquet(path, {"story": pa.array(["x"] + [None] * 20 * MB)}),
        "rows",
    ),
    "54 KB of blank rows behind the last one": (
        "parquet",
        lambda path: parquet(
            path,
            {"story": pa.array(["x"] + [None] * 499_000)},
            data_page_size=1000,
            write_batch_size=300,
        ),
        "1 row",
    ),
    "one column too many": (
        "parquet",
        lambda path: parquet(
            path, {f"c{n}": pa.array(["x"]) for n in range(16_384)} | {"story": pa.array(["x"])}
        ),
        "columns",
    ),
    "a list of 50 million zeros in one row": (
        "parquet",
        lambda path: parquet(
            path,
            {
                "story": pa.array(["x"]),
                "more": pa.ListArray.from_arrays([0, 50 * MB], pa.nulls(50 * MB, pa.int8())),
            },
        ),
        "more",
    ),
}


@pytest.mark.parametrize("name", each(SHEETS))
def test_a_sheet_that_would_cost_hours_or_all_memory_ends_soon(make_job, name):
    """With a refusal that says where, or the right number of rows."""
    kind, write, words = SHEETS[name]
    job = make_job("http://127.0.0.1:9", input=f"sheet.{kind}", variables={"story": "story"})
    write(job.folder / f"sheet.{kind}")
    code, said = bounded(job, "check")
    assert code in (0, 2)
    assert words in said, said[:2000]
    if code == 2:
        assert said.rstrip().endswith("Nothing was sent.")


# -- specs --------------------------------------------------------------------------------

PATTERNS = (
    r"(?i)\pL",
    r"\pL{1000}",
    r"(\pL)",
    r"[^\pL]",
    r"\pM",
    r"((\pL{9}){9}){9}",
    "(a{30}){30}",
    r"(?i)\pL|",
)


def test_no_allowed_pattern_takes_much_memory(make_job):
    """At most 100 MB more than no pattern, in each of the forms that cost most."""
    job = make_job("http://127.0.0.1:9", rows=[["a"]])
    none = job.measured("check").peak_bytes
    for piece in PATTERNS:
        start = "(?i)" * piece.startswith("(?i)")
        piece = piece.removeprefix(start)
        pattern = start + piece * ((2000 - len(start)) // len(piece))
        job.write_spec(where={"column": "story", "matches": pattern})
        done = job.measured("check", most_cpu_s=CPU_S)
        assert done.returncode in (0, 2), done.stderr
        assert "Traceback" not in done.stderr
        assert done.peak_bytes - none < 100e6, (piece, done.peak_bytes - none)


LEAST = "name: n\nworkflow: wf_story\ninput: sheet.csv\n"
SPECS = {
    "70,000 unknown keys": "".join(f"k{n}: x\n" for n in range(70_000)),
    "19,000 unknown keys": "".join(f"k{n}: x\n" for n in range(19_000)),
    "50,000 constants": "constants:\n" + "".join(f"  k{n}: x\n" for n in range(50_000)),
    "490,000 conditions in a list": f"where: [{'a,' * 490_000}a]\n",
    "300,000 lists": f"where: [{'[],' * 300_000}a]\n",
    "490,000 aliases": f"id: &a x\nwhere: [{'*a,' * 320_000}a]\n",
    "a megabyte of blank lines": "\n" * 990_000,
    "a megabyte of comments": "#\n" * 490_000,
    "a key of a megabyte": f'? "{"x" * 990_000}"\n: x\n',
    "nested keys": "".join(f"{' ' * n}k:\n" for n in range(1390)),
}


@pytest.mark.parametrize("name", SPECS)
def test_a_spec_of_a_megabyte_costs_little(make_job, name):
    """It is refused in a few lines, or read correctly."""
    job = make_job("http://127.0.0.1:9", rows=[["a"]])
    job.spec.write_text(LEAST + SPECS[name], encoding="utf-8")
    code, said = bounded(job, "check")
    assert code in (0, 2), said[:2000]
    assert len(said.splitlines()) < 40


def test_other_job_files_in_the_folder_cost_a_clean_one_little(make_job):
    """They have patterns, impossible paths and megabytes of brackets, and none of them ends the
    run."""
    job = make_job("http://127.0.0.1:9", rows=[["a"]])
    for name, more in {
        "pattern": 'where: {column: a, matches: "(?i)' + r"\\pL" * 60_000 + '"}\n',
        "nul": 'output: "a\\0b"\n',
        "half": 'output: "\\ud800"\n',
        "long": f"output: {'x' * 300}\n",
        "loop": "output: loop/x\n",
        **{f"many{n}": f"where: [{'a,' * 140_000}a]\n" for n in range(9)},
    }.items():
        (job.folder / f"{name}.yaml").write_text(LEAST + more, encoding="utf-8")
    (job.folder / "loop").symlink_to("loop")
    (job.folder / "self.yaml").symlink_to("self.yaml")
    code, said = bounded(job, "check")
    assert code == 0, said


# -- workbooks at export ------------------------------------------------------------------


def blank_cells(number: int, width: int = 40) -> str:
    letters = columns(width)
    return "".join(
        f'<row r="{row}">' + "".join(f'<c r="{one}{row}" s="0"/>' for one in letters) + "</row>"
        for row in range(3, 3 + number // width)
    )


def sharing(number: int, length: int) -> str:
    """A column of formulas that share one long formula."""
    formula = "+".join(["A2"] * (length // 3))
    first = cell("B2", "1", "n", raw=f'<f t="shared" ref="B2:B9" si="0">{formula}</f><v>1</v>')
    more = (
        f'<row r="{row}"><c r="B{row}"><f t="shared" si="0"/><v>1</v></c></row>'
        for row in range(3, number + 3)
    )
    return rows([cell("A1", "story"), cell("B1", "b")], [cell("A2", "x"), first]) + "".join(more)


COPIES: dict[str, Callable[[Path], object]] = {
    "two million blank cells": workbook_of(lambda: worksheet(PLAIN + blank_cells(2 * MB))),
    "a merge of the whole sheet": workbook_of(
        lambda: worksheet(PLAIN, '<mergeCells><mergeCell ref="B5:XFD1048576"/></mergeCells>')
    ),
    "a link of the whole sheet": workbook_of(
        lambda: worksheet(PLAIN, '<hyperlinks><hyperlink ref="B5:XFD1048576"/></hyperlinks>')
    ),
    "1,000 merges of whole rows": workbook_of(
        lambda: worksheet(
            PLAIN,
            "<mergeCells>"
            + "".join(f'<mergeCell ref="A{n}:XFD{n}"/>' for n in range(5, 1005))
            + "</mergeCells>",
        )
    ),
    "formulas that share a long one": workbook_of(lambda: worksheet(sharing(20_000, 8000))),
    "a number format of 80,000 brackets": workbook_of(
        lambda: worksheet(PLAIN), lambda: {"xl/styles.xml": styles("[" * 80_000)}
    ),
    "a validation of a million places": workbook_of(
        lambda: worksheet(
            PLAIN,
            '<dataValidations><dataValidation sqref="'
            + " ".join(f"C{n}" for n in range(1, 900_000))
            + '"/></dataValidations>',
        )
    ),
    "another sheet of two million blank cells": workbook_of(
        lambda: {"Sheet1": worksheet(PLAIN), "Other": worksheet(PLAIN + blank_cells(2 * MB))}
    ),
}


@pytest.fixture(scope="module")
def answering() -> Iterator[Server]:
    with Server() as server:
        yield server


@pytest.mark.parametrize("name", each(COPIES))
def test_a_workbook_that_a_library_would_copy_at_great_cost_is_copied(make_job, answering, name):
    """Half a kilobyte for each blank cell, and for each cell of a range, would be all memory."""
    job = make_job(answering.url, input="sheet.xlsx", sheet="Sheet1", variables={"story": "story"})
    COPIES[name](job.folder / "sheet.xlsx")
    if name.startswith("formulas"):
        job.write_spec(input="sheet.xlsx", sheet="Sheet1", variables={"story": "b"}, empty="skip")
    code, said = bounded(job, "run", "--rate", "5000", "--limit", "1")
    assert code == 0, said
    code, said = bounded(job, "export", "--to", str(job.folder / "out.xlsx"))
    assert code == 0, said


def sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(40 << 30)


def many_texts(path: Path) -> None:
    """A cell that refers to the last of three million shared texts."""
    texts = shared(["a"] * 3_000_000)
    row = '<row r="1"><c r="A1" t="s"><v>2999999</v></c></row>'
    write_workbook(path, worksheet(row), parts={"xl/sharedStrings.xml": texts})


EXPORTS = {"o.csv": sparse, "o.jsonl": sparse, "o.parquet": sparse, "o.xlsx": many_texts}


@pytest.mark.parametrize("name", each(EXPORTS))
def test_a_file_in_the_place_of_an_earlier_export_costs_little(make_job, answering, name):
    """Another user who can write to the folder put it there."""
    job = make_job(answering.url, rows=[["a"]])
    assert bounded(job, "run")[0] == 0
    EXPORTS[name](job.folder / name)
    code, said = bounded(job, "export", "--to", str(job.folder / name))
    assert code == 2, said
    assert "is not an earlier export" in said


# -- answers ------------------------------------------------------------------------------


def dense(name: str, value: str, times: int) -> Callable[[], str]:
    """A field with a list of this many values."""
    return lambda: f'"{name}":[' + f"{value}," * times + "0]"


DENSE: dict[str, Callable[[], str]] = {
    "citations": dense("citations", '"https://x.example"', 3 * MB),
    "short citations": dense("citations", '"a"', 10 * MB),
    "citations with titles": dense("citations", '{"title":"a","url":"https://x.example"}', 1500000),
    "fields that nobody reads": dense("more", '{"a":[1,"b"]}', 3 * MB),
}


@pytest.mark.parametrize("name", each(DENSE))
def test_a_paid_answer_of_40_to_60_mb_is_kept_whole_and_costs_little(make_job, name):
    """In the run and in each export. The row is ok, and more than 10,000 citations become text."""
    field = DENSE[name]()
    body = f'{{"success":true,"result":"paid",{field}}}'.encode()
    assert 39e6 < len(body) < 64 * 2**20  # the runner reads no more than that

    def answer(_: bytes) -> Answer:
        return 200, {}, body

    with Server(answer) as server:
        job = make_job(server.url, rows=[["a"]])
        code, said = bounded(job, "run")
        assert code == 0, said
        assert server.received.total() == 1
    for target in ("out.csv", "out.xlsx", "out.parquet", "out.jsonl"):
        code, said = bounded(job, "export", "--to", str(job.folder / target))
        assert code == 0, said
    code, said = bounded(job, "export", "--citations", str(job.folder / "sources.csv"))
    assert code == 0, said
    for verb in ("report", "verify", "status"):
        code, said = bounded(job, verb)
        assert code == 0, said
    found = pq.read_table(job.results, columns=["result", "citations_raw", "extra", "flags"])
    [row] = found.to_pylist()
    assert row["result"] == "paid"
    kept = row["citations_raw"] if "citations" in name else row["extra"]
    assert field.partition(":")[2] in kept
    assert ("citations_cut" in row["flags"]) == ("citations" in field)
    count = len(pq.read_table(job.folder / "out.parquet")["citations"][0].as_py())
    assert count == (10_000 if "citations" in field else 0)


@pytest.mark.long
def test_an_error_of_60_mb_costs_little_too(make_job):
    """Of words, and of lists."""
    errors = [
        b'{"success":false,"error":"' + b"a " * 30_000_000 + b'"}',
        b'{"success":false,"error":"no","more":[' + b"0," * 29_000_000 + b"0]}",
        b"[" + b"0," * 29_000_000 + b"0]",
    ]

    def answer(body: bytes) -> Answer:
        return 400, {}, errors[int(json.loads(body)["story"])]

    with Server(answer) as server:
        job = make_job(server.url, rows=[[str(n)] for n in range(len(errors))], concurrency=1)
        code, said = bounded(job, "run")
    assert code == 3, said
    for verb in ("report", "verify"):
        code, said = bounded(job, verb)
        assert code == 0, said
