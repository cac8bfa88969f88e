"""All files of the runner are synced in one way, and SQLite syncs as strictly."""

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
    """The calls to the operating system, on a machine with F_FULLFSYNC from macOS."""
    calls: list[str] = []
    monkeypatch.setattr(fcntl, "F_FULLFSYNC", 51, raising=False)
    monkeypatch.setattr(fcntl, "fcntl", lambda fd, name: calls.append(f"fcntl {name}"))
    monkeypatch.setattr(os, "fsync", lambda fd: calls.append("fsync"))
    return calls


def test_on_macos_a_file_is_synced_beyond_the_cache_of_the_disk(asked):
    """`fsync` on macOS only reaches that cache, which a power cut empties."""
    sync(0)
    assert asked == ["fcntl 51"]


@pytest.mark.parametrize("number", [errno.ENOTSUP, errno.EINVAL, errno.ENOTTY])
def test_a_file_system_without_the_full_sync_gets_a_plain_fsync(asked, monkeypatch, number):
    """SQLite does the same."""

    def refuse(fd: int, name: int) -> None:
        raise OSError(number, "no")

    monkeypatch.setattr(fcntl, "fcntl", refuse)
    sync(0)
    assert asked == ["fsync"]


def test_a_full_sync_that_failed_is_not_followed_by_a_plain_fsync(asked, monkeypatch):
    """A second sync would report success for data that the kernel has dropped."""

    def fail(fd: int, name: int) -> None:
        raise OSError(errno.EIO, "broken")

    monkeypatch.setattr(fcntl, "fcntl", fail)
    with pytest.raises(OSError, match="broken"):
        sync(0)
    assert asked == []


def test_only_one_module_calls_fsync():
    """A call elsewhere would miss the full sync of macOS."""
    package = Path(pipeline.__file__).parent
    found = [
        path.name
        for path in package.rglob("*.py")
        for line in path.read_text(encoding="utf-8").splitlines()
        if re.search(r"os\.f(data)?sync\(", line)
    ]
    assert found == ["files.py"]


def test_sqlite_syncs_fully_too(tmp_path):
    """The settings have no effect outside macOS, so they are always set."""
    with open_ledger(tmp_path / "ledger.sqlite", SystemClock()) as ledger:
        for name, value in [("fullfsync", 1), ("checkpoint_fullfsync", 1), ("synchronous", 2)]:
            query = f"PRAGMA {name}"
            assert ledger.read(lambda db, q=query: db.execute(q).fetchone()[0]) == value


@pytest.mark.skipif(
    not Path("/proc/self/fd").exists(), reason="needs /proc to see the synced files"
)
def test_the_chain_of_folders_is_synced_up_to_the_root_of_the_file_system(tmp_path, monkeypatch):
    """Links are resolved to the real folder, and no folder is skipped."""
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
