"""A Ray cluster of this machine's own, as a process next to the runner.

Ray starts a dozen processes with the environment of the one that asks for them. That one is not the
runner, so the API key is in none of them. The cluster listens on 127.0.0.1 only, asks each client
for a random token, and keeps its files in a folder that only this user can open.
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
# The names of sockets have room for some 100 bytes, and Ray needs 70 of them below its folder.
_FOLDER, _FOLDER_BYTES = "/tmp", 16
# How workers reach the API: see `network`. They are told in lower case, too.
_WAY = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")
_FILES = ("SSL_CERT_FILE", "SSL_CERT_DIR")
_RAY = {
    "RAY_AUTH_MODE": "token",
    # Ray then takes 127.0.0.1 for this machine's address, as it does on macOS, and binds to it. Any
    # other address makes it listen on all interfaces.
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    # The head is a driver that needs no worker.
    "RAY_prestart_worker_first_driver": "0",
}


class Cluster(NamedTuple):
    """Where a cluster is, and the token that it asks for."""

    address: str
    token: str


class Head:
    """The process. It ends with this one, however this one ends."""

    def __init__(self, cpus: int) -> None:
        """Starts it, without waiting.

        Raises:
            OSError: when the machine has no room for a process.
        """
        self._process: subprocess.Popen[bytes] = start_python(
            __name__, str(cpus), more=_environment(os.environ)
        )

    def ready(self) -> Cluster:
        """Waits until the cluster is there.

        Raises:
            RuntimeError: with the reason when it does not start.
        """
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        said = json.loads(line) if line else {"error": "its process ended"}
        if "error" in said:
            raise RuntimeError(said["error"])
        return Cluster(said["address"], said["token"])

    def end(self) -> None:
        """Ends the cluster and waits for that. May be called while another thread waits in
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
    """What a cluster gets more than every child: the way to the API, and the user's choices for
    Ray, except for those that lead to another cluster."""
    given = {
        name: value
        for name, value in environment.items()
        if name.lower() in _WAY or name.startswith("RAY_")
    }
    for name in ("RAY_ADDRESS", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_TMPDIR"):
        given.pop(name, None)
    # It works in another folder than the runner.
    given |= {name: os.path.abspath(environment[name]) for name in _FILES if environment.get(name)}
    places = [*import_path(), ROOT]
    return given | _RAY | {"PYTHONPATH": os.pathsep.join(places)}


def _main(cpus: int) -> None:
    # Ray opens its own folder for everybody; the one around it stays closed.
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
    """What an error came from: Ray's last one says only that it failed."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def _stopped() -> None:
    import ray

    ray.shutdown()


if __name__ == "__main__":
    _main(int(sys.argv[1]))
