"""The user's cache folder. You can delete it at any time, and no fault in it ever stops a run."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path


def cache_folder(environment: Mapping[str, str] = os.environ) -> Path | None:
    """Returns the runner's part of the user's cache folder, which may not exist yet. None if the
    environment names no folder."""
    cache = environment.get("XDG_CACHE_HOME", "")
    if os.path.isabs(cache):
        return Path(cache) / "pipeline"
    home = environment.get("HOME", "")
    return Path(home) / ".cache" / "pipeline" if os.path.isabs(home) else None
