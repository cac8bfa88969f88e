"""Finds the job of a command: its spec, its run folder, and the user's words for it."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from pipeline.core.errors import PipelineError, Refused, refuse_other
from pipeline.core.model import SANDBOX_HOST
from pipeline.job.access import DEFAULT_BASE_URL, URL_VARIABLE
from pipeline.job.call import as_settings
from pipeline.job.frame import Frame
from pipeline.job.frame_call import frame_call
from pipeline.job.run_folder import RunFolder
from pipeline.job.run_note import BASE_URL, KEY_FILE, Noted, read_note
from pipeline.job.spec import JobSpec, frame_spec, load_spec
from pipeline.job.stage import Input, Stage
from pipeline.system.opening import is_file
from pipeline.system.paths import path_fault, resolved

SANDBOX_SUFFIX = ".sandbox"
_MAX_PAID = "--max-paid"
_INPUT = "--input"


@dataclass(frozen=True, slots=True)
class Job:
    """One job and its run folder.

    The rows of a job come from a file, or from a frame of a Python program. `spec` is None for a
    run folder without its job file: commands can show it, but not run it. `words` name the job on a
    command line. `sending` are further options that make `run` and `resume` do the same again, such
    as an address. `limit` is the `--limit` of the last run. `withheld` are options of the last run,
    by name, that no command repeats because only the run folder names them. They decide where the
    key is sent, and somebody else may have written the folder.
    """

    name: str
    folder: RunFolder
    spec: JobSpec | None
    sandbox: bool
    words: tuple[str, ...]
    sending: tuple[str, ...] = ()
    limit: int | None = None
    withheld: Mapping[str, str] = field(default_factory=dict)

    @property
    def to_add(self) -> str | None:
        """A sentence about the withheld options that the user has to add to this job's commands.
        None if there are none."""
        if not self.withheld:
            return None
        options = [
            name if name == KEY_FILE else f"{name} (in the folder: {value})"
            for name, value in self.withheld.items()
        ]
        return (
            "The last run had options that decide where your key is sent. The runner never takes "
            "these from a run folder, because somebody else may have written it. Add them "
            f"yourself if you know them: {', '.join(options)}."
        )

    @property
    def sheet(self) -> Path | None:
        """The sheet of the last run: that of `--input`, or else that of the job file. None without
        a job file, for a frame, and for the answers of another job."""
        if self.spec is None or isinstance(self.spec.input, Frame):
            return None
        if _INPUT not in self.sending[:-1]:
            return self.spec.input if isinstance(self.spec.input, Path) else None
        return Path(self.sending[self.sending.index(_INPUT) + 1]).absolute()

    def command(self, verb: str, *options: str) -> str:
        """Returns a command line about this job that the user can paste. What sends rows of a frame
        is a call in the program that has the frame."""
        if self.of_frame and verb in ("run", "resume", "check"):
            return frame_call(verb, (*self.sending, *options))
        sending = self.sending if verb in ("run", "resume") else ()
        return shlex.join(("pipeline", verb, *self.words, *sending, *options))

    def affording(self, paid: int, rows: int) -> Job:
        """Returns this job with a `max_paid` in its commands that allows `rows` more paid requests.

        Returns the same job if the `paid` requests of its folder have not reached its limit.

        A command with the limit that was just reached would do nothing.
        """
        words = list(self.sending)
        given = words.index(_MAX_PAID) + 1 if _MAX_PAID in words[:-1] else None
        limit = self.spec.max_paid if self.spec else None
        if (
            given is not None and words[given].isdecimal()
        ):  # the words of a Python caller may be anything
            limit = int(words[given])
        if limit is None or paid < limit or not rows:
            return self
        if given is None:
            words += [_MAX_PAID, ""]
        words[-1 if given is None else given] = str(paid + rows)
        return replace(self, sending=tuple(words))

    @property
    def of_frame(self) -> bool:
        """Whether a Python program passes the rows of this job as a frame."""
        return self.spec is not None and isinstance(self.spec.input, Frame)

    @property
    def rehearsed(self) -> bool:
        """Whether the job has a rehearsal, in the folder next to its own."""
        beside = self.folder.path.with_name(self.folder.path.name + SANDBOX_SUFFIX)
        return not self.sandbox and read_note(beside) is not None

    def to_run(self) -> JobSpec:
        """Returns the spec, for commands that need it.

        Raises:
            Refused: if the job file is missing or has an error, and for the run folder of a frame
                without the program that has the frame.
        """
        frame = self.spec.input if self.spec is not None else None
        if isinstance(frame, Frame) and frame.table is None:
            raise Refused(
                f"{self.folder.path}: the rows of this job come from a frame, which only a Python "
                "program has. Nothing was sent. Call it there, with the same arguments as before: "
                f"{self.command('run')}"
            )
        if self.spec is None:
            raise Refused(
                f"{self.folder.path}: the job file of this run folder is missing or has an error. "
                "Name the job file instead of the folder to see the error."
            )
        return self.spec


def find_job(
    path: str | os.PathLike[str],
    *,
    output: Path | None = None,
    sandbox: bool = False,
    words: tuple[str, ...] | None = None,
    sending: tuple[str, ...] | None = None,
) -> Job:
    """Returns the job of a job file or of a run folder.

    If `sending` is None, `sending` and `limit` come from the last run in the folder. `output`
    replaces the run folder. `sandbox` keeps a rehearsal apart from paid results; the run folder of
    a rehearsal needs no `sandbox`.

    Raises:
        Refused: if `path` is neither, and if another existing job file uses the same run folder for
            another sheet.
    """
    refuse_other((str, os.PathLike), "a job file or a run folder", job=path)
    path = Path(path)
    fault = path_fault(path)
    if fault is not None:
        raise Refused(f"{path}: the path of the job {fault}. Write another path.")
    words = words or _words(path, output, sandbox)
    job = _job_of_folder(path, words) if path.is_dir() else None
    if job is None:
        spec = load_spec(path)
        job = job_of(replace(spec, output=output.absolute()) if output else spec, sandbox, words)
        refuse_shared(job, spec)
    return _as_last_run(job) if sending is None else replace(job, sending=sending)


def as_job(job: Job | JobSpec | str | os.PathLike[str]) -> Job:
    """Returns the job of a path or a spec, or the job itself."""
    if isinstance(job, Job):
        return job
    return job_of(job) if isinstance(job, JobSpec) else find_job(job)


def job_of(spec: JobSpec, sandbox: bool = False, words: tuple[str, ...] | None = None) -> Job:
    """Returns the job that a spec describes.

    Raises:
        Refused: if no file can have the path of its run folder.
    """
    output = spec.output
    if sandbox and output.suffix != SANDBOX_SUFFIX:
        output = output.with_name(output.name + SANDBOX_SUFFIX)
    fault = path_fault(output)
    if fault is not None:
        raise Refused(f"{output}: the path of the run folder {fault}. Choose another `output:`.")
    if spec.source is None:  # its commands read the run folder alone
        words = words or (str(output.absolute()),)
        return Job(spec.name, RunFolder(output), spec, sandbox, words)
    words = words or _words(spec.source, None, sandbox)
    return Job(spec.name, RunFolder(output), spec, sandbox, words)


def _words(path: Path, output: Path | None, sandbox: bool) -> tuple[str, ...]:
    """Returns the words for a job in a command to paste, if the caller gave none."""
    words = (str(path), *(("--output", str(output)) if output else ()))
    return (*words, "--sandbox") if sandbox else words


def refuse_shared(job: Job, spec: JobSpec) -> None:
    """Refuses a run folder that another job file uses for another sheet. `spec` is that of `job` as
    its file has it.

    Two sheets with the same file name lead to two job files with the same `name:`, and their
    answers must not mix. A job file that was moved or renamed continues in its folder, because its
    old path no longer exists.
    """
    noted = read_note(job.folder.path)
    if (
        noted is None
        or noted.spec is None  # a frame's, whose input is pinned
        or spec.source is None
        or not is_file(noted.spec, follow=True)
        or resolved(noted.spec) == resolved(spec.job_file)
    ):
        return
    other = noted.spec
    try:
        known = load_spec(other)
        folder = job_of(known, job.sandbox).folder
    except PipelineError:
        return
    same_folder = resolved(folder.path) == resolved(job.folder.path)
    theirs, ours = _place(known.input), _place(spec.input)
    if same_folder and theirs != ours:
        raise Refused(
            f"{spec.source}: another job file, {other}, already uses the run folder "
            f"{job.folder.path} for another sheet ({theirs.name} in {theirs.parent}). Give one of "
            "the two job files another `name:` or `output:`."
        )


def _place(input: Input) -> Path:
    """The file that a job file names for its rows."""
    assert not isinstance(input, Frame), "a job file names no frame"
    return resolved(input.job if isinstance(input, Stage) else input)


def _job_of_folder(path: Path, words: tuple[str, ...]) -> Job:
    folder = RunFolder(path.absolute())
    noted = read_note(folder.path)
    if noted is None:
        raise Refused(
            f"{path}: this folder is not a run folder. It has no run.json that a run wrote. Name "
            "the job file, a .yaml file."
        )
    rehearsal = noted.host == SANDBOX_HOST
    try:
        spec = load_spec(noted.spec) if noted.spec else _known(noted)
        spec = replace(spec, output=folder.path)
    except PipelineError:
        return Job(noted.job, folder, None, rehearsal, words)
    return Job(noted.job, folder, spec, rehearsal, words)


def _known(noted: Noted) -> JobSpec:
    """Returns the spec of a frame that a program has sent. Its folder can be read without it."""
    return frame_spec(Frame(as_settings(noted.settings or {})))


def _as_last_run(job: Job) -> Job:
    """Returns the job with the options of its last run."""
    noted = read_note(job.folder.path)
    if noted is None:
        return job
    return replace(job, sending=noted.sending, limit=noted.limit, withheld=_withheld(noted))


def _withheld(noted: Noted) -> dict[str, str]:
    """Returns the options that commands lack. An address from the environment needs no option."""
    address = os.environ.get(URL_VARIABLE) or DEFAULT_BASE_URL
    return {
        name: value
        for name, value in noted.withheld.items()
        if (name, value) != (BASE_URL, address)
    }
