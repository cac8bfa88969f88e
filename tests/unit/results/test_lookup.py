"""Answers in the order of the sheet, whatever their own order and however few fit in memory."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest

from pipeline.core.errors import StorageFailed
from pipeline.job.run_folder import RunFolder
from pipeline.ledger import reader
from pipeline.results.lookup import find_answers
from tests.conftest import Job
from tests.support.servers import Server

ROWS = 300


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> RunFolder:
    """A folder of two runs. The sheet was shuffled, cut and extended between them."""
    place = tmp_path_factory.mktemp("results")
    job = Job(place, place / "job.yaml", place / "sheet.csv", "")
    rows = [[f"story {n}"] for n in range(ROWS)]
    with Server() as server:
        job.base_url = server.url
        job.write_spec()
        job.write_sheet(["story"], rows)
        job.run("--limit", "150")
        random.Random(7).shuffle(rows)
        job.write_sheet(["story"], [*rows[: ROWS - 20], ["new"]])
        job.run("--limit", str(ROWS - 20))
        assert ROWS - 20 < server.received.total() < ROWS
    return RunFolder(job.output)


def stories(folder: RunFolder) -> dict[int, str]:
    """The text of each row of the sheet, read without the runner's code."""
    with (folder.path.parent.parent / "sheet.csv").open() as file:
        return dict(enumerate(file.read().splitlines()[1:], start=1))


@pytest.mark.parametrize("stretch_bytes", [50, 200, 1000, 10_000_000])
def test_every_row_has_its_own_answer_in_the_order_of_the_sheet(folder, tmp_path, stretch_bytes):
    """With one or two answers in memory at once, and with all. None is missing or doubled."""
    wanted = stories(folder)
    seen: list[int] = []
    covered = 0
    with reader.reading(folder.ledger) as read:
        answers = find_answers(folder, read, len(wanted), stretch_bytes=stretch_bytes)
        for stretch in answers.stretches(tmp_path):
            assert stretch.first == covered + 1
            covered = stretch.last
            results = stretch.answers["result"].to_pylist()
            assert sum(map(len, results)) <= stretch_bytes + max(map(len, results), default=0)
            for row, result in zip(stretch.rows.tolist(), results, strict=True):
                assert stretch.first <= row <= stretch.last
                assert wanted[row] in result
                seen.append(row)
    assert covered == len(wanted) == ROWS - 19
    assert seen == [row for row, story in wanted.items() if story != "new"]


def test_no_file_is_left_behind(folder, tmp_path):
    """The temporary file has no name, even while it is used."""
    with reader.reading(folder.ledger) as read:
        for _ in find_answers(folder, read, ROWS - 19).stretches(tmp_path):
            assert not list(Path(tmp_path).iterdir())


def test_only_the_parts_with_wanted_answers_are_read(folder, tmp_path):
    """The other rows still count as answered."""
    wanted = stories(folder)
    with reader.reading(folder.ledger) as read:
        answers = find_answers(folder, read, len(wanted), more=("variables",))
        none = answers.only(np.zeros(len(wanted), bool))
        part = max(folder.results.glob("part-*.parquet"))
        content = part.read_bytes()
        part.unlink()
        try:
            assert not any(len(stretch.rows) for stretch in none.stretches(tmp_path))
            assert none.answered == answers.answered == len(wanted) - 1
            with pytest.raises(StorageFailed):
                list(answers.stretches(tmp_path))
        finally:
            part.write_bytes(content)
        mask = np.zeros(len(wanted), bool)
        mask[[3, 70]] = True
        found = {
            row: variables
            for stretch in answers.only(mask).stretches(tmp_path)
            for row, variables in zip(
                stretch.rows.tolist(), stretch.answers["variables"].to_pylist(), strict=True
            )
        }
    assert found == {row: f'{{"story":"{wanted[row]}"}}' for row in (4, 71)}
