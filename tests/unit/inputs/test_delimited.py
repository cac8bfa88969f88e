"""A text table is read in large pieces. Where one ends changes nothing."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.core.errors import Refused
from pipeline.inputs.formats import open_table
from pipeline.inputs.table import BATCH_ROWS
from pipeline.job.spec import JobSpec
from tests.unit.inputs.test_inputs import sheet, spec_for

# Several pieces of 65,536 characters, and several batches.
ROWS = 15_000
ENDS = ("\n", "\r\n", "\r")
CELLS = (
    "plain",
    "",
    " ",
    "a, b",
    "two\nlines",
    "two\r\nlines",
    "two\rlines",
    'say "so"',
    "\n\n",
    "é",
)
Rows = list[tuple[int, tuple[str, ...]]]


def rows_of(spec: JobSpec) -> Rows:
    """Returns (line, cells) of each row."""
    return [row for batch in open_table(spec).batches() for row in batch_rows(batch)]


def batch_rows(batch) -> Iterator[tuple[int, tuple[str, ...]]]:
    assert 0 < len(batch) <= BATCH_ROWS
    return zip(batch.places, zip(*batch.columns, strict=True), strict=True)


def quoted(cell: str) -> str:
    return '"' + cell.replace('"', '""') + '"' if set(cell) & set(',"\r\n') else cell


def long_table(draw: random.Random, blanks: float) -> tuple[str, Rows]:
    """Returns a text table of two columns, and (line, cells) of each of its rows. `blanks` is the
    share of blank lines, and of lines with only a separator."""
    end = draw.choice(ENDS)
    pieces, line, rows, held = [f"first,second{end}"], 2, [], []
    while len(pieces) < ROWS:
        cells = (draw.choice(CELLS) * draw.choice((1, 1, 9)), f"{len(pieces)}{draw.choice(CELLS)}")
        if draw.random() < blanks:
            pieces.append(draw.choice(("", ",")) + end)
            held.append((line, ("", "")))
            line += 1
            continue
        pieces.append(f"{quoted(cells[0])},{quoted(cells[1])}{end}")
        rows += [*held, (line, cells)]
        held = []
        line += 1 + sum(breaks(cell) for cell in cells)
    return "".join(pieces), rows


def breaks(cell: str) -> int:
    return cell.count("\n") + cell.count("\r") - cell.count("\r\n")


@settings(max_examples=8)
@given(seed=st.integers(0, 1 << 32), blanks=st.sampled_from([0, 0.0003, 0.02]))
def test_each_row_has_its_cells_and_its_line_wherever_a_piece_ends(tmp_path_factory, seed, blanks):
    text, rows = long_table(random.Random(seed), blanks)
    path = tmp_path_factory.mktemp("sheet") / "sheet.csv"
    path.write_text(text, encoding="utf-8", newline="")
    assert rows_of(spec_for(path)) == rows


@pytest.mark.parametrize("ahead", range(65_530, 65_542))
@pytest.mark.parametrize("end", ENDS)
def test_a_piece_may_end_within_the_end_of_a_line_and_within_a_quoted_cell(tmp_path, ahead, end):
    """A piece has 65,536 characters and the rest of its line."""
    first = "x" * (ahead - len(f"a{end}"))
    path = sheet(tmp_path, f'a{end}{first}{end}"q{end}r"{end}{end}last{end}'.encode())
    assert rows_of(spec_for(path)) == [
        (2, (first,)),
        (3, (f"q{end}r",)),
        (5, ("",)),
        (6, ("last",)),
    ]


def test_a_mark_at_the_begin_of_a_later_piece_is_text(tmp_path):
    """Only before the header it is a byte order mark."""
    names = [letter * 30_000 for letter in "abc"]
    names[2] += "\n\ufeffend"
    path = sheet(tmp_path, f'{names[0]},{names[1]},"{names[2]}"\n\ufeffcell,,\n'.encode())
    assert open_table(spec_for(path)).columns == tuple(names)
    assert rows_of(spec_for(path)) == [(3, ("\ufeffcell", "", ""))]


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ('"no end', "line 9002: the row that begins here is not valid CSV"),
        ('"a"b', "line 9002: the row that begins here is not valid CSV"),
        ("a,b", "line 9002: this row has 2 cells, but the header has 1"),
        ("\0\0", "line 9002: this row has a cell of NUL bytes"),
    ],
)
def test_a_bad_row_is_named_by_its_line_after_the_rows_before_it(tmp_path, row, words):
    good = [f'"{number} of\nmany"' for number in range(4500)]
    path = sheet(tmp_path, "\n".join(["a", *good, row, "more"]).encode())
    batches = open_table(spec_for(path)).batches()
    assert [len(next(batches)) for _ in range(2)] == [BATCH_ROWS] * 2
    with pytest.raises(Refused, match=words):
        list(batches)


def test_an_earlier_bad_row_is_named_and_not_a_later_one(tmp_path: Path):
    path = sheet(tmp_path, b'a\none\nb,c\n"no end')
    with pytest.raises(Refused, match="line 3: this row has 2 cells"):
        rows_of(spec_for(path))


def test_a_batch_of_long_cells_has_few_rows(tmp_path):
    """Batches of 2,000 rows would not fit in memory."""
    path = sheet(tmp_path, b"a\n" + (b"x" * 3_000_000 + b"\n") * 8)
    assert [len(batch) for batch in open_table(spec_for(path)).batches()] == [4, 3, 1]


def test_a_table_may_be_longer_than_its_longest_row(tmp_path):
    path = sheet(tmp_path, b"a\n" + (b"x" * 10_000_000 + b"\n") * 7)
    assert sum(len(batch) for batch in open_table(spec_for(path)).batches()) == 7


def test_blank_lines_at_the_end_of_a_batch_are_rows_before_the_next_one(tmp_path):
    rows = [f"row {number}" for number in range(BATCH_ROWS - 1)]
    path = sheet(tmp_path, "\n".join(["a", *rows, "", "next", "last"]).encode())
    lines = [*range(2, BATCH_ROWS + 4)]
    cells = [*rows, "", "next", "last"]
    assert rows_of(spec_for(path)) == [(n, (c,)) for n, c in zip(lines, cells, strict=True)]


@pytest.mark.parametrize("line", ["", ","])
def test_a_table_of_nearly_only_blank_lines_is_refused(tmp_path, line):
    path = sheet(tmp_path, f"a,b\n1,2\n{(line + chr(10)) * 600_000}3,4\n".encode())
    with pytest.raises(Refused, match="line 600003: nearly all rows before this one are blank"):
        rows_of(spec_for(path))
