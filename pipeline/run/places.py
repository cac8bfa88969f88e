"""Finds the jobs and sheets of the started folder, and refuses every path outside it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pipeline.core.errors import Refused
from pipeline.inputs.formats import READERS
from pipeline.job.job import Job, find_job
from pipeline.job.traces import LEDGER
from pipeline.job.yaml_fields import may_be_job_file
from pipeline.system.paths import path_fault, resolved

SPECS = (".yaml", ".yml")
_MOST = 200
_DEPTH = 3
_NOT_HERE = "Nothing was read or sent."


def find_start(what: Path) -> tuple[Path, str | None]:
    """Returns the folder to serve, and the job or sheet in it to begin with.

    Raises:
        Refused: if there is nothing at this path.
    """
    path = what.absolute()
    if not path.exists():
        raise Refused(f"{what}: there is no such file or folder.", closing=_NOT_HERE)
    if path.is_dir() and not (path / LEDGER).exists():
        return path, None
    return path.parent, path.name


@dataclass(frozen=True, slots=True)
class Places:
    """The folder that a page or an agent was started for. They name paths relative to it."""

    root: Path

    def path(self, name: str) -> Path:
        """The path of a file in the folder.

        Raises:
            Refused: for a path outside it, also through a link.
        """
        if not name or path_fault(name) is not None:
            raise Refused(f"{name!r} is no path.", closing=_NOT_HERE)
        path = self.root / name
        if not resolved(path).is_relative_to(resolved(self.root)) or ".." in Path(name).parts:
            raise Refused(
                f"{name} is outside the folder that is served, {self.root}.", closing=_NOT_HERE
            )
        return path

    def job(self, name: str, *, rehearsal: bool = False) -> Job:
        """The job of a job file or a run folder in the folder.

        Raises:
            Refused: for a path outside it, for the rehearsal of a run folder with paid answers,
                and as `find_job` does.
        """
        path = self.path(name)
        shown = os.path.relpath(path)
        words = (shown, "--sandbox") if rehearsal and path.suffix in SPECS else (shown,)
        job = find_job(path, sandbox=rehearsal, words=words)
        if rehearsal and not job.sandbox:  # the commands of a run folder send what its runs sent
            raise Refused(
                f"{name} has paid answers. To rehearse, open the job file.", closing=_NOT_HERE
            )
        return job

    def is_job(self, name: str) -> bool:
        """Whether the path is that of a job file or a run folder, not of a sheet."""
        path = self.path(name)
        return path.is_dir() or path.suffix.lower() in SPECS

    def jobs(self) -> Iterator[str]:
        """The job files, relative to the folder, also those with errors. A folder may also have
        YAML files of other programs."""
        yield from (n for n in self._files(SPECS) if may_be_job_file(self.root / n))

    def sheets(self) -> Iterator[str]:
        """The sheets, relative to the folder."""
        yield from self._files(tuple(READERS))

    def _files(self, endings: tuple[str, ...]) -> Iterator[str]:
        found = 0
        for folder, names, files in os.walk(self.root):
            depth = len(Path(folder).relative_to(self.root).parts)
            names[:] = sorted(n for n in names if not n.startswith(".") and n != "runs")
            if depth >= _DEPTH:
                names.clear()
            if LEDGER in files and not any(name.lower().endswith(SPECS) for name in files):
                names.clear()
                continue  # a run folder: its files are the runner's own
            for name in sorted(files):
                if name.lower().endswith(endings) and not name.startswith("."):
                    yield str((Path(folder) / name).relative_to(self.root))
                    found += 1
                    if found >= _MOST:
                        return
