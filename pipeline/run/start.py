"""Starts a run as a process that does not end with this one."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from collections.abc import Sequence

from pipeline.core.errors import PipelineError, Refused
from pipeline.job.job import Job
from pipeline.job.run_note import Noted, read_note
from pipeline.system.children import start_apart
from pipeline.system.files import open_appending, storing

_LOOK_EVERY_S = 0.05
_STARTS_WITHIN_S = 30.0
_OUTPUT_BYTES = 8000


def start_run(job: Job, words: Sequence[str], token: str) -> int:
    """Starts `pipeline` with the command `words` ("run" or "resume", and its options), which
    carries out the plan `token` of `check_job`. Returns the id of its process once its run has
    begun or it has ended.

    The process is no part of this one: it continues when this one ends. What it prints is in
    page.log of the run folder.

    Raises:
        Refused: if it ended without a run. The message is what it printed.
    """
    job.folder.create()
    before = read_note(job.folder.path)
    verb, *options = words
    command = (verb, *job.words, *options, f"--plan={token}")
    with storing(job.folder.page_output), open_appending(job.folder.page_output) as output:
        begin = os.fstat(output.fileno()).st_size
        process = start_apart("pipeline", *command, output=output.buffer)
    threading.Thread(target=process.wait, daemon=True).start()  # else it stays as a zombie
    code = _begun(job, before, process)
    if code in (1, 2, 6, 75):
        raise _Ended(
            _printed(job, begin)
            or f"No run has begun, and {job.folder.page_output} does not say why (exit {code}). Is "
            "the disk full?",
            closing="",
        )
    return process.pid


class _Ended(Refused):
    """What a command printed that did not run."""


def _begun(job: Job, before: Noted | None, process: subprocess.Popen[bytes]) -> int | None:
    """Waits until the process has begun its run, or has ended. Returns its exit code then.

    The lock does not show it: the command makes its plan under the lock, and may be refused. Nor
    does any new note: another process may have begun a run meanwhile.
    """
    until = time.monotonic() + _STARTS_WITHIN_S
    while process.poll() is None and time.monotonic() < until:
        note = read_note(job.folder.path)
        if note is not None and note != before and note.process == process.pid:
            return None
        time.sleep(_LOOK_EVERY_S)
    return process.returncode


def printed(job: Job) -> str:
    """The end of what the runs printed that `start_run` started."""
    try:
        size = job.folder.page_output.stat().st_size
    except OSError:
        return ""
    return _printed(job, max(0, size - _OUTPUT_BYTES))


def _printed(job: Job, begin: int) -> str:
    try:
        with job.folder.page_output.open("rb") as file:
            file.seek(begin)
            return file.read(_OUTPUT_BYTES).decode("utf-8", "replace").strip()
    except OSError as error:
        raise PipelineError(f"{job.folder.page_output}: {error.strerror}") from None
