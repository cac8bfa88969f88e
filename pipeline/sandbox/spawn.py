"""A sandbox for one run, which no other user of this machine can use."""

from __future__ import annotations

import contextlib
import json
import secrets
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Protocol


class Start(Protocol):
    """A function that starts a Python module as a process, with pipes for stdin and stdout."""

    def __call__(self, module: str, *arguments: str, stderr: IO[bytes]) -> subprocess.Popen[bytes]:
        """Starts the process; raises OSError when the system has no room for one."""
        ...


class DidNotStart(Exception):
    """A sandbox did not start; the message says why."""


@dataclass(frozen=True, slots=True)
class Spawned:
    """A running sandbox: its address, its key, and the token for `/_sandbox`."""

    url: str
    key: str
    token: str


@contextmanager
def spawned_sandbox(
    workflow: str, variables: list[str], book: Path, start: Start, answer: object = None
) -> Iterator[Spawned]:
    """Starts a sandbox that publishes `workflow`. It ends with this block or this process. `answer`
    is the shape of answers that are JSON, None for texts.

    Key and token are random and reach the process through a pipe, so no other user of this machine
    can read the rows that the sandbox receives.

    Raises:
        DidNotStart: when the sandbox does not start.
    """
    key, token = f"sk_sandbox_{secrets.token_hex(16)}", secrets.token_hex(16)
    options = {
        "publish": [workflow, variables, answer],
        "book": str(book.absolute()),
        "key": key,
        "token": token,
        "with_parent": True,
    }
    with contextlib.ExitStack() as stack:
        try:
            stderr = stack.enter_context(tempfile.TemporaryFile())
            process = start("pipeline.sandbox.server", "-", stderr=stderr)
        except OSError as error:
            raise DidNotStart(error.strerror or str(error)) from None
        stack.callback(_end, process)
        assert process.stdin is not None
        assert process.stdout is not None
        with contextlib.suppress(
            BrokenPipeError
        ):  # the process has ended: readline() below shows it
            process.stdin.write(f"{json.dumps(options)}\n".encode())
            process.stdin.flush()
        line = process.stdout.readline()
        if not line:
            process.wait()
            raise DidNotStart(
                _last_line(stderr) or f"its process ended with exit code {process.returncode}"
            )
        yield Spawned(json.loads(line)["url"], key, token)


def _last_line(stderr: IO[bytes]) -> str:
    """Returns the last line of `stderr`, which says what happened, without its final period."""
    stderr.seek(0)
    lines = stderr.read().decode("utf-8", "replace").strip().splitlines()
    return lines[-1].removesuffix(".") if lines else ""


def _end(process: subprocess.Popen[bytes]) -> None:
    assert process.stdin is not None
    assert process.stdout is not None
    with contextlib.suppress(BrokenPipeError):
        process.stdin.close()
    process.stdout.close()
    try:
        process.wait(timeout=5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
