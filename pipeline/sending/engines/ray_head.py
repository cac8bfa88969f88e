"""A Ray cluster on this machine alone, started by a process next to the runner.

Ray starts a dozen processes with the environment of the process that asks for them. That process is
not the runner, so none of them has the API key. The cluster listens only on 127.0.0.1, asks each
client for a random token, and keeps its files in a folder that only this user can open.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from pipeline.system.children import ROOT, import_path, start_python

_OBJECT_STORE_BYTES = 200 * 1024 * 1024
_END_S = 20.0
# The name of a socket has room for about 100 bytes, and Ray needs 70 of them below its folder.
_FOLDER, _FOLDER_BYTES = "/tmp", 16
# How workers reach the API: see `network`. These variables count in lower case, too.
_WAY = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")
_FILES = ("SSL_CERT_FILE", "SSL_CERT_DIR")
_RAY = {
    "RAY_AUTH_MODE": "token",
    # Ray then uses 127.0.0.1 as this machine's address, as on macOS, and binds to it. With any
    # other address it listens on all interfaces.
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    # The head is a driver that needs no worker.
    "RAY_prestart_worker_first_driver": "0",
}


class Cluster(NamedTuple):
    """The address of a cluster, and the token that it asks for."""

    address: str
    token: str


class Head:
    """The process that runs the cluster. It ends with this process, however this one ends."""

    def __init__(self, cpus: int) -> None:
        """Starts the process and does not wait for it.

        Raises:
            OSError: when the machine has no room for another process.
        """
        self._process: subprocess.Popen[bytes] = start_python(
            __name__, str(cpus), more=_environment(os.environ)
        )

    def ready(self) -> Cluster:
        """Waits until the cluster has started.

        Raises:
            RuntimeError: with the reason, when it does not start.
        """
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        said = json.loads(line) if line else {"error": "its process ended"}
        if "error" in said:
            raise RuntimeError(said["error"])
        return Cluster(said["address"], said["token"])

    def end(self) -> None:
        """Ends the cluster and waits for its end. May be called while another thread waits in
        `ready`."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(_END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()


def _environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Returns the variables that a cluster gets in addition to those of every child process.

    These are the way to the API and the user's settings for Ray, except those that lead to another
    cluster.
    """
    given = {
        name: value
        for name, value in environment.items()
        if name.lower() in _WAY or name.startswith("RAY_")
    }
    for name in ("RAY_ADDRESS", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_TMPDIR"):
        given.pop(name, None)
    # The cluster works in another folder than the runner, so relative paths would break.
    given |= {name: os.path.abspath(environment[name]) for name in _FILES if environment.get(name)}
    places = [*import_path(), ROOT]
    return given | _RAY | {"PYTHONPATH": os.pathsep.join(places)}


def _main(cpus: int) -> None:
    # Ray makes its own folder readable for every user. The folder around it stays closed.
    place = tempfile.gettempdir()
    within = place if len(place.encode()) <= _FOLDER_BYTES else _FOLDER
    with tempfile.TemporaryDirectory(
        prefix="pipeline-ray-", dir=within, ignore_cleanup_errors=True
    ) as folder:
        token = secrets.token_hex(32)
        file = Path(folder, "token")
        file.touch(0o600)
        file.write_text(token)
        os.environ["RAY_AUTH_TOKEN_PATH"] = str(file)
        with contextlib.redirect_stdout(sys.stderr):
            said = _started(cpus, f"{folder}/r")
        print(json.dumps(said | {"token": token}), flush=True)
        if "error" not in said:
            sys.stdin.buffer.read()
            _stopped()


def _started(cpus: int, folder: str) -> dict[str, str]:
    try:
        import ray

        ray.init(
            "local",
            num_cpus=cpus,
            include_dashboard=False,
            object_store_memory=_OBJECT_STORE_BYTES,
            configure_logging=False,
            log_to_driver=False,
            _temp_dir=folder,
        )
        return {"address": ray.get_runtime_context().gcs_address}
    except Exception as error:
        return {"error": str(first_of(error)) or type(error).__name__}


def first_of(error: BaseException) -> BaseException:
    """Returns the first cause of an error: Ray's last error says only that something failed."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def _stopped() -> None:
    import ray

    ray.shutdown()


if __name__ == "__main__":
    _main(int(sys.argv[1]))
