"""Small files and answers that would cost hours or all memory end soon, in little memory.

Each command is a process of its own that the kernel ends after 10 s of CPU time, and whose peak
memory is measured. The hostile files are made here; each is a refusal, or the right result.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.conftest import Job
from tests.workbooks import cell, rows, styles, table, worksheet, write_workbook

CPU_S = 10
PEAK_BYTES = 500e6
MB = 1_000_000


# A process of its own: a child begins with the peak of the process that it was forked from.
MEASURED = f"""
import json, resource, subprocess, sys
resource.setrlimit(resource.RLIMIT_CPU, ({CPU_S}, {CPU_S}))
code = subprocess.run(sys.argv[1:], stdout=sys.stderr).returncode
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(json.dumps([code, used.ru_utime + used.ru_stime, used.ru_maxrss]))
"""


def bounded(job: Job, verb: str, *options: str) -> tuple[int, str]:
    """(exit code, what was said) of a command that stays within the bounds."""
    said = job.folder / "said.txt"
    with said.open("wb") as file:
        measured = subprocess.run(
            [sys.executable, "-c", MEASURED, *job.command(verb, *options)],
            env=job.environment(),
            stdout=subprocess.PIPE,
            stderr=file,
            check=True,
        )
    returncode, cpu_s, peak = json.loads(measured.stdout)
    text = said.read_text("utf-8", "replace")
    peak *= 1 if sys.platform == "darwin" else 1024
    spent = f"{cpu_s:.1f} s, {peak / 1e6:.0f} MB"
    if "COSTS" in os.environ:
        print(f"\n{verb}: {returncode}, {spent}: {text[:160]!r}", file=sys.stderr)
    assert returncode >= 0, f"{returncode}: {spent}"
    assert peak < PEAK_BYTES, spent
    assert "Traceback" not in text, text[-2000:]
    return returncode, text


# -- sheets -------------------------------------------------------------------------------


def workbook(content: str, **more: object) -> Callable[[Path], None]:
    return lambda path: write_workbook(path, content, **more) and None


PLAIN = table([["story"], ["x"]])
DIGITS = "1234567890" * 4000


def columns(number: int) -> list[str]:
    letters = [""] + [chr(65 + n) for n in range(26)]
    every = (a + b + c for a in letters for b in letters for c in letters[1:])
    return [next(every) for _ in range(number)]


def number_cells(*numbers: str) -> str:
    cells = [[cell(f"A{n}", number, "n", style=n % 2)] for n, number in enumerate(numbers, 2)]
    return rows([cell("A1", "story")], *cells)


def parquet(path: Path, columns: dict[str, pa.Array], **more: object) -> None:
    pq.write_table(pa.table(columns), path, **more)


def repeated(value: str, times: int) -> pa.Array:
    """`value` again and again, without its memory."""
    return pa.DictionaryArray.from_arrays(pa.nulls(times, pa.int32()).fill_null(0), [value])


def million_columns(path: Path) -> None:
    names = ",".join(f"c{n}" for n in range(999_999))
    path.write_text(f"story,{names}\n{',' * 999_999}\n", encoding="utf-8")


def sparse_jsonl(path: Path) -> None:
    """16,000 names in one line, and none in 300,000 others."""
    first = json.dumps({f"n{n}": "x" for n in range(16_000)} | {"story": "x"})
    path.write_text(f"{first}\n" + '{"story":"x"}\n' * 300_000, encoding="utf-8")


def text(*pieces: str | int) -> Callable[[Path], None]:
    """A file of these texts; a number says how often the text before it comes."""

    def write(path: Path) -> None:
        with path.open("w", encoding="utf-8", newline="") as file:
            for piece, times in zip(pieces[::2], pieces[1::2], strict=True):
                for _ in range(times // 1000):
                    file.write(piece * 1000)
                file.write(piece * (times % 1000))

    return write


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
    "a million columns": ("csv", million_columns, "columns"),
    "a quoted cell of 10 million characters, each in 4 bytes": (
        "csv",
        text('story\n"', 1, "a", 10 * MB, '\U0001f600"\n', 1),
        "1 row",
    ),
    "a quote that never ends": ("csv", text('story\n"', 1, "a\n", 30 * MB), "line 2"),
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
            path, {"story": pa.array(["x"] + [None] * MB)}, data_page_size=1000, write_batch_size=50
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


@pytest.mark.parametrize("name", SHEETS)
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
