"""What a process that sends needs of its machine and of Python."""

from __future__ import annotations

import gc
import resource

# Ledger, snapshot, parts, log, sandbox, the loop's own, and some for the caller.
_OTHER_FILES = 100


# Objects made and not yet freed before Python looks for cycles among the young ones.
_COLLECT_AT = 100_000


def collect_rarely() -> None:
    """Takes all that lives now for what lives until the end.

    Python would otherwise look through it, and through every request in flight, at each 700 new
    objects: a sixth of a run's CPU time.
    """
    gc.freeze()
    gc.set_threshold(_COLLECT_AT)


def fit_concurrency(wanted: int) -> int:
    """Raises the limit of open files, of which each request in flight needs one, as far as `wanted`
    needs; the concurrency that fits.

    Too few descriptors would look like an API that cannot be reached.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = wanted + _OTHER_FILES
    if soft != resource.RLIM_INFINITY and soft < needed:
        soft = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    if soft == resource.RLIM_INFINITY:
        return wanted
    return max(min(wanted, soft - _OTHER_FILES), 1)
