"""Joining a Ray cluster, and what it says when something is wrong with it."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import sys
import threading
from collections.abc import Iterator

import ray
from ray._private import ray_constants
from ray.job_config import JobConfig

from pipeline.core.errors import EngineAway
from pipeline.sending.engines.ray_head import Head, first_of

_KNOCK_S = 10.0
_COLORS = re.compile("\x1b\\[[0-9;]*m")


class _InstalledOnly(JobConfig):  # type: ignore[misc]
    """A job whose workers import what is installed, and nothing else.

    Ray puts the driver's current folder first on their import path, so a json.py or pipeline.py of
    the user's own would run there, with the key. It leaves that out for a job with a folder of its
    own; this job has none, and says that it has.
    """

    def _runtime_env_has_working_dir(self) -> bool:
        return True


@contextlib.contextmanager
def signals_kept() -> Iterator[None]:
    """Puts back who is told of SIGTERM.

    Connecting installs a handler of Ray's own below Python's. It calls the one before it, and three
    seconds later an alarm ends the process, whatever it is waiting for.
    """
    here = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGTERM) if here else None
    try:
        yield
    finally:
        if before is not None:
            signal.signal(signal.SIGTERM, before)
            signal.siginterrupt(signal.SIGTERM, False)  # as asyncio has it


def connect(address: str | None, head: Head | None) -> None:
    """Joins the cluster at `address`, or that of `head`.

    To be called in a thread, so that a signal works meanwhile; there Ray leaves SIGTERM alone, too.

    Raises:
        EngineAway: when there is none.
    """
    hook = sys.excepthook
    try:
        with contextlib.ExitStack() as stack:
            if head is not None:
                address, token = head.ready()
                stack.enter_context(_on_loopback())
                stack.enter_context(_showing(token))
            elif address:
                _knock(address)  # Ray itself goes on trying for minutes
            ray.init(
                address,
                configure_logging=False,
                log_to_driver=False,
                job_config=_InstalledOnly(),
            )
    except (ConnectionError, OSError, RuntimeError, ValueError) as error:
        where = "on this machine" if head else f"at {address}"
        raise EngineAway(
            f"No Ray cluster {where}: {reason_of(first_of(error))}. Nothing was sent. Start one "
            "with `ray start --head`, or leave out `ray_address`: the runner then starts its own "
            "cluster on this machine."
        ) from None
    finally:
        sys.excepthook = hook


def leave(head: Head | None) -> None:
    """Leaves the cluster, and ends that of `head`."""
    ray.shutdown()
    if head is not None:
        head.end()
        _read_again()


@contextlib.contextmanager
def _on_loopback() -> Iterator[None]:
    """Ray else looks at this machine's outer address for what is at 127.0.0.1. It reads
    `RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER` into this when it is imported, perhaps long ago."""
    before = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


@contextlib.contextmanager
def _showing(token: str) -> Iterator[None]:
    """Ray reads a token from the environment only, and keeps the first one that it finds."""
    kept = dict(os.environ)
    os.environ.update(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=token)
    _read_again()
    try:
        yield
    finally:
        for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN"):
            del os.environ[name]
            if name in kept:
                os.environ[name] = kept[name]


def _read_again() -> None:
    """Ray's cluster of before has nothing to do with the one that comes next in this process."""
    ray._raylet.Config.initialize("")
    ray._raylet.AuthenticationTokenLoader.instance().reset_cache()


def _knock(address: str) -> None:
    """Raises at once where nobody listens at ``host:port``; other forms of address are Ray's."""
    host, colon, port = address.rpartition(":")
    if colon and port.isdecimal() and "/" not in host:
        socket.create_connection((host.strip("[]"), int(port)), _KNOCK_S).close()


def machines(least: int) -> int:
    """How many machines the cluster has, `least` if they are fewer."""
    return max(sum(bool(node["Alive"]) for node in ray.nodes()), least)


def reason_of(error: BaseException) -> str:
    """The part of an error's message that says what happened. Ray's are long: of a worker's own
    exception they have the whole traceback, whose last line counts.
    """
    lines = _COLORS.sub("", str(error)).strip().splitlines()
    text = lines[-1] if "Traceback" in str(error) or "  File " in str(error) else " ".join(lines)
    for mark in ("Worker exit detail: ", "because ", "RpcError: "):
        if mark in text:
            text = text.split(mark, 1)[1]
    return _first_sentence(text) or type(error).__name__


def _first_sentence(text: str) -> str:
    return " ".join(text.split(". ")[0].split()).rstrip(".")
