"""Starts Python processes and limits their imports and their environment.

A folder from somebody else may contain a `sqlite3.py` or a `uvicorn.py`. So a child process imports
nothing from the current folder, even if `PYTHONPATH` names it, and does not work there. It gets
only the environment variables that it needs, and never the key.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import IO

from pipeline.system.paths import resolved

# An allow list, because the name of a variable does not show that it contains a secret.
_ENVIRONMENT = (
    *("PATH", "HOME", "USER", "LOGNAME", "TZ", "LANG", "LANGUAGE"),
    *("TMPDIR", "TEMP", "TMP", "SQLITE_TMPDIR"),
    *("ARROW_DEFAULT_MEMORY_POOL", "OPENBLAS_NUM_THREADS"),
    # Without these, some builds of Python find neither their libraries nor themselves.
    *("LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "SYSTEMROOT"),
)
# -I ignores the current folder, PYTHON* variables and the user's own site-packages. The import path
# of this process, which may come from those, is passed on. The child also imports this package.
_BEGIN = (
    "import json, runpy, sys, typing; root, path, module = sys.argv[1:4]; del sys.argv[1:4]; "
    "sys.path.insert(0, root); import pipeline; sys.path[:] = json.loads(path); "
    "runpy.run_module(module, run_name='__main__', alter_sys=True)"
)
ROOT = str(Path(__file__).parents[1])
"""The folder that contains this package."""


def import_path() -> list[str]:
    """Returns the import path of this process without the current folder and relative entries.

    `python -m` and an empty entry of `PYTHONPATH` add the current folder. It stays only if it is
    part of Python's own installation.
    """
    here = Path.cwd()
    owned = any(
        here.is_relative_to(resolved(Path(place))) for place in (sys.prefix, sys.base_prefix)
    )
    return [
        entry
        for entry in sys.path
        if os.path.isabs(entry) and (owned or resolved(Path(entry)) != resolved(here))
    ]


def start_python(
    module: str,
    *arguments: str,
    more: Mapping[str, str] | None = None,
    stderr: int | IO[bytes] = subprocess.DEVNULL,
) -> subprocess.Popen[bytes]:
    """Starts `module` as a process, with pipes for stdin and stdout.

    `more` is added to its environment. The process works in `/`, so every path in `arguments` must
    be absolute. It inherits no open file, and Ctrl-C in the terminal does not reach it.

    Raises:
        OSError: when the machine has no room for another process.
    """
    return subprocess.Popen(
        [sys.executable, "-I", "-c", _BEGIN, ROOT, json.dumps(import_path()), module, *arguments],
        cwd="/",
        env=_environment() | dict(more or {}),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=stderr,
        start_new_session=True,
        umask=0o077,
    )


def start_apart(module: str, *arguments: str, output: IO[bytes]) -> subprocess.Popen[bytes]:
    """Starts `module` as a process that outlives this one, in a separate session. It prints into
    `output`, reads nothing, and has the environment and the current folder of this process.

    Raises:
        OSError: when the machine has no room for another process.
    """
    return subprocess.Popen(
        [sys.executable, "-I", "-c", _BEGIN, ROOT, json.dumps(import_path()), module, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        start_new_session=True,
    )


def _environment() -> dict[str, str]:
    return {
        name: value
        for name, value in os.environ.items()
        if name in _ENVIRONMENT or name.startswith("LC_")
    }
