"""For `make mutants`: which functions the commands of a test called, although they ran in forks.

mutmut notes in its own process which test calls which function, and tries a changed function with
those tests alone. A fork leaves its notes in a file, and the process of the tests adds them to the
notes of the test that is ending.
"""

from __future__ import annotations

import os
from pathlib import Path

_FOLDER = Path(__file__).parent.parent / "hits"


def leave() -> None:
    """In a fork that ends: leaves its notes."""
    if _noting():
        from mutmut.state import state

        _FOLDER.mkdir(exist_ok=True)
        (_FOLDER / str(os.getpid())).write_text("\n".join(state()._stats))


def take() -> None:
    """Adds the notes of all forks that ended since the last call."""
    if _noting():
        from mutmut.state import state

        for file in _FOLDER.glob("*"):
            state()._stats |= set(file.read_text().split())
            file.unlink()


def _noting() -> bool:
    return os.environ.get("MUTANT_UNDER_TEST") == "stats"
