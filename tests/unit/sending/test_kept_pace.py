"""The pace that is stored for a key between runs, and how runs of one key find each other."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from pipeline.policy.pace import Learned, Pace
from pipeline.sending.kept_pace import KeptPace, fingerprint, kept_pace

KEY = "sk_a_key_that_must_stand_nowhere"
WALL = 1_800_000_000.0


@pytest.fixture
def kept(tmp_path: Path) -> KeptPace:
    """A cache folder for this test alone."""
    found = kept_pace("api.test", KEY, {"XDG_CACHE_HOME": str(tmp_path)})
    assert found is not None
    return found


def taught() -> Pace:
    """A pace that has learned 50 per 1 s."""
    pace = Pace()
    for step in range(200):
        pace.sent(step / 49)
    for step in range(60, 200):
        pace.answered(step / 49, "50", "1", 5.0)
    assert pace.window_s == pytest.approx(1.0, rel=0.05)
    return pace


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def test_the_next_run_gets_what_the_last_one_learned(kept):
    """Limit, window and g, with less trust the older they are."""
    kept.keep(taught(), WALL)
    fresh, old = kept.recall(WALL + 60), kept.recall(WALL + 7 * 86_400)
    assert fresh is not None
    assert old is not None
    assert (fresh.limit, fresh.window_s) == (50, pytest.approx(1.0, rel=0.05))
    assert fresh.trust == pytest.approx(0.95, rel=0.01)
    assert old.trust == pytest.approx(0.475, rel=0.01)
    assert kept.recall(WALL + 31 * 86_400) is None


def test_a_pace_that_learned_nothing_stores_nothing(kept, tmp_path):
    """And does not overwrite what an earlier run learned."""
    kept.keep(taught(), WALL)
    kept.keep(Pace(), WALL + 1)
    assert kept.recall(WALL + 2) is not None


def test_no_file_and_no_file_name_contains_the_key(kept, tmp_path):
    """Nor any part of the key. Only the user can read the files."""
    kept.exchange(taught(), True, 5.0, WALL)
    assert len(files(tmp_path)) == 2
    for path in files(tmp_path):
        assert KEY[3:20] not in str(path) + path.read_text()
        assert path.stat().st_mode & 0o077 == 0
    assert (tmp_path / "pipeline").stat().st_mode & 0o077 == 0


def test_another_key_or_host_has_another_file():
    """Host and key cannot be confused, because no host contains the line end between them."""
    names = {fingerprint(host, key) for host in ("a", "b") for key in ("x", "y")}
    assert len(names) == 4


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        '{"limit": 50}',
        '{"limit": 0, "window_s": 1, "g": 1, "at": 1800000000}',
        '{"limit": 50, "window_s": NaN, "g": 1, "at": 1800000000}',
        '{"limit": 50, "window_s": 1e99, "g": 1, "at": 1800000000}',
        '{"limit": 1e400, "window_s": 1, "g": 1, "at": 1800000000}',
        '{"limit": 50, "window_s": 1, "g": 7, "at": 1800000000}',
        '{"limit": 50, "window_s": 1, "g": 1, "at": "yesterday"}',
        '{"limit": [50], "window_s": 1, "g": 1, "at": 1800000000}',
        "[" * 4000,
    ],
)
def test_a_damaged_or_foreign_file_is_ignored(kept, tmp_path, text):
    """The file is a cache: the run starts as if it did not exist."""
    kept.keep(taught(), WALL)
    [path] = files(tmp_path)
    path.write_text(text)
    assert kept.recall(WALL) is None


def test_a_link_or_a_pipe_in_its_place_is_not_followed(kept, tmp_path):
    """Nor does the run wait for a pipe."""
    path = tmp_path / "pipeline" / f"{fingerprint('api.test', KEY)}.json"
    target = tmp_path / "elsewhere"
    target.write_text('{"limit": 50, "window_s": 1, "g": 1, "at": 1800000000}')
    path.symlink_to(target)
    assert kept.recall(WALL) is None
    path.unlink()
    os.mkfifo(path)
    assert kept.recall(WALL) is None


@pytest.mark.parametrize("environment", [{}, {"HOME": ""}, {"XDG_CACHE_HOME": "relative"}])
def test_without_a_home_folder_nothing_is_stored(environment):
    """A service without HOME runs nevertheless."""
    assert kept_pace("api.test", KEY, environment) is None


def test_a_cache_folder_that_cannot_be_written_does_not_stop_a_run(tmp_path):
    """A file where the folder should be, and a folder that has gone."""
    (tmp_path / "pipeline").write_text("in the way")
    assert kept_pace("api.test", KEY, {"XDG_CACHE_HOME": str(tmp_path)}) is None
    gone = KeptPace(tmp_path / "gone", "name")
    gone.exchange(taught(), True, 5.0, WALL)
    gone.close()
    assert gone.recall(WALL) is None


def test_a_file_that_cannot_be_replaced_leaves_no_draft(kept, tmp_path):
    kept.keep(taught(), WALL)
    [stored] = files(tmp_path)
    stored.unlink()
    stored.mkdir()
    kept.keep(taught(), WALL)
    assert not files(tmp_path)


def test_two_runs_notice_each_other_and_halve_the_window(kept, tmp_path):
    """Each reads the other's pace, and the one that ends gives its share back."""
    other = kept_pace("api.test", KEY, {"XDG_CACHE_HOME": str(tmp_path)})
    assert other is not None
    first, second = taught(), taught()
    alone = first.rate(5.0)
    other.exchange(second, True, 5.0, WALL)
    kept.exchange(first, True, 5.0, WALL)
    assert first.rate(5.0) == pytest.approx(alone / 2, rel=0.3)
    learned = first.learned()
    assert learned is not None
    assert learned.window_s == pytest.approx(1.0, rel=0.05)
    other.close()
    kept.exchange(first, True, 5.5, WALL)
    assert first.rate(5.5) == pytest.approx(alone, rel=0.05)


def test_a_run_that_begins_beside_another_starts_with_what_that_one_knows(kept):
    """The first run stores its pace as soon as it has learned it, not only at its end."""
    kept.exchange(Pace(), True, 1.0, WALL)
    assert kept.recall(WALL) is None
    kept.exchange(taught(), True, 1.5, WALL)
    assert kept.recall(WALL) is not None


def test_a_run_that_was_killed_is_forgotten(kept, tmp_path):
    """Its file no longer counts after 3 s, and is removed after a minute."""
    other = kept_pace("api.test", KEY, {"XDG_CACHE_HOME": str(tmp_path)})
    assert other is not None
    other.exchange(taught(), True, 5.0, WALL)
    [left] = tmp_path.glob("pipeline/*.run-*")
    os.utime(left, (time.time() - 10, time.time() - 10))
    pace = taught()
    alone = pace.rate(5.0)
    kept.exchange(pace, True, 5.0, WALL)
    assert pace.rate(5.0) == pytest.approx(alone)
    os.utime(left, (time.time() - 100, time.time() - 100))
    kept.exchange(pace, True, 5.5, WALL)
    assert not left.exists()


@pytest.mark.parametrize("wrong_s", [-3600, 3600])
def test_a_run_that_was_killed_is_forgotten_whatever_the_clock_did_since(kept, tmp_path, wrong_s):
    """After a step back, its file is from the future."""
    other = kept_pace("api.test", KEY, {"XDG_CACHE_HOME": str(tmp_path)})
    assert other is not None
    other.exchange(taught(), True, 5.0, WALL)
    [left] = tmp_path.glob("pipeline/*.run-*")
    os.utime(left, (time.time() + wrong_s, time.time() + wrong_s))
    pace = taught()
    kept.exchange(pace, True, 5.0, WALL)
    assert pace.window_s == taught().window_s
    assert not left.exists()


def test_a_pace_that_is_a_whole_number_counts_too(kept, tmp_path):
    """The ramp ends at the limit, which is one."""
    other = kept_pace("api.test", KEY, {"XDG_CACHE_HOME": str(tmp_path)})
    assert other is not None
    slow = Pace()
    slow.sent(0.0)
    slow.answered(0.0, "600", "599", 0.02)
    assert slow.own_pace(20.0) == 600
    other.exchange(slow, True, 20.0, WALL)
    pace = taught()
    kept.exchange(pace, True, 5.0, WALL)
    assert pace.window_s == pytest.approx(2.0, rel=0.05)


def test_a_run_that_its_pace_does_not_hold_back_is_given_no_room(kept, tmp_path):
    """It waits for answers, so an equal part of the key would be lost."""
    other = kept_pace("api.test", KEY, {"XDG_CACHE_HOME": str(tmp_path)})
    assert other is not None
    pace, waiting = taught(), taught()
    for waits, window_s in ((True, 2.0), (False, 1.0)):
        for _ in range(20):
            other.exchange(waiting, waits, 5.0, WALL)
        kept.exchange(pace, True, 5.0, WALL)
        assert pace.window_s == pytest.approx(window_s, rel=0.05)


def test_a_reader_never_sees_a_half_written_file(kept, tmp_path):
    """A reader finds JSON at any time, and no temporary file is left over."""
    for step in range(20):
        kept.keep(taught(), WALL + step)
        [path] = files(tmp_path)
        assert json.loads(path.read_text())["at"] == WALL + step


def test_a_run_starts_no_faster_than_the_learned_pace_is_trusted():
    """With half the trust it starts at half the pace."""
    pace = Pace(start=Learned(50, 1.0, 1.0, trust=0.5))
    pace.sent(0.0)
    assert pace.rate(5.0) < 26


@pytest.mark.parametrize(
    "told", [f"1{'0' * 4000}", "1e400", "-1.0", "NaN", "true", '"50"', "[1.0]"]
)
def test_a_pace_that_no_run_can_have_told_does_not_count(kept, tmp_path, told):
    """And does not stop this run."""
    other = kept_pace("api.test", KEY, {"XDG_CACHE_HOME": str(tmp_path)})
    assert other is not None
    other.exchange(taught(), True, 5.0, WALL)
    [file] = tmp_path.glob("pipeline/*.run-*")
    file.write_text(f'{{"pace": {told}}}')
    pace = taught()
    kept.exchange(pace, True, 5.0, WALL)
    assert pace.rate(5.0) == taught().rate(5.0)
