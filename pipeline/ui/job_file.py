"""The text of a job file: read, tried before it is saved, and saved."""

from __future__ import annotations

import contextlib
import os
import stat
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from pipeline.core.errors import PipelineError, Refused
from pipeline.core.model import SANDBOX_HOST
from pipeline.job.job import job_of, refuse_shared
from pipeline.job.run_note import read_note
from pipeline.job.spec import JobSpec, load_output, load_spec
from pipeline.run.check import Body, check_job
from pipeline.run.places import SPECS, Places
from pipeline.system.files import replacing
from pipeline.system.opening import read_file
from pipeline.system.paths import resolved

MOST_SPEC_BYTES = 1_000_000
NOT_SAVED = "Nothing was saved."
_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class JobFile:
    """A job file of the started folder, as it is on the disk. `at` is its path there."""

    at: str
    path: Path
    content: bytes

    @property
    def text(self) -> str:
        """Its text. Bytes that are not UTF-8 are shown as U+FFFD."""
        return self.content.removeprefix(_BOM).decode("utf-8", "replace")

    @property
    def is_text(self) -> bool:
        """Whether the text is all of it, so that the page can save it again."""
        return self.text.encode() == self.content.removeprefix(_BOM)

    @property
    def state(self) -> str:
        """Another text for another content."""
        return sha256(self.content).hexdigest()[:16]

    def with_text(self, text: str) -> bytes:
        """`text` of a form as a new content, with the line ends and the first bytes of the file. A
        form sends each line end as two characters."""
        plain = text.replace("\r\n", "\n")
        if b"\r\n" in self.content:
            plain = plain.replace("\n", "\r\n")
        first = _BOM if self.content.startswith(_BOM) else b""
        return first + plain.encode("utf-8", "replace")


def read_job_file(places: Places, at: str) -> JobFile:
    """The job file at a path of the folder, or that of a run folder there.

    Raises:
        Refused: if there is none that the page can read.
    """
    path = places.path(at)
    if path.is_dir():
        noted = read_note(path)
        if noted is None or noted.spec is None:
            raise Refused(f"{path}: this folder names no job file.", closing=NOT_SAVED)
        at = os.path.relpath(noted.spec, places.root)
        path = places.path(at)
    if path.suffix.lower() not in SPECS:
        load_spec(path)  # another file of the folder, such as one with the key, is never shown
    try:
        return JobFile(at, path, read_file(path, MOST_SPEC_BYTES, follow=True))
    except OSError as error:
        raise Refused(
            f"{path}: the page cannot read this job file ({error.strerror}).", closing=NOT_SAVED
        ) from None


@dataclass(frozen=True, slots=True)
class Tried:
    """What a text would do as the job file: its first requests, and the `problem` for which a run
    would be refused. `spec` is None if the text cannot be saved."""

    spec: JobSpec | None
    requests: tuple[Body, ...] = ()
    problem: str | None = None


def try_text(path: Path, content: bytes) -> Tried:
    """Reads `content` as the job file at `path`, and its sheet as a run would."""
    spec = None
    try:
        loaded = load_spec(path, content)
        _refuse_moved(path, loaded)
        spec = loaded
        checked = check_job(job_of(spec))
        return Tried(spec, tuple(checked.first_bodies), checked.refusal)
    except PipelineError as error:
        return Tried(spec, problem=str(error))


def save_text(places: Places, file: JobFile, content: bytes) -> None:
    """Replaces a job file by `content`.

    Raises:
        Refused: for an error in it, if the file is another one by now, and if the job would get
            another run folder although it has one.
    """
    if read_job_file(places, file.at).content != file.content:
        raise Refused("The job file was changed in the meantime.", closing=NOT_SAVED)
    try:
        spec = load_spec(file.path, content)
    except Refused as error:
        raise Refused(str(error), closing=NOT_SAVED) from None
    _refuse_moved(file.path, spec)
    target = resolved(file.path)  # of a link, the file that it leads to
    try:
        with replacing(target, stat.S_IMODE(target.stat().st_mode)) as saved:
            saved.write(content)
    except OSError as error:
        reason = error.strerror or str(error)
        raise Refused(
            f"{target}: the disk refused this file ({reason}).", closing=NOT_SAVED
        ) from None


def paid_folders(path: Path) -> list[Path]:
    """The run folders that the job file at `path` has. If it has an error, those next to it that
    name it."""
    found = set()
    with contextlib.suppress(PipelineError):
        output = load_output(path)
        found.update([output] if output is not None and output.exists() else [])
    with contextlib.suppress(OSError):
        for folder in () if found else (path.parent / "runs").iterdir():
            noted = read_note(folder)
            if noted is None or noted.spec is None or noted.host == SANDBOX_HOST:
                continue
            if resolved(noted.spec) == resolved(path):
                found.add(folder)
    return sorted(found)


def _refuse_moved(path: Path, spec: JobSpec) -> None:
    folders = paid_folders(path)
    if folders and spec.output not in folders:
        raise Refused(
            f"The job has a run folder, {folders[0]}, so its `name:` and `output:` stay. With "
            "others, its answers would be paid again.",
            closing=NOT_SAVED,
        )
    refuse_shared(job_of(spec), spec)
