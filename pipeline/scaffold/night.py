"""Plans a job for every night. Other modules print it as systemd units, crontab or workflow.

The ledger alone decides which rows are sent, no matter what starts a run and how often. So the
printed files ensure three things. Every night uses the same ledger. A run that has to stop gets the
time to receive the answers that are paid for. Nothing starts again by itself.
"""

from __future__ import annotations

import os
import shlex
import stat
import sys
import textwrap
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import time
from pathlib import Path
from typing import TypeVar

from pipeline.core.errors import NothingWritten
from pipeline.core.time_of_day import parse_time
from pipeline.job.access import VARIABLES
from pipeline.job.chain import chain_of
from pipeline.job.job import Job
from pipeline.job.spec import JobSpec
from pipeline.notify.endpoint import needed_variables

T = TypeVar("T")

PRINTED_BY = "# Printed by: pipeline schedule "
"""The line of each file that names its command begins like this."""
OTEL = "OTEL_"
"""The names of OpenTelemetry's variables begin like this."""
_OF_EXTRA = (".ods", ".xls", ".xlsb")
"""The sheets that only the extra xls reads."""
SAVING_S = 60
"""Seconds that a run needs after its drain to save, to seal and to notify, on a slow disk."""


@dataclass(frozen=True, slots=True)
class Night:
    """One job for every night, after the jobs that its rows come from. `folders` are those of all.
    Paths are absolute. `words` are the options that select this job.

    `drain_s` is the longest time that a stopping run waits for responses. A scheduler does not pass
    on the user's environment. `needed` are the variables without which a night is refused, with
    their text if it is no secret. `set_here` are set, and a night may need them. `extras` are those
    of the package without which no row can be sent.
    """

    name: str
    spec: Path
    sheet: Path
    folders: tuple[Path, ...]
    at: time
    until: time | None
    words: tuple[str, ...]
    key_file: Path | None
    drain_s: float
    sandbox: bool
    needed: Mapping[str, str | None]
    set_here: tuple[str, ...]
    extras: tuple[str, ...]
    python: Path = Path(sys.executable)

    def command(self, *more: str) -> tuple[str, ...]:
        """Returns the command of each night, with the options `more`.

        With -P, a module in the working directory cannot replace an installed one.
        """
        until = () if self.until is None else ("--until", clock_time(self.until))
        start = (str(self.python), "-P", "-m", "pipeline", "run", str(self.spec), *self.words)
        return (*start, "--if-locked", "skip", "--fail-on", "new", *until, "--quiet", *more)

    def printed_by(self, kind: str, spec: str | None = None) -> str:
        """Returns the comment with the command that prints the files of `kind` for these nights."""
        words = [spec or str(self.spec), "--at", clock_time(self.at)]
        words += [] if self.until is None else ["--until", clock_time(self.until)]
        words += [word for word in self.words if word != "--stages"]
        words += [] if self.key_file is None else ["--key-file", str(self.key_file)]
        return f"{PRINTED_BY}{shlex.join(words)} --as {kind}"

    @property
    def secrets(self) -> list[str]:
        """The needed variables whose values the user has to write."""
        return [name for name, text in self.needed.items() if text is None]

    @property
    def permissions(self) -> dict[str, str]:
        """The other needed variables, with their values."""
        return {name: text for name, text in self.needed.items() if text is not None}

    def variables_file(self, kind: str) -> Path:
        """Returns the file with the variables for a night that is started by `kind`."""
        beside = self.key_file if kind == "cron" else None
        return (beside.parent if beside else Path("/etc/pipeline")) / f"{self.name}.env"

    def variables_note(self, start: str) -> str:
        """Returns comment lines about that file, which begin with the sentence `start`. Returns ""
        if a night needs no such file."""
        if not (self.secrets or self.set_here):
            return ""
        text = start
        if self.secrets:
            text += f" The job file needs: {', '.join(self.secrets)}."
            text += " Without them, each night ends with 2 and sends nothing."
        if self.set_here:
            text += " Your environment has these too, so add them if a night needs them: "
            text += f"{', '.join(self.set_here)}."
        lines = textwrap.wrap(text, 98, break_long_words=False, break_on_hyphens=False)
        return "".join(f"# {line}\n" for line in lines)

    @property
    def stop_s(self) -> int:
        """The most seconds from the signal to stop until the process has ended."""
        return round(self.drain_s) + SAVING_S


def plan_night(
    job: Job,
    at: str,
    until: str | None = None,
    *,
    base_url: str | None = None,
    key_file: Path | None = None,
) -> Night:
    """Returns the plan of nights for `job` that start at `at` and send nothing after `until`.

    Raises:
        Refused: if a time is not a time of day, if the night has no length, if the job file is
            missing, if the file of a scheduler cannot contain a path, or if an address under
            `notify:` cannot be used.
    """
    spec = job.to_run()
    begins, ends = parse_time(at, "--at"), None if until is None else parse_time(until, "--until")
    if begins.second:
        raise NothingWritten(f"--at {at}: a start time has no seconds. Leave them out.")
    if begins == ends:
        raise NothingWritten(
            f"--at {at} --until {until}: the night has no length. Choose two different times."
        )
    chain = chain_of(job)
    words = ["--output", str(spec.output)] if job.folder.path != _own_folder(job) else []
    if chain[1:]:
        if words:
            raise NothingWritten(
                "--output is for one job, and these nights run several. Set `output:` in the job "
                "file."
            )
        words.append("--stages")
    words += ["--sandbox"] if job.sandbox else []
    words += ["--base-url", base_url] if base_url else []
    night = Night(
        name=job.name,
        spec=spec.job_file,
        sheet=chain[0].to_run().file,
        folders=tuple(one.folder.path for one in chain),
        at=begins,
        until=ends,
        words=tuple(words),
        key_file=None if key_file is None else key_file.absolute(),
        drain_s=max(one.to_run().deadline_s for one in chain),
        sandbox=job.sandbox,
        needed=_of_all(chain, needed_variables),
        set_here=tuple(_of_all(chain, lambda one: dict.fromkeys(_set_here(one)))),
        extras=tuple(_of_all(chain, _needed_extras)),
    )
    for word in (night.name, *night.command(), *map(str, night.folders), str(night.key_file)):
        if not word.isprintable():
            raise NothingWritten(
                f"{word!r}: this contains a line break or a control character. Use another name."
            )
    return night


def _of_all(chain: list[Job], found: Callable[[JobSpec], Mapping[str, T]]) -> dict[str, T]:
    """Returns what `found` returns for all jobs together. A rehearsal needs nothing."""
    together: dict[str, T] = {}
    for job in chain:
        together |= {} if job.sandbox else found(job.to_run())
    return together


def warnings(night: Night, kind: str) -> list[str]:
    """Returns warnings about nights that are started by `kind`, of one or two sentences each."""
    found = []
    if night.sandbox:
        found.append(
            "These nights are rehearsals (--sandbox). They send to the local copy of the API, cost "
            "nothing, and have their own run folder."
        )
        if night.key_file is not None:
            found.append("A rehearsal needs no key, so --key-file is not used.")
    elif night.key_file is not None:
        if kind == "github":
            found.append(
                "--key-file is not used: a GitHub workflow reads the key from the secret "
                "AITUTOR_API_KEY."
            )
        elif not _stands(night.key_file):
            found.append(
                f"{night.key_file}: this file does not exist yet. Until it contains the key, each "
                "night ends with exit code 2 and sends nothing."
            )
    file = night.variables_file(kind)
    if night.secrets and kind != "github" and not _stands(file):
        found.append(
            f"{file}: this file does not exist yet. Until it sets {', '.join(night.secrets)}, each "
            "night ends with exit code 2 and sends nothing."
        )
    return found


def _needed_extras(spec: JobSpec) -> dict[str, None]:
    """Returns the extras of the package that a run of `spec` needs."""
    wanted = {
        "otel": spec.notify is not None and spec.notify.opentelemetry,
        "ray": spec.engine == "ray",
        # The rows of a later stage come from the stage before.
        "xls": isinstance(spec.input, Path) and spec.input.suffix.lower() in _OF_EXTRA,
    }
    return {name: None for name, needed in wanted.items() if needed}


def _set_here(spec: JobSpec, environment: Mapping[str, str] = os.environ) -> tuple[str, ...]:
    """Returns the names of set variables with which a run reaches the API and its collector."""
    collector = spec.notify is not None and spec.notify.opentelemetry
    return tuple(
        name
        for name in sorted(environment)
        if environment[name]
        and (
            name in VARIABLES
            or (collector and name.startswith(OTEL) and name.isascii() and name.isidentifier())
        )
    )


def _stands(path: Path) -> bool:
    """Whether a file exists or may exist: one in another user's folder cannot be checked."""
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True


def clock_time(moment: time) -> str:
    """Returns a time like ``06:00`` or ``06:00:30``."""
    return moment.strftime("%H:%M:%S" if moment.second else "%H:%M")


def _own_folder(job: Job) -> Path:
    """Returns the run folder of the job file, without an `--output` option."""
    from pipeline.job.job import job_of
    from pipeline.job.spec import load_spec

    spec = job.to_run()
    return job_of(load_spec(spec.job_file), job.sandbox).folder.path
