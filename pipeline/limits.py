"""What the machine allows: open files, of which each request in flight needs one."""

from __future__ import annotations

import resource

# Ledger, snapshot, parts, log, sandbox, the loop's own, and some for the caller.
_OTHER_FILES = 100


def fit_concurrency(wanted: int) -> int:
    """Raises the limit of open files as far as `wanted` needs; the concurrency that fits.

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
