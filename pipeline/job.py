"""Which job a command is about: its spec, its run folder, and how the user names it."""

from __future__ import annotations

import json
import os
import shlex
from dataclasses import dataclass, replace
from pathlib import Path

from pipeline.access import SANDBOX_HOST
from pipeline.errors import PipelineError, Refused
from pipeline.folder import RunFolder
from pipeline.model import JsonObject
from pipeline.spec import JobSpec, load_spec

SANDBOX_SUFFIX = ".sandbox"


@dataclass(frozen=True, slots=True)
class Job:
    """One job and where it is kept.

    `spec` is None for a run folder whose spec is gone: it can be looked at, not run. `words` are
    what the user calls it on a command line, with the options that make it this job.
    """

    name: str
    folder: RunFolder
    spec: JobSpec | None
    sandbox: bool
    words: tuple[str, ...]

    def command(self, verb: str, *options: str) -> str:
        """A command line about this job, to be pasted."""
        return shlex.join(("pipeline", verb, *self.words, *options))

    def to_run(self) -> JobSpec:
        """The spec, for commands that cannot do without.

        Raises:
            Refused: when it is gone.
        """
        if self.spec is None:
            raise Refused(
                f"{self.folder.path}: the job spec that this folder was made from is gone or "
                "cannot be read. Give the command with the spec. Nothing was sent."
            )
        return self.spec


def find_job(
    path: str | os.PathLike[str],
    *,
    output: Path | None = None,
    sandbox: bool = False,
    words: tuple[str, ...] | None = None,
) -> Job:
    """The job of a spec file, or of a run folder.

    `output` is another run folder for it. `sandbox` keeps a rehearsal apart from paid results; a
    run folder that a rehearsal made is one without being told.

    Raises:
        Refused: when `path` is neither.
    """
    path = Path(path)
    words = words or (str(path),)
    if not path.is_dir():
        spec = load_spec(path)
        return job_of(replace(spec, output=output.absolute()) if output else spec, sandbox, words)
    about = _about(path)
    try:
        spec = replace(load_spec(Path(about["spec"])), output=path.absolute())
    except PipelineError:
        return Job(about["job"], RunFolder(path.absolute()), None, False, words)
    if about["host"] != SANDBOX_HOST:
        return job_of(spec, sandbox, words)
    return Job(spec.name, RunFolder(path.absolute()), spec, True, words)


def job_of(spec: JobSpec, sandbox: bool = False, words: tuple[str, ...] | None = None) -> Job:
    """The job that a spec describes."""
    output = spec.output
    if sandbox:
        output = output.with_name(output.name + SANDBOX_SUFFIX)
    return Job(spec.name, RunFolder(output), spec, sandbox, words or (str(spec.source),))


def _about(path: Path) -> JsonObject:
    try:
        about = json.loads(RunFolder(path).run.read_text(encoding="utf-8"))
        return {name: str(about[name]) for name in ("job", "spec", "host")}
    except (OSError, ValueError, KeyError, TypeError):
        raise Refused(
            f"{path}: neither a job spec nor a run folder (it has no run.json). Nothing was sent."
        ) from None
