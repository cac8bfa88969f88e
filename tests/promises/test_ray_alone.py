"""The runner's own cluster is closed to all other users: its key, ports, files and token."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from pipeline.core.errors import EngineAway
from tests.conftest import Job, StartSandbox, ended

pytest.importorskip("ray", reason="the extra ray is not installed")

from pipeline.sending.engines.ray_cluster import connect
from pipeline.sending.engines.ray_head import Head
from tests.promises.test_ray import on_ray, stories, wait_until, workers_alive

pytestmark = pytest.mark.ray

KEY = "sk_live_7Qx9Zm3v5kT2"
PIPELINE = str(Path(sys.executable).with_name("pipeline"))


@dataclass
class Running:
    """A run whose own cluster has started."""

    process: subprocess.Popen[bytes]
    folder: Path

    def processes(self) -> list[int]:
        """Returns the cluster's processes. Its head begins a session, and the others stay in it."""
        known = {int(path.name): stat_of(path) for path in Path("/proc").glob("[0-9]*")}
        heads = {pid for pid, (parent, _) in known.items() if parent == self.process.pid}
        return [pid for pid, (_, session) in known.items() if session in heads]

    @property
    def address(self) -> str:
        [file] = self.folder.glob("r/session_2*/gcs_server_port_*")
        return f"127.0.0.1:{file.read_text()}"


def stat_of(path: Path) -> tuple[int, int]:
    """Returns (parent, session) of a process, zeros once it has ended."""
    try:
        _, parent, _, session, *_ = (path / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0, 0
    return int(parent), int(session)


def environments() -> Iterator[tuple[int, list[bytes]]]:
    """Yields each process with the variables that it was started with."""
    for path in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            yield int(path.parent.name), path.read_bytes().split(b"\0")


def folders() -> set[Path]:
    return set(Path("/tmp").glob("pipeline-ray-*"))


@pytest.fixture
def slow_job(start_sandbox: StartSandbox, make_job) -> Job:
    """Makes a job whose rows take so long that the test can look around meanwhile."""
    sandbox = start_sandbox(latency="120s")
    job = make_job(sandbox.url, rows=stories(4), **on_ray(None))
    # The sandbox accepts each key that is added here.
    sandbox._call("PUT", "keys", f'["{KEY}"]'.encode())
    return job


@contextlib.contextmanager
def running(job: Job, **more: str) -> Iterator[Running]:
    before = folders()
    environment = job.environment(AITUTOR_API_KEY=KEY, ANOTHER=KEY, **more)
    process = subprocess.Popen(
        [PIPELINE, "run", str(job.spec), "--drain", "0", "--quiet"],
        env=environment,
        cwd=job.folder,
        stdout=subprocess.DEVNULL,
    )
    with ended(process):
        wait_until(lambda: len(workers_alive()) >= 2)
        [folder] = folders() - before
        yield Running(process, folder)
        process.send_signal(signal.SIGTERM)
        process.wait(60)
    assert not folder.exists(), "nothing is left of it"


def listening(pids: list[int]) -> set[str]:
    """Returns the addresses at which these processes accept TCP connections, as the kernel writes
    them."""
    sockets = set()
    for pid in pids:
        for handle in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                sockets.add(os.readlink(handle))
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and f"socket:[{fields[9]}]" in sockets:
                found.add(fields[1].partition(":")[0])
    return found


CLIENT = """
import sys
import ray
ray.init(sys.argv[1], log_to_driver=False, configure_logging=False)
print(ray.get(ray.remote(num_cpus=0)(lambda: "ran").remote()))
"""


def asked_by_another(
    address: str, *, within_s: float = 30, **more: str
) -> tuple[int | None, str, str]:
    """Runs a program that tries to run code on the cluster, as any user of the machine may. Returns
    its exit code, None if it is still trying at the end of its time, and its output."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    # With another home folder, because ours may contain a token of Ray.
    environment |= {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "HOME": "/nonexistent"} | more
    command = [sys.executable, "-c", CLIENT, address]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, env=environment, stdout=pipe, stderr=pipe, text=True) as client:
        try:
            said = client.communicate(timeout=within_s)
        except subprocess.TimeoutExpired:
            client.kill()
            return (None, *client.communicate())
        return (client.returncode, *said)


# Each process sets its name some time after it has started.
PARTS = (b"gcs_server", b"raylet", b"ray::Worker", b"RuntimeEnvAgent", b"log_monitor")


def names_of(processes: Iterable[int]) -> bytes:
    """Returns the command lines of the processes that have not ended."""
    names = []
    for pid in processes:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            names.append(Path(f"/proc/{pid}/cmdline").read_bytes())
    return b" ".join(names)


def assert_turned_away(run: Running, **more: str) -> None:
    code, out, err = asked_by_another(run.address, **more)
    assert code != 0
    assert out == ""
    assert "uthenti" in err, err


LOOPBACK = {"0100007F", "0000000000000000FFFF00000100007F", "0" * 24 + "01000000"}


def test_only_this_run_can_use_the_cluster(slow_job):
    """One run for all checks, because each takes a quarter of a minute to start."""
    with running(slow_job) as run:
        wait_until(lambda: all(part in names_of(run.processes()) for part in PARTS))
        processes = run.processes()
        names = names_of(processes)

        # Only the runner has the key in its environment.
        having = {pid for pid, env in environments() if any(KEY.encode() in one for one in env)}
        assert having == {run.process.pid}
        # No command line contains the key or the token.
        token = (run.folder / "token").read_bytes()
        assert KEY.encode() not in names
        assert token not in names

        # The cluster listens only on loopback.
        assert listening(processes)
        assert listening(processes) <= LOOPBACK

        # No other user can open the files that it writes.
        assert run.folder.stat().st_mode & 0o777 == 0o700
        assert (run.folder / "token").stat().st_mode & 0o777 == 0o600

        # A client with another token is turned away.
        assert_turned_away(run, RAY_AUTH_MODE="token", RAY_AUTH_TOKEN="0" * 64)
        known = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token.decode()}
        said = asked_by_another(run.address, within_s=100, **known)
        assert said[:2] == (0, "ran\n"), f"the token is what counts: {said}"


@pytest.mark.long
@pytest.mark.parametrize("more", [{}, {"RAY_AUTH_MODE": "disabled"}])
def test_a_client_without_a_token_is_turned_away(slow_job, more):
    """The client needs a while to give up."""
    with running(slow_job) as run:
        assert_turned_away(run, **more)


def test_a_runner_that_is_killed_leaves_no_cluster(slow_job):
    """It leaves neither processes nor files."""
    with running(slow_job) as run:
        run.process.kill()
        run.process.wait()
        wait_until(lambda: not run.processes(), timeout_s=60)
        wait_until(lambda: not run.folder.exists())


def test_a_cluster_that_does_not_start_ends_in_a_message(monkeypatch, tmp_path):
    """For example if Ray says that there is no room. No process is left over."""
    folder = tmp_path / "ray"
    folder.mkdir()
    (folder / "__init__.py").write_text(
        "def init(*_, **__):\n    raise OSError('no room on this machine. Look at the logs')\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    head = Head(1)
    with pytest.raises(EngineAway) as raised:
        connect(None, head)
    assert str(raised.value).startswith(
        "No Ray cluster on this machine: no room on this machine. Nothing was sent."
    )
    head.end()


def test_an_empty_entry_of_pythonpath_brings_no_module_of_the_folder_into_the_cluster(
    sandbox, make_job
):
    """Python takes an empty entry for the current folder."""
    job = make_job(sandbox.url, rows=stories(3), **on_ray(None))
    ran = job.folder / "ran"
    for module in ("runpy", "psutil", "prometheus_client", "default_worker"):
        code = f"open({str(ran)!r}, 'a').write(__file__ + chr(10))\n"
        (job.folder / f"{module}.py").write_text(code)
    done = subprocess.run(
        [PIPELINE, "run", str(job.spec)],
        cwd=job.folder,
        env=job.environment(PYTHONPATH=":/nowhere"),
        capture_output=True,
        text=True,
        check=False,
    )
    assert not ran.exists(), ran.read_text()
    assert done.returncode == 0, done.stderr
    assert sandbox.received() == 3
