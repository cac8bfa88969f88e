"""A stage: a job whose rows are the answers of another job, its source."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipeline.job.frame import Frame


class Stage:
    """The rows of another job, each with its answer. `job` is the file of that job.

    `open` returns them as an open sheet. It is None until a command has found the other job and its
    answers: see `run.stages`.
    """

    __slots__ = ("job", "open")

    def __init__(self, job: Path, open: Callable[[], Any] | None = None) -> None:
        self.job = job
        self.open = open

    @property
    def name(self) -> str:
        """How messages name it, as they name a file."""
        return self.job.name

    def __str__(self) -> str:
        return str(self.job)

    __repr__ = __str__

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Stage) and other.job == self.job

    def __hash__(self) -> int:
        return hash(self.job)

    def __deepcopy__(self, memo: dict[int, Any]) -> Stage:
        return self


Input = Path | Frame | Stage
"""The source of a job's rows. A path is a sheet's file."""
