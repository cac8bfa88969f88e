"""Finds traces of a run in a folder without its ledger.

The ledger records a run durably before the run creates any of the files below. So a folder with one
of them had a ledger with a run in it, no matter when and how that run ended.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from pipeline.job.run_note import RUN_NOTE, read_note
from pipeline.system.opening import last_lines, open_file

LEDGER = "ledger.sqlite"
EXPORTS = "exports.json"
REVIEWS = "reviews.sqlite"
REVIEW_LOCK = "reviews.lock"
PAGE_OUTPUT = "page.log"
INDEX = "index"
INDEX_FILE = re.compile(r"\.?(part-[0-9]+|sheet-[0-9]+)(\.[0-9a-f]{8}\.draft)?")
"""The name of a file in the folder of the index, or of its draft."""
# In the order in which a message should name them. A refused run leaves the lock, the empty part,
# the new copy of the sheet and a log without a run, so these are not here.
_OF_A_RUN = (
    RUN_NOTE,
    "summary.json",
    "failures.csv",
    "input.parquet",
    "report.html",
    EXPORTS,
    REVIEWS,
    "sandbox-book.sqlite",
)
_PARTS = "results/part-*[1-9]*.parquet"  # part 0 is empty and always exists
_LOG = "log.jsonl"
# A refused run writes one or two lines, so a log of this size contains a run.
_LOG_BYTES = 256 << 20
_RUN_IN_LOG = b'"event": "run_started"'

_WRITTEN = r"(input\.parquet|run\.json|summary\.json|failures\.csv|report\.html|exports\.json)"
_OURS = re.compile(
    rf"lock|page\.log|reviews\.lock|\.reserve|log\.jsonl|{_WRITTEN}|\.{_WRITTEN}(\.new|(\.[0-9a-f]{{8}})?\.draft)"
    r"|(ledger|reviews|sandbox-book)\.sqlite(-wal|-shm|-journal)?"
)
# The first bytes of our files whose names other programs also use. A power cut may leave zeros.
_BEGINNINGS = {
    "lock": re.compile(rb"(\d{0,19}\n?|\0*)"),
    REVIEW_LOCK: re.compile(rb""),
    ".reserve": re.compile(rb"\0*"),
    _LOG: re.compile(rb"""(\{"at": ".*|\0*)""", re.DOTALL),
}
_BEGINNING_BYTES = 20
PART = re.compile(r"part-[0-9]+\.parquet")
"""The name of a part of the results."""
# Git and desktops put these files into folders that look empty to their user.
_OF_NOBODY = frozenset((".gitkeep", ".gitignore", ".keep", ".DS_Store"))


class Trace(NamedTuple):
    """A file that only a run can have created, and the id of the run if run.json names it."""

    file: str
    run_id: str | None


def find_trace(folder: Path) -> Trace | None:
    """Returns a trace of a run, with the id of the last run if it is known, or None."""
    file = next(_files_of_a_run(folder), None)
    noted = read_note(folder)
    return None if file is None else Trace(file, noted.run_id if noted else None)


def _files_of_a_run(folder: Path) -> Iterator[str]:
    yield from (name for name in _OF_A_RUN if (folder / name).is_file())
    yield from (f"results/{path.name}" for path in folder.glob(_PARTS))
    log = f"{LEDGER}-wal"
    # SQLite creates a log only after the ledger has its first page.
    if _size(folder / log) and not _size(folder / LEDGER):
        yield log
    if _logged_a_run(folder / _LOG):
        yield _LOG


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _logged_a_run(path: Path) -> bool:
    if _size(path) > _LOG_BYTES:
        return True
    return any(_RUN_IN_LOG in line for line in last_lines(path, _LOG_BYTES))


def foreign(folder: Path) -> list[str]:
    """Returns the names of files in `folder` that no run creates, or none if it is a run folder.

    Raises:
        OSError: if the folder cannot be read.
    """
    if _size(folder / LEDGER) or read_note(folder) is not None:
        return []  # in a run folder, the user may add files
    names = {path.name for path in folder.iterdir()} - _OF_NOBODY
    return sorted(name for name in names if not _is_ours(folder / name))


def _is_ours(path: Path) -> bool:
    """Whether a run creates such a file or folder, as far as the path and its first bytes show."""
    if path.name == "results":
        parts = path.iterdir() if path.is_dir() else [path]
        return all(PART.fullmatch(part.name.removeprefix(".")) for part in parts)
    if path.name == INDEX:
        return path.is_dir() and all(INDEX_FILE.fullmatch(one.name) for one in path.iterdir())
    beginning = _BEGINNINGS.get(path.name)
    if beginning is not None and path.is_file() and not path.is_symlink():
        # It may belong to another run, which has just removed it.
        with contextlib.suppress(FileNotFoundError), open_file(path) as file:
            return beginning.fullmatch(file.read(_BEGINNING_BYTES)) is not None
    return _OURS.fullmatch(path.name) is not None
