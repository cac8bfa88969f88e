"""A check that the engine of a job can be used here."""

from __future__ import annotations

import importlib.util

from pipeline.core.errors import Refused
from pipeline.job.spec import JobSpec

_OF_RAY = ("ray_address", "workers")
_NEEDED = ("ray", "nacl")
# Each worker is a process of 100 MB, and a single machine runs about a hundred of them at most.
MAX_WORKERS = 1_000


def check_engine(spec: JobSpec) -> None:
    """Checks that this machine has the packages of the spec's engine, and that its keys fit it.

    Raises:
        Refused: with the packages to install, or the line to change.
    """
    if spec.engine == "ray":
        if spec.workers is not None and spec.workers > MAX_WORKERS:
            raise Refused(
                f"{spec.at('workers')}: `workers` is {spec.workers}, but one run can use at most "
                f"{MAX_WORKERS:,}. Nothing was sent. Write a smaller number, or remove `workers`."
            )
        missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
        if missing:
            raise Refused(
                f"{spec.at('engine')}: the engine ray needs packages that are not installed "
                f"({', '.join(missing)}). Install them with `pip install "
                "'paidrows[ray]'`, or leave out the engine to send from this machine."
            )
        return
    for name in _OF_RAY:
        if getattr(spec, name) is not None:
            raise Refused(
                f"{spec.at(name)}: `{name}` is for the engine ray only. Add `engine: ray` (or "
                f"--engine ray), or remove `{name}`."
            )
