"""Finds rows that another run folder has already paid for.

The promise "at most once" holds per run folder. A job with another `name:` begins a new folder, and
would pay for every row again. So before it sends, the runner looks for the rows in the folders next
to it, and in those of other jobs with the same workflow.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pipeline.core.errors import LedgerBusy, PipelineError
from pipeline.inputs.identity import KEY_BYTES
from pipeline.inputs.snapshot import Snapshot
from pipeline.inputs.stored import stored_row_keys
from pipeline.job.run_folder import RunFolder
from pipeline.job.spec import JobSpec, load_output
from pipeline.ledger import queries
from pipeline.ledger.matching import count_paid
from pipeline.ledger.reader import reading
from pipeline.planning.plan import Plan
from pipeline.planning.prepared import Neighbour, Neighbours
from pipeline.system.opening import as_object, read_file
from pipeline.system.paths import resolved

# The folder may contain any number of job files, from anyone. PyYAML takes up to 17 s per megabyte.
_MOST_SPECS = 1000
_MOST_SPEC_BYTES = 300_000
# There may be many such folders, and none of them is this job's own.
_PATIENCE_S = 2.0
# The errors that a foreign or damaged file can cause. Such a file is ignored.
_ANY_FAULT = (PipelineError, OSError, ValueError, RuntimeError)


def find_neighbours(
    spec: JobSpec, folder: RunFolder, host: str, snapshot: Snapshot, plan: Plan, *, known: bool
) -> Neighbours:
    """Returns the run folders that have paid for rows of `plan`.

    Ignores a folder that cannot be read, and one that belongs to another host. `known`: the folder
    has sent rows. Then it also ignores one that has paid for some of those: the user agreed to
    that before, and a timer could not answer again.
    """
    candidates = sorted(_candidates(spec, folder))
    if not candidates:
        return Neighbours()
    asked, sent = _keys(snapshot, plan.send), cache(lambda: _sent(snapshot, plan))
    paid, locked = [], []
    for path in candidates:
        try:
            rows = _paid_in(RunFolder(path), host, asked)
            if rows and not (known and _paid_in(RunFolder(path), host, sent())):
                paid.append(Neighbour(path, rows))
        except LedgerBusy:
            locked.append(path)
    paid.sort(key=lambda neighbour: -neighbour.rows)
    return Neighbours(tuple(paid), tuple(locked))


def _sent(snapshot: Snapshot, plan: Plan) -> bytes:
    """Returns the keys of rows that this folder has sent, and that no other row of it has."""
    left = set(_each(_keys(snapshot, plan.new_rows | plan.send)))
    sent = _each(_keys(snapshot, ~plan.new_rows & ~plan.send))
    return b"".join(key for key in sent if key not in left)


def _keys(snapshot: Snapshot, chosen: npt.NDArray[np.bool_]) -> bytes:
    """Returns the row keys of the chosen rows, one after the other. A list of them would take four
    times the memory."""
    stored = stored_row_keys(snapshot.path)
    return b"".join(bytes.fromhex(key) for number, key in stored if key and chosen[number - 1])


def _each(keys: bytes) -> Iterator[bytes]:
    return (keys[at : at + KEY_BYTES] for at in range(0, len(keys), KEY_BYTES))


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


def _paid_in(folder: RunFolder, host: str, keys: bytes) -> int:
    """Returns for how many of `keys` the folder has paid.

    Raises:
        LedgerBusy: when another program has locked its ledger.
    """
    try:
        if not folder.ledger.exists():
            return 0
        with reading(folder.ledger, _PATIENCE_S) as read:
            pinned = read(queries.meta(queries.PINNED))
            if pinned is None or as_object(pinned)["host"] != host:
                return 0
            return read(count_paid(_each(keys)))
    except LedgerBusy:
        raise
    except (*_ANY_FAULT, KeyError):
        return 0
