"""Measures how many runs per second the sandbox serves on one core, and with how much memory.

    python benchmarks/sandbox.py --seconds 5 --requests 200000

The sandbox uses the template backend and has one core for itself. The load comes from another core:
from wrk if it is installed, else from a small generator in Python. That generator is slower than
the server, so then look at the CPU seconds. Everything is on loopback. Each request has a different
body and a bill in the book.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CONNECTIONS = 32
MOST_SECONDS = 300
LUA = Path(__file__).with_name("sandbox.lua")
PINNED = "import os; os.sched_setaffinity(0, {0}); from pipeline.sandbox.server import main; main()"
TICKS_PER_S = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Reading:
    """The server at one instant: its CPU time, its memory, and the requests in its book."""

    cpu_s: float
    resident_mb: float
    received: int
    billed: int


class Server:
    """A sandbox on core 0 with a very high limit."""

    def __init__(self, book: Path) -> None:
        options = {"limit": 10**9, "book": str(book), "with_parent": True}
        self._process = subprocess.Popen(
            [sys.executable, "-c", PINNED, json.dumps(options)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self._process.stdout
        self.url: str = json.loads(self._process.stdout.readline())["url"]

    def read(self) -> Reading:
        proc = Path(f"/proc/{self._process.pid}")
        fields = (proc / "stat").read_text().rpartition(")")[2].split()
        resident = (proc / "status").read_text().split("VmRSS:")[1].split()[0]
        with urllib.request.urlopen(f"{self.url}/_sandbox/bills?entries=no") as answer:
            totals: dict[str, Any] = json.load(answer)["totals"]
        cpu_s = (int(fields[11]) + int(fields[12])) / TICKS_PER_S
        return Reading(cpu_s, int(resident) / 1024, totals["received"], totals["billed"])

    def end(self) -> None:
        self._process.communicate()


def load_by_wrk(url: str, seconds: float, prefix: str) -> None:
    """Sends one burst with wrk, from the other cores."""
    command = ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{round(seconds)}s", "-s", str(LUA), url]
    subprocess.run([*command, "--", prefix], check=True, stdout=subprocess.DEVNULL)


def load_by_python(url: str, seconds: float, prefix: str) -> None:
    """Sends one burst with asyncio streams, from this process."""
    asyncio.run(_burst(int(url.rsplit(":", 1)[1]), time.monotonic() + seconds, prefix))


async def _burst(port: int, until: float, prefix: str) -> None:
    await asyncio.gather(*(_client(port, until, f"{prefix}-{n}") for n in range(CONNECTIONS)))


async def _client(port: int, until: float, prefix: str) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    number = 0
    while time.monotonic() < until:
        number += 1
        body = f'{{"story":"a story about dog {prefix}-{number}"}}'.encode()
        writer.write(
            b"POST /api/v1/run/wf_story HTTP/1.1\r\nHost: localhost\r\n"
            b"Authorization: Bearer sk_sandbox\r\nContent-Type: application/json\r\n"
            b"Content-Length: %d\r\n\r\n%s" % (len(body), body)
        )
        head = await reader.readuntil(b"\r\n\r\n")
        await reader.readexactly(int(head.lower().split(b"content-length: ")[1].split()[0]))
    writer.close()
    await writer.wait_closed()


def main() -> None:
    """Measures, and prints one line per burst and then the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=5, help="length of one burst")
    parser.add_argument(
        "--requests", type=int, default=200_000, help="least number in all bursts together"
    )
    parser.add_argument("--python", action="store_true", help="do not use wrk")
    options = parser.parse_args()
    by_wrk = shutil.which("wrk") is not None and not options.python
    load = load_by_wrk if by_wrk else load_by_python
    print(
        f"load tool: {'wrk' if by_wrk else 'Python (asyncio streams)'}, {CONNECTIONS} connections"
    )
    os.sched_setaffinity(0, set(range(1, os.cpu_count() or 1)) or {0})
    with tempfile.TemporaryDirectory() as folder:
        server = Server(Path(folder) / "book.sqlite")
        try:
            measure(server, load, options.seconds, options.requests)
        finally:
            server.end()


def measure(server: Server, load: Any, seconds: float, requests: int) -> None:
    """Sends bursts until the book has `requests`, or for five minutes."""
    load(server.url, 1, "warm")
    first = last = server.read()
    rates: list[float] = []
    started = time.monotonic()
    while last.received < requests and time.monotonic() - started < MOST_SECONDS:
        began = time.monotonic()
        load(server.url, seconds, str(len(rates)))
        took, now = time.monotonic() - began, server.read()
        done, cpu_s = now.received - last.received, now.cpu_s - last.cpu_s
        rates.append(done / took)
        print(
            f"{now.received:>9,} requests  {done / took:>7,.0f}/s"
            f"  {done / cpu_s:>7,.0f} per CPU second of the server  {now.resident_mb:6.1f} MB"
        )
        last = now
    done = last.received - first.received
    print(f"all: {done:,} requests, {min(rates):,.0f} to {max(rates):,.0f}/s on one core")
    print(f"     {done / (last.cpu_s - first.cpu_s):,.0f} per CPU second of the server")
    print(f"     memory {first.resident_mb:.1f} MB after {first.received:,} requests,")
    print(f"            {last.resident_mb:.1f} MB after {last.received:,}")
    print(f"     billed {last.billed:,} of {last.received:,} received")


if __name__ == "__main__":
    main()
