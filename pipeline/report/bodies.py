"""Responses that may have been paid but are not answers, as files to look at."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from pipeline.core.errors import Refused, StorageFailed
from pipeline.job.job import Job
from pipeline.ledger import queries, reader
from pipeline.system.files import open_private


def write_bodies(job: Job, target: Path) -> int:
    """Writes each kept response that is not an answer into the new folder `target`. Returns how
    many.

    A file is named after its row of the sheet, `row-7.txt`, and has the bytes as they came. The
    second such response of a row that was sent again is `row-7-2.txt`. Sends nothing.

    Raises:
        Refused: when `target` exists or cannot be created.
        StorageFailed: when the ledger cannot be read or a file cannot be written.
    """
    with reader.reading(job.folder.ledger) as read:
        try:
            target.mkdir(mode=0o700, parents=True)
        except OSError as error:
            reason = error.strerror or error
            raise Refused(
                f"{target}: {reason}. Name a new folder with --bodies.", closing=""
            ) from None
        try:
            return read(lambda db: _write(queries.bodies(db), target))
        except OSError as error:
            raise StorageFailed(
                f"{target}: the runner cannot write there ({error.strerror})."
            ) from error


def _write(bodies: Iterable[tuple[int, bytes]], target: Path) -> int:
    seen: Counter[int] = Counter()
    for row, body in bodies:
        seen[row] += 1
        again = f"-{seen[row]}" if seen[row] > 1 else ""
        with open_private(target / f"row-{row}{again}.txt") as file:
            file.write(body)
    return seen.total()
