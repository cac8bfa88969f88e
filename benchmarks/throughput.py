"""CPU seconds per 1,000 rows: the runner beside plain httpx, its own transport and bare aiohttp.

All of them POST the same bodies to the same fixed 600-byte answer on loopback, 256 in flight, one
after the other in one run of this script. The runner does what none of the others does: it reads a
sheet, makes every intent and outcome durable, paces, and writes Parquet. CPU seconds are those of
the whole process tree of the client; the server's are left out.

    python benchmarks/throughput.py [--rows 20000] [--in-flight 256]
"""

from __future__ import annotations

import argparse
import asyncio
import csv
import json
import os
import resource
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import httpx
from httpx_aiohttp import AiohttpTransport

Post = Callable[[bytes], Awaitable[None]]
ANSWER = json.dumps({"success": True, "result": "x" * 540, "citations": []}).encode()
HEADERS = {"Authorization": "Bearer sk_bench", "Content-Type": "application/json"}

NGINX = """
daemon off; worker_processes 1; pid {folder}/nginx.pid; error_log /dev/null;
events {{ worker_connections 8192; }}
http {{
    access_log off; client_body_temp_path {folder}/body; keepalive_requests 1000000;
    server {{
        listen 127.0.0.1:{port} backlog=4096;
        location / {{ default_type application/json; return 200 '{answer}'; }}
    }}
}}
"""


@dataclass(frozen=True)
class Measured:
    """One client's cost."""

    name: str
    cpu_s_per_1000: float
    rows_per_s: float


class FixedAnswer(asyncio.Protocol):
    """A server for machines without nginx: one answer to whatever ends a body."""

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
def serving() -> Iterator[tuple[str, str]]:
    """(kind of server, its address), in a process of its own."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        if shutil.which("nginx"):
            config = Path(folder, "nginx.conf")
            config.write_text(NGINX.format(folder=folder, port=port, answer=ANSWER.decode()))
            command, kind = ["nginx", "-c", str(config), "-p", folder], "nginx"
        else:
            command, kind = [sys.executable, __file__, "--serve", str(port)], "asyncio"
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
    raise SystemExit("the server did not start")


async def _serve(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(FixedAnswer, "127.0.0.1", port)
    await server.serve_forever()


def bodies(rows: int) -> list[bytes]:
    return [json.dumps({"story": f"a story about dog number {n}"}).encode() for n in range(rows)]


async def _spread(post: Post, rows: int, in_flight: int) -> None:
    waiting = iter(bodies(rows))

    async def work() -> None:
        for body in waiting:
            await post(body)

    await asyncio.gather(*(work() for _ in range(in_flight)))


async def plain_httpx(url: str, rows: int, in_flight: int) -> None:
    limits = httpx.Limits(max_connections=in_flight, max_keepalive_connections=in_flight)
    async with httpx.AsyncClient(timeout=60, limits=limits, headers=HEADERS) as client:

        async def post(body: bytes) -> None:
            (await client.post(url, content=body)).json()

        await _spread(post, rows, in_flight)


async def httpx_on_aiohttp(url: str, rows: int, in_flight: int) -> None:
    transport = AiohttpTransport(limits=httpx.Limits(max_connections=in_flight))
    async with httpx.AsyncClient(timeout=60, transport=transport, headers=HEADERS) as client:

        async def post(body: bytes) -> None:
            (await client.post(url, content=body)).json()

        await _spread(post, rows, in_flight)


async def bare_aiohttp(url: str, rows: int, in_flight: int) -> None:
    connector = aiohttp.TCPConnector(limit=in_flight)
    async with aiohttp.ClientSession(connector=connector, headers=HEADERS) as session:

        async def post(body: bytes) -> None:
            async with session.post(url, data=body) as response:
                await response.json()

        await _spread(post, rows, in_flight)


CLIENTS = {
    "plain httpx": plain_httpx,
    "httpx on aiohttp": httpx_on_aiohttp,
    "bare aiohttp": bare_aiohttp,
}


def measure_client(name: str, url: str, rows: int, in_flight: int) -> Measured:
    """One of `CLIENTS` in a fresh process, start-up included as for the runner."""
    command = [sys.executable, __file__, "--client", name, "--url", url]
    return _measure(name, [*command, "--rows", str(rows), "--in-flight", str(in_flight)], rows)


def measure_runner(url: str, rows: int, in_flight: int, folder: Path) -> Measured:
    """`pipeline run` on a sheet of `rows` rows, with everything durable."""
    with (folder / "sheet.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["story"], *([json.loads(b)["story"]] for b in bodies(rows))])
    spec = folder / "job.yaml"
    spec.write_text(
        f"name: bench\nworkflow: wf_bench\ninput: sheet.csv\nconcurrency: {in_flight}\n"
        "rate: 1000000\n"
    )
    environment = os.environ | {"AITUTOR_API_KEY": "sk_bench", "AITUTOR_BASE_URL": url}
    command = [sys.executable, "-m", "pipeline", "run", str(spec), "--quiet"]
    return _measure("pipeline run", command, rows, environment)


def _measure(
    name: str, command: list[str], rows: int, environment: dict[str, str] | None = None
) -> Measured:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    begun = time.monotonic()
    subprocess.run(command, check=True, env=environment)
    wall_s = time.monotonic() - begun
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Measured(name, cpu_s / rows * 1000, rows / wall_s)


def compare(rows: int, in_flight: int) -> None:
    with serving() as (kind, url), tempfile.TemporaryDirectory() as folder:
        print(f"{rows} rows, {in_flight} in flight, fixed answer by {kind}")
        found = [measure_runner(url, rows, in_flight, Path(folder))]
        for name in CLIENTS:
            few = min(rows, 4000) if name == "plain httpx" else rows
            found.append(measure_client(name, url, few, in_flight))
        print(f"{'client':20} {'CPU s per 1,000':>16} {'rows/s':>8} {'beside the runner':>18}")
        for one in found:
            ratio = one.cpu_s_per_1000 / found[0].cpu_s_per_1000
            print(f"{one.name:20} {one.cpu_s_per_1000:16.3f} {one.rows_per_s:8.0f} {ratio:17.2f}x")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--in-flight", type=int, default=256)
    parser.add_argument("--client", choices=CLIENTS, help=argparse.SUPPRESS)
    parser.add_argument("--url", help=argparse.SUPPRESS)
    parser.add_argument("--serve", type=int, help=argparse.SUPPRESS)
    said = parser.parse_args()
    if said.serve:
        asyncio.run(_serve(said.serve))
    elif said.client:
        asyncio.run(CLIENTS[said.client](said.url, said.rows, said.in_flight))
    else:
        compare(said.rows, said.in_flight)


if __name__ == "__main__":
    main()
