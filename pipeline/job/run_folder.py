"""The run folder: its paths, its permissions, and the lock that lets only one process use it.

The lock is a separate file under flock. It ends with its process, even after `kill -9`, and child
processes do not inherit it. The file itself stays: if it were removed, two processes could each
lock a file of that name.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from pipeline.core.errors import DiskRefused, Locked, Refused, StorageFailed
from pipeline.job.traces import (
    EXPORTS,
    INDEX,
    LEDGER,
    PAGE_OUTPUT,
    REVIEW_LOCK,
    REVIEWS,
    Trace,
    find_trace,
    foreign,
)
from pipeline.system.files import open_private, storing, sync, sync_chain, sync_folder
from pipeline.system.mounts import lost_with_container, network_file_system
from pipeline.system.opening import NotAFile, check_file, open_file
from pipeline.system.paths import leads_to_itself

_BLOCK = 64 * 1024
VOLUMES_ONLY = "PIPELINE_VOLUMES_ONLY"
"""With this variable of an image, a run that pays refuses a folder in the container's own layer."""


@dataclass(frozen=True, slots=True)
class RunFolder:
    """The folder with all files of one job."""

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
    def exports(self) -> Path:
        return self.path / EXPORTS

    @property
    def reviews(self) -> Path:
        return self.path / REVIEWS

    @property
    def review_lock(self) -> Path:
        return self.path / REVIEW_LOCK

    @property
    def index(self) -> Path:
        """A folder with the index of the answers, which may be deleted at any time."""
        return self.path / INDEX

    @property
    def log(self) -> Path:
        return self.path / "log.jsonl"

    @property
    def page_output(self) -> Path:
        """What the runs print that the page started."""
        return self.path / PAGE_OUTPUT

    @property
    def lock(self) -> Path:
        return self.path / "lock"

    @property
    def reserve(self) -> Path:
        return self.path / ".reserve"

    def refuse_unusable(self) -> None:
        """Refuses a path that cannot be a run folder. Changes nothing.

        Raises:
            Refused: for a file, a folder with other files in it, a network file system, a link
                that leads to itself, and a link in the folder, through which the runner would
                write elsewhere.
            StorageFailed: if the folder cannot be read.
        """
        with self._writing():
            # In this order, because another run may create the folder in between.
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

    def refuse_lost_layer(self, environment: Mapping[str, str] = os.environ) -> None:
        """Refuses a folder that a container would lose, if the environment has VOLUMES_ONLY.

        Only an image sets that variable. Inside a container, its root looks like that of a machine
        with an overlay, so the runner does not guess.

        Raises:
            Refused: if the folder is in the container's own layer, or in memory.
        """
        if environment.get(VOLUMES_ONLY) and lost_with_container(self.path):
            raise Refused(
                f"{self.path}: this folder would be lost with the container, and the next run "
                "would pay for all rows again. Mount a volume there (`--volume jobs:/data`). Only "
                "rehearsals (--sandbox) work without one."
            )

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
        """Refuses entries of the folder that are neither files nor folders. Changes nothing.

        The runner would write elsewhere through a link, and a FIFO blocks a process that opens it.

        Raises:
            Refused: with the name of the entry.
            OSError: if the folder cannot be read.
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
            except FileNotFoundError:  # another run has finished with its draft or journal
                continue
            except NotAFile:
                raise Refused(
                    f"{self.path}: {path.name} is not a regular file, and no run created it. "
                    "Remove it."
                ) from None

    def create(self) -> None:
        """Creates the folder durably (mode 0700) and checks that the runner can write to it.

        Raises:
            Refused: see `refuse_unusable`.
            StorageFailed: if the runner cannot write to it.
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
        """The possible paths of the ledger's snapshot: a crash may have prevented its move. A run
        may move it after a reader has looked at the first one."""
        return self.snapshot, self.new_snapshot, self.snapshot

    @property
    def in_use(self) -> bool:
        """Whether a process has locked the folder now."""
        try:
            with open_file(self.lock) as file:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:
            return False
        return False

    @property
    def holder(self) -> int | None:
        """The process that has locked the folder, None if there is none or it wrote no number."""
        if not self.in_use:
            return None
        with contextlib.suppress(OSError, ValueError), open_file(self.lock) as file:
            return int(file.read(20))
        return None

    @contextlib.contextmanager
    def resting(self) -> Iterator[bool]:
        """Keeps runs out of the folder while the block reads.

        Yields False if a run is active, if there is no lock file to keep it out, and if some
        commits are only in the ledger's log.
        """
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
        """A file that proves that a run used this folder, even if the ledger is gone. None before
        the first run."""
        return find_trace(self.path)

    def adopt_snapshot(self) -> None:
        """Replaces the last snapshot by the new one, durably."""
        with storing(self.snapshot):
            self.new_snapshot.rename(self.snapshot)
            sync_folder(self.path)

    @contextlib.contextmanager
    def reserving(self, size: int) -> Iterator[None]:
        """Reserves `size` bytes for the responses that still arrive when the disk is full.

        This also tests the disk before the first paid request: one without this room cannot store
        the answers.

        Raises:
            StorageFailed: if the disk does not have this room. Nothing was sent.
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
        """Gives the reserve back to the disk. Returns False if there is none left."""
        try:
            self.reserve.unlink()
        except OSError:
            return False
        return True

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Locks the folder for this process during the block.

        Raises:
            Locked: if another process has locked it.
            StorageFailed: if the lock file cannot be opened.
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
            if not _try_lock(fd):
                holder = os.pread(fd, 20, 0).decode(errors="replace").strip() or "unknown"
                raise Locked(
                    f"{self.path}: another run (process {holder}) is using this folder. Wait until "
                    "it ends, or stop it. Nothing was sent by this one."
                )
            with contextlib.suppress(OSError):  # on a full disk: the number only serves a message
                os.ftruncate(fd, 0)
                os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
            yield
        finally:
            os.close(fd)


def _allocate(file: BinaryIO, size: int) -> None:
    """Allocates real blocks. A hole would reserve no room."""
    try:
        os.posix_fallocate(file.fileno(), 0, size)
    except (AttributeError, OSError) as error:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
        for _ in range(0, size, _BLOCK):  # macOS and some file systems cannot allocate
            file.write(os.urandom(_BLOCK))
        file.flush()


def _try_lock(fd: int) -> bool:
    """Whether this process got the lock. A `status` command may have it for some microseconds."""
    for _ in range(4):
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            time.sleep(0.05)
    return False
