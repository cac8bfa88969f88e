"""Joins and leaves a Ray cluster, and turns its errors into short reasons."""

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
    """A Ray job whose workers import only installed packages.

    Ray puts the driver's current folder first on their import path, so a user's own json.py or
    pipeline.py would run there, with the key. Ray does not do that for a job with a working folder.
    This job has none, but claims to have one.
    """

    def _runtime_env_has_working_dir(self) -> bool:
        return True


@contextlib.contextmanager
def signals_kept() -> Iterator[None]:
    """Restores the handler of SIGTERM after the block.

    Connecting installs a handler of Ray below Python's. It calls the earlier handler, and three
    seconds later an alarm ends the process, whatever the process is waiting for.
    """
    here = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGTERM) if here else None
    try:
        yield
    finally:
        if before is not None:
            signal.signal(signal.SIGTERM, before)
            signal.siginterrupt(signal.SIGTERM, False)  # as asyncio sets it


def connect(address: str | None, head: Head | None) -> None:
    """Joins the cluster at `address`, or the one of `head`.

    Call this in a thread, so that a signal works meanwhile. In a thread Ray also leaves SIGTERM
    alone.

    Raises:
        EngineAway: when there is no cluster.
    """
    hook = sys.excepthook
    try:
        with contextlib.ExitStack() as stack:
            if head is not None:
                address, token = head.ready()
                stack.enter_context(_on_loopback())
                stack.enter_context(_showing(token))
            elif address:
                _knock(address)  # Ray itself tries for minutes
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
    """Leaves the cluster, and ends the one of `head`."""
    ray.shutdown()
    if head is not None:
        head.end()
        _read_again()


@contextlib.contextmanager
def _on_loopback() -> Iterator[None]:
    """Makes Ray look for the cluster at 127.0.0.1 instead of this machine's outer address.

    Sets a constant of Ray: the variable `RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER` is read into it only
    when Ray is imported, which may be long ago.
    """
    before = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


@contextlib.contextmanager
def _showing(token: str) -> Iterator[None]:
    """Puts `token` into the environment for the block.

    Ray reads a token only from there, and keeps the first one that it finds.
    """
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
    """Makes Ray read its settings and its token again: this process may join another cluster."""
    ray._raylet.Config.initialize("")
    ray._raylet.AuthenticationTokenLoader.instance().reset_cache()


def _knock(address: str) -> None:
    """Raises OSError at once if no server listens at ``host:port``. Ray checks other addresses."""
    host, colon, port = address.rpartition(":")
    if colon and port.isdecimal() and "/" not in host:
        socket.create_connection((host.strip("[]"), int(port)), _KNOCK_S).close()


def machines(least: int) -> int:
    """Returns the number of machines in the cluster, at least `least`."""
    return max(sum(bool(node["Alive"]) for node in ray.nodes()), least)


def reason_of(error: BaseException) -> str:
    """Returns the part of an error's message that says what happened, as one sentence.

    Ray's messages are long. For an exception in a worker they contain the whole traceback, of which
    the last line counts.
    """
    lines = _COLORS.sub("", str(error)).strip().splitlines()
    text = lines[-1] if "Traceback" in str(error) or "  File " in str(error) else " ".join(lines)
    for mark in ("Worker exit detail: ", "because ", "RpcError: "):
        if mark in text:
            text = text.split(mark, 1)[1]
    return _first_sentence(text) or type(error).__name__


def _first_sentence(text: str) -> str:
    return " ".join(text.split(". ")[0].split()).rstrip(".")
