"""The pace in the user's cache folder: the limit that runs learned for a key, and its users.

One small file per host and key stores limit, window and g for the next run. Each active run also
writes its pace to a file twice a second, so that runs of the same user on this machine share the
key in equal parts. No file and no file name contains the key: names are a one-way hash of host and
key.

The folder is a cache. You can delete it at any time, and no fault in it ever stops a run.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.policy.header import MOST_LIMIT
from pipeline.policy.pace import Learned, Pace
from pipeline.policy.window import LONGEST_WINDOW_S, SHORTEST_WINDOW_S
from pipeline.system.cache import cache_folder
from pipeline.system.opening import as_object, open_file

_PURPOSE = b"pipeline pace 1"
_MOST_BYTES = 4096
# Limits change with a plan or a deployment, not from hour to hour.
_TRUST, _HALF_LIFE_S, _FORGOTTEN_S = 0.95, 7 * 86_400.0, 30 * 86_400.0
_GONE_S, _SWEPT_S = 3.0, 60.0


def kept_pace(host: str, key: str, environment: Mapping[str, str] = os.environ) -> KeptPace | None:
    """Returns the files of this key. None if there is no cache folder and none can be made."""
    folder = cache_folder(environment)
    if folder is None:
        return None
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError:
        return None
    return KeptPace(folder, fingerprint(host, key))


def fingerprint(host: str, key: str) -> str:
    """Returns a name for host and key from which neither can be recovered."""
    text = f"{host}\n{key}".encode()
    return hashlib.blake2b(text, digest_size=16, person=_PURPOSE).hexdigest()


class KeptPace:
    """The files of one key, for one run. Close it when the run is over."""

    def __init__(self, folder: Path, name: str) -> None:
        self._folder = folder
        self._file = folder / f"{name}.json"
        self._runs = f"{name}.run-"
        self._own = folder / f"{self._runs}{os.getpid()}-{secrets.token_hex(4)}"

    def recall(self, wall: float) -> Learned | None:
        """Returns the limit that earlier runs learned, with less trust the older it is.

        None if there is no usable record.

        `wall` is in seconds since 1970.
        """
        held = _read(self._file)
        try:
            age_s = max(wall - float(held["at"]), 0.0)
            learned = Learned(int(held["limit"]), float(held["window_s"]), float(held["g"]))
        except (KeyError, TypeError, ValueError, OverflowError):
            return None
        if not (
            0 < learned.limit <= MOST_LIMIT
            and SHORTEST_WINDOW_S <= learned.window_s <= LONGEST_WINDOW_S
            and 0.5 <= learned.g <= 1.0
            and age_s <= _FORGOTTEN_S
        ):
            return None
        trust = _TRUST * math.pow(0.5, age_s / _HALF_LIFE_S)
        return Learned(learned.limit, learned.window_s, learned.g, trust)

    def exchange(self, pace: Pace, waits: bool, now: float, wall: float) -> None:
        """Writes this run's pace and reads that of the others. Call it about twice a second.

        `waits` is whether a request waits for the pace now.

        Also stores what the run has learned. A run that begins now needs it at once: all that the
        limit has left for it is almost nothing, and that would look like the limit.
        """
        pace.see_waiting(waits)
        _write(self._own, {"pace": pace.told(now)})
        pace.share_with(self._others(), now)
        self.keep(pace, wall)

    def keep(self, pace: Pace, wall: float) -> None:
        """Stores the limit that `pace` has learned, if it has learned one."""
        learned = pace.learned()
        if learned is not None:
            held = {"limit": learned.limit, "window_s": learned.window_s, "g": learned.g}
            _write(self._file, {**held, "at": wall})

    def close(self) -> None:
        """Removes this run's pace, so that the other runs take its share of the key."""
        with contextlib.suppress(OSError):
            self._own.unlink()

    def _others(self) -> list[float]:
        """Returns the paces of the other runs, in requests per second.

        The age of their files is measured against our own file, not against a clock.
        """
        try:
            now = self._own.stat().st_mtime
        except OSError:
            return []
        others = (path for path in self._folder.glob(f"{self._runs}*") if path != self._own)
        return [pace for path in others if (pace := _pace_told(path, now)) is not None]


def _pace_told(path: Path, now: float) -> float | None:
    """Returns the pace in another run's file, None if that run is over or needs no room.

    Removes a file that a killed run left behind.
    """
    try:
        silent_s = abs(now - path.stat().st_mtime)  # a clock may step back
        if silent_s > _SWEPT_S:
            path.unlink()
    except OSError:
        return None
    pace = _read(path).get("pace")
    told = silent_s <= _GONE_S and isinstance(pace, float) and 0 < pace < math.inf
    return pace if told else None


def _read(path: Path) -> dict[str, Any]:
    """Returns the JSON object in a file of this user. An empty one for anything else."""
    try:
        with open_file(path, _MOST_BYTES) as file:
            if os.fstat(file.fileno()).st_uid != os.geteuid():
                return {}
            return as_object(file.read(_MOST_BYTES))
    except (OSError, ValueError):
        return {}


def _write(path: Path, held: dict[str, Any]) -> None:
    """Replaces a whole file: a reader sees the old one or the new one. Ignores disk errors."""
    new = path.with_name(f".{path.name}.{os.getpid()}.new")
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        with os.fdopen(os.open(new, flags, 0o600), "w", encoding="ascii") as file:
            json.dump(held, file)
        new.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            new.unlink()
