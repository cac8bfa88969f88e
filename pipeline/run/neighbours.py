"""Finds rows that another run folder has already paid for.

The promise "at most once" holds per run folder. A job with another `name:` begins a new folder, and
would pay for every row again. So before the first request of an empty folder, the runner looks for
its rows in the folders next to it, and in those of other jobs with the same workflow.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from pipeline.core.errors import PipelineError
from pipeline.inputs.snapshot import Snapshot
from pipeline.inputs.stored import stored_row_keys
from pipeline.job.run_folder import RunFolder
from pipeline.job.spec import JobSpec, load_output
from pipeline.ledger import queries
from pipeline.ledger.matching import count_paid
from pipeline.ledger.reader import reading
from pipeline.planning.plan import Plan
from pipeline.planning.prepared import Neighbour
from pipeline.system.opening import as_object, read_file
from pipeline.system.paths import resolved

# The folder may contain any number of job files, from anyone. PyYAML takes up to 17 s per megabyte.
_MOST_SPECS = 1000
_MOST_SPEC_BYTES = 300_000
# The errors that a foreign or damaged file can cause. Such a file is ignored.
_ANY_FAULT = (PipelineError, OSError, ValueError, RuntimeError)


def find_neighbours(
    spec: JobSpec, folder: RunFolder, host: str, snapshot: Snapshot, plan: Plan
) -> tuple[Neighbour, ...]:
    """Returns the run folders that have paid for rows of `plan`, the one with the most rows first.

    Ignores a folder that cannot be read, and one that belongs to another host.
    """
    found = []
    for path in sorted(_candidates(spec, folder)):
        keys = (key for number, key in stored_row_keys(snapshot.path) if plan.send[number - 1])
        rows = _paid_in(RunFolder(path), host, (bytes.fromhex(key) for key in keys if key))
        if rows:
            found.append(Neighbour(path, rows))
    return tuple(sorted(found, key=lambda neighbour: -neighbour.rows))


def _candidates(spec: JobSpec, folder: RunFolder) -> set[Path]:
    beside = {resolved(path.parent) for path in folder.path.parent.glob("*/ledger.sqlite")}
    # A frame has no job file. If its folder is the usual one, job files are two levels above it.
    jobs = spec.source.parent if spec.source else folder.path.parent.parent
    return (beside | set(_other_outputs(spec, jobs))) - {resolved(folder.path)}


def _other_outputs(spec: JobSpec, jobs: Path) -> Iterator[Path]:
    """Yields the run folders of the job files in `jobs` that have the same workflow. Reads no more
    job files than the limits above allow."""
    beside = [*jobs.glob("*.yaml"), *jobs.glob("*.yml")]
    left = _MOST_SPEC_BYTES
    for path in sorted(beside)[:_MOST_SPECS]:
        try:
            raw = read_file(path, left, follow=True)
            if spec.workflow.encode() not in raw:
                continue
            left -= len(raw)
            output = load_output(path, spec.workflow)
            if output is not None:
                yield resolved(output)
        except _ANY_FAULT:
            continue


def _paid_in(folder: RunFolder, host: str, keys: Iterable[bytes]) -> int:
    try:
        if not folder.ledger.exists():
            return 0
        with reading(folder.ledger) as read:
            pinned = read(queries.meta(queries.PINNED))
            if pinned is None or as_object(pinned)["host"] != host:
                return 0
            return read(count_paid(keys))
    except (*_ANY_FAULT, KeyError):
        return 0
