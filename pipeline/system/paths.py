"""Checks paths from the user or a job file. Finds impossible ones before anything is paid."""

from __future__ import annotations

import errno
import os
import re
import sys
from pathlib import Path

MAX_NAME_BYTES = 255
# The names of files inside the run folder need the rest of the system's limit.
MAX_PATH_BYTES = (1024 if sys.platform == "darwin" else 4096) - 96
# `mkdir` with parents calls itself once for each folder, and Python limits the depth of calls.
MAX_FOLDERS = 255
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f]")


def path_fault(path: str | Path) -> str | None:
    """Returns why no file can have this path, as the end of a sentence, or None if one can."""
    try:
        raw = os.fsencode(path)
    except UnicodeEncodeError:
        return "contains half a character (a lone surrogate)"
    if _CONTROL.search(str(path)):
        return "contains a control character"
    names = raw.split(b"/")
    longest = max(map(len, names))
    if longest > MAX_NAME_BYTES:
        return f"contains a name of {longest:,} bytes, and the limit is {MAX_NAME_BYTES}"
    if len(raw) > MAX_PATH_BYTES:
        return f"has {len(raw):,} bytes, and the limit is {MAX_PATH_BYTES:,}"
    if len(names) > MAX_FOLDERS:
        return f"goes through {len(names):,} folders, and the limit is {MAX_FOLDERS}"
    return None


def leads_to_itself(path: Path) -> bool:
    """Whether a link on the way to `path` leads back to itself."""
    try:
        path.stat()
    except OSError as error:
        return error.errno == errno.ELOOP
    return False


def resolved(path: Path) -> Path:
    """Returns the absolute path without links. A link that leads to itself stays in it, while
    `Path.resolve` would raise RuntimeError."""
    return Path(os.path.realpath(path))
