"""What starts a job every night, printed ready to be used: systemd units, a cron line, a workflow.

Whatever starts a run, and however often, the ledger alone decides what is sent. So the printed
files see to three things: that the ledger is the same one each night, that a run which is to end is
given the time to take in the answers that are paid for, and that nothing repeats by itself.
"""

from __future__ import annotations

import stat
import sys
from dataclasses import dataclass
from datetime import time
from pathlib import Path

from pipeline.core.errors import NothingWritten
from pipeline.core.time_of_day import parse_time
from pipeline.job.job import Job

SAVING_S = 60
"""What a run needs beyond its drain to save, to seal and to tell: seconds on a slow disk."""


@dataclass(frozen=True, slots=True)
class Night:
    """One job, every night. Paths are absolute; `words` are the options that make it this job.

    `drain_s` is how long a run that is told to end waits for answers, at most.
    """

    name: str
    spec: Path
    sheet: Path
    folder: Path
    at: time
    until: time | None
    words: tuple[str, ...]
    key_file: Path | None
    drain_s: float
    sandbox: bool
    python: Path = Path(sys.executable)

    def command(self, *more: str) -> tuple[str, ...]:
        """The command of each night.

        -P: a module that lies in the working directory must not take the place of a real one.
        """
        until = () if self.until is None else ("--until", clock_time(self.until))
        start = (str(self.python), "-P", "-m", "pipeline", "run", str(self.spec), *self.words)
        return (*start, "--if-locked", "skip", "--fail-on", "new", *until, "--quiet", *more)

    @property
    def stop_s(self) -> int:
        """Seconds from being told to end to being gone, at most."""
        return round(self.drain_s) + SAVING_S


def plan_night(
    job: Job,
    at: str,
    until: str | None = None,
    *,
    base_url: str | None = None,
    key_file: Path | None = None,
) -> Night:
    """What is to be started for `job` at `at`, to send nothing after `until`.

    Raises:
        Refused: for what is no time of day, a night of no length, a job without its spec, or a path
            that no such file can hold.
    """
    spec = job.to_run()
    begins, ends = parse_time(at, "--at"), None if until is None else parse_time(until, "--until")
    if begins.second:
        raise NothingWritten(f"--at {at}: a start time has no seconds. Leave them out.")
    if begins == ends:
        raise NothingWritten(
            f"--at {at} --until {until}: the night has no length. Choose two different times."
        )
    words = ["--output", str(spec.output)] if job.folder.path != _own_folder(job) else []
    words += ["--sandbox"] if job.sandbox else []
    words += ["--base-url", base_url] if base_url else []
    night = Night(
        name=job.name,
        spec=spec.source,
        sheet=spec.input,
        folder=job.folder.path,
        at=begins,
        until=ends,
        words=tuple(words),
        key_file=None if key_file is None else key_file.absolute(),
        drain_s=spec.deadline_s,
        sandbox=job.sandbox,
    )
    for word in (night.name, *night.command(), str(night.folder), str(night.key_file)):
        if not word.isprintable():
            raise NothingWritten(
                f"{word!r}: this contains a line break or a control character. Use another name."
            )
    return night


def warnings(night: Night, kind: str) -> list[str]:
    """What a person may not expect of a night that is started by `kind`, one sentence or two
    each."""
    said = []
    if night.sandbox:
        said.append(
            "These nights are rehearsals (--sandbox). They send to the local copy of the API, cost "
            "nothing, and have their own run folder."
        )
        if night.key_file is not None:
            said.append("A rehearsal needs no key, so --key-file is not used.")
    elif night.key_file is not None:
        if kind == "github":
            said.append(
                "--key-file is not used: a GitHub workflow reads the key from the secret "
                "AITUTOR_API_KEY."
            )
        elif not _stands(night.key_file):
            said.append(
                f"{night.key_file}: this file does not exist yet. Until it contains the key, each "
                "night ends with exit code 2 and sends nothing."
            )
    return said


def _stands(path: Path) -> bool:
    """Whether a file is there, or may be: that of another user's folder cannot be looked at."""
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True


def clock_time(moment: time) -> str:
    """``06:00``, ``06:00:30``."""
    return moment.strftime("%H:%M:%S" if moment.second else "%H:%M")


def _own_folder(job: Job) -> Path:
    """The run folder that the spec has without being told."""
    from pipeline.job.job import job_of
    from pipeline.job.spec import load_spec

    spec = job.to_run()
    return job_of(load_spec(spec.source), job.sandbox).folder.path
