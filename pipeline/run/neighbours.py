"""Rows that another run folder has paid for.

At most once holds per run folder: a job with another `name:` begins a new one, and would pay for
every row again. So before the first request of an empty folder its rows are looked up in the
folders beside it, and in those of the other jobs that run the same workflow.
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

# A folder may hold any number of specs, of anybody. PyYAML takes up to 17 s for a megabyte.
_MOST_SPECS = 1000
_MOST_SPEC_BYTES = 300_000
# What a file of somebody else can raise: it counts for nothing.
_ANY_FAULT = (PipelineError, OSError, ValueError, RuntimeError)


def find_neighbours(
    spec: JobSpec, folder: RunFolder, host: str, snapshot: Snapshot, plan: Plan
) -> tuple[Neighbour, ...]:
    """The run folders that have paid for rows which `plan` sends, the one with most rows first.

    A folder that cannot be read, or that is of another host, counts for nothing.
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
    return (beside | set(_other_outputs(spec))) - {resolved(folder.path)}


def _other_outputs(spec: JobSpec) -> Iterator[Path]:
    """The run folders of the jobs beside this one that run the same workflow. Beyond the bounds
    above no spec is looked at."""
    beside = [*spec.source.parent.glob("*.yaml"), *spec.source.parent.glob("*.yml")]
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
