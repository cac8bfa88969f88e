"""A run that begins with another sheet mixes no rows with those or the answers of others.

The same rows stand in each sheet in another order, and each answer names its own row.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import pipeline
from pipeline.core.added_columns import USUAL
from pipeline.results.answered_sheet import opened, sheet_table
from pipeline.system.opening import HeldFile
from tests.conftest import Job, SandboxProcess, ended

ROWS = 4500  # three batches of a copy


def write(job: Job, rows: range) -> None:
    job.write_sheet(["sku", "story"], [[f"A{n}", f"story {n}"] for n in rows])


@pytest.fixture
def job(sandbox: SandboxProcess, make_job, request) -> Job:
    made = make_job(sandbox.url, ["sku", "story"], [["-", "-"]], variables={"story": "story"})
    write(made, range(request.param))
    assert made.run()["ok"] == request.param
    return made


def answers(job: Job) -> dict[str, str]:
    """Returns the answer of each story as an undisturbed export has it."""
    return dict(zip(*job.export()[["story", "result"]].to_numpy().T, strict=True))


@pytest.mark.parametrize("job", [ROWS], indirect=True)
def test_rows_that_are_shown_while_another_run_begins_keep_their_answers(job):
    expected = answers(job)
    rows = pipeline.show_job(pipeline.find_job(job.spec))
    shown = [next(rows)]
    write(job, range(ROWS)[::-1])
    assert job.run()["requests"] == 0
    shown += rows
    assert {row.variables["story"]: row.answer for row in shown} == expected
    assert [row.row for row in shown] == list(range(1, ROWS + 1))


@pytest.mark.parametrize("job", [ROWS], indirect=True)
def test_an_export_that_is_written_while_another_run_begins_has_one_sheet(job, tmp_path):
    expected = answers(job)
    with opened(pipeline.find_job(job.spec), tmp_path, USUAL) as source:
        write(job, range(ROWS)[::-1])
        assert job.run()["requests"] == 0
        found = [cells for batch in sheet_table(source).batches() for cells in batch.to_pylist()]
    assert {cells["story"]: cells["result"] for cells in found} == expected
    assert [cells["sku"] for cells in found] == [f"A{n}" for n in range(ROWS)]


def show(job: pipeline.Job) -> Iterator[tuple[str, Any]]:
    for row in pipeline.show_job(job):
        yield row.variables["story"], row.answer


def frame(job: pipeline.Job) -> Iterator[tuple[str, Any]]:
    found = pipeline.read_results(job)
    return zip(found["story"], found["result"], strict=True)


def exported(job: pipeline.Job) -> Iterator[tuple[str, Any]]:
    target = job.folder.path.parent / "out.jsonl"
    pipeline.export_job(job, target)
    for line in Path(target).read_text().splitlines():
        cells = json.loads(line)
        yield cells["story"], cells["result"]


@pytest.mark.parametrize("job", [6], indirect=True)
@pytest.mark.parametrize("read", [show, frame, exported])
def test_a_reader_gets_one_sheet_while_runs_begin_one_after_the_other(job, read):
    expected = answers(job)
    over = threading.Event()

    def runs() -> None:
        try:
            for turn in range(8):
                write(job, range(6)[:: -1 if turn % 2 else 1])
                job.run()
        finally:
            over.set()

    thread = threading.Thread(target=runs)
    thread.start()
    found, reads = pipeline.find_job(job.spec), 0
    while not over.is_set():
        assert dict(read(found)) == expected
        pipeline.report_job(found)
        reads += 1
    thread.join()
    assert reads > 1


@pytest.mark.parametrize("job", [6], indirect=True)
def test_a_copy_that_a_run_moves_while_a_reader_looks_for_it_is_found(job, monkeypatch):
    expected, folder = answers(job), pipeline.find_job(job.spec).folder
    before = folder.snapshot.read_bytes()
    write(job, range(6)[::-1])
    job.run()
    folder.snapshot.rename(folder.new_snapshot)
    folder.snapshot.write_bytes(before)

    class Late(HeldFile):
        def __init__(self, path: Path) -> None:
            if path == folder.new_snapshot:
                path.replace(folder.snapshot)
            super().__init__(path)

    monkeypatch.setattr("pipeline.inputs.stored.HeldFile", Late)
    assert dict(frame(pipeline.find_job(job.spec))) == expected


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="only Linux lists open files")
def test_a_run_that_waited_for_another_one_reads_the_sheet_as_it_is_then(sandbox, make_job):
    """Another program writes its rows into the same file during the wait. They have other lengths,
    so a row would begin with the text of one sheet and end with that of the other."""
    before, after = ([[f"{word} {n} {word * 50}"] for n in range(999)] for word in ("old", "newer"))
    job = make_job(sandbox.url, rows=before)
    folder = pipeline.find_job(job.spec).folder
    folder.create()
    with folder.locked():
        process = job.start("--if-locked", "wait")
        while str(job.sheet) not in opened_files(process.pid):
            assert process.poll() is None
            time.sleep(0.02)
        time.sleep(0.5)
        job.write_sheet(["story"], after)
    with ended(process):
        assert process.wait(30) == 0
    billed = [json.loads(body)["story"] for body in sandbox.billed()]
    assert sorted(billed) == sorted(text for [text] in after)


def opened_files(pid: int) -> list[str]:
    found = []
    for file in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):  # it is closed by now
            found.append(os.readlink(file))
    return found
