"""Naughty texts arrive exactly as in the sheet, for every kind of sheet."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.support.naughty import ALL
from tests.support.workbooks import cell, rows, shared, worksheet, write_workbook


def as_csv(path: Path, texts: list[str]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerows([["story"], *([text] for text in texts)])


def as_utf16(path: Path, texts: list[str]) -> None:
    with path.open("w", encoding="utf-16", newline="") as file:
        writer = csv.writer(file, delimiter="\t", quoting=csv.QUOTE_ALL)
        writer.writerows([["story"], *([text] for text in texts)])


def as_parquet(path: Path, texts: list[str]) -> None:
    pq.write_table(pa.table({"story": texts}), path)


def as_jsonl(path: Path, texts: list[str]) -> None:
    lines = (
        json.dumps({"story": text}, ensure_ascii=number % 2 == 0)
        for number, text in enumerate(texts)
    )
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def as_workbook(path: Path, texts: list[str]) -> None:
    cells = [cell(f"A{n}", n - 1, "s") for n in range(1, len(texts) + 2)]
    write_workbook(
        path,
        worksheet(rows(*([one] for one in cells))),
        parts={"xl/sharedStrings.xml": shared(["story", *texts])},
    )


@pytest.mark.parametrize(
    ("name", "write", "more"),
    [
        ("sheet.csv", as_csv, []),
        ("sheet.tsv", as_utf16, []),
        ("sheet.parquet", as_parquet, ["nul\0byte"]),
        ("sheet.jsonl", as_jsonl, ["nul\0byte"]),
        ("sheet.xlsx", as_workbook, ["nul\0byte"]),
    ],
)
def test_every_naughty_text_arrives_byte_for_byte_and_is_paid_once(
    sandbox, make_job, name, write: Callable[[Path, list[str]], None], more
):
    """The categories are those of the public lists of naughty strings."""
    texts = [*ALL, *more]
    job = make_job(sandbox.url)
    write(job.folder / name, texts)
    job.write_spec(input=name)
    summary = job.run()
    assert (summary["rows"], summary["ok"]) == (len(texts), len(texts))
    bodies = [
        json.dumps({"story": text}, ensure_ascii=False, separators=(",", ":")) for text in texts
    ]
    assert sandbox.billed() == dict.fromkeys(bodies, 1)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("sheet.csv", b"story\nfine\na,b\n", "sheet.csv line 3"),
        ("sheet.jsonl", b'{"story":"x"}\n{"story":NaN}\n', "sheet.jsonl line 2"),
        ("sheet.parquet", b"PAR1 and nothing else PAR1", "sheet.parquet"),
        ("sheet.xlsx", b"PK\3\4 and nothing else", "sheet.xlsx"),
    ],
)
def test_a_run_on_a_sheet_that_cannot_be_read_ends_with_2_and_sends_nothing(
    sandbox, make_job, name, content, words
):
    """One line says where, and there is no traceback."""
    job = make_job(sandbox.url)
    (job.folder / name).write_bytes(content)
    job.write_spec(input=name)
    done = job.call("run")
    assert done.returncode == 2
    [line] = done.stderr.splitlines()
    assert words in line
    assert line.endswith("Nothing was sent.")
    assert sandbox.received() == 0
