"""Which job a command is about: its spec, its run folder, and how the user names it."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from pipeline.core.errors import PipelineError, Refused
from pipeline.core.model import SANDBOX_HOST
from pipeline.job.access import DEFAULT_BASE_URL, URL_VARIABLE
from pipeline.job.run_folder import RunFolder
from pipeline.job.run_note import BASE_URL, KEY_FILE, Noted, read_note
from pipeline.job.spec import JobSpec, load_spec
from pipeline.system.opening import is_file
from pipeline.system.paths import path_fault, resolved

SANDBOX_SUFFIX = ".sandbox"
_MAX_PAID = "--max-paid"


@dataclass(frozen=True, slots=True)
class Job:
    """One job and where it is kept.

    `spec` is None for a run folder whose spec is gone: it can be looked at, not run. `words` are
    what the user calls it on a command line; `sending` are the options besides that make `run` and
    `resume` do the same again, such as an address. `limit` is the `--limit` of the last run.
    `withheld` are options of the last run, by name, that stand in no command because only its
    folder says so: they decide where the key goes, and a folder may come from somebody else.
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
        """What a person has to add to this job's commands for what is withheld; None for
        nothing."""
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

    def command(self, verb: str, *options: str) -> str:
        """A command line about this job, to be pasted."""
        sending = self.sending if verb in ("run", "resume") else ()
        return shlex.join(("pipeline", verb, *self.words, *sending, *options))

    def affording(self, paid: int, rows: int) -> Job:
        """This job where its `max_paid` is used up by the `paid` requests of its folder: with one
        in its commands that lets `rows` more be paid. Else the job as it is.

        A command with the limit that was just reached would do nothing.
        """
        words = list(self.sending)
        given = words.index(_MAX_PAID) + 1 if _MAX_PAID in words[:-1] else None
        limit = self.spec.max_paid if self.spec else None
        if given is not None and words[given].isdecimal():  # a caller's own words may be anything
            limit = int(words[given])
        if limit is None or paid < limit or not rows:
            return self
        if given is None:
            words += [_MAX_PAID, ""]
        words[-1 if given is None else given] = str(paid + rows)
        return replace(self, sending=tuple(words))

    @property
    def rehearsed(self) -> bool:
        """Whether there is a rehearsal of it, in the folder beside its own."""
        beside = self.folder.path.with_name(self.folder.path.name + SANDBOX_SUFFIX)
        return not self.sandbox and read_note(beside) is not None

    def to_run(self) -> JobSpec:
        """The spec, for commands that cannot do without.

        Raises:
            Refused: when it is gone.
        """
        if self.spec is None:
            raise Refused(
                f"{self.folder.path}: the job file of this run folder is missing or has an error. "
                "Give the same command with the job file instead of the folder to see the error."
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
    """The job of a spec file, or of a run folder.

    Where `sending` is None it is what the last run in the folder was told, and so is `limit`.

    `output` is another run folder for it. `sandbox` keeps a rehearsal apart from paid results; a
    run folder that a rehearsal made is one without being told.

    Raises:
        Refused: when `path` is neither, and when its run folder is that of another spec, which is
            still there and has another sheet.
    """
    path = Path(path)
    words = words or _words(path, output, sandbox)
    job = _job_of_folder(path, words) if path.is_dir() else None
    if job is None:
        spec = load_spec(path)
        job = job_of(replace(spec, output=output.absolute()) if output else spec, sandbox, words)
        _refuse_shared(job, spec)
    return _as_last_run(job) if sending is None else replace(job, sending=sending)


def job_of(spec: JobSpec, sandbox: bool = False, words: tuple[str, ...] | None = None) -> Job:
    """The job that a spec describes.

    Raises:
        Refused: when its run folder has a path that no system takes.
    """
    output = spec.output
    if sandbox and output.suffix != SANDBOX_SUFFIX:
        output = output.with_name(output.name + SANDBOX_SUFFIX)
    fault = path_fault(output)
    if fault is not None:
        raise Refused(f"{output}: the path of the run folder {fault}. Choose another `output:`.")
    words = words or _words(spec.source, None, sandbox)
    return Job(spec.name, RunFolder(output), spec, sandbox, words)


def _words(path: Path, output: Path | None, sandbox: bool) -> tuple[str, ...]:
    """What a job is called in a command to paste, by who did not say what he calls it."""
    words = (str(path), *(("--output", str(output)) if output else ()))
    return (*words, "--sandbox") if sandbox else words


def _refuse_shared(job: Job, spec: JobSpec) -> None:
    """Two sheets of one file name make two specs of one `name:`. Their answers must not mix.

    A spec that was moved or renamed goes on in its folder: the old one is gone then.
    """
    noted = read_note(job.folder.path)
    if (
        noted is None
        or not is_file(noted.spec, follow=True)
        or resolved(noted.spec) == resolved(spec.source)
    ):
        return
    other = noted.spec
    try:
        known = load_spec(other)
        folder = job_of(known, job.sandbox).folder
    except PipelineError:
        return
    same_folder = resolved(folder.path) == resolved(job.folder.path)
    if same_folder and resolved(known.input) != resolved(spec.input):
        raise Refused(
            f"{spec.source}: another job file, {other}, already uses the run folder "
            f"{job.folder.path} for another sheet ({known.input.name} in "
            f"{resolved(known.input).parent}). Give one of the two job files another `name:` or "
            "`output:`."
        )


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
        spec = replace(load_spec(noted.spec), output=folder.path)
    except PipelineError:
        return Job(noted.job, folder, None, rehearsal, words)
    return Job(noted.job, folder, spec, rehearsal, words)


def _as_last_run(job: Job) -> Job:
    """The job with what its last run was told besides."""
    noted = read_note(job.folder.path)
    if noted is None:
        return job
    return replace(job, sending=noted.sending, limit=noted.limit, withheld=_withheld(noted))


def _withheld(noted: Noted) -> dict[str, str]:
    """What the commands lack: an address that the environment names needs no option."""
    address = os.environ.get(URL_VARIABLE) or DEFAULT_BASE_URL
    return {
        name: value
        for name, value in noted.withheld.items()
        if (name, value) != (BASE_URL, address)
    }
