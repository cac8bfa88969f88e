"""For `make mutants`: notes which functions the commands of a test called in forks.

In its own process, mutmut notes which test calls which function, and tries a changed function with
those tests alone. A fork leaves its notes in a file. The process of the tests adds them to the
notes of the test that is ending. Only modules that no test calls in its own process are noted: a
command calls nearly every function, and mutmut would try each change with all commands.
"""

from __future__ import annotations

import os
from pathlib import Path

_FOLDER = Path(__file__).parents[2] / "hits"
_BY_COMMANDS = ("consent", "recovery", "sending", "settle")


def leave() -> None:
    """Writes the notes of this fork to a file, before the fork ends."""
    if _noting():
        from mutmut.state import state

        wanted = tuple(f"pipeline.{module}." for module in _BY_COMMANDS)
        noted = [name for name in state()._stats if name.startswith(wanted)]
        _FOLDER.mkdir(exist_ok=True)
        (_FOLDER / str(os.getpid())).write_text("\n".join(noted))


def take() -> None:
    """Adds the notes of all forks that ended since the last call."""
    if _noting():
        from mutmut.state import state

        for file in _FOLDER.glob("*"):
            state()._stats |= set(file.read_text().split())
            file.unlink()


def _noting() -> bool:
    return os.environ.get("MUTANT_UNDER_TEST") == "stats"
