"""Whether SQLite would pass over commits that are in the ledger's write-ahead log.

After `kill -9` the last commits are in `ledger.sqlite-wal` only. SQLite reads that file up to the
first frame whose checksum is wrong and takes the rest for the remains of a crash, silently: one
altered byte would undo every commit behind it, and rows that are paid would be sent again.

A crash can leave that behind the last commit only, as each is on the disk before the next begins.
So two or more commits behind a wrong checksum are no crash. The format is that of
https://www.sqlite.org/fileformat2.html#walformat
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import BinaryIO

from pipeline.system.opening import NotAFile, open_file

_HEADER, _FRAME_HEADER = 32, 24
_MAGIC = (0x377F0682, 0x377F0683)
_USUAL_PAGE = 4096
_PAGES = frozenset(1 << bits for bits in range(9, 17))
# SQLite starts the log again after 1,000 pages, its default, unless a reader keeps its view open
# for hours.
_MOST_BYTES = 16 << 30
_OF_A_CRASH = 1


def is_damaged(ledger: Path) -> bool:
    """Whether commits would be lost that no crash can have cut off."""
    log = ledger.with_name(f"{ledger.name}-wal")
    try:
        # Twice: a frame that a run is writing just now is whole a moment later.
        return all(lost_commits(log) > _OF_A_CRASH for _ in range(2))
    except NotAFile:
        return True


def lost_commits(wal: Path) -> int:
    """How many commits are behind the first frame that SQLite would not read.

    0 where there is no log, and where another process began it anew in the meantime.

    Raises:
        NotAFile: where something else has its place, or it is larger than any run makes it.
    """
    try:
        with open_file(wal, _MOST_BYTES) as file:
            header = file.read(_HEADER)
            lost = _lost(header, file) if len(header) == _HEADER else 0
            file.seek(0)
            return 0 if file.read(_HEADER) != header else lost
    except NotAFile:
        raise
    except OSError:
        return 0


def _lost(header: bytes, frames: BinaryIO) -> int:
    magic, _, page, _, *said = struct.unpack(">8I", header)
    order = "<" if magic == _MAGIC[0] else ">"
    salts: bytes | None = header[16:24]
    sums = _checksum(header[:24], order, (0, 0))
    whole = magic in _MAGIC and sums == tuple(said[2:]) and page in _PAGES
    if not whole:
        page, salts = _USUAL_PAGE, None
    lost = 0
    while len(frame := frames.read(_FRAME_HEADER + page)) == _FRAME_HEADER + page:
        _, commit, *_, sum_1, sum_2 = struct.unpack(">6I", frame[:_FRAME_HEADER])
        if salts is None:  # of a damaged header: those of the first frame
            salts = frame[8:16]
        same_salts = frame[8:16] == salts
        if whole:
            sums = _checksum(frame[:8] + frame[_FRAME_HEADER:], order, sums)
            whole = same_salts and sums == (sum_1, sum_2)
        if not whole and same_salts and commit:
            lost += 1
    return lost


def _checksum(content: bytes, order: str, sums: tuple[int, int]) -> tuple[int, int]:
    first, second = sums
    words = iter(struct.unpack(f"{order}{len(content) // 4}I", content))
    for one, other in zip(words, words, strict=True):
        first = (first + one + second) & 0xFFFFFFFF
        second = (second + other + first) & 0xFFFFFFFF
    return first, second
