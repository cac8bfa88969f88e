"""Exports to a folder that other users can write to: none can prepare, own or redirect a file."""

from __future__ import annotations

import fcntl
import os
import stat
from pathlib import Path

import pytest

from pipeline.export.xlsx.long_texts import TextsAside
from pipeline.system import files
from pipeline.system.files import replacing

LONG = "x" * 40_000


def exported(job, target: Path, *options: str):  # type: ignore[no-untyped-def]
    return job.call("export", "--to", str(target), *options)


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet", "xlsx"])
def test_a_draft_that_another_user_prepared_is_neither_used_nor_followed(sandbox, make_job, kind):
    """Earlier releases used a fixed name, so the user who made that file first owned the export."""
    job = make_job(sandbox.url, rows=[["a"]])
    job.run()
    shared, victim = job.folder / "shared", job.folder / "victim"
    shared.mkdir(mode=0o777)
    victim.write_text("mine")
    prepared = shared / f".out.{kind}.draft"
    for prepare in (lambda: prepared.write_text("theirs"), lambda: prepared.symlink_to(victim)):
        prepared.unlink(missing_ok=True)
        prepare()
        done = exported(job, shared / f"out.{kind}")
        assert done.returncode == 0, done.stderr
        assert victim.read_text() == "mine"
        assert os.path.lexists(prepared)
        assert {path.name for path in shared.iterdir()} == {f"out.{kind}", prepared.name}


def test_a_pipe_or_a_device_in_place_of_the_export_is_refused(sandbox, make_job):
    """Reading it to find out what it is would take for ever."""
    job = make_job(sandbox.url, rows=[["a"]])
    job.run()
    os.mkfifo(job.folder / "out.csv")
    (job.folder / "zero.csv").symlink_to("/dev/zero")
    for name in ("out.csv", "zero.csv"):
        for options in ((), ("--force",)):
            done = exported(job, job.folder / name, *options)
            assert done.returncode == 2, done.stderr
            assert f"{name}: this is not a file" in done.stderr
    assert stat.S_ISFIFO((job.folder / "out.csv").stat().st_mode)


def test_a_linked_side_folder_is_refused_and_its_target_is_not_changed(start_sandbox, make_job):
    """Earlier releases wrote files there, and deleted files with such names."""
    job = make_job(start_sandbox().url, rows=[[LONG]])
    job.run()
    elsewhere = job.folder / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "row-1-result.txt").write_text("mine")
    link = job.folder / "out.files"
    link.symlink_to(elsewhere)
    done = exported(job, job.folder / "out.xlsx")
    assert done.returncode == 2, done.stderr
    assert "out.files: this is a link" in done.stderr
    assert not (job.folder / "out.xlsx").exists()
    assert [path.read_text() for path in elsewhere.iterdir()] == ["mine"]


def test_a_side_folder_that_becomes_a_link_is_not_followed(tmp_path):
    """Another user swaps it after the check and before the files are written."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "row-9-result.txt").write_text("mine")
    with TextsAside(tmp_path / "out.xlsx") as aside:
        aside.put(1, "result", LONG)
        (tmp_path / "out.files").symlink_to(elsewhere)
        with pytest.raises(OSError, match=r"Not a directory|Too many levels"):
            aside.publish()
    assert [path.name for path in elsewhere.iterdir()] == ["row-9-result.txt"]
    assert {path.name for path in tmp_path.iterdir()} == {"elsewhere", "out.files"}


def test_columns_whose_names_differ_only_in_signs_have_separate_files(tmp_path):
    """The second text once replaced the first one, and both cells named that file."""
    with TextsAside(tmp_path / "out.xlsx") as aside:
        cells = [aside.put(1, name, text) for name, text in (("a b", "one"), ("a/b", "two"))]
        aside.publish()
    kept = {path.name: path.read_text() for path in (tmp_path / "out.files").iterdir()}
    assert kept == {"row-1-a-b.txt": "one", "row-1-a-b-2.txt": "two"}
    assert ["row-1-a-b.txt" in cells[0], "row-1-a-b-2.txt" in cells[1]] == [True, True]


def test_a_file_is_written_to_the_folder_that_was_opened(tmp_path):
    """Even if the folder's path leads elsewhere when the file is complete."""
    folder, moved, other = tmp_path / "folder", tmp_path / "moved", tmp_path / "other"
    folder.mkdir()
    other.mkdir()
    with replacing(folder / "out.csv") as file:
        file.write(b"x")
        folder.rename(moved)
        folder.symlink_to(other)
    assert (moved / "out.csv").read_bytes() == b"x"
    assert not list(other.iterdir())


def test_a_draft_name_that_exists_is_never_opened(tmp_path, monkeypatch):
    """Even if another user guessed it. The file at the target does not change."""
    monkeypatch.setattr(files.secrets, "token_hex", lambda _: "0123abcd")
    victim = tmp_path / "victim"
    victim.write_text("mine")
    (tmp_path / ".out.csv.0123abcd.draft").symlink_to(victim)
    (tmp_path / "out.csv").write_text("before")
    with pytest.raises(FileExistsError), replacing(tmp_path / "out.csv"):
        raise AssertionError("opened")
    assert victim.read_text() == "mine"
    assert (tmp_path / "out.csv").read_text() == "before"


def test_the_next_export_removes_the_draft_of_a_killed_one(tmp_path):
    """It does not remove a draft that another process is writing, or one for another file."""
    killed, used = tmp_path / ".out.csv.00000001.draft", tmp_path / ".out.csv.00000002.draft"
    other, folder = tmp_path / ".other.csv.00000001.draft", tmp_path / ".out.csv.00000003.draft"
    for path in (killed, used, other):
        path.write_text("half")
    folder.mkdir()
    (folder / "row-1-result.txt").write_text("half")
    with used.open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with replacing(tmp_path / "out.csv") as file:
            file.write(b"x")
    assert {path.name for path in tmp_path.iterdir()} == {"out.csv", used.name, other.name}


def test_a_file_with_the_longest_possible_name_can_be_written(tmp_path):
    """255 bytes. The draft's name is shorter."""
    for name in ("a" * 255, "ü" * 127, "😀" * 63):
        with replacing(tmp_path / name) as file:
            file.write(b"x")
        assert (tmp_path / name).read_bytes() == b"x"
