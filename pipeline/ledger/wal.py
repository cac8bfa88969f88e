"""Finds commits in the ledger's write-ahead log that SQLite would ignore.

After `kill -9` the last commits are only in `ledger.sqlite-wal`. SQLite reads that file up to the
first frame with a wrong checksum, and silently takes the rest for the remains of a crash. So one
altered byte would undo every commit after it, and the runner would send paid rows again.

A crash can leave a wrong checksum only in the last commit, because each commit is on disk before
the next begins. So two or more commits after a wrong checksum are damage. The file format is
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
# By default SQLite restarts the log after 1,000 pages. A reader that keeps its view open for hours
# prevents that.
_MOST_BYTES = 16 << 30
_OF_A_CRASH = 1


def is_damaged(ledger: Path) -> bool:
    """Tells whether SQLite would ignore commits of the log that a crash cannot have damaged."""
    log = ledger.with_name(f"{ledger.name}-wal")
    try:
        # Twice: a frame that a run is writing right now is complete a moment later.
        return all(lost_commits(log) > _OF_A_CRASH for _ in range(2))
    except NotAFile:
        return True


def lost_commits(wal: Path) -> int:
    """Counts the commits from the first frame on that SQLite would not read.

    Returns 0 if there is no log, and if another process restarted it meanwhile.

    Raises:
        NotAFile: when something else is in its place, or it is larger than any run makes it.
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
    magic, _, page, _, *stored = struct.unpack(">8I", header)
    order = "<" if magic == _MAGIC[0] else ">"
    salts: bytes | None = header[16:24]
    sums = _checksum(header[:24], order, (0, 0))
    whole = magic in _MAGIC and sums == tuple(stored[2:]) and page in _PAGES
    if not whole:
        page, salts = _USUAL_PAGE, None
    lost = 0
    while len(frame := frames.read(_FRAME_HEADER + page)) == _FRAME_HEADER + page:
        _, commit, *_, sum_1, sum_2 = struct.unpack(">6I", frame[:_FRAME_HEADER])
        if salts is None:  # the header is damaged, so use the salts of the first frame
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
