"""Checks the ledger's records of rows, attempts and runs before a run sends requests.

An altered row could look new, and the runner would pay for it again. So every run checks every one
of these records, or knows that the file has the same bytes as at an earlier check. The check takes
5 microseconds for each row that was ever sent. A separate process checks a large ledger, while this
process reads the sheet. Stored requests and responses are checked by the operations that read them.
"""

from __future__ import annotations

import contextlib
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread

from pipeline.core.errors import StorageFailed
from pipeline.ledger.queries import check_structure
from pipeline.ledger.reader import reading
from pipeline.ledger.schema import altered, intact
from pipeline.ledger.sound import check_once
from pipeline.system.cache import cache_folder
from pipeline.system.children import start_python

# A ledger of about 100,000 rows. Checking a smaller one takes less time than starting a process.
_LARGE_BYTES = 16 * 1024 * 1024
_LOOK_EVERY_S = 0.05
# For each table: the words for a damaged entry, and the SQL for its row of the sheet.
_WHAT = {
    "rows": ("the record of a row", "sheet_row"),
    "attempts": ("the record of an attempt", "sheet_row"),
    "runs": ("the record of a run", "NULL"),
    "duplicates": ("the list of equal rows", "sheet_row"),
    "pins": ("the record of the pinned settings", "NULL"),
    "run_pins": ("the record of a run's settings", "NULL"),
    "accepted": ("the list of rows that may be paid for again", "NULL"),
    "skipped_answers": ("the record of a skipped row's answer", "sheet_row"),
    "lineage": ("the record of where a text comes from", "NULL"),
    "reviews_read": ("the record of the reviews that a run had read", "NULL"),
    "spent_tokens": ("the list of plans that were carried out", "NULL"),
}


def check_ledger(path: Path) -> None:
    """Checks the ledger at `path`. A ledger that does not exist yet is sound, and so is one with
    the same bytes as at an earlier check: see `sound`.

    Raises:
        StorageFailed: when a record was altered, or a table or index lost something.
    """
    if _is_large(path):
        with contextlib.suppress(OSError), _start_check(path) as child:
            output, _ = child.communicate()
            if child.returncode == StorageFailed.exit_code:
                raise StorageFailed(output.decode().strip())
            if child.returncode == 0:
                return
    with reading(path) as read:
        read(check)


def check_ahead(path: Path, wanted: Callable[[], bool]) -> None:
    """Checks a large ledger that no process writes to, so that the next command does not have to.
    Ends early once it is no longer `wanted`. Leaves it to the next command to report damage."""
    if _is_large(path):
        with contextlib.suppress(OSError), _start_check(path) as child:
            while child.poll() is None and wanted():
                time.sleep(_LOOK_EVERY_S)
            child.kill()


def _start_check(path: Path) -> subprocess.Popen[bytes]:
    names = [path.absolute(), *filter(None, [cache_folder()])]
    return start_python(__name__, *map(str, names))


def _is_large(path: Path) -> bool:
    # A Python that is embedded in another program may have no executable.
    return bool(sys.executable) and path.exists() and path.stat().st_size >= _LARGE_BYTES


@contextmanager
def checked_beside(path: Path) -> Iterator[None]:
    """Checks the ledger while the block reads it. Do not use the values before the block is over.

    Raises:
        StorageFailed: as `check_ledger`, at the end of the block. It replaces an exception of the
            block, because altered values may raise anything.
    """
    failed: list[BaseException] = []

    def work() -> None:
        try:
            check_ledger(path)
        except BaseException as error:  # of any kind: the block's values cannot be trusted
            failed.append(error)

    thread = Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        thread.join()
        if failed:
            raise failed[0]


def check(db: sqlite3.Connection) -> None:
    """Checks an open ledger.

    Raises:
        StorageFailed: as `check_ledger`.
    """
    check_structure(db)
    for table, (what, row) in _WHAT.items():
        found = db.execute(
            f"SELECT {row} FROM {table} t WHERE NOT ({intact(table, 't')}) LIMIT 1"
        ).fetchone()
        if found:
            raise altered(what, found[0])


def _main(path: Path, cache: Path | None = None) -> int:
    def check_all() -> None:
        with reading(path) as read:
            read(check)

    try:
        if cache is None:
            check_all()
        else:
            check_once(path, cache / "sound", check_all)
    except StorageFailed as error:
        print(error)
        return StorageFailed.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(_main(*map(Path, sys.argv[1:])))
