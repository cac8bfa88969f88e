"""The JSON Schema next to new job files, with which editors complete and check them."""

from __future__ import annotations

import json
from pathlib import Path

from pipeline.core.errors import PipelineError
from pipeline.job.schema import TITLE, job_schema
from pipeline.system.files import replacing, storing
from pipeline.system.opening import read_file

SCHEMA_NAME = "job.schema.json"
MODELINE = f"# yaml-language-server: $schema=./{SCHEMA_NAME}"
"""The first line of a job file, by which an editor finds the schema."""
_MOST_BYTES = 1 << 20


def may_write_schema(folder: Path) -> bool:
    """Whether the folder has no file of that name, or the schema of this or another release."""
    path = folder / SCHEMA_NAME
    try:
        found = json.loads(read_file(path, _MOST_BYTES))
    except FileNotFoundError:
        return True
    except (OSError, ValueError):
        return False
    return isinstance(found, dict) and found.get("title") == TITLE


def write_schema(folder: Path) -> Path | None:
    """Writes the schema of this release. Returns None if the folder has it or refuses it: a job
    file works without it."""
    path = folder / SCHEMA_NAME
    content = (json.dumps(job_schema(), indent=2, ensure_ascii=False) + "\n").encode()
    try:
        if path.exists() and read_file(path, _MOST_BYTES) == content:
            return None
        with storing(path), replacing(path, 0o644) as file:
            file.write(content)
    except (OSError, PipelineError):
        return None
    return path
