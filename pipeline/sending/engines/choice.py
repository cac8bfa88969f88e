"""The choice of the engine."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

from pipeline.core.events import Event
from pipeline.core.model import Engine
from pipeline.job.spec import JobSpec
from pipeline.sending.engines.base import Target
from pipeline.sending.engines.local import local_engine


def open_engine(
    spec: JobSpec, target: Target, tell: Callable[[Event], None]
) -> AbstractAsyncContextManager[Engine]:
    """Returns the engine that `spec` names. `tell` gets its events while it works.

    Raises:
        EngineAway: on entering, when there is no machine to send from.
    """
    if spec.engine == "ray":
        from pipeline.sending.engines.ray import ray_engine  # its import takes a third of a second

        return ray_engine(
            target,
            spec.concurrency,
            address=spec.ray_address,
            workers=spec.workers,
            tell=tell,
        )
    return local_engine(target, spec.concurrency, tell)
