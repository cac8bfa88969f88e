"""What the user of a sheet may not see: hidden rows, totals, and cells that only look empty."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.inputs.checks import Skip
from pipeline.inputs.stored import stored_batches
from pipeline.scaffold.job_spec import init_job
from tests.support.workbooks import HEAD, cell, rows, worksheet, write_workbook
from tests.unit.inputs.test_inputs import read, sheet, snap
from tests.unit.inputs.test_xlsx import refusal

_MAIN = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
_LINKS = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
_PACKAGE = "http://schemas.openxmlformats.org/package/2006/relationships"
NBSP, UNSEEN = "\u00a0", "\u200b"


def book(path: Path, *, hidden: tuple[int, ...] = (3,), hide: str = "1") -> Path:
    """A workbook with rows 2 to 5, of which `hidden` are hidden, a hidden column B, a filter, and a
    table whose totals are in row 6."""
    data = rows(
        [cell("A1", "story"), cell("B1", "cost")],
        *([cell(f"A{n}", f"story {n}"), cell(f"B{n}", str(n))] for n in range(2, 6)),
        [cell("A6", "Total"), cell("B6", "14")],
    )
    for number in hidden:
        data = data.replace(f'<row r="{number}">', f'<row r="{number}" hidden="{hide}">')
    before = '<cols><col min="2" max="2" hidden="1"/></cols>'
    part = f'<tablePart r:id="r1" xmlns:r="{_LINKS}"/>'
    behind = f'<autoFilter ref="A1:B5"/><tableParts>{part}</tableParts>'
    table = f'{HEAD}<table xmlns="{_MAIN}" id="1" name="t" ref="A1:B6" totalsRowCount="1"/>'
    link = f'<Relationship Id="r1" Type="{_LINKS}/table" Target="../tables/table1.xml"/>'
    links = f'{HEAD}<Relationships xmlns="{_PACKAGE}">{link}</Relationships>'
    parts = {"xl/tables/table1.xml": table, "xl/worksheets/_rels/sheet1.xml.rels": links}
    return write_workbook(path, worksheet(data, behind, before), parts=parts)


def skipped(path: Path, **fields: object) -> list[str | None]:
    snapshot, *_ = snap(path, **fields)
    return [one for batch in stored_batches(snapshot.path) for one in batch.skipped.to_pylist()]


@pytest.mark.parametrize("hide", ["1", "true"])
def test_hidden_rows_are_counted_and_skipped_only_if_the_job_says_so(tmp_path, hide):
    """Also those that a filter hides. The totals row of a table is never sent."""
    path = book(tmp_path / "sheet.xlsx", hidden=(3, 5), hide=hide)
    assert skipped(path) == [None, None, None, None, "totals"]
    assert skipped(path, hidden="skip") == [None, "hidden", None, "hidden", "totals"]
    snapshot, *_ = snap(path, hidden="skip")
    assert (snapshot.skips[Skip.HIDDEN], snapshot.skips[Skip.TOTALS]) == (2, 1)
    facts = snapshot.facts
    assert (facts.hidden_rows, facts.first_hidden_rows) == (2, ["Sheet1 row 3", "Sheet1 row 5"])
    assert (facts.hidden_columns, facts.filtered) == (["cost"], True)
    assert facts.totals_rows == ["Sheet1 row 6"]
    csv = sheet(tmp_path, "story\nx\n")
    assert "`hidden:` is only for .xlsx" in refusal(csv, hidden="skip")


def test_a_blank_hidden_row_is_hidden_and_not_an_empty_cell(tmp_path):
    """It would refuse the whole sheet."""
    data = rows([cell("A1", "story")], [cell("A2", "x")], [], [cell("A4", "y")])
    data = data.replace('<row r="3">', '<row r="3" hidden="1">')
    path = write_workbook(tmp_path / "sheet.xlsx", worksheet(data))
    assert skipped(path, hidden="skip") == [None, "hidden", None]


@pytest.mark.parametrize("kind", ["csv", "xlsx", "jsonl", "parquet"])
def test_cells_that_look_empty_are_counted_and_no_rows_at_the_end(tmp_path, kind):
    """Between filled rows they are sent byte for byte, also with blank rows around them. A text
    that only begins with such a character is not one of them."""
    texts = ["a", "", NBSP, "", f"{NBSP}b", " ", "", UNSEEN, "", " \t"]
    path = tmp_path / f"sheet.{kind}"
    if kind == "csv":
        lines = [f'{text},"{n if text == "a" else ""}"' for n, text in enumerate(texts)]
        path.write_text("story,n\n" + "\n".join(lines) + "\n")
    elif kind == "jsonl":
        path.write_text("".join(json.dumps({"story": text}) + "\n" for text in texts))
    elif kind == "parquet":
        pq.write_table(pa.table({"story": texts}), path)
    else:
        cells = [[cell(f"A{n}", text)] if text else [] for n, text in enumerate(texts, 2)]
        write_workbook(path, worksheet(rows([cell("A1", "story")], *cells)))
    assert [row[0] for row in read(path)[1]] == ["a", "", NBSP, "", f"{NBSP}b"]
    snapshot, *_ = snap(path, empty="send", variables=(("story", "story"),))
    assert (snapshot.rows, snapshot.facts.blank_looking) == (5, 1)
    found = init_job(path, "wf", tmp_path / "job.yaml")
    assert (found.rows, found.sheet.blank_looking) == (5, 1)


def test_rows_that_look_blank_keep_their_place_over_many_batches(tmp_path):
    """Between filled rows, however many blank and blank-looking ones there are."""
    texts = ["a", *[""] * 3000, *[NBSP] * 3000, *[""] * 3000, " ", *[""] * 2500, "z", " ", ""]
    pq.write_table(pa.table({"story": texts}), tmp_path / "sheet.parquet")
    assert [row[0] for row in read(tmp_path / "sheet.parquet")[1]] == texts[:-2]
