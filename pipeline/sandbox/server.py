"""The sandbox as a process: `python -m pipeline.sandbox.server`, or `pipeline sandbox`."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import secrets
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, TypeVar, cast

import uvicorn

from pipeline.sandbox.account import KNOWN_KEY, SHIPPED, Account, load_account
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
_Read = TypeVar("_Read")


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """The options of a server. Lengths of time are texts such as `500ms`."""

    port: int = 0  # on 127.0.0.1; 0 picks a free one
    workflows: str | None = None  # the account's file; None for the shipped one
    credits: int | None = None  # None: the balance in the account's file
    book: str | None = None  # None: a temporary file
    limit: int = 50  # requests per window and key
    window: str = "1s"
    limiter: str = "sliding-window"  # one of `limiters.KINDS`
    latency: str = "0s"  # see `parse_latency`
    max_duration: str = "300s"
    idle: str = "75s"  # how long an idle connection stays open
    headers: Literal["success", "every"] = "success"  # see `Behaviour`
    missing: Literal["undefined", "error"] = "undefined"  # see `Behaviour`
    model_url: str | None = None  # an OpenAI-compatible endpoint; None for made-up text
    model: str | None = None
    # The share of request bodies (0 to 1) that each fault spoils, by the fault's name.
    spoil: Mapping[str, float] = field(default_factory=dict)
    # The only valid key; None for the keys of the account.
    key: str | None = None
    # The token that calls below `/_sandbox` need; None if they need none.
    token: str | None = None
    # Id, variables and the shape of the answers of a job's workflow, published in addition to those
    # of the account.
    publish: tuple[str, list[str], dict[str, object] | None] | None = None
    # Ends the process when its standard input closes. That happens when the parent dies, whatever
    # kills it.
    with_parent: bool = False


@dataclass(frozen=True, slots=True)
class Ready:
    """A server that listens: its address, its key, its book of bills and a workflow to try. `token`
    opens `/_sandbox`; None if no token is needed."""

    url: str
    key: str
    token: str | None
    book: str
    workflow: Workflow


def announce(ready: Ready) -> None:
    """Prints one line of JSON on standard output, for the process that started this one."""
    line = {
        "url": ready.url,
        "key": ready.key,
        "token": ready.token,
        "book": ready.book,
        "workflow": ready.workflow.workflow_id,
    }
    print(json.dumps(line), flush=True)


def serve(options: Options, on_ready: Callable[[Ready], None] = announce) -> None:
    """Serves until Ctrl-C or the end of the parent, and calls `on_ready` once the server listens.

    Raises:
        ValueError: for an invalid option, workflows file or book.
        OSError: when the port is in use.
    """
    account = load_account(Path(options.workflows) if options.workflows else SHIPPED)
    if options.publish is not None:
        account.workflows[options.publish[0]] = rehearsal(*options.publish)
    options, account = _closed(options, account)
    path = options.book or f"{tempfile.mkdtemp(prefix='pipeline-sandbox-')}/book.sqlite"
    with contextlib.closing(Book(Path(path))) as book:
        sandbox = _sandbox(options, account, book)
        idle_s = _read("--idle", parse_seconds, options.idle)
        server = Server(_config(sandbox, options.token, idle_s), options.port)
        first = _first(account, options.publish[0] if options.publish else None)
        on_ready(Ready(server.url, account.keys[0], options.token, path, first))
        # At Ctrl-C uvicorn ends gracefully and then raises KeyboardInterrupt, as Python would.
        with contextlib.suppress(KeyboardInterrupt):
            asyncio.run(_serve(server, sandbox, options.with_parent))


def _closed(options: Options, account: Account) -> tuple[Options, Account]:
    """Returns options and account with the keys that this server accepts.

    A server with a key for a model spends the user's money, and every user of the machine knows the
    default key. So a random key replaces the default one there, and `/_sandbox` needs a token.
    """
    if options.key is not None:
        return options, replace(account, keys=(options.key,))
    if options.model_url is None or not os.environ.get(MODEL_KEY_VARIABLE):
        return options, account
    own = f"{KNOWN_KEY}_{secrets.token_hex(16)}"
    keys = tuple(own if key == KNOWN_KEY else key for key in account.keys)
    token = options.token or secrets.token_hex(16)
    return replace(options, token=token), replace(account, keys=keys)


def _sandbox(options: Options, account: Account, book: Book) -> Sandbox:
    behaviour = Behaviour(
        headers=_one_of("headers", options.headers, ("success", "every")),
        missing=_one_of("missing", options.missing, ("undefined", "error")),
        latency_s=_read("--latency", parse_latency, options.latency),
        max_duration_s=_read("--max-duration", parse_seconds, options.max_duration),
        spoilt=_shares(options.spoil),
    )
    window_ms = round(_read("--window", parse_seconds, options.window) * 1000)
    return Sandbox(
        book=book,
        backend=_backend(options.model_url, options.model),
        limits=RateLimits(options.limiter, options.limit, window_ms),
        workflows=account.workflows,
        keys=frozenset(account.keys),
        credits=account.credits if options.credits is None else options.credits,
        behaviour=behaviour,
    )


async def _serve(server: Server, sandbox: Sandbox, with_parent: bool) -> None:
    loop = asyncio.get_running_loop()
    errands: set[asyncio.Task[None]] = set()

    def start(errand: asyncio.Task[None]) -> None:
        # The loop itself keeps only weak references to its tasks.
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


async def _end_with(parent: asyncio.StreamReader, server: Server) -> None:
    await parent.read()
    server.should_exit = True
    server.force_exit = True


def _config(sandbox: Sandbox, token: str | None, idle_s: float) -> uvicorn.Config:
    return uvicorn.Config(
        application(sandbox, token),
        http=WireProtocol,
        lifespan="off",
        proxy_headers=False,
        access_log=False,
        log_level="warning",
        server_header=False,
        # uvicorn declares whole seconds, but only passes the value to `call_later`.
        timeout_keep_alive=cast(int, idle_s),
    )


def _backend(model_url: str | None, model: str | None) -> Backend:
    if model_url is None:
        if model is not None:
            raise ValueError("--model needs the model's address too. Add --model-url.")
        return TemplateBackend()
    if model is None:
        raise ValueError("--model-url needs the model's name too. Add --model.")
    # aiohttp takes a third of a second to import, and most servers need no model.
    from pipeline.sandbox.openai import OpenAIBackend

    return OpenAIBackend(model_url, model, os.environ.get(MODEL_KEY_VARIABLE))


def _first(account: Account, published: str | None) -> Workflow:
    """Returns the workflow for the printed example: the job's, else the account's first published
    one."""
    if published is not None:
        return account.workflows[published]
    found = [workflow for workflow in account.workflows.values() if workflow.published]
    return (found or list(account.workflows.values()))[0]


def _shares(spoil: Mapping[str, float]) -> dict[str, float]:
    for name, share in spoil.items():
        if name not in FAULTS:
            raise ValueError(f"There is no fault {name!r}. `pipeline sandbox --faults` lists them.")
        if not 0 <= share <= 1:
            raise ValueError(f"--spoil {name}: write a percentage from 0 to 100.")
    if sum(spoil.values()) > 1:
        raise ValueError("--spoil: the percentages add up to more than 100 %. Lower one of them.")
    return dict(spoil)


def _read(option: str, parse: Callable[[str], _Read], text: str) -> _Read:
    try:
        return parse(text)
    except ValueError as error:
        raise ValueError(f"{option}: {error}") from None


def _one_of(name: str, value: _Choice, choices: tuple[_Choice, ...]) -> _Choice:
    if value not in choices:
        raise ValueError(f"--{name} is {value!r}. Write {' or '.join(choices)}.")
    return value


def _options(text: str) -> Any:
    return json.loads(sys.stdin.buffer.readline() if text == "-" else text)


def main() -> None:
    """Runs the process that `--sandbox` spawns.

    Its options come as one JSON argument. If that argument is ``-``, they are the first line of
    stdin, because the column names of a wide sheet do not fit into an argument.
    """
    parser = argparse.ArgumentParser()
    parser.add_argument(
        "options",
        type=_options,
        help="the fields of `Options` as JSON, or - to read them from stdin",
    )
    options = Options(**parser.parse_args().options)
    try:
        serve(options)
    except (ValueError, OSError) as error:
        sys.exit(f"{error}")


if __name__ == "__main__":
    main()
