"""Shared parts of the benchmarks: a fast server, a job on disk, process measurement, storage."""

from __future__ import annotations

import asyncio
import csv
import ctypes
import json
import os
import resource
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
KEY = "sk_bench"
_PR_SET_CHILD_SUBREAPER = 36
ANSWER = json.dumps({"success": True, "result": "x" * 540, "citations": []}).encode()
# The same length, for programs that only use a chat endpoint.
CHAT_ANSWER = json.dumps(
    {
        "id": "1",
        "object": "chat.completion",
        "created": 1,
        "model": "gpt-4o-mini",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "x" * 330},
                "finish_reason": "stop",
            }
        ],
        "usage": {"prompt_tokens": 9, "completion_tokens": 9, "total_tokens": 18},
    }
).encode()

NGINX = """
daemon off; worker_processes 1; pid {folder}/nginx.pid; error_log /dev/null;
events {{ worker_connections 8192; }}
http {{
    access_log off; client_body_temp_path {folder}/body; keepalive_requests 1000000;
    server {{
        listen 127.0.0.1:{port} backlog=4096;
        location / {{ default_type application/json; return 200 '{answer}'; }}
        location /v1/ {{ default_type application/json; return 200 '{chat}'; }}
    }}
}}
"""


@dataclass(frozen=True)
class Used:
    """Time and memory of a process and its children. `rss_mb` is the peak of the largest one."""

    wall_s: float
    cpu_s: float
    rss_mb: float


class FixedAnswer(asyncio.Protocol):
    """A server for machines without nginx. It sends one answer whenever data ends like a body."""

    REPLY = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (
        len(ANSWER),
        ANSWER,
    )

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        if data.endswith(b"}"):
            self._transport.write(self.REPLY)  # type: ignore[attr-defined]


@contextmanager
def serving(delay_s: float = 0.0) -> Iterator[tuple[str, str]]:
    """Yields (kind of server, its address). The server is a separate process: nginx if it is
    installed and no delay is wanted, else asyncio.
    """
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        if shutil.which("nginx") and not delay_s:
            config = Path(folder, "nginx.conf")
            config.write_text(
                NGINX.format(
                    folder=folder, port=port, answer=ANSWER.decode(), chat=CHAT_ANSWER.decode()
                )
            )
            command, kind = ["nginx", "-c", str(config), "-p", folder], "nginx"
        else:
            command, kind = [sys.executable, __file__, str(port), str(delay_s)], "asyncio"
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        try:
            _wait_for(port)
            yield kind, f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait()


def _wait_for(port: int) -> None:
    for _ in range(100):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise SystemExit("The server did not start.")


class LateAnswer(FixedAnswer):
    """A server that sends the same answer after `delay_s`."""

    delay_s = 0.0

    def data_received(self, data: bytes) -> None:
        if data.endswith(b"}"):
            asyncio.get_running_loop().call_later(self.delay_s, self._answer)

    def _answer(self) -> None:
        if not self._transport.is_closing():
            self._transport.write(self.REPLY)  # type: ignore[attr-defined]


async def _serve(port: int, delay_s: float) -> None:
    LateAnswer.delay_s = delay_s
    kind = LateAnswer if delay_s else FixedAnswer
    server = await asyncio.get_running_loop().create_server(kind, "127.0.0.1", port, backlog=4096)
    await server.serve_forever()


@dataclass(frozen=True)
class Bench:
    """A job on disk, and the runner's commands as a user calls them."""

    folder: Path
    url: str
    key: str = KEY

    @property
    def spec(self) -> Path:
        return self.folder / "job.yaml"

    def write(self, stories: Iterable[str], **fields: Any) -> None:
        with (self.folder / "sheet.csv").open("w", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(["story"])
            rows.writerows([story] for story in stories)
        known = {"name": "bench", "workflow": "wf_bench", "input": "sheet.csv", "rate": 1_000_000}
        self.spec.write_text(
            "".join(f"{name}: {json.dumps(value)}\n" for name, value in (known | fields).items())
        )

    def call(self, verb: str, *options: str) -> Used:
        """Runs a command to its end and measures it. It must succeed."""
        command = [sys.executable, "-m", "pipeline", verb, str(self.spec), *options]
        return used(command, self.environment())

    def told(self, verb: str) -> str:
        """Returns the JSON that a command prints."""
        command = [sys.executable, "-m", "pipeline", verb, str(self.spec), "--json"]
        environment = self.environment()
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        return done.stdout

    def environment(self) -> dict[str, str]:
        return os.environ | {"AITUTOR_API_KEY": self.key, "AITUTOR_BASE_URL": self.url}


def used(command: list[str], environment: dict[str, str] | None = None) -> Used:
    """Runs a command, and returns the time and memory of it and all its descendants.

    Each command is watched by a forked process, because the peak memory of "all children so far"
    never falls. The watcher also adopts daemons that the command leaves behind and waits for them.
    Otherwise they would not be counted.
    """
    reader, writer = os.pipe()
    watcher = os.fork()
    if watcher == 0:
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1)
        begun = time.monotonic()
        code = subprocess.run(command, env=environment, stdout=subprocess.DEVNULL).returncode
        wall_s = time.monotonic() - begun
        with suppress(ChildProcessError):
            while True:
                os.wait()
        spent = resource.getrusage(resource.RUSAGE_CHILDREN)
        found = [code, wall_s, spent.ru_utime + spent.ru_stime, spent.ru_maxrss / 1024]
        os.write(writer, json.dumps(found).encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        code, *spent = json.loads(pipe.read())
    os.waitpid(watcher, 0)
    if code:
        raise SystemExit(f"{' '.join(command)} ended with exit code {code}")
    return Used(*spent)


def keep(name: str, figures: list[Any], **about: Any) -> Path:
    """Writes figures (dataclasses) as `benchmarks/results/NAME.json`, with date and commit."""
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    ).stdout.strip()
    target = Path(__file__).parent / "results" / f"{name}.json"
    target.parent.mkdir(exist_ok=True)
    known = {
        "date": datetime.now(UTC).date().isoformat(),
        "commit": commit or "unknown",
        "cores": os.cpu_count(),
        "python": sys.version.split()[0],
    }
    content = known | about | {"figures": [asdict(figure) for figure in figures]}
    target.write_text(json.dumps(content, indent=1) + "\n")
    return target


if __name__ == "__main__":
    asyncio.run(_serve(int(sys.argv[1]), float(sys.argv[2])))
