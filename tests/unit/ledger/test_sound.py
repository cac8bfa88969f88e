"""A large ledger with the same bytes as at its last check is not checked record by record again."""

from __future__ import annotations

import hashlib
import os
from contextlib import closing
from pathlib import Path

import pytest

from pipeline.core.errors import StorageFailed
from pipeline.core.version import __version__
from pipeline.ledger.integrity import check_ahead, check_ledger
from pipeline.ledger.schema import connect
from pipeline.ledger.sound import check_once, content_of
from tests.unit.ledger.test_integrity import write_ledger

LARGE, SMALL = 20_000_000, 10
OTHER_USER = 54_321


@pytest.fixture
def sound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder with a file for each ledger that is known to be sound. It does not exist yet."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "pipeline" / "sound"


def test_a_sound_ledger_is_remembered_by_its_content_and_the_release(tmp_path, sound):
    path = tmp_path / "ledger.sqlite"
    write_ledger(path, LARGE)
    check_ledger(path)
    [known] = sound.iterdir()
    assert known.name == hashlib.sha256(path.read_bytes() + __version__.encode()).hexdigest()
    assert (known.stat().st_mode & 0o777, known.stat().st_size) == (0o600, 0)


def test_remembered_bytes_are_not_checked_again(tmp_path, sound):
    path = tmp_path / "ledger.sqlite"
    write_ledger(path, SMALL)
    assert checks_of(path, sound) == checks_of(path, sound) + 1 == 1
    write_ledger(path, SMALL)
    assert checks_of(path, sound) == checks_of(path, sound) + 1 == 1


def test_damage_is_not_remembered(tmp_path, sound):
    path = tmp_path / "ledger.sqlite"
    write_ledger(path, LARGE)
    damage(path)
    for _ in range(2):
        with pytest.raises(StorageFailed, match="the record of an attempt"):
            check_ledger(path)
    assert not sound.exists()


def test_a_ledger_that_changes_during_its_check_is_not_remembered(tmp_path, sound):
    path = tmp_path / "ledger.sqlite"
    write_ledger(path, SMALL)
    before = content_of(path)
    check_once(path, sound, lambda: write_ledger(path, SMALL))
    assert before != content_of(path)
    assert not sound.exists()


def test_a_changed_byte_of_a_remembered_ledger_is_found(tmp_path, sound):
    path = tmp_path / "ledger.sqlite"
    write_ledger(path, LARGE)
    check_ledger(path)
    damage(path)
    with pytest.raises(StorageFailed, match="the record of an attempt"):
        check_ledger(path)
    assert len(list(sound.iterdir())) == 1


def test_a_log_or_a_journal_with_content_is_part_of_the_ledger(tmp_path, sound):
    """Its last commits are not in the file, so the file alone does not tell the content."""
    path = tmp_path / "ledger.sqlite"
    write_ledger(path, LARGE)
    with closing(connect(path, read_only=False)) as db:
        db.execute("INSERT INTO runs (run_id, started_at) VALUES ('other', 2.0)")
        assert content_of(path) is None
        check_ledger(path)
        assert not sound.exists()
    assert content_of(path) is not None
    assert checks_of(path, sound) == 1
    path.with_name("ledger.sqlite-journal").write_bytes(b"x")
    assert content_of(path) is None
    assert checks_of(path, sound) == 1


def test_a_log_that_hides_damage_is_read_although_the_file_is_remembered(tmp_path, sound):
    path = tmp_path / "ledger.sqlite"
    write_ledger(path, LARGE)
    check_ledger(path)
    with closing(connect(path, read_only=False)) as db:
        db.create_function("row_sum", -1, lambda *_: b"12345678", deterministic=True)
        db.execute("UPDATE attempts SET maybe_paid = 0")
        with pytest.raises(StorageFailed, match="the record of an attempt"):
            check_ledger(path)


def test_a_small_ledger_is_checked_and_not_remembered(tmp_path, sound):
    """Its check takes less time than a process."""
    path = tmp_path / "ledger.sqlite"
    write_ledger(path, SMALL)
    check_ledger(path)
    check_ahead(path, lambda: True)
    assert not sound.exists()


def test_the_check_ahead_leaves_damage_to_the_next_command(tmp_path, sound):
    path = tmp_path / "ledger.sqlite"
    write_ledger(path, LARGE)
    check_ahead(path, lambda: True)
    assert checks_of(path, sound) == 0
    damage(path)
    check_ahead(path, lambda: True)
    assert checks_of(path, sound) == 1


def test_a_check_ahead_that_is_not_wanted_ends_at_once(tmp_path, sound):
    path = tmp_path / "ledger.sqlite"
    write_ledger(path, LARGE)
    check_ahead(path, lambda: False)
    assert not sound.exists()


@pytest.mark.parametrize("environment", [{}, {"HOME": "here"}, {"XDG_CACHE_HOME": "/dev/null"}])
def test_without_a_cache_folder_each_check_is_whole(tmp_path, monkeypatch, environment):
    path = tmp_path / "ledger.sqlite"
    write_ledger(path, LARGE)
    for name in ("HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    check_ledger(path)
    damage(path)
    with pytest.raises(StorageFailed):
        check_ledger(path)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to another user")
def test_the_note_of_another_user_does_not_count(tmp_path, sound):
    path = tmp_path / "ledger.sqlite"
    write_ledger(path, SMALL)
    assert checks_of(path, sound) == 1
    os.chown(sound / content_of(path), OTHER_USER, OTHER_USER)
    assert checks_of(path, sound) == 1


def test_of_more_than_a_thousand_ledgers_those_of_the_longest_ago_are_forgotten(tmp_path, sound):
    path, last = tmp_path / "ledger.sqlite", tmp_path / "last.sqlite"
    write_ledger(path, SMALL)
    assert checks_of(path, sound) == 1
    os.utime(sound / content_of(path), (1, 1))
    for number in range(999):
        (sound / f"{number:064}").touch()
        os.utime(sound / f"{number:064}", (number + 2, number + 2))
    assert checks_of(path, sound) == 0  # which is the newest use now
    write_ledger(last, LARGE)
    assert checks_of(last, sound) == 1
    kept = {found.name for found in sound.iterdir()}
    assert len(kept) == 1000
    assert {content_of(path), content_of(last), f"{1:064}"} < kept
    assert f"{0:064}" not in kept


def test_files_of_somebody_else_in_the_cache_folder_stay(tmp_path, sound):
    """The folder may be a link, or belong to another program of a similar name."""
    path, photos = tmp_path / "ledger.sqlite", tmp_path / "photos"
    (photos / "album").mkdir(parents=True)
    for number in range(1200):
        (photos / f"{number}.jpg").touch()
    (photos / f"{7:064}").write_bytes(b"a name like ours")
    sound.parent.mkdir(parents=True)
    sound.symlink_to(photos)
    before = {found.name for found in photos.iterdir()}
    write_ledger(path, SMALL)
    assert checks_of(path, sound) == 1
    assert {found.name for found in photos.iterdir()} == before | {content_of(path)}
    assert checks_of(path, sound) == 0


def test_content_is_that_of_a_file_and_of_nothing_else(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "link").symlink_to(tmp_path / "fifo")
    for name in ("fifo", "link", "missing"):
        assert content_of(tmp_path / name) is None


def checks_of(path: Path, sound: Path) -> int:
    """Returns how many checks the ledger needs now. They find it sound."""
    made: list[None] = []
    check_once(path, sound, lambda: made.append(None))
    return len(made)


def damage(path: Path) -> None:
    content = path.read_bytes()
    assert b"Bad gateway" in content
    path.write_bytes(content.replace(b"Bad gateway", b"Bad GATEWAY"))
