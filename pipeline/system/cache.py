"""The user's cache folder. You can delete it at any time, and no fault in it ever stops a run.

It belongs to the user and not to the run folder, because that may come from somebody else. So it
also remembers what the user's own commands found out: an empty file stands for each fact, and its
name is the hash of the fact.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Mapping
from pathlib import Path

# At 0 bytes each. A user with more run folders waits for the oldest fact again.
_MOST = 1000
_NAME = re.compile("[0-9a-f]{64}")


def cache_folder(environment: Mapping[str, str] = os.environ) -> Path | None:
    """Returns the runner's part of the user's cache folder, which may not exist yet. None if the
    environment names no folder."""
    cache = environment.get("XDG_CACHE_HOME", "")
    if os.path.isabs(cache):
        return Path(cache) / "pipeline"
    home = environment.get("HOME", "")
    return Path(home) / ".cache" / "pipeline" if os.path.isabs(home) else None


def knows(folder: Path, name: str) -> bool:
    """Whether this user remembered `name` in the cache's `folder`."""
    try:
        about = (folder / name).lstat()
        os.utime(folder / name, follow_symlinks=False)
    except OSError:
        return False
    return about.st_uid == os.geteuid()


def remember(folder: Path, name: str) -> None:
    """Remembers `name`, a SHA-256 in hex, and forgets the oldest of many names."""
    with contextlib.suppress(OSError):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        (folder / name).touch(mode=0o600)
        # The folder may be a link to any other one, or belong to another program, too.
        noted = [(path.lstat(), path) for path in folder.iterdir() if _NAME.fullmatch(path.name)]
        empty = [(about.st_mtime, path) for about, path in noted if not about.st_size]
        for _, path in sorted(empty)[:-_MOST]:
            path.unlink()
