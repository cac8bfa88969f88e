"""Remembers in the user's cache folder which ledgers are sound, byte for byte.

The check of a ledger gives the same result for the same bytes. So it is made once for each content
of the file: the next command compares one SHA-256 of the file, which takes a fiftieth of the time.
A single other byte is another content, and the ledger is checked record by record again.

The cache belongs to the user and not to the run folder, because that may come from somebody else.
A file without content stands for each ledger. Its name is the hash of the release and of the
ledger, since another release may check more.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from collections.abc import Callable
from pathlib import Path

from pipeline.core.version import __version__
from pipeline.system.opening import open_file

# At 0 bytes each. A user with more run folders waits for the check of the oldest again.
_MOST = 1000
_NAME = re.compile("[0-9a-f]{64}")


def check_once(path: Path, cache: Path, check: Callable[[], None]) -> None:
    """Calls `check` for the ledger at `path`, unless `cache` knows that its content is sound. Then
    remembers the content, if `check` raises nothing and no process wrote to the ledger meanwhile.

    The calling process must have no connection to the ledger: closing any file drops the locks that
    a process has on it.
    """
    content = content_of(path)
    if content is not None and _knows(cache, content):
        return
    check()
    if content is not None and content == content_of(path):
        _remember(cache, content)


def content_of(path: Path) -> str | None:
    """Returns a name for the content of the ledger at `path`. None if other files also have a part
    of it, and if it cannot be read."""
    try:
        if any(_has_content(path.with_name(path.name + end)) for end in ("-wal", "-journal")):
            return None
        with open_file(path) as file:
            digest = hashlib.file_digest(file, "sha256")
    except OSError:
        return None
    digest.update(__version__.encode())
    return digest.hexdigest()


def _knows(cache: Path, content: str) -> bool:
    try:
        about = (cache / content).lstat()
        os.utime(cache / content, follow_symlinks=False)
    except OSError:
        return False
    return about.st_uid == os.geteuid()


def _remember(cache: Path, content: str) -> None:
    with contextlib.suppress(OSError):
        cache.mkdir(mode=0o700, parents=True, exist_ok=True)
        (cache / content).touch(mode=0o600)
        # The folder may be a link to any other one, or belong to another program, too.
        noted = [(path.lstat(), path) for path in cache.iterdir() if _NAME.fullmatch(path.name)]
        empty = [(about.st_mtime, path) for about, path in noted if not about.st_size]
        for _, path in sorted(empty)[:-_MOST]:
            path.unlink()


def _has_content(path: Path) -> bool:
    try:
        return path.stat().st_size > 0
    except FileNotFoundError:
        return False
