"""Opens files that somebody else may have put there, and accepts only regular files of normal size.

A run folder can come from a colleague, or be writable for another user. In the place of a file
there may be a FIFO, which blocks the reader. It may be a link to a device, which never ends. Or it
may be a file of a terabyte that needs no room on the disk. Here, each of them raises an OSError
with a readable reason.
"""

from __future__ import annotations

import errno
import io
import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

NOTE_BYTES = 1 << 20
"""The largest JSON file of the runner's own, in bytes. run.json contains the spec's variables."""
_LINE_BYTES = 1 << 16
# A file of this size has blocks on the disk. One with hardly any is a hole, which needs no room but
# takes hours to read. Compression saves less than that. Some file systems do not count blocks, and
# there the size proves nothing.
_HOLED_BYTES, _HOLED_TIMES, _BLOCK_BYTES = 1 << 30, 256, 512

_KINDS = {
    stat.S_IFLNK: "a link, and links are not followed here",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFDIR: "a folder",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


class NotAFile(OSError):
    """The path is not a regular file, or the file is larger than such a file can be."""

    def __init__(self, path: Path, what: str) -> None:
        super().__init__(errno.EINVAL, what, str(path))


def open_file(
    path: Path, most_bytes: int | None = None, *, follow: bool = False
) -> io.BufferedReader:
    """Opens the regular file at `path` for reading. Never blocks, and opens nothing else.

    `follow` allows a link to a regular file, for files that the user names.

    Raises:
        NotAFile: if it is anything else, or larger than `most_bytes`.
        OSError: if it does not exist or cannot be opened.
    """
    check_file(path, most_bytes, follow=follow)
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | (0 if follow else os.O_NOFOLLOW)
    fd = os.open(path, flags)
    try:
        _check(path, os.fstat(fd), most_bytes)  # another file may have replaced it
        return os.fdopen(fd, "rb")
    except BaseException:
        os.close(fd)
        raise


class HeldFile:
    """A regular file that stays open, so that all its readers see the same file even if another
    one takes its name. It is closed when nothing refers to it anymore.

    Raises:
        OSError: as `open_file`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fd = -1
        with open_file(path) as file:
            self._fd = os.dup(file.fileno())

    def __del__(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)

    def __str__(self) -> str:
        return str(self.path)

    def facts(self) -> tuple[int, ...]:
        """Returns numbers that change when the content does."""
        facts = os.fstat(self._fd)
        return facts.st_dev, facts.st_ino, facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns

    def open(self) -> io.BufferedReader:
        """Returns a reader with its own position. Its end does not close the file."""
        return io.BufferedReader(_Reader(self))


class _Reader(io.RawIOBase):
    """Reads a held file, and keeps it open for as long."""

    def __init__(self, file: HeldFile) -> None:
        self._file, self._at = file, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        size = os.fstat(self._file._fd).st_size if whence == os.SEEK_END else 0
        self._at = offset + (self._at if whence == os.SEEK_CUR else size)
        return self._at

    def readinto(self, into: Any) -> int:
        size = os.preadv(self._file._fd, [into], self._at)
        self._at += size
        return size


def check_file(path: Path, most_bytes: int | None = None, *, follow: bool = False) -> None:
    """Makes the checks of `open_file`, for a library that opens files by their name.

    Raises:
        NotAFile: as `open_file`.
        OSError: if the file does not exist.
    """
    _check(path, path.stat() if follow else path.lstat(), most_bytes)


def is_file(path: Path, *, follow: bool = False) -> bool:
    """Whether `path` is a regular file, or with `follow` a link to one."""
    try:
        check_file(path, follow=follow)
    except OSError:
        return False
    return True


def read_file(path: Path, most_bytes: int, *, follow: bool = False) -> bytes:
    """Returns the content of the regular file at `path`.

    Raises:
        OSError: as `open_file`, and if the file grows beyond `most_bytes` in the meantime.
    """
    with open_file(path, most_bytes, follow=follow) as file:
        size = os.fstat(file.fileno()).st_size
        content = file.read(min(most_bytes, size) + 1)
    if len(content) > most_bytes:
        raise _too_large(path, most_bytes)
    return content


def read_object(path: Path, most_bytes: int = NOTE_BYTES) -> dict[str, Any]:
    """Returns the JSON object in a file.

    Raises:
        OSError: as `read_file`.
        ValueError: if the file contains anything else.
    """
    return as_object(read_file(path, most_bytes))


def as_object(text: str | bytes) -> dict[str, Any]:
    """Returns the JSON object in `text`.

    Raises:
        ValueError: if it is anything else, or nested too deeply.
    """
    try:
        found = json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if not isinstance(found, dict):
        raise ValueError("not an object")
    return found


def last_lines(path: Path, most_bytes: int) -> Iterator[bytes]:
    """Yields the lines in the last `most_bytes` of a file, or nothing if it cannot be read.

    A line that is longer than any line of the runner comes in pieces.
    """
    try:
        with open_file(path) as file:
            left = min(file.seek(0, os.SEEK_END), most_bytes)
            file.seek(-left, os.SEEK_END)
            while left > 0 and (line := file.readline(min(left, _LINE_BYTES))):
                left -= len(line)
                yield line
    except OSError:
        return


def _check(path: Path, facts: os.stat_result, most_bytes: int | None) -> None:
    kind = stat.S_IFMT(facts.st_mode)
    if kind != stat.S_IFREG:
        raise NotAFile(path, f"not a file but {_KINDS.get(kind, 'something else')}")
    if most_bytes is not None and facts.st_size > most_bytes:
        raise _too_large(path, most_bytes)
    on_disk = facts.st_blocks * _BLOCK_BYTES
    if facts.st_size > _HOLED_BYTES and 0 < on_disk * _HOLED_TIMES < facts.st_size:
        raise NotAFile(path, "a sparse file with almost nothing on the disk")


def _too_large(path: Path, most_bytes: int) -> NotAFile:
    return NotAFile(path, f"larger than the {most_bytes} bytes that such a file can have")
