"""Shared parts of the tests: real sandbox processes, jobs on disk, and the runner as a command."""

from __future__ import annotations

import atexit
import contextlib
import csv
import functools
import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import hypothesis
import pandas as pd
import pytest

from tests.support import hits
from tests.support.forks import Forked, Forks, forking
from tests.support.servers import Monitor

# Other programs may use the machine: a slow test is no failure.
hypothesis.settings.register_profile(
    "any machine", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("any machine")

TOP = Path(__file__).parents[1]
"""The folder of the checkout."""

KEY = "sk_sandbox"


@dataclass
class SandboxProcess:
    """A sandbox that belongs to one test. Its book alone decides which requests were paid."""

    process: Forked | subprocess.Popen[bytes]
    url: str
    book: Path
    key: str = KEY
    token: str | None = None

    @property
    def port(self) -> int:
        return int(self.url.rsplit(":", 1)[1])

    def bills(self) -> list[dict[str, Any]]:
        return json.loads(self._call("GET", "bills"))["bills"]

    def billed(self) -> dict[str, int]:
        """Returns how often each body was billed."""
        return {entry["body"]: entry["billed"] for entry in self.bills()}

    def received(self) -> int:
        return sum(entry["received"] for entry in self.bills())

    def statuses(self) -> dict[str, int]:
        """Returns how many responses had each status."""
        return json.loads(self._call("GET", "bills"))["statuses"]

    def set_credits(self, number: int) -> None:
        self._call("PUT", "credits", str(number).encode())

    def publish(self, workflow_id: str, template: str, **more: Any) -> None:
        entry = {"id": workflow_id, "template": template, **more}
        self._call("PUT", "workflows", json.dumps(entry).encode())

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()
        for pipe in ("stdin", "stdout"):
            if stream := getattr(self.process, pipe, None):
                stream.close()

    def _call(self, method: str, what: str, body: bytes | None = None) -> bytes:
        headers = {"authorization": f"Bearer {self.token}"} if self.token else {}
        url = f"{self.url}/_sandbox/{what}"
        request = urllib.request.Request(url, body, headers, method=method)
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.read()


def started_sandbox(*, book: str, forked: bool = True, **options: Any) -> SandboxProcess:
    """Starts a sandbox with the arguments of `serve`. The caller has to stop it.

    Not `forked`: it is a new Python, and ends when its stdin does."""
    process: Forked | subprocess.Popen[bytes]
    wanted = {"limit": 100_000, "book": book, **options}
    if forked and hasattr(os, "pidfd_open"):
        words = [json.dumps(wanted)]
        process = Forked(shared_forks(), words, dict(os.environ), program="sandbox")
        ready = json.loads(process.first_line())
    else:
        words = [sys.executable, "-m", "pipeline.sandbox.server"]
        words.append(json.dumps({**wanted, "with_parent": True}))
        process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert process.stdout is not None
        ready = json.loads(process.stdout.readline())
    return SandboxProcess(process, ready["url"], Path(book), ready["key"], ready["token"])


StartSandbox = Callable[..., SandboxProcess]


@pytest.fixture
def start_sandbox(tmp_path: Path) -> Iterator[StartSandbox]:
    """Starts sandboxes with the arguments of `serve`, and stops them after the test."""
    started: list[SandboxProcess] = []

    def start(**options: Any) -> SandboxProcess:
        options.setdefault("book", str(tmp_path / f"book-{len(started)}.sqlite"))
        started.append(started_sandbox(**options))
        return started[-1]

    yield start
    for sandbox in started:
        sandbox.stop()


@pytest.fixture
def sandbox(start_sandbox: StartSandbox) -> SandboxProcess:
    """A sandbox that answers at once and has a very high rate limit."""
    return start_sandbox()


@pytest.fixture
def monitor() -> Iterator[Callable[..., Monitor]]:
    """Starts monitors, and closes them after the test."""
    started: list[Monitor] = []

    def start(*args: object, **options: object) -> Monitor:
        started.append(Monitor(*args, **options))  # type: ignore[arg-type]
        return started[-1]

    yield start
    for one in started:
        one.close()


@pytest.fixture
def hanging() -> Iterator[str]:
    """The address of a server that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Runs the longest tests first, so that no worker begins one when the others are done."""

    def later(item: pytest.Item) -> bool:
        mark = item.get_closest_marker("long")
        return mark is None or not mark.kwargs.get("first", False)

    items.sort(key=later)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_teardown() -> None:
    """Adds the notes of forks before mutmut reads its notes of this test."""
    hits.take()


def free_port() -> int:
    """Returns a port that is free now. Another process may use it before the test does."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def closed_port() -> int:
    """Returns a port that refuses connections. No other process gets it until the tests end."""
    holder = socket.socket()
    holder.bind(("127.0.0.1", 0))
    port = holder.getsockname()[1]
    holder.detach()  # open until the process ends
    return int(port)


@functools.cache
def shared_forks() -> Forks:
    """Returns the `Forks` that all tests of this process share."""
    ending = contextlib.ExitStack()
    atexit.register(ending.close)
    folder = Path(ending.enter_context(tempfile.TemporaryDirectory()))
    # `main` sets this before it imports anything.
    environment = os.environ | {"ARROW_DEFAULT_MEMORY_POOL": "system"}
    return ending.enter_context(forking(folder, environment))


# In a separate process, because a child begins with the peak memory of its parent.
_MEASURING = """
import json, resource, subprocess, sys
most = int(sys.argv[1])
resource.setrlimit(resource.RLIMIT_CPU, (most, most))
done = subprocess.run(sys.argv[2:], capture_output=True, text=True, errors="replace")
used = resource.getrusage(resource.RUSAGE_CHILDREN)
peak_bytes = used.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
cpu_s = used.ru_utime + used.ru_stime
print(json.dumps([done.returncode, done.stdout, done.stderr, cpu_s, peak_bytes]))
"""


class Measured(NamedTuple):
    """The exit code, the output, the CPU time and the peak memory of a command."""

    returncode: int
    stdout: str
    stderr: str
    cpu_s: float
    peak_bytes: int


@dataclass
class Job:
    """A job on disk, with the commands of the runner as a user gives them."""

    folder: Path
    spec: Path
    sheet: Path
    base_url: str

    @property
    def output(self) -> Path:
        return self.folder / "runs" / "job"

    @property
    def results(self) -> Path:
        return self.output / "results"

    def write_sheet(self, columns: list[str], rows: list[list[str]]) -> None:
        with self.sheet.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(columns)
            writer.writerows(rows)

    def write_spec(self, **fields: Any) -> None:
        known = {"name": "job", "workflow": "wf_story", "input": self.sheet.name}
        text = "".join(f"{key}: {json.dumps(value)}\n" for key, value in (known | fields).items())
        self.spec.write_text(text, encoding="utf-8")

    def command(self, verb: str, *options: str) -> list[str]:
        return [sys.executable, "-m", "pipeline", verb, str(self.spec), *options]

    def environment(self, **more: str) -> dict[str, str]:
        kept = {k: v for k, v in os.environ.items() if not k.startswith("AITUTOR_")}
        own = {"XDG_CACHE_HOME": str(self.folder / "cache"), "PIPELINE_NOTIFY_LOCAL": "1"}
        return kept | own | {"AITUTOR_API_KEY": KEY, "AITUTOR_BASE_URL": self.base_url} | more

    def call(
        self, verb: str, *options: str, env: dict[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Runs a command until it ends."""
        return self._pipeline(self.command(verb, *options), env)

    def paste(self, command: str, *more: str) -> subprocess.CompletedProcess[str]:
        """Runs a command line that the runner printed."""
        name, *words = shlex.split(command)
        assert name == "pipeline"
        return self._pipeline([sys.executable, "-m", "pipeline", *words, *more])

    def _pipeline(
        self, command: list[str], env: dict[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        read_at_start = any(name.startswith(("PYTHON", "LD_")) for name in env or {})
        if read_at_start or not hasattr(os, "pidfd_open"):  # only Linux has it
            return self.shell(command, env)
        return shared_forks().run(command, self.environment() | (env or {}), timeout=120)

    def status(self) -> dict:
        """Returns the object of `pipeline status --json`."""
        return json.loads(self.call("status", "--json").stdout)

    def export(self) -> pd.DataFrame:
        """Returns the sheet with its answers, from a Parquet export."""
        target = self.folder / "exported.parquet"
        done = self.call("export", "--to", str(target))
        assert done.returncode == 0, done.stderr
        return pd.read_parquet(target).astype(object).where(lambda table: table.notna(), None)

    def copied(self, name: str) -> Path:
        """Copies the run folder."""
        return Path(shutil.copytree(self.output, self.folder / "runs" / name))

    def shell(
        self, command: list[str], env: dict[str, str] | None = None, timeout: float = 120
    ) -> subprocess.CompletedProcess[str]:
        """Runs any command with the job's key and address."""
        return subprocess.run(
            command,
            env=self.environment() | (env or {}),
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    def measured(self, verb: str, *options: str, most_cpu_s: int = 600) -> Measured:
        """Runs a command until it ends or has used `most_cpu_s` seconds of CPU time."""
        command = [sys.executable, "-c", _MEASURING, str(most_cpu_s), *self.command(verb, *options)]
        done = self.shell(command, timeout=600)
        assert done.returncode == 0, done.stderr
        return Measured(*json.loads(done.stdout))

    def run(self, *options: str, expect: int = 0, env: dict[str, str] | None = None) -> dict:
        """Returns the summary of `pipeline run … --json`. Another exit code fails the test."""
        done = self.call("run", "--json", "--rate", "5000", *options, env=env)
        assert done.returncode == expect, (done.returncode, done.stdout, done.stderr)
        return json.loads(done.stdout.splitlines()[-1])

    def start(
        self, *options: str, rate: str = "5000", verb: str = "run"
    ) -> Forked | subprocess.Popen[bytes]:
        """Starts `pipeline run …` as a process that the test can end in any way."""
        command = self.command(verb, *(["--rate", rate] if verb == "run" else []), *options)
        if hasattr(os, "pidfd_open"):
            return Forked(shared_forks(), command[3:], self.environment())
        return subprocess.Popen(
            command, env=self.environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )


@pytest.fixture
def make_job(tmp_path: Path) -> Callable[..., Job]:
    """Makes jobs, each with its own sheet."""

    def make(
        base_url: str, columns: list[str] | None = None, rows: list[list[str]] | None = None, **spec
    ) -> Job:
        folder = tmp_path / "jobs"
        folder.mkdir(exist_ok=True)
        job = Job(folder, folder / "job.yaml", folder / "sheet.csv", base_url)
        if rows is not None:
            job.write_sheet(columns or ["story"], rows)
        job.write_spec(**spec)
        return job

    return make


@contextlib.contextmanager
def ended(process: Forked | subprocess.Popen[bytes]) -> Iterator[None]:
    """Kills a process at the end of the block if it still runs."""
    try:
        yield
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
        process.wait()
