"""Whether what a ledger knows of rows and attempts is what was written, before more is paid.

Every row of it is checked at each run: an altered one may look as if it were new, and would be paid
again. That takes 5 microseconds for each row that was ever sent, so a large ledger is looked
through by a process of its own, while this one reads the sheet.
"""

from __future__ import annotations

import contextlib
import sqlite3
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from pipeline.core.errors import StorageFailed
from pipeline.ledger.queries import check_structure
from pipeline.ledger.reader import reading
from pipeline.ledger.schema import altered, intact
from pipeline.system.children import start_python

# A ledger of some 100,000 rows; a smaller one is checked before a process would have begun.
_LARGE_BYTES = 16 * 1024 * 1024
# For each table, what is said when it is damaged, and where it says which row of the sheet it is.
_WHAT = {
    "rows": ("the record of a row", "sheet_row"),
    "attempts": ("the record of an attempt", "sheet_row"),
    "runs": ("the record of a run", "NULL"),
    "duplicates": ("the list of equal rows", "sheet_row"),
    "pins": ("the record of the pinned settings", "NULL"),
    "run_pins": ("the record of a run's settings", "NULL"),
    "accepted": ("the list of rows that may be paid for again", "NULL"),
    "skipped_answers": ("the record of a skipped row's answer", "sheet_row"),
    "spent_tokens": ("the list of plans that were carried out", "NULL"),
}


def check_ledger(path: Path) -> None:
    """Looks through the ledger at `path`; one that is not there yet is sound.

    Raises:
        StorageFailed: when a row or an attempt is not what was written, or the tables lost
            something.
    """
    # An interpreter within another program may have no executable of its own.
    if sys.executable and path.exists() and path.stat().st_size >= _LARGE_BYTES:
        with contextlib.suppress(OSError), start_python(__name__, str(path.absolute())) as child:
            said, _ = child.communicate()
            if child.returncode == StorageFailed.exit_code:
                raise StorageFailed(said.decode().strip())
            if child.returncode == 0:
                return
    with reading(path) as read:
        read(check)


@contextmanager
def checked_beside(path: Path) -> Iterator[None]:
    """Looks through the ledger while the block reads it. What it read counts once it was left.

    Raises:
        StorageFailed: as `check_ledger`, at the end of the block; also instead of what the block
            raised, as altered values may raise anything.
    """
    with ThreadPoolExecutor(1) as pool:
        checking = pool.submit(check_ledger, path)
        try:
            yield
        finally:
            checking.result()


def check(db: sqlite3.Connection) -> None:
    """Looks through an open ledger.

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


def _main(path: Path) -> int:
    try:
        with reading(path) as read:
            read(check)
    except StorageFailed as error:
        print(error)
        return StorageFailed.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(_main(Path(sys.argv[1])))
