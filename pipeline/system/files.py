"""Files that are whole or not there, private, and on the disk once a function returns.

A draft has a random name and is never opened where a name exists already: a name that somebody else
can predict would be theirs to prepare, as a link to another file or as a file that stays theirs.
All names are resolved in the folder that was opened first, wherever its path leads later.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import io
import json
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, BinaryIO, TextIO

from pipeline.core.errors import DiskRefused
from pipeline.system.opening import check_file, open_file
from pipeline.system.paths import resolved

_SHOWN_CHARACTERS = 40  # of a draft's name; a name has 255 bytes at most
_DRAFT = re.compile(r"\.(.*)\.[0-9a-f]{8}\.draft", re.DOTALL)


def write_durably(path: Path, content: bytes) -> None:
    """Writes a whole file (0600) and returns when the disk has it. `path` holds it whole or not.

    Raises:
        StorageFailed: when the disk refuses.
    """
    copy_durably(path, io.BytesIO(content))


def copy_durably(path: Path, source: IO[bytes]) -> None:
    """The same with what is left to read of `source`, which may be larger than memory.

    Raises:
        StorageFailed: when the disk refuses.
    """
    with storing(path), replacing(path) as file:
        shutil.copyfileobj(source, file)


@contextlib.contextmanager
def replacing(path: Path, mode: int = 0o600) -> Iterator[BinaryIO]:
    """A file that is at `path` whole and durably once the block was left; else `path` is as it was.

    Whoever reads `path` sees the old file or the new one. `mode` is subject to the umask. A link at
    `path` is replaced, not followed.

    Raises:
        OSError: when the folder or the file cannot be written.
    """
    with opened_folder(path.parent) as parent:
        _remove_abandoned(parent, path.name)
        draft = _name(path.name)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            with os.fdopen(os.open(draft, flags, mode, dir_fd=parent), "wb") as file:
                _hold(file.fileno())
                yield file
                file.flush()
                sync(file.fileno())
            os.replace(draft, path.name, src_dir_fd=parent, dst_dir_fd=parent)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(draft, dir_fd=parent)
            raise
        sync(parent)


@contextlib.contextmanager
def draft_folder(name: str, parent: int) -> Iterator[int]:
    """A folder for the files of `name`, open, in the open folder `parent`; removed in the end."""
    _remove_abandoned(parent, name)
    draft = _name(name)
    os.mkdir(draft, 0o700, dir_fd=parent)
    try:
        with opened_folder(draft, parent) as fd:
            _hold(fd)
            yield fd
    finally:
        shutil.rmtree(draft, ignore_errors=True, dir_fd=parent)


@contextlib.contextmanager
def opened_folder(path: str | Path, parent: int | None = None) -> Iterator[int]:
    """A folder, open for what is done in it. One in `parent` must not be a link.

    Raises:
        OSError: when it is not a folder, or cannot be opened.
    """
    follow = 0 if parent is None else os.O_NOFOLLOW
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | follow
    fd = os.open(path, flags, dir_fd=parent)
    try:
        yield fd
    finally:
        os.close(fd)


def _name(name: str) -> str:
    return f".{name[:_SHOWN_CHARACTERS]}.{secrets.token_hex(4)}.draft"


def _hold(fd: int) -> None:
    """Marks a draft as being written, until this process closes it or ends."""
    with contextlib.suppress(OSError):  # a file system without locks: nobody removes it then
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _remove_abandoned(parent: int, name: str) -> None:
    """Removes this user's drafts for `name` that a killed process has left in `parent`."""
    for draft in os.listdir(parent):
        found = _DRAFT.fullmatch(draft)
        if found is None or found[1] != name[:_SHOWN_CHARACTERS]:
            continue
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        with contextlib.suppress(OSError):
            fd = os.open(draft, flags, dir_fd=parent)
            try:
                if os.fstat(fd).st_uid == os.getuid():
                    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    _remove(draft, parent)
            finally:
                os.close(fd)


def _remove(name: str, parent: int) -> None:
    try:
        os.unlink(name, dir_fd=parent)
    except OSError as error:
        if error.errno not in (errno.EISDIR, errno.EPERM):  # EPERM: a folder, on macOS
            raise
        shutil.rmtree(name, dir_fd=parent)


@contextlib.contextmanager
def storing(path: Path) -> Iterator[None]:
    """Turns an error of the disk into StorageFailed, with the place.

    Raises:
        StorageFailed: instead of OSError.
    """
    try:
        yield
    except OSError as error:
        raise DiskRefused(
            f"{path}: the disk refused this file ({error.strerror or error}). The runner has "
            "stopped sending, and all answers so far are safe in the ledger. Free some space on "
            "that disk, then give the same command again."
        ) from error


def open_private(path: Path, mode: int = 0o600) -> BinaryIO:
    """A new file to write to, by default the user's alone. A symlink of that name is refused, not
    followed, and so is what blocks who writes to it, such as a FIFO."""
    return os.fdopen(_made(path, os.O_TRUNC, mode), "wb")


def open_appending(path: Path) -> TextIO:
    """The same for text that is added to a file."""
    return os.fdopen(_made(path, os.O_APPEND, 0o600), "w", encoding="utf-8")


def _made(path: Path, flag: int, mode: int) -> int:
    flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    with contextlib.suppress(FileNotFoundError):
        check_file(path)
    return os.open(path, flags | flag, mode)


def write_json(path: Path, value: Any) -> str:
    """Writes `value` as indented JSON, durably. The SHA-256 of the file."""
    content = (json.dumps(value, ensure_ascii=False, indent=2) + "\n").encode()
    write_durably(path, content)
    return hashlib.sha256(content).hexdigest()


def sha256_of(path: Path, *, follow: bool = False) -> str:
    """The SHA-256 of a file of any size. `follow`: it may be a link, as a file of the user's."""
    with open_file(path, follow=follow) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync_file(path: Path) -> None:
    """Returns when the disk has what was written to `path`."""
    with path.open("rb") as file:
        sync(file.fileno())


def sync_folder(path: Path) -> None:
    """Makes a rename or a removal in the folder durable."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        sync(fd)
    finally:
        os.close(fd)


def sync_chain(path: Path) -> None:
    """Makes the names durable that lead to `path`, up to the root of its file system.

    All of them, also those that were there before: a run that was killed may have made them and not
    have come to its own sync. A power cut would take the folder with everything in it.
    """
    path = resolved(path)
    device = path.stat().st_dev
    for parent in path.parents:
        # A folder that this user cannot write to holds no name that a run has made.
        if parent.stat().st_dev != device:
            return
        if os.access(parent, os.W_OK):
            sync_folder(parent)


def sync(fd: int) -> None:
    """Returns when the disk, not only its cache, has what was written to `fd`.

    On macOS `fsync` ends with the cache of the disk; SQLite's manual tells of corrupted files.
    """
    full_sync = getattr(fcntl, "F_FULLFSYNC", None)  # macOS alone has it
    if full_sync is not None:
        try:
            fcntl.fcntl(fd, full_sync)
            return
        except OSError as error:
            # Some of its file systems do not know it. Any other error must not be tried again.
            if error.errno not in (errno.ENOTSUP, errno.EINVAL, errno.ENOTTY):
                raise
    os.fsync(fd)
