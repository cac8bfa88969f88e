"""What "on the disk" takes: one way to sync for all files of the runner's own, and SQLite's."""

from __future__ import annotations

import errno
import fcntl
import os
import re
from pathlib import Path

import pytest

import pipeline
from pipeline.core.clock import SystemClock
from pipeline.ledger.ledger import open_ledger
from pipeline.system.files import sync, sync_chain


@pytest.fixture
def asked(monkeypatch) -> list[str]:
    """What the operating system was asked for, on a machine with macOS's F_FULLFSYNC."""
    calls: list[str] = []
    monkeypatch.setattr(fcntl, "F_FULLFSYNC", 51, raising=False)
    monkeypatch.setattr(fcntl, "fcntl", lambda fd, name: calls.append(f"fcntl {name}"))
    monkeypatch.setattr(os, "fsync", lambda fd: calls.append("fsync"))
    return calls


def test_on_macos_a_file_is_synced_through_the_cache_of_the_disk(asked):
    """`fsync` there ends with that cache, which a power cut empties."""
    sync(0)
    assert asked == ["fcntl 51"]


@pytest.mark.parametrize("number", [errno.ENOTSUP, errno.EINVAL, errno.ENOTTY])
def test_a_file_system_that_does_not_know_the_full_sync_gets_the_other(asked, monkeypatch, number):
    """As SQLite does it."""

    def refuse(fd: int, name: int) -> None:
        raise OSError(number, "no")

    monkeypatch.setattr(fcntl, "fcntl", refuse)
    sync(0)
    assert asked == ["fsync"]


def test_a_full_sync_that_failed_is_not_tried_again_with_the_other(asked, monkeypatch):
    """A second sync would report success for data that the kernel has dropped."""

    def fail(fd: int, name: int) -> None:
        raise OSError(errno.EIO, "broken")

    monkeypatch.setattr(fcntl, "fcntl", fail)
    with pytest.raises(OSError, match="broken"):
        sync(0)
    assert asked == []


def test_there_is_one_place_that_syncs():
    """Any other would miss what macOS needs."""
    package = Path(pipeline.__file__).parent
    found = [
        path.name
        for path in package.rglob("*.py")
        for line in path.read_text(encoding="utf-8").splitlines()
        if re.search(r"os\.f(data)?sync\(", line)
    ]
    assert found == ["files.py"]


def test_sqlite_syncs_fully_too(tmp_path):
    """The settings do nothing elsewhere, so they are always there."""
    with open_ledger(tmp_path / "ledger.sqlite", SystemClock()) as ledger:
        for name, value in [("fullfsync", 1), ("checkpoint_fullfsync", 1), ("synchronous", 2)]:
            query = f"PRAGMA {name}"
            assert ledger.read(lambda db, q=query: db.execute(q).fetchone()[0]) == value


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="tells what was synced on Linux")
def test_the_chain_of_folders_is_synced_up_to_the_root_of_the_file_system(tmp_path, monkeypatch):
    """Links are followed to where the folder is, and no folder is left out."""
    runs = tmp_path / "disk" / "runs"
    runs.mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "disk")
    synced: list[Path] = []

    def note(fd: int) -> None:
        synced.append(Path(f"/proc/self/fd/{fd}").readlink())

    monkeypatch.setattr(os, "fsync", note)
    sync_chain(tmp_path / "link" / "runs")
    device = runs.stat().st_dev
    assert synced == [path for path in runs.parents if path.stat().st_dev == device]
