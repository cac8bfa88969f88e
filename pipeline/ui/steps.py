"""What a button of the page can start: one command of the command line, with the plan that it
showed."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pipeline.core.errors import PipelineError, Refused
from pipeline.job.job import Job
from pipeline.job.run_note import Noted, read_note
from pipeline.planning.selection import Selection, parse_rows, select_again, select_resume
from pipeline.system.children import start_apart
from pipeline.system.files import open_appending, storing

RUN, RESUME = "run", "resume"
TRIED = 5
"""The rows of a first paid sample."""
_LOOK_EVERY_S = 0.05
_STARTS_WITHIN_S = 30.0
_OUTPUT_BYTES = 8000


@dataclass(frozen=True, slots=True)
class Step:
    """One `run` or `resume`, with the options that choose its rows. `rows` are row numbers, as a
    user types them. `again` is the name of an answer, or a flag."""

    verb: str = RUN
    limit: int | None = None
    rows: str | None = None
    only: str | None = None
    ambiguous: bool = False
    again: str | None = None

    @classmethod
    def of_words(cls, words: Sequence[str]) -> Step:
        """The step of a command that the runner proposes, such as ("resume", "--only", "gateway").

        Raises:
            Refused: for an option that no button has.
        """
        verb, *options = words
        found: dict[str, str] = {"do": verb}
        while options:
            name = options.pop(0).removeprefix("--")
            found[name] = "1" if name == "ambiguous" else options.pop(0)
        return cls.of_fields(found)

    @classmethod
    def of_fields(cls, fields: Mapping[str, str]) -> Step:
        """The step of a form or an address.

        Raises:
            Refused: if it is none.
        """
        verb, limit = fields.get("do", RUN), fields.get("limit")
        if verb not in (RUN, RESUME) or (limit is not None and not limit.isdecimal()):
            raise Refused("The page has no such button.")
        return cls(
            verb,
            None if limit is None else int(limit[:12]),
            fields.get("rows"),
            fields.get("only"),
            fields.get("ambiguous") == "1",
            fields.get("again"),
        )

    @property
    def fields(self) -> dict[str, str]:
        """The fields from which `of_fields` makes this step."""
        found = {"do": self.verb, "ambiguous": "1" if self.ambiguous else None}
        found |= {"limit": None if self.limit is None else str(self.limit)}
        found |= {"rows": self.rows, "only": self.only, "again": self.again}
        return {name: value for name, value in found.items() if value is not None}

    @property
    def options(self) -> tuple[str, ...]:
        """The options of the command, as a user types them."""
        given = {"limit": self.limit, "rows": self.rows, "only": self.only, "again": self.again}
        words = [f"--{name}={value}" for name, value in given.items() if value is not None]
        return (*words, "--ambiguous") if self.ambiguous else tuple(words)

    def selection(self) -> Selection:
        """The rows that the command chooses."""
        if self.verb == RESUME:
            codes = None if self.only is None else frozenset(self.only.split(","))
            rows = None if self.rows is None else parse_rows(self.rows)
            return select_resume(only=codes, rows=rows, ambiguous=self.ambiguous, limit=self.limit)
        if self.again is not None:
            return select_again(limit=self.limit, flags=[self.again])
        return Selection(limit=self.limit)


def start(job: Job, step: Step, token: str) -> None:
    """Starts the command that carries out the plan `token`, and returns once its run has begun or
    it has ended.

    The process is no part of this one: it continues when the page ends.

    Raises:
        Refused: if it ended without a run. The message is what it printed.
    """
    job.folder.create()
    before = read_note(job.folder.path)
    words = (step.verb, *job.words, *step.options, f"--plan={token}")
    with storing(job.folder.page_output), open_appending(job.folder.page_output) as output:
        begin = os.fstat(output.fileno()).st_size
        process = start_apart("pipeline", *words, output=output.buffer)
    threading.Thread(target=process.wait, daemon=True).start()  # else it stays as a zombie
    code = _begun(job, before, process)
    if code in (1, 2, 6, 75):
        raise _Ended(
            _printed(job, begin)
            or f"No run has begun, and {job.folder.page_output} does not say why (exit {code}). Is "
            "the disk full?",
            closing="",
        )


class _Ended(Refused):
    """What a command printed that did not run."""


def _begun(job: Job, before: Noted | None, process: subprocess.Popen[bytes]) -> int | None:
    """Waits until the process has begun its run, or has ended. Returns its exit code then.

    The lock does not show it: the command makes its plan under the lock, and may be refused.
    """
    until = time.monotonic() + _STARTS_WITHIN_S
    while process.poll() is None and time.monotonic() < until:
        if read_note(job.folder.path) != before:
            return None
        time.sleep(_LOOK_EVERY_S)
    return process.returncode


def printed(job: Job) -> str:
    """The end of what the runs printed that the page started."""
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
