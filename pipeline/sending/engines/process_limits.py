"""Limits that a sending process sets for itself: open files, and Python's garbage collection."""

from __future__ import annotations

import gc
import resource

# Ledger, snapshot, parts, log, sandbox, the event loop's own files, and some for the caller.
_OTHER_FILES = 100


# New objects that are not yet freed, after which Python looks for cycles among the young ones.
_COLLECT_AT = 100_000


def collect_rarely() -> None:
    """Exempts all objects that exist now from garbage collection, and collects less often.

    Python would otherwise look through them, and through every request in flight, at each 700 new
    objects. That took a sixth of a run's CPU time.
    """
    gc.freeze()
    gc.set_threshold(_COLLECT_AT)


def fit_concurrency(wanted: int) -> int:
    """Raises the limit of open files as far as `wanted` requests in flight need it.

    Returns the concurrency that fits, at least 1: each request in flight needs one open file. With
    too few of them, the API would seem to be unreachable.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = wanted + _OTHER_FILES
    if soft != resource.RLIM_INFINITY and soft < needed:
        soft = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    if soft == resource.RLIM_INFINITY:
        return wanted
    return max(min(wanted, soft - _OTHER_FILES), 1)
