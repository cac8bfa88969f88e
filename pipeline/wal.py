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

_HEADER, _FRAME_HEADER = 32, 24
_MAGIC = (0x377F0682, 0x377F0683)
_USUAL_PAGE = 4096
_OF_A_CRASH = 1


def is_damaged(ledger: Path) -> bool:
    """Whether commits would be lost that no crash can have cut off."""
    log = ledger.with_name(f"{ledger.name}-wal")
    # Twice: a frame that a run is writing just now is whole a moment later.
    return all(lost_commits(log) > _OF_A_CRASH for _ in range(2))


def lost_commits(wal: Path) -> int:
    """How many commits are behind the first frame that SQLite would not read.

    0 where there is no log, and where another process began it anew in the meantime.
    """
    try:
        with wal.open("rb") as file:
            content = file.read()
            file.seek(0)
            renewed = file.read(_HEADER) != content[:_HEADER]
    except OSError:
        return 0
    return 0 if renewed or len(content) <= _HEADER + _FRAME_HEADER else _lost(content)


def _lost(content: bytes) -> int:
    magic, _, page, _, *said = struct.unpack(">8I", content[:_HEADER])
    order = "<" if magic == _MAGIC[0] else ">"
    salts = content[16:24]
    sums = _checksum(content[:24], order, (0, 0))
    whole = magic in _MAGIC and sums == tuple(said[2:])
    if not whole:
        page, salts = _USUAL_PAGE, content[_HEADER + 8 : _HEADER + 16]
    lost = 0
    for start in range(_HEADER, len(content) - _FRAME_HEADER - page + 1, _FRAME_HEADER + page):
        _, commit, *_, sum_1, sum_2 = struct.unpack(">6I", content[start : start + _FRAME_HEADER])
        same_salts = content[start + 8 : start + 16] == salts
        if whole:
            data = content[start + _FRAME_HEADER : start + _FRAME_HEADER + page]
            sums = _checksum(content[start : start + 8] + data, order, sums)
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
