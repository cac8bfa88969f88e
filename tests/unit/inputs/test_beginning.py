"""Rows from the copy of the last run are the rows that the text has now, and have the same keys."""

from __future__ import annotations

import hashlib
import json
import os
import random
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.core.version import __version__
from pipeline.inputs.formats import open_table
from pipeline.inputs.mapping import bind
from pipeline.inputs.snapshot import Snapshot, take_snapshot
from pipeline.inputs.stored import stored_batches
from pipeline.inputs.table import Batch
from pipeline.job.spec import Condition
from pipeline.system.opening import HeldFile
from tests.unit.inputs.test_inputs import snap, spec_for

# Marks are a million characters apart.
ROWS, PADDING = 5000, " and more" * 80
CELLS = (
    "plain",
    "",
    " ",
    "a, b",
    "two\nlines",
    "two\r\nlines",
    "two\rlines",
    "\n\n",
    "é",
    "\u200b",
)
VARIABLES = (("story", "story"), ("tone", "tone"))
NEW = "999999,a new dog,kind,,yes\n"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's cache folder. It does not exist yet."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


def lines_of(rows: int = ROWS, blanks: float = 0.01) -> list[str]:
    """Returns the header and the rows of a sheet of 2.4 million characters. Some rows are equal,
    some look blank or are blank, and some have several lines."""
    draw = random.Random(5)
    lines = ["id,story,tone,_status,wanted\n"]
    for number in range(rows):
        story = draw.choice((f"{number}{PADDING}", PADDING, draw.choice(CELLS)))
        quoted = f'"{story}"' if set(story) & set(",\r\n") else story
        status = draw.choice(("ok", "ambiguous", ""))
        line = f"{number},{quoted},{draw.choice(CELLS[:3])},{status},{draw.choice(('yes', 'no'))}\n"
        lines.append(draw.choice(("\n", ",,,,\n")) if draw.random() < blanks else line)
    return lines


def write(path: Path, content: str, encoding: str = "utf-8") -> None:
    path.write_bytes(content.encode(encoding))


def taken(
    path: Path,
    target: str,
    last: Path | None = None,
    opened: Callable[[], object] = list,
    **fields: object,
) -> tuple[Snapshot, int]:
    """Takes a snapshot. Also returns the number of rows that come from the copy `last`. Calls
    `opened` when the sheet is open."""
    spec = spec_for(path, **({"variables": VARIABLES, "empty": "send"} | fields))
    table, known = open_table(spec), 0
    opened()

    def batches() -> Iterator[Batch]:
        nonlocal known
        for batch in table.batches():
            known += 0 if batch.keys is None else len(batch)
            yield batch

    variables, held = bind(spec, table.columns), None if last is None else HeldFile(last)
    watched = replace(table, batches=batches)
    made = take_snapshot(spec, watched, variables, path.with_name(target), last=held)
    return made, known


def facts_of(snapshot: Snapshot) -> dict[str, object]:
    """Returns all that a snapshot says, without its random id."""
    content = pq.read_table(snapshot.path)
    about = pq.read_metadata(snapshot.path).metadata
    own = json.loads(about[b"pipeline"])
    del own["snapshot_id"]
    return {
        "content": content.replace_schema_metadata(None).to_pydict(),
        "about": own,
        "marks": about[b"marks"],
        "numbers": snapshot.numbers.tolist(),
        "identities": bytes(snapshot.identities),
        "row_keys": bytes(snapshot.row_keys),
        "occurrences": snapshot.occurrences.tolist(),
        "duplicates": snapshot.duplicates.numbers.tolist(),
        "firsts": snapshot.duplicates.firsts.tolist(),
        "counts": (snapshot.rows, snapshot.skipped, snapshot.equal_rows),
        "cells": (snapshot.empty_cells, snapshot.skips, snapshot.skipped_rows, snapshot.facts),
    }


def both(path: Path, last: Path, **fields: object) -> int:
    """Compares the snapshots with and without the copy `last`. Returns the rows from the copy."""
    with_copy, known = taken(path, "with.parquet", last, **fields)
    without, none = taken(path, "without.parquet", **fields)
    assert none == 0
    assert facts_of(with_copy) == facts_of(without)
    return known


SETTINGS: dict[str, dict[str, object]] = {
    "nothing else": {},
    "empty": {"empty": "skip"},
    "where": {"where": (Condition("wanted", "equals", "yes"),)},
    "id": {"id": "id"},
    "dedupe": {"dedupe": True},
    "id and dedupe": {"id": "id", "dedupe": True},
}


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("before", ["nothing else", "where"])
def test_a_sheet_with_more_rows_is_read_as_if_there_were_no_copy(tmp_path, before, settings):
    """Whatever leaves out rows or names them, now and at the last run."""
    blanks = 0.0 if "id" in SETTINGS[settings] else 0.01
    path, lines = tmp_path / "sheet.csv", lines_of(blanks=blanks)
    write(path, "".join(lines))
    last, _ = taken(path, "last.parquet", **SETTINGS[before])
    write(path, "".join([*lines, NEW]))
    assert both(path, last.path, **SETTINGS[settings]) > ROWS / 2


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_neither_the_encoding_nor_the_ends_of_the_lines_matter(tmp_path, encoding, end):
    path, text = tmp_path / "sheet.csv", "".join(lines_of()).replace("yes\n", f"yes{end}")
    write(path, text, encoding)
    last, _ = taken(path, "last.parquet")
    write(path, text + NEW, encoding)
    assert both(path, last.path) > ROWS / 2


@pytest.mark.parametrize("place", [0.0, 0.6, 1.0])
def test_from_the_first_other_row_on_the_text_counts(tmp_path, place):
    """Also if the copy has more rows than the sheet."""
    path, lines = tmp_path / "sheet.csv", lines_of()
    write(path, "".join(lines))
    last, _ = taken(path, "last.parquet")
    at = 1 + int(place * (ROWS - 1))
    for other in ([NEW], [], [NEW, lines[at]]):
        write(path, "".join([*lines[:at], *other, *lines[at + 1 :]]))
        known = both(path, last.path)
        assert known <= at
        assert (known > 0) == (place > 0)


def test_each_run_takes_the_rows_of_the_run_before(tmp_path):
    path, lines, last = tmp_path / "sheet.csv", lines_of(), None
    found = []
    for rows in (ROWS // 2, ROWS * 3 // 4, ROWS, ROWS):
        write(path, "".join(lines[:rows]))
        made, known = taken(path, f"{len(found)}.parquet", last)
        found.append(known)
        last = made.path
        assert facts_of(made) == facts_of(taken(path, "without.parquet")[0])
    assert found == sorted(found)
    assert found[-1] > ROWS * 3 / 4


def test_blank_rows_at_the_end_of_the_copy_are_rows_once_a_row_follows(tmp_path):
    """The copy does not have them, although there are marks between them."""
    path, lines = tmp_path / "sheet.csv", lines_of(5, blanks=0)
    blank = ["\n", ",,,,\n", f"{' ' * 500},,,,\n"] * 5000
    write(path, "".join([*lines, *blank]))
    last, _ = taken(path, "last.parquet")
    write(path, "".join([*lines, *blank, NEW]))
    assert both(path, last.path) == 0
    assert taken(path, "last.parquet")[0].rows == len(lines) + len(blank)


def test_the_rows_of_the_copy_count_before_many_blank_rows(tmp_path):
    """A sheet may have 100 blank rows for each filled one."""
    path, lines = tmp_path / "sheet.csv", lines_of(6000, blanks=0)
    write(path, "".join(lines))
    last, _ = taken(path, "last.parquet")
    write(path, "".join([*lines, *["\n"] * 550_000, NEW]))
    made, known = taken(path, "made.parquet", last.path)
    assert (made.rows, known > 0) == (556_001, True)


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="only Linux lists open files")
def test_the_sheet_is_closed_when_its_rows_are_read(tmp_path):
    """A run takes hours, in which the user may want to move the file."""
    path = tmp_path / "sheet.csv"
    write(path, "".join(lines_of()))
    last, _ = taken(path, "last.parquet")
    spec = spec_for(path, variables=VARIABLES, empty="send")
    table = open_table(spec)
    variables, held = bind(spec, table.columns), HeldFile(last.path)
    take_snapshot(spec, table, variables, tmp_path / "made.parquet", last=held)
    assert table.beginning is not None
    assert str(path) not in map(os.readlink, filter(os.path.islink, opened_files()))


def opened_files() -> list[str]:
    return [f"/proc/self/fd/{fd}" for fd in os.listdir("/proc/self/fd")]


def test_a_row_is_not_cut_where_a_piece_of_the_text_ends(tmp_path):
    """Every piece of the first million characters ends within the same cell."""
    path, cell = tmp_path / "sheet.csv", "".join(f"line {n}{PADDING}\n" for n in range(5000))
    lines = [*lines_of(3), f'4,"{cell}",kind,,yes\n', *lines_of()[1:]]
    write(path, "".join(lines))
    last, _ = taken(path, "last.parquet")
    write(path, "".join(lines).replace("line 4999", "another"))
    assert both(path, last.path) == 0
    write(path, "".join([*lines, NEW]))
    assert both(path, last.path) > ROWS / 2


OTHERS: dict[str, dict[str, object]] = {
    "the workflow": {"workflow": "wf_product"},
    "a variable": {"variables": (("text", "story"), ("tone", "tone"))},
    "the column of a variable": {"variables": (("story", "story"), ("tone", "wanted"))},
    "a constant": {"constants": (("voice", "loud"),)},
}


@pytest.mark.parametrize("other", OTHERS)
def test_other_keys_are_not_those_of_the_copy(tmp_path, other):
    path = tmp_path / "sheet.csv"
    write(path, "".join(lines_of()))
    last, _ = taken(path, "last.parquet")
    assert both(path, last.path, **OTHERS[other]) == 0


def test_the_lines_are_those_of_the_file_as_it_is_now(tmp_path):
    """A title above the header is gone, so the text from the header on is the same."""
    path, lines = tmp_path / "sheet.csv", lines_of()
    write(path, "".join(["Stories\n", *lines]))
    last, _ = taken(path, "last.parquet", header_row=2)
    write(path, "".join(lines))
    assert both(path, last.path) == 0


def test_the_separator_decides_which_rows_are_blank(tmp_path):
    path, stories = tmp_path / "sheet.csv", "".join(f"{n}{PADDING}\n;\n" for n in range(ROWS))
    write(path, f"story\n{stories}last\n")
    fields = {"variables": (("story", "story"),)}
    last, _ = taken(path, "last.parquet", **fields)
    assert both(path, last.path, separator=";", **fields) == 0


def test_the_columns_are_those_of_the_open_file(tmp_path):
    """Another program replaces the file by the one of the last run, after its header was read."""
    path, lines = tmp_path / "sheet.csv", lines_of()
    write(path, "".join(lines))
    last, _ = taken(path, "last.parquet")
    lines[0] = lines[0].replace("wanted", "needed")
    new, old = tmp_path / "new.csv", path
    write(new, "".join(lines))
    made, known = taken(new, "made.parquet", last.path, opened=lambda: old.replace(new))
    assert (made.columns[-1], known) == ("needed", 0)


@pytest.mark.parametrize("whose", ["no user's", "another user's"])
def test_only_a_copy_that_this_user_made_counts(tmp_path, cache, whose):
    """A folder may come from somebody else, who could have put other rows into it."""
    path = tmp_path / "sheet.csv"
    write(path, "".join(lines_of()))
    last, _ = taken(path, "last.parquet")
    [known] = (cache / "pipeline" / "sheets").iterdir()
    known.unlink() if whose == "no user's" else os.chown(known, 54_321, -1)
    assert both(path, last.path) == 0


def test_an_altered_copy_does_not_count(tmp_path):
    path = tmp_path / "sheet.csv"
    write(path, "".join(lines_of()))
    last, _ = taken(path, "last.parquet")
    about = pq.read_metadata(last.path).metadata
    altered = pq.read_table(last.path).set_column(1, "story", pa.array(["x"] * last.rows))
    with pq.ParquetWriter(tmp_path / "altered.parquet", altered.schema) as writer:
        writer.write_table(altered)
        writer.add_key_value_metadata({b"marks": about[b"marks"]})
    assert both(path, tmp_path / "altered.parquet") == 0


def test_a_copy_is_remembered_by_all_that_its_rows_depend_on(tmp_path, cache):
    """Another release may read the same text as other rows."""
    path = tmp_path / "sheet.csv"
    write(path, "".join(lines_of()))
    last, _ = taken(path, "last.parquet")
    spec = spec_for(path, variables=VARIABLES)
    table = open_table(spec)
    assert table.beginning is not None
    variables, settings = bind(spec, table.columns), table.beginning.settings
    about = (last.sha256, variables, settings, __version__, sys.version)
    [known] = (cache / "pipeline" / "sheets").iterdir()
    assert known.name == hashlib.sha256(repr(about).encode()).hexdigest()
    assert (known.stat().st_mode & 0o777, known.stat().st_size) == (0o600, 0)


def test_a_short_sheet_leaves_nothing_in_the_cache_folder(tmp_path, cache):
    path = tmp_path / "sheet.csv"
    write(path, "".join(lines_of(1000)))
    last, _ = taken(path, "last.parquet")
    assert both(path, last.path) == 0
    assert not cache.exists()


def test_without_a_cache_folder_every_row_is_read(tmp_path, monkeypatch):
    path = tmp_path / "sheet.csv"
    for name in ("XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    write(path, "".join(lines_of()))
    last, _ = taken(path, "last.parquet")
    assert both(path, last.path) == 0


def test_the_copy_of_a_long_sheet_has_little_more_than_its_texts_and_keys(tmp_path):
    """A key has 16 bytes. The numbers and places of consecutive rows need nearly no room."""
    rows = 20_000
    path = tmp_path / "sheet.csv"
    path.write_text("story\n" + "".join(f"{number}\n" for number in range(rows)))
    taken, _, _ = snap(path)
    of_columns = Counter[str]()
    about = pq.read_metadata(taken.path)
    for group in range(about.num_row_groups):
        for place in range(about.num_columns):
            column = about.row_group(group).column(place)
            of_columns[column.path_in_schema] += column.total_compressed_size
    del of_columns["story"]
    assert sum(of_columns.values()) < 17 * rows


def test_long_texts_of_a_copy_are_read_in_batches_of_bounded_size(tmp_path):
    """2,000 rows of it may not fit into memory."""
    path = tmp_path / "sheet.csv"
    path.write_text("story\n" + "".join(f"{number}{'x' * 1_000_000}\n" for number in range(40)))
    taken, _, _ = snap(path)
    for wanted in (None, np.arange(3, 39)):
        read = [(one.first, one.columns[0]) for one in stored_batches(taken.path, wanted)]
        assert sum(len(texts) for _, texts in read) == (40 if wanted is None else 36)
        assert all(texts[0].as_py().startswith(f"{first - 1}x") for first, texts in read)
        assert max(texts.nbytes for _, texts in read) <= 10_000_000
