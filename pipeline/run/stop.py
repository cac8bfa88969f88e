"""Stops a run of another process."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from pipeline.core.errors import Refused
from pipeline.job.job import Job
from pipeline.job.run_folder import RunFolder

STOP_GENTLY, STOP_NOW = signal.SIGUSR1, signal.SIGUSR2
"""The signals to a `pipeline run` that mean the same however often they come. A second Ctrl-C would
leave the answers in flight, so it is no signal for a button."""


def stop_job(job: Job, *, now: bool = False) -> int | None:
    """Stops the run that works in the folder of `job`. Returns the id of its process, None if no
    run is active. Does not wait for its end.

    The run sends no more rows, waits for the answers in flight and saves them, however often this
    function is called. With `now` it leaves at once, and each row in flight becomes ambiguous.

    Raises:
        Refused: if the run is not one of `pipeline run` or `resume` on this machine, because a
            Python program does not expect the signal and would end at once.
    """
    pid = job.folder.holder
    if pid is None:
        return None
    if not hasattr(os, "pidfd_open"):
        raise _refused(job, pid, "only Linux can stop it from another program")
    try:
        process = os.pidfd_open(pid)
    except OSError:
        return None  # it has ended since
    try:
        # From here on the number cannot mean another process.
        if job.folder.holder != pid or not _locked_by(job.folder, pid):
            return None
        number = STOP_NOW if now else STOP_GENTLY
        if not _catches(pid, number):
            raise _refused(job, pid, "the program that started it has to stop it")
        signal.pidfd_send_signal(process, number)
        return pid
    except ProcessLookupError:
        return None
    finally:
        os.close(process)


def _refused(job: Job, pid: int, why: str) -> Refused:
    return Refused(
        f"{job.folder.path}: process {pid} works in this folder, and {why}. To stop it and wait "
        f"for its answers: kill -INT {pid}",
        closing="It was not stopped.",
    )


def _locked_by(folder: RunFolder, pid: int) -> bool:
    """Whether the system's list of locks has this process as the one that locked the folder. A
    process that has just taken the lock may not have written its number yet."""
    lock = str(pid), str(folder.lock.stat().st_ino)
    for line in Path("/proc/locks").read_text(encoding="ascii").splitlines():
        words = line.split()
        if words[1:2] == ["FLOCK"] and (words[4], words[5].rpartition(":")[2]) == lock:
            return True
    return False


def _catches(pid: int, number: int) -> bool:
    """Whether a process has a handler for a signal. Without one, the signal would end it."""
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    except OSError:
        return False
    caught = next(line for line in status.splitlines() if line.startswith("SigCgt:"))
    return bool(int(caught.split()[1], 16) >> (number - 1) & 1)
