"""Measures CPU seconds per 1,000 rows, of the runner and of other programs for the same job.

All of them POST the same bodies on loopback, to a server with one fixed answer of 600 bytes, with
the same number in flight, one program after the other. Only the runner also reads a sheet, makes
every intent and outcome durable, paces, and writes Parquet. CPU seconds are those of the client's
whole process tree, its start-up included, without the server's.

    python benchmarks/throughput.py [--rows 20000] [--in-flight 256] [--repeat 3]
        [--curator PYTHON] [--ray PYTHON]

`--curator` and `--ray` name an interpreter that has bespokelabs-curator or Ray Data installed (see
`make bench-peers`). The result is the median of `--repeat` rounds.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import httpx
from httpx_aiohttp import AiohttpTransport
from measure import KEY, Bench, Used, keep, serving, used

Post = Callable[[bytes], Awaitable[None]]
HEADERS = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
RUNNER = "pipeline run"
# Slow programs get fewer rows, because all figures are per row.
MOST_ROWS = {"plain httpx": 4000, "curator": 4000, "Ray Data": 10_000}


@dataclass(frozen=True)
class Measured:
    """One client's cost."""

    name: str
    cpu_s_per_1000: float
    rows_per_s: float
    rss_mb: float


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


def commands(
    url: str, rows: int, in_flight: int, peers: dict[str, str | None]
) -> dict[str, list[str]]:
    """Returns, by name, the command that sends `rows` rows in a new process."""
    own = [sys.executable, __file__, "--url", url, "--in-flight", str(in_flight)]
    found = {
        name: [*own, "--client", name, "--rows", str(min(rows, MOST_ROWS.get(name, rows)))]
        for name in CLIENTS
    }
    script = str(Path(__file__).with_name("peers.py"))
    for name, word in (("curator", "curator"), ("Ray Data", "ray")):
        if python := peers[word]:
            few = str(min(rows, MOST_ROWS[name]))
            found[name] = [python, script, word, url, few, str(in_flight)]
    return found


def _measured(name: str, rows: int, rounds: list[Used]) -> Measured:
    cpu_s = statistics.median(one.cpu_s for one in rounds)
    wall_s = statistics.median(one.wall_s for one in rounds)
    most_mb = max(one.rss_mb for one in rounds)
    return Measured(name, cpu_s / rows * 1000, rows / wall_s, most_mb)


def compare(rows: int, in_flight: int, repeat: int, peers: dict[str, str | None]) -> None:
    with serving() as (kind, url):
        print(f"{rows} rows, {in_flight} in flight, fixed answer by {kind}, {repeat} rounds")
        others = commands(url, rows, in_flight, peers)
        rounds: dict[str, list[Used]] = {name: [] for name in (RUNNER, *others)}
        for _ in range(repeat):
            with tempfile.TemporaryDirectory() as folder:
                bench = Bench(Path(folder), url)
                bench.write((json.loads(b)["story"] for b in bodies(rows)), concurrency=in_flight)
                rounds[RUNNER].append(bench.call("run", "--quiet"))
            for name, command in others.items():
                rounds[name].append(used(command, dict(os.environ)))
    found = [_measured(n, min(rows, MOST_ROWS.get(n, rows)), of) for n, of in rounds.items()]
    print(f"{'client':20} {'CPU s per 1,000':>16} {'rows/s':>8} {'MB':>6} {'times the runner':>18}")
    for one in found:
        ratio = one.cpu_s_per_1000 / found[0].cpu_s_per_1000
        print(
            f"{one.name:20} {one.cpu_s_per_1000:16.3f} {one.rows_per_s:8.0f} {one.rss_mb:6.0f}"
            f" {ratio:17.2f}x"
        )
    print(f"Written to {keep('throughput', found, rows=rows, in_flight=in_flight, server=kind)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--in-flight", type=int, default=256)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--curator", help="interpreter that has bespokelabs-curator")
    parser.add_argument("--ray", help="interpreter that has ray[data]")
    parser.add_argument("--client", choices=CLIENTS, help=argparse.SUPPRESS)
    parser.add_argument("--url", help=argparse.SUPPRESS)
    said = parser.parse_args()
    if said.client:
        asyncio.run(CLIENTS[said.client](said.url, said.rows, said.in_flight))
    else:
        peers = {"curator": said.curator, "ray": said.ray}
        compare(said.rows, said.in_flight, said.repeat, peers)


if __name__ == "__main__":
    main()
