"""The sandbox as a process: `python -m pipeline.sandbox.server`, and behind `pipeline sandbox`."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar, cast

import uvicorn

from pipeline.sandbox.account import SHIPPED, Account, load_account
from pipeline.sandbox.admin import application
from pipeline.sandbox.app import Behaviour, Sandbox
from pipeline.sandbox.backends import Backend, TemplateBackend
from pipeline.sandbox.book import Book
from pipeline.sandbox.durations import parse_latency, parse_seconds
from pipeline.sandbox.faults import FAULTS
from pipeline.sandbox.limiters import RateLimits
from pipeline.sandbox.wire import Server, WireProtocol
from pipeline.sandbox.workflows import Workflow, rehearsal

MODEL_KEY_VARIABLE = "SANDBOX_MODEL_KEY"

_Choice = TypeVar("_Choice", bound=str)


@dataclass(frozen=True, slots=True)
class Ready:
    """A server that listens: where, with which key, and where it writes its bills."""

    url: str
    key: str
    book: str
    workflow: Workflow


def announce(ready: Ready) -> None:
    """One JSON line on standard output, for the process that started this one."""
    line = {
        "url": ready.url,
        "key": ready.key,
        "book": ready.book,
        "workflow": ready.workflow.workflow_id,
    }
    print(json.dumps(line), flush=True)


def serve(
    *,
    port: int = 0,
    limit: int = 50,
    window: str = "1s",
    limiter: str = "sliding-window",
    latency: str = "0s",
    max_duration: str = "300s",
    headers: Literal["success", "every"] = "success",
    missing: Literal["undefined", "error"] = "undefined",
    idle: str = "75s",
    credits: int | None = None,
    book: str | None = None,
    workflows: str | None = None,
    model_url: str | None = None,
    model: str | None = None,
    spoil: Mapping[str, float] | None = None,
    publish: tuple[str, list[str]] | None = None,
    with_parent: bool = False,
    on_ready: Callable[[Ready], None] = announce,
) -> None:
    """Serves until it is told to end, by Ctrl-C say; calls `on_ready` once it listens.

    Times are texts such as `500ms`; `limit` counts requests per `window` and key. `idle`: how long
    an idle connection is kept. `spoil`: shares of bodies (0 to 1) by the fault that they meet.
    `publish` adds a workflow made of a job's variables. `with_parent` ends the process when its
    standard input closes, as it does when the parent dies, however it dies.

    Raises:
        ValueError: for an option, a file of workflows or a book that cannot be read.
        OSError: when the port is taken.
    """
    os.umask(0o077)
    account = load_account(Path(workflows) if workflows else SHIPPED)
    if publish is not None:
        account.workflows[publish[0]] = rehearsal(*publish)
    behaviour = Behaviour(
        _one_of("headers", headers, ("success", "every")),
        _one_of("missing", missing, ("undefined", "error")),
        parse_latency(latency),
        parse_seconds(max_duration),
        _shares(spoil or {}),
    )
    limits = RateLimits(limiter, limit, round(parse_seconds(window) * 1000))
    if book is None:
        book = f"{tempfile.mkdtemp(prefix='pipeline-sandbox-')}/book.sqlite"
    sandbox = Sandbox(
        Book(Path(book)),
        _backend(model_url, model),
        limits,
        account.workflows,
        frozenset(account.keys),
        account.credits if credits is None else credits,
        behaviour,
    )
    server = Server(_config(sandbox, parse_seconds(idle)), port)
    on_ready(Ready(server.url, account.keys[0], book, _first(account, publish)))
    # uvicorn ends gracefully at Ctrl-C, and then raises what Python would have raised.
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_serve(server, sandbox, with_parent))


async def _serve(server: Server, sandbox: Sandbox, with_parent: bool) -> None:
    loop = asyncio.get_running_loop()
    errands: set[asyncio.Task[None]] = set()

    def start(errand: asyncio.Task[None]) -> None:
        # The loop itself holds its tasks weakly only.
        errands.add(errand)
        errand.add_done_callback(errands.discard)

    sandbox.go_away = lambda seconds: start(loop.create_task(server.go_away(seconds)))
    if with_parent:
        reader = asyncio.StreamReader()
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
        start(loop.create_task(_end_with(reader, server)))
    await server.run_here()
    for errand in errands:
        errand.cancel()
    await sandbox.backend.close()
    sandbox.book.close()


async def _end_with(parent: asyncio.StreamReader, server: Server) -> None:
    await parent.read()
    server.should_exit = True
    server.force_exit = True


def _config(sandbox: Sandbox, idle_s: float) -> uvicorn.Config:
    return uvicorn.Config(
        application(sandbox),
        http=WireProtocol,
        lifespan="off",
        access_log=False,
        log_level="warning",
        server_header=False,
        # Declared as whole seconds, but only ever given to `call_later`.
        timeout_keep_alive=cast(int, idle_s),
    )


def _backend(model_url: str | None, model: str | None) -> Backend:
    if model_url is None:
        return TemplateBackend()
    if model is None:
        raise ValueError("a model's address needs its name too; add --model")
    # aiohttp takes a third of a second to import, and most servers need no model.
    from pipeline.sandbox.openai import OpenAIBackend

    return OpenAIBackend(model_url, model, os.environ.get(MODEL_KEY_VARIABLE))


def _first(account: Account, publish: tuple[str, list[str]] | None) -> Workflow:
    """The workflow that a newcomer is shown."""
    if publish is not None:
        return account.workflows[publish[0]]
    published = [workflow for workflow in account.workflows.values() if workflow.published]
    return (published or list(account.workflows.values()))[0]


def _shares(spoil: Mapping[str, float]) -> dict[str, float]:
    for name, share in spoil.items():
        if name not in FAULTS:
            raise ValueError(f"there is no fault {name!r}; `pipeline sandbox --faults` lists them")
        if not 0 <= share <= 1:
            raise ValueError(f"fault {name}: a share lies between 0 % and 100 %")
    if sum(spoil.values()) > 1:
        raise ValueError("the faults' shares make more than 100 %")
    return dict(spoil)


def _one_of(name: str, value: _Choice, choices: tuple[_Choice, ...]) -> _Choice:
    if value not in choices:
        raise ValueError(f"{name} is {value!r}; write {' or '.join(choices)}")
    return value


def main() -> None:
    """The process that `--sandbox` spawns: its options come as one JSON argument."""
    parser = argparse.ArgumentParser()
    parser.add_argument("options", type=json.loads, help="the arguments of `serve`")
    serve(**parser.parse_args().options)


if __name__ == "__main__":
    main()
