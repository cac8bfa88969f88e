"""The sandbox as a process: `python -m pipeline.sandbox.server`, and behind `pipeline sandbox`."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import socket
import sys
import tempfile
from pathlib import Path

import uvicorn

from pipeline.sandbox.app import Sandbox, parse_latency
from pipeline.sandbox.book import Book
from pipeline.sandbox.limiter import SlidingWindow
from pipeline.sandbox.workflows import SHIPPED, load_workflows, rehearsal

KEY = "sk_sandbox"


def serve(
    *,
    port: int = 0,
    limit: int = 50,
    window: str = "1s",
    latency: str = "0s",
    credits: int = 10_000_000,
    book: str | None = None,
    workflows: str | None = None,
    publish: tuple[str, list[str]] | None = None,
    with_parent: bool = False,
) -> None:
    """Serves until it is told to end; prints one JSON line with the address first.

    `publish` adds a workflow made of a job's variables. `with_parent` ends the process when its
    standard input closes, as it does when the parent dies, however it dies.

    Raises:
        ValueError: for a window or latency that cannot be read.
        OSError: when the port is taken.
    """
    os.umask(0o077)
    known = load_workflows(SHIPPED) | (load_workflows(Path(workflows)) if workflows else {})
    if publish is not None:
        known[publish[0]] = rehearsal(*publish)
    if book is None:
        book = f"{tempfile.mkdtemp(prefix='pipeline-sandbox-')}/book.sqlite"
    sandbox = Sandbox(
        book=Book(Path(book)),
        workflows=known,
        limiter=SlidingWindow(limit, _seconds(window)),
        keys=frozenset({KEY}),
        credits=credits,
        latency_s=parse_latency(latency),
    )
    listener = socket.create_server(("127.0.0.1", port), backlog=4096)
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    first = next(iter(known))
    print(json.dumps({"url": url, "key": KEY, "book": book, "workflow": first}), flush=True)
    config = uvicorn.Config(
        sandbox.app(),
        http="httptools",
        lifespan="off",
        access_log=False,
        log_level="warning",
        timeout_keep_alive=75,
    )
    asyncio.run(_serve(uvicorn.Server(config), listener, with_parent))


async def _serve(server: uvicorn.Server, listener: socket.socket, with_parent: bool) -> None:
    if with_parent:
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader()
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
        watch = asyncio.create_task(_end_with(reader, server))
        await server.serve([listener])
        watch.cancel()
    else:
        await server.serve([listener])


async def _end_with(parent: asyncio.StreamReader, server: uvicorn.Server) -> None:
    await parent.read()
    server.should_exit = True
    server.force_exit = True


def _seconds(text: str) -> float:
    found = re.fullmatch(r"([0-9.]+)(ms|s|m|h)", text)
    if not found:
        raise ValueError(f"{text!r} is not a length of time: write 1s, 500ms, 1m or 1h")
    return float(found[1]) * {"ms": 0.001, "s": 1, "m": 60, "h": 3600}[found[2]]


def main() -> None:
    """The process that `--sandbox` spawns: its options come as one JSON argument."""
    parser = argparse.ArgumentParser()
    parser.add_argument("options", type=json.loads, help="the arguments of `serve`")
    serve(**parser.parse_args().options)


if __name__ == "__main__":
    main()
