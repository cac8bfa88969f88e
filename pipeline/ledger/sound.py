"""Remembers in the user's cache folder which ledgers are sound, byte for byte.

The check of a ledger gives the same result for the same bytes. So it is made once for each content
of the file: the next command compares one SHA-256 of the file, which takes a fiftieth of the time.
A single other byte is another content, and the ledger is checked record by record again.

A file without content in the cache folder stands for each ledger. Its name is the hash of the
release and of the ledger, since another release may check more.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

from pipeline.core.version import __version__
from pipeline.system.cache import knows, remember
from pipeline.system.opening import open_file


def check_once(path: Path, cache: Path, check: Callable[[], None]) -> None:
    """Calls `check` for the ledger at `path`, unless `cache` knows that its content is sound. Then
    remembers the content, if `check` raises nothing and no process wrote to the ledger meanwhile.

    The calling process must have no connection to the ledger: closing any file drops the locks that
    a process has on it.
    """
    content = content_of(path)
    if content is not None and knows(cache, content):
        return
    check()
    if content is not None and content == content_of(path):
        remember(cache, content)


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


def _has_content(path: Path) -> bool:
    try:
        return path.stat().st_size > 0
    except FileNotFoundError:
        return False
