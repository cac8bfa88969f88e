"""Writes private files that are either complete or absent, and on the disk when the call returns.

A draft has a random name and is created only if no such name exists. With a predictable name,
somebody else could prepare a link to another file there, or a file that they own. All names are
resolved in the folder that was opened first, even if its path leads elsewhere later.
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

_SHOWN_CHARACTERS = 40  # in a draft's name, because a name has at most 255 bytes
_DRAFT = re.compile(r"\.(.*)\.[0-9a-f]{8}\.draft", re.DOTALL)


def write_durably(path: Path, content: bytes) -> None:
    """Writes a file (mode 0600) and returns when it is on the disk.

    `path` gets the whole content or stays unchanged, also in a crash.

    Raises:
        StorageFailed: when the disk refuses the write.
    """
    copy_durably(path, io.BytesIO(content))


def copy_durably(path: Path, source: IO[bytes]) -> None:
    """Writes the rest of `source` like `write_durably`. It may be larger than memory.

    Raises:
        StorageFailed: when the disk refuses the write.
    """
    with storing(path), replacing(path) as file:
        shutil.copyfileobj(source, file)


@contextlib.contextmanager
def replacing(path: Path, mode: int = 0o600) -> Iterator[BinaryIO]:
    """Opens a draft that replaces `path`, completely and durably, when the block ends.

    If the block raises, `path` is unchanged. A reader of `path` sees either the old file or the new
    one. The umask applies to `mode`. A link at `path` is replaced, not followed.

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
    """Opens a new folder for drafts of `name` in the folder `parent`. Removes it at the end."""
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
    """Opens a folder as a descriptor for calls with `dir_fd`. In `parent` it must not be a link.

    Raises:
        OSError: when `path` is not a folder or cannot be opened.
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
    """Locks a draft until this process closes it or ends, to show that it is in use."""
    with contextlib.suppress(
        OSError
    ):  # without locks on this file system, no process removes drafts
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _remove_abandoned(parent: int, name: str) -> None:
    """Removes this user's drafts for `name` that a killed process left in `parent`."""
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
    """Turns an OSError in the block into a StorageFailed that names `path`.

    Raises:
        StorageFailed: instead of OSError.
    """
    try:
        yield
    except OSError as error:
        raise DiskRefused(
            f"{path}: the disk refused this file ({error.strerror or error}). The runner has "
            "stopped sending, and all answers so far are safe in the ledger. Free some space on "
            "that disk, then run the command again."
        ) from error


def open_private(path: Path, mode: int = 0o600) -> BinaryIO:
    """Opens an empty file for writing, by default private to the user.

    Refuses a symbolic link of that name, and anything that would block the writer, such as a FIFO.
    """
    return os.fdopen(_made(path, os.O_TRUNC, mode), "wb")


def open_appending(path: Path) -> TextIO:
    """Opens a private text file for appending, with the checks of `open_private`."""
    return os.fdopen(_made(path, os.O_APPEND, 0o600), "w", encoding="utf-8")


def _made(path: Path, flag: int, mode: int) -> int:
    flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    with contextlib.suppress(FileNotFoundError):
        check_file(path)
    return os.open(path, flags | flag, mode)


def write_json(path: Path, value: Any) -> str:
    """Writes `value` durably as indented JSON. Returns the SHA-256 of the file."""
    content = (json.dumps(value, ensure_ascii=False, indent=2) + "\n").encode()
    write_durably(path, content)
    return hashlib.sha256(content).hexdigest()


def sha256_of(path: Path, *, follow: bool = False) -> str:
    """Returns the SHA-256 of a file of any size. `follow` allows a link, for files of the user."""
    with open_file(path, follow=follow) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync_file(path: Path) -> None:
    """Returns when everything written to `path` is on the disk."""
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
    """Makes all folder names in `path` durable, up to the root of its file system.

    This includes folders that existed before: a killed run may have created them without reaching
    its own sync. A power cut would then remove the folder with everything in it.
    """
    path = resolved(path)
    device = path.stat().st_dev
    for parent in path.parents:
        # A run of this user created no names in a folder that this user cannot write to.
        if parent.stat().st_dev != device:
            return
        if os.access(parent, os.W_OK):
            sync_folder(parent)


def sync(fd: int) -> None:
    """Returns when everything written to `fd` is on the disk itself, not only in its cache.

    On macOS, `fsync` only reaches the cache of the disk. SQLite's manual reports corrupted files.
    """
    full_sync = getattr(fcntl, "F_FULLFSYNC", None)  # only on macOS
    if full_sync is not None:
        try:
            fcntl.fcntl(fd, full_sync)
            return
        except OSError as error:
            # Some file systems of macOS do not support it. Any other error must not be retried.
            if error.errno not in (errno.ENOTSUP, errno.EINVAL, errno.ENOTTY):
                raise
    os.fsync(fd)
