"""The finders of the jobs that were looked at last, so that a filter of a large job is fast."""

from __future__ import annotations

from collections import OrderedDict
from threading import Lock

from pipeline.job.job import Job
from pipeline.show.finder import Finder

_MOST = 4
"""A finder of a million rows needs about 300 MB."""


class Finders:
    """A finder for each run folder. It holds nothing that the run folder does not have."""

    def __init__(self) -> None:
        self._found: OrderedDict[tuple[str, str], Finder] = OrderedDict()
        self._lock = Lock()

    def of(self, job: Job) -> Finder:
        """Returns the finder of a job. A changed job file gets another one."""
        name = str(job.folder.path), repr(job.spec)
        with self._lock:
            finder = self._found.setdefault(name, Finder(job))
            self._found.move_to_end(name)
            while len(self._found) > _MOST:
                self._found.popitem(last=False)
        return finder
