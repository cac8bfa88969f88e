"""What an engine needs to be installed."""

from __future__ import annotations

import importlib.util

from pipeline.errors import Refused
from pipeline.spec import JobSpec

_OF_RAY = ("ray_address", "workers")
_NEEDED = ("ray", "nacl")


def check_engine(spec: JobSpec) -> None:
    """Raises where the engine that `spec` names cannot be had here.

    Raises:
        Refused: with what to install, or which line to write.
    """
    if spec.engine == "ray":
        missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
        if missing:
            raise Refused(
                f"{spec.at('engine')}: the engine ray needs packages that are not installed "
                f"({', '.join(missing)}). Install them with `pip install '.[ray]'` in the "
                "checkout; or leave the engine out, which sends from this machine. Nothing was "
                "sent."
            )
        return
    for name in _OF_RAY:
        if getattr(spec, name) is not None:
            raise Refused(
                f"{spec.at(name)}: `{name}` is for the engine ray. Say `engine: ray` (or "
                f"--engine ray) too, or leave `{name}` out. Nothing was sent."
            )
