"""The run folder: its paths, its permissions, and the lock that keeps it to one process.

The lock is a file of its own under flock: it dies with its process, also by `kill -9`, and
children do not inherit it. The file itself stays; removing it would let two processes each lock
a file of that name.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from pipeline.core.errors import DiskRefused, Locked, Refused, StorageFailed
from pipeline.job.traces import LEDGER, Trace, find_trace, foreign
from pipeline.system.files import open_private, storing, sync, sync_chain, sync_folder
from pipeline.system.mounts import network_file_system
from pipeline.system.opening import NotAFile, check_file, open_file
from pipeline.system.paths import leads_to_itself

_BLOCK = 64 * 1024


@dataclass(frozen=True, slots=True)
class RunFolder:
    """Where everything of one job is kept."""

    path: Path

    @property
    def ledger(self) -> Path:
        return self.path / LEDGER

    @property
    def snapshot(self) -> Path:
        return self.path / "input.parquet"

    @property
    def new_snapshot(self) -> Path:
        return self.path / ".input.parquet.new"

    @property
    def results(self) -> Path:
        return self.path / "results"

    @property
    def failures(self) -> Path:
        return self.path / "failures.csv"

    @property
    def report(self) -> Path:
        return self.path / "report.html"

    @property
    def summary(self) -> Path:
        return self.path / "summary.json"

    @property
    def run(self) -> Path:
        return self.path / "run.json"

    @property
    def log(self) -> Path:
        return self.path / "log.jsonl"

    @property
    def lock(self) -> Path:
        return self.path / "lock"

    @property
    def reserve(self) -> Path:
        return self.path / ".reserve"

    def refuse_unusable(self) -> None:
        """Refuses a place that cannot be a run folder. Changes nothing.

        Raises:
            Refused: for a file, a folder with other files in it, a network file system, a link
                that leads to itself, and a link in the folder: what is written through it would
                land elsewhere.
            StorageFailed: when the folder cannot be read.
        """
        with self._writing():
            # In this order: another run may make the folder in between.
            there = self.path.exists()
            if leads_to_itself(self.path):
                raise Refused(
                    f"{self.path}: a link in the path of the run folder leads to itself. Choose "
                    "another `output:`."
                )
            if there and not self.path.is_dir():
                raise Refused(
                    f"{self.path}: this is a file, and the run folder would have its name. Choose "
                    "another `output:`."
                )
        kind = network_file_system(self.path)
        if kind is not None:
            raise Refused(
                f"{self.path}: this folder is on a shared or network file system ({kind}). Locks "
                "and saved answers are not reliable there. Set `output:` or --output to a folder "
                "on a local disk (in a container: on a volume), and copy the results when the run "
                "is finished."
            )
        if there:
            with self._writing():
                self._refuse_content()

    def _refuse_content(self) -> None:
        names = foreign(self.path)
        if names:
            raise Refused(
                f"{self.path}: this folder contains other files ({names[0]}) and no run. A run "
                "folder belongs to the runner alone, which makes it private to your user. Set "
                "`output:` or --output to a new folder, for example "
                f"{self.path / 'run'}."
            )
        self.refuse_odd()

    def refuse_odd(self) -> None:
        """Refuses what is neither a file nor a folder in the folder: what is written through a link
        lands elsewhere, and a FIFO blocks who opens it. Changes nothing.

        Raises:
            Refused: with its name.
            OSError: when the folder cannot be read.
        """
        for path in sorted(self.path.iterdir()):
            if path.is_symlink():
                raise Refused(
                    f"{self.path}: {path.name} is a link, and the runner follows no links in a run "
                    "folder. Put the file itself there, or remove the link."
                )
            try:
                if not path.is_dir():
                    check_file(path)
            except FileNotFoundError:  # a draft or a journal of another run, which is done
                continue
            except NotAFile:
                raise Refused(
                    f"{self.path}: {path.name} is not a regular file, and no run created it. "
                    "Remove it."
                ) from None

    def create(self) -> None:
        """Makes the folder (0700), durably, and sees that it can be written to.

        Raises:
            Refused: see `refuse_unusable`.
            StorageFailed: when it cannot.
        """
        self.refuse_unusable()
        with self._writing():
            self.path.mkdir(parents=True, exist_ok=True)
            self.path.chmod(0o700)
            self.results.mkdir(mode=0o700, exist_ok=True)
            sync_chain(self.results)

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise DiskRefused(
                f"{self.path}: the runner cannot use this run folder ({error.strerror or error}). "
                "Nothing was sent."
            ) from None

    @property
    def snapshots(self) -> tuple[Path, ...]:
        """Where the snapshot that the ledger speaks of may be: a crash can come before its move."""
        return self.snapshot, self.new_snapshot

    @property
    def in_use(self) -> bool:
        """Whether a process holds the folder now."""
        try:
            with open_file(self.lock) as file:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:
            return False
        return False

    @contextlib.contextmanager
    def resting(self) -> Iterator[bool]:
        """Keeps runs out while the block reads. False where one is at work, where there is no lock
        to keep it out by, and where commits are in the ledger's log only."""
        with contextlib.ExitStack() as stack:
            try:
                file = stack.enter_context(open_file(self.lock))
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
                log = self.ledger.with_name(f"{LEDGER}-wal")
                resting = not (log.exists() and log.stat().st_size)
            except OSError:
                resting = False
            yield resting

    @property
    def trace(self) -> Trace | None:
        """What shows that a run was here, whatever became of the ledger. Nothing before the first
        run."""
        return find_trace(self.path)

    def adopt_snapshot(self) -> None:
        """The new snapshot takes the place of the last one, durably."""
        with storing(self.snapshot):
            self.new_snapshot.rename(self.snapshot)
            sync_folder(self.path)

    @contextlib.contextmanager
    def reserving(self, size: int) -> Iterator[None]:
        """Keeps `size` bytes of the disk free for what comes back once it is full.

        Also the probe before the first paid request: what cannot hold this holds no answers.

        Raises:
            StorageFailed: when there is no such room. Nothing was sent.
        """
        try:
            with open_private(self.reserve) as file:
                _allocate(file, size)
                sync(file.fileno())
        except OSError as error:
            self.make_room()
            raise DiskRefused(
                f"{self.path}: the disk has no room for answers ({error.strerror or error}). The "
                f"runner reserves {size / 1e6:.0f} MB before it sends. Free some space, or set "
                "`output:` to a folder on another disk. Nothing was sent."
            ) from None
        try:
            yield
        finally:
            self.make_room()

    def make_room(self) -> bool:
        """Gives the reserve back to the disk. False where there is none any more."""
        try:
            self.reserve.unlink()
        except OSError:
            return False
        return True

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Holds the folder for this process.

        Raises:
            Locked: when another process holds it.
            StorageFailed: when there can be no lock.
        """
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        try:
            fd = os.open(self.lock, flags, 0o600)
        except OSError as error:
            raise StorageFailed(
                f"{self.lock}: the runner cannot open its lock ({error.strerror or error}). "
                "Nothing was sent."
            ) from None
        try:
            if not _take(fd):
                holder = os.pread(fd, 20, 0).decode(errors="replace").strip() or "unknown"
                raise Locked(
                    f"{self.path}: another run (process {holder}) is using this folder. Wait until "
                    "it ends, or stop it. Nothing was sent by this one."
                )
            with contextlib.suppress(OSError):  # a full disk: the number is for a message only
                os.ftruncate(fd, 0)
                os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
            yield
        finally:
            os.close(fd)


def _allocate(file: BinaryIO, size: int) -> None:
    """Real blocks, not a hole: a hole would take no room."""
    try:
        os.posix_fallocate(file.fileno(), 0, size)
    except (AttributeError, OSError) as error:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
        for _ in range(0, size, _BLOCK):  # not on macOS, nor on every file system
            file.write(os.urandom(_BLOCK))
        file.flush()


def _take(fd: int) -> bool:
    """Whether the lock could be taken. A `status` that looks holds it for a few microseconds."""
    for _ in range(4):
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            time.sleep(0.05)
    return False
